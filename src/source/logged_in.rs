//! Requests to a service of a cloud, with a token of Keystone: what Swift and Glance's API have in common.
//!
//! A token that the service refuses is renewed once for each request, so that one which ends in the middle of
//! an image costs nothing. A busy server is asked again a few times. Redirects are not followed: the request
//! holds a token.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Error, Result};
use url::Url;

use super::download::{self, BusyServers, Hopeless, Patient};
use crate::net::http::{Client, Request, Response};
use crate::openstack::keystone::catalog::ServiceSought;
use crate::openstack::keystone::error::{KeystoneError, Unhelpful};
use crate::openstack::keystone::session::KeystoneSession;
use crate::openstack::secret::Secret;

/// An answer of the service.
pub(super) struct ServiceAnswer {
    pub(super) response: Response,
    /// The token that it got, which its words may repeat.
    pub(super) token: Secret,
}

/// A session with Keystone, and the way to a service of its cloud.
#[derive(Clone)]
pub(super) struct LoggedIn {
    pub(super) session: Arc<KeystoneSession>,
    pub(super) client: Client,
    /// The certificate and the key (PEM) that are shown to the service.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
    /// Shared by all images of a run.
    pub(super) busy: BusyServers,
}

impl LoggedIn {
    /// Asks the service for the whole of something, or for the rest from a position. Returns the answer,
    /// whatever its status.
    pub(super) fn get(&self, url: &Url, from: Option<u64>) -> Result<ServiceAnswer> {
        let range = from.map(|from| format!("bytes={from}-"));
        let (waits, busy, is_start) = (&self.client.waits, &self.busy, from.is_none());
        let patient = Patient { url, waits, busy, is_start };
        let ask = |token: &str| {
            let request = Request::get(url).certificate(self.certificate.as_ref());
            let mut request = request.header("x-auth-token", token);
            if let Some(range) = &range {
                request = request.header("range", range);
            }
            let response = download::patiently(&patient, || self.client.send(&request))?;
            Ok(ServiceAnswer { response, token: Secret::new(token) })
        };
        let is_refused = |answer: &ServiceAnswer| answer.response.status == 401;
        self.session.authorized(ask, is_refused).map_err(final_if_refused)
    }

    /// Returns the address of a service in the catalogue.
    pub(super) fn endpoint(&self, sought: &ServiceSought<'_>) -> Result<Url> {
        self.session.endpoint(sought).map_err(|error| final_if_refused(error.into()))
    }
}

/// Makes an error of Keystone final if another try would get the same answer.
fn final_if_refused(error: Error) -> Error {
    match error.downcast_ref::<KeystoneError>() {
        Some(error) if error.kind != Unhelpful::Unreachable => Hopeless(error.to_string()).into(),
        _ => error,
    }
}
