//! The processes that have certain files open, found in one pass over `/proc`.
//!
//! A download that a process still writes to has not stalled, and a crashed download's file is abandoned only
//! if no process has it open.
//!
//! This sees the processes that this user may inspect: all of them for root, the user's own otherwise. It
//! never sees the processes of other hosts and of outer PID namespaces; for those, callers rely on the
//! modification time. Nothing is opened but directories of `/proc`.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, open, readlinkat, stat, statat};

use crate::names::Name;

/// The result of one pass.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    /// A process for each inode that is open in the way that was asked for.
    pub(crate) by_inode: HashMap<u64, i32>,
    /// True if some processes could not be inspected.
    pub(crate) some_unseen: bool,
}

/// Finds processes that have one of `suspects` (name, inode) in `dir` open for writing.
///
/// Only descriptors with the name of a suspect are examined, so that no other file system is accessed: a dead
/// NFS server would block the call.
pub(crate) fn find<'a>(dir: BorrowedFd<'_>, suspects: impl Iterator<Item = (Name<'a>, u64)>) -> Writers {
    look_through(suspects, |pid, descriptor, name, open, inodes| {
        // Both come from the same call: some file systems number the devices of files and directories apart.
        let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_it = (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino);
        inodes.first().copied().filter(|_| is_it && is_writing(pid, descriptor))
    })
}

/// Finds processes that have one of `suspects` (name, inode) open in any way and in any directory.
///
/// A file with the same name and inode on another file system counts as well. That errs on the safe side: the
/// caller keeps files that are open.
pub(crate) fn find_open<'a>(suspects: impl Iterator<Item = (Name<'a>, u64)>) -> Writers {
    look_through(suspects, |_, _, _, open, inodes| inodes.iter().copied().find(|inode| *inode == open.st_ino))
}

/// Examines the descriptors of all processes that have a suspect's name.
///
/// `which` gets the process, the descriptor, its name and attributes, and the inodes of the suspects of that
/// name. It returns the inode that the descriptor stands for, if any.
#[expect(clippy::disallowed_methods, reason = "paths of /proc cannot be exchanged by another user")]
fn look_through<'a>(
    suspects: impl Iterator<Item = (Name<'a>, u64)>,
    which: impl Fn(i32, &str, &[u8], &Stat, &[u64]) -> Option<u64>,
) -> Writers {
    // A sorted list takes less memory than a map, and there may be a million suspects.
    let mut by_name: Vec<(&[u8], u64)> = suspects.map(|(name, inode)| (name.as_bytes(), inode)).collect();
    by_name.sort_unstable();
    let mut writers = Writers::default();
    if by_name.is_empty() {
        return writers;
    }
    let Some(processes) = list("/proc") else {
        writers.some_unseen = true;
        return writers;
    };
    for process in processes {
        let Some(pid) = process.ok().and_then(|entry| entry.file_name().to_str().ok()?.parse().ok()) else {
            continue;
        };
        let path = format!("/proc/{pid}/fd");
        let Some(mut descriptors) = list(&path) else {
            // The process has ended, or this user may not inspect it.
            writers.some_unseen |= stat(path.as_str()).is_ok();
            continue;
        };
        while let Some(entry) = descriptors.next() {
            let (Ok(entry), Ok(fd)) = (entry, descriptors.fd()) else {
                writers.some_unseen |= stat(path.as_str()).is_ok();
                break;
            };
            let descriptor = entry.file_name();
            // Relative to the open directory, which saves looking up the process again for each descriptor.
            let Ok(target) = readlinkat(fd, descriptor, Vec::new()) else { continue };
            let Some(name) = target.to_bytes().rsplit(|b| *b == b'/').next() else { continue };
            let first = by_name.partition_point(|(before, _)| *before < name);
            let named = by_name[first..].iter().take_while(|(same, _)| *same == name);
            let inodes: Vec<u64> = named.map(|(_, inode)| *inode).collect();
            if inodes.is_empty() {
                continue;
            }
            let found = statat(fd, descriptor, AtFlags::empty())
                .ok()
                .and_then(|open| which(pid, &descriptor.to_string_lossy(), name, &open, &inodes));
            if let Some(inode) = found {
                writers.by_inode.insert(inode, pid);
            }
        }
    }
    writers
}

/// Returns the entries of a directory of `/proc`, or `None` if it cannot be listed.
fn list(path: &str) -> Option<Dir> {
    let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Dir::new(fd).ok()
}

/// True if a descriptor may write: the access mode is the last octal digit of its flags in `fdinfo`.
fn is_writing(pid: i32, descriptor: &str) -> bool {
    let Ok(info) = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")) else {
        return false;
    };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    flags.and_then(|flags| u32::from_str_radix(flags, 8).ok()).is_some_and(|flags| flags & 0o3 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use crate::names::NameBuf;
    use crate::os::writers::*;

    #[test]
    fn finds_writers_and_ignores_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let written = File::create(path("written")).unwrap();
        File::create(path("read")).unwrap();
        let read = File::open(path("read")).unwrap();
        let names = [("written", &written), ("read", &read)]
            .map(|(name, file)| (NameBuf::new(name.as_bytes()).unwrap(), file.metadata().unwrap().ino()));
        let opened = File::open(dir.path()).unwrap();
        let found = find(opened.as_fd(), names.iter().map(|(name, inode)| (name.as_name(), *inode)));
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(found.by_inode, HashMap::from([(names[0].1, pid)]));
        // Another file of the same name hides neither of them.
        let suspects = names.iter().map(|(name, inode)| (name.as_name(), *inode));
        let found = find_open(suspects.chain([(names[0].0.as_name(), 0)]));
        assert_eq!(found.by_inode, HashMap::from([(names[0].1, pid), (names[1].1, pid)]));
    }
}
