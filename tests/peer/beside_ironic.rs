//! The real Ironic beside ours: the same trees for both, each of its measured defects, its crashed downloads,
//! its racing fetches.
//!
//! Where the two agree the same files must go. Where ours differs, a test of that name says what Ironic does
//! and what ours does instead; the list is the one of the manual page. Ironic's own cleaning is driven by
//! `tests/peer/python/ironic_peer.py`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::env::{BINARY, names, now, tree};
use crate::support::host::{CLOCK, HostEnv, MIB, master};
use crate::support::peer::Peer;

/// Ten days from now, for Ironic's clock.
fn at() -> f64 {
    now() + 864_000.0
}

/// Longer than a tick of the kernel's file times.
const TICK: Duration = Duration::from_millis(30);

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn a_conductor_registers_the_same_kinds_with_the_same_priorities() {
    let mut ironic = Peer::ironic();
    let theirs = ironic.call("priorities", json!({}));
    assert_eq!(theirs, json!([[75, "ISOImageCache"], [50, "InstanceImageCache"], [25, "TFTPImageCache"]]));
    let status = HostEnv::new().status();
    let ours: Vec<(&Value, &Value)> = status["caches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cache| (&cache["priority"], &cache["name"]))
        .collect();
    assert_eq!(json!(ours), json!([[75, "ironic-iso"], [50, "ironic-instance"], [25, "ironic-tftp"]]));
}

/// Files below the home directory, arguments, variables.
type Case = (Vec<(&'static str, String)>, &'static [&'static str], &'static [(&'static str, &'static str)]);

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases, and one comparison")]
fn options_are_found_and_read_as_a_conductor_does() {
    let mut ironic = Peer::ironic();
    let env = HostEnv::new();
    let mut compared = 0;
    let all = |iso: &str, mib: u64, minutes: u64| {
        format!(
            "[deploy]\niso_master_path = {iso}\niso_cache_size = {mib}\niso_cache_ttl = {minutes}\n\
             [pxe]\ninstance_master_path = {0}/instance\ntftp_master_path = {0}/tftp\nimage_cache_size = \
             {mib}\n\
             image_cache_ttl = {minutes}\n",
            env.base.display()
        )
    };
    let iso = env.dir("iso").display().to_string();
    let state = format!("[DEFAULT]\nstate_path = {}\n", env.base.display());
    let places = [
        "ironic.conf",
        ".ironic/ironic.conf",
        "ironic-conductor.conf",
        "ironic.conf.d/b.conf",
        "ironic.conf.d/a.conf",
    ];
    let mut cases: Vec<Case> = vec![
        (vec![("ironic.conf", all("", 1, 1))], &[], &[]),
        (vec![("ironic.conf", state.clone() + &all("$state_path/iso", 1, 1))], &[], &[]),
        (
            vec![("ironic.conf", state + &all("${state_path}/iso", 1, 1))],
            &[],
            &[("OS_DEPLOY__ISO_CACHE_TTL", "9")],
        ),
        (vec![("ironic.conf", all(&iso, 3, 2))], &[], &[("OS_PXE__IMAGE_CACHE_SIZE", "77")]),
        (vec![("ironic.conf", all(&iso, 0, 0))], &[], &[]),
        (
            vec![("f.conf", all(&iso, 5, 5)), ("ironic.conf", all(&iso, 6, 6))],
            &["--config-file", "f.conf"],
            &[],
        ),
        (
            vec![("d.d/x.conf", all(&iso, 5, 5)), ("ironic.conf", all(&iso, 6, 6))],
            &["--config-dir", "d.d"],
            &[],
        ),
        (
            vec![("f.conf", all(&iso, 5, 5)), ("ironic.conf", all(&iso, 6, 6))],
            &[],
            &[("IRONIC_CONFIG_FILE", "f.conf")],
        ),
        (
            vec![("d.d/x.conf", all(&iso, 5, 5)), ("ironic.conf", all(&iso, 6, 6))],
            &[],
            &[("IRONIC_CONFIG_DIR", "d.d")],
        ),
    ];
    for n in 1..32_u64 {
        // Every combination of the default places, each with a size of its own.
        let chosen = (0..5).filter(|bit| n & (1 << bit) != 0);
        let files = chosen.map(|bit| (places[bit], all(&iso, 10 + bit as u64, 20 + bit as u64))).collect();
        cases.push((files, &[], &[]));
    }
    for (files, arguments, variables) in cases {
        let home = env.path("home");
        fs::remove_dir_all(&home).unwrap();
        fs::create_dir_all(home.join("d.d")).unwrap();
        for (name, text) in &files {
            fs::create_dir_all(home.join(name).parent().unwrap()).unwrap();
            fs::write(home.join(name), text).unwrap();
        }
        let absolute = |text: &str| {
            let below = text.starts_with("f.conf") || text.starts_with("d.d");
            if below { home.join(text).display().to_string() } else { text.to_owned() }
        };
        let environment: serde_json::Map<String, Value> = [("HOME", "")]
            .iter()
            .chain(variables)
            .map(|(name, value)| {
                let value = if *name == "HOME" { home.display().to_string() } else { absolute(value) };
                ((*name).to_owned(), json!(value))
            })
            .collect();
        let arguments: Vec<String> = arguments.iter().map(|argument| absolute(argument)).collect();
        let theirs = ironic.call("options", json!({"args": arguments, "environment": environment}));

        let mut command = Command::new(BINARY);
        command.env_clear().current_dir(&env.base).stdin(Stdio::null());
        command.envs(environment.iter().map(|(name, value)| (name, value.as_str().unwrap())));
        command.args(["status", "--all-caches", "--format", "json"]);
        command.args(arguments.iter().map(|argument| argument.replace("--config", "--ironic-config")));
        let ours = env.finish(&mut command).ok().json();
        let mut found = serde_json::Map::new();
        for (kind, group, path, size, ttl) in [
            ("ironic-iso", "deploy", "iso_master_path", "iso_cache_size", "iso_cache_ttl"),
            ("ironic-instance", "pxe", "instance_master_path", "image_cache_size", "image_cache_ttl"),
            ("ironic-tftp", "pxe", "tftp_master_path", "image_cache_size", "image_cache_ttl"),
        ] {
            match ours["caches"].as_array().unwrap().iter().find(|cache| cache["name"] == kind) {
                Some(cache) => {
                    found.insert(format!("{group}.{path}"), cache["directory"].clone());
                    found.insert(format!("{group}.{size}"), json!(cache["limit"].as_u64().unwrap() >> 20));
                    found.insert(format!("{group}.{ttl}"), json!(cache["age_limit"].as_u64().unwrap() / 60));
                }
                // Disabled: its other options are nothing that could be seen.
                None => {
                    found.insert(format!("{group}.{path}"), json!(""));
                    for name in [size, ttl] {
                        found.insert(format!("{group}.{name}"), theirs[format!("{group}.{name}")].clone());
                    }
                }
            }
        }
        assert_eq!(Value::Object(found), theirs, "{files:?} {arguments:?} {variables:?}");
        compared += 1;
    }
    println!("{compared} configurations, the same in both");
}

/// Two copies of a tree, made in lockstep: one for Ironic, one for ours.
struct Pair {
    theirs: HostEnv,
    ours: HostEnv,
}

impl Pair {
    fn new() -> Self {
        Self { theirs: HostEnv::new(), ours: HostEnv::new() }
    }

    fn both(&self, make: impl Fn(&HostEnv)) {
        make(&self.theirs);
        make(&self.ours);
    }

    fn image(&self, cache: &str, name: &str, bytes: usize) {
        self.both(|env| env.image(cache, name, bytes));
    }

    /// Returns the names that are left in a cache: theirs, ours.
    fn left(&self, cache: &str) -> (Vec<String>, Vec<String>) {
        (self.theirs.names(cache), self.ours.names(cache))
    }
}

#[test]
fn a_cache_held_to_its_limits_keeps_the_same_images() {
    let mut ironic = Peer::ironic();
    let mut dice = Dice(7);
    let trees = 60;
    let mut removed = 0;
    for round in 0..trees {
        let pair = Pair::new();
        let images = 3 + dice.roll(8) as usize;
        let mut total = 0;
        let mut cutoff = now();
        let expired = dice.roll(images as u64 + 1) as usize;
        for n in 0..images {
            if n == expired {
                std::thread::sleep(TICK / 2);
                cutoff = now();
                std::thread::sleep(TICK / 2);
            }
            let suffix = if dice.roll(3) == 0 { ".converted" } else { "" };
            let name = format!("{}{suffix}", master(n));
            let bytes = 1000 * (1 + dice.roll(9) as usize) + n;
            pair.image("iso", &name, bytes);
            if dice.roll(4) == 0 {
                pair.both(|env| env.use_image("iso", &name));
            }
            total += bytes as u64;
            std::thread::sleep(TICK);
        }
        // Everything older than the cutoff has expired at `at`; half of the rounds have no age that matters.
        let at = at();
        let ttl = if dice.roll(2) == 0 { at - cutoff } else { 1e6 };
        let size = dice.roll(total + total / 4);
        let dir = pair.theirs.dir("iso");
        ironic.call("clean_up", json!({"dir": dir, "size": size, "ttl": ttl, "at": at}));
        pair.ours.conf(&format!("[image_cache:ironic-iso]\nsize = {size}\nage = {ttl:.3}s\n"));
        let mut prune = pair.ours.command("prune");
        let run = pair.ours.finish(prune.arg("--all-caches").env(CLOCK, at.to_string()));
        let (theirs, ours) = pair.left("iso");
        assert_eq!(
            theirs, ours,
            "round {round}: {images} images, {total} bytes, size {size}, ttl {ttl}: {}",
            run.stdout
        );
        removed += images - ours.len();
    }
    println!("{trees} trees, none differs; {removed} images removed by each");
}

#[test]
fn differs_on_purpose_in_what_is_an_image() {
    let mut ironic = Peer::ironic();
    let pair = Pair::new();
    for name in [".hidden", "README.txt", "pxelinux.0", "x.part"] {
        pair.image("tftp", name, 10);
    }
    ironic.call("clean_up", json!({"dir": pair.theirs.dir("tftp"), "size": 0, "ttl": 0, "at": at()}));
    pair.ours.limits(0, 0);
    pair.ours.later("prune", &["--all-caches"]).ok();
    let (theirs, ours) = pair.left("tftp");
    println!("foreign files of four left: Ironic {}, ours {}", theirs.len(), ours.len());
    assert_eq!((theirs.len(), ours.len()), (0, 4));
}

/// Defect 2: an empty path "disables caching".
#[test]
fn a_disabled_cache_is_no_cache() {
    let mut ironic = Peer::ironic();
    let env = HostEnv::new();
    env.image("tftp", &master(1), 10);
    let theirs = ironic.try_call(
        "clean_up_caches",
        json!({
            "caches": [[75, null, 1, 1], [25, env.dir("tftp"), 1, 1]], "directory": env.base,
            "amount": 1_u64 << 60, "at": at(),
        }),
    );
    println!("Ironic: {theirs:?}");
    assert!(theirs.unwrap_err().starts_with("TypeError"));
    env.ironic_conf(&format!(
        "[deploy]\niso_master_path =\n[pxe]\ninstance_master_path =\ntftp_master_path = {}\nimage_cache_ttl \
         = 1\n",
        env.dir("tftp").display()
    ));
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 1}));
}

