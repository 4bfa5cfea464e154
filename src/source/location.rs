//! Locations as text: how they are taken apart, and the one way to show them.
//!
//! Pure. Each store's file has the grammar of its own locations, which follows Glance's driver: it accepts
//! what the driver accepts as far as something can be read from it, and takes it apart into the same parts.
//! It refuses what the driver lets pass and no request can be made of: control characters, a missing host, a
//! port beyond 65535, a second `@`, an empty bucket, a name that is not UTF-8 once its percent codes are
//! replaced.

use anyhow::{Context as _, Result, ensure};
use url::Url;

use crate::names::escaped;
use crate::net::http::Credentials;

/// The types of stores that Glance has, each with the schemes of its locations.
const SCHEMES: [(&str, &[&str]); 7] = [
    ("file", &["file", "filesystem"]),
    ("http", &["http", "https"]),
    ("rbd", &["rbd"]),
    ("s3", &["s3", "s3+http", "s3+https"]),
    ("swift", &["swift", "swift+http", "swift+https", "swift+config"]),
    ("cinder", &["cinder"]),
    ("vmware", &["vsphere"]),
];

/// Returns a URL as it may be shown: without credentials, query and fragment. A URL of no known form is not
/// shown at all.
pub(super) fn shown(url: &str) -> String {
    const HIDDEN: &str = "a location that is not shown";
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b)) {
        return HIDDEN.to_owned();
    }
    // A secret may hold any of `/?#:`, so that everything before the last @ may be part of one.
    let rest = match (store_type(url), rest.rsplit_once('@')) {
        (None, _) => "...",
        (Some("file" | "rbd"), _) | (_, None) => rest,
        (Some("http"), Some((before, _))) if before.contains('/') => return shown_host(url),
        (_, Some((_, rest))) => rest,
    };
    let rest = rest.find(['?', '#']).map_or(rest, |end| &rest[..end]);
    escaped(format!("{scheme}://{rest}").as_bytes())
}

/// Shows a URL that has an @ behind its first slash, where it may be part of the path or of a password.
fn shown_host(url: &str) -> String {
    match parse(url) {
        Ok((url, _)) => format!("{}/...", url.origin().ascii_serialization()),
        Err(_) => format!("{}://...", url.split_once(':').unwrap_or_default().0),
    }
}

/// Returns the scheme of a URL, and what follows it.
pub(super) fn scheme(url: &str) -> Result<(&str, &str)> {
    let (scheme, rest) = url.split_once("://").context("it is not a URL")?;
    ensure!(!rest.contains(char::is_control), "it contains control characters");
    Ok((scheme, rest))
}

/// Splits what follows the scheme into host and path together, and the query.
pub(super) fn split(rest: &str) -> (&str, Option<&str>) {
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)))
}

