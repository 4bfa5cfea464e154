//! The command line of `glance-cache`.
//!
//! The parser turns words into amounts and durations, and no more; [`crate::commands`] makes requests of
//! them. The help texts are also in the man pages and in the completion scripts, which tests render from this
//! parser and compare with the committed files.

// The doc comments here are the help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

mod advice;
#[cfg(test)]
mod completion;
#[cfg(test)]
mod manual;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::answer::AnswerArgs;
use crate::commands::clean::CleanArgs;
use crate::commands::completion::{CompletionArgs, IdsArgs};
use crate::commands::flags::{EXIT_CODES, EXIT_CODES_IN_SHORT, Sources};
use crate::commands::list::ListArgs;
use crate::commands::prefetch::PrefetchArgs;
use crate::commands::prune::PruneArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::status::StatusArgs;

/// The version, and what it was built from: the commit and the target.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GLANCE_CACHE_BUILD"), ")");

/// The columns that a help text takes at most.
const WIDTH: usize = 100;

/// Clean, prune, fill and inspect the image caches of OpenStack Glance
///
/// Works directly on the cache directory: no running glance-api, no token and no Python is needed. The
/// directory, its limits and its index are read from Glance's own configuration files, or given as options.
///
/// Options may stand before or after the subcommand.
///
/// Called as glance-cache-cleaner, glance-cache-pruner or glance-cache-prefetcher, it takes the options of
/// that tool and does its work.
#[derive(Debug, Parser)]
#[command(name = "glance-cache", version = VERSION, max_term_width = WIDTH)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

// A subcommand with its options. This is not a doc comment, because clap would take it for a help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Clean(CleanArgs),
    Prune(PruneArgs),
    Prefetch(PrefetchArgs),
    List(ListArgs),
    Status(StatusArgs),
    Serve(ServeArgs),
    Completion(CompletionArgs),
    #[command(name = "__ids", hide = true)]
    Ids(IdsArgs),
    #[command(name = "__answer", hide = true)]
    Answer(AnswerArgs),
}

/// Adds the options of a subcommand to it.
type AddArgs = fn(clap::Command) -> clap::Command;

/// Every subcommand, and what adds its options.
const SUBCOMMANDS: [(&str, AddArgs); 9] = [
    ("clean", CleanArgs::augment_args),
    ("prune", PruneArgs::augment_args),
    ("prefetch", PrefetchArgs::augment_args),
    ("list", ListArgs::augment_args),
    ("status", StatusArgs::augment_args),
    ("serve", ServeArgs::augment_args),
    ("completion", CompletionArgs::augment_args),
    ("__ids", IdsArgs::augment_args),
    ("__answer", AnswerArgs::augment_args),
];

/// Parses the command line. If it is wrong, prints why and ends the process with 2.
pub(crate) fn parse(line: Vec<OsString>) -> Cli {
    let line = options_last(line);
    let mut parser = parser_for(&line);
    let writes_log = !line.get(1).is_some_and(|command| command == "status" || command == "list");
    let matches = parser.try_get_matches_from_mut(line);
    let parsed = matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    parsed.unwrap_or_else(|error| {
        let mut error = error.format(&mut parser);
        advice::advise(&mut error, writes_log);
        error.exit()
    })
}

/// Returns the parser of a command line. If the line begins with a subcommand, the parser has only this one:
/// to make all of them takes a tenth of the time of a run that has nothing to do.
fn parser_for(line: &[OsString]) -> clap::Command {
    let named = line.get(1).and_then(|word| SUBCOMMANDS.iter().find(|(name, _)| word == name));
    let Some((name, add_args)) = named else { return Cli::command() };
    let hidden = name.starts_with("__");
    let subcommand = add_args(clap::Command::new(*name)).hide(hidden);
    clap::Command::new("glance-cache").max_term_width(WIDTH).subcommand(subcommand)
}

/// Moves options that stand before the subcommand behind it, where all of them are known.
fn options_last(mut line: Vec<OsString>) -> Vec<OsString> {
    // A line that begins with the subcommand is not looked at: that would take the time of a whole start.
    if !line.get(1).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-")) {
        return line;
    }
    let command = Cli::command();
    let options = || command.get_subcommands().flat_map(clap::Command::get_arguments);
    let takes_value = |word: &[u8]| {
        let word = String::from_utf8_lossy(word);
        let is_named = |arg: &clap::Arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            // A value may follow a letter at once, as in -j4.
            None => word.len() == 2 && arg.get_short() == word.chars().nth(1),
        };
        options().filter(|arg| is_named(arg)).any(|arg| arg.get_action().takes_values())
    };
    let mut position = 1;
    while let Some(word) = line.get(position).map(|word| word.as_encoded_bytes()) {
        match word {
            b"--help" | b"-h" | b"--version" | b"-V" | b"--" => return line,
            [b'-', ..] => position += if takes_value(word) { 2 } else { 1 },
            name => {
                let is_subcommand = command.get_subcommands().any(|sub| sub.get_name().as_bytes() == name);
                if is_subcommand {
                    line[1..=position].rotate_right(1);
                }
                return line;
            }
        }
    }
    line
}

