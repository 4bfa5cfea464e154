//! Accounts and locations of Swift as text, and the comparison with what Glance's own driver makes of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::references::{References, accounts_of};
use crate::openstack::keystone::login::LoginOptions as _;
use crate::source::swift_place::{SwiftLocation, SwiftPlace, parse};

/// The parts on one line, or the refusal.
fn parts(url: &str) -> String {
    match parse(url) {
        Err(error) => format!("refused: {error:#}"),
        Ok(SwiftLocation { account, container, object }) => {
            let account = match account {
                SwiftPlace::Reference(name) => format!("[{name}]"),
                SwiftPlace::OfUser { auth_url, user, key } => format!("{auth_url} {user} {}", key.reveal()),
                SwiftPlace::StorageUrl(url) => format!("{url} -"),
            };
            format!("{account} {container} {object}")
        }
    }
}

#[test]
fn takes_locations_apart() {
    for (url, expected) in [
        ("swift://p:u:k@h:5000/v3/c/o", "https://h:5000/v3 p:u k c o"),
        ("swift+https://p:u:k@h/c/o", "https://h p:u k c o"),
        ("swift+http://p:u:k@h/a/b/v3/c/o", "http://h/a/b/v3 p:u k c o"),
        ("swift://p%3Au:k%2Fe%40y@h/c/o", "https://h p:u k/e@y c o"),
        // The key is what follows the last colon after decoding, as in Glance.
        ("swift://p:u:k%3Ay@h/c/o", "https://h p:u:k y c o"),
        ("swift://u:k@h/c/o", "https://h u k c o"),
        ("swift://h/v1/KEY_x/c/o", "https://h/v1/KEY_x - c o"),
        ("swift+http://@h/v1/c/o", "http://h/v1 - c o"),
        ("swift:///p:u:k@h/v3/c/o/", "https://h/v3 p:u k c o"),
        ("swift:///h/v3/c/o", "https://h/v3 - c o"),
        ("swift://httpd.example/v1/c/o", "https://httpd.example/v1 - c o"),
        ("swift://h/c/a%20b", "https://h - c a%20b"),
        ("swift://h/c/o?q#f", "https://h - c o"),
        ("swift+config://ref1/glance/ID", "[ref1] glance ID"),
        ("swift+config://ref1//glance/ID", "[ref1] glance ID"),
        ("swift+config://ref1/more/glance/ID", "refused: it is not REFERENCE/CONTAINER/OBJECT"),
        ("swift+config://ref1/ID", "refused: it is not REFERENCE/CONTAINER/OBJECT"),
        (
            "swift+config://ref1:KEY@x/glance/ID",
            "refused: its reference has an @: a location of swift+config has no credentials",
        ),
        ("swift+config:///glance/ID", "refused: it is not REFERENCE/CONTAINER/OBJECT"),
        ("swift://p:u:k@h/o", "refused: it is not URL/CONTAINER/OBJECT"),
        ("swift://h", "refused: it is not URL/CONTAINER/OBJECT"),
        ("swift://", "refused: it has no host"),
        ("swift://h/c/o/", "refused: its container or its object has no name"),
        ("swift://h//o", "refused: it is not URL/CONTAINER/OBJECT"),
        ("swift://p:u:k@/c/o", "refused: it has no host"),
        ("swift://h/a//o", "refused: its container or its object has no name"),
        ("swift://h/c/..", "refused: its container or its object cannot stand in a request"),
        ("swift://uk@h/c/o", "refused: its credentials are not PROJECT:USER:KEY"),
        ("swift://p:u:k@y@h/c/o", "refused: it has more than one @: write one in a name or a key as %40"),
        (
            "swift://p:u:%ff@h/c/o",
            "refused: its credentials are not UTF-8 once their percent codes are replaced",
        ),
        (
            "swift://http://h/c/o",
            "refused: it has two schemes: write swift+http://HOST for swift://http://HOST",
        ),
        ("swift://h/c/o\u{1}", "refused: it contains control characters"),
    ] {
        assert_eq!(parts(url), expected, "{url}");
    }
}

/// The accounts of a file as `tests/peer/python/swift_references.py` prints them: a name, then the options
/// that are set.
fn ours(text: &str) -> Value {
    let Ok(accounts) = accounts_of(text) else { return json!("refused") };
    let mut found = serde_json::Map::new();
    for (name, account) in accounts {
        // Glance leaves out what is incomplete.
        let Ok(account) = account else { continue };
        let value = |name: &str| json!(account.value(name).unwrap());
        let user = match (account.value("project_name").unwrap(), account.value("username").unwrap()) {
            (Some(project), Some(user)) => json!(format!("{project}:{user}")),
            _ => Value::Null,
        };
        let domain = |kind: &str| {
            let (id, name) = (value(&format!("{kind}_domain_id")), value(&format!("{kind}_domain_name")));
            if id.is_null() && name.is_null() { json!(["default", null]) } else { json!([id, name]) }
        };
        found.insert(
            name,
            json!({
                "auth_address": account.auth_url(), "user": user, "key": value("password"),
                "id": value("application_credential_id"), "secret": value("application_credential_secret"),
                "user_domain": domain("user"), "project_domain": domain("project"),
            }),
        );
    }
    Value::Object(found)
}

const GOOD: &str = "auth_address = http://h:5000/v3\nuser = p:u\nkey = k\n";

