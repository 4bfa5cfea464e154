//! Images on web servers.
//!
//! A few redirects are followed, never in a loop and never from https to http. The location's credentials are
//! sent to the server that the location names and to no other. A stream that breaks begins again at the
//! location itself: what it redirects to may have expired.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use url::Url;

use super::download;
use super::location::shown;
use crate::config::{HTTP_PROXY_INFORMATION, HTTPS_CA_CERTIFICATES_FILE, HTTPS_INSECURE};
use crate::net::http::{Client, Credentials, Request, Response, basic};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::source::location::parse;
use crate::source::opened::{Opened, Source};
use crate::source::store::{Options, Store, Wanted};

const MAX_REDIRECTS: usize = 5;

/// A store of images on web servers.
struct WebStore {
    client: Client,
    warning: Option<String>,
}

/// Reads how the servers are reached, and which of their certificates are accepted.
pub(super) fn set_up(options: &Options<'_>, waits: &Waits) -> Result<Box<dyn Store>> {
    let insecure = options.config.boolean(&options.of(HTTPS_INSECURE))?;
    let (trust, warning) = match options.value(HTTPS_CA_CERTIFICATES_FILE)? {
        Some(file) => (Trust::Only(file.into()), None),
        None if insecure.value => {
            let warning = format!(
                "{}: https_insecure is set: servers of images are not verified, and anybody on the way to \
                 them can change the images",
                insecure.origin
            );
            (Trust::Anybody, Some(warning))
        }
        None => (Trust::System, None),
    };
    let client = Client { trust, proxies: proxies(options)?, waits: waits.clone() };
    Ok(Box::new(WebStore { client, warning }))
}

/// Reads the proxies, each with the scheme it is for.
fn proxies(options: &Options<'_>) -> Result<Vec<(String, Url)>> {
    let proxies = options.config.dictionary(&options.of(HTTP_PROXY_INFORMATION))?;
    let proxy = |(scheme, text): (String, String)| {
        let full = if text.contains("://") { text } else { format!("http://{text}") };
        // The value may hold a password, and the parser's message a part of it.
        let url = Url::parse(&full).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let url = url.with_context(|| {
            format!(
                "{}: http_proxy_information: the proxy for {scheme} is not an http proxy (host:port)",
                proxies.origin
            )
        })?;
        Ok((scheme, url))
    };
    proxies.value.into_iter().map(proxy).collect()
}

impl Store for WebStore {
    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>> {
        let (url, credentials) = parse(wanted.url)?;
        let (client, warning) = (self.client.clone(), self.warning.clone());
        Ok(Box::new(WebSource { shown: wanted.shown, warning, url, credentials, client }))
    }
}

/// An image on a web server.
struct WebSource {
    shown: String,
    warning: Option<String>,
    url: Url,
    credentials: Option<Credentials>,
    client: Client,
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
        let ask = move |rest: Option<(u64, &str)>| ask(&client, &url, credentials.as_ref(), rest);
        download::open(Box::new(ask), waits, download::BY_IF_RANGE, None)
    }
}

/// Sends the request, and sends it again where the answer redirects to.
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

/// Returns where a redirect leads, if it may be followed.
fn redirected(from: &Url, to: Option<&str>) -> Result<Url> {
    let mut url = from
        .join(to.context("it redirects without saying where")?)
        .ok()
        .context("it redirects to an invalid URL")?;
    ensure!(
        ["http", "https"].contains(&url.scheme()),
        "it redirects to {}, which is not read",
        shown(url.as_str())
    );
    if from.scheme() == "https" && url.scheme() == "http" {
        bail!("it redirects from https to {}, which is not protected and is not read", shown(url.as_str()));
    }
    url.set_fragment(None);
    // Credentials in a redirect come from the redirecting server, not from the operator.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(url)
}

/// Returns the error for a status that is not a success: its meaning, and what to do.
fn refusal(url: &Url, status: u16) -> anyhow::Error {
    let meaning = match status {
        401 => " (it requires credentials: put user:password@ into the location)",
        403 => " (access is not allowed)",
        404 | 410 => " (it is not there)",
        407 => " (the proxy requires credentials: put user:password@ into http_proxy_information)",
        429 | 503 => " (it is busy: try again later)",
        _ => "",
    };
    anyhow!("{} answers {status}{meaning}", shown(url.as_str()))
}
