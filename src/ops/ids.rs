//! Reads lists of image ids from files and from standard input: one id per line, and `#` starts a comment.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::config::{self, Config};
use crate::exit::Failure;
use crate::names::ImageId;
use crate::os::text::read_text;
use crate::output::stdin;
use crate::units::human;

/// The purpose of most lists, in an error.
const TO_KEEP: &str = "the images to keep";
/// The longest list that is read, in bytes. It has more than a million ids.
const LONGEST_LIST: u64 = 64 << 20;

/// Returns the images to keep, each [`ImageId::folded`].
///
/// A line that is not an id fails the run, because the image that was meant would be removed otherwise. So
/// does a list without any id: probably the command that was to write it failed.
pub(crate) fn kept_ids(keep: &[ImageId], keep_from: &[PathBuf]) -> Result<HashSet<ImageId>, Failure> {
    let mut kept: HashSet<ImageId> = keep.iter().map(ImageId::folded).collect();
    for file in keep_from {
        kept.extend(kept_list(file)?);
    }
    Ok(kept)
}

/// Returns the images of the configured list, each [`ImageId::folded`]. A list that cannot be used fails the
/// run.
pub(crate) fn configured_keep(config: &Config) -> Result<HashSet<ImageId>, Failure> {
    let Some(file) = config.optional(&config::KEEP_FROM).map_err(Failure::usage)? else {
        return Ok(HashSet::new());
    };
    let list = match file.value.as_str() {
        "-" => Err(Failure::usage(anyhow!("standard input is only for --keep-from"))),
        path => configured_list(Path::new(path)),
    };
    list.map_err(|failure| Failure {
        error: failure.error.context(format!("cannot use keep_from (set by {})", file.origin)),
        ..failure
    })
}

/// Reads a list of images to keep, which may come through a pipe.
fn kept_list(file: &Path) -> Result<HashSet<ImageId>, Failure> {
    protected(file, &read_ids(TO_KEEP, file).map_err(Failure::usage)?)
}

/// Reads the list that the configuration names. Nobody is there to write to a pipe.
fn configured_list(file: &Path) -> Result<HashSet<ImageId>, Failure> {
    let shown = file.display().to_string();
    let text = read_text(file, LONGEST_LIST).with_context(|| format!("cannot read {TO_KEEP} from {shown}"));
    let ids = text.and_then(|text| ids_in(&text, &shown)).map_err(Failure::usage)?;
    protected(file, &ids)
}

/// Returns the images of a list, which must have some.
fn protected(file: &Path, ids: &[ImageId]) -> Result<HashSet<ImageId>, Failure> {
    if ids.is_empty() {
        let list = if file == Path::new("-") { "standard input".into() } else { file.to_string_lossy() };
        return Err(Failure::usage(anyhow!(
            "the list of images to keep ({list}) has no id, so that it would protect no image"
        ))
        .hint("check that the command that writes the list succeeds; an empty list is not accepted"));
    }
    Ok(ids.iter().map(ImageId::folded).collect())
}

/// Returns the named images, each once and in their order. `None` stands for a list on standard input. `what`
/// names them in an error.
pub(crate) fn named_ids(
    what: &str,
    given: impl IntoIterator<Item = Option<ImageId>>,
) -> Result<Vec<ImageId>, Failure> {
    let mut images = Vec::new();
    for wanted in given {
        match wanted {
            Some(id) => images.push(id),
            None => images.extend(read_ids(what, Path::new("-")).map_err(Failure::usage)?),
        }
    }
    let mut known = HashSet::new();
    images.retain(|id| known.insert(*id));
    Ok(images)
}

/// Reads a list from a file, or from standard input if the file is `-`.
fn read_ids(what: &str, file: &Path) -> Result<Vec<ImageId>> {
    let is_stdin = file == Path::new("-");
    let shown = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let doing = || format!("cannot read {what} from {shown}");
    let source: Box<dyn Read> =
        if is_stdin { Box::new(stdin()) } else { Box::new(File::open(file).with_context(doing)?) };
    let mut text = String::new();
    let length = source.take(LONGEST_LIST + 1).read_to_string(&mut text).with_context(doing)?;
    ensure!(length as u64 <= LONGEST_LIST, "{}: the list is longer than {}", doing(), human(LONGEST_LIST));
    ids_in(&text, &shown)
}

/// Returns the ids in a text.
fn ids_in(text: &str, shown: &str) -> Result<Vec<ImageId>> {
    let mut ids = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or("").trim();
        if !id.is_empty() {
            let place = || format!("{shown}:{}", number + 1);
            ids.push(id.parse().map_err(|e: String| anyhow!(e)).with_context(place)?);
        }
    }
    Ok(ids)
}
