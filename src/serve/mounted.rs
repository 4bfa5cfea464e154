//! The file system of the cache directory: a directory that lost its mount is not an empty cache.
//!
//! An unmounted mount point is an empty directory on the file system below it. So the device on which images
//! were seen last is remembered. A directory without images on another device fails what would be done there;
//! one with images is the cache, wherever it is. The start of the service, every operation and every poll are
//! looks. A cache that was empty all the time has no device to compare with.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::names::ImageId;

/// The longest time for a look. A file system that does not answer is for the operation to report.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cache directory, and the device on which it had images last.
#[derive(Debug)]
pub(super) struct CacheMount {
    directory: PathBuf,
    device: Cell<Option<u64>>,
    /// One look at a time: one that hangs must not take a thread each time.
    turn: Arc<Semaphore>,
}

impl CacheMount {
    pub(super) fn new(directory: PathBuf) -> Self {
        CacheMount { directory, device: Cell::new(None), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Looks at the directory. Returns the reason why it is not the cache, if there is one.
    pub(super) async fn lost(&self) -> Option<String> {
        let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&self.turn).acquire_owned()).await else {
            return None;
        };
        let directory = self.directory.clone();
        let looking = spawn_blocking(move || {
            let _turn = turn;
            look(&directory)
        });
        let Ok(Ok(Some(found))) = timeout(PATIENCE, looking).await else { return None };
        self.judge(found)
    }

    /// Judges a look: the device, and true if there are images.
    fn judge(&self, (device, has_images): (u64, bool)) -> Option<String> {
        if has_images {
            self.device.set(Some(device));
        }
        let is_other = self.device.get().is_some_and(|last| last != device);
        is_other.then(|| {
            let directory = self.directory.display();
            format!(
                "the file system of {directory} seems not to be mounted: the directory has no images, and it \
                 is on another file system than when it last had some"
            )
        })
    }
}

/// Returns the device of a directory, and true if there are images in it; `None` if it cannot be read.
fn look(directory: &std::path::Path) -> Option<(u64, bool)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty()).ok()?;
    let device = fstat(&directory).ok()?.st_dev;
    let is_file = |kind: FileType| matches!(kind, FileType::RegularFile | FileType::Unknown);
    let mut entries = Dir::new(directory).ok()?;
    let has_images = entries.any(|entry| {
        entry.is_ok_and(|entry| {
            is_file(entry.file_type()) && ImageId::new(entry.file_name().to_bytes()).is_some()
        })
    });
    Some((device, has_images))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_images_on_another_device_is_lost() {
        let mount = CacheMount::new("/cache".into());
        for (device, has_images, is_lost) in [
            // Nothing was seen yet.
            (1, false, false),
            (2, false, false),
            (3, true, false),
            (3, false, false),
            (1, false, true),
            (1, false, true),
            (3, false, false),
            (3, true, false),
            // Another disk took its place.
            (4, true, false),
            (4, false, false),
            (3, false, true),
        ] {
            let found = mount.judge((device, has_images));
            assert_eq!(found.is_some(), is_lost, "{device} {has_images}: {found:?}");
        }
    }

    #[test]
    fn images_are_files_with_ids() {
        let root = tempfile::tempdir().unwrap();
        let id = "11111111-1111-4111-8111-11111111111a";
        assert_eq!(look(&root.path().join("none")), None);
        let has_images = || look(root.path()).unwrap().1;
        std::fs::create_dir(root.path().join(id)).unwrap();
        std::fs::write(root.path().join("cache.db"), "").unwrap();
        assert!(!has_images());
        std::fs::write(root.path().join(id.replace('a', "b")), "").unwrap();
        assert!(has_images());
    }
}
