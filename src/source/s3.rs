//! Images in S3 and in services that speak its protocol.
//!
//! Each request is signed when it is made and valid for a minute, so that a stream can be resumed after
//! hours. The signature is part of the query, which is never shown. The endpoint is the store's
//! (`s3_store_host`), else the location's. Keys come from the location and from the store; where they differ,
//! the store's are tried first, because those in old locations may have been withdrawn. Redirects are not
//! followed: a signature is for one host.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rusty_s3::{Bucket, Credentials as Keys, S3Action as _, UrlStyle};
use url::{Host, Url};

use super::download;
use super::location::{scheme, shown, split};
use crate::config::{
    S3_STORE_ACCESS_KEY, S3_STORE_BUCKET, S3_STORE_BUCKET_URL_FORMAT, S3_STORE_CACERT, S3_STORE_HOST,
    S3_STORE_REGION_NAME, S3_STORE_SECRET_KEY, Setting,
};
use crate::names::escaped;
use crate::net::http::{Client, Credentials, Request, Response};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::source::opened::{Opened, Source};
use crate::source::store::{Options, Store, Wanted};

/// Time for which a signature is valid.
const VALID: Duration = Duration::from_secs(60);

/// The options of a store.
#[derive(Clone, Debug)]
struct S3Store {
    host: Option<Setting<String>>,
    credentials: Option<Credentials>,
    region: Option<String>,
    bucket: Option<String>,
    /// `auto`, `virtual` or `path`.
    addressing: String,
    trust: Trust,
    waits: Waits,
}

/// Reads the options of a store.
pub(super) fn set_up(options: &Options<'_>, waits: &Waits) -> Result<Box<dyn Store>> {
    let keys = (options.value(S3_STORE_ACCESS_KEY)?, options.value(S3_STORE_SECRET_KEY)?);
    let format = options.of(S3_STORE_BUCKET_URL_FORMAT);
    Ok(Box::new(S3Store {
        host: options.optional(S3_STORE_HOST)?,
        credentials: keys.0.zip(keys.1),
        region: options.value(S3_STORE_REGION_NAME)?,
        bucket: options.value(S3_STORE_BUCKET)?,
        addressing: options.config.text(&format)?.value,
        trust: options.value(S3_STORE_CACERT)?.map_or(Trust::System, |file| Trust::Only(file.into())),
        waits: waits.clone(),
    }))
}

impl Store for S3Store {
    fn owns(&self, url: &str) -> bool {
        let Ok(Object { service, bucket, .. }) = parse(url) else { return false };
        self.host.as_ref().is_some_and(|host| without_scheme(&host.value) == service)
            && self.bucket.as_ref() == Some(&bucket)
    }

    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.object(wanted.shown, parse(wanted.url)?)?))
    }
}

impl S3Store {
    /// Returns an object to be read with the store's settings, and with its own keys where they differ.
    fn object(&self, shown: String, object: Object) -> Result<S3Source> {
        // In a URL these are not names of files: they would lead to another object.
        ensure!(![".", ".."].contains(&object.key.as_str()), "its key cannot stand in a request");
        let endpoint = endpoint(self.host.as_ref(), &object)?;
        let virtual_host = match self.addressing.as_str() {
            "virtual" => true,
            "path" => false,
            // As boto does it: custom endpoints are asked by path.
            _ => {
                is_amazon(&endpoint)
                    && object.bucket.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            }
        };
        let style = if virtual_host { UrlStyle::VirtualHost } else { UrlStyle::Path };
        let region =
            self.region.clone().or_else(|| region_of(&endpoint)).unwrap_or_else(|| "us-east-1".into());
        let bucket = Bucket::new(endpoint, style, object.bucket, region).context(
            "its bucket's name cannot be part of a host name: set s3_store_bucket_url_format = path",
        )?;
        let mut credentials: Vec<Credentials> = self.credentials.clone().into_iter().collect();
        credentials.extend(object.credentials.filter(|own| !credentials.contains(own)));
        ensure!(
            !credentials.is_empty(),
            "there are no keys for it: set s3_store_access_key and s3_store_secret_key for its store"
        );
        let client = Client { trust: self.trust.clone(), proxies: Vec::new(), waits: self.waits.clone() };
        Ok(S3Source { shown, bucket, key: object.key, credentials, client })
    }
}

