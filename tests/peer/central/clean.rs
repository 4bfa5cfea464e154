//! `clean` and `clean --repair` with a central database.

use std::fs;

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::rights::{Immutable, give_to_nobody};
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

fn two_cleaners_at_once(kind: Kind) {
    let c = Central::empty(kind);
    for n in 0..3000 {
        fs::write(c.env.path("invalid").join(nth_id(n)), "").unwrap();
    }
    let conf = c.conf();
    let runs = [0, 1].map(|_| {
        Running::start(c.env.command(BINARY).args(["clean", "--config-file", &conf]), &c.env.outside(""))
    });
    let cleaned: u64 =
        runs.map(|run| run.wait().ok().json()["total_files_cleaned"].as_u64().unwrap()).iter().sum();
    assert_eq!((cleaned, c.env.names("invalid").len()), (3000, 0));
}

#[test]
fn two_cleaners_at_once_on_sqlite() {
    two_cleaners_at_once(SqliteFile);
}

#[test]
fn two_cleaners_at_once_on_mariadb() {
    two_cleaners_at_once(MariaDb);
}

#[test]
fn two_cleaners_at_once_on_postgresql() {
    two_cleaners_at_once(PostgreSql);
}

fn clean_goes_by_the_stall_time(kind: Kind) {
    for (stall, left) in [("100", vec!["future", "young"]), ("0", vec!["future"])] {
        let c = five(kind);
        c.env.file("invalid/new", 1, 0);
        c.env.file("incomplete/old", 1, 1);
        c.env.file_at("incomplete/young", 1, c.env.now - 50.0, c.env.now - 50.0);
        c.env.file("incomplete/future", 1, -5);
        c.run("clean", &["--stall-time", stall]).ok();
        assert_eq!(
            (c.env.names("incomplete"), c.env.names("invalid").len()),
            (left.into_iter().map(str::to_owned).collect(), 0)
        );
        assert_eq!(c.left(), "abcde");
    }
}

#[test]
fn clean_goes_by_the_stall_time_on_sqlite() {
    clean_goes_by_the_stall_time(SqliteFile);
}

#[test]
fn clean_goes_by_the_stall_time_on_mariadb() {
    clean_goes_by_the_stall_time(MariaDb);
}

#[test]
fn clean_goes_by_the_stall_time_on_postgresql() {
    clean_goes_by_the_stall_time(PostgreSql);
}

fn links_in_the_subdirectories(kind: Kind) {
    let c = five(kind);
    let file = c.env.write("file", "x");
    c.env.write("directory/file", "x");
    set_times(std::path::Path::new(&file), 0.0, 0.0);
    for (name, target) in [
        ("file", &file[..]),
        ("directory", c.env.outside("directory").to_str().unwrap()),
        ("nothing", "/nonexistent"),
    ] {
        c.env.link(format!("invalid/{name}"), target);
    }
    c.env.link("incomplete/young", &file);
    c.run("clean", &[]).ok().has(&json!({"invalid_files": 3, "stalled_files": 0}));
    assert!(c.env.names("invalid").is_empty() && c.env.names("incomplete") == ["young"]);
    assert!(fs::exists(&file).unwrap() && c.env.outside("directory/file").exists());
}

#[test]
fn links_in_the_subdirectories_on_sqlite() {
    links_in_the_subdirectories(SqliteFile);
}

#[test]
fn links_in_the_subdirectories_on_mariadb() {
    links_in_the_subdirectories(MariaDb);
}

#[test]
fn links_in_the_subdirectories_on_postgresql() {
    links_in_the_subdirectories(PostgreSql);
}

fn invalid_itself_is_a_link(kind: Kind) {
    let c = five(kind);
    c.env.write("directory/file", "x");
    fs::remove_dir(c.env.path("invalid")).unwrap();
    c.env.link("invalid", c.env.outside("directory"));
    c.env.file("incomplete/old", 1, 100);
    for arguments in [&[][..], &["--repair"]] {
        let run = c.run("clean", arguments);
        assert!(run.code != 0 && run.stderr.contains("invalid"), "{run:?}");
    }
    assert!(c.env.outside("directory/file").exists());
    assert_eq!(c.left(), "abcde");
}

#[test]
fn invalid_itself_is_a_link_on_sqlite() {
    invalid_itself_is_a_link(SqliteFile);
}

#[test]
fn invalid_itself_is_a_link_on_mariadb() {
    invalid_itself_is_a_link(MariaDb);
}

#[test]
fn invalid_itself_is_a_link_on_postgresql() {
    invalid_itself_is_a_link(PostgreSql);
}

fn directories_and_fifos_in_invalid(kind: Kind) {
    let c = five(kind);
    fs::create_dir(c.env.path("invalid/directory")).unwrap();
    c.env.fifo("invalid/fifo");
    c.env.file("invalid/x", 1, 1);
    let run = c.run("clean", &[]).has(&json!({"invalid_files": 1}));
    assert!(run.code <= 1, "{run:?}");
    assert_eq!(c.env.names("invalid"), ["directory", "fifo"]);
}

#[test]
fn directories_and_fifos_in_invalid_on_sqlite() {
    directories_and_fifos_in_invalid(SqliteFile);
}

#[test]
fn directories_and_fifos_in_invalid_on_mariadb() {
    directories_and_fifos_in_invalid(MariaDb);
}

#[test]
fn directories_and_fifos_in_invalid_on_postgresql() {
    directories_and_fifos_in_invalid(PostgreSql);
}

