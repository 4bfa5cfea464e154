//! What a person sees: help, status, lists, dry runs and typical errors, each compared with a file in
//! `snapshots`.
//!
//! After a change of a message or of help, write the files anew and read the difference before it is
//! committed:
//!
//! ```text
//! INSTA_UPDATE=always cargo test --test cli screens
//! git diff tests/cli/snapshots
//! ```
//!
//! Where the variable `CI` is set, and with `INSTA_UPDATE=no`, nothing is written, and a difference fails the
//! test. Paths, times, the version and what belongs to this machine (free space, mounts, processes) are
//! replaced by words in brackets.

use std::fs;
use std::path::Path;

use regex::Regex;

use crate::support::env::*;
use crate::support::host::*;
use crate::support::prefetch::Prefetch;

/// Patterns of all that differs from run to run or from machine to machine, and the words in their place.
/// Times keep their width, so that tables stay aligned.
const MASKS: &[(&str, &str)] = &[
    (r"glance-cache \d+\.\d+\.\d+", "glance-cache [VERSION]"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "YYYY-MM-DDThh:mm:ssZ"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "YYYY-MM-DD hh:mm:ssZ"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "YYYY-MM-DD hh:mm"),
    (r"only \d+s old", "only [SECONDS] old"),
    (r"(?m)^(file system +).*$", "$1[FILE SYSTEM]"),
    (r"(?m)^(access times +).*$", "$1[FILE SYSTEM]"),
    (r"process \d+ \([^)]*\)", "process [PROCESS]"),
    (r"[0-9.]+ [KMGT]iB (are )?(free|required)", "[SIZE] ${1}$2"),
];

/// Returns what a command shows, with its exit code: stdout, then stderr.
fn screen(run: &Run, places: &[(&Path, &str)]) -> String {
    let mut text = format!("exit code {}\n", run.code);
    for (name, stream) in [("stdout", &run.stdout), ("stderr", &run.stderr)] {
        if !stream.is_empty() {
            text.extend(["---- ", name, "\n", stream]);
        }
    }
    for (path, word) in places {
        text = text.replace(path.to_str().unwrap().trim_end_matches('/'), word);
    }
    for (pattern, word) in MASKS {
        text = Regex::new(pattern).unwrap().replace_all(&text, *word).into_owned();
    }
    text
}

/// Compares a screen with the file of that name.
macro_rules! assert_screen {
    ($name:literal, $screen:expr) => {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!($name, $screen));
    };
}

// -- Help --

fn help(arguments: &[&str]) -> String {
    let env = TestEnv::empty(Xattr);
    screen(&env.raw(&[arguments, &["-h"]].concat()).ok(), &[])
}

#[test]
fn help_of_all() {
    assert_screen!("help", help(&[]));
}

#[test]
fn help_of_clean() {
    assert_screen!("help_clean", help(&["clean"]));
}

#[test]
fn help_of_list() {
    assert_screen!("help_list", help(&["list"]));
}

#[test]
fn help_of_prefetch() {
    assert_screen!("help_prefetch", help(&["prefetch"]));
}

#[test]
fn help_of_prune() {
    assert_screen!("help_prune", help(&["prune"]));
}

#[test]
fn help_of_status() {
    assert_screen!("help_status", help(&["status"]));
}

// -- One cache --

/// Makes a cache with something of everything: five images, an orphan, a row without a file, and entries in
/// each subdirectory.
fn cache_of_everything() -> TestEnv {
    let env = TestEnv::sqlite(&[
        ('a', 1200 << 20, 50, 1),
        ('b', 300 << 20, 40, 0),
        ('c', 4 << 30, 30, 12),
        ('d', 650 << 20, 20, 3),
        ('e', 90 << 20, 10, 7),
    ]);
    env.orphan('f', 70 << 20, 25);
    env.ghost('9', 60);
    env.file(format!("invalid/{}", id('1')), 5 << 20, 3);
    env.file(format!("incomplete/{}", id('2')), 8 << 20, 30);
    env.file(format!("queue/{}", id('3')), 0, 2);
    env.file("README", 2000, 100);
    env
}

/// Runs a command on it, with a limit of 3 GiB.
fn on_everything(arguments: &[&str]) -> String {
    let env = cache_of_everything();
    shown(&env, &env.run(arguments[0], &arguments[1..]))
}

fn shown(env: &TestEnv, run: &Run) -> String {
    screen(run, &[(env.dir(), "[CACHE]"), (&env.outside(""), "[DIRECTORY]")])
}