/// Defects 5 and 6: a symlink, a dangling one, a bad directory.
#[test]
fn links_count_nothing_and_one_bad_entry_stops_nothing() {
    let mut ironic = Peer::ironic();
    let pair = Pair::new();
    pair.both(|env| {
        env.limits(0, 0);
        env.image("iso", &master(1), 10);
        env.image("tftp", &master(2), 10);
        symlink("nowhere", env.dir("iso").join(master(3))).unwrap();
    });
    let dirs = ["iso", "tftp"].map(|cache| pair.theirs.dir(cache));
    let theirs = ironic
        .try_call("clean_up_all", json!({"caches": [[75, dirs[0], 0, 0], [25, dirs[1], 0, 0]], "at": at()}));
    println!("Ironic: {theirs:?}");
    assert!(theirs.unwrap_err().starts_with("FileNotFoundError"));
    assert_eq!(pair.theirs.names("tftp").len(), 1, "Ironic's lower cache is not served");
    pair.ours.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(pair.ours.names("iso"), [master(3)]);

    // An uncreatable directory.
    fs::write(pair.theirs.dir("file"), "").unwrap();
    let bad = pair.theirs.dir("file").join("below");
    let theirs = ironic
        .try_call("clean_up_all", json!({"caches": [[75, bad, 0, 0], [25, dirs[1], 0, 0]], "at": at()}));
    println!("Ironic: {theirs:?}");
    assert!(theirs.is_err());
    assert_eq!(pair.theirs.names("tftp").len(), 1);
}

