//! Swift and Glance's API that misbehave.
//!
//! The clouds are doubles: a Keystone, a Swift and a Glance on one socket of this process, which lie, break
//! off and refuse at will. How real ones behave, the tests of the binary show.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tests::{image, location, stores};
use super::*;
use crate::net::double::{Double, impatient};
use crate::openstack::clouds::{Cloud, CloudSearch};

const SIZE: usize = 10_000;

/// The services that a double answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Swift,
    Glance,
}

fn content() -> String {
    ('a'..='z').cycle().take(SIZE).collect()
}

/// An answer with all of the content, or with its first 3000 bytes, or with the rest, as `BODY` stands for.
struct HostileDouble {
    double: Double,
    logins: Arc<AtomicUsize>,
}

impl HostileDouble {
    /// Returns a cloud whose service gives these answers in turn, the last one for ever. `BREAK` in an answer
    /// stands for the first 3000 bytes, `ALL` for all, and `REST` for what follows the position asked for.
    /// Keystone accepts the first `accepted` logins.
    fn new(answers: &[&str], accepted: usize) -> Self {
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let (asked, logins) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&logins);
        let double = Double::new(move |_, request, stream| {
            let answer = if request.starts_with("POST /v3/auth/tokens ") {
                keystone(request, counted.fetch_add(1, Ordering::Relaxed), accepted)
            } else {
                let n = asked.fetch_add(1, Ordering::Relaxed);
                let from = request.split_once("bytes=").and_then(|(_, rest)| rest.split_once("-\n"));
                let from: usize = from.map_or(0, |(from, _)| from.parse().unwrap());
                let content = content();
                let answer = answers[n.min(answers.len() - 1)].replace("FROM", &from.to_string());
                let answer = answer.replace("BREAK", &content[..3000]).replace("ALL", &content);
                answer.replace("REST", &content[from.min(SIZE)..])
            };
            let _ = stream.write_all(answer.as_bytes());
        });
        HostileDouble { double, logins }
    }

    /// Returns what comes of reading an image: its content, or all that is said about the failure.
    fn read(&self, service: Service) -> Result<String, String> {
        let keystone = self.double.url("/v3");
        let mut sources = match service {
            Service::Swift => {
                let place = keystone.strip_prefix("http://").unwrap();
                let endpoint = self.double.url("/v1/KEY_p");
                let config = format!("[glance_store]\nstores = swift\nswift_store_endpoint = {endpoint}\n");
                let url = format!("swift+http://p%3Au:s3cret@{place}/images/ID");
                stores(&config, &impatient()).unwrap().sources(image(), &[location(&url, None)])
            }
            Service::Glance => {
                let api = ImageApi::new(self.cloud(), &impatient());
                let stores = stores("", &impatient()).unwrap().reading(Via::Auto, Ok(api));
                stores.sources(image(), &[location("cinder://store/volume", None)])
            }
        };
        let source = sources.remove(0).map_err(|refused| refused.to_string())?;
        let opened = source.open().map_err(|error| format!("{error:#}"))?;
        let Body::Stream(mut stream) = opened.body else { panic!("no stream") };
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn cloud(&self) -> Cloud {
        cloud_at(&self.double)
    }

    /// Returns the requests to the service.
    fn requests(&self) -> Vec<String> {
        self.double.heads().into_iter().filter(|head| !head.starts_with("POST")).collect()
    }
}

/// Returns the credentials for a double, as an openrc file has them.
fn cloud_at(double: &Double) -> Cloud {
    cloud_of(&[
        ("OS_AUTH_URL", double.url("/v3")),
        ("OS_USERNAME", "u".to_owned()),
        ("OS_PASSWORD", "s3cret".to_owned()),
        ("OS_PROJECT_NAME", "p".to_owned()),
        ("OS_IMAGE_ENDPOINT_OVERRIDE", double.url("/image/v2")),
    ])
}

/// Returns the credentials in these variables.
fn cloud_of(variables: &[(&str, String)]) -> Cloud {
    let environment: BTreeMap<_, _> =
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let nowhere = Path::new("/nonexistent");
    let waits = impatient();
    let search = CloudSearch {
        name: None,
        environment: &environment,
        config: None,
        waits: &waits,
        root: nowhere,
        directory: nowhere,
    };
    search.find().unwrap()
}

