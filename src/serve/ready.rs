//! Answers that are kept ready while nothing has changed: the list, and a prune that has nothing to do.
//!
//! A kept answer is given only if the whole [`Print`] is as it was before the answer was made: device, inode,
//! size and both times of the cache directory, its queue, the sqlite index with its journals, and every
//! file of the configuration. Why that is safe:
//!
//! * An image comes into a cache, and leaves it, by a change of its directory. Glance writes images elsewhere
//!   and renames them, so the files in the directory do not grow.
//! * Each commit to the index is a write to its file, or to its write-ahead log.
//! * The limit is in the configuration.
//! * Two changes within a tick of the kernel's clock have the same time. So an answer is kept only if the
//!   last change was some time before the print was taken ([`SETTLED`]).
//! * A network file system may show old times. So answers are kept only on local ones ([`LOCAL`]), and only
//!   with the sqlite index: xattr and the central database keep hits where no print shows them.
//!
//! In case one of this is wrong, no answer is kept for longer than [`LONGEST`].

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Bytes;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, statat, statfs};
use tokio::time::Instant;

use crate::config::Config;
use crate::units::{Nanos, SECOND};

/// A change has to be so old, in nanoseconds, before what was read after it is kept. Longer than the tick of
/// any file system's clock.
const SETTLED: Nanos = 2 * SECOND;
/// The longest time for which an answer is kept.
const LONGEST: Duration = Duration::from_secs(10);
/// The types of local file systems: ext2 to ext4, XFS, Btrfs, tmpfs, overlay, ZFS, F2FS.
const LOCAL: [i64; 7] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1, 0xF2F5_2010];

/// The stamp of a file; `None` if there is none.
type FileStamp = Option<[i64; 7]>;

/// The stamps of everything on which an answer depends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Print(Vec<FileStamp>);

impl Print {
    /// True if nothing changed shortly before.
    fn is_settled(&self, now: Nanos) -> bool {
        let newest = self.0.iter().flatten().map(|stamp| {
            let time = |seconds: i64, nanos: i64| seconds.saturating_mul(SECOND).saturating_add(nanos);
            time(stamp[3], stamp[4]).max(time(stamp[5], stamp[6]))
        });
        newest.max().is_some_and(|newest| newest.saturating_add(SETTLED) < now)
    }
}

/// A print, and the time at which it was taken.
#[derive(Debug)]
pub(super) struct Before(Print, Nanos);

#[derive(Debug)]
struct KeptAnswer {
    print: Print,
    body: Bytes,
    until: Instant,
}

/// An answer that may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadyKind {
    List,
    IdlePrune,
}

/// The answers that are ready.
#[derive(Debug)]
pub(super) struct ReadyAnswers {
    /// The files of the configuration, those that could be there, and the directories of the cache.
    watched: Vec<PathBuf>,
    cache_dir: PathBuf,
    /// The file of the sqlite index, once a list has shown it.
    index: RefCell<Option<PathBuf>>,
    is_local: Cell<bool>,
    kept: [RefCell<Option<KeptAnswer>>; 2],
}

impl ReadyAnswers {
    pub(super) fn new(config: &Config, cache_dir: PathBuf) -> Self {
        // A file may come into a directory of the configuration.
        let directories = config.files_read().filter_map(Path::parent);
        let files = config.files_read().chain(directories).map(Path::to_owned);
        let files = files.chain(config.files_missing().to_vec());
        let watched = files.chain([cache_dir.clone(), cache_dir.join("queue")]).collect();
        let kept = [RefCell::new(None), RefCell::new(None)];
        ReadyAnswers { watched, cache_dir, index: RefCell::new(None), is_local: Cell::new(false), kept }
    }

    /// Notes the file of the sqlite index that a list has shown; `None` if the cache has another index.
    pub(super) fn note_index(&self, index: Option<PathBuf>) {
        if *self.index.borrow() == index {
            return;
        }
        let is_local = |path: &Path| statfs(path).is_ok_and(|fs| LOCAL.contains(&fs.f_type));
        self.is_local.set(index.as_deref().is_some_and(is_local) && is_local(&self.cache_dir));
        self.kept.iter().for_each(|kept| drop(kept.borrow_mut().take()));
        *self.index.borrow_mut() = index;
    }

    /// True if it is known which index the cache has.
    pub(super) fn knows_index(&self) -> bool {
        self.index.borrow().is_some()
    }

    pub(super) fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// True if the cache directory exists.
    pub(super) fn has_directory(&self) -> bool {
        statat(CWD, &self.cache_dir, AtFlags::empty()).is_ok()
    }

    /// Takes a print, if it would show every change.
    pub(super) fn before(&self) -> Option<Before> {
        Some(Before(self.print()?, Timestamp::now().as_nanosecond() as Nanos))
    }

    fn print(&self) -> Option<Print> {
        let index = self.index.borrow();
        let index = index.as_ref().filter(|_| self.is_local.get())?;
        let beside = ["-journal", "-wal"].map(|end| {
            let mut name = index.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        });
        let all = self.watched.iter().chain([index]).chain(&beside);
        Some(Print(all.map(|path| stamp(path)).collect()))
    }

