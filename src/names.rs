//! Names that come from outside: path components and image ids, and their safe display.
//!
//! A [`Name`] is the only way to address a file below an open directory. It is checked once, when it is made,
//! so that nothing read from a directory or an index can lead out of the cache. Nothing here does I/O.

use std::ffi::{CStr, CString};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// One path component: not empty, not `.` or `..`, no slash and no NUL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Returns the name, or `None` if it is not a single path component.
    pub(crate) fn new(name: &'a CStr) -> Option<Self> {
        let bytes = name.to_bytes();
        let plain = !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/');
        plain.then_some(Name(name))
    }

    pub(crate) fn as_c_str(self) -> &'a CStr {
        self.0
    }

    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }

    pub(crate) fn to_owned(self) -> NameBuf {
        NameBuf(self.0.to_owned())
    }
}

/// Escapes every byte that is not a printable character: a directory's owner must not be able to move our
/// cursor or forge a line of output with a file name.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.as_bytes()))
    }
}

/// A [`Name`] that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameBuf(CString);

impl NameBuf {
    /// Returns the name, or `None` if the bytes are not a single path component.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let name = CString::new(bytes).ok()?;
        Name::new(&name)?;
        Some(NameBuf(name))
    }

    pub(crate) fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

/// Returns bytes from a disk or a server as text that cannot move a cursor or forge a line.
///
/// Printable characters stay; everything else becomes `\xNN`, `\n`, `\u{..}` and so on. A backslash is
/// doubled, so that different names never look the same.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The id of an image: a UUID of 36 characters in either case, kept as it is spelt on disk.
///
/// Glance itself makes lower-case ids. The spelling is the file's name and the row's key, so it is never
/// normalised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ImageId([u8; 37]);

/// The class of the byte at each place of a UUID.
const UUID: &[u8; 36] = b"00000000-0000-0000-0000-000000000000";

/// The class of each byte: `0` for hexadecimal digits, `-` for the dash, and `?` for all others.
const CLASS: [u8; 256] = {
    let mut class = [b'?'; 256];
    let mut byte = 0;
    while byte < class.len() {
        if (byte as u8).is_ascii_hexdigit() {
            class[byte] = b'0';
        }
        byte += 1;
    }
    class[b'-' as usize] = b'-';
    class
};

impl ImageId {
    /// Returns the id, or `None` if the bytes are not a UUID of the form 8-4-4-4-12.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 36] = bytes.try_into().ok()?;
        // Every name and every row comes here. So there is one branch for all bytes, and not one for each.
        let differs = |(byte, expected): (&u8, &u8)| CLASS[usize::from(*byte)] ^ expected;
        if bytes.iter().zip(UUID).map(differs).fold(0, |all, differs| all | differs) != 0 {
            return None;
        }
        let mut id = [0; 37];
        id[..36].copy_from_slice(bytes);
        Some(ImageId(id))
    }

    pub(crate) fn as_name(&self) -> Name<'_> {
        Name(CStr::from_bytes_with_nul(&self.0).expect("36 hexadecimal digits and dashes, then one NUL"))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[..36]).expect("hexadecimal digits and dashes are ASCII")
    }

    /// Returns the first eight digits as a number, which sorts like the ids themselves if case is ignored.
    pub(crate) fn leading(&self) -> u32 {
        u32::from_str_radix(&self.as_str()[..8], 16).expect("hexadecimal digits")
    }

    /// Returns the id in lower case, for comparing with ids that people typed.
    pub(crate) fn folded(&self) -> ImageId {
        ImageId(self.0.map(|byte| byte.to_ascii_lowercase()))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ImageId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ImageId::new(text.as_bytes())
            .ok_or_else(|| format!("'{text}' is not an image id: expected a UUID of 36 characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        for good in ["a", "...", ".hidden", "a b", "\u{1b}[31m", "-rf"] {
            assert!(NameBuf::new(good.as_bytes()).is_some(), "{good:?}");
        }
        for bad in ["", ".", "..", "/", "a/b", "../x", "a\0b"] {
            assert!(NameBuf::new(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn image_ids_are_uuids_in_either_case() {
        for good in ["01234567-89ab-cdef-0123-456789abcdef", "01234567-89AB-CDEF-0123-456789abcdef"] {
            assert_eq!(ImageId::new(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "../outside/victim",
            "invalid",
            "0123456789abcdef0123456789abcdef",
            "01234567-89ab-cdef-0123-456789abcde",
            "01234567-89ab-cdef-0123-456789abcdef0",
            "0123456-789ab-cdef-0123-456789abcdef",
            "01234567-89ab-cdef-0123-456789abcdeg",
            "{1234567-89ab-cdef-0123-456789abcde}",
        ] {
            assert!(ImageId::new(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn at_each_place_of_an_id_only_some_bytes_are_right() {
        for place in 0..36 {
            for byte in 0..=u8::MAX {
                let mut bytes = *UUID;
                bytes[place] = byte;
                let is_right = if UUID[place] == b'-' { byte == b'-' } else { byte.is_ascii_hexdigit() };
                assert_eq!(ImageId::new(&bytes).is_some(), is_right, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        for (bytes, shown) in [
            (&b"plain.name"[..], "plain.name"),
            (b"it's", "it's"),
            (b"a\nb", "a\\nb"),
            (b"\x1b[31m", "\\u{1b}[31m"),
            (b"bad\xffname", "bad\\xffname"),
            (b"back\\slash", "back\\\\slash"),
            ("schön".as_bytes(), "schön"),
            ("\u{202e}".as_bytes(), "\\u{202e}"),
        ] {
            assert_eq!(escaped(bytes), shown);
        }
    }
}
