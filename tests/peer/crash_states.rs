//! Every state that a killed run can leave, built directly: the next run mends each without `--forget-all`,
//! and Glance's own driver goes on with each as it is.
//!
//! **Prune**: a batch of all five images; its rows committed or not, and any subset of its files removed
//! before. Without the commit, all five rows may be without files. An unmounted directory looks the same but
//! for the note that the batch was being removed, and is refused.
//!
//! **Prefetch**: the claim, a private staged file, the row, the image and the entry in the queue, each there
//! or not. The image never is without its row.
//!
//! **Verify**: a broken image in its place or in `invalid/`, its row there or not, the note there or not. The
//! image is never in its place without its row.
//!
//! The sweep in `faults` provokes such states by killing at each system call; here none is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::images::content;
use crate::support::peer::Peer;
use crate::support::prefetch::Prefetch;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, SqliteFile};

const NOTE: &str = ".glance-cache-pending";
const LETTERS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];

/// The index of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Own(Driver),
    Central(Kind),
}

/// A cache that takes on one state after the other.
struct Bench {
    prefetch: Prefetch,
    rows: Rows,
    conf: String,
    peer: Peer,
}

impl Bench {
    fn new(rows: Rows) -> Self {
        let (driver, kind) = match rows {
            Rows::Own(driver) => (driver, SqliteFile),
            Rows::Central(kind) => (Xattr, kind),
        };
        let prefetch = Prefetch::of(TestEnv::empty(driver), kind);
        let mut conf = prefetch.conf("");
        if let Rows::Central(_) = rows {
            prefetch.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
            let central = format!("image_cache_driver = centralized_db\nworker_self_reference_url = {NODE}");
            let text = fs::read_to_string(&conf).unwrap().replace("image_cache_driver = xattr", &central);
            conf = prefetch.env.write("central.conf", text);
        }
        Bench { prefetch, rows, conf, peer: Peer::start() }
    }

    fn env(&self) -> &TestEnv {
        &self.prefetch.env
    }

    fn db(&self) -> &Database {
        &self.prefetch.db
    }

    fn has_rows(&self) -> bool {
        self.rows != Rows::Own(Xattr)
    }

