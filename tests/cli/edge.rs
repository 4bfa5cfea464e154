//! Every measured oddity of Glance's own cleaner and pruner with the sqlite and xattr drivers, one test a row, in the
//! order in which they were measured: what ours does instead. The name of each is the case; where Glance's tools did the
//! right thing, ours does the same. What concerns only the central database is not here.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::json;

use crate::env::*;

const LIMIT: &[&str] = &["--max-size", "3000", "--lock-timeout", "500ms"];

/// Prunes to 3000 bytes, which has to succeed and to leave `c`, `d` and `e`.
#[track_caller]
fn prunes_as_if_nothing_were(env: &TestEnv) {
    env.prune(LIMIT)
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "cache_size_after": 3000}));
    assert_eq!(env.images(), "cde", "{}", env.driver.name());
}

/// Prunes, which has to fail before anything is lost.
#[track_caller]
fn prune_refuses(env: &TestEnv, code: i32, says: &str) {
    env.prune(LIMIT).fails(code, &[says]);
    assert_eq!(env.images(), "abcde", "files were lost: {}", env.driver.name());
}

#[test]
fn row_01_over_the_limit() {
    TestEnv::both(FIVE).iter().for_each(prunes_as_if_nothing_were);
}

#[test]
fn row_02_size_equals_limit() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--max-size", "5000"]).ok().has(&json!({"total_files_pruned": 0}));
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn row_03_limit_zero_spares_the_last_empty_image() {
    for env in TestEnv::both(&[FIVE, &[('f', 0, 1, 0)]].concat()) {
        env.prune(&["--max-size", "0"]).ok();
        assert_eq!(env.left(), "f");
    }
}

#[test]
fn row_04_an_orphan_larger_than_the_limit() {
    for (hours, left) in [(60, "bcde"), (1, "")] {
        for env in TestEnv::both(FIVE) {
            env.orphan('f', 5000, hours);
            env.prune(&["--max-size", "4000"]).ok();
            assert_eq!(env.left(), left, "{} {hours}", env.driver.name());
        }
    }
}

#[test]
fn row_05_a_row_without_a_file() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 100);
    env.prune(LIMIT)
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
    assert_eq!(env.left(), "cde");
}

#[test]
fn row_06_a_rows_size_is_wrong() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("UPDATE cached_images SET size = 900000000");
    prunes_as_if_nothing_were(&env);
}

#[test]
fn row_07_cache_db_missing_or_empty() {
    for empty in [false, true] {
        let env = TestEnv::sqlite(FIVE);
        fs::remove_file(env.path("cache.db")).unwrap();
        if empty {
            fs::write(env.path("cache.db"), "").unwrap();
        }
        // Either every image is an orphan and the limit holds, or it is refused; never "done" and still over.
        let run = env.prune(LIMIT);
        let expected = if run.code == 0 { "cde" } else { "abcde" };
        assert_eq!(env.images(), expected, "{run:?}");
        assert!(run.code == 0 || !run.stderr.is_empty(), "{run:?}");
        assert!(empty || run.code == 0 || !env.path("cache.db").exists(), "an index was made: {run:?}");
    }
}

#[test]
fn row_08_foreign_files_in_the_base() {
    for env in TestEnv::both(FIVE) {
        for name in ["README", ".hidden", "glance-cache-clean", "glance-cache", "checkme", "a.db"] {
            env.file(name, 700, 200);
        }
        prunes_as_if_nothing_were(&env);
        for name in ["README", ".hidden", "glance-cache-clean", "glance-cache", "checkme", "a.db"] {
            assert!(env.path(name).exists(), "{name}");
        }
    }
}

#[test]
fn row_09_a_link_in_the_base_to_a_large_file_outside() {
    for env in TestEnv::both(FIVE) {
        let target = env.outside("large");
        fs::File::create(&target).unwrap().set_len(10_000).unwrap();
        env.link("large", &target);
        env.link(id('1'), &target);
        prunes_once_more_with(&env, '1');
        assert!(target.exists());
    }
}

