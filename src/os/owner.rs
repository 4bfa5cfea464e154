//! Acting as the owner of the cache directory, for the few files that are created or opened by path.
//!
//! When this tool runs as root, every file it creates must belong to the user that Glance runs as, and no
//! symlink that this user plants may make root open another file: SQLite opens its index and its journal by
//! path and follows symlinks. These calls are therefore made with the file-system ids of the directory's
//! owner. The kernel then drops root's rights over files, but keeps the right to the reserved blocks of a
//! full ext4 file system, which a change of the effective user would lose.
//!
//! The ids apply to the calling thread only. For any other user than root, nothing changes.

use std::marker::PhantomData;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// The user and group of a cache directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A guard: while it lives, the calling thread accesses files as the owner.
#[must_use = "the ids are restored when the guard is dropped"]
pub(crate) struct ActingAsOwner {
    /// True if this guard restores the ids when it is dropped; a guard within another one does not.
    is_outermost: bool,
    /// Keeps the guard on its thread, because the ids belong to that thread.
    _thread: PhantomData<*const ()>,
}

impl Owner {
    /// Takes the owner's file-system ids if this is root and the owner is another user; otherwise does
    /// nothing.
    ///
    /// Fails if the kernel refuses the ids, as in a user namespace that lacks them. Nothing may then be
    /// opened by path.
    pub(crate) fn act(self) -> Result<ActingAsOwner> {
        let change = rustix::process::geteuid().is_root() && self.uid != 0;
        let mut is_outermost = false;
        if change {
            // With root's own groups, the thread could still open files that only those groups may read.
            rustix::thread::set_thread_groups(&[]).context("cannot give up root's groups")?;
            setfsgid(Gid::from_raw(self.gid));
            is_outermost = setfsuid(Uid::from_raw(self.uid)).is_root();
        }
        let guard = ActingAsOwner { is_outermost, _thread: PhantomData };
        if change {
            // Both calls return the previous ids and report no failure, so a second call shows the outcome.
            let uid = setfsuid(Uid::from_raw(self.uid)).as_raw();
            let gid = setfsgid(Gid::from_raw(self.gid)).as_raw();
            ensure!(
                (uid, gid) == (self.uid, self.gid),
                "cannot act as user {} and group {}, who own the cache directory",
                self.uid,
                self.gid
            );
        }
        Ok(guard)
    }
}

impl Drop for ActingAsOwner {
    fn drop(&mut self) {
        if self.is_outermost {
            setfsuid(Uid::from_raw(0));
            setfsgid(Gid::from_raw(0));
        }
    }
}
