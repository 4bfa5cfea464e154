//! Passwords, tokens and keys, which never show.
//!
//! A server may repeat in its words what was sent to it. [`without_secrets`] takes that out, in whatever form
//! it comes back; all words of servers that got a secret pass through it.

use std::fmt;

use percent_encoding::percent_decode_str;

/// A secret shorter than this, in characters, is also found where nobody meant it. A mask in its place would
/// show it.
const SHORTEST_MASKED: usize = 8;
/// Layers of codes that are looked through, such as a URL in JSON in a page.
const LAYERS: usize = 4;

/// A password, a token or a key. Neither its `Debug` output nor any message shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Returns the secret itself, to be sent to whom it is for.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// True if a text can be a token: some visible ASCII, as each kind of token is.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the words of a server with a mask in the place of secrets. Returns nothing at all if a secret is
/// short, or if it is there in another form than it was sent in.
///
/// The words have to be as they came: neither shortened nor escaped.
pub(super) fn without_secrets(words: &str, secrets: &[&str]) -> String {
    let mut words = words.to_owned();
    let secrets = || secrets.iter().filter(|secret| !secret.is_empty());
    for secret in secrets().filter(|secret| secret.chars().count() >= SHORTEST_MASKED) {
        words = words.replace(*secret, "***");
        // Words of which only so much was read may end in the middle of it.
        let is_start = |end: &usize| secret.is_char_boundary(*end) && words.ends_with(&secret[..*end]);
        if let Some(end) = (SHORTEST_MASKED..secret.len()).rev().find(is_start) {
            words.truncate(words.len() - end);
        }
    }
    if secrets().any(|secret| tells(&words, secret)) { String::new() } else { words }
}

/// True if a text has a secret in it, plain or coded.
fn tells(text: &str, secret: &str) -> bool {
    let secret = condensed(secret);
    let mut text = text.to_owned();
    for _ in 0..LAYERS {
        if condensed(&text).contains(&secret) || condensed(&without_tags(&text)).contains(&secret) {
            return true;
        }
        let decoded = decoded(&text);
        if decoded == text {
            return false;
        }
        text = decoded;
    }
    // Nobody writes like that.
    true
}

/// Returns a text without what may stand for a blank, or be put into a long word.
fn condensed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '+').collect()
}

fn without_tags(text: &str) -> String {
    let mut parts = text.split('<');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('>').map_or("", |(_, after)| after))
}

/// Returns a text with the characters that codes of URLs, of strings in JSON or Python and of HTML stand for.
fn decoded(text: &str) -> String {
    without_entities(&without_escapes(&percent_decode_str(text).decode_utf8_lossy()))
}

/// Replaces `\"`, `\/`, `\x2f` and `\u002f`.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain += before;
        let escape = escape(after);
        plain.extend(escape.map(|(character, _)| character));
        rest = escape.map_or(after, |(_, length)| &after[length..]);
    }
    plain + rest
}

/// Returns the character that a code after a backslash stands for, and the length of the code.
fn escape(code: &str) -> Option<(char, usize)> {
    let number = |from: usize, to: usize| u32::from_str_radix(code.get(from..to)?, 16).ok();
    match code.as_bytes().first()? {
        b'x' => Some((char::from_u32(number(1, 3)?)?, 3)),
        b'u' => {
            let first = number(1, 5)?;
            if let Some(character) = char::from_u32(first) {
                return Some((character, 5));
            }
            // A pair of UTF-16.
            let second = code.get(5..7).filter(|text| *text == "\\u").and_then(|_| number(7, 11))?;
            let character = char::from_u32(0x10000 + ((first - 0xd800) << 10) + second.checked_sub(0xdc00)?);
            Some((character?, 11))
        }
        _ => None,
    }
}

/// Replaces `&amp;`, `&#47;` and `&#x2f;`.
fn without_entities(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain += before;
        let known = after.split_once(';').and_then(|(name, after)| Some((entity(name)?, after)));
        plain.push(known.map_or('&', |(character, _)| character));
        rest = known.map_or(after, |(_, after)| after);
    }
    plain + rest
}

fn entity(name: &str) -> Option<char> {
    let number = |code: &str| match code.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => code.parse().ok(),
    };
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        name => char::from_u32(number(name.strip_prefix('#')?)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_show() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "(secret) Some((secret))");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn words_of_servers_show_no_secret() {
        let secret = r#"s3cret/pa"ss word<&é"#;
        for (words, expected) in [
            ("nothing of it", "nothing of it"),
            (r#"you sent s3cret/pa"ss word<&é, twice: s3cret/pa"ss word<&é"#, "you sent ***, twice: ***"),
            (r#"the beginning s3cret/pa"ss w"#, "the beginning "),
            ("s3cret", "s3cret"),
            ("in a URL: s3cret%2Fpa%22ss%20word%3c%26%C3%A9", ""),
            ("in a form: s3cret%2Fpa%22ss+word%3c%26%C3%A9", ""),
            (r#"in JSON: s3cret\/pa\"ss word<&\u00e9"#, ""),
            (r#"in Python: s3cret/pa"ss word<&\xe9"#, ""),
            ("in HTML: s3cret/pa&quot;ss word&lt;&amp;&#233;", ""),
            ("in HTML: s3cret&#x2f;pa&#34;ss word&lt;&amp;&#xe9;", ""),
            ("in lines: s3cret/pa\"ss\n  word<&é", ""),
            ("in a URL in JSON: s3cret\\u00252Fpa%22ss%20word%3c%26%C3%A9", ""),
            ("twice in a URL: s3cret%252Fpa%2522ss%2520word%253c%2526%25C3%25A9", ""),
            (
                "50% of a & b < c \\d \\u12 &#; &#xfffffff; %zz",
                "50% of a & b < c \\d \\u12 &#; &#xfffffff; %zz",
            ),
        ] {
            assert_eq!(without_secrets(words, &[secret]), expected, "{words}");
        }
        // The mask of a short one would show it.
        assert_eq!(without_secrets("the user glance is unknown", &["glance"]), "");
        assert_eq!(without_secrets("the user is unknown", &["e"]), "");
        assert_eq!(without_secrets("the user is unknown", &["glance", ""]), "the user is unknown");
        assert_eq!(without_secrets("a-long-secret with x", &["a-long-secret", "x"]), "");
        assert_eq!(without_secrets("the b<i>ol</i>d", &["bold"]), "");
        assert_eq!(without_secrets(r"\ud83d\udd11-of-the-house", &["\u{1f511}-of-the-house"]), "");
    }
}
