//! Images on web servers.
//!
//! A few redirects are followed, never in a loop and never from https to http. The location's credentials go to the server it
//! names and to no other. A stream that breaks begins again at the location itself: what it redirects to may have expired.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use url::Url;

use super::download;
use super::location::shown;
use super::{Opened, Source};
use crate::net::http::{Client, Credentials, Request, Response, basic};

const MAX_REDIRECTS: usize = 5;

/// An image on a web server.
pub(super) struct WebSource {
    pub(super) shown: String,
    pub(super) warning: Option<String>,
    pub(super) url: Url,
    pub(super) credentials: Option<Credentials>,
    pub(super) client: Client,
}

impl Source for WebSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn open(&self) -> Result<Opened> {
        let (client, url, credentials) = (self.client.clone(), self.url.clone(), self.credentials.clone());
        let waits = client.waits.clone();
        download::open(Box::new(move |rest| ask(&client, &url, credentials.as_ref(), rest)), waits)
    }
}

/// Asks, and asks again where the answer says to.
fn ask(
    client: &Client,
    start: &Url,
    credentials: Option<&Credentials>,
    rest: Option<(u64, &str)>,
) -> Result<Response> {
    let credentials = credentials.map(basic);
    let rest = rest.map(|(from, validator)| (format!("bytes={from}-"), validator));
    let mut visited = vec![start.clone()];
    loop {
        let url = &visited[visited.len() - 1];
        let mut request = Request::get(url);
        if let Some((range, validator)) = &rest {
            request = request.header("range", range).header("if-range", validator);
        }
        if let Some(credentials) = credentials.as_deref().filter(|_| url.origin() == start.origin()) {
            request = request.header("authorization", credentials);
        }
        let response = client.send(&request)?;
        match response.status {
            200 => return Ok(response),
            206 | 416 if rest.is_some() => return Ok(response),
            301 | 302 | 303 | 307 | 308 => {
                let next = redirected(url, response.header("location"))?;
                let next_shown = shown(next.as_str());
                ensure!(!visited.contains(&next), "it redirects in a loop, to {next_shown}");
                ensure!(
                    visited.len() <= MAX_REDIRECTS,
                    "more than {MAX_REDIRECTS} redirects, now to {next_shown}"
                );
                visited.push(next);
            }
            status => return Err(refusal(url, status)),
        }
    }
}

fn redirected(from: &Url, to: Option<&str>) -> Result<Url> {
    let mut url =
        from.join(to.context("it redirects, but says not where")?).ok().context("it redirects to no URL")?;
    ensure!(
        ["http", "https"].contains(&url.scheme()),
        "it redirects to {}, which is not read",
        shown(url.as_str())
    );
    if from.scheme() == "https" && url.scheme() == "http" {
        bail!("it redirects from https to {}, which nothing protects: it is not read", shown(url.as_str()));
    }
    url.set_fragment(None);
    // Credentials in a redirect are the redirecting server's word, not the operator's.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(url)
}

/// Says what a status that is no success means, and what to do.
fn refusal(url: &Url, status: u16) -> anyhow::Error {
    let what = match status {
        401 => " (it wants credentials: put user:password@ into the location)",
        403 => " (it is not allowed)",
        404 | 410 => " (it is not there)",
        407 => " (the proxy wants credentials: put user:password@ into http_proxy_information)",
        429 | 503 => " (it is busy: try again later)",
        _ => "",
    };
    anyhow!("{} answers {status}{what}", shown(url.as_str()))
}