    /// Empties the cache, and its index.
    fn clear(&self) {
        for entry in walkdir::WalkDir::new(self.env().dir()).min_depth(1) {
            let entry = entry.unwrap();
            if entry.file_type().is_file() && entry.file_name() != "cache.db" {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        match self.rows {
            Rows::Own(Sqlite) => self.env().sql("DELETE FROM cached_images"),
            Rows::Own(Xattr) => {}
            Rows::Central(_) => self.db().sql("DELETE FROM cached_images"),
        }
    }

    fn file(&self, letter: char, hours: i64) {
        self.env().file(id(letter), 1000, hours);
        if self.rows == Rows::Own(Xattr) {
            self.env().set_hits(&id(letter), b"0");
        }
    }

    fn row(&self, letter: char, hours: i64) {
        match self.rows {
            Rows::Own(Sqlite) => self.env().ghost(letter, hours),
            Rows::Own(Xattr) => {}
            Rows::Central(_) => {
                let time = naive(self.env().now - (hours * 3600) as f64);
                self.db().sql(&format!(
                    "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                     node_reference_id) SELECT '{}', '{time}', '{time}', 1000, 0, node_reference_id FROM \
                     node_reference",
                    id(letter)
                ));
            }
        }
    }

    /// Writes the note of the rows that may be without files.
    fn note(&self, ids: &str) {
        if self.has_rows() {
            fs::write(self.env().path(NOTE), ids).unwrap();
            set_hits(&self.env().path(NOTE), b"0");
        }
    }

    /// Returns the ids in the rows.
    fn tracked(&self) -> BTreeSet<String> {
        match self.rows {
            Rows::Own(Sqlite) => self.env().ids().into_iter().collect(),
            Rows::Own(Xattr) => self.cached(),
            Rows::Central(_) => {
                let rows = self.db().rows("SELECT image_id FROM cached_images");
                rows.into_iter().flatten().collect()
            }
        }
    }

    /// Returns the ids of the images.
    fn cached(&self) -> BTreeSet<String> {
        names(self.env().dir()).into_iter().filter(|name| name.len() == 36 && name.contains('-')).collect()
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let all = [&[command, "--config-file", &self.conf, "--lock-timeout", "2s"], arguments].concat();
        self.env().raw(&all)
    }

    /// Lets Glance's own driver go on with the state: read, cache, clean, delete.
    fn glance_goes_on(&mut self, state: &str) {
        let (driver, connection) = match self.rows {
            Rows::Own(driver) => (driver.name(), None),
            Rows::Central(_) => ("centralized_db", Some(self.db().url.clone())),
        };
        let dir = self.env().dir().to_owned();
        let request = json!({
            "dir": dir, "driver": driver, "fresh": id('7'), "connection": connection, "node": NODE,
        });
        let went = self.peer.try_call("go_on", request);
        assert!(went.is_ok(), "{:?}: Glance does not go on after {state}: {went:?}", self.rows);
    }
}

/// Builds the state after the subset of the files was removed.
fn removed(bench: &Bench, subset: usize, committed: bool) -> String {
    bench.clear();
    for (n, letter) in LETTERS.into_iter().enumerate() {
        let (hours, is_removed) = (50 - 10 * n as i64, subset >> n & 1 == 1);
        if !is_removed {
            bench.file(letter, hours);
        }
        if !is_removed || !committed {
            bench.row(letter, hours);
        }
    }
    bench.note(&LETTERS.map(id).join("\n"));
    format!("files {subset:05b} removed, committed: {committed}")
}

fn after_a_prune(rows: Rows) {
    let mut bench = Bench::new(rows);
    let mut states = 0;
    let committed: &[bool] = if bench.has_rows() { &[false, true] } else { &[false] };
    for committed in committed.iter().copied() {
        for subset in 0..32_usize {
            let state = removed(&bench, subset, committed);
            let before = bench.cached();
            let run = bench.run("prune", &["--max-size", "3000B"]);
            assert_eq!(run.code, 0, "{rows:?}: {state}: {run:?}");
            let after = bench.cached();
            assert_eq!(after.len(), before.len().min(3), "{rows:?}: {state}");
            assert!(after.is_subset(&before) && bench.tracked() == after, "{rows:?}: {state}");
            let is_left = bench.env().path(NOTE).exists();
            assert!(!is_left || after == before, "{rows:?}: {state}: the note stays");
            bench.glance_goes_on(&format!("the next run after {state}"));
            removed(&bench, subset, committed);
            let run = bench.run("clean", &["--repair"]);
            assert_eq!((run.code, bench.cached(), bench.tracked()), (0, before.clone(), before), "{state}");
            removed(&bench, subset, committed);
            bench.glance_goes_on(&state);
            states += 1;
        }
    }
    if bench.has_rows() {
        removed(&bench, 31, false);
        fs::remove_file(bench.env().path(NOTE)).unwrap();
        let _ = bench.run("prune", &["--max-size", "3000B"]).fails(1, &["--forget-all"]);
        assert_eq!(bench.tracked().len(), 5, "a directory that is not mounted costs no rows");
    }
    println!("{rows:?}: {states} states of a prune");
}

/// Builds a state of a prefetch, by its bits.
fn fetched(bench: &Bench, bits: usize) -> String {
    bench.clear();
    let (claim, staged, row, link, queued) =
        (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0, bits & 16 > 0);
    let (env, now) = (bench.env(), bench.env().now);
    if claim {
        let path = env.path("incomplete").join(id('a'));
        let file = fs::File::create(path).unwrap();
        // The mark of our own claims.
        fchmod(file, Mode::from_raw_mode(0o1644)).unwrap();
    }
    if staged {
        fs::write(env.path("incomplete").join(id('a') + ".prefetch"), "half").unwrap();
    }
    if row {
        // The note is written before the row, and removed after the image has its name.
        bench.row('a', 0);
        bench.note(&id('a'));
    }
    if link {
        fs::write(env.path(id('a')), content('a', 1000)).unwrap();
        set_hits(&env.path(id('a')), b"0");
    }
    if queued {
        env.file_at(Path::new("queue").join(id('a')), 0, now, now);
    }
    format!("claim {claim}, staged {staged}, row {row}, image {link}, queued {queued}")
}

fn after_a_prefetch(rows: Rows) {
    let mut bench = Bench::new(rows);
    bench.prefetch.image('a', 1000);
    let mut states = 0;
    for bits in 0..32_usize {
        // With rows, the image has its name only after its row is committed. Without, there is none.
        let (row, link) = (bits & 4 > 0, bits & 8 > 0);
        if bench.has_rows() && link && !row || !bench.has_rows() && row {
            continue;
        }
        let state = fetched(&bench, bits);
        let run = bench.run("prefetch", &[&id('a')]);
        assert_eq!(run.code, 0, "{rows:?}: {state}: {run:?}");
        assert!(fs::read(bench.env().path(id('a'))).unwrap() == content('a', 1000), "{rows:?}: {state}");
        assert!(bench.tracked() == bench.cached() && bench.cached().len() == 1, "{rows:?}: {state}");
        assert_eq!(bench.env().names("incomplete"), [""; 0], "{rows:?}: {state}");
        assert_eq!(bench.env().names("queue"), [""; 0], "{rows:?}: {state}");
        bench.glance_goes_on(&format!("the next run after {state}"));
        // A prune mends the rows, too, even if this is the only one.
        fetched(&bench, bits);
        let run = bench.run("prune", &["--max-size", "3000B"]);
        assert!(run.code == 0 && bench.tracked() == bench.cached(), "{rows:?}: {state}: {run:?}");
        fetched(&bench, bits);
        bench.glance_goes_on(&state);
        states += 1;
    }
    println!("{rows:?}: {states} states of a prefetch");
}

/// Builds a state of a verification that moves the broken image `a`, by its bits.
fn set_aside(bench: &Bench, bits: usize) -> String {
    bench.clear();
    let (moved, row, note) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
    for (hours, letter) in (1..).zip(LETTERS) {
        bench.file(letter, hours);
        if letter != 'a' || row {
            bench.row(letter, hours);
        }
    }
    let env = bench.env();
    let path = env.path(id('a'));
    let mut bytes = vec![0; 1000];
    bytes[7] = 1;
    fs::write(&path, bytes).unwrap();
    if moved {
        fs::rename(&path, env.path("invalid").join(id('a'))).unwrap();
    }
    if note {
        bench.note(&id('a'));
    }
    format!("moved {moved}, row {row}, note {note}")
}

fn after_a_verification(rows: Rows) {
    let mut bench = Bench::new(rows);
    for letter in LETTERS {
        bench.prefetch.record(letter, &[0; 1000], &[]);
    }
    let rest: BTreeSet<String> = LETTERS[1..].iter().map(|letter| id(*letter)).collect();
    let mut states = 0;
    for bits in 0..8_usize {
        let (moved, row, note) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
        // In its place it has its row. A row without its file is noted. Without rows there is no note.
        let happens =
            if bench.has_rows() { (moved || row) && (!moved || !row || note) } else { !row && !note };
        if !happens {
            continue;
        }
        let state = set_aside(&bench, bits);
        let run = bench.run("clean", &["--verify"]);
        assert_eq!(run.code, 0, "{rows:?}: {state}: {run:?}");
        assert_eq!(bench.cached(), rest, "{rows:?}: {state}");
        assert_eq!(bench.env().names("invalid"), [id('a')], "{rows:?}: {state}");
        let run = bench.run("prune", &["--max-size", "9000B"]);
        assert!(run.code == 0 && bench.tracked() == rest, "{rows:?}: {state}: {run:?}");
        assert!(!bench.env().path(NOTE).exists(), "{rows:?}: {state}");
        bench.glance_goes_on(&format!("the next run after {state}"));
        set_aside(&bench, bits);
        bench.glance_goes_on(&state);
        states += 1;
    }
    println!("{rows:?}: {states} states of a verification");
}

#[test]
fn after_a_verification_on_sqlite() {
    after_a_verification(Rows::Own(Sqlite));
}

#[test]
fn after_a_verification_on_xattr() {
    after_a_verification(Rows::Own(Xattr));
}

#[test]
fn after_a_verification_on_a_central_file() {
    after_a_verification(Rows::Central(SqliteFile));
}

#[test]
fn after_a_verification_on_mariadb() {
    after_a_verification(Rows::Central(MariaDb));
}

#[test]
fn after_a_verification_on_postgresql() {
    after_a_verification(Rows::Central(PostgreSql));
}

#[test]
fn after_a_prune_on_sqlite() {
    after_a_prune(Rows::Own(Sqlite));
}

#[test]
fn after_a_prune_on_xattr() {
    after_a_prune(Rows::Own(Xattr));
}

#[test]
fn after_a_prune_on_a_central_file() {
    after_a_prune(Rows::Central(SqliteFile));
}

#[test]
fn after_a_prune_on_mariadb() {
    after_a_prune(Rows::Central(MariaDb));
}

#[test]
fn after_a_prune_on_postgresql() {
    after_a_prune(Rows::Central(PostgreSql));
}

#[test]
fn after_a_prefetch_on_sqlite() {
    after_a_prefetch(Rows::Own(Sqlite));
}

#[test]
fn after_a_prefetch_on_xattr() {
    after_a_prefetch(Rows::Own(Xattr));
}

#[test]
fn after_a_prefetch_on_a_central_file() {
    after_a_prefetch(Rows::Central(SqliteFile));
}

#[test]
fn after_a_prefetch_on_mariadb() {
    after_a_prefetch(Rows::Central(MariaDb));
}

#[test]
fn after_a_prefetch_on_postgresql() {
    after_a_prefetch(Rows::Central(PostgreSql));
}