/// Defect 11: missing directories are made.
#[test]
fn makes_no_directories() {
    let mut ironic = Peer::ironic();
    let pair = Pair::new();
    pair.both(|env| fs::remove_dir(env.dir("iso")).unwrap());
    ironic.call("clean_up_all", json!({"caches": [[75, pair.theirs.dir("iso"), 0, 0]], "at": at()}));
    pair.ours.later("prune", &["--all-caches"]).ok();
    assert_eq!((pair.theirs.dir("iso").exists(), pair.ours.dir("iso").exists()), (true, false));
}

/// Defect 7: what really killed downloads leave.
#[test]
fn what_killed_downloads_left_is_found_and_removed() {
    let mut ironic = Peer::ironic();
    let env = HostEnv::new();
    env.limits(0, 0);
    let dir = env.dir("iso");
    for (when, image) in [("downloading", "1000000/slow"), ("converting", "2000/b"), ("linked", "3000/c")] {
        let dest = env.dir(when);
        let signal = ironic.call("die", json!({"dir": dir, "image": image, "dest": dest, "when": when}));
        assert_eq!(signal, 9, "{when}");
    }
    println!("left: {:#?}", tree(&dir).keys().collect::<Vec<_>>());
    // The instance goes; its image keeps the link of the temporary directory.
    fs::remove_file(env.dir("linked")).unwrap();
    assert_eq!(env.names("iso").iter().filter(|name| name.starts_with("tmp")).count(), 3);

    ironic.call("clean_up", json!({"dir": dir, "size": 0, "ttl": 0, "at": at()}));
    assert_eq!(env.names("iso").len(), 4, "Ironic removes nothing of it");

    let plan = env.later("prune", &["--all-caches", "--dry-run"]).ok().json();
    assert_eq!(plan["total_files_pruned"], 1, "{plan}");
    env.later("prune", &["--all-caches"])
        .ok()
        .has(&json!({"total_files_pruned": 1, "total_bytes_pruned": 3000}));
    env.later("clean", &["--all-caches"]).ok().has(&json!({"total_files_cleaned": 3}));
    assert_eq!(env.names("iso"), [""; 0]);
}

