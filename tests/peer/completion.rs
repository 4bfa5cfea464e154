//! Completion in the real shells: what each offers at the places of a command line where it can know
//! something.

use std::collections::BTreeSet;

use crate::support::env::*;
use crate::support::shells::Shell;

#[track_caller]
fn offers(shell: &Shell, line: &str, words: &[&str]) {
    let words: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(shell.completions(line), words, "{line}");
}

fn subcommands(shell: &Shell) {
    let all = ["clean", "prune", "prefetch", "list", "status", "serve", "completion", "help"];
    offers(shell, "glance-cache ", &all);
    offers(shell, "glance-cache pr", &["prune", "prefetch"]);
    offers(shell, "glance-cache help st", &["status"]);
    offers(shell, "glance-cache __", &[]);
}

/// Each long option that the help of a command has, and no other.
fn options(shell: &Shell) {
    for command in ["clean", "prune", "prefetch", "list", "status"] {
        let help = shell.env.raw(&[command, "--help"]).ok().stdout;
        let words =
            help.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(str::split_whitespace);
        let options: Vec<&str> =
            words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches(',')).collect();
        assert!(options.len() > 15 && options.contains(&"--cache-dir"), "{help}");
        offers(shell, &format!("glance-cache {command} --"), &options);
    }
    offers(shell, "glance-cache prune --cache-dir store --dr", &["--driver", "--dry-run"]);
    offers(shell, "glance-cache clean --max", &[]);
}

fn values(shell: &Shell) {
    offers(shell, "glance-cache prune --driver ", &["sqlite", "xattr", "centralized_db"]);
    offers(shell, "glance-cache prune --format=", &["text", "json"]);
    offers(shell, "glance-cache status --format=", &["text", "json", "prometheus"]);
    offers(shell, "glance-cache status --format j", &["json"]);
    offers(shell, "glance-cache list --sort ", &["image", "state", "last-use", "modified", "size", "hits"]);
    offers(shell, "glance-cache list --state i", &["incomplete", "invalid"]);
    offers(shell, "glance-cache list --state tracked,or", &["tracked,orphan"]);
    offers(shell, "glance-cache completion ", &["bash", "zsh", "fish"]);
    offers(shell, "glance-cache prune --max-size ", &[]);
}

fn directories(shell: &Shell) {
    for option in ["--cache-dir", "--config-dir", "--ironic-config-dir"] {
        offers(shell, &format!("glance-cache prune {option} "), &["store", "some dir"]);
        offers(shell, &format!("glance-cache prune {option}=st"), &["store"]);
    }
}

fn files(shell: &Shell) {
    for option in ["--config-file", "--keep-from", "--database-file", "--sqlite-db", "--ironic-config-file"] {
        offers(shell, &format!("glance-cache prune {option} some."), &["some.conf"]);
        offers(shell, &format!("glance-cache prune {option}=some."), &["some.conf"]);
    }
}

fn ids(shell: &Shell) {
    let (a, b, c) = (id('a'), id('b'), id('c'));
    let dir = shell.env.dir().display();
    offers(shell, &format!("glance-cache prune --cache-dir {dir} --keep "), &[&a, &b]);
    offers(shell, &format!("glance-cache prune --keep x --cache-dir={dir} --keep b"), &[]);
    offers(shell, &format!("glance-cache prune --cache-dir={dir} --keep={}", &b[..4]), &[&b]);
    offers(shell, &format!("glance-cache list --cache-dir {dir} --image aaa"), &[&a]);
    offers(shell, &format!("glance-cache prefetch --cache-dir {dir} "), &[&c]);
    offers(shell, &format!("glance-cache prefetch --cache-dir {dir} --retry cc"), &[&c]);
    offers(shell, "glance-cache prune --config-file some.conf --keep ", &[&a, &b]);
}

/// Where there are no ids to be had, nothing is offered, and no error is shown.
fn no_ids(shell: &Shell) {
    offers(shell, "glance-cache prune --keep ", &[]);
    offers(shell, "glance-cache prune --cache-dir nowhere --keep a", &[]);
    offers(shell, "glance-cache prune --config-file nothing.conf --keep a", &[]);
    offers(shell, "glance-cache prefetch --cache-dir store c", &[]);
}

fn old_names(shell: &Shell) {
    for name in ["glance-cache-cleaner", "glance-cache-pruner", "glance-cache-prefetcher"] {
        offers(shell, &format!("{name} --log-f"), &["--log-file"]);
        offers(shell, &format!("{name} --config-dir st"), &["store"]);
        offers(shell, &format!("{name} --log-file some."), &["some.conf"]);
    }
}

mod bash {
    use super::*;

    #[test]
    fn subcommands() {
        super::subcommands(&Shell::bash());
    }

    #[test]
    fn options() {
        super::options(&Shell::bash());
    }

    #[test]
    fn values() {
        super::values(&Shell::bash());
    }

    #[test]
    fn directories() {
        super::directories(&Shell::bash());
    }

    #[test]
    fn files() {
        super::files(&Shell::bash());
    }

    #[test]
    fn ids() {
        super::ids(&Shell::bash());
    }

    #[test]
    fn no_ids() {
        super::no_ids(&Shell::bash());
    }

    #[test]
    fn old_names() {
        super::old_names(&Shell::bash());
    }

    #[test]
    fn without_bash_completion() {
        let shell = Shell::bash_alone();
        super::subcommands(&shell);
        super::values(&shell);
        super::directories(&shell);
        super::ids(&shell);
    }
}

mod zsh {
    use super::*;

    #[test]
    fn subcommands() {
        super::subcommands(&Shell::zsh());
    }

    #[test]
    fn options() {
        super::options(&Shell::zsh());
    }

    #[test]
    fn values() {
        super::values(&Shell::zsh());
    }

    #[test]
    fn directories() {
        super::directories(&Shell::zsh());
    }

    #[test]
    fn files() {
        super::files(&Shell::zsh());
    }

    #[test]
    fn ids() {
        super::ids(&Shell::zsh());
    }

    #[test]
    fn no_ids() {
        super::no_ids(&Shell::zsh());
    }

    #[test]
    fn old_names() {
        super::old_names(&Shell::zsh());
    }

    #[test]
    fn a_script_that_is_sourced() {
        let shell = Shell::zsh_sourced();
        super::subcommands(&shell);
        super::ids(&shell);
    }
}

mod fish {
    use super::*;

    #[test]
    fn subcommands() {
        super::subcommands(&Shell::fish());
    }

    #[test]
    fn options() {
        super::options(&Shell::fish());
    }

    #[test]
    fn values() {
        super::values(&Shell::fish());
    }

    #[test]
    fn directories() {
        super::directories(&Shell::fish());
    }

    #[test]
    fn files() {
        super::files(&Shell::fish());
    }

    #[test]
    fn ids() {
        super::ids(&Shell::fish());
    }

    #[test]
    fn no_ids() {
        super::no_ids(&Shell::fish());
    }

    #[test]
    fn old_names() {
        super::old_names(&Shell::fish());
    }

    #[test]
    fn a_script_that_is_sourced() {
        let shell = Shell::fish_sourced();
        super::subcommands(&shell);
        super::ids(&shell);
    }
}
