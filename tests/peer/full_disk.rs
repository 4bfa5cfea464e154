//! The full disk: real file systems filled to the last block, or the last inode, below each kind of index.
//!
//! With images of real size every command that makes room succeeds. With images that free nothing (sparse
//! ones) it may end with 1, and nothing is damaged: the index is sound, it has at most rows without files,
//! and once there is room again the next run ends with 0. A prefetch says that the disk is full, and leaves
//! nothing.
//!
//! A user's quota that is used up is injected instead (`system_calls`, `faults`): not every kernel has
//! quotas.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::mounts::Mounted;
use crate::support::prefetch::Prefetch;
use crate::support::servers::{Database, SqliteFile};

const NODE: &str = "http://n1.example:9292";

/// The index that has the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Sqlite,
    Xattr,
    /// The central database in an SQLite file, on the same file system.
    Central,
}

const ROWS: [Rows; 3] = [Rows::Sqlite, Rows::Xattr, Rows::Central];

/// The file system that a cache is on, and how it is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Ext4,
    Xfs,
    /// An ext4 that has room, but no inode.
    Inodes,
}

impl Disk {
    fn make(self, driver: Driver) -> Mounted {
        match self {
            Disk::Ext4 => Mounted::made(driver, &["mkfs.ext4", "-q", "-m", "0"], 64),
            Disk::Xfs => Mounted::made(driver, &["mkfs.xfs", "-q"], 320),
            Disk::Inodes => Mounted::made(driver, &["mkfs.ext4", "-q", "-m", "0", "-N", "64"], 64),
        }
    }
}

/// A cache and the central database on a file system of their own.
struct Full {
    mounted: Mounted,
    disk: Disk,
    rows: Rows,
    db: Database,
}

impl Full {
    fn new(disk: Disk, rows: Rows) -> Self {
        let mounted = disk.make(if rows == Rows::Sqlite { Sqlite } else { Xattr });
        let db = Database::new(SqliteFile, &mounted.mount.point.join("glance.sqlite"));
        db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
        Full { mounted, disk, rows, db }
    }

    /// With six images, `a` used longest ago.
    fn with(disk: Disk, rows: Rows, size: Size) -> Self {
        let full = Self::new(disk, rows);
        for (n, letter) in "abcdef".chars().enumerate() {
            full.image(letter, size, 60 - n as i64);
        }
        full
    }

    fn env(&self) -> &TestEnv {
        &self.mounted.env
    }

    /// Makes an image that the index knows.
    fn image(&self, letter: char, size: Size, hours: i64) {
        let env = self.env();
        let bytes = if size == Size::Tiny { 1 } else { 3_000_000 };
        if self.rows == Rows::Central {
            env.file(id(letter), bytes, hours);
            self.db.sql(&format!(
                "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                 node_reference_id) SELECT '{}', \
                 datetime('now', '-{hours} hours'), datetime('now', '-{hours} hours'), {bytes}, 0, 1",
                id(letter)
            ));
        } else {
            env.image((letter, bytes, hours, 0));
        }
        if size != Size::Sparse {
            fs::write(env.path(id(letter)), content(letter, bytes as usize)).unwrap();
            let last = env.now - (hours * 3600) as f64;
            set_times(&env.path(id(letter)), last, last);
        }
    }

    fn fill(&self) {
        if self.disk == Disk::Inodes {
            self.mounted.fill_inodes();
        } else {
            self.mounted.fill();
        }
        let name = self.mounted.mount.point.join("one-more");
        let more = fs::write(&name, vec![1; 1 << 20]);
        let _ = fs::remove_file(name);
        more.unwrap_err();
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let (driver, store) = match self.rows {
            Rows::Sqlite => ("sqlite", self.env().outside("store")),
            Rows::Xattr => ("xattr", self.env().outside("store")),
            Rows::Central => ("centralized_db", self.env().outside("store")),
        };
        let conf = self.env().write(
            "glance-api.conf",
            format!(
                "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = {driver}\nworker_self_reference_url = \
                 {NODE}\n\
                 [glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}\n",
                self.env().dir().display(),
                store.display(),
                self.db.url
            ),
        );
        self.env().raw(&[&[command, "--config-file", &conf], arguments].concat())
    }

    /// Returns the letters of the rows.
    fn rows(&self) -> String {
        match self.rows {
            Rows::Sqlite => self.env().rows(),
            Rows::Xattr => self.env().images(),
            Rows::Central => {
                let rows = self.db.rows("SELECT image_id FROM cached_images ORDER BY image_id");
                rows.iter().map(|row| row[0].chars().next().unwrap()).collect()
            }
        }
    }

    /// Asserts that the index is sound, and that no image lacks a row.
    #[track_caller]
    fn is_sound(&self) {
        let (rows, images) = (self.rows(), self.env().images());
        assert!(images.chars().all(|image| rows.contains(image)), "{self:?}: rows {rows}, images {images}");
        for file in [self.env().path("cache.db"), Path::new(&self.db.name).to_owned()] {
            if file.exists() {
                let db = rusqlite::Connection::open(&file).unwrap();
                let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(sound, "ok", "{}", file.display());
            }
        }
    }
}

impl std::fmt::Debug for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} on {:?}", self.rows, self.disk)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// With its blocks.
    Real,
    /// Of 3 MB and no block.
    Sparse,
    /// Of one byte.
    Tiny,
}

fn each(disks: &[Disk], test: impl Fn(Disk, Rows)) {
    for disk in disks {
        for rows in ROWS {
            test(*disk, rows);
        }
    }
}

mod as_root {
    use super::*;

    const DISKS: &[Disk] = &[Disk::Ext4, Disk::Xfs, Disk::Inodes];

