//! Lists of image ids in files.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, anyhow, ensure};

use crate::exit::Failure;
use crate::names::ImageId;
use crate::output::stdin;
use crate::units::human;

/// Parses a line of a list, naming the place when it is wrong.
pub(crate) fn parse_line<T: FromStr<Err = String>>(text: &str, place: &dyn Display) -> anyhow::Result<T> {
    text.parse().map_err(|e: String| anyhow!(e)).with_context(|| place.to_string())
}

/// More than a million ids: what is longer is no list of images to keep.
const LONGEST_LIST: u64 = 64 << 20;

/// Collects the images to keep. A line that is no id fails the run: the image it meant would be lost.
pub(crate) fn kept_ids(keep: &[ImageId], keep_from: &[PathBuf]) -> Result<HashSet<ImageId>, Failure> {
    let mut keep: HashSet<ImageId> = keep.iter().map(ImageId::folded).collect();
    for file in keep_from {
        read_ids(file, &mut keep).map_err(Failure::usage)?;
    }
    Ok(keep)
}

fn read_ids(file: &Path, keep: &mut HashSet<ImageId>) -> anyhow::Result<()> {
    let shown = || format!("cannot read the images to keep from {}", file.display());
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(stdin())
    } else {
        Box::new(File::open(file).with_context(shown)?)
    };
    let mut text = String::new();
    let length = source.take(LONGEST_LIST + 1).read_to_string(&mut text).with_context(shown)?;
    ensure!(length as u64 <= LONGEST_LIST, "{}: it is longer than {}", shown(), human(LONGEST_LIST));
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or("").trim();
        if !id.is_empty() {
            let id: ImageId = parse_line(id, &format_args!("{}:{}", file.display(), number + 1))?;
            keep.insert(id.folded());
        }
    }
    Ok(())
}
