//! What a location's URL means, by the grammar of Glance's store drivers.
//!
//! Pure. Accepts what those drivers accept as far as something can be read from it, and takes it apart into the same
//! parts. Refuses what they let pass and no request can be made of: control characters, a host that is none, a port beyond 65535, a
//! second `@`, an empty bucket, a name that is not UTF-8 once its percent codes are replaced. [`shown`] is the one way to
//! show a location: without credentials, query and fragment.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::names::escaped;
use crate::net::http::Credentials;

/// The schemes of the stores that Glance has, and the type of store each is read by.
const SCHEMES: [(&str, &str); 14] = [
    ("file", "file"),
    ("filesystem", "file"),
    ("http", "http"),
    ("https", "http"),
    ("rbd", "rbd"),
    ("s3", "s3"),
    ("s3+http", "s3"),
    ("s3+https", "s3"),
    ("swift", "swift"),
    ("swift+http", "swift"),
    ("swift+https", "swift"),
    ("swift+config", "swift"),
    ("cinder", "cinder"),
    ("vsphere", "vmware"),
];

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// As written, whitespace around it left out.
    File(PathBuf),
    Http {
        /// Without credentials and fragment.
        url: Url,
        /// As written, not decoded.
        credentials: Option<Credentials>,
    },
    S3(Object),
    Rbd(RbdImage),
    /// In a store of a type that is not read here.
    Elsewhere,
}

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) scheme: String,
    pub(super) credentials: Option<Credentials>,
    /// Host, perhaps port and path.
    pub(super) service: String,
    pub(super) bucket: String,
    pub(super) key: String,
}

/// An RBD image or a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RbdImage {
    /// Without it, the store's.
    pub(super) pool: Option<String>,
    pub(super) image: String,
    pub(super) snapshot: Option<String>,
}

/// Returns the type of store for a URL, or `None` when it is no URL of a scheme that Glance has.
pub(super) fn store_type(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    SCHEMES.iter().find(|(name, _)| *name == scheme).map(|(_, kind)| *kind)
}

/// Shows a URL without anything that may be secret; what is no URL of a known form is not shown at all.
pub(super) fn shown(url: &str) -> String {
    const HIDDEN: &str = "a location that is not shown";
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b)) {
        return HIDDEN.to_owned();
    }
    // A secret may hold any of `/?#:`, so that nothing before the last @ is certain to be none.
    let rest = match (store_type(url), rest.rsplit_once('@')) {
        (None, _) => "...",
        (Some("file" | "rbd"), _) | (_, None) => rest,
        (Some("http"), Some((before, _))) if before.contains('/') => return shown_host(url),
        (_, Some((_, rest))) => rest,
    };
    let rest = rest.find(['?', '#']).map_or(rest, |end| &rest[..end]);
    escaped(format!("{scheme}://{rest}").as_bytes())
}

/// Shows a URL that has an @ behind its first slash, which may be in its path or in a password.
fn shown_host(url: &str) -> String {
    match parse(url) {
        Ok(Place::Http { url, .. }) => format!("{}/...", url.origin().ascii_serialization()),
        _ => format!("{}://...", url.split_once(':').unwrap_or_default().0),
    }
}

/// Takes a URL apart.
pub(super) fn parse(url: &str) -> Result<Place> {
    let kind = store_type(url).context("its scheme is none of a store that Glance has")?;
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    ensure!(!rest.contains(char::is_control), "it holds control characters");
    match kind {
        "file" => file(rest),
        "http" => http(scheme, rest),
        "s3" => s3(scheme, rest),
        "rbd" => rbd(rest),
        _ => Ok(Place::Elsewhere),
    }
}

/// Host and path together, and the query.
fn split(rest: &str) -> (&str, Option<&str>) {
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)))
}

fn file(rest: &str) -> Result<Place> {
    let path = split(rest).0.trim();
    ensure!(!path.is_empty(), "it names no file");
    Ok(Place::File(path.into()))
}

fn http(scheme: &str, rest: &str) -> Result<Place> {
    let (place, query) = split(rest);
    let (authority, path) = place.find('/').map_or((place, ""), |slash| place.split_at(slash));
    let (credentials, host) = match authority.split_once('@') {
        None => (None, authority),
        Some((credentials, host)) => (Some(credentials), host),
    };
    ensure!(!host.is_empty() && !host.contains(['\\', '%', ' ']), "its host or port is none");
    ensure!(!host.contains('@'), "it has more than one @ before its host: write one in a password as %40");
    let credentials = match credentials.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let (user, password) = text.split_once(':').context("its credentials are not user:password")?;
            ensure!(
                !password.contains(':'),
                "its credentials are not user:password: write a : in one as %3A"
            );
            Some((user.to_owned(), password.to_owned())).filter(|_| !user.is_empty())
        }
    };
    // As Python's urlparse does, and so Glance: parameters of the last segment are left out.
    let last = path.rfind('/').unwrap_or_default();
    let path = path[last..].find(';').map_or(path, |end| &path[..last + end]);
    let query =
        query.filter(|query| !query.is_empty()).map_or(String::new(), |query| format!("?{}", coded(query)));
    // Its own message could repeat parts of the URL.
    let url = Url::parse(&format!("{scheme}://{host}{}{query}", coded(path))).ok();
    Ok(Place::Http { url: url.context("its host or port is none")?, credentials })
}