    #[test]
    fn images_of_real_size_are_pruned() {
        each(DISKS, |disk, rows| {
            let full = Full::with(disk, rows, Size::Real);
            full.fill();
            full.run("prune", &["--max-size", "9000000"]).ok().has(&json!({"total_files_pruned": 3}));
            assert_eq!((full.env().images().as_str(), full.rows().as_str()), ("def", "def"), "{full:?}");
            full.is_sound();
            full.run("prune", &["--max-size", "9000000"]).ok().has(&json!({"total_files_pruned": 0}));
        });
    }

    #[test]
    fn what_is_invalid_or_stalled_is_cleaned() {
        each(DISKS, |disk, rows| {
            let full = Full::with(disk, rows, Size::Real);
            for name in ["invalid/x", "incomplete/y"] {
                full.env().file(name, 0, 100);
                fs::write(full.env().path(name), vec![1; 100_000]).unwrap();
                set_times(&full.env().path(name), 0.0, 0.0);
            }
            full.fill();
            full.run("clean", &[]).ok().has(&json!({"invalid_files": 1, "stalled_files": 1}));
            assert_eq!((full.env().images().as_str(), full.rows().as_str()), ("abcdef", "abcdef"));
            full.is_sound();
        });
    }

    #[test]
    fn images_that_free_nothing_damage_nothing() {
        for size in [Size::Sparse, Size::Tiny] {
            each(DISKS, |disk, rows| {
                let full = Full::with(disk, rows, size);
                full.fill();
                let limit = if size == Size::Tiny { "3B" } else { "9000000" };
                for (command, arguments) in
                    [("prune", &["--max-size", limit][..]), ("clean", &[]), ("clean", &["--repair"])]
                {
                    let run = full.run(command, arguments);
                    println!("{full:?}, {size:?}: {command} ends with {}: {}", run.code, run.stderr.trim());
                    // With nothing to clean a repair has no room to begin, and says so.
                    let refused = arguments == ["--repair"]
                        && run.code == 3
                        && run.stdout.contains("nothing was changed");
                    assert!(run.code <= 1 || refused, "{full:?}, {size:?}: {run:?}");
                    full.is_sound();
                }
                full.mounted.drain();
                full.run("prune", &["--max-size", limit]).ok();
                assert_eq!(
                    (full.env().images().as_str(), full.rows().as_str()),
                    ("def", "def"),
                    "{full:?}, {size:?}"
                );
            });
        }
    }

    #[test]
    fn very_many_images_go_by_last_use_whatever_goes_out_of_its_turn() {
        const COUNT: usize = 12_000;
        let mounted = Mounted::made(Sqlite, &["mkfs.ext4", "-q", "-m", "0", "-N", "20000"], 64);
        let env = &mounted.env;
        let id = |n: usize| format!("{:08x}-0000-4000-8000-{n:012x}", (n * 2_654_435_761) as u32);
        let used = |n: usize| env.now - 1e6 + n as f64;
        let mut rows = String::from("BEGIN;");
        // Rows in another order than last uses.
        for n in (0..COUNT).map(|n| n * 7919 % COUNT) {
            env.file_at(id(n), 1000, used(n), used(n));
            rows += &row(&id(n), used(n), used(n), 1000, 0);
        }
        env.sql(&(rows + "COMMIT;"));
        // They would go last, but make room for the journal.
        for n in COUNT..COUNT + 300 {
            fs::write(env.path(id(n)), vec![1; 10_000]).unwrap();
        }
        mounted.fill();
        env.prune(&["--max-size", "5000000"]).ok();
        let expected: Vec<usize> = (COUNT - 5000..COUNT).collect();
        let left = env.ids();
        let mut left: Vec<usize> =
            left.iter().map(|id| usize::from_str_radix(&id[24..], 16).unwrap()).collect();
        left.sort_unstable();
        assert_eq!(left, expected);
        assert_eq!(env.names("").iter().filter(|name| name.len() == 36).count(), expected.len());
    }

    #[test]
    fn a_prefetch_says_so_and_leaves_nothing() {
        each(DISKS, |disk, rows| {
            let full = Full::with(disk, rows, Size::Real);
            let Full { mounted: Mounted { mount, env }, db, .. } = full;
            fs::create_dir(env.outside("store")).unwrap();
            let p = Prefetch { env, db };
            for letter in ['1', '2'] {
                p.image(letter, 2_000_000);
            }
            p.update('2', "size = NULL");
            p.queue("12");
            let Prefetch { env, db } = p;
            let full = Full { mounted: Mounted { mount, env }, disk, rows, db };
            full.fill();
            let before = (full.env().images(), full.rows());
            let run = full.run("prefetch", &["--reserve", "0"]);
            println!("{full:?}: prefetch ends with {}: {}", run.code, run.stderr.trim());
            assert!(run.code == 1 || run.code == 3, "{full:?}: {run:?}");
            let says_so = ["does not fit on the file system", "No space left", "full"]
                .iter()
                .any(|words| run.stderr.contains(words));
            assert!(says_so, "{run:?}");
            assert_eq!((full.env().images(), full.rows()), before, "{full:?}");
            let left = ["incomplete", "invalid"].map(|sub| full.env().names(sub)).concat();
            assert_eq!((left, full.env().names("queue")), (vec![], vec![id('1'), id('2')]), "{full:?}");
            full.is_sound();
            full.mounted.drain();
            full.run("prefetch", &["--reserve", "0"]).ok();
            assert_eq!(
                (full.env().images().as_str(), full.rows().as_str()),
                ("12abcdef", "12abcdef"),
                "{full:?}"
            );
        });
    }
}
