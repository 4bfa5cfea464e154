//! Which files are open for writing: one pass over /proc.
//!
//! A stalled download that somebody still writes to is not stalled. This sees the processes that this process may look into:
//! all of them for root, one's own otherwise; processes of other hosts and outer PID namespaces never. For those the
//! modification time decides.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, readlinkat, stat, statat};

use super::entry::Name;

/// The answer of one pass.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    /// A process for each inode that is open for writing.
    pub(crate) by_inode: HashMap<u64, i32>,
    /// Whether there were processes that could not be looked into.
    pub(crate) some_unseen: bool,
}

/// Looks for processes that have one of `suspects` (name, inode) in `dir` open for writing.
///
/// Only descriptors whose name ends like a suspect's are looked at closely, so that no foreign file system is asked for
/// anything: a dead NFS server would not answer.
pub(crate) fn find<'a>(dir: BorrowedFd<'_>, suspects: impl Iterator<Item = (Name<'a>, u64)>) -> Writers {
    let suspects: HashMap<&[u8], u64> = suspects.map(|(name, inode)| (name.as_bytes(), inode)).collect();
    let mut writers = Writers::default();
    if suspects.is_empty() {
        return writers;
    }
    let Some(processes) = list("/proc") else {
        writers.some_unseen = true;
        return writers;
    };
    for pid in processes.iter().filter_map(|name| name.parse::<i32>().ok()) {
        let path = format!("/proc/{pid}/fd");
        let Some(descriptors) = list(&path) else {
            // Gone, or not ours to look into.
            writers.some_unseen |= stat(path.as_str()).is_ok();
            continue;
        };
        for descriptor in &descriptors {
            let link = format!("{path}/{descriptor}");
            let Ok(target) = readlinkat(rustix::fs::CWD, link.as_str(), Vec::new()) else {
                continue;
            };
            let Some(name) = target.to_bytes().rsplit(|b| *b == b'/').next() else { continue };
            let Some(inode) = suspects.get(name) else { continue };
            // Both looked at by the same call: some file systems number the devices of files and directories apart.
            let is_it = match (stat(link.as_str()), statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)) {
                (Ok(open), Ok(there)) => (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino),
                _ => false,
            };
            if is_it && is_writing(pid, descriptor) {
                writers.by_inode.insert(*inode, pid);
            }
        }
    }
    writers
}

/// The names in a directory of /proc, or `None` when it cannot be listed.
fn list(path: &str) -> Option<Vec<String>> {
    let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let names = Dir::new(fd)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Some(names.filter(|name| !name.starts_with('.')).collect())
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

    use super::super::entry::NameBuf;
    use super::*;

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
        assert_eq!(found.by_inode, HashMap::from([(names[0].1, i32::try_from(std::process::id()).unwrap())]));
    }
}
