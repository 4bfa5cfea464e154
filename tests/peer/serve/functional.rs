//! Glance's own functional tests of its Cache API, as they come with it, their requests to /v2/cache answered
//! by the service: see `tests/peer/python/functional.py`.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::env::*;
use crate::support::needs;

/// The tests that do not pass, a text of their failure, and why that is intended.
const INTENDED: [(&str, &str, &str); 4] = [
    (
        "test_cache_api_negative_scenarios",
        "400 != 204",
        "the target 'both' of a clear, which Glance's documents name and its code refuses, is served",
    ),
    ("test_cache_api_cache_disabled", "image_cache_dir is not set", NO_CACHE),
    ("test_cache_clean_disabled", "image_cache_dir is not set", NO_CACHE),
    ("test_cache_prune_disabled", "image_cache_dir is not set", NO_CACHE),
];

const NO_CACHE: &str = "without a cache the service does not start, instead of answering 404 to everything";

fn run(binary: &str) -> Value {
    let env = TestEnv::empty(Sqlite);
    let report = env.outside("report.json");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/functional.py");
    let mut command = Command::new(needs::glance());
    command.args(["-B", script, binary]).arg(&report).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", env.outside("")).stdin(Stdio::null());
    env.finish(&mut command).ok();
    serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap()
}

#[test]
fn glances_own_tests_pass() {
    let report = run(BINARY);
    let tests = report["tests"].as_object().unwrap();
    let asked = report["asked"].as_array().unwrap();
    let asking: BTreeSet<&str> = asked.iter().map(|request| request[0].as_str().unwrap()).collect();
    let failed: Vec<(&String, &str)> =
        tests.iter().filter_map(|(test, how)| Some((test, how.as_str()?))).collect();
    println!(
        "{} tests, {} passed; {} requests to the service by {} tests",
        tests.len(),
        tests.len() - failed.len(),
        asked.len(),
        asking.len()
    );
    assert!(tests.len() >= 30 && asking.len() >= 20 && asked.len() >= 100, "{report}");
    for (test, how) in &failed {
        let intended = INTENDED.iter().find(|(name, _, _)| name == test);
        let (_, text, why) = intended.unwrap_or_else(|| panic!("{test}: {how}"));
        assert!(how.contains(text), "{test}: {how}");
        println!("{test}: {why}");
    }
    assert_eq!(failed.len(), INTENDED.len(), "a test passes that was not expected to");
}

/// Otherwise the other test could fail for want of something in the environment.
#[test]
fn glances_own_tests_pass_with_glance() {
    let report = run("-");
    let failed: Vec<_> =
        report["tests"].as_object().unwrap().iter().filter(|(_, how)| !how.is_null()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
