//! Files of oslo.config, and the values in them, with any bytes.

use super::oslo;
use crate::fuzzing::{fuzz, kind};

#[test]
fn config_files_of_any_bytes() {
    fuzz("config", |bytes| {
        let sections = match oslo::parse(bytes) {
            Ok(sections) => sections,
            Err(error) => return format!("{error:?}"),
        };
        let mut kinds = format!("{} ", sections.len().min(3));
        for assignment in sections.iter().flat_map(|section| &section.assignments).take(50) {
            let value = &assignment.value;
            let _ = (oslo::integer(value), oslo::boolean(value), oslo::list(value));
            kinds += &kind(&oslo::dictionary(value));
            kinds += &kind(&oslo::interpolate(value, |name| {
                if name.len() > 8 { Err("too long") } else { Ok(name.to_owned()) }
            }));
        }
        kinds
    });
}
