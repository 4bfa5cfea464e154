//! Beside a real glance-api that serves, caches, queues and deletes: ours in two loops at once, then Glance's
//! own tools in their place, for the same time. See `tests/peer/python/live.py` for the load, and
//! `tests/peer/python/live_tools.py` for Glance's tools.
//!
//! Nothing that is served or cached may be damaged, a prune leaves the cache within its limit, files and
//! index agree at the end, and ours may cause no kind of error in glance-api that Glance's own tools do not
//! cause as well. `GLANCE_CACHE_TEST_SECONDS` sets how long each of the two lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::env::{BINARY, Sqlite, Xattr};
use crate::support::needs;
use crate::support::servers::{Database, MariaDb};

const SECONDS: u64 = 15;
const LIMIT: u64 = 3_000_000;

/// Kinds of errors that Glance's own tools cause too, but not within every few seconds. (Runs of minutes,
/// three drivers.)
const GLANCES_OWN: &[&str] = &[
    // It looks whether an image is cached and opens it after.
    "No such file or directory: 'DIR/cache/ID'",
    "No such file or directory: b'DIR/cache/",
    // Whoever else caches the same image moves its file, or has a row first.
    "No such file or directory: 'DIR/cache/incomplete/ID' -> 'DIR/cache/",
    "UNIQUE constraint failed: cached_images.image_id",
    "This Session's transaction has been rolled back due to a previous exception during flush",
    // Its statements lock the rows of a small table by two indexes, and so in two orders: without anybody
    // beside, four clients that only run them have one in a thousand end so.
    "Deadlock found when trying to get lock",
    // PyMySQL, whose connection a request closes that ends early while it is in use.
    "'NoneType' object has no attribute 'read'",
];

/// All that happened beside the load: see `live.py`.
#[derive(Deserialize)]
struct Report {
    done: BTreeMap<String, u64>,
    damaged: Vec<String>,
    /// The errors that the clients met, and how often.
    met: BTreeMap<String, u64>,
    runs: Vec<Run>,
    /// The kinds of lines in glance-api's log, and how often.
    kinds: BTreeMap<String, u64>,
    end: End,
}

/// A run of a command.
#[derive(Deserialize)]
pub(crate) struct Run {
    pub(crate) command: Vec<String>,
    pub(crate) code: i64,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Deserialize)]
struct End {
    files: u64,
    orphans: Vec<String>,
    ghosts: Vec<String>,
    incomplete: Vec<String>,
    invalid: Vec<String>,
    queue: Vec<String>,
}

fn live(driver: &str, database: &str, beside: &Value) -> Report {
    let root = tempfile::Builder::new().prefix("gcl-").tempdir().unwrap();
    let plan = json!({
        "driver": driver, "seconds": seconds(SECONDS), "limit": LIMIT, "database": database, "beside": beside,
    });
    beside_glance("live.py", root.path(), &plan)
}

/// Returns how long it lasts: as the environment says, or this long.
pub(crate) fn seconds(usual: u64) -> u64 {
    std::env::var("GLANCE_CACHE_TEST_SECONDS").map_or(usual, |text| text.parse().unwrap())
}

/// Returns our commands in two loops.
pub(crate) fn two_loops() -> Value {
    let [clean, prune, prefetch] =
        ["clean", "prune", "prefetch"].map(|verb| vec![BINARY, verb, "--config-file", "{conf}"]);
    let some = [&prefetch[..], &["{some}"]].concat();
    let verify = [&clean[..], &["--verify"]].concat();
    json!([[clean, prune, prefetch, verify], [prune, some, clean]])
}

/// Runs one of the scripts that start a real glance-api, and returns its report.
pub(crate) fn beside_glance<T: DeserializeOwned>(script: &str, root: &Path, plan: &Value) -> T {
    let output = Command::new(needs::glance())
        .args(["-I", "-B", "-W", "ignore"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/python").join(script))
        .arg(root)
        .arg(plan.to_string())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("the real glance-api did not get so far ({error}): {said}")
    })
}

/// Ours in two loops, and Glance's own in our place.
fn both(driver: &str) -> (Report, Report) {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/live_tools.py");
    let theirs = json!([[[needs::glance(), "-I", "-B", "-W", "ignore", tools, "{conf}", "{root}"]]]);
    let database = Database::whole(MariaDb, "".as_ref());
    (live(driver, &database.url, &two_loops()), live(driver, &database.url, &theirs))
}

/// The sums of our runs, and the faults among them.
#[derive(Default)]
struct Ours {
    prunes: u64,
    pruned: u64,
    prefetched: u64,
    left_to_glance: u64,
    verified: u64,
    told: BTreeMap<String, u64>,
    faults: Vec<String>,
}

