//! What lies in a cache and is no image: foreign files, links, directories, FIFOs, names that no image has,
//! rows that point outside. None of it counts, none of it is followed, and it is shown escaped.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

use crate::support::env::*;

/// Like [`prunes_as_if_nothing_were`], with an entry of that letter which is no image and stays.
#[track_caller]
fn prunes_once_more_with(env: &TestEnv, letter: char) {
    env.prune(TO_3000).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
    assert_eq!(env.images(), format!("{letter}cde"));
}

#[test]
fn foreign_files_in_the_base() {
    for env in TestEnv::both(FIVE) {
        for name in ["README", ".hidden", "glance-cache-clean", "glance-cache", "checkme", "a.db"] {
            env.file(name, 700, 200);
        }
        env.prunes_to_cde();
        for name in ["README", ".hidden", "glance-cache-clean", "glance-cache", "checkme", "a.db"] {
            assert!(env.path(name).exists(), "{name}");
        }
    }
}

#[test]
fn a_link_in_the_base_to_a_large_file_outside() {
    for env in TestEnv::both(FIVE) {
        let target = env.outside("large");
        fs::File::create(&target).unwrap().set_len(10_000).unwrap();
        env.link("large", &target);
        env.link(id('1'), &target);
        prunes_once_more_with(&env, '1');
        assert!(target.exists());
    }
}

#[test]
fn a_dangling_link_in_the_base() {
    for env in TestEnv::both(FIVE) {
        env.link(id('1'), env.outside("nothing"));
        prunes_once_more_with(&env, '1');
        assert!(!env.outside("nothing").exists());
    }
    let env = TestEnv::sqlite(FIVE);
    env.link(id('1'), env.outside("nothing"));
    env.row(&id('1'), 100);
    let run = env.prune(TO_3000);
    assert!(run.code <= 1, "{run:?}");
    assert_eq!(env.images(), "1cde");
}

#[test]
fn a_directory_in_the_base() {
    for env in TestEnv::both(FIVE) {
        fs::create_dir(env.path("directory")).unwrap();
        fs::create_dir(env.path(id('1'))).unwrap();
        prunes_once_more_with(&env, '1');
    }
}

#[test]
fn a_row_that_points_outside() {
    let env = TestEnv::sqlite(FIVE);
    let victim = env.outside("victim");
    fs::write(&victim, "precious").unwrap();
    env.row("../victim", 100);
    env.row(victim.to_str().unwrap(), 100);
    env.prunes_to_cde();
    assert!(victim.exists());
}

#[test]
fn a_row_that_names_a_directory() {
    let env = TestEnv::sqlite(FIVE);
    for name in ["", "invalid", ".", ".."] {
        env.row(name, 100);
    }
    env.prunes_to_cde();
    assert!(env.path("invalid").is_dir());
}

#[test]
fn names_that_are_no_uuid() {
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
        env.prune(TO_3000).ok().has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
        assert!(env.path("image").exists() && env.path("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").exists());
        env.run("status", &[]).ok();
    }
}

#[test]
fn a_name_that_is_no_utf_8() {
    let name = std::ffi::OsStr::from_bytes(b"bad\xff\xfename");
    for env in TestEnv::both(FIVE) {
        for sub in ["", "invalid", "incomplete"] {
            fs::write(env.path(sub).join(name), "").unwrap();
            set_times(&env.path(sub).join(name), 0.0, 0.0);
        }
        env.prunes_to_cde();
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 2}));
        assert!(env.path(name).exists());
    }
}

#[test]
fn newlines_and_escapes_in_a_name() {
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
fn a_subdirectory_that_is_a_link_is_an_error_and_not_followed() {
    for driver in [Sqlite, Xattr] {
        for sub in ["invalid", "incomplete"] {
            let env = TestEnv::new(driver, FIVE);
            let outside = env.outside("precious");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("file"), "x").unwrap();
            set_times(&outside.join("file"), 0.0, 0.0);
            fs::remove_dir(env.path(sub)).unwrap();
            env.link(sub, &outside);
            let run = env.clean(&[]);
            assert!(run.code != 0 && run.stderr.contains(sub), "{run:?}");
            assert!(outside.join("file").exists());
        }
    }
}

