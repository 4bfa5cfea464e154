//! A long time beside a real glance-api of two processes that serves, fills, queues and deletes: ours in two
//! loops and as a service, one fault after the other, and a check after each round, for which all pause. See
//! `tests/peer/python/soak.py`.
//!
//! Nothing that is served or cached may be damaged. At each check the index, the directory and what ours
//! reports are the same, nothing is left over, and the service has given back what it took.
//! `GLANCE_CACHE_TEST_SECONDS` sets how long it lasts: a short run is a sample.

mod as_root {
    use std::collections::BTreeMap;
    use std::fs;

    use serde::Deserialize;
    use serde_json::json;

    use crate::live::{Run, beside_glance, seconds, two_loops, without_ids};
    use crate::support::env::BINARY;
    use crate::support::mounts::{Ext4, Mount};
    use crate::support::servers::{Database, MariaDb};

    const SECONDS: u64 = 40;
    const LIMIT: u64 = 3_000_000;
    /// The size of the file system of the cache, in MiB.
    const DISK: u64 = 64;

    #[derive(Deserialize)]
    struct Report {
        done: BTreeMap<String, u64>,
        damaged: Vec<String>,
        met: BTreeMap<String, u64>,
        runs: Vec<Run>,
        faults: BTreeMap<String, u64>,
        check: Checked,
        service: Service,
    }

    #[derive(Deserialize)]
    struct Checked {
        count: u64,
        wrong: Vec<String>,
        sums: BTreeMap<String, u64>,
    }

    #[derive(Deserialize)]
    struct Service {
        alive: bool,
        code: i64,
        seen: Vec<Seen>,
        said: BTreeMap<String, u64>,
    }

    /// What the service has at a check; memory in KiB.
    #[derive(Deserialize)]
    struct Seen {
        descriptors: u64,
        memory: u64,
    }

    fn run(driver: &str, faults: &[&str]) -> Report {
        let root = tempfile::Builder::new().prefix("gcs-").tempdir().unwrap();
        let cache = root.path().join("cache");
        let disk = Ext4::make(root.path(), DISK);
        let _mount = Mount::ext4(&disk, &cache, "rw");
        fs::remove_dir(cache.join("lost+found")).unwrap();
        let seconds = seconds(SECONDS);
        let database = Database::whole(MariaDb, "".as_ref());
        let plan = json!({
            "driver": driver, "seconds": seconds, "limit": LIMIT, "database": database.url, "program": BINARY,
            "beside": two_loops(), "faults": faults, "round": (seconds / 3).clamp(10, 60),
        });
        beside_glance("soak.py", root.path(), &plan)
    }

    /// Counts the runs by command and exit code, and what they said; fails for one that may not be.
    fn judge(runs: &[Run]) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let (mut codes, mut said) = (BTreeMap::new(), BTreeMap::new());
        for run in runs {
            let verb = run.command[1].as_str();
            *codes.entry(format!("{verb}: {}", run.code)).or_default() += 1;
            for line in run.err.lines() {
                let line = without_ids(line).replace(|c: char| c.is_ascii_digit() || c == '.', "");
                *said.entry(format!("{verb}: {line}")).or_default() += 1;
            }
            let is_explained = match run.code {
                // The latter is that it was killed.
                0 | -9 => true,
                1 | 3 => !run.err.is_empty(),
                _ => false,
            };
            assert!(is_explained, "{:?} ended with {}: {}{}", run.command, run.code, run.out, run.err);
        }
        (codes, said)
    }

    fn soak(driver: &str, faults: &[&str]) {
        let Report { done, damaged, met, runs, faults: made, check, service } = run(driver, faults);
        let (codes, said) = judge(&runs);
        println!("{driver}: clients did {done:?} and met {met:?}");
        println!("  {} checks: {:?}; faults {made:?}; runs by exit code {codes:?}", check.count, check.sums);
        for (line, count) in said.iter().chain(&service.said) {
            println!("  {count:>7} {line}");
        }
        let range =
            |figures: Vec<u64>| (figures[0], *figures.iter().max().unwrap(), figures[figures.len() - 1]);
        let descriptors = range(service.seen.iter().map(|seen| seen.descriptors).collect());
        let memory = range(service.seen.iter().map(|seen| seen.memory).collect());
        println!("  the service, first, most, last: descriptors {descriptors:?}, KiB {memory:?}");
        assert!(damaged.is_empty(), "{damaged:#?}");
        assert!(check.wrong.is_empty(), "{:#?}", check.wrong);
        assert!(service.alive && service.code == 0, "the service ended with {}", service.code);
        assert!(descriptors.2 <= descriptors.0 + 2 && memory.2 <= memory.0 + 4096);
        assert!(said.keys().chain(service.said.keys()).all(|line| !line.contains("panicked")));
        assert!(check.count >= 3 && made.len() > 2 && done["get"] > 20);
        let prunes = runs.iter().filter(|run| run.command[1] == "prune" && run.code == 0).count();
        assert!(prunes > 3, "{codes:?}");
    }

    #[test]
    fn with_sqlite() {
        soak("sqlite", &["index_locked", "worker_killed", "disk_full", "run_killed", "lock_held"]);
    }

    /// What takes its time: see `GLANCE_CACHE_TEST_CLUSTERS` in CONTRIBUTING.md.
    mod on_demand {
        use super::soak;

        #[test]
        fn with_xattr() {
            soak("xattr", &["lock_held", "worker_killed", "disk_full", "run_killed"]);
        }

        #[test]
        fn with_a_central_database() {
            let faults =
                ["index_locked", "connections_cut", "worker_killed", "disk_full", "run_killed", "lock_held"];
            soak("centralized_db", &faults);
        }
    }
}
