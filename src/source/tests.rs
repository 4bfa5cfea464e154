//! Reading over HTTP from servers that misbehave, and choosing among stores.
//!
//! The servers are doubles: a few lines on a socket of this process that break off, lie and keep silent at
//! will. How real ones behave, the tests of the binary show.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::*;
use crate::config::{Config, ConfigSearch, GLANCE};
use crate::database::images::Location;
use crate::net::double::{Double, impatient};
use crate::net::wire::{Least, Waits};

pub(super) fn stores(config: &str, waits: &Waits) -> Result<Stores> {
    let root = tempfile::tempdir()?;
    std::fs::create_dir_all(root.path().join("etc/glance"))?;
    std::fs::write(root.path().join("etc/glance/glance-api.conf"), config)?;
    let request = ConfigSearch {
        project: &GLANCE,
        program: "glance-cache".into(),
        sources: Vec::new(),
        environment: [("HOME".into(), "/nonexistent".into())].into(),
        root: root.path().to_owned(),
        pass_over_unreadable: false,
    };
    Stores::from_config(&Config::load(&request)?, waits)
}

pub(super) fn location(value: &str, store: Option<&str>) -> Location {
    Location { value: value.to_owned(), store: store.map(str::to_owned) }
}

pub(super) fn image() -> ImageOfGlance {
    ImageOfGlance { id: "1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10".parse().unwrap(), size: None }
}

/// The only source of a location.
fn source(config: &str, url: &str, waits: &Waits) -> Result<Box<dyn Source>, Refused> {
    let mut sources = stores(config, waits).unwrap().sources(image(), &[location(url, None)]);
    assert_eq!(sources.len(), 1);
    sources.remove(0)
}