fn judge(runs: &[Run]) -> Ours {
    let mut ours = Ours::default();
    for run in runs {
        let verb = run.command[1].as_str();
        let Ok(told) = serde_json::from_str::<Value>(&run.out) else {
            ours.faults.push(format!("{verb} ended with {}: {}{}", run.code, run.out, run.err));
            continue;
        };
        let number = |key: &str| told[key].as_u64().unwrap();
        for line in run.err.lines() {
            *ours.told.entry(format!("{verb}: {}", without_ids(line))).or_default() += 1;
        }
        match verb {
            "prune" => {
                ours.prunes += 1;
                ours.pruned += number("total_files_pruned");
                if run.code != 0 || number("cache_size_after") > LIMIT {
                    ours.faults.push(format!("prune ended with {}: {}{}", run.code, run.out, run.err));
                }
            }
            "prefetch" => {
                ours.prefetched += number("total_files_prefetched");
                for image in told["images"].as_array().unwrap() {
                    ours.left_to_glance += u64::from(image["outcome"] == "left_to_glance");
                }
                // Images are deleted while they are wanted: their record first, their data after.
                let deleted = [
                    "the image is deleted",
                    "the image has no active location",
                    "cannot open it: No such file or directory",
                ];
                let known = |line: &str| deleted.iter().any(|why| line.contains(why));
                if run.code > 1 || !run.err.lines().all(known) {
                    ours.faults.push(format!("prefetch ended with {}: {}", run.code, run.err));
                }
            }
            // No image that Glance caches, serves or deletes meanwhile is broken.
            _ if told["verification"].is_object() && (run.code != 0 || number("total_files_moved") > 0) => {
                ours.faults.push(format!("clean --verify ended with {}: {}{}", run.code, run.out, run.err));
            }
            _ if run.code == 0 && run.err.is_empty() => {
                ours.verified += told["verification"]["sound"]["count"].as_u64().unwrap_or_default();
            }
            _ => ours.faults.push(format!("{verb} ended with {}: {}", run.code, run.err)),
        }
    }
    ours
}

/// Replaces what is different each time.
pub(crate) fn without_ids(line: &str) -> String {
    let words = line.split_inclusive([' ', '/', ':']).map(|word| {
        let bare = word.trim_end_matches([' ', '/', ':']);
        if bare.len() == 36 || bare.starts_with("gcl-") { word.replace(bare, "…") } else { word.to_owned() }
    });
    words.collect()
}

fn beside(driver: &str) {
    let (report, theirs) = both(driver);
    let ours = judge(&report.runs);
    let mut text = format!("{driver}:\n");
    for (who, report) in [("ours", &report), ("Glance's own", &theirs)] {
        let end = &report.end;
        let _ = writeln!(
            text,
            "  beside {who}: {:?}, {} damaged, {:?} met; at the end {} files, {} orphans, {} ghosts, {} \
             incomplete, {} \
             invalid, {} queued",
            report.done,
            report.damaged.len(),
            report.met,
            end.files,
            end.orphans.len(),
            end.ghosts.len(),
            end.incomplete.len(),
            end.invalid.len(),
            end.queue.len()
        );
    }
    let _ = writeln!(
        text,
        "  ours: {} runs, {} prunes removed {} images, {} images prefetched, {} left to Glance, {} found \
         sound; they said {:?}",
        report.runs.len(),
        ours.prunes,
        ours.pruned,
        ours.prefetched,
        ours.left_to_glance,
        ours.verified,
        ours.told
    );
    for run in &theirs.runs {
        let _ = writeln!(text, "  Glance's own: {}{}", run.out.trim(), run.err.trim());
    }
    let _ = writeln!(text, "  {:>7} {:>7}  kind", "ours", "theirs");
    for kind in report.kinds.keys().chain(theirs.kinds.keys()).collect::<BTreeSet<_>>() {
        let count = |report: &Report| report.kinds.get(kind).copied().unwrap_or(0);
        let _ = writeln!(text, "  {:>7} {:>7}  {kind}", count(&report), count(&theirs));
    }
    println!("{text}");

    assert!(report.damaged.is_empty(), "{text}{:#?}", report.damaged);
    assert!(ours.faults.is_empty(), "{text}{:#?}", ours.faults);
    let only_ours: Vec<&String> = report
        .kinds
        .keys()
        .filter(|kind| kind.starts_with("ERROR") && !theirs.kinds.contains_key(*kind))
        .filter(|kind| !GLANCES_OWN.iter().any(|own| kind.contains(own)))
        .collect();
    assert!(only_ours.is_empty(), "only ours causes these: {only_ours:#?}\n{text}");
    assert_eq!(report.end.ghosts, [""; 0], "{text}");
    // Glance itself takes the row from an image that somebody else cached meanwhile: each orphan has such an
    // error.
    let caching = |(kind, _): &(&String, &u64)| kind.contains("UNIQUE") || kind.contains("while tee'ing");
    let collisions: u64 = report.kinds.iter().filter(caching).map(|(_, count)| count).sum();
    assert!(report.end.orphans.len() as u64 <= collisions, "{text}{:?}", report.end.orphans);
    assert_eq!(report.end.incomplete, [""; 0], "{text}");
    let served = |report: &Report| report.done.get("get").copied().unwrap_or(0);
    assert!(
        served(&report).min(served(&theirs)) > 20
            && ours.prunes.min(ours.pruned) > 5
            && ours.prefetched > 20
            && theirs.runs.iter().any(|run| run.out.contains("Pruner\":")),
        "too little happened to prove anything: {text}"
    );
}

#[test]
fn ours_beside_a_real_glance_api_with_sqlite() {
    beside(Sqlite.name());
}

#[test]
fn ours_beside_a_real_glance_api_with_xattr() {
    beside(Xattr.name());
}

#[test]
fn ours_beside_a_real_glance_api_with_a_central_database() {
    beside("centralized_db");
}