/// Codes what the URL's parser would drop, turn or pass on, as Glance's client does: where one % begins no code, none does.
fn coded(text: &str) -> String {
    let is_code = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let text = if text.split('%').skip(1).all(is_code) { text.to_owned() } else { text.replace('%', "%25") };
    text.replace(' ', "%20").replace('\\', "%5C")
}

fn s3(scheme: &str, rest: &str) -> Result<Place> {
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
            Ok(Place::S3(Object {
                scheme: scheme.to_owned(),
                credentials,
                service: service.to_owned(),
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            }))
        }
        _ => bail!("it is not HOST/BUCKET/KEY"),
    }
}

fn rbd(rest: &str) -> Result<Place> {
    let parts: Vec<&str> = rest.split('/').collect();
    ensure!(!parts.contains(&""), "one of its parts is empty");
    let decoded = |text: &str| -> Result<String> {
        let text = percent_decode_str(text).decode_utf8();
        Ok(text.context("one of its names is not UTF-8 once its percent codes are replaced")?.into_owned())
    };
    match parts[..] {
        [image] => Ok(Place::Rbd(RbdImage { pool: None, image: image.to_owned(), snapshot: None })),
        // The fsid does not choose the cluster, the store does.
        [_, pool, image, snapshot] => Ok(Place::Rbd(RbdImage {
            pool: Some(decoded(pool)?),
            image: decoded(image)?,
            snapshot: Some(decoded(snapshot)?),
        })),
        _ => bail!("it is neither IMAGE nor FSID/POOL/IMAGE/SNAPSHOT"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use serde_json::{Value, json};

    use super::*;
    use crate::net::http::basic;
    use crate::source::sealed;

    /// The parts on one line, or the refusal.
    fn parts(url: &str) -> String {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let secret = |c: &Option<Credentials>| c.as_ref().map_or("-".into(), |(a, b)| format!("{a} {b}"));
        match parse(url) {
            Err(error) => format!("refused: {error:#}"),
            Ok(Place::File(path)) => format!("file {}", path.display()),
            Ok(Place::Http { url, credentials }) => format!("{url} {}", secret(&credentials)),
            Ok(Place::S3(s3)) => {
                format!("{} {} {} {}", s3.service, s3.bucket, s3.key, secret(&s3.credentials))
            }
            Ok(Place::Rbd(rbd)) => format!("{} {} {}", or(&rbd.pool), rbd.image, or(&rbd.snapshot)),
            Ok(Place::Elsewhere) => "elsewhere".into(),
        }
    }

    #[test]
    fn takes_urls_apart() {
        for (url, expected) in [
            ("file:///var/lib/glance/images/x", "file /var/lib/glance/images/x"),
            ("filesystem:///x", "file /x"),
            ("file://relative/x", "file relative/x"),
            ("file:///a%20b;c?q#f", "file /a%20b;c"),
            ("file:// /x ", "file /x"),
            ("file://", "refused: it names no file"),
            ("file:///x\n", "refused: it holds control characters"),
            ("http://h/x", "http://h/x -"),
            ("https://h:8443", "https://h:8443/ -"),
            ("http://u:p@h:80/a/b?q=1#f", "http://h/a/b?q=1 u p"),
            ("http://u:p%40q@[::1]:8080/x", "http://[::1]:8080/x u p%40q"),
            ("http://h/a;b/c;d?q", "http://h/a;b/c?q -"),
            ("http://h/a b\u{e9}", "http://h/a%20b%C3%A9 -"),
            ("http://h/a@b", "http://h/a@b -"),
            ("http://h/a\\b", "http://h/a%5Cb -"),
            ("http://h/a%20b%zz ?%20 ", "http://h/a%2520b%25zz%20?%20%20 -"),
            ("http://h%41/a", "refused: its host or port is none"),
            ("http://h\\b/a", "refused: its host or port is none"),
            ("http://@h/x", "http://h/x -"),
            ("http://:p@h/x", "http://h/x -"),
            ("http://u@h/x", "refused: its credentials are not user:password"),
            ("http://u:p:q@h/x", "refused: its credentials are not user:password: write a : in one as %3A"),
            (
                "http://u:p@q@h/x",
                "refused: it has more than one @ before its host: write one in a password as %40",
            ),
            ("http:///x", "refused: its host or port is none"),
            ("http://:80/x", "refused: its host or port is none"),
            ("http://h:x/", "refused: its host or port is none"),
            ("http://h:70000/", "refused: its host or port is none"),
            ("s3://h:7480/glance/ID", "h:7480 glance ID -"),
            ("s3+https://AK:SE/C:RET+=@h/p/glance/ID?x#y", "h/p glance ID AK SE/C:RET+="),
            ("s3+http:///h/b/k/", "h b k -"),
            ("s3://a:b@/h/b/k", "refused: it is not HOST/BUCKET/KEY"),
            ("s3://b/k", "refused: it is not HOST/BUCKET/KEY"),
            ("s3://h//k", "refused: it is not HOST/BUCKET/KEY"),
            ("s3://AK@h/b/k", "refused: its credentials are not access:secret"),
            ("s3://a:b@c@h/b/k", "refused: it has more than one @"),
            (
                "s3://https://h/b/k",
                "refused: it has two schemes: write s3+https://HOST for s3://https://HOST",
            ),
            ("rbd://image", "- image -"),
            ("rbd://a%20b", "- a%20b -"),
            ("rbd://fsid/pool/image/snap", "pool image snap"),
            ("rbd://f/p%2Fq/-i%40j/s%20t", "p/q -i@j s t"),
            (
                "rbd://f/p/i/%ff",
                "refused: one of its names is not UTF-8 once its percent codes are replaced: invalid utf-8 sequence of 1 bytes from index 0",
            ),
            ("rbd://pool/image", "refused: it is neither IMAGE nor FSID/POOL/IMAGE/SNAPSHOT"),
            ("rbd://f//i/s", "refused: one of its parts is empty"),
            ("rbd://", "refused: one of its parts is empty"),
            ("swift+config://ref1/glance/ID", "elsewhere"),
            ("swift://a:b:c@h/v1/glance/ID", "elsewhere"),
            ("cinder://store/volume", "elsewhere"),
            ("vsphere://h/folder/x?dcPath=d&dsName=e", "elsewhere"),
            ("ftp://h/x", "refused: its scheme is none of a store that Glance has"),
            ("FILE:///x", "refused: its scheme is none of a store that Glance has"),
            (" file:///x", "refused: its scheme is none of a store that Glance has"),
            ("", "refused: its scheme is none of a store that Glance has"),
        ] {
            assert_eq!(parts(url), expected, "{url}");
        }
    }

    #[test]
    fn shows_nothing_secret() {
        for (url, expected) in [
            ("http://u:s3cret@h/x?token=s3cret#s3cret", "http://h/x"),
            ("http://u:s3cret@q@h/x", "http://h/x"),
            ("http://u:s3/cret?s3#cret@h/x", "http://..."),
            ("http://h/a@b", "http://h/..."),
            ("https://u:s3cret@h:81/a@b", "https://h:81/..."),
            ("s3://AK:s3/cr?et@h/b/k", "s3://h/b/k"),
            ("swift+https://t:u:s3cret@h/v1/c/o", "swift+https://h/v1/c/o"),
            ("file:///a@b/x", "file:///a@b/x"),
            ("file:///x\u{1b}[2J", "file:///x\\u{1b}[2J"),
            ("rbd://f/p/i/s", "rbd://f/p/i/s"),
            ("ftp://u:s3cret@h/x", "ftp://..."),
            ("s3cret ftp://h", "a location that is not shown"),
            ("czNjcmV0", "a location that is not shown"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    /// The parts as `tests/peer/python/locations.py` names them.
    fn ours(url: &str) -> Result<Value> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Ok(match parse(url)? {
            Place::File(path) => json!([path]),
            Place::Http { url, credentials } => {
                let target = decoded(&url[url::Position::BeforePath..]);
                let host = url.host_str().map(|host| host.trim_matches(['[', ']']));
                json!([url.scheme(), host, url.port(), target, credentials.as_ref().map(basic)])
            }
            Place::S3(s3) => {
                let keys =
                    s3.credentials.map_or(String::new(), |(access, secret)| format!("{access}:{secret}@"));
                json!([s3.scheme, keys + &s3.service, s3.bucket, s3.key])
            }
            Place::Rbd(rbd) => json!([rbd.pool, rbd.image, rbd.snapshot]),
            Place::Elsewhere => json!(null),
        })
    }

    /// Why only one of the two refuses, where that is meant so.
    fn on_purpose(url: &str, ours: &Result<Value>, theirs: &Value) -> Option<&'static str> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let why = ours.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let brackets = authority.contains(['[', ']']);
        match scheme {
            _ if why == "it holds control characters" => Some("control characters"),
            // Python's parser takes them for an address, wherever they stand before the first slash.
            _ if ours.is_ok() && brackets => Some("brackets"),
            "http" | "https" => match (why.as_str(), theirs["refused"].as_str().unwrap_or_default()) {
                ("", theirs) if theirs.contains("label") => Some("a host that only we try"),
                ("its host or port is none", _) => Some("a host that no request can be made to"),
                (why, _) if why.starts_with("it has more than one @") => Some("a second @ before the host"),
                _ => None,
            },
            "rbd" if why.starts_with("one of its names is not UTF-8") => Some("not UTF-8"),
            "s3" | "s3+http" | "s3+https" if why == "it is not HOST/BUCKET/KEY" => {
                Some("an empty host or bucket")
            }
            "s3" | "s3+http" | "s3+https" if why.contains('@') || why.contains("credentials") => {
                Some("credentials that are none")
            }
            _ => None,
        }
    }

    /// URLs put together from what they are made of, and from what they should not be.
    fn urls() -> Vec<String> {
        const SCHEMES: [&str; 8] =
            ["file", "filesystem", "http", "https", "rbd", "s3", "s3+http", "s3+https"];
        const PIECES: [&str; 44] = [
            "/",
            "/",
            "/",
            "/",
            "@",
            ":",
            "://",
            "?",
            "#",
            ";",
            "%",
            "%20",
            "%2F",
            "%40",
            "%ff",
            "%C3%A9",
            "a",
            "images",
            "host",
            "h.example",
            "127.0.0.1",
            "[::1]",
            "[",
            "]",
            ":80",
            ":443",
            ":8080",
            ":99999",
            ":x",
            "user:pass@",
            "AK:s3/cr+et=@",
            "u:p:q@",
            "u@",
            " ",
            "\u{e9}",
            "\t",
            "\u{1}",
            "..",
            ".",
            "+",
            "&x=y",
            "~",
            "snap",
            "*",
        ];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        let mut urls = Vec::new();
        for n in 0..20_000 {
            let mut url = format!("{}://", SCHEMES[n % SCHEMES.len()]);
            // Half of them begin as they should.
            if n % 16 < 8 {
                url += ["", "user:p%40ss@", "AK:s3/cr+et=@"][below(3)];
                url += ["h.example", "h:8080", "[::1]:80", "fsid", ""][below(5)];
                url += ["/images", "/a/b/c", "/glance/ID", ""][below(4)];
            }
            for _ in 0..below(8) {
                url += PIECES[below(PIECES.len())];
            }
            // A dot behind an address goes unsaid.
            urls.push(url.replace("127.0.0.1.", "127.0.0.1"));
        }
        urls
    }

    /// Every URL is the same place to us and to the drivers of the Python named by `GLANCE_CACHE_TEST_PYTHON`, or both refuse
    /// it; what differs on purpose is named. Every location that Glance seals is opened.
    #[test]
    #[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    fn agrees_with_the_real_drivers() {
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let mut peer = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/locations.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut questions = peer.stdin.take().unwrap();
        let mut answers = BufReader::new(peer.stdout.take().unwrap()).lines();
        let mut ask = |question: Value| -> Value {
            writeln!(questions, "{question}").unwrap();
            serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
        };
        let (mut same, mut both_refuse, mut different) = (0, 0, 0);
        let mut purposes = BTreeMap::<_, usize>::new();
        for url in urls() {
            let (ours, theirs) = (ours(&url), ask(json!({ "url": url })));
            match (&ours, theirs["refused"].is_string()) {
                (Err(_), true) => both_refuse += 1,
                // Theirs has the hexadecimal digits of codes in capitals.
                (Ok(ours), false) if ours.to_string().eq_ignore_ascii_case(&theirs["parts"].to_string()) => {
                    same += 1;
                }
                _ => match on_purpose(&url, &ours, &theirs)
                    .filter(|_| ours.is_err() == theirs["refused"].is_null())
                {
                    Some(purpose) => *purposes.entry(purpose).or_default() += 1,
                    None => {
                        different += 1;
                        println!("{url:?}\n   ours {ours:?}\n theirs {theirs}");
                    }
                },
            }
        }
        for (n, url) in urls().into_iter().take(300).enumerate() {
            let key =
                "0123456789abcd\u{e9}fghijklmnopqrstuv".chars().take([15, 23, 31][n % 3]).collect::<String>();
            let sealed = ask(json!({ "key": key, "seal": url }));
            assert_eq!(sealed::open(&key, sealed["sealed"].as_str().unwrap()).unwrap(), url);
        }
        drop(questions);
        peer.wait().unwrap();
        println!(
            "{same} the same, {both_refuse} refused by both, on purpose {purposes:?}, {different} different"
        );
        assert_eq!(different, 0);
    }
}
