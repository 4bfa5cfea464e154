//! `completion`, and the hidden command by which the scripts find ids.

use std::fs;

use crate::support::env::*;

const SCRIPTS: [(&str, &str); 3] =
    [("bash", "glance-cache.bash"), ("zsh", "_glance-cache"), ("fish", "glance-cache.fish")];

fn committed(file: &str) -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/completions/").to_owned() + file).unwrap()
}

/// Runs the hidden command as a script does: the kind, the word under the cursor, the words before it.
fn ids(env: &TestEnv, kind: &str, word: &str, line: &[&str]) -> Vec<String> {
    let run = env.raw(&[&["__ids", kind, "--", word, "glance-cache"], line].concat()).ok();
    assert_eq!(run.stderr, "", "{line:?}");
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn prints_the_committed_script_without_any_configuration() {
    let env = TestEnv::empty(Sqlite);
    for (shell, file) in SCRIPTS {
        let run = env.raw(&["completion", shell]).ok();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (committed(file).as_str(), ""));
    }
    env.raw(&["completion", "tcsh"]).fails(2, &["invalid value 'tcsh'"]);
}

#[test]
fn the_hidden_command_is_in_no_help_and_offered_by_no_script() {
    let env = TestEnv::empty(Sqlite);
    for arguments in [&["--help"][..], &["-h"], &["help"], &["help", "help"]] {
        assert!(!env.raw(arguments).ok().stdout.contains("ids"), "{arguments:?}");
    }
    for (_, file) in SCRIPTS {
        let calls = committed(file).lines().filter(|line| line.contains("__ids")).count();
        assert_eq!(calls, 1, "{file}");
    }
}

#[test]
fn ids_are_those_of_the_cache_that_the_line_names() {
    let env = TestEnv::sqlite(FIVE);
    env.file(format!("queue/{}", id('f')), 0, 0);
    env.file("queue/README", 0, 0);
    let dir = env.dir().display().to_string();
    let all: Vec<String> = ['a', 'b', 'c', 'd', 'e'].map(id).to_vec();
    assert_eq!(ids(&env, "cached", "", &["prune", "--cache-dir", &dir, "--keep"]), all);
    assert_eq!(ids(&env, "cached", "dd", &["list", &format!("--cache-dir={dir}"), "--image"]), [id('d')]);
    assert_eq!(ids(&env, "queued", "", &["prefetch", "--cache-dir", &dir]), [id('f')]);
    assert_eq!(ids(&env, "queued", "a", &["prefetch", "--cache-dir", &dir]), [""; 0]);
    let conf = env.conf("");
    assert_eq!(ids(&env, "cached", "e", &["prune", "--config-file", &conf, "--keep"]), [id('e')]);
    assert_eq!(
        ids(&env, "cached", "", &["prune", "--config-file", &conf, "--cache-dir", "/tmp", "--keep"]),
        [""; 0]
    );
}

#[test]
fn a_home_directory_that_no_shell_has_expanded() {
    let env = TestEnv::empty(Sqlite);
    fs::create_dir_all(env.outside("home/cache")).unwrap();
    fs::write(env.outside("home/cache").join(id('a')), "").unwrap();
    assert_eq!(ids(&env, "cached", "", &["prune", "--cache-dir", "~/cache", "--keep"]), [id('a')]);
}

#[test]
fn what_is_wrong_with_the_line_or_the_cache_is_passed_over_in_silence() {
    let env = TestEnv::sqlite(FIVE);
    let dir = env.dir().display().to_string();
    let none: [&str; 0] = [];
    assert_eq!(ids(&env, "cached", "", &["prune", "--cache-dir", "/nonexistent", "--keep"]), none);
    assert_eq!(ids(&env, "cached", "", &["prune", "--config-file", "/nonexistent", "--keep"]), none);
    assert_eq!(ids(&env, "cached", "", &["prune", "--keep"]), none);
    assert_eq!(ids(&env, "cached", "", &["prune", "--help", "--cache-dir", &dir]), none);
    assert_eq!(ids(&env, "cached", "", &["nonsense"]), none);
    assert_eq!(ids(&env, "cached", "", &[]), none);
    assert_eq!(
        ids(&env, "cached", "a", &["prune", "--cache-dir", &dir, "--no-such-option", "--keep"]),
        [id('a')]
    );
    assert_eq!(
        ids(&env, "cached", "a", &["prune", "--cache-dir", &dir, "--max-size", "large", "--keep"]),
        [id('a')]
    );
}

#[test]
fn ids_wait_for_no_lock_and_change_nothing() {
    let env = TestEnv::sqlite(FIVE);
    let db = env.db();
    db.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let _held = env.lock("glance-cache-prune");
    let before = env.snapshot();
    let dir = env.dir().display().to_string();
    assert_eq!(ids(&env, "cached", "b", &["prune", "--cache-dir", &dir, "--keep"]), [id('b')]);
    assert_eq!(env.snapshot(), before);
}

#[test]
fn at_most_five_hundred_ids_are_printed() {
    let env = TestEnv::large(Xattr, 700);
    let dir = env.dir().display().to_string();
    assert_eq!(ids(&env, "cached", "", &["prune", "--cache-dir", &dir, "--keep"]).len(), 500);
    assert_eq!(ids(&env, "cached", "0000000", &["prune", "--cache-dir", &dir, "--keep"]).len(), 16);
}
