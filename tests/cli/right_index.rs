//! The right index or none: an index that knows no image of the cache is refused while another one does, and
//! no index is made beside another one.

use std::fs;

use serde_json::json;

use crate::support::central::{Central, NODE, five};
use crate::support::env::*;
use crate::support::prefetch::Prefetch;
use crate::support::servers::SqliteFile;

/// Changing commands that open an index, each as a dry run, too.
const CHANGES: &[&[&str]] = &[
    &["prune", "--max-size", "0"],
    &["prune", "--max-size", "0", "--dry-run"],
    &["clean", "--repair"],
    &["clean", "--repair", "--dry-run"],
];

/// Runs every change with these options. Each has to be refused, and to leave everything as it is.
#[track_caller]
fn refused(env: &TestEnv, options: &[&str], says: &[&str]) {
    env.file("invalid/x", 10, 1);
    let before = env.snapshot();
    let dir = env.dir().to_str().unwrap();
    for change in CHANGES {
        let run = env.raw(&[change, &["--cache-dir", dir][..], options].concat()).fails(2, says);
        assert!(run.json()["error"].as_str().unwrap().contains("probably the wrong index"), "{run:?}");
        assert_eq!(env.snapshot(), before, "{change:?} {options:?}");
    }
}

#[test]
fn a_misspelt_file_beside_the_real_one() {
    let env = TestEnv::sqlite(FIVE);
    let real = env.path("cache.db").display().to_string();
    let says = ["nope.db", "set by --sqlite-db", &real, "has rows of 5 of 5 images", "--ignore-other-index"];
    refused(&env, &["--sqlite-db", "nope.db"], &says);
    refused(&env, &["--driver", "sqlite", "--sqlite-db", "nope.db"], &says);
    fs::write(env.path("nope.db"), "").unwrap();
    refused(&env, &["--driver", "sqlite", "--sqlite-db", "nope.db"], &says);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_misspelt_setting() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_sqlite_db = caches.db\nimage_cache_max_size = 3000");
    let before = env.snapshot();
    for change in CHANGES {
        env.raw(&[change, &["--config-file", &conf][..]].concat())
            .fails(2, &[&format!("caches.db (set by {conf}:4)"), "cache.db has rows of 5 of 5 images"]);
    }
    assert_eq!(env.snapshot(), before);
    let looks = [&["list"][..], &["status"]];
    for look in looks {
        let run = env.raw(&[look, &["--config-file", &conf]].concat()).ok();
        let text = format!("{}{}", run.stdout, run.stderr).replace("\n              ", " ");
        assert!(text.contains("cache.db has rows of 5 of 5 images"), "{run:?}");
    }
    env.raw(&["status", "--check", "--config-file", &conf]).code(1);
    assert_eq!(env.snapshot(), before);
    env.raw(&["prune", "--config-file", &conf, "--ignore-other-index"])
        .ok()
        .has(&json!({"total_files_pruned": 2}));
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("cde", "abcde"));
}

#[test]
fn an_old_name_is_protected_too() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_sqlite_db = caches.db\nimage_cache_max_size = 3000");
    let run = env.old("glance-cache-pruner", &["--config-file", &conf]);
    let run = run.fails(1, &["caches.db", "cache.db has rows of 5 of 5 images"]);
    assert!(!run.stderr.contains("--ignore-other-index"), "an old name does not have this option: {run:?}");
    assert_eq!(env.left(), "abcde");
    // Within the limit there is nothing to remove, whichever index it is.
    let conf = env.conf("image_cache_sqlite_db = caches.db\nimage_cache_max_size = 5000");
    env.old("glance-cache-pruner", &["--config-file", &conf]).ok().silent();
    assert!(!env.path("caches.db").exists());
}

#[test]
fn the_xattr_driver_on_an_sqlite_cache() {
    let env = TestEnv::sqlite(FIVE);
    refused(&env, &["--driver", "xattr"], &["user.hits", "set by --driver", "cache.db has rows of 5 of 5"]);
    env.prune_with(&["--driver", "xattr", "--ignore-other-index", "--max-size", "3000B"]).ok();
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("cde", "abcde"));
}