impl Command {
    /// Returns the name of the command in metrics. A verification is not the clean that removes files: both
    /// have to run.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Clean(args) if args.verify => "verify",
            Command::Clean(_) => "clean",
            Command::Prune(_) => "prune",
            Command::Prefetch(_) => "prefetch",
            Command::List(_) => "list",
            Command::Status(_) => "status",
            Command::Completion(_) => "completion",
            Command::Serve(_) => "serve",
            Command::Ids(_) => "__ids",
            Command::Answer(_) => "__answer",
        }
    }
}

/// Returns the configuration and the cache directory that a command line names while it is still being typed,
/// or `None` if it does not get so far.
///
/// Parsing stops without an error at the first word that is wrong.
pub(crate) fn cache_on(line: &[OsString]) -> Option<(Sources, Option<PathBuf>)> {
    let line = options_last(line.to_vec());
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(line).ok()?;
    let (_, matches) = matches.subcommand()?;
    let dir = matches.try_get_one::<PathBuf>("cache_dir").ok()?;
    Some((Sources::from_arg_matches(matches).ok()?, dir.cloned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Compares what was rendered with the committed files; with GLANCE_CACHE_UPDATE_DOCS set, writes them.
    pub(super) fn compare(files: Vec<(PathBuf, String)>) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (path, text) in files {
            let path = root.join(path);
            if std::env::vars_os().any(|(name, _)| name == "GLANCE_CACHE_UPDATE_DOCS") {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{} is not current: run GLANCE_CACHE_UPDATE_DOCS=1 cargo test rendered",
                path.strip_prefix(root).unwrap().display()
            );
        }
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_parser_of_one_subcommand_is_the_same() {
        let shown = |parser: &clap::Command, name: &str| {
            let sub = parser.get_subcommands().find(|sub| sub.get_name() == name).unwrap();
            let rules: Vec<String> = sub.get_arguments().map(|arg| format!("{arg:?}")).collect();
            let groups: Vec<String> = sub.get_groups().map(|group| format!("{group:?}")).collect();
            let (short, long) = (sub.clone().render_help(), sub.clone().render_long_help());
            format!("{short}{long}{rules:?}{groups:?}{}", sub.is_hide_set())
        };
        let mut whole = Cli::command();
        whole.build();
        let names: Vec<&str> = whole.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names.len(), SUBCOMMANDS.len() + 1, "one more is help: {names:?}");
        for (name, _) in SUBCOMMANDS {
            let mut one = parser_for(&["glance-cache".into(), name.into()]);
            one.build();
            assert!(shown(&one, name) == shown(&whole, name), "{name}");
        }
    }

    #[test]
    fn keeps_the_order_of_configuration_sources() {
        let line = "glance-cache status --config-dir d1 --config-file f1 --config-dir=d2 --config-file=f2";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Status(args) = cli.command else { panic!("status was asked for") };
        assert_eq!(
            format!("{:?}", args.cache.sources.0),
            r#"[Dir("d1"), File("f1"), Dir("d2"), File("f2")]"#
        );
    }

    #[test]
    fn options_are_taken_before_and_after_the_subcommand() {
        let moved = |line: &str| {
            let line = options_last(line.split(' ').map(OsString::from).collect());
            line.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (line, expected) in [
            ("glance-cache prune -n", "glance-cache prune -n"),
            ("glance-cache -n prune", "glance-cache prune -n"),
            ("glance-cache -q --max-size 10G prune -n", "glance-cache prune -q --max-size 10G -n"),
            ("glance-cache --max-size=10G prune", "glance-cache prune --max-size=10G"),
            ("glance-cache --cache-dir list list", "glance-cache list --cache-dir list"),
            ("glance-cache -j 4 prefetch -", "glance-cache prefetch -j 4 -"),
            ("glance-cache -j4 prefetch", "glance-cache prefetch -j4"),
            ("glance-cache --wrong prune", "glance-cache prune --wrong"),
            ("glance-cache -q nonsense", "glance-cache -q nonsense"),
            ("glance-cache --help prune", "glance-cache --help prune"),
            ("glance-cache -q -- prune", "glance-cache -q -- prune"),
            ("glance-cache --cache-dir", "glance-cache --cache-dir"),
            ("glance-cache", "glance-cache"),
        ] {
            assert_eq!(moved(line), expected, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_being_typed_names_its_cache() {
        let dir = |line: &str| {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            cache_on(&line).and_then(|(_, dir)| dir)
        };
        let some = |path: &str| Some(PathBuf::from(path));
        assert_eq!(dir("glance-cache prune --cache-dir /c --keep"), some("/c"));
        assert_eq!(dir("glance-cache prune --cache-dir=/c --no-such-option --keep"), some("/c"));
        assert_eq!(dir("glance-cache prefetch --cache-dir /c --jobs many"), some("/c"));
        assert_eq!(dir("glance-cache -q --cache-dir /c list --sort"), some("/c"));
        assert_eq!(dir("glance-cache list --cache-dir"), None);
        assert_eq!(dir("glance-cache prune --help"), None);
        assert_eq!(dir("glance-cache"), None);
        assert_eq!(dir("glance-cache nonsense --cache-dir /c"), None);
    }

    #[test]
    fn short_help_fits_a_screen() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
            let short = sub.clone().term_width(80).render_help().to_string();
            let long = sub.clone().render_long_help().to_string();
            assert!(short.contains("Exit codes:") && long.contains("Exit codes:"), "{short}\n{long}");
            let lines = short.lines().count();
            assert!(lines <= 36, "{}: {lines} lines\n{short}", sub.get_name());
        }
    }
}
