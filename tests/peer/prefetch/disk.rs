//! Small, odd and full file systems below a prefetch, and caches of another owner. All of it needs root.

use std::fs;

use rustix::process::Signal;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::mounts::{Ext4, Mount, Mounted, bindfs};
use crate::support::prefetch::*;
use crate::support::rights::give_to_nobody;
use crate::support::servers::SqliteFile;
use crate::support::stores::sizeless;

mod as_root {
    use super::*;

    #[test]
    fn everything_made_as_root_belongs_to_the_owner_of_the_cache() {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 1000);
            p.image('b', 1000);
            p.update('b', "os_hash_value = 'ffff'");
            p.queue("ab");
            chmod(&p.env.outside(""), 0o755);
            give_to_nobody(p.env.dir());
            p.run(&[]).code(1);
            p.run(&["--enqueue", &id('c')]).ok();
            for (path, what) in tree(p.env.dir()) {
                assert!(what.contains("owner 65534:65534"), "{path}: {what}");
            }
            assert_eq!((p.env.left().as_str(), p.env.names("invalid")), ("a", vec![id('b')]));
        }
    }

    #[test]
    fn a_full_disk_is_told_and_left_as_it_was() {
        for driver in [Sqlite, Xattr] {
            let root = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
            let ext4 = Ext4::make(root.path(), 24);
            let mount = Mount::ext4(&ext4, &root.path().join("mount"), "rw");
            let p = Prefetch::of(TestEnv::at(driver, root, mount.point.join("cache")), SqliteFile);
            p.image('a', 3 << 20);
            p.image('b', 30 << 20);
            p.image('c', 11 << 20);
            p.update('c', "size = NULL");
            p.queue("abc");
            let run = p
                .run(&["--reserve", "8MiB", "-j", "1"])
                .fails(1, &["does not fit on the file system", "of the file system may be used"]);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("a", "bc", 0)
            );
            // Somebody else fills the disk while it is fetched.
            fs::write(mount.point.join("filler"), vec![1; 13 << 20]).unwrap();
            p.update('b', "size = NULL");
            let run = p.run(&["--reserve", "0"]).code(1);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("a", "bc", 0)
            );
            fs::remove_file(mount.point.join("filler")).unwrap();
            p.run(&["--reserve", "0", &id('c')]).ok();
            assert_eq!(p.env.left(), "ac");
            drop(p);
        }
    }

    #[test]
    fn the_reserve_holds_where_nobody_says_a_size() {
        for driver in [Sqlite, Xattr] {
            let Mounted { mount, env } = Mounted::ext4(driver, 24, "rw");
            let p = Prefetch::of(env, SqliteFile);
            let size = 11 << 20;
            p.record('a', &content('a', size), &[&sizeless(content('a', size))]);
            p.update('a', "size = NULL");
            p.queue("a");
            let run =
                p.run(&["--reserve", "14MiB"]).fails(1, &["image size is unknown", "stays in the queue"]);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("", "a", 0)
            );
            p.run(&["--reserve", "2MiB"]).ok();
            p.holds(&[('a', size)]);
            drop((p, mount));
        }
    }

    #[test]
    fn a_file_system_without_nameless_files_does() {
        for driver in [Sqlite, Xattr] {
            let Mounted { mount, env } = bindfs(driver);
            let p = Prefetch::of(env, SqliteFile);
            for letter in "abc".chars() {
                p.image(letter, 900_000);
            }
            p.update('c', "os_hash_value = 'ffff'");
            p.queue("abc");
            let staged = p.env.path("incomplete").join(id('a') + ".prefetch");
            for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
                let look = || fs::metadata(&staged).ok().filter(|found| found.len() > 0)?.modified().ok();
                let left = look();
                let ours = p.start(&["--rate-limit", "1MB"]);
                until("the staged file", || look().is_some_and(|now| Some(now) != left));
                ours.signal(signal);
                let _ = ours.wait();
                assert_eq!(staged.exists(), signal == Signal::KILL);
                assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "abc"));
            }
            // What is left is no image's: clean takes it once it has stalled.
            p.env.clean(&["--stall-time", "0"]).ok();
            assert_eq!(p.env.names("incomplete"), [""; 0]);
            p.run(&[]).fails(1, &["expected ffff"]);
            assert_eq!((p.queued(), p.env.names("invalid")), ("c".to_owned(), vec![id('c')]));
            p.holds(&[('a', 900_000), ('b', 900_000)]);
            p.glance_serves(&[('a', 900_000), ('b', 900_000)]);
            drop((p, mount));
        }
    }

    #[test]
    fn a_file_system_that_counts_no_blocks_is_not_full() {
        let Mounted { mount, env } = Mounted::of("ramfs", Sqlite);
        let p = Prefetch::of(env, SqliteFile);
        p.image('a', 3_000_000);
        p.queue("a");
        p.run(&[]).ok();
        p.holds(&[('a', 3_000_000)]);
        let run = p.env.prune(&["--min-free", "0"]).ok();
        println!("{}", run.stdout);
        assert_eq!(p.env.left(), "a");
        drop((p, mount));
    }
}