fn subdirectories_are_missing(kind: Kind) {
    let c = five(kind);
    for sub in ["incomplete", "invalid", "queue"] {
        fs::remove_dir(c.env.path(sub)).unwrap();
    }
    c.run("clean", &[]).ok();
    c.prunes_to_cde();
    // A store's directory, misspelt as a cache's: its files are no image of this node.
    let c = Central::empty(kind);
    for sub in ["incomplete", "invalid", "queue"] {
        fs::remove_dir(c.env.path(sub)).unwrap();
    }
    c.env.orphan('a', 1000, 9);
    c.prune("0").fails(2, &["does not look like an image cache"]);
    assert_eq!(c.env.images(), "a");
}

#[test]
fn subdirectories_are_missing_on_sqlite() {
    subdirectories_are_missing(SqliteFile);
}

#[test]
fn subdirectories_are_missing_on_mariadb() {
    subdirectories_are_missing(MariaDb);
}

#[test]
fn subdirectories_are_missing_on_postgresql() {
    subdirectories_are_missing(PostgreSql);
}

fn repair_forgets_adopts_and_drops(kind: Kind) {
    let c = five(kind);
    c.env.orphan('f', 700, 30);
    let ctime_is_now = c.run("clean", &["--repair"]).ok();
    ctime_is_now.has(
        &json!({"ghosts_forgotten": 0, "orphans_adopted": 0, "rows_dropped": 0, "orphans_too_young": 1}),
    );
    c.row(&id('9'), 60);
    c.row("../x", 60);
    let before = c.snapshot();
    c.run("clean", &["--repair", "--dry-run"]).ok();
    assert_eq!(c.snapshot(), before, "a dry run changes nothing");
    c.run("clean", &["--repair"]).ok().has(
        &json!({"ghosts_forgotten": 1, "orphans_adopted": 0, "rows_dropped": 1, "orphans_too_young": 1}),
    );
    let before = c.snapshot();
    c.run("clean", &["--repair"]).ok();
    assert_eq!(c.snapshot(), before, "run twice, the second run changes nothing");
}

#[test]
fn repair_forgets_adopts_and_drops_on_sqlite() {
    repair_forgets_adopts_and_drops(SqliteFile);
}

#[test]
fn repair_forgets_adopts_and_drops_on_mariadb() {
    repair_forgets_adopts_and_drops(MariaDb);
}

#[test]
fn repair_forgets_adopts_and_drops_on_postgresql() {
    repair_forgets_adopts_and_drops(PostgreSql);
}

#[test]
fn clean_needs_neither_database_nor_node() {
    let c = five(SqliteFile);
    c.env.file("incomplete/old", 10, 90);
    c.env.file("invalid/any", 10, 0);
    for database in
        ["mysql+pymysql://g:s3cret@127.0.0.1:1/glance", "", "nonsense", "mysql://g:$nope@h/glance"]
    {
        let conf = c.conf_with(database, "", "");
        c.env.raw(&["clean", "--config-file", &conf]).ok();
        c.env.old("glance-cache-cleaner", &["--config-file", &conf]).ok().silent();
    }
    assert_eq!((c.env.names("incomplete").len(), c.env.names("invalid").len()), (0, 0));
    assert_eq!(c.left(), "abcde");
}

fn immutable_files_in_the_subdirectories(kind: Kind) {
    let c = five(kind);
    for name in ["invalid/1", "invalid/2", "invalid/3", "incomplete/1", "incomplete/2", "incomplete/3"] {
        c.env.file(name, 1, 100);
    }
    let held = ["invalid/2", "incomplete/2"].map(|name| Immutable::new(c.env.path(name)));
    c.run("clean", &[]).code(1).has(&json!({"invalid_files": 2, "stalled_files": 2}));
    assert_eq!(
        (c.env.names("invalid"), c.env.names("incomplete")),
        (vec!["2".to_owned()], vec!["2".to_owned()])
    );
    drop(held);
}

fn invalid_is_not_readable(kind: Kind) {
    let c = five(kind);
    c.env.file("invalid/x", 1, 100);
    c.env.file("incomplete/y", 1, 100);
    give_to_nobody(c.env.dir());
    chmod(&c.env.path("invalid"), 0);
    let run = c.as_nobody(&["clean"], "").says(&["invalid"]);
    let stalled = c.env.names("incomplete").len();
    assert!((run.code, stalled) == (1, 0) || (run.code, stalled) == (3, 1), "{run:?}");
    chmod(&c.env.path("invalid"), 0o755);
    assert_eq!(c.env.names("invalid"), ["x"]);
}

mod as_root {
    use super::*;

    #[test]
    fn immutable_files_in_the_subdirectories_on_sqlite() {
        super::immutable_files_in_the_subdirectories(SqliteFile);
    }

    #[test]
    fn immutable_files_in_the_subdirectories_on_mariadb() {
        super::immutable_files_in_the_subdirectories(MariaDb);
    }

    #[test]
    fn immutable_files_in_the_subdirectories_on_postgresql() {
        super::immutable_files_in_the_subdirectories(PostgreSql);
    }

    #[test]
    fn invalid_is_not_readable_on_sqlite() {
        super::invalid_is_not_readable(SqliteFile);
    }

    #[test]
    fn invalid_is_not_readable_on_mariadb() {
        super::invalid_is_not_readable(MariaDb);
    }

    #[test]
    fn invalid_is_not_readable_on_postgresql() {
        super::invalid_is_not_readable(PostgreSql);
    }
}