/// The parts of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) scheme: String,
    pub(super) credentials: Option<Credentials>,
    /// Host, perhaps port and path.
    pub(super) service: String,
    pub(super) bucket: String,
    pub(super) key: String,
}

/// Takes a location apart: `[ACCESS:SECRET@]HOST/BUCKET/KEY`.
pub(super) fn parse(url: &str) -> Result<Object> {
    let (scheme, rest) = scheme(url)?;
    ensure!(!rest.contains("://"), "it has two schemes: write s3+https://HOST for s3://https://HOST");
    let (credentials, place) = match split(rest).0.trim_matches('/').split_once('@') {
        None => (None, split(rest).0.trim_matches('/')),
        Some((credentials, place)) => {
            ensure!(!place.contains('@'), "it has more than one @");
            let (access, secret) =
                credentials.split_once(':').context("its credentials are not access:secret")?;
            (Some((access.to_owned(), secret.to_owned())), place)
        }
    };
    let mut parts = place.rsplitn(3, '/');
    match (parts.next(), parts.next(), parts.next().map(|service| service.trim_end_matches('/'))) {
        (Some(key), Some(bucket), Some(service))
            if ![key, bucket].contains(&"") && !service.is_empty() && !service.starts_with('/') =>
        {
            Ok(Object {
                scheme: scheme.to_owned(),
                credentials,
                service: service.to_owned(),
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            })
        }
        _ => bail!("it is not HOST/BUCKET/KEY"),
    }
}

/// Returns a service as locations have it.
fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_matches('/')
}

/// An object in a bucket.
struct S3Source {
    shown: String,
    bucket: Bucket,
    key: String,
    /// In the order to try.
    credentials: Vec<Credentials>,
    client: Client,
}

impl Source for S3Source {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn open(&self) -> Result<Opened> {
        let mut refusals = Vec::new();
        for credentials in &self.credentials {
            let (client, bucket, key) = (self.client.clone(), self.bucket.clone(), self.key.clone());
            let keys = Keys::new(credentials.0.clone(), credentials.1.clone());
            let ask = move |rest: Option<(u64, &str)>| ask(&client, &bucket, &keys, &key, rest);
            match download::open(Box::new(ask), self.client.waits.clone(), download::BY_IF_RANGE, None) {
                Err(error) if error.is::<Forbidden>() => refusals.push(error),
                result => return result,
            }
        }
        let both =
            if refusals.len() > 1 { ", with the store's keys and with the location's own" } else { "" };
        let last = refusals.pop().unwrap_or_else(|| anyhow!("there are no keys for it"));
        Err(anyhow!("{last:#}{both}"))
    }
}

/// The server refused the keys; others may be accepted.
#[derive(Debug)]
struct Forbidden(String);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Forbidden {}

fn ask(
    client: &Client,
    bucket: &Bucket,
    keys: &Keys,
    key: &str,
    rest: Option<(u64, &str)>,
) -> Result<Response> {
    let url = bucket.get_object(Some(keys), key).sign(VALID);
    let range = rest.map(|(from, validator)| (format!("bytes={from}-"), validator));
    let mut request = Request::get(&url);
    if let Some((range, validator)) = &range {
        request = request.header("range", range).header("if-range", validator);
    }
    let response = client.send(&request)?;
    let status = response.status;
    match status {
        200 => return Ok(response),
        206 | 416 if rest.is_some() => return Ok(response),
        _ => {}
    }
    let message = response.message();
    let code = element(&message, "Code").unwrap_or_default();
    let hint = match (code.as_str(), status) {
        ("NoSuchBucket", _) => "its bucket does not exist: is s3_store_host right?",
        ("NoSuchKey", _) | (_, 404) => "it is not there",
        ("SignatureDoesNotMatch", _) => "the secret key is wrong",
        ("InvalidAccessKeyId", _) => "the access key is unknown",
        ("RequestTimeTooSkewed", _) => "the clocks of this host and of the server differ too much",
        ("AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" | "PermanentRedirect", _)
        | (_, 301 | 307) => "set s3_store_region_name and s3_store_host to those of the bucket",
        (_, 403) => "the keys are not accepted, or may not read it",
        _ => "",
    };
    let why =
        [code.as_str(), hint].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
    let why = if why.is_empty() { why } else { format!(" ({why})") };
    let message = format!("{} answers {status}{why}", shown(bucket.base_url().as_str()));
    Err(if status == 403 { Forbidden(message).into() } else { anyhow!(message) })
}