/// Like [`prunes_as_if_nothing_were`], with an entry of that letter which is no image and stays.
#[track_caller]
fn prunes_once_more_with(env: &TestEnv, letter: char) {
    env.prune(LIMIT).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
    assert_eq!(env.images(), format!("{letter}cde"));
}

#[test]
fn row_10_a_dangling_link_in_the_base() {
    for env in TestEnv::both(FIVE) {
        env.link(id('1'), env.outside("nothing"));
        prunes_once_more_with(&env, '1');
        assert!(!env.outside("nothing").exists());
    }
    let env = TestEnv::sqlite(FIVE);
    env.link(id('1'), env.outside("nothing"));
    env.row(&id('1'), 100);
    let run = env.prune(LIMIT);
    assert!(run.code <= 1, "{run:?}");
    assert_eq!(env.images(), "1cde");
}

#[test]
fn row_11_a_directory_in_the_base() {
    for env in TestEnv::both(FIVE) {
        fs::create_dir(env.path("directory")).unwrap();
        fs::create_dir(env.path(id('1'))).unwrap();
        prunes_once_more_with(&env, '1');
    }
}

#[test]
fn row_12_a_row_that_points_outside() {
    let env = TestEnv::sqlite(FIVE);
    let victim = env.outside("victim");
    fs::write(&victim, "precious").unwrap();
    env.row("../victim", 100);
    env.row(victim.to_str().unwrap(), 100);
    prunes_as_if_nothing_were(&env);
    assert!(victim.exists());
}

#[test]
fn row_13_a_row_that_names_a_directory() {
    let env = TestEnv::sqlite(FIVE);
    for name in ["", "invalid", ".", ".."] {
        env.row(name, 100);
    }
    prunes_as_if_nothing_were(&env);
    assert!(env.path("invalid").is_dir());
}

#[test]
fn row_14_names_that_are_no_uuid() {
    for env in TestEnv::both(FIVE) {
        for name in [
            "image",
            "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaa",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "gggggggg-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
        ] {
            env.file(name, 800, 300);
            if env.driver == Sqlite {
                env.row(name, 300);
            }
        }
        env.prune(LIMIT).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
        assert!(env.path("image").exists() && env.path("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").exists());
        env.run("status", &[]).ok();
    }
}

#[test]
fn row_15_a_name_that_is_no_utf_8() {
    let name = std::ffi::OsStr::from_bytes(b"bad\xff\xfename");
    for env in TestEnv::both(FIVE) {
        for sub in ["", "invalid", "incomplete"] {
            fs::write(env.path(sub).join(name), "").unwrap();
            set_times(&env.path(sub).join(name), 0.0, 0.0);
        }
        prunes_as_if_nothing_were(&env);
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 2}));
        assert!(env.path(name).exists());
    }
}

#[test]
fn row_16_newlines_and_escapes_in_a_name() {
    for env in TestEnv::both(FIVE) {
        for name in ["new\nline", "\x1b[31mred"] {
            fs::write(env.path("invalid").join(name), "").unwrap();
        }
        let run = env.clean(&["-v"]).ok().has(&json!({"total_files_cleaned": 2}));
        assert!(
            !run.stdout.contains('\x1b') && !run.stderr.contains('\x1b') && !run.stderr.contains("new\nline"),
            "{run:?}"
        );
    }
}

#[test]
fn row_17_last_use_that_is_text_or_null() {
    let env = TestEnv::sqlite(FIVE);
    for (letter, value) in [('a', "'yesterday'"), ('e', "NULL"), ('c', "x'00ff'"), ('d', "'nan'")] {
        env.sql(&format!(
            "UPDATE cached_images SET last_accessed = {value} WHERE image_id = '{}'",
            id(letter)
        ));
    }
    env.prune(LIMIT).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
    assert_eq!(env.left().len(), 3);
    env.list();
    env.run("status", &[]).ok();
}

#[test]
fn row_20_a_row_that_cannot_be_deleted() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER no BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END");
    let run = env.prune(LIMIT);
    assert!(run.code == 1 || run.code == 3, "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn row_21_the_index_is_reserved_by_a_writer() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    prune_refuses(&env, 3, "cache.db");
    env.list();
}

