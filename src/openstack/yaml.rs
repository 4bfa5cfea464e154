//! YAML as it is in OpenStack's files: clouds.yaml, policy.yaml.
//!
//! Scalars mean what they mean to Python's YAML library, which reads these files everywhere else: version 1.1
//! with its many spellings of true and null. The lines of keys are kept for messages, and a key that is there
//! twice stays there twice, so that each reader decides what that means.
//!
//! Files over 64 KiB, aliases, tags, merge keys and deep nesting are refused: none of these files needs them,
//! and a few lines with aliases would fill the memory. Nothing here shows a value: it may be a secret.

use std::fmt;
use std::io;
use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::{Marker, TScalarStyle};

use crate::names::escaped;
use crate::os::text::read_text;

/// Limit of a file, in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Limit of lists and mappings within one another.
const MAX_DEPTH: usize = 32;

/// A value in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Null,
    Boolean(bool),
    /// A number or a date, as written.
    Number(String),
    Text(String),
    List(Vec<Yaml>),
    /// In the order of the document.
    Mapping(Vec<YamlMember>),
}

/// A key of a mapping and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlMember {
    /// As written, also where YAML reads it as a number or a boolean.
    pub(super) key: String,
    pub(super) value: Yaml,
    /// The line of the key, counted from 1.
    pub(super) line: usize,
}

impl Yaml {
    /// Returns the value of the last key of that name, or `None`. A value that is no mapping has no keys.
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        let Yaml::Mapping(members) = self else { return None };
        members.iter().rev().find(|member| member.key == key).map(|member| &member.value)
    }

    /// Returns a scalar as text, or `None` for null, lists and mappings.
    pub(super) fn scalar(&self) -> Option<String> {
        match self {
            Yaml::Boolean(true) => Some("true".to_owned()),
            Yaml::Boolean(false) => Some("false".to_owned()),
            Yaml::Number(text) | Yaml::Text(text) => Some(text.clone()),
            Yaml::Null | Yaml::List(_) | Yaml::Mapping(_) => None,
        }
    }

    /// Returns the kind of value as messages name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Yaml::Null => "null",
            Yaml::Boolean(_) => "a boolean",
            Yaml::Number(_) => "a number",
            Yaml::Text(_) => "a text",
            Yaml::List(_) => "a list",
            Yaml::Mapping(_) => "a mapping",
        }
    }
}

/// Reads a file, or returns `None` if there is none.
///
/// Never blocks: opening a FIFO that has no writer would. Fails if it is no regular file, too long, or no
/// document of YAML in UTF-8.
pub(super) fn read(path: &Path) -> Result<Option<Yaml>> {
    let shown = path.display();
    let text = match read_text(path, MAX_FILE) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => bail!("cannot read {shown}: {e}"),
    };
    parse(&text).map(Some).map_err(|Malformed { line, reason }| anyhow!("{shown}:{line}: {reason}"))
}

/// A text that is not YAML, or is YAML that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads the only document of a text; one without any is null.
pub(super) fn parse(text: &str) -> Result<Yaml, Malformed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = YamlReader { parser: Parser::new_from_str(text), line: 1 };
    let document = reader.stream();
    document.map_err(|error| Malformed { line: reader.line, reason: format!("{error:#}") })
}

/// Turns the events of the parser into values.
struct YamlReader<'a> {
    parser: Parser<std::str::Chars<'a>>,
    /// The line that is being read, counted from 1.
    line: usize,
}

