//! The index when it is not as Glance leaves it: rows without files, wrong sizes, odd values, triggers,
//! another schema, garbage, links, nothing at all. Whatever it refuses, rows and files agree afterwards.

use std::fs;

use serde_json::json;

use crate::support::env::*;

#[test]
fn a_row_without_a_file() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 100);
    env.prune(TO_3000)
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_rows_size_is_wrong() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("UPDATE cached_images SET size = 900000000");
    env.prunes_to_cde();
}

#[test]
fn cache_db_missing_or_empty() {
    for empty in [false, true] {
        let env = TestEnv::sqlite(FIVE);
        fs::remove_file(env.path("cache.db")).unwrap();
        if empty {
            fs::write(env.path("cache.db"), "").unwrap();
        }
        // Either every image is an orphan and the limit holds, or it is refused; never "done" and still over.
        let run = env.prune(TO_3000);
        let expected = if run.code == 0 { "cde" } else { "abcde" };
        assert_eq!(env.images(), expected, "{run:?}");
        assert!(run.code == 0 || !run.stderr.is_empty(), "{run:?}");
        assert!(empty || run.code == 0 || !env.path("cache.db").exists(), "an index was made: {run:?}");
    }
}

#[test]
fn last_use_that_is_text_or_null() {
    let env = TestEnv::sqlite(FIVE);
    for (letter, value) in [('a', "'yesterday'"), ('e', "NULL"), ('c', "x'00ff'"), ('d', "'nan'")] {
        env.sql(&format!(
            "UPDATE cached_images SET last_accessed = {value} WHERE image_id = '{}'",
            id(letter)
        ));
    }
    env.prune(TO_3000).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
    assert_eq!(env.left().len(), 3);
    env.list();
    env.run("status", &[]).ok();
}

#[test]
fn a_row_that_cannot_be_deleted() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER no BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END");
    let run = env.prune(TO_3000);
    assert!(run.code == 1 || run.code == 3, "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn the_index_is_garbage_or_truncated() {
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
        env.prune_refuses(3, "cache.db");
        env.clean(&[]).ok().has(&json!({"invalid_files": 1}));
    }
}

#[test]
fn the_index_has_another_schema() {
    let tables = [
        "CREATE TABLE cached_images (id INTEGER)",
        "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY)",
        "CREATE VIEW cached_images AS SELECT 1 AS image_id",
        "CREATE TABLE other (image_id TEXT)",
    ];
    for sql in tables {
        let env = TestEnv::sqlite(FIVE);
        env.sql(&format!("DROP TABLE cached_images; {sql}"));
        let run = env.prune(TO_3000);
        assert!([2, 3].contains(&run.code) && run.stderr.contains("cache.db"), "{sql}: {run:?}");
        assert_eq!(env.images(), "abcde");
    }
}

#[test]
fn the_index_is_elsewhere() {
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
fn xattr_needs_no_module_and_makes_no_index() {
    let env = TestEnv::xattr(FIVE);
    env.prunes_to_cde();
    assert!(
        !env.path("cache.db").exists()
            && !env.path("checkme").exists()
            && !env.path("image_cache_db_init").exists()
    );
}

#[test]
fn rows_and_files_agree_whatever_the_index_refuses() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER no BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END");
    let run = env.prune(TO_NOTHING);
    assert!(run.code == 1 || run.code == 3, "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_trigger_that_keeps_its_rows_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER keep BEFORE DELETE ON cached_images BEGIN SELECT RAISE(IGNORE); END");
    for _ in 0..2 {
        env.prune(&["--max-size", "3000B"]).code(1).has(&json!({"total_files_pruned": 0, "left_alone": 5}));
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn a_deferred_key_of_another_table_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "CREATE TABLE notes (image TEXT REFERENCES cached_images (image_id) DEFERRABLE INITIALLY DEFERRED); \
         INSERT INTO notes SELECT image_id FROM cached_images",
    );
    // Glance's own connections do not look at such keys either.
    env.prunes_to_cde();
}

#[test]
fn sqlites_own_words_are_escaped() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "CREATE TRIGGER forge BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, '\x1b[31m\nerror: \
             forged'); END",
    );
    let run = env.prune(&["--max-size", "3000B"]).code(3);
    assert!(!run.stderr.contains('\x1b') && !run.stderr.contains("\nerror: forged"), "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn an_index_with_a_second_link_is_not_written() {
    let env = TestEnv::sqlite(FIVE);
    fs::hard_link(env.path("cache.db"), env.outside("other.db")).unwrap();
    let before = fs::read(env.path("cache.db")).unwrap();
    env.prune(TO_NOTHING).fails(3, &["cache.db"]);
    assert_eq!(fs::read(env.outside("other.db")).unwrap(), before);
    assert_eq!(env.images(), "abcde");
}

#[test]
fn an_index_that_is_a_link_is_not_followed() {
    let (env, other) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    fs::rename(env.path("cache.db"), env.path("gone")).unwrap();
    env.link("cache.db", other.path("cache.db"));
    env.prune(TO_NOTHING).fails(3, &["cache.db"]);
    assert_eq!((env.images().as_str(), other.rows().as_str()), ("abcde", "abcde"));
}

#[test]
fn rows_of_any_value_are_no_panic() {
    let env = TestEnv::sqlite(FIVE);
    for (letter, values) in [
        ('a', "1e300, 9e999, 9223372036854775807, 9223372036854775807"),
        ('b', "-1e300, -9e999, -9223372036854775808, -1"),
        ('c', "9223372036854775807, 'x', 'x', 'x'"),
        ('d', "NULL, NULL, NULL, NULL"),
        ('e', "x'ff', x'', x'00', 1.5"),
    ] {
        env.sql(&format!(
            "UPDATE cached_images SET (last_accessed, last_modified, size, hits) = (SELECT {values}) WHERE \
             image_id = '{}'",
            id(letter)
        ));
    }
    env.row("\x1b[31mred\nline", 5);
    for arguments in
        [&["list"] as &[&str], &["list", "--sort", "hits"], &["status", "-v"], &["prune", "--dry-run", "-v"]]
    {
        let run = env.run(arguments[0], &arguments[1..]).ok();
        assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{run:?}");
    }
    assert_eq!(env.list()["cached_images"].as_array().unwrap().len(), 5);
    env.prune(&["--max-size", "3000B"]).ok();
    assert_eq!(env.left().len(), 3);
}

#[test]
fn a_repair_that_fails_tells_what_was_cleaned_before_it() {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 10, 1);
    fs::write(env.path("cache.db"), "no database, but long enough to be taken for one").unwrap();
    let run = env.clean(&["--repair"]).fails(1, &["cannot repair index", "damaged"]);
    assert_eq!(run.json()["invalid_files"], 1);
    assert_eq!(env.names("invalid"), [""; 0]);
    env.clean(&["--repair"]).fails(3, &["damaged"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    let mut shell = env.command("/bin/sh");
    shell.args(["-c", "ulimit -f 2; exec \"$@\"", "sh", BINARY, "prune", "--max-size", "0", "--cache-dir"]);
    env.finish(shell.arg(env.dir()).args(["--driver", "sqlite"])).fails(3, &["cannot use image index"]);
    assert_eq!(env.left(), "abcde");
}
