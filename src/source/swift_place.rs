//! Locations of Swift as text.
//!
//! Pure. A location is taken apart as Glance's driver does it. On purpose, these differ: a reference is
//! followed by a container and an object only, where the driver would make more of it a part of the address;
//! a host whose name begins with `http` is a host; and what no request can be made of is refused.

use anyhow::{Context as _, Result, ensure};
use percent_encoding::percent_decode_str;

use super::location::{scheme, split};
use crate::openstack::secret::Secret;

/// An object, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SwiftLocation {
    pub(super) account: SwiftPlace,
    pub(super) container: String,
    pub(super) object: String,
}

/// The account that has an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SwiftPlace {
    /// Named in the configuration.
    Reference(String),
    /// That of a user (`PROJECT:USER`) at a Keystone.
    OfUser { auth_url: String, user: String, key: Secret },
    /// At its own URL, for whoever may read it: a location of a multi-tenant store.
    StorageUrl(String),
}

/// Takes a location apart: `[PROJECT:USER:KEY@]URL/CONTAINER/OBJECT`, or `REFERENCE/CONTAINER/OBJECT`.
pub(super) fn parse(url: &str) -> Result<SwiftLocation> {
    let (scheme, rest) = scheme(url)?;
    ensure!(!rest.contains("://"), "it has two schemes: write swift+http://HOST for swift://http://HOST");
    let (place, _) = split(rest);
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let path = path.trim_start_matches('/');
    if scheme == "swift+config" {
        let wrong = "it is not REFERENCE/CONTAINER/OBJECT";
        let (container, object) = path.split_once('/').context(wrong)?;
        ensure!(!authority.is_empty() && !object.contains('/'), wrong);
        // A key may be before it, and messages about an unknown reference would show that.
        ensure!(
            !authority.contains('@'),
            "its reference has an @: a location of swift+config has no credentials"
        );
        return located(SwiftPlace::Reference(authority.to_owned()), container, object);
    }
    let (credentials, authority, path) = if authority.is_empty() {
        // All slashes before the host are left out.
        let (credentials, path) = without_credentials(path)?;
        let (authority, path) = path.split_once('/').unwrap_or((path, ""));
        (credentials, authority, path.trim_matches('/'))
    } else {
        let (credentials, authority) = without_credentials(authority)?;
        (credentials, authority, path)
    };
    ensure!(!authority.is_empty(), "it has no host");
    let wrong = "it is not URL/CONTAINER/OBJECT";
    let mut parts = path.rsplitn(3, '/');
    let (object, container) = (parts.next().context(wrong)?, parts.next().context(wrong)?);
    let http = if scheme == "swift+http" { "http" } else { "https" };
    let address = match parts.next() {
        None => format!("{http}://{authority}"),
        Some(more) => format!("{http}://{authority}/{more}"),
    };
    let account = match credentials.filter(|text| !text.is_empty()) {
        None => SwiftPlace::StorageUrl(address),
        Some(text) => {
            let wrong = "its credentials are not PROJECT:USER:KEY";
            ensure!(text.contains(':'), wrong);
            let text = percent_decode_str(text).decode_utf8();
            let text =
                text.ok().context("its credentials are not UTF-8 once their percent codes are replaced")?;
            let (user, key) = text.rsplit_once(':').context(wrong)?;
            SwiftPlace::OfUser { auth_url: address, user: user.to_owned(), key: Secret::new(key) }
        }
    };
    located(account, container, object)
}

/// Splits credentials off.
fn without_credentials(text: &str) -> Result<(Option<&str>, &str)> {
    let Some((credentials, rest)) = text.split_once('@') else { return Ok((None, text)) };
    ensure!(!rest.contains('@'), "it has more than one @: write one in a name or a key as %40");
    Ok((Some(credentials), rest))
}

fn located(account: SwiftPlace, container: &str, object: &str) -> Result<SwiftLocation> {
    ensure!(!container.is_empty() && !object.is_empty(), "its container or its object has no name");
    // In a URL these are not names: they would lead to another object.
    let is_name = |name: &str| ![".", ".."].contains(&name);
    ensure!(is_name(container) && is_name(object), "its container or its object cannot stand in a request");
    Ok(SwiftLocation { account, container: container.to_owned(), object: object.to_owned() })
}