/// The size announced and the content, or all that is said about the failure.
fn fetch(config: &str, url: &str, waits: &Waits) -> Result<(Option<u64>, String), String> {
    let source = source(config, url, waits).map_err(|refused| refused.to_string())?;
    let opened = source.open().map_err(|error| format!("{error:#}"))?;
    let Body::Stream(mut stream) = opened.body else { panic!("no stream") };
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok((opened.size, text))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn reads_bodies_however_their_end_is_known() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage", Ok((Some(5), "image"))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage and more", Ok((Some(5), "image"))),
        ("HTTP/1.1 200 OK\ncontent-length:5\n\nimage", Ok((Some(5), "image"))),
        ("HTTP/1.0 200 OK\r\n\r\nimage", Ok((None, "image"))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok((Some(0), ""))),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nimage", Ok((None, "image"))),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             2;x=y\r\nim\r\n003\r\nage\r\n0\r\nTrailer: x\r\n\r\n",
            Ok((None, "image")),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n",
            Err("not resumed: the server gives no strong ETag and no older Last-Modified: the server ended \
                 the stream after 5 bytes, before its end"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            Err("not resumed: the server gives no strong ETag and no older Last-Modified: the server's \
                 chunks are malformed: Invalid chunk size line: missing size digit (after 0 bytes)"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nimage",
            Err("not resumed: the server gives no strong ETag and no older Last-Modified: the server ended \
                 the stream after 5 of the 9 bytes it had announced"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            Err("the server sends in an encoding that was not asked for"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            Err("the answer is not HTTP: invalid content-length parsed"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            Err("the answer is not HTTP: invalid content-length parsed"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            Err("the answer is not HTTP: invalid content-length parsed"),
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", Err("the answer is not HTTP: is it https?")),
        ("", Err("the server ended the connection without an answer")),
        ("HTTP/1.1 206 Partial\r\n\r\n", Err("URL answers 206")),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Err("URL answers 404 (it is not there)")),
        (
            "HTTP/1.1 401 No\r\n\r\n",
            Err("URL answers 401 (it requires credentials: put user:password@ into the location)"),
        ),
        ("HTTP/1.1 503 No\r\n\r\n", Err("URL answers 503 (it is busy: try again later)")),
        ("HTTP/1.1 301 No\r\n\r\n", Err("it redirects without saying where")),
        (
            "HTTP/1.1 301 No\r\nLocation: file:///etc/shadow\r\n\r\n",
            Err("it redirects to file:///etc/shadow, which is not read"),
        ),
        ("HTTP/1.1 301 No\r\nLocation: #x\r\n\r\n", Err("it redirects in a loop, to URL")),
    ] {
        let double = Double::says(answer);
        let url = double.url("/x");
        let found = fetch("", &url, &impatient());
        let expected =
            expected.map(|(size, text)| (size, text.to_owned())).map_err(|why| why.replace("URL", &url));
        assert_eq!(found, expected, "{answer}");
    }
}

/// A server of ten thousand bytes that breaks off the first `breaks` answers in the middle.
fn breaking(breaks: usize, head: &'static str, resumed: &'static str) -> Double {
    let image: String = ('a'..='z').cycle().take(10_000).collect();
    Double::new(move |n, request, stream| {
        let from = request.split_once("bytes=").and_then(|(_, rest)| rest.split_once("-\n"));
        let from: usize = from.map_or(0, |(from, _)| from.parse().unwrap());
        let end = if n < breaks { (from + 3000).min(10_000) } else { 10_000 };
        let head = if from == 0 { head.to_owned() } else { resumed.replace("FROM", &from.to_string()) };
        let _ = stream.write_all(format!("{head}\r\n\r\n{}", &image[from..end]).as_bytes());
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn takes_a_broken_stream_up_again_where_that_is_safe() {
    const TAGGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nETag: \"v1\"";
    const DATED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nDate: Mon, 02 Nov 2026 10:00:00 GMT\r\n\
                         Last-Modified: Sun, 01 Nov 2026 10:00:00 GMT";
    const REST: &str = "HTTP/1.1 206 Partial\r\nContent-Range: bytes FROM-9999/10000";
    for (breaks, head, resumed, expected) in [
        (0, TAGGED, REST, None),
        (1, TAGGED, REST, None),
        (3, TAGGED, REST, None),
        (1, DATED, REST, None),
        (
            9,
            TAGGED,
            "HTTP/1.1 503 No",
            Some(
                "given up after 3000 bytes and 4 tries to resume: \
                 URL answers 503 (it is busy: try again later)",
            ),
        ),
        (
            1,
            TAGGED,
            "HTTP/1.1 200 OK",
            Some(
                "not resumed after 3000 bytes: the image changed while it was read, or the \
                 server does not support ranges",
            ),
        ),
        (1, TAGGED, "HTTP/1.1 206 Partial", Some("the server resumes at another place than asked")),
        (
            1,
            TAGGED,
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9999/10000",
            Some("the server resumes at another place than asked"),
        ),
        (
            1,
            TAGGED,
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes FROM-9999/10001",
            Some("the image has another size than before"),
        ),
        (
            1,
            TAGGED,
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes FROM-9999/10000\r\nETag: \"v2\"",
            Some("the image changed while it was read"),
        ),
        (
            1,
            TAGGED,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */3000",
            Some("the server had announced 10000 bytes, but it has only 3000"),
        ),
        (
            1,
            "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nETag: W/\"v1\"",
            REST,
            Some("not resumed: the server gives no strong ETag"),
        ),
        (
            1,
            "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nDate: Sun, 01 Nov 2026 10:00:00 GMT\r\n\
             Last-Modified: Sun, 01 Nov 2026 10:00:00 GMT",
            REST,
            Some("not resumed: the server gives no strong ETag"),
        ),
    ] {
        let double = breaking(breaks, head, resumed);
        let url = double.url("/x");
        match (fetch("", &url, &impatient()), expected) {
            (Ok((size, text)), None) => assert_eq!((size, text.len()), (Some(10_000), 10_000)),
            (Err(why), Some(expected)) => assert!(why.starts_with(&expected.replace("URL", &url)), "{why}"),
            (found, _) => panic!("{resumed}: {found:?}"),
        }
        let validator = if head == DATED { "Sun, 01 Nov 2026 10:00:00 GMT" } else { "\"v1\"" };
        for head in &double.heads()[1..] {
            assert!(head.contains(&format!("If-Range: {validator}\n")), "{head}");
        }
    }
}

#[test]
fn ends_in_time_whatever_the_server_does() {
    let silent_at_once = Double::new(|_, _, _| thread::sleep(Duration::from_secs(5)));
    let silent_later = Double::new(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nimage");
        thread::sleep(Duration::from_secs(5));
    });
    let endless_head = Double::new(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").is_ok()
        {
        }
    });
    for (double, expected) in [
        (&silent_at_once, "no answer: nothing came for 0.5 s"),
        (&silent_later, "nothing came for 0.5 s (after 5 bytes)"),
        (&endless_head, "the head of the answer is too long"),
    ] {
        let start = Instant::now();
        let why = fetch("", &double.url("/x"), &impatient()).unwrap_err();
        assert!(why.ends_with(expected), "{why}");
        assert!(start.elapsed() < Duration::from_secs(2), "{expected}: {:?}", start.elapsed());
    }
    let why = fetch("", "http://127.0.0.1:1/x", &impatient()).unwrap_err();
    assert!(why.starts_with("cannot connect to 127.0.0.1 port 1: Connection refused"), "{why}");
    let why = fetch("", "http://no-such-host.invalid/x", &impatient()).unwrap_err();
    assert!(why.starts_with("cannot connect to no-such-host.invalid port 80: "), "{why}");
}

#[test]
fn says_which_encoding_a_server_claims() {
    for (header, expected) in
        [("", None), ("Content-Encoding: identity\r\n", None), ("Content-Encoding: gzip\r\n", Some("gzip"))]
    {
        let double = Double::new(move |_, _, stream| {
            let _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 5\r\n\r\nimage").as_bytes());
        });
        let opened = source("", &double.url("/x"), &impatient()).ok().unwrap().open().unwrap();
        assert_eq!(opened.encoding.as_deref(), expected);
    }
}

#[test]
fn a_server_that_is_too_slow_is_not_asked_again() {
    let drip = Double::new(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: \"v1\"\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let least = Least { bytes: 1000, within: Duration::from_millis(400) };
    let start = Instant::now();
    let why = fetch("", &drip.url("/x"), &Waits { least, ..impatient() }).unwrap_err();
    assert!(why.starts_with("the server is too slow: ") && why.ends_with(" bytes in 0 s"), "{why}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(drip.heads().len(), 1);
}

#[test]
fn an_interrupt_ends_every_wait() {
    let double = Double::new(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: \"v1\"\r\n\r\nimage");
        thread::sleep(Duration::from_secs(20));
    });
    let waits = Waits { silence: Duration::from_secs(30), ..impatient() };
    let interrupt = waits.interrupt.clone();
    let raiser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        interrupt.raise(signal_hook::consts::SIGTERM);
        Instant::now()
    });
    let why = fetch("", &double.url("/x"), &waits).unwrap_err();
    let late = raiser.join().unwrap().elapsed();
    assert_eq!(why, "interrupted");
    assert!(late < Duration::from_secs(1), "{late:?}");
}

#[test]
fn follows_a_few_redirects_and_keeps_credentials_to_their_server() {
    let other = Double::says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage");
    let there = other.url("/there?token=s3cret");
    let first = Double::new(move |n, request, stream| {
        let to = match n {
            _ if request.starts_with("GET /loop ") => "loop?".to_owned(),
            _ if request.starts_with("GET /loop? ") => "loop".to_owned(),
            _ if request.starts_with("GET /far") => format!("/far{n}"),
            0 => "/second".to_owned(),
            _ => there.clone(),
        };
        let _ = stream.write_all(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n").as_bytes());
    });
    let url = first.url("/x").replace("http://", "http://u:p%40w@");
    assert_eq!(fetch("", &url, &impatient()), Ok((Some(5), "image".into())));
    for head in first.heads() {
        assert!(head.contains("\nAuthorization: Basic dTpwQHc=\n"), "{head}");
    }
    assert!(other.heads()[0].starts_with("GET /there?token=s3cret HTTP/1.1\n"), "{:?}", other.heads());
    assert!(!other.heads()[0].contains("Authorization"), "{:?}", other.heads());
    let why = fetch("", &first.url("/loop"), &impatient()).unwrap_err();
    assert_eq!(why, format!("it redirects in a loop, to {}", first.url("/loop")));
    let why = fetch("", &first.url("/far"), &impatient()).unwrap_err();
    assert!(why.starts_with("more than 5 redirects, now to"), "{why}");
}

#[test]
fn asks_proxies_for_what_they_are_set_for() {
    let proxy = Double::new(|_, request, stream| {
        let answer = if request.starts_with("CONNECT ") {
            "HTTP/1.1 403 No\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let place = format!("u:s3cret@127.0.0.1:{}", proxy.port);
    let config = format!("[glance_store]\nhttp_proxy_information = http:{place}, https:http://{place}\n");
    assert_eq!(fetch(&config, "http://h.example:8080/x?y", &impatient()), Ok((Some(5), "image".into())));
    let why = fetch(&config, "https://h.example/x", &impatient()).unwrap_err();
    assert_eq!(why, format!("through the proxy 127.0.0.1:{}: it answers 403 to CONNECT", proxy.port));
    let heads = proxy.heads();
    assert!(
        heads[0].starts_with("GET http://h.example:8080/x?y HTTP/1.1\nHost: h.example:8080\n"),
        "{heads:?}"
    );
    assert!(heads[1].starts_with("CONNECT h.example:443 HTTP/1.1\n"), "{heads:?}");
    assert!(
        heads.iter().all(|head| head.contains("\nProxy-Authorization: Basic dTpzM2NyZXQ=\n")),
        "{heads:?}"
    );
    let error = stores("[glance_store]\nhttp_proxy_information = http:socks5://u:s3cret@h\n", &impatient())
        .err()
        .unwrap();
    assert!(
        error.to_string().ends_with(
            "glance-api.conf:2: http_proxy_information: the proxy for http is not an http proxy (host:port)"
        ),
        "{error}"
    );
}

const SEVERAL: &str = "\
[DEFAULT]
enabled_backends = slow:file, fast:file, web:http, ceph:rbd, ceph2:rbd, objects:s3, old:swift
metadata_encryption_key = kkkkkkkkkkkkkkkk
[backend_defaults]
weight = 5
rbd_store_pool = shared
[slow]
weight = 1
filesystem_store_datadir = /slow
[fast]
weight = 10
filesystem_store_datadirs = /fast/1:200
filesystem_store_datadirs = /fast/2
[ceph]
weight = 20
rbd_store_pool = images
[objects]
weight = 0
s3_store_host = http://s3.example:7480
s3_store_bucket = glance
s3_store_access_key = AK
s3_store_secret_key = s3cret
";

#[test]
fn orders_by_weight_and_chooses_the_store() {
    let stores = stores(SEVERAL, &impatient()).unwrap();
    for (locations, expected) in [
        (
            &[("file:///slow/a", Some("slow")), ("file:///fast/2/a", Some("fast"))][..],
            &["file:///fast/2/a", "file:///slow/a"][..],
        ),
        (
            &[("file:///slow/a", None), ("rbd://f/images/i/s", Some("ceph"))],
            &["rbd://f/images/i/s", "file:///slow/a"],
        ),
        (&[("http://u:s3cret@h/1", Some("web")), ("http://h/2", Some("web"))], &["http://h/1", "http://h/2"]),
        // By the beginning of the URL, else all of the type.
        (&[("rbd://f/shared/i/s", None)], &["rbd://f/shared/i/s"]),
        (&[("rbd://f/other/i/s", None)], &["rbd://f/other/i/s", "rbd://f/other/i/s"]),
        (&[("rbd://f/other/i/s", Some("gone"))], &["rbd://f/other/i/s", "rbd://f/other/i/s"]),
        (&[("rbd://f/images/i/s", Some("slow"))], &["rbd://f/images/i/s"]),
        (&[("file:///etc/shadow", None)], &["file:///etc/shadow"]),
        (&[("s3://AK:s3cret@s3.example:7480/glance/ID", None)], &["s3://s3.example:7480/glance/ID"]),
        (&[("AAECAwQFBgcICQoLDA0OD1jPEfsuC2AAss0cnAd4_TU=", Some("fast"))], &["file:///x"]),
        (
            &[("not-sealed-by-that-key", Some("fast")), ("swift+https://t:u:s3cret@h/v1/c/o", Some("old"))],
            &[
                "a location that is not shown: it is not a URL of a store that Glance has, and \
                 metadata_encryption_key",
                "swift+https://h/v1/c/o",
            ],
        ),
        (
            &[("cinder://x/y", None)],
            &["cinder://x/y: a store of the type cinder is read through Glance's API only"],
        ),
        (&[("ftp://u:s3cret@h/x", None)], &["ftp://...: it is not a URL of a store that Glance has"]),
        (
            &[("rbd://f/a%2Fb/i/s", Some("ceph"))],
            &["rbd://f/a%2Fb/i/s: one of its names is not a valid name of Ceph's"],
        ),
        (&[], &[]),
    ] {
        let rows: Vec<_> = locations.iter().map(|(value, store)| location(value, *store)).collect();
        let found: Vec<_> = stores
            .sources(image(), &rows)
            .into_iter()
            .map(|source| match source {
                Ok(source) => source.shown().to_owned(),
                Err(refused) => refused.to_string(),
            })
            .collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected) && !found.contains("s3cret"), "{found}, not {expected}");
        }
    }
}

#[test]
fn one_store_of_each_type_is_what_stores_enables() {
    for (config, url, expected) in [
        ("", "file:///var/lib/glance/images/x", "file:///var/lib/glance/images/x"),
        ("", "http://h/x", "http://h/x"),
        ("", "rbd://x", "rbd://x: the store type rbd is not enabled: add it to stores in [glance_store]"),
        ("[glance_store]\nstores = file, rbd\n", "rbd://x", "rbd://x"),
        (
            "[glance_store]\nstores = swift\n",
            "swift://h/c/o",
            "swift://h/c/o: it has no credentials, as in a store with swift_store_multi_tenant",
        ),
        (
            "[glance_store]\nstores = s3\n",
            "s3://h/b/k",
            "s3://h/b/k: there are no keys for it: set s3_store_access_key",
        ),
        ("[glance_store]\nstores = glance.store.rbd.Store\n", "rbd://x", "rbd://x"),
        ("[glance_store]\nstores = s3\n", "s3://AK:s3cret@h/b/k", "s3://h/b/k"),
        (
            "",
            "c2VhbGVk",
            "a location that is not shown: it is not a URL of a store that Glance has, or it is encrypted",
        ),
    ] {
        let found = match source(config, url, &impatient()) {
            Ok(source) => source.shown().to_owned(),
            Err(refused) => refused.to_string(),
        };
        assert!(found.starts_with(expected), "{found}, not {expected}");
    }
}

#[test]
fn bad_settings_are_named_with_their_place() {
    for (config, expected) in [
        (
            "[DEFAULT]\nenabled_backends = file\n",
            "glance-api.conf:2: enabled_backends is \"file\", but must be name:value pairs",
        ),
        (
            "[DEFAULT]\nmetadata_encryption_key = s3cret\n",
            "glance-api.conf:2: metadata_encryption_key is not a key: it has 6 bytes, but a key has 16, 24 \
             or 32",
        ),
        (
            "[DEFAULT]\nenabled_backends = a:file\n[a]\nweight = much\n",
            "glance-api.conf:4: [a] weight is \"much\", but must be a whole number",
        ),
        (
            "[DEFAULT]\nenabled_backends = a:http\n[backend_defaults]\nhttps_insecure = maybe\n",
            "glance-api.conf:4: [backend_defaults] https_insecure is \"maybe\", but must be true or false",
        ),
    ] {
        let error = format!("{:#}", stores(config, &impatient()).err().unwrap());
        assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn only_an_explicit_setting_switches_verification_off() {
    for (settings, warned) in [
        ("", false),
        ("https_insecure = False", false),
        ("https_insecure = True", true),
        ("https_insecure = True\nhttps_ca_certificates_file = /ca", false),
    ] {
        let source =
            source(&format!("[glance_store]\n{settings}\n"), "https://h/x", &impatient()).ok().unwrap();
        assert_eq!(
            source.warning().is_some_and(|text| text.contains("glance-api.conf:2: https_insecure")),
            warned
        );
    }
}
