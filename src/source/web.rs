//! Images on web servers.
//!
//! A few redirects are followed, never in a loop and never from https to http. The location's credentials are
//! sent to the server that the location names and to no other. A stream that breaks begins again at the
//! location itself: what it redirects to may have expired.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use url::Url;

use super::download;
use super::location::{scheme, shown, split};
use super::stores::{Options, Store, Wanted};
use super::{Opened, Source};
use crate::config::{HTTP_PROXY_INFORMATION, HTTPS_CA_CERTIFICATES_FILE, HTTPS_INSECURE};
use crate::net::http::{Client, Credentials, Request, Response, basic};
use crate::net::tls::Trust;
use crate::net::wire::Waits;

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

/// Returns a location's URL without credentials and fragment, and its credentials as they are written.
pub(super) fn parse(url: &str) -> Result<(Url, Option<Credentials>)> {
    let (scheme, rest) = scheme(url)?;
    let (place, query) = split(rest);
    let (authority, path) = place.find('/').map_or((place, ""), |slash| place.split_at(slash));
    let (user, host) = match authority.split_once('@') {
        None => (None, authority),
        Some((user, host)) => (Some(user), host),
    };
    ensure!(!host.is_empty() && !host.contains(['\\', '%', ' ']), "its host or port is invalid");
    ensure!(!host.contains('@'), "it has more than one @ before its host: write one in a password as %40");
    let credentials = match user.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => credentials(text)?,
    };
    // As Python's urlparse does, and so Glance: parameters of the last segment are left out.
    let last = path.rfind('/').unwrap_or_default();
    let path = path[last..].find(';').map_or(path, |end| &path[..last + end]);
    let query =
        query.filter(|query| !query.is_empty()).map_or(String::new(), |query| format!("?{}", coded(query)));
    // The parser's own message could repeat parts of the URL.
    let url = Url::parse(&format!("{scheme}://{host}{}{query}", coded(path))).ok();
    Ok((url.context("its host or port is invalid")?, credentials))
}

/// Takes `user:password` apart. Glance sends none where the user is empty.
fn credentials(text: &str) -> Result<Option<Credentials>> {
    let (user, password) = text.split_once(':').context("its credentials are not user:password")?;
    ensure!(!password.contains(':'), "its credentials are not user:password: write a : in one as %3A");
    Ok(Some((user.to_owned(), password.to_owned())).filter(|_| !user.is_empty()))
}

/// Codes what the URL's parser would drop, turn or pass on, as Glance's client does: where one % begins no
/// code, none does.
fn coded(text: &str) -> String {
    let is_code = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let text = if text.split('%').skip(1).all(is_code) { text.to_owned() } else { text.replace('%', "%25") };
    text.replace(' ', "%20").replace('\\', "%5C")
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
        download::open(Box::new(move |rest| ask(&client, &url, credentials.as_ref(), rest)), waits)
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
