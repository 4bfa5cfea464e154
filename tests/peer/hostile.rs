//! Hostile directories: whoever owns the cache exchanges everything in it, again and again, for links that
//! lead out of it, FIFOs, sockets, devices and second links to other people's files, while root cleans and
//! prunes it.
//!
//! What must hold: nothing outside changes and nothing of it comes into a report, nothing hangs, every exit
//! code is one of the contract's with its one JSON object, and what root makes in the cache belongs to the
//! owner of the cache. What root alone can make (devices, links to root's own files) lies ready for the owner
//! in a pool beside the cache.
//!
//! It takes some seconds; `GLANCE_CACHE_TEST_SECONDS` says how many for each test. Totals go past the test
//! harness to stderr.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use crate::support::env::*;
use crate::support::rights::give_to_nobody;

const OWNER: u32 = 65534;
/// Stands in root's own files, and must be in no output.
const SECRET: &str = "hunter2-of-root";
/// A run that takes longer hangs: nothing here is large, and locks are waited for for a second.
const LONGEST: Duration = Duration::from_secs(30);

/// The entries that are exchanged, in the cache and in its subdirectories.
#[rustfmt::skip]
const TARGETS: &[&str] = &[
    "a", "b", "c", "d", "e", "invalid", "incomplete", "queue", "invalid/x", "invalid/y", "incomplete/stalled",
    "cache.db", "cache.db-journal", "cache.db-wal", "cache.db-shm", "glance-cache-prune",
    "glance-cache-clean", "image_cache_db_init",
];

/// The things they are exchanged for.
#[rustfmt::skip]
const POOL: &[&str] = &[
    "link-to-file", "link-to-secret", "link-to-directory", "link-to-nowhere", "link-to-itself", "link-up",
    "hard-link", "hard-link-to-secret", "fifo", "socket", "null", "zero", "directory", "garbage", "empty",
    "copy-of-index",
];

mod as_root {
    use super::*;

    #[test]
    fn an_sqlite_cache_under_attack() {
        attack(Sqlite);
    }

    #[test]
    fn an_xattr_cache_under_attack() {
        attack(Xattr);
    }

    #[test]
    fn rows_with_every_kind_of_bad_id() {
        let env = TestEnv::sqlite(FIVE);
        fs::create_dir_all(env.outside("beside/deep")).unwrap();
        let victim = env.write("beside/deep/victim", SECRET);
        let near = env.write(&id('9'), SECRET);
        let (a, up, long) = (id('a'), id('A'), "x".repeat(100_000));
        let ids = [
            String::new(),
            ".".into(),
            "..".into(),
            "/".into(),
            "invalid".into(),
            "invalid/x".into(),
            "queue/".into(),
            "../beside/deep/victim".into(),
            victim.clone(),
            near.clone(),
            format!("../{}", id('9')),
            format!("./{a}"),
            format!("{a}/"),
            format!("{a}/."),
            format!("{a} "),
            format!(" {a}"),
            format!("{a}\n"),
            format!("{a}\0"),
            format!("{a}/../../beside/deep/victim"),
            a.replace('-', "/"),
            a.replace('a', "/"),
            "../../../../../../etc/passwd".into(),
            "%2e%2e/beside".into(),
            "..\\beside".into(),
            "\u{1b}[2J".into(),
            "é".repeat(36),
            up,
            long,
        ];
        env.file("invalid/x", 10, 100);
        let db = env.db();
        for image_id in &ids {
            let sql =
                "INSERT OR IGNORE INTO cached_images (image_id, last_accessed, size) VALUES (?1, 1.0, 1000)";
            db.execute(sql, [image_id]).unwrap();
            let raw = "INSERT OR IGNORE INTO cached_images (image_id, last_accessed, size) VALUES (CAST(?1 \
                       AS BLOB), 1.0, 1000)";
            db.execute(raw, [image_id]).unwrap();
        }
        db.execute_batch(
            "INSERT INTO cached_images (image_id, last_accessed) VALUES (NULL, 0), (17, 0), (1.5, 0), \
             (x'00ff', 0)",
        )
        .unwrap();
        drop(db);
        give_to_nobody(env.dir());
        let before = tree(&env.outside("beside"));
        for (command, arguments) in [
            ("prune", &["--max-size", "2000B"][..]),
            ("prune", &["--max-size", "0", "--forget-all"]),
            ("clean", &["--repair", "--forget-all"]),
            ("prune", &["--max-size", "0"]),
        ] {
            let run = env.run(command, arguments);
            assert!(run.code <= 1 && !run.stderr.contains("panicked"), "{run:?}");
            assert!(!format!("{run:?}").contains(SECRET) && run.stderr.len() < 100_000, "{run:?}");
            assert_eq!(tree(&env.outside("beside")), before, "{command} {arguments:?}");
        }
        assert!(fs::read_to_string(near).unwrap() == SECRET && fs::read_to_string(victim).unwrap() == SECRET);
        assert_eq!((env.images().as_str(), env.ids().len()), ("", 0));
        env.prune(&[]).ok();
    }
}