/// Returns the type of store for a URL, or `None` if it is not a URL of a scheme that Glance has.
pub(super) fn store_type(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    SCHEMES.iter().find(|(_, schemes)| schemes.contains(&scheme)).map(|(name, _)| *name)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use serde_json::{Value, json};

    use anyhow::{anyhow, bail};
    use percent_encoding::percent_decode_str;

    use super::*;
    use crate::net::http::{Credentials, basic};
    use crate::openstack::secret::Secret;
    use crate::source::swift_place::{self, SwiftPlace};
    use crate::source::{file, rbd, s3, sealed};

    /// The parts on one line, or the refusal.
    fn parts(url: &str) -> String {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let secret = |c: &Option<Credentials>| c.as_ref().map_or("-".into(), |(a, b)| format!("{a} {b}"));
        let found = match store_type(url) {
            None => Err(anyhow!("unknown scheme")),
            Some("file") => file::parse(url).map(|path| format!("file {}", path.display())),
            Some("http") => parse(url).map(|(url, credentials)| format!("{url} {}", secret(&credentials))),
            Some("s3") => s3::parse(url)
                .map(|s3| format!("{} {} {} {}", s3.service, s3.bucket, s3.key, secret(&s3.credentials))),
            Some("rbd") => {
                rbd::parse(url).map(|rbd| format!("{} {} {}", or(&rbd.pool), rbd.image, or(&rbd.snapshot)))
            }
            Some(_) => Ok("elsewhere".into()),
        };
        found.unwrap_or_else(|error| format!("refused: {error:#}"))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn takes_urls_apart() {
        for (url, expected) in [
            ("file:///var/lib/glance/images/x", "file /var/lib/glance/images/x"),
            ("filesystem:///x", "file /x"),
            ("file://relative/x", "file relative/x"),
            ("file:///a%20b;c?q#f", "file /a%20b;c"),
            ("file:// /x ", "file /x"),
            ("file://", "refused: it names no file"),
            ("file:///x\n", "refused: it contains control characters"),
            ("http://h/x", "http://h/x -"),
            ("https://h:8443", "https://h:8443/ -"),
            ("http://u:p@h:80/a/b?q=1#f", "http://h/a/b?q=1 u p"),
            ("http://u:p%40q@[::1]:8080/x", "http://[::1]:8080/x u p%40q"),
            ("http://h/a;b/c;d?q", "http://h/a;b/c?q -"),
            ("http://h/a b\u{e9}", "http://h/a%20b%C3%A9 -"),
            ("http://h/a@b", "http://h/a@b -"),
            ("http://h/a\\b", "http://h/a%5Cb -"),
            ("http://h/a%20b%zz ?%20 ", "http://h/a%2520b%25zz%20?%20%20 -"),
            ("http://h%41/a", "refused: its host or port is invalid"),
            ("http://h\\b/a", "refused: its host or port is invalid"),
            ("http://@h/x", "http://h/x -"),
            ("http://:p@h/x", "http://h/x -"),
            ("http://u@h/x", "refused: its credentials are not user:password"),
            ("http://u:p:q@h/x", "refused: its credentials are not user:password: write a : in one as %3A"),
            (
                "http://u:p@q@h/x",
                "refused: it has more than one @ before its host: write one in a password as %40",
            ),
            ("http:///x", "refused: its host or port is invalid"),
            ("http://:80/x", "refused: its host or port is invalid"),
            ("http://h:x/", "refused: its host or port is invalid"),
            ("http://h:70000/", "refused: its host or port is invalid"),
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
                "refused: one of its names is not UTF-8 once its percent codes are replaced: invalid utf-8 \
                 sequence of 1 bytes from index 0",
            ),
            ("rbd://pool/image", "refused: it is neither IMAGE nor FSID/POOL/IMAGE/SNAPSHOT"),
            ("rbd://f//i/s", "refused: one of its parts is empty"),
            ("rbd://", "refused: one of its parts is empty"),
            ("cinder://store/volume", "elsewhere"),
            ("vsphere://h/folder/x?dcPath=d&dsName=e", "elsewhere"),
            ("ftp://h/x", "refused: unknown scheme"),
            ("FILE:///x", "refused: unknown scheme"),
            (" file:///x", "refused: unknown scheme"),
            ("", "refused: unknown scheme"),
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
        Ok(match store_type(url) {
            None => bail!("unknown scheme"),
            Some("file") => json!([file::parse(url)?]),
            Some("http") => {
                let (url, credentials) = parse(url)?;
                let target = decoded(&url[url::Position::BeforePath..]);
                let host = url.host_str().map(|host| host.trim_matches(['[', ']']));
                json!([url.scheme(), host, url.port(), target, credentials.as_ref().map(basic)])
            }
            Some("s3") => {
                let s3 = s3::parse(url)?;
                let keys =
                    s3.credentials.map_or(String::new(), |(access, secret)| format!("{access}:{secret}@"));
                json!([s3.scheme, keys + &s3.service, s3.bucket, s3.key])
            }
            Some("rbd") => {
                let rbd = rbd::parse(url)?;
                json!([rbd.pool, rbd.image, rbd.snapshot])
            }
            Some("swift") => {
                let swift = swift_place::parse(url)?;
                let (url, user, key) = match &swift.account {
                    SwiftPlace::OfUser { auth_url, user, key } => {
                        (auth_url, Some(user), Some(Secret::reveal(key)))
                    }
                    SwiftPlace::StorageUrl(url) => (url, None, None),
                    SwiftPlace::Reference(_) => bail!("a reference"),
                };
                json!([url, user, key, swift.container, swift.object])
            }
            Some(_) => json!(null),
        })
    }

    /// Why only one of the two refuses, where that is meant so.
    fn on_purpose(url: &str, ours: &Result<Value>, theirs: &Value) -> Option<&'static str> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let why = ours.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let brackets = authority.contains(['[', ']']);
        match scheme {
            _ if why == "it contains control characters" => Some("control characters"),
            // Python's parser takes them for an address, wherever they stand before the first slash.
            _ if ours.is_ok() && brackets => Some("brackets"),
            "http" | "https" => match (why.as_str(), theirs["refused"].as_str().unwrap_or_default()) {
                ("", theirs) if theirs.contains("label") => Some("a host that only we try"),
                ("its host or port is invalid", _) => Some("a host that no request can be made to"),
                (why, _) if why.starts_with("it has more than one @") => Some("a second @ before the host"),
                _ => None,
            },
            "rbd" if why.starts_with("one of its names is not UTF-8") => Some("not UTF-8"),
            "swift" | "swift+http" | "swift+https" => match why.as_str() {
                "it has no host" => Some("a missing host"),
                "its container or its object has no name" => Some("an empty container or object"),
                "its container or its object cannot stand in a request" => Some("a name that is none"),
                why if why.starts_with("its credentials are not UTF-8") => Some("not UTF-8"),
                _ => None,
            },
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
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn urls() -> Vec<String> {
        const SCHEMES: [&str; 11] = [
            "file",
            "filesystem",
            "http",
            "https",
            "rbd",
            "s3",
            "s3+http",
            "s3+https",
            "swift",
            "swift+http",
            "swift+https",
        ];
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

    /// Every URL is the same place to us and to the drivers of the Python named by
    /// `GLANCE_CACHE_TEST_PYTHON`, or both refuse it; what differs on purpose is named. Every location that
    /// Glance seals is opened.
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
