//! What is wrong with the cache after a run that met a fault, and after the next run.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::env::*;
use crate::support::host::CLOCK;

use super::bench::Bench;
use super::scenarios::{Rows, WANTED};
use super::states::{Expected, is_lock, state};
use super::sweep::Fault;

/// Whom the caches belong to when root runs the sweep.
const OWNER: u32 = 65534;

impl Bench<'_> {
    /// Returns the names that are gone since the beginning.
    pub(super) fn lost(&self) -> BTreeSet<String> {
        let now = state(&self.work);
        self.before.keys().filter(|name| !now.contains_key(*name)).cloned().collect()
    }

    /// Returns what is wrong with a run that met a fault.
    pub(super) fn judge(&self, fault: &Fault, run: &Run, expected: &Expected) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                wrong.push(what());
            }
        };
        check(!run.stderr.contains("panicked"), &|| "it panicked".into());
        check(tree(&self.env.outside("beside")) == self.outside, &|| "something outside was touched".into());
        let now = state(&self.work);
        let made: Vec<_> = now.iter().filter(|(name, _)| !self.before.contains_key(*name)).collect();
        let (fetched, lost) = (self.fetched(), self.lost());
        let is_claim =
            |name: &str| WANTED.iter().any(|(letter, _)| name == format!("cache/incomplete/{}", id(*letter)));
        let known = |name: &str| {
            is_lock(name)
                || name == "cache/.glance-cache-pending"
                || self.is_of_verify(name)
                || name.contains("/.glance-cache-aside")
                || name.ends_with("-journal")
                || self.fetches()
                    && (fetched.iter().any(|id| name == format!("cache/{id}")) || is_claim(name))
        };
        check(made.iter().all(|(name, _)| known(name)), &|| format!("something new is there: {made:?}"));
        let owner =
            if rustix::process::geteuid().is_root() { OWNER } else { rustix::process::geteuid().as_raw() };
        check(now.values().all(|(_, _, uid)| *uid == owner), &|| {
            format!("something is not its owner's: {now:?}")
        });
        check(self.are_whole(), &|| "a damaged image is in the cache".into());
        if self.fetches() {
            let queued: BTreeSet<_> = self.env.names("queue").into_iter().collect();
            let neither = WANTED
                .iter()
                .map(|(letter, _)| id(*letter))
                .find(|id| !queued.contains(id) && !fetched.contains(id));
            check(neither.is_none(), &|| format!("{neither:?} is neither in the cache nor in the queue"));
            check(lost.is_subset(&expected.lost), &|| format!("{lost:?} are gone"));
        }
        if fault.error.is_none() {
            check(run.code == 128 + 9, &|| "it was not killed".into());
            return wrong;
        }
        check((0..=3).contains(&run.code), &|| "this is no exit code of the contract".into());
        if run.code >= 2 {
            check(lost.is_empty() && fetched.is_empty(), &|| {
                format!("nothing was changed, it says, but {lost:?} are gone")
            });
        }
        // On a full disk other entries go first.
        let is_full = ["ENOSPC", "EDQUOT"].contains(&fault.error.unwrap_or_default());
        let done = if self.fetches() {
            // A claim that could not be closed looks as if somebody else had taken it, for strace's faults
            // leave it open.
            let is_left = fault.call == "close" && run.stdout.contains("\"left_to_glance\"");
            is_left || (fetched.len() == WANTED.len() && self.env.names("queue").is_empty())
        } else {
            // A block that cannot be read is the fault of its image.
            let is_unread = self.scenario.verifies() && fault.call == "pread64";
            lost == expected.lost || ((is_full || is_unread) && lost.len() >= expected.lost.len())
        };
        check(run.code != 0 || done, &|| {
            format!("all is done, it says, but gone are {lost:?}, and not {:?}", expected.lost)
        });
        if run.stdout.is_empty() && fault.line.starts_with("write(1") {
            check(run.code == 1, &|| {
                "the report is not there, and the exit code is silent about that".into()
            });
            return wrong;
        }
        let report: Value = match serde_json::from_str(&run.stdout) {
            Ok(report) if run.stdout.ends_with('\n') && run.stdout.lines().count() == 1 => report,
            other => {
                wrong.push(format!("stdout is not one line of JSON: {other:?}"));
                return wrong;
            }
        };
        if run.code >= 2 {
            let error = report["error"].as_str().unwrap_or_default();
            check(error.split_once(" (os error").is_none_or(|(what, _)| what.contains(": ")), &|| {
                "the error does not say what was being done".into()
            });
            check(!error.is_empty(), &|| "no error in the report".into());
        } else {
            let count = |key: &str| report[key].as_u64().unwrap_or(0);
            let told =
                count("total_files_pruned") + count("total_files_cleaned") + count("total_files_prefetched");
            let told = told + count("total_files_moved");
            let changed = if self.fetches() { &fetched } else { &lost };
            check(told == changed.len() as u64, &|| {
                format!("{told} files are reported, but it is {changed:?}")
            });
            let queued = self.env.names("queue").len();
            check(!self.fetches() || count("still_queued") == queued as u64, &|| {
                format!("{queued} are queued")
            });
            let errors = report["errors"].as_array().map_or(0, Vec::len);
            let short = report["missing"].as_u64().is_some_and(|missing| missing > 0);
            check((errors > 0 || short) == (run.code == 1), &|| format!("{errors} errors are reported"));
        }
        wrong
    }

    /// Runs once more without a fault, and returns what is wrong then.
    pub(super) fn go_on(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let run = |arguments: &[String], more: &[&str]| {
            let mut command = self.env.command(BINARY);
            command.current_dir("/").env(CLOCK, self.later());
            self.env.finish(command.args(arguments).args(more))
        };
        let mut ended = run(&self.arguments, &[]);
        if self.fetches() && ended.code == 1 && ended.stdout.contains("\"skipped\"") {
            // A download in vain is not repeated unless somebody says so.
            ended = run(&self.arguments, &["--retry"]);
        }
        if self.scenario.host && ended.code == 0 {
            // Where enough is free by now, no row is looked at. The next prune of the cache does that.
            ended = run(&self.arguments[..3], &["--max-size", "1TiB"]);
        }
        if ended.code != 0 {
            wrong.push(format!("the next run ends with {}: {} {}", ended.code, ended.stdout, ended.stderr));
        }
        let new: Vec<_> = self.orphans().difference(&self.orphans).cloned().collect();
        if !new.is_empty() {
            wrong.push(format!("after the next run there are new orphans: {new:?}"));
        }
        let (now, fetched) = (state(&self.work), self.fetched());
        let made: Vec<_> = now.keys().filter(|name| !self.before.contains_key(*name)).collect();
        if self.fetches() {
            let left: Vec<_> = ["queue", "incomplete", "invalid"].map(|sub| self.env.names(sub)).concat();
            if fetched.len() < WANTED.len() || !left.is_empty() {
                wrong.push(format!("the next run fetches {fetched:?} and leaves {left:?}"));
            }
        }
        // What a journal without a header holds, SQLite drops with the next change. An empty place to set
        // aside goes with the next image, and so does a note of images that have their files or no rows.
        let is_nothing = |name: &str| {
            let path = self.work.join(name);
            if path.is_dir() {
                return fs::read_dir(path).unwrap().next().is_none()
                    && name.ends_with("/.glance-cache-aside");
            }
            if name.ends_with("/.glance-cache-pending") {
                let note = fs::read_to_string(path).unwrap();
                return note.lines().all(|id| self.env.path(id).is_file() || !self.ids().contains(id));
            }
            name.ends_with("-journal") && fs::read(path).unwrap().iter().take(8).all(|byte| *byte == 0)
        };
        let is_fetched = |name: &str| fetched.iter().any(|id| name == format!("cache/{id}"));
        let is_known =
            |name: &str| is_lock(name) || is_nothing(name) || is_fetched(name) || self.is_of_verify(name);
        if !made.iter().all(|name| is_known(name)) {
            wrong.push(format!("the next run leaves {made:?}"));
        }
        let ghosts = self.ghosts();
        if self.fetches() && !ghosts.is_subset(&self.ghosts) {
            wrong.push(format!("after the next run there are new rows without files: {ghosts:?}"));
        }
        if self.scenario.mends
            && !ghosts.iter().all(|id| self.scenario.command == "prune" && id.contains('/'))
        {
            wrong.push(format!("after the next run there are rows without files: {ghosts:?}"));
        }
        if !self.are_whole() {
            wrong.push("after the next run a damaged image is in the cache".into());
        }
        if tree(&self.env.outside("beside")) != self.outside {
            wrong.push("the next run touched something outside".into());
        }
        wrong
    }

    /// Returns true for what a verification makes: its memory, and images that are moved.
    fn is_of_verify(&self, name: &str) -> bool {
        let is_moved = name
            .strip_prefix("cache/invalid/")
            .is_some_and(|id| self.before.contains_key(&format!("cache/{id}")));
        self.scenario.verifies() && (is_moved || name.starts_with("cache/.glance-cache"))
    }

    pub(super) fn images(&self) -> BTreeSet<String> {
        self.env.names("").into_iter().filter(|name| name.len() == 36).collect()
    }

    pub(super) fn ids(&self) -> BTreeSet<String> {
        match self.scenario.rows {
            Rows::Sqlite => self.env.ids().into_iter().collect(),
            Rows::Xattr => self.images(),
            Rows::Central(_) => {
                let database = self.database.as_ref().unwrap();
                database.rows("SELECT image_id FROM cached_images").into_iter().flatten().collect()
            }
        }
    }

    pub(super) fn ghosts(&self) -> BTreeSet<String> {
        self.ids().difference(&self.images()).cloned().collect()
    }

    pub(super) fn fetches(&self) -> bool {
        self.scenario.command == "prefetch"
    }

    /// Returns the images that were to be fetched and are in the cache.
    pub(super) fn fetched(&self) -> BTreeSet<String> {
        let images = self.images();
        let wanted = WANTED.iter().map(|(letter, _)| id(*letter));
        wanted.filter(|id| images.contains(id)).collect()
    }

    /// Returns true if all that was fetched is what the store has.
    pub(super) fn are_whole(&self) -> bool {
        let store = self.env.outside("beside/store");
        self.fetched()
            .iter()
            .all(|id| fs::read(self.env.path(id)).unwrap() == fs::read(store.join(id)).unwrap())
    }

    pub(super) fn orphans(&self) -> BTreeSet<String> {
        self.images().difference(&self.ids()).cloned().collect()
    }
}