/// The scene of an attack.
struct Scene {
    env: TestEnv,
    /// Held while something is exchanged, and while everything is put back.
    exchanging: Mutex<()>,
    done: AtomicBool,
    exchanges: AtomicU64,
}

fn attack(driver: Driver) {
    let seconds = std::env::var("GLANCE_CACHE_TEST_SECONDS").map_or(6, |text| text.parse().unwrap());
    let env = TestEnv::new(driver, FIVE);
    for name in ["invalid/x", "invalid/y", "incomplete/stalled"] {
        env.file(name, 10, 100);
    }
    give_to_nobody(env.dir());
    let (template, outside) = (env.outside("template"), env.outside("outside"));
    system(&["cp", "-a", env.dir().to_str().unwrap(), template.to_str().unwrap()]);
    fs::create_dir_all(outside.join("directory/invalid")).unwrap();
    for name in ["file", "directory/x", "directory/stalled", "directory/invalid/x"] {
        fs::write(outside.join(name), "everybody may read this").unwrap();
    }
    fs::write(outside.join("directory").join(id('a')), "no image of this cache").unwrap();
    fs::write(outside.join("secret"), SECRET).unwrap();
    chmod(&outside.join("secret"), 0o600);
    chmod(env.outside("").as_path(), 0o755);
    for entry in walkdir::WalkDir::new(&outside) {
        // So that reading shows, too.
        set_times(entry.unwrap().path(), now() - 400_000.0, now() - 300_000.0);
    }
    let scene =
        Scene { env, exchanging: Mutex::new(()), done: AtomicBool::new(false), exchanges: AtomicU64::new(0) };
    scene.put_back(&template);
    let before = scene.outside();
    let mut totals = BTreeMap::new();
    std::thread::scope(|scope| {
        for seed in [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03] {
            let scene = &scene;
            scope.spawn(move || scene.exchange(seed));
        }
        // Ends the others also when an assertion here fails.
        let _end = End(&scene.done);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut number = 0;
        while Instant::now() < deadline {
            let commands: [(&str, &[&str]); 4] = [
                ("prune", &["--max-size", "2000B"]),
                ("clean", &[]),
                ("prune", &["--max-size", "3000B", "--min-free", "1B"]),
                ("clean", &["--repair"]),
            ];
            let (command, arguments) = commands[number % commands.len()];
            number += 1;
            let run = scene.env.run(command, &[arguments, &["--lock-timeout", "1s"]].concat());
            judge(&run);
            *totals.entry(run.code).or_insert(0) += 1;
            let put_back = {
                let _still = scene.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
                scene.judge_owners();
                scene.put_back(&template);
                scene.outside()
            };
            assert_eq!(put_back, before, "something outside changed, or was read: {command} {run:?}");
        }
    });
    let line = format!(
        "hostile: {}: {} runs in {seconds} s, {} exchanges, exit codes {totals:?}, 0 faults\n",
        driver.name(),
        totals.values().sum::<i32>(),
        scene.exchanges.load(Ordering::Relaxed)
    );
    // Past the test harness, which keeps what passing tests print to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scene {
    /// Exchanges things, with the rights of the owner of the cache over files.
    fn exchange(&self, seed: u64) {
        // These ids are the calling thread's alone, and root's rights over files go with them.
        setfsgid(Gid::from_raw(OWNER));
        setfsuid(Uid::from_raw(OWNER));
        let mut dice = seed;
        let mut below = |bound: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % bound
        };
        while !self.done.load(Ordering::Relaxed) {
            let name = TARGETS[below(TARGETS.len() as u64) as usize];
            let other = POOL[below(POOL.len() as u64) as usize];
            if name == "cache.db-journal" && other == "fifo" {
                // What SQLite opens within microseconds after it was looked at can still keep it waiting: see
                // the index.
                continue;
            }
            let target = if name.len() == 1 { id(name.chars().next().unwrap()) } else { name.to_owned() };
            let (target, other) = (self.env.path(target), self.pool(other));
            let swap = || {
                let _one = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
                let flags = RenameFlags::EXCHANGE;
                let swapped = renameat_with(CWD, &target, CWD, &other, flags)
                    .or_else(|_| renameat_with(CWD, &other, CWD, &target, RenameFlags::NOREPLACE));
                self.exchanges.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                swapped.is_ok()
            };
            if swap() {
                sleep(Duration::from_micros(below(400)));
                if below(100) > 0 {
                    swap();
                }
            }
            // Most of the time most of it is as it should be, so that the commands get on.
            sleep(Duration::from_micros(below(6000)));
        }
    }

    fn pool(&self, name: &str) -> PathBuf {
        self.env.outside("pool").join(name)
    }

    /// Puts the cache and the pool back.
    fn put_back(&self, template: &Path) {
        let _ = fs::remove_dir_all(self.env.dir());
        let _ = fs::remove_dir_all(self.env.outside("pool"));
        system(&["cp", "-a", template.to_str().unwrap(), self.env.dir().to_str().unwrap()]);
        fs::create_dir(self.env.outside("pool")).unwrap();
        let outside = self.env.outside("outside");
        let link = |name: &str, target: &Path| symlink(target, self.pool(name)).unwrap();
        link("link-to-file", &outside.join("file"));
        link("link-to-secret", &outside.join("secret"));
        link("link-to-directory", &outside.join("directory"));
        link("link-to-nowhere", &outside.join("nowhere"));
        link("link-to-itself", Path::new("link-to-itself"));
        link("link-up", Path::new(".."));
        let node = |name: &str, kind, device| {
            mknodat(CWD, self.pool(name), kind, Mode::from_raw_mode(0o666), device).unwrap();
        };
        node("fifo", FileType::Fifo, 0);
        node("socket", FileType::Socket, 0);
        fs::create_dir(self.pool("directory")).unwrap();
        fs::write(self.pool("garbage"), [0xa5; 9000]).unwrap();
        fs::write(self.pool("empty"), "").unwrap();
        let index = template.join("cache.db");
        let _ =
            fs::copy(if index.exists() { index } else { self.pool("garbage") }, self.pool("copy-of-index"));
        give_to_nobody(&self.env.outside("pool"));
        node("null", FileType::CharacterDevice, makedev(1, 3));
        node("zero", FileType::CharacterDevice, makedev(1, 5));
        fs::hard_link(outside.join("file"), self.pool("hard-link")).unwrap();
        fs::hard_link(outside.join("secret"), self.pool("hard-link-to-secret")).unwrap();
    }

    /// Returns everything outside, with its content; of the secret also whether it was read.
    fn outside(&self) -> BTreeMap<String, String> {
        let outside = self.env.outside("outside");
        let secret = outside.join("secret").metadata().unwrap();
        let mut all = tree(&outside);
        all.insert("read".into(), format!("{} {}", secret.atime(), secret.atime_nsec()));
        all
    }

    /// Asserts that what root's runs made in the cache belongs to its owner.
    fn judge_owners(&self) {
        for entry in walkdir::WalkDir::new(self.env.dir()) {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let prepared = m.nlink() > 1 || m.file_type().is_char_device();
            assert!(
                m.uid() == OWNER || (prepared && !m.is_dir()),
                "{} belongs to {}",
                entry.path().display(),
                m.uid()
            );
        }
    }
}

/// Asserts that a run ended as it may, whatever happened around it.
fn judge(run: &Run) {
    assert!((0..=3).contains(&run.code), "no exit code of the contract: {run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    assert!(!run.stdout.contains(SECRET) && !run.stderr.contains(SECRET), "root's secret is told: {run:?}");
    assert!(run.took < LONGEST, "took {:?}: {run:?}", run.took);
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    run.json();
}