impl YamlReader<'_> {
    fn next(&mut self) -> Result<Event> {
        match self.parser.next_token() {
            Ok((event, at)) => {
                self.line = line(at);
                Ok(event)
            }
            Err(e) => {
                self.line = line(*e.marker());
                // Of the text, the parser's messages quote one character at most.
                Err(anyhow!("not YAML: {}", escaped(e.info().as_bytes())))
            }
        }
    }

    fn stream(&mut self) -> Result<Yaml> {
        let mut document = None;
        loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => return Ok(document.unwrap_or(Yaml::Null)),
                Event::DocumentStart => {
                    ensure!(document.is_none(), "there is a second document");
                    let first = self.next()?;
                    document = Some(self.value(first, 0)?);
                }
                _ => bail!("not YAML"),
            }
        }
    }

    /// Reads the value that begins with this event.
    fn value(&mut self, first: Event, depth: usize) -> Result<Yaml> {
        ensure!(depth < MAX_DEPTH, "lists and mappings are nested more than {MAX_DEPTH} deep");
        match first {
            Event::Alias(_) => bail!("aliases are not supported"),
            Event::Scalar(text, style, _, tag) => scalar(text, style, tag.as_ref()),
            Event::SequenceStart(_, tag) => {
                check(tag.as_ref())?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Yaml::List(items)),
                        first => items.push(self.value(first, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(_, tag) => {
                check(tag.as_ref())?;
                self.mapping(depth)
            }
            _ => bail!("not YAML"),
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Yaml> {
        let mut members = Vec::new();
        loop {
            let (key, line) = match self.next()? {
                Event::MappingEnd => return Ok(Yaml::Mapping(members)),
                Event::Scalar(text, style, _, tag) => {
                    ensure!(text != "<<" || style != TScalarStyle::Plain, "merge keys are not supported");
                    scalar(text.clone(), style, tag.as_ref())?;
                    (text, self.line)
                }
                Event::Alias(_) => bail!("aliases are not supported"),
                _ => bail!("a key is a list or a mapping"),
            };
            let first = self.next()?;
            let value = self.value(first, depth + 1)?;
            members.push(YamlMember { key, value, line });
        }
    }
}

fn line(at: Marker) -> usize {
    at.line().max(1)
}

/// Fails if a tag says more than the text itself. A lone `!` says nothing.
fn check(tag: Option<&Tag>) -> Result<()> {
    let is_plain = tag.is_none_or(|tag| is_lone(tag) || is_text(tag));
    ensure!(is_plain, "tags are not supported");
    Ok(())
}

fn is_lone(tag: &Tag) -> bool {
    format!("{}{}", tag.handle, tag.suffix) == "!"
}

fn is_text(tag: &Tag) -> bool {
    tag.handle == "tag:yaml.org,2002:" && tag.suffix == "str"
}

/// Returns what a scalar means.
fn scalar(text: String, style: TScalarStyle, tag: Option<&Tag>) -> Result<Yaml> {
    check(tag)?;
    // Its line break is the parser's; to Python it is empty, unless all its line breaks are kept.
    let is_block = matches!(style, TScalarStyle::Literal | TScalarStyle::Folded);
    ensure!(!is_block || text.contains(|c| c != '\n'), "an empty block after | or > is not supported");
    // To Python, the first may begin a key, and the second is a value that nothing is made of.
    let is_sign = style == TScalarStyle::Plain && (text.starts_with('?') || text == "=");
    ensure!(!is_sign, "a text that begins with ? or is = is supported only in quotes");
    if style != TScalarStyle::Plain || tag.is_some_and(is_text) {
        return Ok(Yaml::Text(text));
    }
    Ok(match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Yaml::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Yaml::Boolean(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Yaml::Boolean(false),
        _ if is_number(&text) || is_date(&text) => Yaml::Number(text),
        _ => Yaml::Text(text),
    })
}

/// True for what YAML 1.1 reads as an integer or a float.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if [".inf", ".Inf", ".INF"].contains(&unsigned) || [".nan", ".NaN", ".NAN"].contains(&text) {
        return true;
    }
    let of = |digits: &str, radix: u32| {
        !digits.is_empty() && digits.chars().all(|c| c == '_' || c.is_digit(radix))
    };
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return of(digits, 16);
    }
    if let Some(digits) = unsigned.strip_prefix("0b") {
        return of(digits, 2);
    }
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    // The parts of a number of base 60, as in 12:30, behind the first.
    let sixtieth = |part: &str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    match unsigned.split_once('.') {
        None => match unsigned.split_once(':') {
            None if unsigned.len() > 1 && unsigned.starts_with('0') => of(unsigned, 8),
            None => begins(unsigned) && of(unsigned, 10),
            Some((first, rest)) => {
                begins(first) && !first.starts_with('0') && of(first, 10) && rest.split(':').all(sixtieth)
            }
        },
        Some((whole, rest)) => {
            let (fraction, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "+0"));
            let is_fraction = fraction.is_empty() || of(fraction, 10);
            let is_exponent = exponent.strip_prefix(['-', '+']).is_some_and(|digits| of(digits, 10));
            let (first, parts) = whole.split_once(':').unwrap_or((whole, "0"));
            let is_whole = begins(first) && of(first, 10) && parts.split(':').all(sixtieth);
            // Those of base 60 have no exponent.
            let is_exponent = is_exponent && (first == whole || fraction == rest);
            is_fraction && is_exponent && (is_whole || (whole.is_empty() && begins(fraction)))
        }
    }
}