#[test]
fn the_sqlite_driver_on_an_xattr_cache() {
    let env = TestEnv::xattr(FIVE);
    refused(&env, &["--driver", "sqlite"], &["cache.db", "images there have the attribute user.hits"]);
    assert!(!env.path("cache.db").exists());
    env.prune_with(&["--driver", "sqlite", "--ignore-other-index", "--max-size", "3000B"]).ok();
    assert_eq!(env.left(), "cde");
}

#[test]
fn an_index_with_rows_of_other_images_only() {
    let env = TestEnv::sqlite(FIVE);
    let other = TestEnv::sqlite(&[('1', 5, 5, 0), ('2', 5, 5, 0)]);
    fs::copy(other.path("cache.db"), env.path("other.db")).unwrap();
    refused(&env, &["--sqlite-db", "other.db"], &["other.db (set by --sqlite-db) has no row of an image in"]);
    // One image in common is enough.
    rusqlite::Connection::open(env.path("other.db"))
        .unwrap()
        .execute_batch(&format!(
            "DELETE FROM cached_images; INSERT INTO cached_images (image_id) VALUES ('{}')",
            id('a')
        ))
        .unwrap();
    env.prune_with(&["--sqlite-db", "other.db", "--max-size", "4000B"]).ok();
    assert_eq!(env.images(), "bcde");
}

#[test]
fn an_index_outside_of_the_directory_is_seen_if_it_is_configured() {
    let env = TestEnv::sqlite(FIVE);
    let real = env.outside("index.db");
    fs::rename(env.path("cache.db"), &real).unwrap();
    let conf = env.conf(&format!("image_cache_sqlite_db = {}", real.display()));
    env.raw(&["prune", "--max-size", "0", "--config-file", &conf, "--sqlite-db", "nope.db"])
        .fails(2, &["nope.db", &format!("{} has rows of 5 of 5", real.display())]);
    assert_eq!(env.images(), "abcde");
}

#[test]
fn an_index_that_cannot_be_read_now_may_be_the_right_one() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let run = env.prune_with(&["--sqlite-db", "nope.db", "--max-size", "0"]);
    run.fails(2, &["nope.db", "cache.db may be an image index, too, and cannot be read now"]);
    drop(writer);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn files_of_other_programs_are_no_other_index() {
    let env = TestEnv::sqlite(FIVE);
    fs::rename(env.path("cache.db"), env.outside("gone.db")).unwrap();
    let foreign = rusqlite::Connection::open(env.path("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE t (image_id)").unwrap();
    env.file("README", 5000, 1);
    env.fifo("pipe");
    // The only index is gone: as before, images are removed by the times of their files.
    let run = env.prune(TO_3000).ok().says(&["does not exist or is empty: no image is tracked"]);
    run.has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.images(), "cde");
    env.clean(&["--repair", "--dry-run"]).ok();
}

#[test]
fn no_index_is_made_beside_one_without_rows() {
    let env = TestEnv::sqlite(&[]);
    for letter in ['a', 'b'] {
        env.orphan(letter, 10, 50);
    }
    let before = env.snapshot();
    for more in [&[][..], &["--dry-run"]] {
        let options = [&["--driver", "sqlite", "--sqlite-db", "second.db"], more].concat();
        env.run("clean", &[&["--repair"], &options[2..]].concat())
            .fails(2, &["second.db", "cache.db is an image index of Glance, too"]);
    }
    assert_eq!(env.snapshot(), before);
}

#[test]
fn prefetch_adds_nothing_to_the_wrong_index_and_makes_none() {
    for (images, says) in [
        (&[('c', 100, 5, 0)][..], "cache.db has rows of 1 of 1 image there"),
        (&[], "cache.db is an image index of Glance, too"),
    ] {
        let p = Prefetch::new(Sqlite);
        p.env.image(('c', 100, 5, 0));
        if images.is_empty() {
            fs::remove_file(p.env.path(id('c'))).unwrap();
            p.env.sql("DELETE FROM cached_images");
        }
        p.image('a', 9);
        p.queue("a");
        let before = p.env.snapshot();
        for arguments in [&["--sqlite-db", "nope.db"][..], &["--sqlite-db", "nope.db", "--dry-run"]] {
            p.run(arguments).fails(2, &["nope.db", says, "probably the wrong index"]);
            assert_eq!(p.env.snapshot(), before, "{arguments:?}");
        }
        if !images.is_empty() {
            p.run(&["--driver", "xattr"]).fails(2, &["user.hits", says]);
            assert_eq!(p.env.snapshot(), before);
        }
        p.run(&["--sqlite-db", "nope.db", "--ignore-other-index"]).ok();
        assert!(p.env.path("nope.db").exists());
    }
}

