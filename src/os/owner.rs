//! Acting as the owner of the cache directory, for the few things that are made or opened by path.
//!
//! Run as root, everything this tool makes has to belong to whoever Glance runs as, and nothing that the owner of the
//! directory puts in our way may lend him root's rights: SQLite opens its index and its journal by path and follows what it
//! finds there. So those calls are made with the file-system ids of the directory's owner; the kernel drops root's rights
//! over files with them (and keeps the right to the reserved blocks of a full ext4, which a change of the effective user
//! would lose). The ids belong to the calling thread alone.

use std::marker::PhantomData;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// The user and group of a cache directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// While it lives, the calling thread's file accesses are made as the owner.
#[must_use = "the ids are put back when it is dropped"]
pub(crate) struct ActingAsOwner {
    /// Whether the ids are to be put back: not by one guard inside another.
    is_outermost: bool,
    /// The ids belong to one thread, so the guard may not travel to another.
    _thread: PhantomData<*const ()>,
}

impl Owner {
    /// Takes the owner's file-system ids when run as root and the owner is somebody else; otherwise does nothing.
    ///
    /// Fails when the kernel refuses the ids (a user namespace without them): nothing must then be opened by path.
    pub(crate) fn act(self) -> Result<ActingAsOwner> {
        let change = rustix::process::geteuid().is_root() && self.uid != 0;
        let mut is_outermost = false;
        if change {
            // Root's own groups would still open what is theirs.
            rustix::thread::set_thread_groups(&[]).context("cannot give up root's groups")?;
            setfsgid(Gid::from_raw(self.gid));
            is_outermost = setfsuid(Uid::from_raw(self.uid)).is_root();
        }
        let guard = ActingAsOwner { is_outermost, _thread: PhantomData };
        if change {
            // Both calls answer with the ids in force before them and never fail otherwise: ask again to see.
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
