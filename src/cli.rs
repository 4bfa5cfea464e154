//! The command line under the new name.
//!
//! Only what was typed: words become amounts and durations here, what they mean is found out in `commands`. The help texts
//! are the man pages and the completions, too; a test compares the committed files with what this parser gives.

// The doc comments here are the help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::{Parser, Subcommand};

use crate::commands::clean::CleanArgs;
use crate::commands::flags::{EXIT_CODES, EXIT_CODES_IN_SHORT};
use crate::commands::list::ListArgs;
use crate::commands::prefetch::PrefetchArgs;
use crate::commands::prune::PruneArgs;
use crate::commands::status::StatusArgs;

/// Clean, prune, fill and inspect the image caches of OpenStack Glance
///
/// Works directly on the cache directory: no running glance-api, no token and no Python is needed. The directory, its limits
/// and its index are read from Glance's own configuration files, or given as options.
///
/// Called as glance-cache-cleaner, glance-cache-pruner or glance-cache-prefetcher, it takes the options of that tool and
/// does its work.
#[derive(Debug, Parser)]
#[command(name = "glance-cache", version, max_term_width = 100)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    Clean(CleanArgs),
    Prune(PruneArgs),
    Prefetch(PrefetchArgs),
    List(ListArgs),
    Status(StatusArgs),
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::{Command, CommandFactory as _};
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn keeps_the_order_of_configuration_sources() {
        let cli = Cli::try_parse_from([
            "glance-cache",
            "status",
            "--config-dir",
            "d1",
            "--config-file",
            "f1",
            "--config-dir=d2",
            "--config-file=f2",
        ])
        .unwrap();
        let Action::Status(args) = cli.command else { panic!("status was asked for") };
        assert_eq!(
            format!("{:?}", args.cache.sources.0),
            r#"[Dir("d1"), File("f1"), Dir("d2"), File("f2")]"#
        );
    }

    /// Renders the man pages and completions; with GLANCE_CACHE_UPDATE_DOCS set, writes them.
    #[test]
    fn man_pages_and_completions_are_current() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut command = Cli::command();
        command.build();
        let mut page = |command: &Command, name: &str| {
            let man = clap_mangen::Man::new(command.clone())
                .title(name.to_uppercase())
                .manual("glance-cache manual")
                .source(format!("glance-cache {}", env!("CARGO_PKG_VERSION")));
            let mut text = Vec::new();
            man.render(&mut text).unwrap();
            files.push((root.join("man").join(format!("{name}.1")), text));
        };
        page(&command, "glance-cache");
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            page(sub, &format!("glance-cache-{}", sub.get_name()));
        }
        for (shell, name) in [
            (Shell::Bash, "glance-cache.bash"),
            (Shell::Zsh, "_glance-cache"),
            (Shell::Fish, "glance-cache.fish"),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "glance-cache", &mut text);
            files.push((root.join("completions").join(name), text));
        }
        for (path, text) in files {
            if std::env::vars_os().any(|(name, _)| name == "GLANCE_CACHE_UPDATE_DOCS") {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let committed = std::fs::read(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{} is not current: run GLANCE_CACHE_UPDATE_DOCS=1 cargo test man_pages",
                path.strip_prefix(root).unwrap().display()
            );
        }
    }
}