#[test]
fn row_22_the_index_is_held_by_a_writer() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    prune_refuses(&env, 3, "cache.db");
}

#[test]
fn row_23_the_lock_of_the_index_start_up_is_held() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("image_cache_db_init");
    prunes_as_if_nothing_were(&env);
}

#[test]
fn row_24_the_index_is_garbage_or_truncated() {
    let whole = TestEnv::sqlite(FIVE);
    whole.sql(
        "INSERT INTO cached_images (image_id, checksum) VALUES (hex(randomblob(16)), hex(randomblob(9000)))",
    );
    let bytes = fs::read(whole.path("cache.db")).unwrap();
    for garbage in [
        b"garbage, and more of it, but no database".to_vec(),
        bytes[..bytes.len() - 5000].to_vec(),
        bytes[..100].to_vec(),
    ] {
        let env = TestEnv::sqlite(FIVE);
        fs::write(env.path("cache.db"), &garbage).unwrap();
        env.file("invalid/x", 1, 1);
        prune_refuses(&env, 3, "cache.db");
        env.clean(&[]).ok().has(&json!({"invalid_files": 1}));
    }
}

#[test]
fn row_25_the_index_has_another_schema() {
    let tables = [
        "CREATE TABLE cached_images (id INTEGER)",
        "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY)",
        "CREATE VIEW cached_images AS SELECT 1 AS image_id",
        "CREATE TABLE other (image_id TEXT)",
    ];
    for sql in tables {
        let env = TestEnv::sqlite(FIVE);
        env.sql(&format!("DROP TABLE cached_images; {sql}"));
        let run = env.prune(LIMIT);
        assert!([2, 3].contains(&run.code) && run.stderr.contains("cache.db"), "{sql}: {run:?}");
        assert_eq!(env.images(), "abcde");
    }
}

#[test]
fn row_26_write_ahead_log_with_a_reader_at_the_limit() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("PRAGMA journal_mode = WAL");
    let reader = env.db();
    reader.execute_batch("BEGIN; SELECT * FROM cached_images;").unwrap();
    env.prune(&["--max-size", "5000"]).ok().has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn row_27_an_uncommitted_writer_at_the_limit() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN; UPDATE cached_images SET hits = hits + 1").unwrap();
    let run = env.prune(&["--max-size", "5000", "--lock-timeout", "500ms"]);
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    drop(writer);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn row_28_the_index_is_elsewhere() {
    let env = TestEnv::sqlite(FIVE);
    fs::rename(env.path("cache.db"), env.outside("index.db")).unwrap();
    let conf = env.conf(&format!(
        "image_cache_max_size = 3000\nimage_cache_sqlite_db = {}",
        env.outside("index.db").display()
    ));
    env.raw(&["prune", "--config-file", &conf]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.images(), "cde");
    let conf = env.conf("image_cache_max_size = 0\nimage_cache_sqlite_db = no/such/index.db");
    let run = env.raw(&["prune", "--config-file", &conf]);
    assert!(run.code > 0 && run.stderr.contains("no/such/index.db"), "{run:?}");
    assert_eq!(env.images(), "cde");
    assert!(!env.path("no").exists());
}

#[test]
fn row_29_xattr_needs_no_module_and_makes_no_index() {
    let env = TestEnv::xattr(FIVE);
    prunes_as_if_nothing_were(&env);
    assert!(
        !env.path("cache.db").exists()
            && !env.path("checkme").exists()
            && !env.path("image_cache_db_init").exists()
    );
}

#[test]
fn row_31_the_driver_in_another_case() {
    for (driver, name) in [(Xattr, "Xattr"), (Xattr, "XATTR"), (Sqlite, "SQLite")] {
        let env = TestEnv::new(driver, FIVE);
        let text = format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = {name}\nimage_cache_max_size = 3000",
            env.dir().display()
        );
        let conf = env.write("g.conf", text);
        env.raw(&["prune", "--config-file", &conf]).ok().has(&json!({"total_files_pruned": 2}));
        assert_eq!(env.left(), "cde");
        assert!(driver == Sqlite || !env.path("cache.db").exists());
    }
}

