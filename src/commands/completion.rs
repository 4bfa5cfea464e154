//! `completion`: prints the script with which a shell completes command lines of this program, and the ids of
//! images that such a script asks for.
//!
//! The scripts are the files in `completions/`. A hidden command prints the ids. It only reads the names in
//! one directory of the cache: it opens no index and no database, and takes no lock. If anything fails, it
//! prints nothing, because a shell would show the message in the middle of the line that is being typed.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cache::dir::CachePlace;
use crate::commands::flags::Sources;
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::names::ImageId;
use crate::run::Run;

/// At most this many ids are printed. More would not help the person who is typing.
const MOST_IDS: usize = 500;

/// At most this many names are read, so that the shell does not have to wait for a huge cache.
const MOST_NAMES: usize = 200_000;

const EXIT_CODES_OF_COMPLETION: &str = "Exit codes:
  0    done
  1    the script could not be written to standard output
  2    wrong usage";

/// Print the completion script of a shell
///
/// With the script, the shell completes subcommands, options, their values, and the ids of cached and queued
/// images. Needs no configuration and no cache.
///
/// glance-cache-completion(8) shows how the script is installed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_OF_COMPLETION)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(super) shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script of a shell.
pub(crate) fn run(run: &Run, args: &CompletionArgs) -> Exit {
    run.output.print(match args.shell {
        Shell::Bash => include_str!("../../completions/glance-cache.bash"),
        Shell::Zsh => include_str!("../../completions/_glance-cache"),
        Shell::Fish => include_str!("../../completions/glance-cache.fish"),
    });
    if run.output.has_failed() { Exit::Incomplete } else { Exit::Done }
}

/// For the completion scripts: print the ids that the word under the cursor may become
#[derive(Debug, Args)]
pub(crate) struct IdsArgs {
    /// Which images
    pub(super) kind: IdKind,
    /// The word so far
    pub(super) word: String,
    /// The words before it, from the name of the program on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) line: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum IdKind {
    Cached,
    Queued,
}

/// Prints the ids that begin with a word, from the cache that the configuration or this directory names.
pub(crate) fn ids(run: &Run, args: &IdsArgs, sources: Sources, cache_dir: Option<PathBuf>) {
    let cache_dir = cache_dir.map(|dir| below_home(run, dir));
    let selection = Selection { sources: sources.0, cache_dir, ..Selection::default() };
    if let Ok(mut ids) = matching(run, args, selection) {
        ids.sort_unstable();
        run.output.print(&ids.concat());
    }
}

/// Returns the matching ids, one per line, in directory order.
fn matching(run: &Run, args: &IdsArgs, selection: Selection) -> Result<Vec<String>, Failure> {
    let config = selection.read_to_look(run)?;
    let Some(dir) = Settings::new(&config, selection)?.open()? else {
        return Ok(Vec::new());
    };
    let place = match args.kind {
        IdKind::Cached => CachePlace::Base,
        IdKind::Queued => CachePlace::Queue,
    };
    let (mut read, mut ids) = (0, Vec::new());
    let listed = dir.names(place, |name| {
        read += 1;
        let id = ImageId::new(name.as_bytes()).filter(|id| id.as_str().starts_with(&args.word));
        ids.extend(id.map(|id| format!("{id}\n")));
        if ids.len() < MOST_IDS && read < MOST_NAMES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    listed.map_err(Failure::cannot_start)?;
    Ok(ids)
}

/// Replaces a leading `~`, which the shell does not expand in a word that is being completed.
fn below_home(run: &Run, path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), run.environment.get(&OsString::from("HOME"))) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path,
    }
}