/// Files of references, from plain to odd.
fn files() -> Vec<String> {
    let mut files: Vec<String> = [
        "",
        "[a]\n",
        "auth_address = x\n",
        "[a\nuser = p:u\n",
        "[a]\nuser\n",
        "[a]\n = x\n",
        "[a]\nuser = p:u\nuser = p:u\n",
        "[a]\nkey = k\n[a]\nkey = k\n",
        "[DEFAULT]\nkey = s\n[a]\nauth_address = h\nuser = p:u\n",
        "[a]\nauth_address: h:5000/v3\nUSER: p:u\nKey = 'a b'\n",
        "# x\n; y\n[a]\n  auth_address = http://h\n  user = p:u\n  key = k\n",
    ]
    .map(str::to_owned)
    .to_vec();
    for more in [
        "",
        "key2 = x\n",
        "user_domain_name = Users\nproject_domain_id = p1\n",
        "user_domain_id = u1\nuser_domain_name = Users\n",
        "application_credential_id = a1\n",
        "application_credential_id = a1\napplication_credential_secret = s\n",
        "project_domain_name =\n",
    ] {
        files.push(format!("[ref1]\n{GOOD}{more}"));
        files.push(format!("[ref1]\n{GOOD}\n# the second\n[ref 2] ; x\n{more}{GOOD}"));
    }
    for key in [
        "\"quoted\"",
        "'it''s'",
        "'open",
        "\"",
        "''",
        "a%%b",
        "a%b",
        "%(user)s",
        "%(none)s",
        "%(key)s",
        "a;b",
        "a # b",
        "a=b:c",
        "\n  next\n  line",
        "x\n\n  after a blank",
        "\u{e9}",
        "$x",
        "%(USER)s",
        "%",
        "%%",
    ] {
        files.push(format!("[ref1]\nauth_address = http://h\nuser = p:u\nkey = {key}\n"));
        files.push(format!("[DEFAULT]\nkey = {key}\n[x]\nauth_address = http://h\nuser = p:u\n"));
    }
    files
}

/// Each file means the same to us and to the driver of Glance's Python.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
#[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
fn references_are_what_the_real_driver_reads() {
    let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
    let mut peer = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/swift_references.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut questions = peer.stdin.take().unwrap();
    let mut answers = BufReader::new(peer.stdout.take().unwrap()).lines();
    let mut different = 0;
    for text in files() {
        writeln!(questions, "{}", json!({"references": text})).unwrap();
        let theirs: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        let ours = ours(&text);
        // One account whose value cannot be read stops Glance's driver; here the others go on.
        let is_on_purpose = theirs == "refused" && ours == json!({}) && text.contains('%');
        if ours != theirs && !is_on_purpose {
            different += 1;
            println!("{text:?}\n   ours {ours}\n theirs {theirs}");
        }
    }
    drop(questions);
    peer.wait().unwrap();
    println!("{} files, {different} different", files().len());
    assert_eq!(different, 0);
}

#[test]
fn says_what_an_account_lacks() {
    let account = |text: &str| match accounts_of(text) {
        Err(error) => format!("{error:#}"),
        Ok(accounts) => match &accounts[0].1 {
            Err(why) => why.clone(),
            Ok(account) => account.login().map_or_else(|error| format!("{error:#}"), |_| "good".to_owned()),
        },
    };
    for (text, expected) in [
        (format!("[a]\n{GOOD}"), "good"),
        ("[a]\nuser = p:u\nkey = s3cret\n".to_owned(), "auth_address is not set in [a] of FILE"),
        ("[a]\nauth_address = h\nuser = p:u\n".to_owned(), "key is not set in [a] of FILE"),
        (
            "[a]\nauth_address = h\nuser = u\nkey = s3cret\n".to_owned(),
            "cannot use user in [a] of FILE: the user is not PROJECT:USER",
        ),
        ("[a]\nauth_address = h\nuser = p:u\nkey = 's3cret\n".to_owned(), "[a] key: a quote is not closed"),
        (
            "[a]\nauth_address = h\nuser = p:u\nkey = s3%cret\n".to_owned(),
            "[a] key: a % has to be doubled, or to begin %(name)s",
        ),
        (
            "[a]\nauth_address = ftp://h\nuser = p:u\nkey = s3cret\n".to_owned(),
            "cannot use auth_address of [a] of FILE",
        ),
        (
            "[a]\nauth_address = https://h/v2.0\nuser = p:u\nkey = s3cret\n".to_owned(),
            "cannot use auth_address of [a] of FILE: version 2.0 of the Identity API is not supported",
        ),
        ("[a]\ns3cret\n".to_owned(), "line 2: expected name = value, [section] or a comment"),
        ("s3cret = 1\n".to_owned(), "line 1: a value needs a [section] above it"),
    ] {
        let found = account(&text);
        assert!(found.starts_with(expected) && !found.contains("s3cret"), "{found}, not {expected}");
    }
}

#[test]
fn an_unknown_account_is_named_with_what_is_there() {
    let references = References::of_file("FILE", "ref1", &format!("[a]\n{GOOD}[b]\nkey = k\n")).unwrap();
    assert!(references.get("a").is_ok() && references.default().is_none());
    let error = |name| references.get(name).unwrap_err().to_string();
    assert_eq!(error("ref1"), "the account ref1 is not in FILE, which has: a, b");
    assert_eq!(error("b"), "auth_address is not set in [b] of FILE");
}