    /// Keeps an answer that was made after this print was taken, if nothing has changed since.
    pub(super) fn keep(&self, subject: ReadyKind, before: Option<Before>, body: &Bytes) {
        let Some(Before(before, taken)) = before else { return };
        let is_whole = before.is_settled(taken) && self.print().as_ref() == Some(&before);
        let until = Instant::now() + LONGEST;
        let answer = is_whole.then(|| KeptAnswer { print: before, body: body.clone(), until });
        *self.kept[subject as usize].borrow_mut() = answer;
    }

    /// Returns the answer that is ready, if it is still true.
    pub(super) fn answer(&self, subject: ReadyKind) -> Option<Bytes> {
        let mut kept = self.kept[subject as usize].borrow_mut();
        let is_true =
            |kept: &KeptAnswer| Instant::now() < kept.until && self.print().as_ref() == Some(&kept.print);
        match &*kept {
            Some(answer) if is_true(answer) => Some(answer.body.clone()),
            _ => {
                *kept = None;
                None
            }
        }
    }
}

/// Returns device, inode, size and the times of change of a file or directory.
fn stamp(path: &Path) -> FileStamp {
    let stat = statat(CWD, path, AtFlags::empty()).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
    Some([
        stat.st_dev as i64,
        stat.st_ino as i64,
        stat.st_size as i64,
        stat.st_mtime as i64,
        stat.st_mtime_nsec as i64,
        stat.st_ctime as i64,
        stat.st_ctime_nsec as i64,
    ])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{ConfigSearch, ConfigSource, GLANCE};

    fn ready(root: &Path) -> ReadyAnswers {
        let file = root.join("g.conf");
        fs::write(&file, "[DEFAULT]\n").unwrap();
        fs::create_dir_all(root.join("cache/queue")).unwrap();
        fs::write(root.join("cache/cache.db"), "x").unwrap();
        let search = ConfigSearch {
            project: &GLANCE,
            program: "glance-cache".to_owned(),
            sources: vec![ConfigSource::File(file)],
            environment: std::collections::BTreeMap::new(),
            root: root.to_owned(),
            pass_over_unreadable: false,
        };
        let ready = ReadyAnswers::new(&Config::load(&search).unwrap(), root.join("cache"));
        ready.note_index(Some(root.join("cache/cache.db")));
        ready
    }

    /// Returns a print as if it had been taken later.
    fn settled(ready: &ReadyAnswers) -> Option<Before> {
        ready.before().map(|Before(print, taken)| Before(print, taken + 2 * SETTLED))
    }

    #[test]
    fn an_answer_is_kept_until_anything_changes() {
        type Change = fn(&Path);
        let change: [(&str, Change); 6] = [
            ("an image", |root| fs::write(root.join("cache/new"), "").unwrap()),
            ("the queue", |root| fs::write(root.join("cache/queue/new"), "").unwrap()),
            ("the index", |root| fs::write(root.join("cache/cache.db"), "other").unwrap()),
            ("a log", |root| fs::write(root.join("cache/cache.db-wal"), "").unwrap()),
            ("a setting", |root| fs::write(root.join("g.conf"), "[DEFAULT]\na = 1\n").unwrap()),
            ("the directory", |root| {
                fs::rename(root.join("cache"), root.join("old")).unwrap();
                fs::create_dir_all(root.join("cache/queue")).unwrap();
            }),
        ];
        for (what, change) in change {
            let root = tempfile::tempdir().unwrap();
            let ready = ready(root.path());
            ready.is_local.set(true);
            ready.keep(ReadyKind::List, settled(&ready), &Bytes::from_static(b"[]"));
            assert_eq!(ready.answer(ReadyKind::List).as_deref(), Some(&b"[]"[..]), "{what}");
            assert_eq!(ready.answer(ReadyKind::IdlePrune), None);
            change(root.path());
            assert_eq!(ready.answer(ReadyKind::List), None, "{what}");
            assert_eq!(ready.answer(ReadyKind::List), None, "{what}");
        }
    }

    #[test]
    fn nothing_is_kept_that_might_change_unseen() {
        let root = tempfile::tempdir().unwrap();
        let ready = ready(root.path());
        ready.is_local.set(true);
        let body = Bytes::from_static(b"[]");
        // The directory has just been made.
        ready.keep(ReadyKind::List, ready.before(), &body);
        assert_eq!(ready.answer(ReadyKind::List), None);
        // It changes while the answer is made.
        let before = settled(&ready);
        fs::write(root.path().join("cache/new"), "").unwrap();
        ready.keep(ReadyKind::List, before, &body);
        assert_eq!(ready.answer(ReadyKind::List), None);
        // The times of this file system say nothing.
        ready.is_local.set(false);
        assert!(ready.before().is_none());
        // Another index.
        ready.is_local.set(true);
        ready.note_index(None);
        assert!(ready.before().is_none());
    }
}
