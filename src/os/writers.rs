//! Which files are open, or open for writing: one pass over /proc.
//!
//! A stalled download that somebody still writes to is not stalled, and what a crashed one left is nobody's when nobody has it open. This sees the processes that this process may look into:
//! all of them for root, one's own otherwise; processes of other hosts and outer PID namespaces never. For those the
//! modification time decides.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, open, readlinkat, stat, statat};

use crate::names::Name;

/// The answer of one pass.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    /// A process for each inode that is open as was asked.
    pub(crate) by_inode: HashMap<u64, i32>,
    /// Whether there were processes that could not be looked into.
    pub(crate) some_unseen: bool,
}

/// Looks for processes that have one of `suspects` (name, inode) in `dir` open for writing.
///
/// Only descriptors whose name ends like a suspect's are looked at closely, so that no foreign file system is asked for
/// anything: a dead NFS server would not answer.
pub(crate) fn find<'a>(dir: BorrowedFd<'_>, suspects: impl Iterator<Item = (Name<'a>, u64)>) -> Writers {
    look_through(suspects, |pid, descriptor, name, open, inodes| {
        // Both looked at by the same call: some file systems number the devices of files and directories apart.
        let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_it = (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino);
        inodes.first().copied().filter(|_| is_it && is_writing(pid, descriptor))
    })
}

/// Looks for processes that have one of `suspects` (name, inode) open at all, wherever they are.
///
/// A file of the same name and number on another file system counts, too: who asks leaves alone what is open.
pub(crate) fn find_open<'a>(suspects: impl Iterator<Item = (Name<'a>, u64)>) -> Writers {
    look_through(suspects, |_, _, _, open, inodes| inodes.iter().copied().find(|inode| *inode == open.st_ino))
}

/// Looks through the descriptors of all processes. `which` tells which of the inodes that go by a descriptor's name it is, if any.
fn look_through<'a>(
    suspects: impl Iterator<Item = (Name<'a>, u64)>,
    which: impl Fn(i32, &str, &[u8], &Stat, &[u64]) -> Option<u64>,
) -> Writers {
    // In order instead of a map: there may be a million of them.
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
            // Gone, or not ours to look into.
            writers.some_unseen |= stat(path.as_str()).is_ok();
            continue;
        };
        while let Some(entry) = descriptors.next() {
            let (Ok(entry), Ok(fd)) = (entry, descriptors.fd()) else {
                writers.some_unseen |= stat(path.as_str()).is_ok();
                break;
            };
            let descriptor = entry.file_name();
            // Relative to the open directory: a path through /proc is looked up anew each time, from the process on.
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

/// The entries of a directory of /proc, or `None` when it cannot be listed.
fn list(path: &str) -> Option<Dir> {
    let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Dir::new(fd).ok()
}

/// Reads from fdinfo whether a descriptor may write: the access mode is the last octal digit of its flags.
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
    fn finds_who_writes_and_passes_over_who_reads() {
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
        // A file of the same name elsewhere hides neither.
        let suspects = names.iter().map(|(name, inode)| (name.as_name(), *inode));
        let found = find_open(suspects.chain([(names[0].0.as_name(), 0)]));
        assert_eq!(found.by_inode, HashMap::from([(names[0].1, pid), (names[1].1, pid)]));
    }
}
