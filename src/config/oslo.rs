//! The dialect of `oslo.config`: the meaning of a configuration file's bytes and of a value's text.
//!
//! Promises to accept, reject and understand the same files and values as oslo.config 10.7. Messages never
//! repeat a line of the file, because it may contain a password.
//!
//! Opens no file and knows no option and no precedence. Unlike oslo.config, which uses the locale's encoding,
//! it reads every file as UTF-8.

use std::borrow::Cow;

/// A `[section]` as written in a file; several sections may have the same name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// The name as written, blanks included.
    pub(super) name: String,
    pub(super) assignments: Vec<Assignment>,
}

/// One `key = value`, with its continuation lines joined by newlines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) key: String,
    /// As written, without the quotes around its first line; `$name` is not replaced yet.
    pub(super) value: String,
    /// The line of the key, counted from 1.
    pub(super) line: usize,
}

/// The first mistake in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) message: &'static str,
}

/// Parses a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Section>, SyntaxError> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        SyntaxError { line: lines(&before).count(), message: "the text is not UTF-8" }
    })?;
    let mut sections: Vec<Section> = Vec::new();
    // Only an assignment can be continued, and a comment, a blank line or a section ends it.
    let mut continues = false;
    for (number, line) in (1..).zip(lines(text)) {
        let fail = |message| Err(SyntaxError { line: number, message });
        let line = line.trim_end_matches(is_space);
        if line.starts_with([' ', '\t']) {
            let Some(last) = sections.last_mut().and_then(|s| s.assignments.last_mut()).filter(|_| continues)
            else {
                return fail("an indented line continues a value, but there is none above it");
            };
            last.value.push('\n');
            last.value.push_str(line.trim_start_matches(is_space));
            continue;
        }
        continues = false;
        if let Some(rest) = line.strip_prefix('[') {
            match rest.strip_suffix(']') {
                None => return fail("a section must end with ]"),
                Some("") => return fail("a section needs a name"),
                Some(name) => sections.push(Section { name: name.to_owned(), assignments: Vec::new() }),
            }
        } else if number == 1 && line.starts_with('\u{feff}') {
            return fail("the file starts with a byte order mark; remove it");
        } else if !line.is_empty() && !line.starts_with(['#', ';']) {
            let Some((key, value)) = line.split_once([':', '=']) else {
                return fail("expected name = value, [section] or a comment");
            };
            let key = key.trim_matches(is_space);
            if key.is_empty() {
                return fail("a value needs a name before the = or :");
            }
            let Some(section) = sections.last_mut() else {
                return fail("a value needs a [section] above it");
            };
            let value = unquote(value.trim_matches(is_space));
            section.assignments.push(Assignment {
                key: key.to_owned(),
                value: value.to_owned(),
                line: number,
            });
            continues = true;
        }
    }
    Ok(sections)
}

/// Splits a text at `\n`, `\r\n` and `\r`, as Python does for text files.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    // Both searches look for one byte, which is fast: the sample files have thousands of lines of comments.
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// True for the characters that Python's `str.strip` removes: Unicode white space and four ASCII separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Removes one pair of quotes. Like oslo.config, treats a single quote character as a pair around nothing.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if value.starts_with(quote) && value.ends_with(quote) {
            return value.get(1..value.len() - 1).unwrap_or_default();
        }
    }
    value
}

/// True if two section names mean the same group. Only the case of `DEFAULT` matters.
pub(super) fn same_group(one: &str, other: &str) -> bool {
    one == other || (one != "DEFAULT" && other != "DEFAULT" && lower(one) == lower(other))
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        Cow::Owned(text.to_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Replaces `$name`, `${name}` and `$group.name` by the result of `lookup`; `$$` and `\$` stand for a dollar
/// sign.
///
/// A dollar sign before anything else is kept. Returns the first error of `lookup`.
pub(super) fn interpolate<E>(
    text: &str,
    mut lookup: impl FnMut(&str) -> Result<String, E>,
) -> Result<Cow<'_, str>, E> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let text = text.replace("\\$", "$$");
    let mut result = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let bare = identifier(after);
        let braced =
            after.strip_prefix('{').map(identifier).filter(|name| after[1 + name.len()..].starts_with('}'));
        rest = if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            after
        } else if !bare.is_empty() {
            result.push_str(&lookup(bare)?);
            &after[bare.len()..]
        } else if let Some(name) = braced.filter(|name| !name.is_empty()) {
            result.push_str(&lookup(name)?);
            &after[name.len() + 2..]
        } else {
            result.push('$');
            after
        };
    }
    result.push_str(rest);
    Ok(Cow::Owned(result))
}

/// Returns the option name at the start of a text, dots included, or an empty text.
fn identifier(text: &str) -> &str {
    if !text.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic()) {
        return "";
    }
    let end = text.find(|c: char| !(c == '_' || c == '.' || c.is_ascii_alphanumeric()));
    &text[..end.unwrap_or(text.len())]
}

