//! What stands in a cache directory: names, identities, images and the other entries.
//!
//! No I/O and no clock here. A [`Name`] is the only way to address a file below an open directory; it is checked once,
//! when it is made, so that nothing read from a directory or an index can lead out of the cache.

use std::ffi::{CStr, CString};
use std::fmt::{self, Write as _};

/// One path component: not empty, not `.` or `..`, no slash and no NUL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Returns the name, or `None` when it is no plain path component.
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

/// Shows the name with every byte that is no printable character escaped, as contract section 6 asks for names from disk.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.as_bytes()))
    }
}

/// A [`Name`] that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameBuf(CString);

impl NameBuf {
    /// Returns the name, or `None` when the bytes are no plain path component.
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
/// Printable characters stay, everything else becomes `\xNN`, `\n`, `\u{..}` and so on; a backslash is doubled, so that the
/// shown form is unambiguous.
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
/// Glance itself makes lower-case ids; the spelling is the file's name and the row's key, so it is never normalised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ImageId([u8; 37]);

impl ImageId {
    /// Returns the id, or `None` when the bytes are no UUID of the form 8-4-4-4-12.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let well_formed = bytes.len() == 36
            && bytes.iter().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => *b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        well_formed.then(|| {
            let mut id = [0; 37];
            id[..36].copy_from_slice(bytes);
            ImageId(id)
        })
    }

    pub(crate) fn as_name(&self) -> Name<'_> {
        Name(CStr::from_bytes_with_nul(&self.0).expect("36 hexadecimal digits and dashes, then one NUL"))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[..36]).expect("hexadecimal digits and dashes are ASCII")
    }

    /// The first eight digits, as a number: what ids sort by, but for the case of letters.
    pub(crate) fn leading(&self) -> u32 {
        u32::from_str_radix(&self.as_str()[..8], 16).expect("hexadecimal digits")
    }

    /// The id in lower case, for comparing ids that people typed.
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

/// Nanoseconds since the epoch, UTC. Spans the years 1677 to 2262; file times outside are clamped.
pub(crate) type Nanos = i64;

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Converts seconds as Glance's indexes keep them (epoch floats) to [`Nanos`], to the nearest nanosecond, clamped.
///
/// The fraction is scaled on its own: one multiplication of the whole value would merge neighbouring floats of today.
pub(crate) fn nanos(seconds: f64) -> Nanos {
    let whole = seconds.trunc();
    let fraction = ((seconds - whole) * 1e9).round();
    (whole as i64).saturating_mul(SECOND).saturating_add(fraction as i64)
}

/// Returns [`Nanos`] as epoch seconds.
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    (nanos / SECOND) as f64 + (nanos % SECOND) as f64 / 1e9
}

/// What one look at a directory entry saw (lstat; no link is followed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) inode: u64,
    /// Length in bytes (`st_size`), as Glance counts.
    pub(crate) size: u64,
    /// Bytes of disk in use (`st_blocks`): what removing the last link frees.
    pub(crate) allocated: u64,
    pub(crate) atime: Nanos,
    pub(crate) mtime: Nanos,
    pub(crate) ctime: Nanos,
    pub(crate) links: u32,
    pub(crate) owner: u32,
}

impl Seen {
    /// The last use as a file's own times tell it: the xattr index and orphans have nothing else.
    pub(crate) fn last_use(&self) -> Nanos {
        self.atime.max(self.mtime)
    }
}

/// What kind of directory entry a name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File,
    Symlink,
    Directory,
    /// FIFO, socket or device.
    Other,
}

/// A row of the index, without its image id.
///
/// Times are epoch seconds as Glance keeps them. SQLite lets any type stand in any column: NULL reads as minus infinity and
/// text or a blob as plus infinity, which is where SQLite's own order puts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What names the row in its index and gives the order on ties: the SQLite rowid.
    pub(crate) key: i64,
    pub(crate) last_accessed: f64,
    pub(crate) last_modified: f64,
    pub(crate) size: i64,
    pub(crate) hits: i64,
}

/// A regular file in the cache directory that is named like an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) id: ImageId,
    pub(crate) seen: Seen,
    /// `None` for orphans, and for every image under the xattr index.
    pub(crate) row: Option<Row>,
}

impl Image {
    /// The last use: what the row says, else the file's own times (the xattr index: the access time alone, as Glance).
    pub(crate) fn last_use(&self, tracked_by_file: bool) -> Nanos {
        match (&self.row, tracked_by_file) {
            (Some(row), _) => nanos(row.last_accessed),
            (None, true) => self.seen.atime,
            (None, false) => self.seen.last_use(),
        }
    }
}

/// A row whose image is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ghost {
    pub(crate) id: ImageId,
    pub(crate) row: Row,
}

/// A row whose id is no UUID, and so can name no image.
#[derive(Clone, Debug)]
pub(crate) struct BadRow {
    pub(crate) key: i64,
    /// The id as it stands in the index, escaped.
    pub(crate) shown: String,
}

/// An entry of `incomplete/`, `invalid/` or `queue/`: a regular file or a symlink, of any name.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) name: NameBuf,
    pub(crate) kind: Kind,
    pub(crate) seen: Seen,
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

    #[test]
    fn epoch_floats_keep_their_order_as_nanoseconds() {
        let now = 1_795_312_250.060_123_f64;
        assert!(nanos(now) < nanos(now.next_up()));
        assert_eq!(nanos(1.5), 1_500_000_000);
        assert_eq!(nanos(-1.5), -1_500_000_000);
        assert_eq!(nanos(f64::NEG_INFINITY), i64::MIN);
        assert_eq!(nanos(f64::INFINITY), i64::MAX);
        assert_eq!(nanos(1e300), i64::MAX);
    }
}
