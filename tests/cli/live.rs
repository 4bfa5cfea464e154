//! Beside a real glance-api that serves, caches and counts hits: see `tests/peer/live.py`.

use std::process::Command;

use serde_json::Value;

use crate::env::{BINARY, Driver, Sqlite, Xattr};
use crate::peer::python;

const SECONDS: &str = "15";
const LIMIT: u64 = 3_000_000;
/// No image is larger: `live.py`.
const LARGEST: u64 = 512 * 1024;

/// Glance looks whether an image is cached and opens it after; its own pruner in our place gets the same line into its log.
const GLANCES_OWN_RACE: &str = "An error occurred reading from backend storage";

fn live(driver: Driver, command: &[&str]) -> (tempfile::TempDir, Value) {
    let root = tempfile::Builder::new().prefix("gcl-").tempdir().unwrap();
    let output = Command::new(python())
        .args(["-I", "-B", "-W", "ignore", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/live.py")])
        .arg(root.path())
        .args([driver.name(), SECONDS])
        .args(command)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "the real glance-api did not get so far ({error}): {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (root, report)
}

fn prunes_beside(driver: Driver) {
    let limit = LIMIT.to_string();
    let (_root, report) = live(
        driver,
        &[BINARY, "prune", "--cache-dir", "{cache}", "--driver", driver.name(), "--max-size", &limit],
    );
    let runs = report["runs"].as_array().unwrap();
    let mut pruned = 0;
    for run in runs {
        assert_eq!((&run["code"], &run["stderr"]), (&0.into(), &"".into()), "{run}");
        let told: Value = serde_json::from_str(run["stdout"].as_str().unwrap()).unwrap();
        let number = |key: &str| told[key].as_u64().unwrap();
        assert!(number("cache_size_after") <= LIMIT, "over the limit at its last look: {told}");
        let files = number("total_files_pruned");
        assert!(
            files == 0 || number("cache_size_after") + LARGEST > LIMIT,
            "more than its last image below the limit: {told}"
        );
        pruned += files;
    }
    let served = report["served"].as_u64().unwrap();
    println!("{} prunes removed {pruned} images while {served} were served", runs.len());
    assert!(served > 50 && pruned > 5 && runs.len() > 10, "too little happened to prove anything");
    assert_eq!(report["damaged"], Value::Array(Vec::new()));
    let strange: Vec<&str> = report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .filter(|line| !line.contains(GLANCES_OWN_RACE) && !line.contains("stevedore"))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

#[test]
#[ignore = "needs the real Glance: run tests/run"]
fn prune_holds_the_limit_beside_a_real_glance_api_with_sqlite() {
    prunes_beside(Sqlite);
}

#[test]
#[ignore = "needs the real Glance: run tests/run"]
fn prune_holds_the_limit_beside_a_real_glance_api_with_xattr() {
    prunes_beside(Xattr);
}

/// Prunes and prefetches in turn, so that Glance and we are after the same images all the time.
fn prefetches_beside(driver: Driver) {
    let ours = format!("{BINARY} WHAT --config-file {{root}}/etc/glance-api.conf");
    let prune = ours.replace("WHAT", "prune") + " --max-size 1000000 > /dev/null";
    let prefetch = ours.replace("WHAT", "prefetch") + " {ids}";
    let (root, report) = live(driver, &["sh", "-c", &format!("{prune}; exec {prefetch}")]);
    let (mut fetched, mut left) = (0, 0);
    let runs = report["runs"].as_array().unwrap();
    for run in runs {
        assert_eq!(run["code"], 0, "{run}");
        // So many images come in and are used while one prune looks that it may have to leave more than the limit.
        let stderr = run["stderr"].as_str().unwrap();
        assert!(stderr.lines().all(|line| line.contains("what is left was used meanwhile")), "{run}");
        let told: Value = serde_json::from_str(run["stdout"].as_str().unwrap()).unwrap();
        fetched += told["total_files_prefetched"].as_u64().unwrap();
        let images = told["images"].as_array().unwrap();
        left += images.iter().filter(|image| image["outcome"] == "left_to_glance").count();
    }
    let served = report["served"].as_u64().unwrap();
    println!("{} runs fetched {fetched} images and left {left} to Glance, which served {served}", runs.len());
    assert_eq!(report["damaged"], Value::Array(Vec::new()));
    assert!(served > 50 && fetched > 50, "too little happened to prove anything");
    let cache = root.path().join("cache");
    assert_eq!(crate::env::names(&cache.join("incomplete")), [""; 0]);
    if driver == Sqlite {
        let db = rusqlite::Connection::open(cache.join("cache.db")).unwrap();
        let rows: isize = db.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap();
        let files = crate::env::names(&cache).iter().filter(|name| name.len() == 36).count();
        println!("{files} files, {rows} rows, errors: {}", report["errors"]);
        assert_eq!(files, rows.unsigned_abs());
    }
}

#[test]
#[ignore = "needs the real Glance: run tests/run"]
fn prefetch_and_a_real_glance_api_are_after_the_same_images_with_sqlite() {
    prefetches_beside(Sqlite);
}

#[test]
#[ignore = "needs the real Glance: run tests/run"]
fn prefetch_and_a_real_glance_api_are_after_the_same_images_with_xattr() {
    prefetches_beside(Xattr);
}