#[test]
fn fifos_everywhere_block_nothing() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::new(driver, FIVE);
        for name in [
            id('f'),
            "pipe".into(),
            format!("invalid/{}", id('1')),
            "incomplete/pipe".into(),
            format!("queue/{}", id('2')),
        ] {
            env.fifo(&name);
        }
        env.list();
        env.run("status", &[]).ok();
        env.clean(&[]).code(0);
        env.prune(&["--max-size", "3000B"]).ok();
        assert_eq!(env.images(), "cdef");
        assert!(env.path("pipe").exists() && env.path("invalid").join(id('1')).exists());
    }
}

#[test]
fn a_fifo_for_an_index_or_a_configuration_file_is_an_error() {
    let env = TestEnv::sqlite(FIVE);
    fs::remove_file(env.path("cache.db")).unwrap();
    env.fifo("cache.db");
    env.prune(TO_NOTHING).fails(3, &["cache.db"]);
    let run = env.run("list", &[]);
    assert_ne!(run.stderr, "");
    let pipe = env.path("pipe");
    env.fifo("pipe");
    env.raw(&["prune", "--config-file", pipe.to_str().unwrap()]).fails(2, &["pipe"]);
}

#[test]
fn links_and_directories_among_the_images_are_foreign() {
    for env in TestEnv::both(FIVE) {
        let target = env.outside("target");
        File::create(&target).unwrap().set_len(1 << 20).unwrap();
        env.link(id('f'), &target);
        env.link(id('1'), "dangling");
        fs::create_dir(env.path(id('2'))).unwrap();
        env.prune(&["--max-size", "5000B"])
            .ok()
            .has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
        env.prune(&["--max-size", "0"]).ok();
        assert!(
            target.exists() && env.path(id('f')).symlink_metadata().is_ok() && env.path(id('2')).is_dir()
        );
    }
}

#[test]
fn rows_that_point_outside_touch_nothing_there() {
    let env = TestEnv::sqlite(FIVE);
    let victim = env.outside("victim");
    fs::write(&victim, "x").unwrap();
    for name in ["../victim", victim.to_str().unwrap(), "", ".", "..", "invalid", "a/b"] {
        env.row(name, 100);
    }
    env.sql("INSERT INTO cached_images (image_id) VALUES (NULL), (x'ff00'), (17)");
    let _ = env.prune(&["--max-size", "0"]);
    let _ = env.clean(&["--repair"]);
    assert!(victim.exists());
    assert_eq!(env.images(), "");
}

#[test]
fn a_subdirectory_swapped_for_a_link_while_it_runs_removes_nothing_outside() {
    let env = TestEnv::xattr(FIVE);
    let outside = env.outside("precious");
    fs::create_dir(&outside).unwrap();
    for n in 0..50 {
        fs::write(outside.join(nth_id(n)), "").unwrap();
    }
    env.link("link", &outside);
    let (real, link) = (env.path("invalid"), env.path("link"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
                sleep(Duration::from_micros(50));
            }
        });
        for _ in 0..200 {
            let run = env.clean(&[]);
            assert!(run.code <= 3, "{run:?}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(names(&outside).len(), 50);
}

/// Returns names with a newline, an escape sequence, and bytes that are no UTF-8.
fn hostile_names() -> [&'static std::ffi::OsStr; 3] {
    [b"new\nline" as &[u8], b"\x1b[2Jclear", b"bad\xff\xfename"].map(std::ffi::OsStr::from_bytes)
}

#[test]
fn hostile_names_are_removed_where_they_should_be_and_shown_escaped() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::new(driver, FIVE);
        for name in hostile_names() {
            for sub in ["", "invalid", "queue", "incomplete"] {
                fs::write(env.path(sub).join(name), "").unwrap();
                set_times(&env.path(sub).join(name), 0.0, 0.0);
            }
        }
        for arguments in [
            &["list"] as &[&str],
            &["status", "-v"],
            &["clean", "--dry-run", "-v"],
            &["clean", "-v", "--format", "text"],
        ] {
            let run = env.run(arguments[0], &arguments[1..]).ok();
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(!said.contains('\x1b') && !said.contains("new\nline"), "{said:?}");
        }
        let list = env.run("list", &["--format", "json"]).ok();
        let _ = list.json();
        assert_eq!(env.names("invalid").len() + env.names("incomplete").len(), 0);
        assert_eq!(env.names("queue").len(), 3);
    }
}