/// A conductor's fetches against a prune every 10 ms, and against Ironic's own cleaning from another process.
#[test]
fn racing_fetches_lose_no_image() {
    let race = |what: &str, delay: f64, clean: &mut dyn FnMut(&HostEnv)| {
        let mut ironic = Peer::ironic();
        let env = HostEnv::new();
        env.limits(0, 0);
        let request = json!({
            "dir": env.dir("iso"), "image": "1000/a", "dest": env.dir("dest"), "count": 400, "delay": delay,
        });
        let (send, done) = std::sync::mpsc::channel();
        let tally = std::thread::scope(|scope| {
            scope.spawn(move || send.send(ironic.call("race", request)).unwrap());
            loop {
                match done.recv_timeout(Duration::from_millis(10)) {
                    Ok(tally) => return tally,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => clean(&env),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        println!("{what}, every link held up {delay} s: {tally}");
        assert!(!env.dir("iso/.glance-cache-aside").exists());
        tally
    };
    for delay in [0.0, 0.005] {
        let mut prunes = (0, 0);
        let tally = race("our prune", delay, &mut |env| {
            let run = env.later("prune", &["--all-caches", "--min-age", "0"]);
            prunes.0 += 1;
            prunes.1 += run.json()["total_files_pruned"].as_u64().unwrap();
        });
        println!("    in {} prunes {} images went", prunes.0, prunes.1);
        assert_eq!(tally["lost"], 0);
        // With the minimal age an image in use is never touched.
        let tally = race("our prune with its minimal age", delay, &mut |env| {
            let _ = env.run("prune", &["--all-caches"]);
        });
        assert_eq!((&tally["lost"], &tally["failed"]), (&json!(0), &json!(0)));
        let mut other = Peer::ironic();
        race("the real cleaning in another process", delay, &mut |env| {
            other.call("race_cleaner", json!({"dir": env.dir("iso"), "seconds": 0.1}));
        });
    }
}

/// Side by side on small file systems.
mod as_root {
    use super::*;
    use crate::support::mounts::MountedHost;

    const CACHES: [(u32, &str); 3] = [(75, "iso"), (50, "instance"), (25, "tftp")];

    /// Ironic's own making of room.
    fn their_require(ironic: &mut Peer, env: &HostEnv, amount: u64) -> Result<Value, String> {
        let caches: Vec<Value> = CACHES
            .iter()
            .map(|(priority, cache)| json!([priority, env.dir(cache), 1_u64 << 40, 1_u64 << 30]))
            .collect();
        ironic.try_call(
            "clean_up_caches",
            json!({"caches": caches, "directory": env.base, "amount": amount, "at": at()}),
        )
    }

    fn left(env: &HostEnv) -> BTreeSet<String> {
        CACHES
            .iter()
            .flat_map(|(_, cache)| {
                names(&env.dir(cache)).into_iter().map(move |name| format!("{cache}/{name}"))
            })
            .collect()
    }

    #[test]
    fn the_same_images_make_room() {
        let mut ironic = Peer::ironic();
        let mut dice = Dice(11);
        let trees = 40;
        let (mut removed, mut impossible) = (0, 0);
        for round in 0..trees {
            let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
            let mut n = 0;
            for (_, cache) in CACHES {
                for _ in 0..dice.roll(5) {
                    let bytes = MIB * (1 + dice.roll(3) as usize);
                    let used = dice.roll(5) == 0;
                    for env in [&theirs.env, &ours.env] {
                        env.image(cache, &master(n), bytes);
                        if used {
                            env.use_image(cache, &master(n));
                        }
                    }
                    n += 1;
                    std::thread::sleep(TICK);
                }
            }
            let before = left(&ours.env);
            // Half a MiB off, so that no image is exactly what is missing: there the two differ on purpose.
            let amount = ours.env.available() + MIB as u64 * dice.roll(12) - MIB as u64 / 2;
            let amount = amount.min((64 << 20) - MIB as u64 / 2);
            let result = their_require(&mut ironic, &theirs.env, amount);
            let run = ours.env.require(amount, &[]).code(i32::from(result.is_err()));
            if result.is_err() {
                impossible += 1;
                assert_eq!(left(&ours.env), before, "round {round}: ours removes nothing then");
                ours.env.require(amount, &["--best-effort"]).code(1);
            }
            assert_eq!(left(&theirs.env), left(&ours.env), "round {round}, amount {amount}: {}", run.stdout);
            removed += before.len() - left(&ours.env).len();
        }
        println!(
            "{trees} trees, none differs; {removed} images removed by each; {impossible} could not be, where \
             Ironic first \
             removes all it can (defect 10) and ours nothing unless told to"
        );
    }

    /// A spec once promised that the cache which is filled gives first: today's Ironic goes by the list, and
    /// so does ours.
    #[test]
    fn the_cache_that_the_space_is_for_has_no_precedence() {
        let mut ironic = Peer::ironic();
        let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
        for env in [&theirs.env, &ours.env] {
            env.image("tftp", &master(1), MIB);
            std::thread::sleep(TICK);
            env.image("iso", &master(2), MIB);
        }
        let amount = ours.env.available() + MIB as u64 / 2;
        let caches: Vec<Value> = CACHES
            .iter()
            .map(|(priority, cache)| json!([priority, theirs.env.dir(cache), 1_u64 << 40, 1_u64 << 30]))
            .collect();
        let tftp = theirs.env.dir("tftp");
        ironic.call(
            "clean_up_caches",
            json!({"caches": caches, "directory": tftp, "amount": amount, "at": at()}),
        );
        let on = ours.env.dir("tftp").display().to_string();
        ours.env.later("prune", &["--require", &format!("{amount}B"), "--on", &on]).ok();
        for env in [&theirs.env, &ours.env] {
            assert_eq!(left(env), BTreeSet::from([format!("tftp/{}", master(1))]));
        }
    }

    /// Defect 1: with one byte missing, the youngest expired image can go first.
    #[test]
    fn the_oldest_expired_image_goes_first() {
        let mut ironic = Peer::ironic();
        let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
        for n in 0..8 {
            for env in [&theirs.env, &ours.env] {
                env.image("iso", &master(n), MIB);
            }
            std::thread::sleep(TICK);
        }
        ironic.call(
            "clean_up",
            json!({"dir": theirs.env.dir("iso"), "size": 1_u64 << 40, "ttl": 60, "amount": 1, "at": at()}),
        );
        ours.env.limits(1000, 1);
        ours.env.require(ours.env.available() + 1, &[]).ok();
        let gone = |env: &HostEnv| (0..8).find(|n| !env.dir("iso").join(master(*n)).exists());
        println!(
            "of 8 expired images, 0 the oldest, went: Ironic {:?}, ours {:?}",
            gone(&theirs.env),
            gone(&ours.env)
        );
        assert_eq!(gone(&ours.env), Some(0));
    }

    /// Defect 3: exactly enough.
    #[test]
    fn exactly_enough_is_enough() {
        let mut ironic = Peer::ironic();
        for (more, gone) in [(0, 0), (4, 1)] {
            let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
            for n in 0..4 {
                for env in [&theirs.env, &ours.env] {
                    env.image("iso", &master(n), 4 * MIB);
                }
            }
            let amount = ours.env.available() + (more << 20);
            let result = their_require(&mut ironic, &theirs.env, amount);
            println!("free and {more} MiB: Ironic {result:?}");
            assert!(result.unwrap_err().contains("InsufficientDiskSpace"));
            ours.env.require(amount, &[]).ok().has(&json!({"total_files_pruned": gone, "missing": 0}));
        }
    }

    /// Defect 4: sparse images, and images that somebody has open.
    #[test]
    fn what_frees_less_than_it_seems_does_not_fool_it() {
        let mut ironic = Peer::ironic();
        let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
        for env in [&theirs.env, &ours.env] {
            for n in 0..6 {
                env.image("iso", &master(n), MIB);
                fs::File::options()
                    .write(true)
                    .open(env.dir("iso").join(master(n)))
                    .unwrap()
                    .set_len(20 << 20)
                    .unwrap();
            }
        }
        let amount = ours.env.available() + (4 << 20);
        let result = their_require(&mut ironic, &theirs.env, amount);
        println!("Ironic: {result:?}, {} images left", theirs.env.names("iso").len());
        assert!(result.is_err());
        ours.env.require(amount, &[]).ok().has(&json!({"total_files_pruned": 4, "missing": 0}));

        let host = MountedHost::tmpfs(64);
        for n in 0..3 {
            host.env.image("iso", &master(n), 4 * MIB);
        }
        let _open = fs::File::open(host.env.dir("iso").join(master(0))).unwrap();
        let started = Instant::now();
        host.env.require(host.env.available() + (3 << 20), &[]).ok().has(&json!({"total_files_pruned": 2}));
        assert!(started.elapsed() < Duration::from_secs(20), "waiting is bounded");
    }

    /// Defect 9: an amount and a size at once.
    #[test]
    fn an_amount_is_no_reason_to_hold_the_size() {
        let mut ironic = Peer::ironic();
        let (theirs, ours) = (MountedHost::tmpfs(64), MountedHost::tmpfs(64));
        for env in [&theirs.env, &ours.env] {
            for n in 0..10 {
                env.image("iso", &master(n), MIB);
            }
            env.limits(3, 1_000_000);
        }
        let dir = theirs.env.dir("iso");
        let request = json!({"dir": dir, "size": 3 << 20, "ttl": 1_u64 << 30, "amount": 1, "at": at()});
        ironic.call("clean_up", request);
        ours.env.require(ours.env.available() + 1, &[]).ok().has(&json!({"total_files_pruned": 1}));
        println!(
            "one byte from 10 images over their size: {} left of Ironic's, {} of ours",
            theirs.env.names("iso").len(),
            9
        );
        assert_eq!(theirs.env.names("iso").len(), 3);
    }

    /// Beside what a killed run left, Ironic's scan sees nothing but a directory.
    #[test]
    fn what_is_aside_is_no_concern_of_ironics() {
        let mut ironic = Peer::ironic();
        let host = MountedHost::tmpfs(64);
        let aside = host.env.dir("iso/.glance-cache-aside");
        fs::create_dir(&aside).unwrap();
        host.env.image("iso/.glance-cache-aside", &master(1), 10);
        ironic.call("clean_up", json!({"dir": host.env.dir("iso"), "size": 0, "ttl": 0, "at": at()}));
        assert_eq!(names(Path::new(&aside)), [master(1)]);
        host.env.later("prune", &["--all-caches", "--min-age", "11d"]).ok();
        assert_eq!(host.env.names("iso"), [master(1)]);
    }
}
