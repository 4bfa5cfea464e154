//! Small file systems that root mounts: on loop devices, in memory, through FUSE. Each is unmounted when
//! dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::env::{Driver, TestEnv, system, until};
use super::host::HostEnv;
use super::needs;

/// An ext4 file system in a file, not mounted.
pub(crate) struct Ext4 {
    pub(crate) image: PathBuf,
}

impl Ext4 {
    /// Makes one of `megabytes` MiB, with nothing reserved for root.
    pub(crate) fn make(dir: &Path, megabytes: u64) -> Self {
        needs::ext4();
        let image = dir.join("ext4");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        system(&["mkfs.ext4", "-q", "-m", "0", "-b", "1024", image.to_str().unwrap()]);
        Self { image }
    }

    /// Sets the change time of a file, which no running kernel lets anybody do.
    pub(crate) fn set_ctime(&self, path: &str, epoch: i64) {
        let request = format!("set_inode_field {path} ctime @{epoch}");
        system(&["debugfs", "-w", "-R", &request, self.image.to_str().unwrap()]);
    }
}

/// A mount that is undone when dropped.
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
}

impl Mount {
    pub(crate) fn ext4(ext4: &Ext4, point: &Path, options: &str) -> Self {
        Self::image(&ext4.image, point, options)
    }

    /// Mounts the file system in a file.
    pub(crate) fn image(image: &Path, point: &Path, options: &str) -> Self {
        needs::root();
        fs::create_dir_all(point).unwrap();
        let (image, to) = (image.to_str().unwrap(), point.to_str().unwrap());
        system(&["mount", "-o", &format!("loop,{options}"), image, to]);
        Self { point: point.into() }
    }

    pub(crate) fn of(kind: &str, point: &Path) -> Self {
        needs::root();
        fs::create_dir_all(point).unwrap();
        system(&["mount", "-t", kind, kind, point.to_str().unwrap()]);
        Self { point: point.into() }
    }
}

