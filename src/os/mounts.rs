//! Mounts and directories as the kernel reports them: the file system of a path, and which directory contains
//! which.
//!
//! Directories are compared by device and inode, because paths can name one directory in several ways.

use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, statat};

/// Returns the device and inode of an open file or directory.
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = fstat(fd).context("cannot read the attributes of an open directory")?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Returns the device and inode of each directory that contains this one, nearest first.
///
/// The list ends at the first directory that this user may not look into.
pub(crate) fn parents(fd: BorrowedFd<'_>) -> Vec<(u64, u64)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut found = Vec::new();
    let Ok(mut at) = openat(fd, c".", flags, Mode::empty()) else {
        return found;
    };
    let mut here = identity(fd).ok();
    while let Ok(up) = openat(&at, c"..", flags, Mode::empty()) {
        let Ok(stat) = statat(&up, c"", AtFlags::EMPTY_PATH) else { break };
        let identity = (stat.st_dev, stat.st_ino);
        if here == Some(identity) {
            break;
        }
        here = Some(identity);
        found.push(identity);
        at = up;
    }
    found
}

/// Returns the mount point of the file system that a path is on, for messages.
pub(crate) fn mount_point(path: &Path) -> String {
    mount_of(path).map_or_else(|| "an unknown place".to_owned(), |mount| mount.point)
}

/// True if two paths lead to the same directory or, if either leads nowhere, have the same spelling.
#[expect(clippy::disallowed_methods, reason = "two paths are compared, and nothing is done to either")]
pub(crate) fn is_same_directory(a: &Path, b: &Path) -> bool {
    match (rustix::fs::stat(a), rustix::fs::stat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => a.components().eq(b.components()),
    }
}

/// One line of `/proc/self/mountinfo`.
pub(crate) struct Mount {
    pub(crate) point: String,
    pub(crate) options: String,
    pub(crate) kind: String,
    pub(crate) super_options: String,
}

impl Mount {
    /// True if the file system is read-only, and so everywhere that it is mounted.
    pub(crate) fn is_file_system_read_only(&self) -> bool {
        has_ro(&self.super_options)
    }

    /// True if nothing can be written through this mount.
    pub(crate) fn is_read_only(&self) -> bool {
        has_ro(&self.options) || self.is_file_system_read_only()
    }
}

fn has_ro(options: &str) -> bool {
    options.split(',').any(|option| option == "ro")
}

/// Returns the mount that a path is on: the one with the longest mount point above the path.
///
/// `None` if the path or `/proc/self/mountinfo` cannot be read.
pub(crate) fn mount_of(path: &Path) -> Option<Mount> {
    let path = std::fs::canonicalize(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, fs) = line.split_once(" - ")?;
            let mount: Vec<&str> = mount.split(' ').collect();
            let fs: Vec<&str> = fs.split(' ').collect();
            Some(Mount {
                point: mount.get(4)?.replace("\\040", " "),
                options: (*mount.get(5)?).to_owned(),
                kind: (*fs.first()?).to_owned(),
                super_options: (*fs.get(2)?).to_owned(),
            })
        })
        .filter(|mount| path.starts_with(&mount.point))
        // Where one mount covers another at the same point, the last in the list is the visible one.
        .max_by_key(|mount| mount.point.len())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn directories_know_what_they_are_in() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let open = |path: &Path| rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        let (outer, inner) = (open(root.path()), open(&inner));
        let outer_is = identity(outer.as_fd()).unwrap();
        assert_eq!(parents(inner.as_fd()).iter().position(|parent| *parent == outer_is), Some(1));
        assert!(!parents(outer.as_fd()).contains(&outer_is));
    }
}