#[test]
fn status() {
    assert_screen!("status", on_everything(&["status", "--max-size", "3GiB"]));
}

#[test]
fn status_verbose() {
    assert_screen!("status_verbose", on_everything(&["status", "-v", "--max-size", "3GiB"]));
}

#[test]
fn list() {
    assert_screen!("list", on_everything(&["list", "--human"]));
}

#[test]
fn dry_run_of_prune() {
    let arguments = ["prune", "--dry-run", "--max-size", "3GiB", "--keep", &id('b'), "--format", "text"];
    assert_screen!("dry_run_prune", on_everything(&arguments));
}

#[test]
fn dry_run_of_clean() {
    assert_screen!("dry_run_clean", on_everything(&["clean", "--dry-run", "--format", "text"]));
}

#[test]
fn dry_run_of_clean_repair() {
    let arguments = ["clean", "--repair", "--dry-run", "--format", "text"];
    assert_screen!("dry_run_clean_repair", on_everything(&arguments));
}

#[test]
fn dry_run_of_prefetch() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 3_000_000);
    p.image('b', 500);
    p.update('b', "status = 'deactivated'");
    p.queue("abc");
    assert_screen!("dry_run_prefetch", shown(&p.env, &p.run(&["--dry-run", "--format", "text"])));
}

// -- Errors --

#[test]
fn error_of_a_wrong_directory() {
    let env = TestEnv::empty(Xattr);
    fs::create_dir(env.outside("photos")).unwrap();
    fs::write(env.outside("photos/cat.jpeg"), "").unwrap();
    let directory = env.outside("photos");
    let run = env.raw(&["prune", "--cache-dir", directory.to_str().unwrap(), "--max-size", "1GiB"]);
    assert_screen!("error_wrong_directory", shown(&env, &run));
}

#[test]
fn error_of_a_lock_that_is_held() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("glance-cache-prune");
    let run = env.prune(&["--max-size", "0", "--lock-timeout", "100ms"]);
    assert_screen!("error_locked", shown(&env, &run));
}

#[test]
fn error_of_a_cache_that_shows_no_index() {
    let env = TestEnv::empty(Xattr);
    env.orphan('a', 1000, 5);
    let run = env.raw(&["prune", "--cache-dir", env.dir().to_str().unwrap(), "--max-size", "0"]);
    assert_screen!("error_no_index", shown(&env, &run));
}

// -- All caches of a host --

/// Makes a host with images in each of Ironic's caches, in memory where that is possible: there nobody else
/// takes space.
fn host() -> HostEnv {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new();
    let root = builder().prefix("gch-").tempdir_in(memory).or_else(|_| builder().prefix("gch-").tempdir());
    let root = root.unwrap();
    let base = root.path().join("host");
    let env = HostEnv::at(root, base);
    env.limits(2, 1_000_000);
    for (cache, images) in [("iso", 1..=3), ("instance", 4..=5), ("tftp", 6..=6)] {
        for n in images {
            env.image(cache, &master(n), MIB);
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
    }
    env.use_image("instance", &master(4));
    env
}

/// Returns a screen of a host. Columns are two spaces apart there, because their width depends on the paths.
fn on_host(env: &HostEnv, run: &Run) -> String {
    let text = screen(run, &[(&env.base, "[HOST]"), (&env.path(""), "[DIRECTORY]")]);
    let narrow = Regex::new(" {2,}").unwrap().replace_all(&text, "  ").into_owned();
    Regex::new(r"(?m)^(.*  \[HOST\]/\w+  )\S+").unwrap().replace_all(&narrow, "$1[MOUNT]").into_owned()
}

#[test]
fn status_of_all_caches() {
    let env = host();
    assert_screen!("status_all_caches", on_host(&env, &env.later("status", &["--all-caches"])));
}

#[test]
fn dry_run_of_prune_all_caches() {
    let env = host();
    let run = env.later("prune", &["--all-caches", "--dry-run", "--format", "text"]);
    assert_screen!("dry_run_prune_all_caches", on_host(&env, &run));
}

#[test]
fn dry_run_of_prune_require() {
    let env = host();
    // The next image is needed for the second half of this.
    let wanted = env.available() + (3 << 19);
    assert_screen!(
        "dry_run_prune_require",
        on_host(&env, &env.require(wanted, &["--dry-run", "--format", "text"]))
    );
}
