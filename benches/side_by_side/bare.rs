//! The bare program: the necessary system calls for the same work, and no others.
//!
//! It lists directories, looks at every entry, and unlinks the files that were last used before a given time,
//! in the order of the listing: one system call for each. It knows no index, looks at nothing twice and
//! reports nothing. A program that cleans or prunes the same files cannot do less.

use std::ffi::CString;
use std::mem::MaybeUninit;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, statat, unlinkat};

/// Unlinks the images last used before `cutoff` (microseconds since the epoch) in each directory.
pub(crate) fn run(cutoff: i64, dirs: &[String]) -> anyhow::Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); 128 * 1024];
    for dir in dirs {
        let fd =
            openat(CWD, dir.as_str(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut victims: Vec<CString> = Vec::new();
        let mut entries = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let stat = statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            // Lock files and the index stay.
            let is_image =
                FileType::from_raw_mode(stat.st_mode).is_file() && entry.file_name().count_bytes() == 36;
            let used = stat.st_atime * 1_000_000 + (stat.st_atime_nsec / 1000) as i64;
            if is_image && used < cutoff {
                victims.push(entry.file_name().to_owned());
            }
        }
        for name in victims {
            unlinkat(&fd, name, AtFlags::empty())?;
        }
    }
    Ok(())
}
