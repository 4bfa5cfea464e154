//! Lists of images with any bytes.

use std::fs;

use super::ids::kept_ids;
use crate::fuzzing::fuzz;
use crate::units::{given_age, given_size};

#[test]
fn keep_lists_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("keep");
    fuzz("keep-list", |bytes| {
        fs::write(&list, bytes).unwrap();
        let text = String::from_utf8_lossy(bytes);
        let _ = (given_size(&text), given_age(&text));
        match kept_ids(&[], std::slice::from_ref(&list)) {
            Ok(ids) => format!("{} ids", if ids.len() > 1 { "many" } else { "one" }),
            Err(failure) => format!("{:#}", failure.error),
        }
    });
}