/// Parses an integer like Python's `int`: a sign, decimal digits of any script, single underscores between
/// them.
///
/// Python's integers have no upper bound; here a number beyond 64 bits becomes the nearest one that fits.
pub(super) fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut value: i64 = 0;
    let mut after_digit = false;
    for character in digits.chars() {
        if character == '_' && after_digit {
            after_digit = false;
            continue;
        }
        value = value.saturating_mul(10).saturating_add(sign * digit(character)?);
        after_digit = true;
    }
    after_digit.then_some(value)
}

/// Returns the value of a decimal digit in any script.
fn digit(character: char) -> Option<i64> {
    let code = u32::from(character);
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    (code - zero < 10).then_some(i64::from(code - zero))
}

/// The zero of each script's ten decimal digits (Unicode 14, general category Nd).
#[rustfmt::skip]
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950,
    0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6,
    0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Parses a boolean: `true`, `1`, `on`, `yes` and their opposites, in any case, without blanks.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" => Some(false),
        _ => None,
    }
}

/// Splits a list at its commas; drops blanks around the items and commas at the end.
pub(super) fn list(text: &str) -> Vec<String> {
    let text = text.trim_matches(is_space).trim_end_matches(',');
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim_matches(is_space).to_owned()).collect()
}

/// Splits a dictionary at its commas, and each item at its first colon.
///
/// As in oslo.config, an item without a colon belongs to the key of the next item.
pub(super) fn dictionary(text: &str) -> Result<Vec<(String, String)>, String> {
    let text = text.trim_matches(is_space);
    let mut items: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let colon = rest.find(':').ok_or("must be name:value pairs separated by commas")?;
        let end = rest[colon..].find(',').map_or(rest.len(), |comma| colon + comma);
        let (key, value) =
            (rest[..colon].trim_matches(is_space), rest[colon + 1..end].trim_matches(is_space));
        if key.is_empty() {
            return Err("has a value without a name".to_owned());
        }
        if items.iter().any(|(name, _)| name == key) {
            return Err(format!("has {key} twice"));
        }
        items.push((key.to_owned(), value.to_owned()));
        rest = match rest.get(end + 1..) {
            Some("") => return Err("ends with a comma".to_owned()),
            rest => rest.unwrap_or_default(),
        };
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows the result of `parse` on one line: `[section] key=value@line`, or `line: message`.
    fn parsed(text: impl AsRef<[u8]>) -> String {
        let sections = match parse(text.as_ref()) {
            Err(error) => return format!("{}: {}", error.line, error.message),
            Ok(sections) => sections,
        };
        let show = |a: &Assignment| format!(" {}={:?}@{}", a.key, a.value, a.line);
        let show =
            |s: &Section| format!("[{}]{}", s.name, s.assignments.iter().map(show).collect::<String>());
        sections.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn understands_files() {
        for (text, expected) in [
            ("", ""),
            ("# nothing\n\n; at all", ""),
            ("[a]\nk=v", r#"[a] k="v"@2"#),
            ("[a]\n k=v", "2: an indented line continues a value, but there is none above it"),
            ("[a]\nk = v\nk : w\n", r#"[a] k="v"@2 k="w"@3"#),
            ("[a]\nk = v=w:x\nl : m=n\n", r#"[a] k="v=w:x"@2 l="m=n"@3"#),
            ("[a]\nk =\n", r#"[a] k=""@2"#),
            ("[a]\r\nk=v\r\rl=w\n\rm=x", r#"[a] k="v"@2 l="w"@4 m="x"@6"#),
            ("[a]\nk=v # no comment\n", r#"[a] k="v # no comment"@2"#),
            ("[a]\nk=v\n  w \n\t# no comment\nl=x", r#"[a] k="v\nw\n# no comment"@2 l="x"@5"#),
            ("[a]\nk=\n  w\n", r#"[a] k="\nw"@2"#),
            ("[a]\nk=v\n   \nl=w", r#"[a] k="v"@2 l="w"@4"#),
            ("[a]\nk=v\n\n w", "4: an indented line continues a value, but there is none above it"),
            ("[a]\nk=v\n# c\n w", "4: an indented line continues a value, but there is none above it"),
            ("[a]\nk=v\n[b]\n w", "4: an indented line continues a value, but there is none above it"),
            (
                "[a]\nk=\"v\"\nl=' w '\nm=\"x'\nn=\"\no=\"\"",
                r#"[a] k="v"@2 l=" w "@3 m="\"x'"@4 n=""@5 o=""@6"#,
            ),
            ("[a]\nk=\" v\n w \"\n", r#"[a] k="\" v\nw \""@2"#),
            ("[a] \t\nk=\u{a0}v\u{1f}\n", r#"[a] k="v"@2"#),
            ("[a]\n\u{b}k=v", r#"[a] k="v"@2"#),
            ("[a]\nk=v\u{85}w\u{2028}x\u{c}y", r#"[a] k="v\u{85}w\u{2028}x\u{c}y"@2"#),
            ("[a]\n\u{feff}k=v", "[a] \u{feff}k=\"v\"@2"),
            ("[a]\n[b]\nk=v\n[a]\nk=w", r#"[a] [b] k="v"@3 [a] k="w"@5"#),
            ("[ a ]\n[[b]]\n", "[ a ] [[b]]"),
            ("[a", "1: a section must end with ]"),
            ("[a] # c", "1: a section must end with ]"),
            ("#\n[", "2: a section must end with ]"),
            ("[]", "1: a section needs a name"),
            ("k=v\n[a]", "1: a value needs a [section] above it"),
            ("[a]\nnothing", "2: expected name = value, [section] or a comment"),
            ("[a]\n = v", "2: an indented line continues a value, but there is none above it"),
            ("[a]\n= v", "2: a value needs a name before the = or :"),
            ("\u{feff}[a]\nk=v", "1: the file starts with a byte order mark; remove it"),
        ] {
            assert_eq!(parsed(text), expected, "{text:?}");
        }
        assert_eq!(parsed(b"[a]\r\nk=v\xff"), "2: the text is not UTF-8");
        assert_eq!(parsed(b"\xff"), "1: the text is not UTF-8");
    }

    #[test]
    fn compares_groups() {
        for (one, other, same) in [
            ("DEFAULT", "DEFAULT", true),
            ("DEFAULT", "default", false),
            ("Default", "default", true),
            ("database", "DataBase", true),
            ("\u{c9}t", "\u{e9}T", true),
            ("database", " database ", false),
        ] {
            assert_eq!(same_group(one, other), same, "{one} {other}");
            assert_eq!(same_group(other, one), same, "{one} {other}");
        }
    }

    #[test]
    fn interpolates() {
        for (text, expected) in [
            ("no dollar \\ here", Ok("no dollar \\ here")),
            ("$a", Ok("<a>")),
            ("x$a/y${b}z", Ok("x<a>/y<b>z")),
            ("$a.b c", Ok("<a.b> c")),
            ("$a.", Ok("<a.>")),
            ("$_A9-", Ok("<_A9>-")),
            ("$$a $$$a", Ok("$a $<a>")),
            ("\\$a \\$$a \\\\$a", Ok("$a $<a> \\$a")),
            ("$", Ok("$")),
            ("$5 ${5} ${} ${ ${a $- \u{20ac}$\u{e9}", Ok("$5 ${5} ${} ${ ${a $- \u{20ac}$\u{e9}")),
            ("$a$nope$b", Err("nope")),
        ] {
            let lookup = |name: &str| {
                if name == "nope" { Err("nope") } else { Ok(format!("<{name}>")) }
            };
            assert_eq!(interpolate(text, lookup).as_deref(), expected.as_ref().copied(), "{text}");
        }
    }

    #[test]
    fn reads_integers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10737418240", Some(10_737_418_240)),
            ("00012", Some(12)),
            ("+5", Some(5)),
            ("-5", Some(-5)),
            ("-0", Some(0)),
            (" \t7\n", Some(7)),
            ("\u{85}7\u{a0}", Some(7)),
            ("1_000", Some(1000)),
            ("\u{663}\u{665}", Some(35)),
            ("1_\u{ff15}", Some(15)),
            ("\u{1fbf9}", Some(9)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", Some(i64::MAX)),
            ("99999999999999999999999999999", Some(i64::MAX)),
            ("-99999999999999999999999999999", Some(i64::MIN)),
            ("", None),
            (" ", None),
            ("+", None),
            ("+ 5", None),
            ("--5", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("-_1", None),
            ("1 0", None),
            ("10G", None),
            ("1.5", None),
            ("1e3", None),
            ("0x10", None),
            ("\u{b2}", None),
            ("\u{1c}5", None),
            ("5\0", None),
            ("\"7\"", None),
            ("/", None),
            (":", None),
        ] {
            assert_eq!(integer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn reads_booleans_and_lists() {
        for (text, expected) in [
            ("true", Some(true)),
            ("YES", Some(true)),
            ("On", Some(true)),
            ("1", Some(true)),
            ("False", Some(false)),
            ("no", Some(false)),
            ("off", Some(false)),
            ("0", Some(false)),
            ("", None),
            ("true ", None),
            ("01", None),
            ("y", None),
            ("None", None),
        ] {
            assert_eq!(boolean(text), expected, "{text:?}");
        }
        for (text, expected) in
            [("", &[][..]), (" ,,", &[]), ("a", &["a"]), (" a , b:c,, d,\n", &["a", "b:c", "", "d"])]
        {
            assert_eq!(list(text), expected, "{text:?}");
        }
    }

    #[test]
    fn reads_dictionaries() {
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        for (text, expected) in [
            ("", Some(&[][..])),
            (" ", Some(&[])),
            ("fast:file, slow : rbd", Some(&[("fast", "file"), ("slow", "rbd")])),
            ("http:http://10.0.0.1:3128", Some(&[("http", "http://10.0.0.1:3128")])),
            ("a:", Some(&[("a", "")])),
            ("a,b:c", Some(&[("a,b", "c")])),
            ("a:b,", None),
            ("a:b,c", None),
            ("a", None),
            (":b", None),
            ("a:b,a:c", None),
        ] {
            let expected = expected.map(|pairs| pairs.iter().copied().map(pair).collect());
            assert_eq!(dictionary(text).ok(), expected, "{text:?}");
        }
    }
}