/// Prune and clean with an `image_cache_dir` line, under both names.
fn with_cache_dir(env: &TestEnv, line: &str, codes: (i32, i32), says: &str) {
    for driver in ["sqlite", "xattr"] {
        let conf = env.write(
            "g.conf",
            format!("[DEFAULT]\nimage_cache_driver = {driver}\nimage_cache_max_size = 3000\n{line}\n"),
        );
        for command in ["prune", "clean"] {
            env.raw(&[command, "--config-file", &conf]).fails(codes.0, &[says]);
        }
        for tool in ["glance-cache-pruner", "glance-cache-cleaner"] {
            env.old(tool, &["--config-file", &conf]).fails(codes.1, &[says]);
        }
    }
}

#[test]
fn row_32_cache_dir_unset() {
    with_cache_dir(&TestEnv::empty(Xattr), "", (2, 1), "image_cache_dir");
}

#[test]
fn row_33_cache_dir_empty() {
    let env = TestEnv::empty(Xattr);
    with_cache_dir(&env, "image_cache_dir =", (2, 1), "image_cache_dir");
    assert!(!env.outside("incomplete").exists());
}

#[test]
fn row_34_cache_dir_relative() {
    for env in TestEnv::both(FIVE) {
        let driver = env.driver.name();
        let conf = env.write("g.conf", format!("[DEFAULT]\nimage_cache_driver = {driver}\nimage_cache_max_size = 3000\nimage_cache_dir = ./cache/\n"));
        env.raw(&["prune", "--config-file", &conf]).ok();
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn row_35_cache_dir_missing() {
    let env = TestEnv::empty(Xattr);
    with_cache_dir(&env, &format!("image_cache_dir = {}", env.outside("a/b").display()), (0, 0), "");
    assert!(!env.outside("a").exists());
}

#[test]
fn row_36_cache_dir_is_a_file() {
    let env = TestEnv::empty(Xattr);
    let file = env.write("file", "x");
    let run = env.raw(&["prune", "--cache-dir", &file, "--driver", "xattr"]);
    assert!([2, 3].contains(&run.code) && run.stderr.contains(&file), "{run:?}");
    let conf =
        env.write("g.conf", format!("[DEFAULT]\nimage_cache_dir = {file}\nimage_cache_driver = xattr\n"));
    env.old("glance-cache-pruner", &["--config-file", &conf]).fails(1, &[&file]);
    assert_eq!(fs::read_to_string(file).unwrap(), "x");
}

#[test]
fn row_39_two_pruners_at_once() {
    for env in [TestEnv::large(Sqlite, 400), TestEnv::large(Xattr, 400)] {
        let mut commands = [env.of_cache("prune"), env.of_cache("prune")];
        let runs =
            commands.each_mut().map(|c| Running::start(c.args(["--max-size", "200"]), &env.outside("")));
        for run in runs {
            run.wait().ok();
        }
        assert_eq!(env.names("").iter().filter(|name| name.len() == 36).count(), 200);
    }
}

#[test]
fn row_40_two_cleaners_at_once() {
    for env in TestEnv::both(&[]) {
        for n in 0..5000 {
            fs::write(env.path("invalid").join(nth_id(n)), "").unwrap();
        }
        let mut commands = [env.of_cache("clean"), env.of_cache("clean")];
        let runs = commands.each_mut().map(|c| Running::start(c, &env.outside("")));
        let cleaned: u64 =
            runs.map(|r| r.wait().ok().json()["total_files_cleaned"].as_u64().unwrap()).iter().sum();
        assert_eq!((cleaned, env.names("invalid").len()), (5000, 0));
    }
}

#[test]
fn row_41_clean_with_a_stall_time() {
    for env in TestEnv::both(FIVE) {
        env.file("invalid/new", 1, 0);
        env.file("invalid/future", 1, -5);
        env.file("incomplete/old", 1, 1);
        env.file_at("incomplete/young", 1, env.now - 50.0, env.now - 50.0);
        env.file("incomplete/future", 1, -5);
        env.clean(&["--stall-time", "100"]).ok().has(&json!({"stalled_files": 1}));
        assert_eq!(env.names("incomplete"), ["future", "young"]);
        assert!(!env.path("invalid/new").exists());
    }
}

#[test]
fn row_42_clean_with_no_stall_time() {
    for env in TestEnv::both(FIVE) {
        env.file("incomplete/old", 1, 1);
        env.file("incomplete/future", 1, -5);
        env.clean(&["--stall-time", "0"]).ok();
        assert_eq!(env.names("incomplete"), ["future"]);
    }
}

/// A file, a directory with a file, and nothing at all outside, to be linked to.
fn link_targets(env: &TestEnv) -> [std::path::PathBuf; 3] {
    env.write("file", "x");
    env.write("directory/file", "x");
    [env.outside("file"), env.outside("directory"), env.outside("nothing")]
}

#[test]
fn row_43_links_in_invalid() {
    for env in TestEnv::both(FIVE) {
        for (n, target) in link_targets(&env).iter().enumerate() {
            env.link(format!("invalid/{n}"), target);
        }
        env.clean(&[]).ok().has(&json!({"invalid_files": 3}));
        assert_eq!(env.names("invalid"), [""; 0]);
        assert!(env.outside("file").exists() && env.outside("directory/file").exists());
    }
}

#[test]
fn row_44_links_in_incomplete_have_their_own_age() {
    for env in TestEnv::both(FIVE) {
        let [target, directory, nothing] = link_targets(&env);
        set_times(&target, 0.0, 0.0);
        env.link("incomplete/young", &target);
        for (name, to) in [("old", &target), ("old-directory", &directory), ("old-dangling", &nothing)] {
            env.link(format!("incomplete/{name}"), to);
            let long_ago = Timespec { tv_sec: 1000, tv_nsec: 0 };
            let times = Timestamps { last_access: long_ago, last_modification: long_ago };
            let path = env.path(format!("incomplete/{name}"));
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        env.clean(&[]).ok().has(&json!({"stalled_files": 3}));
        assert_eq!(env.names("incomplete"), ["young"]);
        assert!(target.exists() && env.outside("directory/file").exists());
    }
}

#[test]
fn row_45_invalid_itself_is_a_link() {
    for env in TestEnv::both(FIVE) {
        let [_, directory, _] = link_targets(&env);
        fs::remove_dir(env.path("invalid")).unwrap();
        env.link("invalid", &directory);
        env.file("incomplete/old", 1, 100);
        let run = env.clean(&[]);
        assert!(run.code != 0 && run.stderr.contains("invalid"), "{run:?}");
        assert!(directory.join("file").exists());
    }
}

#[test]
fn row_46_directories_and_fifos_in_invalid() {
    for env in TestEnv::both(FIVE) {
        fs::create_dir(env.path("invalid/directory")).unwrap();
        env.fifo("invalid/fifo");
        env.file("invalid/x", 1, 1);
        let run = env.clean(&[]).has(&json!({"invalid_files": 1}));
        assert!(run.code <= 1, "{run:?}");
        assert_eq!(env.names("invalid"), ["directory", "fifo"]);
    }
}

#[test]
fn row_50_subdirectories_missing() {
    for env in TestEnv::both(FIVE) {
        for sub in ["incomplete", "queue"] {
            fs::remove_dir(env.path(sub)).unwrap();
        }
        env.file("invalid/x", 1, 1);
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 1}));
        prunes_as_if_nothing_were(&env);
        env.list();
    }
}