/// Returns the configuration of a cache in the central database without a driver.
fn without_driver(central: &Central, database: &str, node: &str) -> String {
    let conf = fs::read_to_string(central.conf_with(database, node, "")).unwrap();
    central.env.write("unset.conf", conf.replace("image_cache_driver = centralized_db\n", ""))
}

#[test]
fn without_a_driver_a_misspelt_node_is_named_with_those_that_are_known() {
    let c = five(SqliteFile);
    let before = c.snapshot();
    for (node, says) in [
        ("http://n1.example:9292/", "did you mean http://n1.example:9292?"),
        ("http://other:9292", "a node is registered when glance-api is started"),
    ] {
        let conf = without_driver(&c, &c.db.url, node);
        for change in CHANGES {
            let run = c.env.raw(&[change, &["--config-file", &conf][..]].concat());
            run.fails(2, &["does not know the node", node, "unset.conf:", NODE, says]);
        }
        let run = c.env.raw(&["list", "--config-file", &conf]).ok();
        run.says(&["does not know the node", NODE]);
    }
    // An index without rows, left by an earlier driver, is no reason to go on.
    rusqlite::Connection::open(c.env.path("cache.db")).unwrap().execute_batch(TABLE).unwrap();
    let conf = without_driver(&c, &c.db.url, "http://other:9292");
    c.env.raw(&["prune", "--max-size", "0", "--config-file", &conf]).fails(2, &["does not know the node"]);
    // Neither are attributes.
    fs::remove_file(c.env.path("cache.db")).unwrap();
    c.env.set_hits(&id('a'), b"1");
    c.env.raw(&["prune", "--max-size", "0", "--config-file", &conf]).fails(2, &["does not know the node"]);
    assert_eq!(c.left(), "abcde");
    assert_eq!(c.snapshot().1, before.1);
}

#[test]
fn without_a_driver_a_missing_database_is_named() {
    let c = five(SqliteFile);
    let absent = c.env.outside("absent.sqlite").display().to_string();
    let conf = without_driver(&c, &format!("sqlite:///{absent}"), NODE);
    for change in CHANGES {
        let run = c.env.raw(&[change, &["--config-file", &conf][..]].concat());
        run.fails(2, &[&absent, "does not exist or is empty", "unset.conf:", "glance-manage db_sync"]);
    }
    assert_eq!(c.left(), "abcde");
    assert!(!c.env.outside("absent.sqlite").exists());
}

#[test]
fn without_a_driver_an_sqlite_index_with_rows_is_used_whatever_the_database_knows() {
    let env = TestEnv::sqlite(FIVE);
    let c = five(SqliteFile);
    let conf = env.write(
        "other.conf",
        format!(
            "[DEFAULT]\nimage_cache_dir = {}\nworker_self_reference_url = http://other\n[database]\n\
             connection = {}\n",
            env.dir().display(),
            c.db.url
        ),
    );
    env.raw(&["prune", "--max-size", "3000B", "--config-file", &conf]).ok();
    assert_eq!(env.left(), "cde");
}

#[test]
fn another_driver_on_a_cache_in_the_central_database() {
    let c = five(SqliteFile);
    let before = c.snapshot();
    for driver in ["xattr", "sqlite"] {
        for change in CHANGES {
            let run = c.run(change[0], &[&change[1..], &["--driver", driver]].concat());
            run.fails(2, &["the configured database", "has rows of 5 of 5 images"]);
        }
    }
    assert_eq!(c.snapshot().1, before.1);
    // And the other way round: a leftover index that knows the images, and a node without rows.
    c.db.sql("DELETE FROM cached_images");
    let sqlite = TestEnv::sqlite(FIVE);
    fs::copy(sqlite.path("cache.db"), c.env.path("cache.db")).unwrap();
    c.run("prune", &["--max-size", "0"])
        .fails(2, &["has no row of an image in", "cache.db has rows of 5 of 5"]);
    assert_eq!(c.env.images(), "abcde");
}
