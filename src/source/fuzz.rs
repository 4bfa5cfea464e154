//! Locations of images, open and sealed, with any bytes.

use super::{file, location, rbd, s3, sealed, swift_place};
use crate::fuzzing::{fuzz, kind};

#[test]
fn locations_of_any_bytes() {
    fuzz("location", |bytes| {
        let url = String::from_utf8_lossy(bytes);
        let _ = (location::shown(&url), location::store_type(&url));
        let parsed = [
            kind(&location::scheme(&url)),
            kind(&location::parse(&url)),
            kind(&file::parse(&url)),
            kind(&rbd::parse(&url)),
            kind(&s3::parse(&url)),
            kind(&swift_place::parse(&url)),
        ];
        parsed.join(" ")
    });
}

#[test]
fn sealed_locations_of_any_bytes() {
    fuzz("sealed", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (key, sealed) = text.split_once('\n').unwrap_or(("0123456789abcdef", &text));
        let opened = sealed::open(key, sealed.trim_end());
        format!("{} {}", kind(&sealed::check_key(key)), kind(&opened))
    });
}
