//! Which directory is the cache: unset, empty, relative, missing, spelled oddly, a file, or with parts of it
//! missing.

use std::fs;

use serde_json::json;

use crate::support::env::*;

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
fn cache_dir_unset() {
    with_cache_dir(&TestEnv::empty(Xattr), "", (2, 1), "image_cache_dir");
}

#[test]
fn cache_dir_empty() {
    let env = TestEnv::empty(Xattr);
    with_cache_dir(&env, "image_cache_dir =", (2, 1), "image_cache_dir");
    assert!(!env.outside("incomplete").exists());
}

#[test]
fn cache_dir_relative() {
    for env in TestEnv::both(FIVE) {
        let driver = env.driver.name();
        let conf = env.write(
            "g.conf",
            format!(
                "[DEFAULT]\nimage_cache_driver = \
                                                {driver}\nimage_cache_max_size = 3000\nimage_cache_dir = \
                                                ./cache/\n"
            ),
        );
        env.raw(&["prune", "--config-file", &conf]).ok();
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn cache_dir_missing() {
    let env = TestEnv::empty(Xattr);
    with_cache_dir(&env, &format!("image_cache_dir = {}", env.outside("a/b").display()), (0, 0), "");
    assert!(!env.outside("a").exists());
    let (conf, says) = (env.outside("g.conf"), "nothing to do: cache directory");
    for command in [&["prune"][..], &["prune", "--dry-run"], &["clean"], &["prefetch"]] {
        let options = ["--config-file", conf.to_str().unwrap(), "--format", "text"];
        let text = env.raw(&[command, &options].concat()).ok().stdout;
        assert!(text.starts_with(says) && text.ends_with(" does not exist\n"), "{command:?}: {text}");
    }
}

#[test]
fn cache_dir_is_a_file() {
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
fn subdirectories_missing() {
    for env in TestEnv::both(FIVE) {
        for sub in ["incomplete", "queue"] {
            fs::remove_dir(env.path(sub)).unwrap();
        }
        env.file("invalid/x", 1, 1);
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 1}));
        env.prunes_to_cde();
        env.list();
    }
}

#[test]
fn the_driver_in_another_case() {
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

#[test]
fn nothing_of_a_cache_dir_in_odd_spelling_is_lost() {
    for env in TestEnv::both(FIVE) {
        let dir = env.dir().to_str().unwrap();
        for spelled in [
            format!("{dir}/"),
            format!("{dir}/."),
            format!("{dir}//"),
            format!("{dir}/invalid/.."),
            "cache".into(),
            "./cache".into(),
        ] {
            env.raw(&["prune", "--dry-run", "--cache-dir", &spelled, "--max-size", "3000B"])
                .ok()
                .has(&json!({"total_files_pruned": 2}));
        }
        env.raw(&["prune", "--cache-dir", &format!("{dir}/"), "--max-size", "3000B"]).ok();
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn an_unmounted_cache_with_its_index_elsewhere_loses_no_rows() {
    let env = TestEnv::sqlite(FIVE);
    let index = env.outside("index.db");
    fs::copy(env.path("cache.db"), &index).unwrap();
    for letter in "abcde".chars() {
        fs::remove_file(env.path(id(letter))).unwrap();
    }
    let conf = env.conf(&format!("image_cache_sqlite_db = {}", index.display()));
    env.raw(&["prune", "--config-file", &conf]).fails(1, &[env.dir().to_str().unwrap(), "--forget-all"]);
    let db = rusqlite::Connection::open(index).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM cached_images", [], |r| r.get::<_, i64>(0)).unwrap(), 5);
}