/// Returns the store's server, else the location's. Without a scheme of its own it is http, as in Glance,
/// unless the location says https.
fn endpoint(host: Option<&Setting<String>>, object: &Object) -> Result<Url> {
    let (text, origin) = match host {
        Some(host) => (host.value.as_str(), format!("{}: s3_store_host", host.origin)),
        None => (object.service.as_str(), "the location's server".to_owned()),
    };
    let scheme = if object.scheme == "s3+https" { "https" } else { "http" };
    let full = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let url =
        Url::parse(&full).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.with_context(|| format!("{origin} is not an http or https URL"))
}

fn is_amazon(endpoint: &Url) -> bool {
    let Some(Host::Domain(name)) = endpoint.host() else { return false };
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| name.ends_with(domain))
}

/// Returns the region in the name of one of Amazon's servers: `s3.REGION.amazonaws.com`,
/// `s3-REGION.amazonaws.com`.
fn region_of(endpoint: &Url) -> Option<String> {
    let name = endpoint.host_str().filter(|_| is_amazon(endpoint))?;
    let (before, _) = name.split_once(".amazonaws.com")?;
    let region = before.rsplit('.').next()?.trim_start_matches("s3-");
    (region != "s3").then(|| region.to_owned())
}

/// Returns the text between two tags of a server's XML, escaped and cut.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(escaped(text.chars().take(200).collect::<String>().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::interrupt::Interrupt;

    fn source(host: Option<&str>, addressing: &str, service: &str, scheme: &str) -> Result<S3Source> {
        let store = S3Store {
            host: host.map(|host| Setting { value: host.to_owned(), origin: Origin::Default }),
            credentials: Some(("AK".into(), "SK".into())),
            region: None,
            bucket: None,
            addressing: addressing.to_owned(),
            trust: Trust::System,
            waits: Waits::new(Interrupt::default()),
        };
        let object = Object {
            scheme: scheme.to_owned(),
            credentials: None,
            service: service.to_owned(),
            bucket: "glance".into(),
            key: "ID".into(),
        };
        store.object(String::new(), object)
    }

    #[test]
    fn finds_servers_regions_and_buckets() {
        for (host, addressing, service, scheme, url, region) in [
            (None, "auto", "h:7480", "s3", "http://h:7480/glance/ID", "us-east-1"),
            (None, "auto", "h/prefix", "s3+https", "https://h/prefix/glance/ID", "us-east-1"),
            (
                Some("https://s3.example.com"),
                "auto",
                "h",
                "s3",
                "https://s3.example.com/glance/ID",
                "us-east-1",
            ),
            (
                Some("s3.example.com:81"),
                "virtual",
                "h",
                "s3",
                "http://glance.s3.example.com:81/ID",
                "us-east-1",
            ),
            (None, "auto", "s3.amazonaws.com", "s3+https", "https://glance.s3.amazonaws.com/ID", "us-east-1"),
            (
                Some("https://s3-eu-west-1.amazonaws.com"),
                "path",
                "h",
                "s3",
                "https://s3-eu-west-1.amazonaws.com/glance/ID",
                "eu-west-1",
            ),
            (
                None,
                "auto",
                "s3.eu-west-3.amazonaws.com",
                "s3+https",
                "https://glance.s3.eu-west-3.amazonaws.com/ID",
                "eu-west-3",
            ),
        ] {
            let source = source(host, addressing, service, scheme).unwrap();
            assert_eq!(source.bucket.object_url(&source.key).as_str(), url);
            assert_eq!(source.bucket.region(), region, "{url}");
        }
        for (host, addressing, service, why) in [
            (Some("ftp://h"), "auto", "h", "default: s3_store_host is not an http or https URL"),
            (None, "auto", "h:x", "the location's server is not an http or https URL"),
            (None, "virtual", "127.0.0.1", "its bucket's name cannot be part of a host name"),
        ] {
            let error = format!("{:#}", source(host, addressing, service, "s3").err().unwrap());
            assert!(error.starts_with(why), "{error}");
        }
    }
}