/// Makes a directory seen through FUSE, which has no files without a name.
pub(crate) fn bindfs(driver: Driver) -> Mounted {
    needs::root();
    needs::bindfs();
    let root = test_directory();
    let (from, point) = (root.path().join("from"), root.path().join("mnt"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&point).unwrap();
    system(&["bindfs", from.to_str().unwrap(), point.to_str().unwrap()]);
    Mounted::at(driver, root, Mount { point })
}

impl Mount {
    /// Unmounts the file system of an image for the time being, and waits until all of it is in the image.
    /// A child that another test starts holds every file for a moment, and the kernel may write the rest
    /// after the mount is gone.
    pub(crate) fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = format!(" {} ", self.point.display());
        let line = mounts.lines().find(|line| line.contains(&point)).expect("it is mounted");
        let device = line.split(" /dev/").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let image = || fs::read_to_string(format!("/sys/block/{device}/loop/backing_file")).ok();
        let of_this = image();
        until("it is unmounted", || Command::new("umount").arg(&self.point).status().unwrap().success());
        until("the device has written it", || image().is_none() || image() != of_this);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

/// An empty cache on a file system of its own. The mount is undone before the test's directory is removed.
pub(crate) struct Mounted {
    pub(crate) mount: Mount,
    pub(crate) env: TestEnv,
}

impl Mounted {
    /// Makes one on a small ext4.
    pub(crate) fn ext4(driver: Driver, megabytes: u64, options: &str) -> Self {
        let root = test_directory();
        let ext4 = Ext4::make(root.path(), megabytes);
        let mount = Mount::ext4(&ext4, &root.path().join("mnt"), options);
        Self::at(driver, root, mount)
    }

    /// Makes one on what `mkfs` makes of a file of so many MiB.
    pub(crate) fn made(driver: Driver, mkfs: &[&str], megabytes: u64) -> Self {
        if mkfs[0] == "mkfs.xfs" {
            needs::xfs();
        } else {
            needs::ext4();
        }
        let root = test_directory();
        let image = root.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        system(&[mkfs, &[image.to_str().unwrap()]].concat());
        let mount = Mount::image(&image, &root.path().join("mnt"), "relatime");
        Self::at(driver, root, mount)
    }

    /// Makes one on a tmpfs, ramfs or the like.
    pub(crate) fn of(kind: &str, driver: Driver) -> Self {
        let root = test_directory();
        let mount = Mount::of(kind, &root.path().join("mnt"));
        Self::at(driver, root, mount)
    }

    fn at(driver: Driver, root: TempDir, mount: Mount) -> Self {
        let cache = mount.point.join("cache");
        Self { mount, env: TestEnv::at(driver, root, cache) }
    }

    /// Sets change times of files of the cache on an ext4: unmounts, edits, mounts again.
    pub(crate) fn set_ctimes(&self, names: &[String], epoch: i64) {
        let ext4 = Ext4 { image: self.env.outside("ext4") };
        self.mount.unmount();
        for name in names {
            ext4.set_ctime(&format!("/cache/{name}"), epoch);
        }
        std::mem::forget(Mount::ext4(&ext4, &self.mount.point, "relatime"));
    }

    /// Writes to files until not a byte more fits into any.
    pub(crate) fn fill(&self) {
        use std::io::Write as _;
        // What a file system keeps back for a file that is being written shows when that is closed.
        for n in 0.. {
            let Ok(mut file) = fs::File::create(self.mount.point.join(format!("filler-{n}"))) else { break };
            let (mut at, mut piece) = (0, 1 << 26);
            while piece >= 1 << 16 {
                match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, piece) {
                    Ok(()) => at += piece,
                    Err(_) => piece /= 2,
                }
            }
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
            for size in [1 << 16, 1024, 1] {
                while file.write_all(&vec![7; size]).is_ok() {}
            }
            file.sync_all().unwrap();
            if file.metadata().unwrap().len() == 0 {
                break;
            }
        }
    }

    /// Makes files until there can be no more.
    pub(crate) fn fill_inodes(&self) {
        fs::create_dir(self.mount.point.join("fillers")).unwrap();
        let file = |n: usize| fs::File::create(self.mount.point.join(format!("fillers/{n}")));
        let _ = (0..).map_while(|n| file(n).ok()).count();
    }

    /// Removes what [`Mounted::fill`] and [`Mounted::fill_inodes`] made.
    pub(crate) fn drain(&self) {
        for entry in fs::read_dir(&self.mount.point).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with("filler-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let _ = fs::remove_dir_all(self.mount.point.join("fillers"));
    }
}

/// A host whose caches are on a file system of its own.
pub(crate) struct MountedHost {
    pub(crate) env: HostEnv,
    _mount: Mount,
}

impl MountedHost {
    /// Makes one on a small ext4.
    pub(crate) fn ext4(megabytes: u64) -> Self {
        let root = host_directory();
        let ext4 = Ext4::make(root.path(), megabytes);
        let base = root.path().join("mnt");
        let mount = Mount::ext4(&ext4, &base, "relatime");
        Self { env: HostEnv::at(root, base), _mount: mount }
    }

    /// Makes one on a small XFS, which frees blocks in the background and can share them.
    pub(crate) fn xfs(megabytes: u64) -> Self {
        needs::xfs();
        let root = host_directory();
        let image = root.path().join("xfs");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        system(&["mkfs.xfs", "-q", "-f", image.to_str().unwrap()]);
        let base = root.path().join("mnt");
        let mount = Mount::image(&image, &base, "rw");
        Self { env: HostEnv::at(root, base), _mount: mount }
    }

    /// Makes one on a small tmpfs.
    pub(crate) fn tmpfs(megabytes: u64) -> Self {
        let root = host_directory();
        let base = root.path().join("mnt");
        let mount = Mount::of("tmpfs", &base);
        system(&["mount", "-o", &format!("remount,size={megabytes}m"), base.to_str().unwrap()]);
        Self { env: HostEnv::at(root, base), _mount: mount }
    }
}

fn test_directory() -> TempDir {
    tempfile::Builder::new().prefix("gct-").tempdir().unwrap()
}

fn host_directory() -> TempDir {
    tempfile::Builder::new().prefix("gch-").tempdir().unwrap()
}
