//! The file system of the cache directory: a directory that lost its mount is not an empty cache.
//!
//! An unmounted mount point is an empty directory on the file system below it. So the device on which images
//! were seen last is remembered, and how far above the directory it was mounted. A directory without images
//! on another device fails what would be done there, unless that device is mounted at the directory itself,
//! or just as far above it: another volume took the place of the old one. One with images is the cache,
//! wherever it is. The start of the service, every operation and every poll are looks. A cache that was empty
//! all the time has no device to compare with.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::names::ImageId;
use crate::output::Output;
use crate::output::oslo::Level;

/// The longest time for a look. A file system that does not answer is for the operation to report.
const PATIENCE: Duration = Duration::from_secs(5);

/// The place of a directory: its device, and the number of directories between it and the mount point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MountPlace {
    device: u64,
    /// `None` if the directories above cannot be looked at.
    depth: Option<u32>,
}

/// A look at a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    place: MountPlace,
    has_images: bool,
}

/// The judgement of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MountState {
    Same,
    /// It is on another device than before.
    Replaced,
    Lost,
}

/// Judges a look by the place at which the cache had images last.
fn judge(last: Option<MountPlace>, look: Look) -> MountState {
    let place = look.place;
    match last {
        Some(last) if last.device != place.device => {
            // Without its mount, a directory is farther below a mount point than before.
            let is_mounted = place.depth == Some(0) || place.depth.is_some() && place.depth == last.depth;
            if look.has_images || is_mounted { MountState::Replaced } else { MountState::Lost }
        }
        _ => MountState::Same,
    }
}

/// The cache directory, and the place at which it had images last.
#[derive(Debug)]
pub(super) struct CacheMount {
    directory: PathBuf,
    output: Rc<Output>,
    last: Cell<Option<MountPlace>>,
    /// One look at a time: one that hangs must not take a thread each time.
    turn: Arc<Semaphore>,
}

impl CacheMount {
    pub(super) fn new(directory: PathBuf, output: Rc<Output>) -> Self {
        CacheMount { directory, output, last: Cell::new(None), turn: Arc::new(Semaphore::new(1)) }
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
        let judged = judge(self.last.get(), found);
        if found.has_images || judged == MountState::Replaced {
            self.last.set(Some(found.place));
        }
        let directory = self.directory.display();
        match judged {
            MountState::Same => None,
            MountState::Replaced => {
                let line =
                    format!("{directory} is on another file system than before, which is the cache now");
                self.output.event(Level::Info, &line, &[]);
                None
            }
            MountState::Lost => Some(format!(
                "the file system of {directory} seems not to be mounted: the directory has no images, and it \
                 is on another file system than when it last had some"
            )),
        }
    }
}

/// Looks at a directory. Returns `None` if it cannot be read.
fn look(directory: &Path) -> Option<Look> {
    let directory = open(directory)?;
    let stat = fstat(&directory).ok()?;
    let place = MountPlace { device: stat.st_dev, depth: depth(&directory, stat) };
    Some(Look { place, has_images: names_images(directory)? })
}

/// True if a directory has files that are named as images.
pub(super) fn has_images(directory: &Path) -> bool {
    open(directory).and_then(names_images).unwrap_or(false)
}

fn open(directory: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty()).ok()
}

fn names_images(directory: OwnedFd) -> Option<bool> {
    let is_file = |kind: FileType| matches!(kind, FileType::RegularFile | FileType::Unknown);
    let mut entries = Dir::new(directory).ok()?;
    Some(entries.any(|entry| {
        entry.is_ok_and(|entry| {
            is_file(entry.file_type()) && ImageId::new(entry.file_name().to_bytes()).is_some()
        })
    }))
}

/// Returns the number of directories between a directory and the mount point of its file system.
fn depth(directory: &OwnedFd, stat: Stat) -> Option<u32> {
    let (mut last, mut above) = (stat, PathBuf::from(".."));
    for depth in 0.. {
        let stat = statat(directory, &above, AtFlags::empty()).ok()?;
        // The root is above itself.
        if stat.st_dev != last.st_dev || stat.st_ino == last.st_ino {
            return Some(depth);
        }
        last = stat;
        above.push("..");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_images_on_another_device_is_lost_unless_that_is_mounted_there() {
        let place = |device, depth| MountPlace { device, depth };
        let last = Some(place(3, Some(1)));
        for (last, (device, depth, has_images), expected) in [
            // Nothing was seen yet.
            (None, (1, Some(4), false), MountState::Same),
            (last, (3, Some(1), true), MountState::Same),
            (last, (3, Some(1), false), MountState::Same),
            // Unmounted.
            (last, (1, Some(4), false), MountState::Lost),
            (Some(place(3, Some(0))), (1, Some(3), false), MountState::Lost),
            (Some(place(3, None)), (1, None, false), MountState::Lost),
            // Another disk took its place.
            (last, (4, Some(1), false), MountState::Replaced),
            (last, (4, Some(0), false), MountState::Replaced),
            (last, (4, Some(4), true), MountState::Replaced),
            (last, (4, None, true), MountState::Replaced),
        ] {
            let look = Look { place: place(device, depth), has_images };
            assert_eq!(judge(last, look), expected, "{last:?} {look:?}");
        }
    }

    #[test]
    fn images_are_files_with_ids() {
        let root = tempfile::tempdir().unwrap();
        let id = "11111111-1111-4111-8111-11111111111a";
        assert_eq!(look(&root.path().join("none")), None);
        let has_images = || look(root.path()).unwrap().has_images;
        std::fs::create_dir(root.path().join(id)).unwrap();
        std::fs::write(root.path().join("cache.db"), "").unwrap();
        assert!(!has_images());
        std::fs::write(root.path().join(id.replace('a', "b")), "").unwrap();
        assert!(has_images());
    }

    #[test]
    fn the_depth_is_counted_from_the_mount_point() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let depth = |path: &Path| look(path).unwrap().place.depth.unwrap();
        assert_eq!(depth(&below), depth(root.path()) + 2);
        assert_eq!(depth(Path::new("/")), 0);
        assert_eq!(depth(Path::new("/proc")), 0);
    }
}
