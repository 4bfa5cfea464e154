//! `prune --require`: room on a small file system, by priority, and not one image further.

use std::fs;
use std::io::Write as _;

use serde_json::json;

use crate::support::env::*;
use crate::support::host::*;
use crate::support::mounts::MountedHost;

mod as_root {
    use super::*;

    #[test]
    fn frees_what_is_needed_by_priority_and_not_one_image_further() {
        let host = MountedHost::ext4(100);
        let env = &host.env;
        for n in 1..=4 {
            env.image("tftp", &master(n), 2 * MIB);
            env.image("iso", &master(n), 4 * MIB);
            env.image("instance", &master(n), 3 * MIB);
        }
        env.use_image("iso", &master(2));
        let free = env.available();
        // Exactly enough is enough.
        env.require(free, &[]).ok().has(&json!({"total_files_pruned": 0, "missing": 0}));
        env.require(free + 1, &["--dry-run"]).ok().has(&json!({"total_files_pruned": 1}));
        env.require(free + 1, &[]).ok().has(&json!({"total_files_pruned": 1, "total_bytes_pruned": 4 * MIB}));
        assert_eq!(env.names("iso"), [2, 3, 4].map(master));
        let now_free = env.available();
        env.require(now_free, &[]).ok().has(&json!({"total_files_pruned": 0}));
        // The rest of the large ones, then one instance image.
        let wanted = now_free + 9 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 3}));
        assert_eq!(env.names("iso"), [master(2)], "what is in use stays");
        assert_eq!(env.names("instance"), [2, 3, 4].map(master));
        assert_eq!(env.names("tftp").len(), 4);
        assert!(env.available() >= wanted);
    }

    #[test]
    fn when_it_cannot_be_enough_nothing_goes_and_who_holds_what_is_told() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        env.image("iso", &master(1), 4 * MIB);
        env.image("instance", &master(1), 10 * MIB);
        env.use_image("instance", &master(1));
        let _ = env.leftover("tftp", &format!("{}.part", master(1)), 3 * MIB);
        let before = tree(&env.base);
        let wanted = env.available() + 5 * MIB as u64;
        for arguments in [&["--dry-run"][..], &[], &["--format", "text"]] {
            let run = env.require(wanted, arguments).fails(1, &["cannot get", "nothing was removed"]);
            if arguments == ["--format", "text"] {
                assert!(run.stdout.contains("in use"), "{}", run.stdout);
                assert!(run.stdout.contains("left by crashed downloads"), "{}", run.stdout);
            } else {
                assert_eq!(run.json()["missing"], MIB);
                assert_eq!(run.json()["refused"], true);
            }
        }
        assert_eq!(tree(&env.base), before);
        env.require(wanted, &["--best-effort"])
            .code(1)
            .has(&json!({"total_files_pruned": 1, "refused": false}));
        assert_eq!(env.names("iso"), [""; 0]);
    }

    #[test]
    fn expired_images_of_all_caches_go_before_priority_counts() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        for (n, cache) in ["tftp", "instance", "iso"].into_iter().enumerate() {
            env.image(cache, &master(n), MIB);
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
        let text = fs::read_to_string(env.path("ironic.conf")).unwrap();
        // Only what [pxe] has expires in ten days.
        env.ironic_conf(&text.replace("image_cache_ttl = 1000000", "image_cache_ttl = 1440"));
        env.require(env.available() + 1, &[]).ok();
        assert_eq!([env.names("iso").len(), env.names("instance").len(), env.names("tftp").len()], [1, 1, 0]);
        env.require(env.available() + 1, &[]).ok();
        assert_eq!([env.names("iso").len(), env.names("instance").len()], [1, 0]);
    }

    #[test]
    fn glances_cache_takes_its_turn() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        for sub in ["incomplete", "invalid", "queue"] {
            fs::create_dir_all(env.dir("glance").join(sub)).unwrap();
        }
        let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL, last_modified REAL, \
             size INTEGER, \
             hits INTEGER, checksum TEXT)",
        )
        .unwrap();
        for n in 1..=3 {
            env.image("glance", &master(n), 2 * MIB);
            let row =
                format!("INSERT INTO cached_images VALUES ('{}', {n}, {n}, {}, 0, NULL)", master(n), 2 * MIB);
            db.execute_batch(&row).unwrap();
        }
        drop(db);
        env.conf(&format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n",
            env.dir("glance").display()
        ));
        env.image("iso", &master(1), 2 * MIB);
        env.image("instance", &master(1), 2 * MIB);
        let wanted = env.available() + 5 * MIB as u64;
        let wanted = format!("{wanted}B");
        // Without --on it is Glance's file system that is meant.
        env.later("prune", &["--require", &wanted]).ok().has(&json!({"total_files_pruned": 3}));
        assert_eq!(env.names("iso").len(), 0);
        assert_eq!(env.names("instance").len(), 1);
        let left: Vec<String> = env.names("glance").into_iter().filter(|name| name.len() == 36).collect();
        assert_eq!(left, [master(3)]);
        let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
        let rows: i64 = db.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1, "its index knows");
    }

    #[test]
    fn caches_of_other_file_systems_are_left_alone() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        let elsewhere = HostEnv::new();
        elsewhere.image("iso", &master(1), MIB);
        env.image("tftp", &master(1), MIB);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path = {}\n[pxe]\ninstance_master_path =\ntftp_master_path = {}\n",
            elsewhere.dir("iso").display(),
            env.dir("tftp").display()
        ));
        env.require(env.available() + 1, &[]).ok();
        assert_eq!(elsewhere.names("iso"), [master(1)]);
        assert_eq!(env.names("tftp"), [""; 0]);
    }

    #[test]
    fn measures_what_is_really_free() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        // Held open: its blocks stay, so the next goes, too.
        env.image("iso", &master(1), 4 * MIB);
        env.image("iso", &master(2), 4 * MIB);
        env.image("iso", &master(3), 4 * MIB);
        let open = fs::File::open(env.dir("iso").join(master(1))).unwrap();
        let wanted = env.available() + 3 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 2}));
        assert!(env.available() >= wanted);
        drop(open);
        // Sparse: the length frees nothing.
        let sparse = fs::File::create(env.dir("instance").join(master(1))).unwrap();
        sparse.set_len(50 << 20).unwrap();
        let wanted = env.available() + 3 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 1, "total_bytes_pruned": 4 * MIB}));
        assert_eq!(env.names("instance").len(), 1, "what would free nothing stays");
    }

    #[test]
    fn works_when_not_a_byte_is_left() {
        let host = MountedHost::ext4(20);
        let env = &host.env;
        for n in 1..=3 {
            env.image("iso", &master(n), MIB);
        }
        let mut filler = fs::File::create(env.dir("filler")).unwrap();
        for size in [1 << 16, 1024, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
        filler.sync_all().unwrap();
        assert_eq!(env.available(), 0);
        // A directory of ours has no room: the first goes where it stands.
        env.require(1024 * 1024, &[]).ok();
        env.require(2 << 20, &[]).ok();
        assert_eq!(env.names("iso"), [master(3)]);
    }

    /// Inodes can run out as well as blocks.
    #[test]
    fn works_when_not_an_inode_is_left() {
        let host = MountedHost::tmpfs(16);
        let env = &host.env;
        env.limits(1, 1_000_000);
        for n in 1..=3 {
            env.image("iso", &master(n), MIB);
        }
        let fs = rustix::fs::statvfs(&env.base).unwrap();
        let used = fs.f_files - fs.f_ffree;
        system(&["mount", "-o", &format!("remount,nr_inodes={used}"), env.base.to_str().unwrap()]);
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
    }

    #[test]
    fn lengths_that_no_disk_has_are_counted_without_a_panic() {
        let host = MountedHost::tmpfs(16);
        let env = &host.env;
        env.limits(1, 1_000_000);
        for n in 1..=4 {
            env.image("iso", &master(n), 10);
            let file = fs::File::options().write(true).open(env.dir("iso").join(master(n))).unwrap();
            file.set_len(i64::MAX as u64).unwrap();
        }
        env.run("status", &["--all-caches"]).ok();
        // More than can be counted counts as the most that can.
        env.later("prune", &["--all-caches", "--dry-run"]).ok().has(&json!({"total_files_pruned": 2}));
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
        assert_eq!(env.names("iso"), [""; 0]);
    }

    /// XFS frees in the background, and can share blocks.
    #[test]
    fn makes_room_on_xfs_and_not_one_image_further() {
        let host = MountedHost::xfs(400);
        let env = &host.env;
        for n in 0..20 {
            env.image("iso", &master(n), 4 * MIB);
        }
        system(&["sync", "-f", env.base.to_str().unwrap()]);
        env.require(env.available() + 9 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 3}));
        let open = fs::File::open(env.dir("iso").join(master(3))).unwrap();
        env.require(env.available() + 3 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 2}));
        // XFS frees in the background what the last descriptor held.
        let held = env.available();
        drop(open);
        until("the blocks of the image that was open", || env.available() >= held + 4 * MIB as u64);
        // Shared blocks are freed by the last who has them.
        env.image("instance", &master(1), 4 * MIB);
        let (from, to) = (env.dir("instance").join(master(1)), env.dir("instance").join(master(2)));
        system(&["cp", "--reflink=always", from.to_str().unwrap(), to.to_str().unwrap()]);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path =\n[pxe]\ntftp_master_path =\ninstance_master_path = {}\n",
            env.dir("instance").display()
        ));
        env.require(env.available() + 3 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 2}));
    }
}
