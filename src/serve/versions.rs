//! The list of versions, which clients ask for before anything else, without a token.
//!
//! It has the two versions that clients look for: one with the calls of the cache, and one with clean and
//! prune. With `glance_api_url`, Glance's own versions are listed, too, so that a front end can send
//! `/versions` to this service. Glance is asked again from time to time; while it does not answer, the last
//! list or this service's alone is given.

use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::StatusCode;
use serde_json::Value;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::Instant;
use url::Url;

use super::answer::ApiAnswer;
use crate::interrupt::Interrupt;
use crate::net::http::{Client, Request};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::output::Output;
use crate::output::oslo::Level;
use crate::output::python::python;

/// A list of Glance's is asked for again after this time.
const FRESH: Duration = Duration::from_secs(60);
/// If it was not given, it is asked for again after this time.
const RETRY: Duration = Duration::from_secs(5);
/// The time that Glance has for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest list that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The versions of this service. The first is the current one.
const OURS: [(&str, &str); 2] = [("v2.18", "CURRENT"), ("v2.14", "SUPPORTED")];

/// The list of versions.
#[derive(Clone)]
pub(super) struct Discovery(Rc<Inner>);

struct Inner {
    scheme: &'static str,
    public_endpoint: Option<String>,
    glance: Option<Url>,
    /// The ids of Glance's versions.
    theirs: RefCell<Vec<String>>,
    asked: Cell<Option<Instant>>,
    /// True if Glance did not give its list when it was asked last.
    is_away: Cell<bool>,
    output: Rc<Output>,
}

impl Discovery {
    pub(super) fn new(
        is_tls: bool,
        public_endpoint: Option<String>,
        glance: Option<Url>,
        output: Rc<Output>,
    ) -> Self {
        let scheme = if is_tls { "https" } else { "http" };
        let (theirs, asked, is_away) = (RefCell::default(), Cell::new(None), Cell::new(false));
        Discovery(Rc::new(Inner { scheme, public_endpoint, glance, theirs, asked, is_away, output }))
    }

    /// Returns the list as clients at this host see it.
    pub(super) async fn answer(&self, host: Option<&str>, are_choices: bool) -> ApiAnswer {
        self.refresh().await;
        let inner = &self.0;
        let base = match &inner.public_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => format!("{}://{}", inner.scheme, host.unwrap_or("localhost")),
        };
        let mut all: Vec<(&str, &str)> = OURS.to_vec();
        let theirs = inner.theirs.borrow();
        let more = theirs.iter().filter(|id| !OURS.iter().any(|(ours, _)| ours == id));
        all.extend(more.map(|id| (id.as_str(), "SUPPORTED")));
        all.sort_by_key(|(id, _)| std::cmp::Reverse(minor(id)));
        let href = format!("{base}/v2/");
        let entries = all.iter().map(|(id, status)| Entry {
            id,
            status,
            links: [SelfLink { rel: "self", href: &href }],
        });
        let body = python(&ServedVersions { versions: entries.collect() });
        ApiAnswer::json(if are_choices { StatusCode::MULTIPLE_CHOICES } else { StatusCode::OK }, body)
    }

    /// Asks Glance for its versions, if it is time to. Only the first request waits for the answer.
    async fn refresh(&self) {
        let inner = Rc::clone(&self.0);
        let Some(url) = inner.glance.clone() else { return };
        let last = inner.asked.get();
        let pause = if inner.is_away.get() { RETRY } else { FRESH };
        if last.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        inner.asked.set(Some(Instant::now()));
        let asking = spawn_local(async move {
            let place = url.to_string();
            let found = spawn_blocking(move || ask(&url)).await;
            inner.take(&place, found.unwrap_or_else(|e| Err(e.into())));
        });
        if last.is_none() {
            // If this fails, the list is that of this service.
            let _ = asking.await;
        }
    }
}

impl Inner {
    /// Takes Glance's list. It is a line in the log if Glance no longer gives it, or gives it again.
    fn take(&self, place: &str, found: Result<Vec<String>>) {
        let was_away = self.is_away.replace(found.is_err());
        match found {
            Ok(found) => {
                *self.theirs.borrow_mut() = found;
                if was_away {
                    let line = format!("glance_api_url: Glance at {place} lists its versions again");
                    self.output.event(Level::Info, &line, &[]);
                }
            }
            Err(e) if !was_away => {
                let line = format!(
                    "glance_api_url: Glance at {place} does not list its versions: {e:#}; until it does, \
                     /versions has the last list of it, or only the versions of this service"
                );
                self.output.event(Level::Warning, &line, &[]);
            }
            Err(_) => {}
        }
    }
}

#[derive(serde::Serialize)]
struct Entry<'a> {
    id: &'a str,
    status: &'a str,
    links: [SelfLink<'a>; 1],
}

#[derive(serde::Serialize)]
struct SelfLink<'a> {
    rel: &'static str,
    href: &'a str,
}

#[derive(serde::Serialize)]
struct ServedVersions<'a> {
    versions: Vec<Entry<'a>>,
}

/// Returns the number after `v2.`; 0 if there is none.
fn minor(id: &str) -> u32 {
    id.strip_prefix("v2.").and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// Asks Glance for the ids of its versions.
fn ask(glance: &Url) -> Result<Vec<String>> {
    let mut waits = Waits::new(Interrupt::default());
    (waits.connect, waits.silence) = (PATIENCE, PATIENCE);
    let client = Client { trust: Trust::System, proxies: Vec::new(), waits };
    let mut url = glance.clone();
    url.set_path(&format!("{}/versions", glance.path().trim_end_matches('/')));
    let response = client.send(&Request::get(&url))?;
    ensure!(response.status == 200, "it answers {}", response.status);
    let mut body = Vec::new();
    response.body.take(LONGEST).read_to_end(&mut body)?;
    let list: Value = serde_json::from_slice(&body)?;
    let is_version = |id: &&str| {
        let is_plain = |c: u8| c.is_ascii_digit() || c == b'.';
        id.len() < 10 && id.strip_prefix('v').is_some_and(|rest| rest.bytes().all(is_plain))
    };
    let ids = list["versions"].as_array().into_iter().flatten().filter_map(|entry| entry["id"].as_str());
    Ok(ids.filter(is_version).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_sorted_by_their_number() {
        assert_eq!(minor("v2.18"), 18);
        assert_eq!(minor("v2.9"), 9);
        assert_eq!(minor("v1.1"), 0);
    }
}
