//! Caches on file systems of their own: read-only, full, without extended attributes, with times beyond every
//! calendar.

use std::fs;

use serde_json::json;

use crate::support::env::*;
use crate::support::mounts::Mounted;

mod as_root {
    use super::*;

    #[test]
    fn a_full_file_system_stops_neither_prune_nor_clean() {
        for driver in [Sqlite, Xattr] {
            let small = Mounted::ext4(driver, 8, "relatime");
            for (n, letter) in "abcdef".chars().enumerate() {
                small.env.image((letter, 0, 50 - n as i64, 0));
                fs::write(small.env.path(id(letter)), vec![1; 500_000]).unwrap();
                let last = small.env.now - 3600.0 * (50.0 - n as f64);
                set_times(&small.env.path(id(letter)), last, last);
            }
            fs::write(small.env.path("invalid/x"), vec![1; 2000]).unwrap();
            small.fill();
            small.env.prune(&["--max-size", "1500000"]).ok().has(&json!({"total_files_pruned": 3}));
            assert_eq!(small.env.left(), "def");
            small.env.clean(&[]).ok();
            assert_eq!(small.env.names("invalid"), [""; 0]);
        }
    }

    #[test]
    fn a_read_only_file_system_is_named() {
        let mounted = Mounted::of("tmpfs", Sqlite);
        let env = &mounted.env;
        env.image(('a', 1000, 9, 0));
        let point = mounted.mount.point.to_str().unwrap();
        system(&["mount", "-o", "remount,ro", point]);
        let hint = "hint: the file system is mounted read-only";
        env.prune(&["--max-size", "0"]).fails(3, &[hint]);
        env.clean(&[]).fails(3, &[hint]);
        let status = env.run("status", &["--format", "json"]).json();
        assert!(status["attention"].to_string().contains("read_only"), "{status}");
        let all = env.run("status", &["--all-caches", "--check"]);
        assert_eq!(all.code, 1, "{all:?}");
        assert_eq!(all.stdout.matches("is mounted read-only: nothing can be pruned").count(), 1, "{all:?}");
        system(&["mount", "-o", "remount,rw", point]);
        assert_eq!(env.run("status", &["--format", "json"]).ok().json()["attention"], json!([]));
        system(&["mount", "-o", "remount,ro,bind", point]);
        let status = env.run("status", &["--format", "json"]).ok().json();
        assert!(status["notes"].to_string().contains("is mounted read-only here"), "{status}");
        assert_eq!(status["attention"], json!([]));
    }

    #[test]
    fn only_orphans_older_than_ten_minutes_are_adopted() {
        let mounted = Mounted::ext4(Sqlite, 8, "relatime");
        let env = &mounted.env;
        for letter in ['a', 'b', 'c'] {
            env.image((letter, 1000, 9, 0));
        }
        env.orphan('e', 700, 30);
        env.orphan('f', 700, 30);
        mounted.set_ctimes(&[id('e')], env.now as i64 - 700);
        env.clean(&["--repair"]).ok().has(&json!({"orphans_adopted": 1}));
        assert_eq!((env.images().as_str(), env.rows().as_str()), ("abcef", "abce"));
        let sql = format!(
            "SELECT size, last_accessed, last_modified FROM cached_images WHERE image_id = '{}'",
            id('e')
        );
        let row: (i64, f64, f64) =
            env.db().query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
        assert_eq!(row, (700, env.now - 30.0 * 3600.0, env.now - 30.0 * 3600.0));
    }

    #[test]
    fn times_beyond_every_calendar_are_no_panic() {
        for driver in [Sqlite, Xattr] {
            let mounted = Mounted::of("tmpfs", driver);
            let env = &mounted.env;
            for (letter, time) in [('a', -1e15), ('b', -1.0), ('c', 1e13), ('d', 9e17), ('e', 1e9)] {
                if driver == Sqlite {
                    env.image((letter, 1000, 5, 0));
                } else {
                    env.orphan(letter, 1000, 5);
                }
                set_times(&env.path(id(letter)), time, time);
                for sub in ["invalid", "incomplete", "queue"] {
                    env.file_at(format!("{sub}/{}", id(letter)), 1, time, time);
                }
            }
            for arguments in [
                &["list"] as &[&str],
                &["list", "--format", "json"],
                &["status", "-v"],
                &["clean"],
                &["prune", "--max-size", "3000B"],
            ] {
                env.run(arguments[0], &arguments[1..]).ok();
            }
            assert_eq!(env.left().len(), 3);
            assert!(env.names("incomplete").len() >= 2, "future times stay");
        }
    }

    #[test]
    fn noatime_is_said() {
        let mounted = Mounted::ext4(Xattr, 8, "noatime");
        mounted.env.image(('a', 10, 5, 0));
        let run = mounted.env.run("status", &["-v"]).ok();
        assert!(run.stdout.contains("noatime"), "{}", run.stdout);
        assert_eq!(mounted.env.status()["attention"][0]["code"], "noatime");
    }

    #[test]
    fn a_read_only_file_system_is_refused_and_can_be_looked_at() {
        for driver in [Sqlite, Xattr] {
            let mounted = Mounted::ext4(driver, 8, "relatime");
            for image in FIVE {
                mounted.env.image(*image);
            }
            system(&["mount", "-o", "remount,ro", mounted.mount.point.to_str().unwrap()]);
            mounted.env.list();
            let run = mounted.env.prune(TO_NOTHING);
            assert!([1, 3].contains(&run.code) && run.stderr.to_lowercase().contains("read-only"), "{run:?}");
            assert_eq!(mounted.env.images(), "abcde");
        }
    }

    #[test]
    fn a_file_system_without_extended_attributes() {
        let mounted = Mounted::of("ramfs", Xattr);
        let env = &mounted.env;
        for (letter, size, hours, _) in FIVE {
            env.orphan(*letter, *size, *hours);
        }
        let run = env.prune(TO_3000);
        let expected = if run.code == 0 { "cde" } else { "abcde" };
        assert_eq!(env.images(), expected, "{run:?}");
        assert!(!env.path("cache.db").exists() && !env.path("checkme").exists(), "{:?}", env.names(""));
    }
}
