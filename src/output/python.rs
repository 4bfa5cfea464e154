//! JSON as Python's `json` writes it, which is the form of all bodies of Glance's API.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// JSON as Python writes it: with a blank after each comma and colon, in ASCII.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if text.is_ascii() {
            return out.write_all(text.as_bytes());
        }
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_ascii() {
                escaped.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
        out.write_all(escaped.as_bytes())
    }
}

/// Returns a value as JSON, as Python writes it.
pub(crate) fn python(value: &impl Serialize) -> String {
    let mut body = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut body, Python));
    written.expect("the keys of all maps in answers are strings");
    String::from_utf8(body).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_written_as_python_does() {
        let value = json!({"a": [1, 2.5, null], "b": {"c": "ä\u{1F600}\n\"", "d": true}});
        let expected = r#"{"a": [1, 2.5, null], "b": {"c": "\u00e4\ud83d\ude00\n\"", "d": true}}"#;
        assert_eq!(python(&value), expected);
        assert_eq!(python(&json!({"x": [], "y": {}})), r#"{"x": [], "y": {}}"#);
    }
}