/// Rows that only root can arrange.
mod as_root {
    use super::*;
    use crate::root::*;

    #[test]
    #[ignore = "needs root (chattr): run tests/run as root"]
    fn row_18_the_least_recently_used_image_is_immutable() {
        for env in TestEnv::both(FIVE) {
            let _a = Immutable::new(env.path(id('a')));
            env.prune(LIMIT)
                .fails(1, &[&id('a')])
                .has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
            assert_eq!(env.left(), "ade");
        }
    }

    #[test]
    #[ignore = "needs root (chattr, other users): run tests/run as root"]
    fn row_19_the_index_is_not_writable() {
        let env = TestEnv::sqlite(FIVE);
        let immutable = Immutable::new(env.path("cache.db"));
        prune_refuses(&env, 3, "cache.db");
        assert_eq!(env.rows(), "abcde");
        env.list();
        drop(immutable);
        give_to_nobody(env.dir());
        chmod(&env.path("cache.db"), 0o444);
        env.as_nobody("prune", LIMIT).fails(3, &["cache.db"]);
        assert_eq!(env.left(), "abcde");
    }

    #[test]
    #[ignore = "needs root (a mount): run tests/run as root"]
    fn row_30_a_file_system_without_extended_attributes() {
        let mounted = Mounted::of("ramfs", Xattr);
        let env = &mounted.env;
        for (letter, size, hours, _) in FIVE {
            env.orphan(*letter, *size, *hours);
        }
        let run = env.prune(LIMIT);
        let expected = if run.code == 0 { "cde" } else { "abcde" };
        assert_eq!(env.images(), expected, "{run:?}");
        assert!(!env.path("cache.db").exists() && !env.path("checkme").exists(), "{:?}", env.names(""));
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn row_36_cache_dir_is_not_searchable() {
        for mode in [0o000, 0o600, 0o444] {
            for env in TestEnv::both(FIVE) {
                env.file("invalid/x", 1, 1);
                give_to_nobody(env.dir());
                chmod(env.dir(), mode);
                for arguments in [LIMIT, &[]] {
                    let command = if arguments.is_empty() { "clean" } else { "prune" };
                    env.as_nobody(command, arguments).fails(3, &[env.dir().to_str().unwrap()]);
                }
                assert_eq!((env.left().as_str(), env.names("invalid").len()), ("abcde", 1));
            }
        }
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn row_37_cache_dir_is_not_writable() {
        for env in TestEnv::both(FIVE) {
            give_to_nobody(env.dir());
            chmod(env.dir(), 0o555);
            let run = env.as_nobody("prune", LIMIT);
            assert!([1, 3].contains(&run.code) && !run.stderr.is_empty(), "{run:?}");
            assert_eq!(env.left(), "abcde");
        }
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn row_38_the_index_is_not_readable() {
        let env = TestEnv::sqlite(FIVE);
        give_to_nobody(env.dir());
        chmod(&env.path("cache.db"), 0);
        env.as_nobody("prune", LIMIT).fails(3, &["cache.db"]);
        assert_eq!(env.left(), "abcde");
    }

    #[test]
    #[ignore = "needs root (chattr): run tests/run as root"]
    fn row_47_an_immutable_file_in_invalid() {
        for env in TestEnv::both(FIVE) {
            for name in ["invalid/1", "invalid/2", "invalid/3", "incomplete/4"] {
                env.file(name, 1, 100);
            }
            let _held = Immutable::new(env.path("invalid/2"));
            env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 3}));
            assert_eq!((env.names("invalid"), env.names("incomplete")), (vec!["2".to_string()], vec![]));
        }
    }

    #[test]
    #[ignore = "needs root (chattr): run tests/run as root"]
    fn row_48_an_immutable_file_in_incomplete() {
        for env in TestEnv::both(FIVE) {
            for name in ["incomplete/1", "incomplete/2", "incomplete/3"] {
                env.file(name, 1, 100);
            }
            let _held = Immutable::new(env.path("incomplete/2"));
            env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 2, "stalled_files": 2}));
            assert_eq!(env.names("incomplete"), ["2"]);
        }
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn row_49_invalid_is_not_readable() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 100);
            env.file("incomplete/y", 1, 100);
            give_to_nobody(env.dir());
            chmod(&env.path("invalid"), 0);
            // It goes on with the rest and says so, or does not start; the contract leaves it open.
            let run = env.as_nobody("clean", &[]).says(&["invalid"]);
            let stalled = env.names("incomplete").len();
            assert!((run.code, stalled) == (1, 0) || (run.code, stalled) == (3, 1), "{run:?}");
            chmod(&env.path("invalid"), 0o755);
            assert_eq!(env.names("invalid"), ["x"]);
        }
    }
}