/// True for a date such as 2026-11-29.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(n, byte)| match n {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Yaml {
        Yaml::Text(text.to_owned())
    }

    #[test]
    fn scalars_mean_what_they_mean_to_python() {
        let number = |text: &str| Yaml::Number(text.to_owned());
        for (written, meant) in [
            ("role:admin", text("role:admin")),
            ("'true'", text("true")),
            ("\"\"", text("")),
            ("", Yaml::Null),
            ("~", Yaml::Null),
            ("!", Yaml::Null),
            ("'!'", text("!")),
            ("! word", text("word")),
            ("null", Yaml::Null),
            ("nULL", text("nULL")),
            ("yes", Yaml::Boolean(true)),
            ("y", text("y")),
            ("Off", Yaml::Boolean(false)),
            ("7", number("7")),
            ("-7_000", number("-7_000")),
            ("017", number("017")),
            ("08", text("08")),
            ("0x1F", number("0x1F")),
            ("0xZ", text("0xZ")),
            ("1.5", number("1.5")),
            (".5", number(".5")),
            (".", text(".")),
            ("1e3", text("1e3")),
            ("1.0e3", text("1.0e3")),
            ("1.0e+3", number("1.0e+3")),
            ("12:30", number("12:30")),
            ("012:30", text("012:30")),
            ("12:60", text("12:60")),
            ("12:30.5", number("12:30.5")),
            ("12:30.5e+3", text("12:30.5e+3")),
            ("10.0.0.1", text("10.0.0.1")),
            (".inf", number(".inf")),
            ("2026-11-29", number("2026-11-29")),
            ("4f3e2d1c4f3e2d1c4f3e2d1c4f3e2d1c", text("4f3e2d1c4f3e2d1c4f3e2d1c4f3e2d1c")),
            ("!!str 5", text("5")),
            ("|\n  two\n  lines\n", text("two\nlines\n")),
        ] {
            assert_eq!(parse(&format!("key: {written}")).unwrap().get("key"), Some(&meant), "{written:?}");
        }
    }

    #[test]
    fn documents_are_mappings_and_lists() {
        let document = parse("\u{feff}# comment\na: [1, {b: c}]\n\na:\n- x\n- - y\n").unwrap();
        let Yaml::Mapping(members) = &document else { panic!("{document:?}") };
        let keys: Vec<_> = members.iter().map(|member| (member.key.as_str(), member.line)).collect();
        assert_eq!(keys, [("a", 2), ("a", 4)]);
        assert_eq!(document.get("a"), Some(&Yaml::List(vec![text("x"), Yaml::List(vec![text("y")])])));
        assert_eq!(document.get("b"), None);
        assert_eq!(parse("").unwrap(), Yaml::Null);
        assert_eq!(parse("# nothing\n").unwrap(), Yaml::Null);
        assert_eq!(parse("--- !").unwrap(), Yaml::Null);
        assert_eq!(parse("{\"json\": [true, null]}").unwrap().get("json").unwrap().kind(), "a list");
    }

    #[test]
    fn refuses_all_that_these_files_do_not_need() {
        let deep = "[".repeat(100);
        for (written, line, reason) in [
            ("a: &x 1\nb: *x\n", 2, "aliases are not supported"),
            ("a: 1\n<<: {b: 2}\n", 2, "merge keys are not supported"),
            ("a: !!int 5\n", 1, "tags are not supported"),
            ("a: !!python/object:os.system x\n", 1, "tags are not supported"),
            ("a: 1\n---\nb: 2\n", 2, "there is a second document"),
            ("? [a]\n: b\n", 1, "a key is a list or a mapping"),
            ("a: |\n", 1, "an empty block after | or > is not supported"),
            ("b: 1\na: =\n", 2, "a text that begins with ? or is = is supported only in quotes"),
            ("[?]", 1, "a text that begins with ? or is = is supported only in quotes"),
            ("{?a: 1}", 1, "a text that begins with ? or is = is supported only in quotes"),
            (&deep, 1, "lists and mappings are nested more than 32 deep"),
        ] {
            assert_eq!(parse(written), Err(Malformed { line, reason: reason.to_owned() }), "{written:?}");
        }
        for written in ["a: [1", "a: b: c", "\tx: 1\n\ty: 2", "a: 'x", "@", "a: 1\n b: 2\n"] {
            let error = parse(written).unwrap_err();
            assert!(error.reason.starts_with("not YAML: "), "{written:?}: {error}");
        }
    }

    #[test]
    fn reads_files_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(&path, format!("#{}\na: b", "x".repeat(65_530))).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().get("a"), Some(&text("b")));
        let shown = path.display();
        std::fs::write(&path, format!("#{}\na: b", "x".repeat(65_531))).unwrap();
        assert_eq!(
            read(&path).unwrap_err().to_string(),
            format!("cannot read {shown}: it is longer than 64 KiB")
        );
        std::fs::write(&path, b"a: \xff").unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), format!("cannot read {shown}: it is not UTF-8"));
        std::fs::write(&path, "ok: 1\nsecret: *nothing\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().starts_with(&format!("{shown}:2: ")));
        let error = read(dir.path()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}: it is not a regular file", dir.path().display()));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a&*!|>'\"%@`{}\\[\\]:,#? \n\t0-9.~<é]{0,60}") {
            let _ = parse(&text);
        }
    }
}