/// Answers a login.
fn keystone(request: &str, login: usize, accepted: usize) -> String {
    assert!(request.contains("s3cret"), "{request}");
    if login >= accepted {
        let body =
            r#"{"error": {"code": 401, "message": "The request you have made requires authentication."}}"#;
        return format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    let body = r#"{"token": {"issued_at": "2026-01-01T00:00:00.000000Z",
        "expires_at": "2026-01-01T01:00:00.000000Z", "catalog": []}}"#;
    let length = body.len();
    format!("HTTP/1.1 201 OK\r\nX-Subject-Token: the-token{login}\r\nContent-Length: {length}\r\n\r\n{body}")
}

const TAGGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nETag: v1\r\nContent-MD5: v1\r\n\r\n";
const REST: &str = "HTTP/1.1 206 P\r\nContent-Range: bytes FROM-9999/10000\r\nETag: v1\r\nContent-MD5: \
                    v1\r\n\r\nREST";
const EMPTY: &str = "Content-Length: 0\r\n\r\n";

/// Both services, whatever they answer. `URL` stands for the address of the image.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_hostile_double_never_gives_more_than_a_message() {
    use Service::{Glance, Swift};
    let broken = TAGGED.to_owned() + "BREAK";
    let untagged = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\nBREAK";
    let status = |status: &str, headers: &str| format!("HTTP/1.1 {status} X\r\n{headers}{EMPTY}");
    let refused = status("401", "");
    let (whole, rest) = (TAGGED.to_owned() + "ALL", REST.to_owned());
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_owned();
    let mine =
        "HTTP/1.1 500 X\r\nContent-Length: 46\r\n\r\n<html><h1>500 Internal Error</h1>odd\u{1b}[2J</html>";
    let repeated = |text: &str| {
        let body = format!("<html>no access with {text}, sorry</html>");
        format!("HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let leak = "HTTP/1.1 500 X\r\nContent-Length: 30\r\n\r\ncannot open swift://u:k3y@h/c/o".to_owned();
    for (services, answers, expected) in [
        (&[Swift, Glance][..], vec![whole.clone()], Ok(())),
        (&[Swift, Glance], vec![broken.clone(), rest.clone()], Ok(())),
        // A token that dies before the image, and in the middle of it.
        (&[Swift, Glance], vec![refused.clone(), whole.clone()], Ok(())),
        (&[Swift, Glance], vec![broken.clone(), refused.clone(), rest.clone()], Ok(())),
        (
            &[Swift, Glance],
            vec![refused.clone()],
            Err("URL answers 401 (it refuses our token, also a new one)"),
        ),
        (
            &[Swift, Glance],
            vec![broken.clone(), refused.clone()],
            Err("not resumed after 3000 bytes: URL answers 401 (it refuses our token, also a new one)"),
        ),
        // A busy one.
        (&[Swift, Glance], vec![status("429", "Retry-After: 0\r\n"), whole.clone()], Ok(())),
        (
            &[Swift, Glance],
            vec![status("503", ""), status("503", ""), status("503", ""), whole.clone()],
            Ok(()),
        ),
        (&[Swift, Glance], vec![broken.clone(), status("503", "Retry-After: 0\r\n"), rest.clone()], Ok(())),
        (&[Swift, Glance], vec![status("503", "")], Err("URL answers 503 (it is busy: try again later)")),
        (
            &[Swift, Glance],
            vec![status("429", "Retry-After: 3600\r\n")],
            Err("URL answers 429 (it is busy, and wants to be asked again in 3600 s)"),
        ),
        (
            &[Swift, Glance],
            vec![status("429", "Retry-After: 99999999999999999999999\r\n")],
            Err("URL answers 429 (it is busy, and wants to be asked again in "),
        ),
        (
            &[Swift],
            vec![status(
                "498",
                "Date: Mon, 02 Nov 2026 09:00:00 GMT\r\nRetry-After: Mon, 02 Nov 2026 10:00:00 GMT\r\n",
            )],
            Err("URL answers 498 (it is busy, and wants to be asked again in 3600 s)"),
        ),
        (
            &[Swift],
            vec![status("498", "Retry-After: soon\r\n")],
            Err("URL answers 498 (it is busy: try again later)"),
        ),
        // It lies about the length.
        (
            &[Swift],
            vec![
                broken.clone(),
                "HTTP/1.1 416 X\r\nContent-Range: bytes */3000\r\nETag: v1\r\nContent-Length: 0\r\n\r\n"
                    .into(),
            ],
            Err("the server had announced 10000 bytes, but it has only 3000"),
        ),
        (
            &[Swift, Glance],
            vec![broken.clone(), rest.replace("/10000", "/10001")],
            Err("the image has another size than before"),
        ),
        // It has something else by now, or does not say that it has not.
        (
            &[Swift, Glance],
            vec![broken.clone(), rest.replace("v1", "v2")],
            Err("the image changed while it was read"),
        ),
        (
            &[Swift, Glance],
            vec![broken.clone(), rest.replace("ETag: v1\r\nContent-MD5: v1\r\n", "")],
            Err("the image changed while it was read"),
        ),
        (
            &[Swift, Glance],
            vec![
                broken.clone(),
                status("416", "Content-Range: bytes */99\r\nETag: v2\r\nContent-MD5: v2\r\n"),
            ],
            Err("the image changed while it was read"),
        ),
        (
            &[Swift, Glance],
            vec![broken.clone(), whole.clone()],
            Err("not resumed after 3000 bytes: the image changed while it was read, or the server does not \
                 support ranges"),
        ),
        (&[Swift], vec![untagged.to_owned()], Err("not resumed: the server gives no ETag that proves it")),
        (&[Glance], vec![untagged.to_owned()], Err("not resumed: Glance gives no Content-MD5")),
        // radosgw has the same tag for each list of segments: the time tells them apart.
        (
            &[Swift],
            vec![
                broken.replace("v1", "\"d41d8cd98f00b204e9800998ecf8427e\"\r\nX-Timestamp: 1"),
                rest.replace("v1", "\"d41d8cd98f00b204e9800998ecf8427e\"\r\nX-Timestamp: 2"),
            ],
            Err("the image changed while it was read"),
        ),
        // A status that another try does not change is not tried.
        (&[Swift], vec![status("403", "")], Err("URL answers 403 (the user of the account may not read it)")),
        (
            &[Swift],
            vec![status("404", "")],
            Err("URL answers 404 (it is not there: are the account, the region and the endpoint right?)"),
        ),
        (
            &[Swift],
            vec![broken.clone(), status("409", "")],
            Err("not resumed after 3000 bytes: URL answers 409 (a segment of it is missing, or has changed)"),
        ),
        (
            &[Swift, Glance],
            vec![status("302", "Location: http://127.0.0.1:1/\r\n")],
            Err("URL answers 302 (it redirects, which is not followed with a token)"),
        ),
        (&[Swift], vec![status("500", "")], Err("URL answers 500")),
        (
            &[Glance],
            vec![status("403", "")],
            Err("URL answers 403 (these credentials may not download the image: use those of an \
                 administrator)"),
        ),
        (
            &[Glance],
            vec![broken.clone(), status("400", "")],
            Err("not resumed after 3000 bytes: the image changed while it was read, or the server does not"),
        ),
        (
            &[Glance],
            vec![status("204", "")],
            Err("URL answers 204 (the image has no data: its store has lost it)"),
        ),
        (
            &[Glance],
            vec![page],
            Err("URL answers with a page (text/html) in place of the image: is Glance's API there?"),
        ),
        (&[Glance], vec![mine.to_owned()], Err("URL answers 500 (500 Internal Error odd\\u{1b}[2J)")),
        (&[Glance], vec![leak], Err("URL answers 500")),
        // It repeats a location in another form.
        (&[Glance], vec![repeated("swift%3A%2F%2Fu%3Ak3y%40h/c/o")], Err("URL answers 500")),
        (&[Glance], vec![repeated("swift%253A%252F%252Fu%253Ak3y%2540h/c/o")], Err("URL answers 500")),
        (&[Glance], vec![repeated("swift:&#x2F;&#47;u:k3y&#64;h/c/o")], Err("URL answers 500")),
        (&[Glance], vec![repeated("swift&colon;//u:k3y&commat;h/c/o")], Err("URL answers 500")),
        (&[Glance], vec![repeated("http://h/o?sig=k3y")], Err("URL answers 500")),
        // It repeats the token, as it was sent or in another form.
        (&[Glance], vec![repeated("the-token0")], Err("URL answers 500 (no access with ***, sorry)")),
        (&[Glance], vec![repeated("the%2Dtoken0")], Err("URL answers 500")),
    ] {
        for service in services {
            let answers: Vec<_> = answers.iter().map(String::as_str).collect();
            let cloud = HostileDouble::new(&answers, usize::MAX);
            let found = cloud.read(*service);
            let url = cloud.double.url(match service {
                Swift => "/v1/KEY_p/images/ID",
                Glance => "/image/v2/images/1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10/file",
            });
            match (&found, expected) {
                (Ok(text), Ok(())) => assert!(*text == content(), "{service:?} {answers:?}"),
                (Err(said), Err(expected)) => {
                    assert!(
                        said.starts_with(&expected.replace("URL", &url)),
                        "{service:?} {answers:?}: {said}"
                    );
                    assert!(
                        !["s3cret", "k3y", "token0"].iter().any(|secret| said.contains(secret)),
                        "{said}"
                    );
                }
                _ => panic!("{service:?} {answers:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}

/// A token is used until it is refused, and asked for once then; what is final is asked once.
#[test]
fn asks_no_more_often_than_it_helps() {
    let refused = format!("HTTP/1.1 401 X\r\n{EMPTY}");
    let missing = format!("HTTP/1.1 404 X\r\n{EMPTY}");
    let busy = format!("HTTP/1.1 503 X\r\n{EMPTY}");
    let (whole, broken) = (TAGGED.to_owned() + "ALL", TAGGED.to_owned() + "BREAK");
    for (answers, logins, requests) in [
        (vec![whole.as_str()], 1, 1),
        (vec![refused.as_str()], 2, 2),
        (vec![missing.as_str()], 1, 1),
        (vec![busy.as_str()], 1, 4),
        (vec![broken.as_str(), busy.as_str()], 1, 5),
        (vec![broken.as_str(), missing.as_str()], 1, 2),
        (vec![broken.as_str(), refused.as_str(), REST], 2, 3),
    ] {
        for service in [Service::Swift, Service::Glance] {
            let cloud = HostileDouble::new(&answers, usize::MAX);
            let _ = cloud.read(service);
            let found = (cloud.logins.load(Ordering::Relaxed), cloud.requests().len());
            assert_eq!(found, (logins, requests), "{service:?} {answers:?}");
            let with_token = |head: &String| head.contains("\nX-Auth-Token: the-token");
            assert!(cloud.requests().iter().all(with_token), "{:?}", cloud.requests());
        }
    }
}

/// Credentials that are wrong, or that expire in the middle of an image.
#[test]
fn a_keystone_that_refuses_is_final() {
    let broken = TAGGED.to_owned() + "BREAK";
    let refused = format!("HTTP/1.1 401 X\r\n{EMPTY}");
    for service in [Service::Swift, Service::Glance] {
        let cloud = HostileDouble::new(&[&broken], 0);
        let said = cloud.read(service).unwrap_err();
        let expected = "refuses the user 'u' (domain 'default') for the project 'p' (domain 'default'): the \
                        password is wrong, there is no such user or project, or the user has no role there";
        assert!(said.contains(expected) && !said.contains("s3cret"), "{said}");
        assert_eq!(cloud.requests().len(), 0);

        let cloud = HostileDouble::new(&[&broken, &refused], 1);
        let said = cloud.read(service).unwrap_err();
        assert!(
            said.starts_with("not resumed after 3000 bytes: Keystone at ") && said.contains(expected),
            "{said}"
        );
        assert_eq!((cloud.logins.load(Ordering::Relaxed), cloud.requests().len()), (2, 2));
    }
}

/// A hint names the setting that the operator wrote.
#[test]
fn a_keystone_that_is_elsewhere_is_told_in_the_words_of_its_setting() {
    let elsewhere =
        Double::says("HTTP/1.1 301 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    let place = elsewhere.url("/v3");
    let own = format!(
        "[glance_store]\nstores = swift\nswift_store_auth_address = {place}\nswift_store_user = p:u\n\
         swift_store_key = s3cret\n"
    );
    let host = place.strip_prefix("http://").unwrap();
    for (config, url, setting) in [
        (own.as_str(), "swift+config://ref1/images/ID".to_owned(), "auth_address of [glance_store]"),
        (
            "[glance_store]\nstores = swift\n",
            format!("swift+http://p%3Au:s3cret@{host}/images/ID"),
            "the address in the location",
        ),
    ] {
        let stores = stores(config, &impatient()).unwrap();
        let source = stores.sources(image(), &[location(&url, None)]).remove(0).unwrap();
        let Err(error) = source.open() else { panic!("opened") };
        let expected = format!("; {setting} has to be the address of the Identity API, with or without /v3");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

/// A Keystone that does not answer is asked once, not again for each image.
#[test]
fn a_silent_keystone_is_not_asked_for_each_image() {
    let silent = Double::new(|_, _, _| std::thread::sleep(std::time::Duration::from_secs(3)));
    let place = silent.url("/v3");
    let place = place.strip_prefix("http://").unwrap();
    let waits = impatient();
    let config = format!("[glance_store]\nstores = swift\nswift_store_endpoint = {}\n", silent.url("/v1/K"));
    let stores = stores(&config, &waits).unwrap();
    // A location with other credentials is for the same Keystone.
    for (user, is_asked) in [("u", true), ("u", false), ("v", false)] {
        let url = format!("swift+http://p%3A{user}:s3cret@{place}/images/ID");
        let source = stores.sources(image(), &[location(&url, None)]).remove(0).unwrap();
        let start = std::time::Instant::now();
        let Err(error) = source.open() else { panic!("opened") };
        let said = format!("{error:#}");
        assert!(said.contains("is not reached: ") && said.contains("nothing came for "), "{said}");
        assert_eq!(said.contains("; it is not asked again within 1min"), !is_asked, "{said}");
        assert_eq!(start.elapsed() > waits.silence, is_asked, "{:?}", start.elapsed());
    }
    assert_eq!(silent.heads().len(), 1);
}

/// The same holds for the Keystone of Glance's API.
#[test]
fn a_silent_keystone_is_not_asked_for_each_image_of_glance() {
    let silent = Double::new(|_, _, _| std::thread::sleep(std::time::Duration::from_secs(3)));
    let api = ImageApi::new(cloud_at(&silent), &impatient());
    let stores = stores("", &impatient()).unwrap().reading(Via::Api, Ok(api));
    for is_asked in [true, false, false] {
        let source = stores.sources(image(), &[location("file:///x", None)]).remove(0).unwrap();
        let Err(error) = source.open() else { panic!("opened") };
        let said = format!("{error:#}");
        assert!(said.contains("is not reached: ") && said.contains("nothing came for "), "{said}");
        assert_eq!(said.contains("; it is not asked again within 1min"), !is_asked, "{said}");
    }
    assert_eq!(silent.heads().len(), 1);
}

/// Glance does not say how long an image is when its cache is on; the record does.
#[test]
fn an_image_without_a_length_is_as_long_as_its_record() {
    let sizeless = "HTTP/1.1 200 OK\r\nContent-MD5: v1\r\n\r\nBREAK";
    let cloud = HostileDouble::new(&[sizeless, REST], 1);
    let api = ImageApi::new(cloud.cloud(), &impatient());
    let stores = stores("", &impatient()).unwrap().reading(Via::Api, Ok(api));
    let image = ImageOfGlance { size: Some(SIZE as u64), ..image() };
    let source = stores.sources(image, &[location("file:///x", None)]).remove(0).unwrap();
    let Body::Stream(mut stream) = source.open().unwrap().body else { panic!("no stream") };
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text == content());
    assert_eq!(source.shown(), "Glance's API");
}

/// Locations that only Glance reads: one source for all of them, in the place of the first, or a message.
#[test]
fn glance_is_asked_once_for_what_nothing_else_reads() {
    let rows = [
        location("file:///var/lib/glance/images/x", None),
        location("cinder://store/volume", None),
        location(&format!("swift+https://h/v1/AUTH_x/c/{}", image().id), None),
        location("ftp://u:s3cret@h/x", None),
    ];
    let config = "[glance_store]\nstores = file,swift\n";
    let shown = |via, is_open: bool| -> Vec<String> {
        let cloud = HostileDouble::new(&[""], 0);
        let api = if is_open {
            Ok(ImageApi::new(cloud.cloud(), &impatient()))
        } else {
            Err(anyhow::anyhow!("there are no credentials"))
        };
        let stores = stores(config, &impatient()).unwrap().reading(via, api);
        let sources = stores.sources(image(), &rows);
        let shown = sources.into_iter().map(|source| match source {
            Ok(source) => source.shown().to_owned(),
            Err(refused) => format!("{refused}"),
        });
        shown.collect()
    };
    let file = "file:///var/lib/glance/images/x";
    assert_eq!(shown(Via::Auto, true), [file, "cinder://store/volume (through Glance's API)"]);
    assert_eq!(shown(Via::Api, true), ["Glance's API"]);
    assert_eq!(shown(Via::Api, false), ["Glance's API: there are no credentials"]);
    for (via, is_open, why) in
        [(Via::Auto, false, "there are no credentials"), (Via::Store, true, "--via store leaves it out")]
    {
        let could = format!("; Glance's API could give the image, but {why}");
        let expected = [
            file.to_owned(),
            format!(
                "cinder://store/volume: a store of the type cinder is read through Glance's API only{could}"
            ),
            format!(
                "swift+https://h/v1/AUTH_x/c/{}: it has no credentials, as in a store with \
                 swift_store_multi_tenant, which is read through Glance's API only{could}",
                image().id
            ),
            format!(
                "ftp://...: it is not a URL of a store that Glance has, or it is encrypted: then \
                 metadata_encryption_key has to be set as it is for glance-api{could}"
            ),
        ];
        assert_eq!(shown(via, is_open), expected, "{via:?}");
    }
}

/// With `swift_store_multi_tenant`, Glance reads the object of a location with the rights of the one who
/// asks. The API is not asked if the location names an object that is not the image's own.
#[test]
fn glance_is_not_asked_for_the_object_of_another_image() {
    let id = image().id;
    let shown = |via, url: &str| {
        let api = Ok(ImageApi::new(HostileDouble::new(&[""], 0).cloud(), &impatient()));
        let stores = stores("[glance_store]\nstores = swift\n", &impatient()).unwrap().reading(via, api);
        let rows = [location("cinder://store/volume", None), location(url, None)];
        let sources = stores.sources(image(), &rows).into_iter();
        let shown: Vec<_> = sources
            .map(|source| source.map_or_else(|e| e.to_string(), |source| source.shown().to_owned()))
            .collect();
        shown.join("\n")
    };
    for object in ["another", &id.to_string().to_uppercase(), &format!("{id}x"), "", "a/"] {
        let url = format!("swift+https://h/v1/AUTH_x/c/{object}");
        let said = shown(Via::Auto, &url);
        let why = format!("it is not asked: the name of the object of {url} is not the image's id");
        assert!(said.contains(&format!("Glance's API could give the image, but {why}")), "{said}");
        assert!(!said.contains("through Glance's API)"), "{said}");
        assert!(shown(Via::Api, &url).starts_with(&format!("Glance's API: {why}")), "{url}");
    }
    for url in [
        &format!("swift+https://h/v1/AUTH_x/c/{id}"),
        &format!("swift+http://p%3Au:k@h/v3/c/{id}"),
        "swift+config://ref/c/o",
    ] {
        assert!(shown(Via::Auto, url).contains("cinder://store/volume (through Glance's API)"), "{url}");
        assert_eq!(shown(Via::Api, url), "Glance's API");
    }
}

/// Reads what Glance's API has, several times in one run.
fn reading_of_glance(cloud: Cloud) -> impl Fn() -> Result<(), String> {
    let api = ImageApi::new(cloud, &impatient());
    let stores = stores("", &impatient()).unwrap().reading(Via::Api, Ok(api));
    move || {
        let source = stores.sources(image(), &[location("file:///x", None)]).remove(0).unwrap();
        source.open().map(drop).map_err(|error| format!("{error:#}"))
    }
}

/// A service that stays busy, or broken, is waited for once in a run, until it answers.
#[test]
fn a_service_that_stays_busy_is_waited_for_once() {
    for status in ["503", "429", "500", "502", "504"] {
        let busy = format!("HTTP/1.1 {status} X\r\n{EMPTY}");
        let whole = TAGGED.to_owned() + "ALL";
        let mut answers = vec![busy.as_str(); 6];
        answers.push(&whole);
        answers.extend([busy.as_str(), &whole]);
        let cloud = HostileDouble::new(&answers, usize::MAX);
        let read = reading_of_glance(cloud.cloud());
        // Four questions for the first image, one for each of the next two, and a good answer. After that,
        // the service is waited for again.
        for (is_read, requests) in [(false, 4), (false, 5), (false, 6), (true, 7), (true, 9)] {
            let found = read();
            assert_eq!((found.is_ok(), cloud.requests().len()), (is_read, requests), "{status} {found:?}");
        }
    }
}

/// A given token cannot be renewed, and the message names its variable.
#[test]
fn a_given_token_that_is_refused_is_named() {
    let refused = format!("HTTP/1.1 401 X\r\n{EMPTY}");
    let cloud = HostileDouble::new(&[&refused], 0);
    let variables =
        [("OS_TOKEN", "s3cret".to_owned()), ("OS_IMAGE_ENDPOINT_OVERRIDE", cloud.double.url("/image/v2"))];
    let said = reading_of_glance(cloud_of(&variables))().unwrap_err();
    assert!(
        said.ends_with(" answers 401 (OS_TOKEN is expired or revoked, or is of another cloud)"),
        "{said}"
    );
    assert_eq!(cloud.requests().len(), 1);
}
