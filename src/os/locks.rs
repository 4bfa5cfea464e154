//! The holders of file locks, as `/proc/locks` lists them.
//!
//! Used to name the process that stands in our way. Nothing is opened, locked or created: opening and closing
//! a SQLite file would drop this process's own POSIX locks on it.

use std::fs::read_to_string;

use crate::names::escaped;

/// The kind of a thing that another process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeldThing {
    /// The lock of an operation on a cache.
    Lock,
    Index,
    Database,
}

impl HeldThing {
    /// Returns the word for programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            HeldThing::Lock => "lock",
            HeldThing::Index => "index",
            HeldThing::Database => "database",
        }
    }
}

/// The error of a thing that another process holds; the text says which process and which thing.
#[derive(Debug)]
pub(crate) struct Held(pub(crate) HeldThing, pub(crate) String);

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Held {}

/// Names a process as `process 4711 (glance-api)`.
pub(crate) fn process(pid: i32) -> String {
    match read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", escaped(name.trim_end().as_bytes())),
        Err(_) => format!("process {pid}"),
    }
}

/// Returns the processes that hold a POSIX lock on a file, in ascending order; `locks` is the text of
/// `/proc/locks`.
///
/// Holders in other PID namespaces have no number here and are left out.
pub(crate) fn holders(locks: &str, device: u64, inode: u64) -> Vec<i32> {
    holders_of("POSIX", locks, device, inode)
}

/// Returns a process that holds a flock lock on a file or directory, if the kernel lists one.
pub(crate) fn flock_holder(device: u64, inode: u64) -> Option<i32> {
    let locks = read_to_string("/proc/locks").ok()?;
    holders_of("FLOCK", &locks, device, inode).first().copied()
}

fn holders_of(kind: &str, locks: &str, device: u64, inode: u64) -> Vec<i32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut pids: Vec<i32> = locks
        .lines()
        // 1: POSIX  ADVISORY  WRITE 4711 fe:00:123456 0 EOF
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let holds = words.len() >= 6 && words[1] == kind && words[5] == file;
            if holds { words[4].parse().ok().filter(|pid| *pid > 0) } else { None }
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_from_the_kernels_list() {
        let device = rustix::fs::makedev(0xfe, 0);
        let locks = "1: POSIX  ADVISORY  WRITE 4711 fe:00:77 0 EOF\n\
                     1: -> POSIX  ADVISORY  WRITE 4712 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4713 fe:00:77 0 EOF\n\
                     3: POSIX  ADVISORY  READ  4714 fe:00:77 1073741826 1073742335\n\
                     4: POSIX  ADVISORY  WRITE 0 fe:00:77 0 EOF\n\
                     5: OFDLCK ADVISORY  WRITE -1 fe:00:77 0 EOF\n\
                     6: POSIX  ADVISORY  WRITE 4715 fe:01:77 0 EOF\n\
                     garbage\n";
        assert_eq!(holders(locks, device, 77), [4711, 4714]);
        assert_eq!(holders(locks, device, 78), [0; 0]);
        assert_eq!(holders_of("FLOCK", locks, device, 77), [4713]);
    }
}
