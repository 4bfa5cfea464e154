//! States of the swept directory and of the rows: compared, kept, put back, and shown to Glance's own driver.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps};
use serde_json::json;
use tempfile::TempDir;

use crate::support::central::NODE;
use crate::support::env::*;
use crate::support::peer::Peer;
use crate::support::servers::Database;

use super::bench::Bench;
use super::scenarios::Rows;
use super::sweep::{Fault, Totals};

/// The cache as it is after the run without a fault.
pub(super) struct Expected {
    pub(super) lost: BTreeSet<String>,
}

/// The entries of the swept directory: kind, size and owner by name.
pub(super) type State = BTreeMap<String, (char, u64, u32)>;
/// The rows of a server's table of images, as text.
pub(super) type Table = Vec<Vec<String>>;

pub(super) const COLUMNS: &str = "id, image_id, last_accessed, last_modified, size, hits, node_reference_id";
pub(super) const LOCKS: [&str; 3] = ["glance-cache-prune", "glance-cache-clean", "glance-cache"];

/// The states of the cache that faults left, each one once.
#[derive(Default)]
pub(super) struct States {
    seen: HashMap<u64, usize>,
    kept: Option<TempDir>,
    /// Which fault led to each, and what a server's table had.
    from: Vec<(String, Table)>,
}

impl States {
    pub(super) fn note(&mut self, bench: &Bench<'_>, fault: &Fault) {
        let mut hasher = DefaultHasher::new();
        for (name, (kind, size, _)) in state(&bench.work) {
            (&name, kind, size).hash(&mut hasher);
            if name.ends_with("cache.db") || name.ends_with("glance.sqlite") {
                fs::read(bench.work.join(&name)).unwrap().hash(&mut hasher);
            } else if name.ends_with("-journal") {
                // The rest of it has random numbers in it.
                let text = fs::read(bench.work.join(&name)).unwrap();
                text.get(..12).hash(&mut hasher);
            }
        }
        let table = bench.table();
        table.hash(&mut hasher);
        let next = self.seen.len();
        if *self.seen.entry(hasher.finish()).or_insert(next) == next && next == self.from.len() {
            let kept =
                self.kept.get_or_insert_with(|| tempfile::Builder::new().prefix("gct-").tempdir().unwrap());
            let copy = kept.path().join(next.to_string());
            system(&["cp", "-a", bench.work.to_str().unwrap(), copy.to_str().unwrap()]);
            for lock in LOCKS {
                // Killed in the moment between making and marking it: the next run marks it.
                let lock = copy.join("cache").join(lock);
                if bench.scenario.rows == Rows::Xattr && lock.exists() {
                    let _ = rustix::fs::setxattr(lock, "user.hits", b"0", rustix::fs::XattrFlags::CREATE);
                }
            }
            self.from.push((format!("{fault:?}"), table));
        }
    }

    /// Lets Glance's own driver go on with each of them.
    pub(super) fn show_to_glance(&self, bench: &Bench<'_>, totals: &mut Totals) {
        let Some(kept) = &self.kept else { return };
        let mut peer = Peer::start();
        let rows = bench.scenario.rows;
        for (n, (from, table)) in self.from.iter().enumerate() {
            let dir = kept.path().join(n.to_string());
            let url = if let Some(server) = bench.server() {
                load(server, table);
                server.url.clone()
            } else {
                format!("sqlite:///{}", dir.join("db/glance.sqlite").display())
            };
            let request = json!({
                "dir": dir.join("cache"), "driver": rows.driver(), "fresh": id('7'),
                "connection": matches!(rows, Rows::Central(_)).then_some(url), "node": NODE,
            });
            if let Err(error) = peer.try_call("go_on", request) {
                totals.broken(&format!("Glance does not go on after {from}: {error}"));
            }
            totals.states += 1;
        }
    }
}

/// Returns true if it is one of the lock files that stay.
pub(super) fn is_lock(name: &str) -> bool {
    name.strip_prefix("cache/").is_some_and(|name| LOCKS.contains(&name))
}

/// Gives an image of 1000 bytes its row in the central database.
pub(super) fn insert(db: &Database, image_id: &str, hour: usize) {
    if db.rows("SELECT 1 FROM node_reference").is_empty() {
        db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
    }
    db.sql(&format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
         SELECT '{image_id}', \
         '2024-01-12 {hour:02}:00:00', '2024-01-12 10:00:00', 1000, 0, node_reference_id FROM node_reference"
    ));
}

/// Puts back what the table of images of a server had.
pub(super) fn load(db: &Database, table: &Table) {
    db.sql("DELETE FROM cached_images");
    let rows: Vec<String> = table.iter().map(|row| format!("('{}')", row.join("', '"))).collect();
    if !rows.is_empty() {
        db.sql(&format!("INSERT INTO cached_images ({COLUMNS}) VALUES {}", rows.join(", ")));
    }
}

/// Returns everything below a directory.
pub(super) fn state(dir: &Path) -> State {
    let walk = walkdir::WalkDir::new(dir).min_depth(1);
    walk.into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let kind = if m.is_file() {
                'f'
            } else if m.is_dir() {
                'd'
            } else {
                'o'
            };
            let size = if m.is_file() { m.size() } else { 0 };
            let name =
                entry.path().strip_prefix(dir).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            (name, (kind, size, m.uid()))
        })
        .collect()
}

/// Returns the times of everything below a directory, deepest first, to be set again.
pub(super) fn times(dir: &Path) -> Vec<(PathBuf, Timestamps)> {
    let walk = walkdir::WalkDir::new(dir).contents_first(true);
    walk.into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let last_access = Timespec { tv_sec: m.atime(), tv_nsec: m.atime_nsec() };
            let last_modification = Timespec { tv_sec: m.mtime(), tv_nsec: m.mtime_nsec() };
            (entry.path().to_owned(), Timestamps { last_access, last_modification })
        })
        .collect()
}
