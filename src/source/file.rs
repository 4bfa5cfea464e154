//! Images in directories of this host: local disks and mounted stores.
//!
//! A location is read only if the file it leads to lies in a directory of the store, whatever symlinks it
//! went through, and is a regular file itself. Nothing is opened for reading before that is known: the file
//! is first held by a descriptor that can only be looked at, and what was looked at is what is read.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use super::location::{scheme, split};
use crate::config::{FILESYSTEM_STORE_DATADIR, FILESYSTEM_STORE_DATADIRS, Opt};
use crate::net::wire::Waits;
use crate::source::opened::{Body, End, Opened, Source};
use crate::source::store::{Options, Store, Wanted};

/// Stores of this type that Glance has beside the configured ones.
pub(super) const RESERVED: [&str; 2] = ["os_glance_staging_store", "os_glance_tasks_store"];

/// A store of files.
struct FileStore {
    directories: Vec<PathBuf>,
    waits: Waits,
}

/// Reads where a store of files may have them. The default counts only where no list is set.
pub(super) fn set_up(options: &Options<'_>, waits: &Waits) -> Result<Box<dyn Store>> {
    let config = options.config;
    let mut directories = Vec::new();
    for entry in config.every(&options.of(FILESYSTEM_STORE_DATADIRS))? {
        let path = entry.value.rsplit_once(':').map_or(entry.value.as_str(), |(path, _)| path).trim();
        directories.extend(Some(PathBuf::from(path)).filter(|_| !path.is_empty()));
    }
    let single = options.of(FILESYSTEM_STORE_DATADIR);
    if directories.is_empty() || config.is_set(&single) {
        // The default of a reserved store has its own name.
        let reserved = options.groups.first().filter(|id| RESERVED.contains(id));
        let default = reserved.map(|id| format!("/var/lib/glance/{id}"));
        let single = Opt { default: default.as_deref().or(single.default), ..single };
        directories.extend(config.optional(&single)?.map(|setting| setting.value.into()));
    }
    Ok(Box::new(FileStore { directories, waits: waits.clone() }))
}

impl Store for FileStore {
    fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    fn owns(&self, url: &str) -> bool {
        parse(url).is_ok_and(|path| self.directories.iter().any(|directory| path.starts_with(directory)))
    }

    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>> {
        let path = parse(wanted.url)?;
        let Wanted { shown, directories, .. } = wanted;
        Ok(Box::new(FileSource { shown, path, directories, waits: self.waits.clone() }))
    }
}

/// Returns the path of a location as it is written, without whitespace around it.
pub(super) fn parse(url: &str) -> Result<PathBuf> {
    let path = split(scheme(url)?.1).0.trim();
    ensure!(!path.is_empty(), "it names no file");
    Ok(path.into())
}

/// A file of a store.
struct FileSource {
    shown: String,
    path: PathBuf,
    /// The directories of the store; the file has to be in one of them.
    directories: Vec<PathBuf>,
    waits: Waits,
}

impl Source for FileSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn open(&self) -> Result<Opened> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !self.path.is_absolute() || !self.path.components().all(plain) {
            bail!("the path must be absolute and without ..");
        }
        let (path, directories) = (self.path.clone(), self.directories.clone());
        // A file server that does not answer would keep the run for ever.
        let file = self.waits.apart(move || Ok(open(&path, &directories))).context("cannot open it")??;
        let size = file.metadata()?.len();
        let (size, body) = (Some(size), Body::File(file));
        Ok(Opened { size, encoding: None, end: End::Announced, warning: None, body })
    }
}

/// Opens a regular file below one of the directories.
fn open(path: &Path, directories: &[PathBuf]) -> Result<File> {
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(CWD, path, look, Mode::empty()).map_err(|e| cannot_open(&e.into()))?;
    let number = format!("/proc/self/fd/{}", held.as_raw_fd());
    let found = fs::read_link(&number).context("cannot ask /proc where the file is")?;
    ensure_inside(&found, directories)?;
    ensure!(
        FileType::from_raw_mode(fstat(&held)?.st_mode) == FileType::RegularFile,
        "it is not a regular file (a symlink in a store is not followed)"
    );
    File::open(&number).map_err(|e| cannot_open(&e))
}

fn ensure_inside(found: &Path, directories: &[PathBuf]) -> Result<()> {
    let inside = |directory: &PathBuf| {
        fs::canonicalize(directory).is_ok_and(|directory| found != directory && found.starts_with(directory))
    };
    if directories.iter().any(inside) {
        return Ok(());
    }
    let shown: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
    bail!(
        "it is outside of the store, which is {}, and is not read (set filesystem_store_datadir if it \
         belongs to the store)",
        shown.join(", ")
    )
}

fn cannot_open(error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => " (is the store's file system mounted here?)",
        io::ErrorKind::PermissionDenied => " (run as the user glance-api runs as)",
        _ => "",
    };
    anyhow::anyhow!("cannot open it: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::interrupt::Interrupt;

    /// Returns the content, or why it is not read.
    fn read(directory: &Path, path: &str) -> String {
        let source = FileSource {
            shown: String::new(),
            path: path.into(),
            directories: vec![directory.to_owned()],
            waits: Waits::new(Interrupt::default()),
        };
        let mut text = String::new();
        match source.open() {
            Err(error) => return format!("{error:#}"),
            Ok(Opened { size, body: Body::File(mut file), .. }) => {
                file.read_to_string(&mut text).unwrap();
                assert_eq!(size, Some(text.len() as u64));
            }
            Ok(_) => unreachable!(),
        }
        text
    }

    #[test]
    fn reads_regular_files_of_the_store_only() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let store = root.join("store");
        fs::create_dir_all(store.join("sub")).unwrap();
        fs::create_dir(root.join("store-2")).unwrap();
        for name in ["store/image", "store/sub/image", "outside", "store-2/image"] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink(root.join("outside"), store.join("link")).unwrap();
        symlink("image", store.join("alias")).unwrap();
        symlink(root, store.join("up")).unwrap();
        symlink(&store, root.join("other-name")).unwrap();
        rustix::fs::mknodat(CWD, store.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let outside = "it is outside of the store";
        let irregular = "it is not a regular file";
        for (path, expected) in [
            ("store/image", "store/image"),
            ("store/sub/image", "store/sub/image"),
            ("store//sub/./image", "store/sub/image"),
            ("other-name/image", "store/image"),
            ("outside", outside),
            ("store-2/image", outside),
            ("store/up/outside", outside),
            ("store/up/store/image", "store/image"),
            ("store", outside),
            ("store/sub", irregular),
            ("store/link", irregular),
            ("store/alias", irregular),
            ("store/fifo", irregular),
            ("store/sub/../image", "the path must be absolute and without .."),
            ("store/none", "cannot open it: No such file"),
            ("store/image/x", "cannot open it: Not a directory"),
        ] {
            let found = read(&store, &format!("{}/{path}", root.display()));
            assert!(found.starts_with(expected), "{path}: {found}");
        }
        assert!(read(&store, "/etc/shadow").starts_with(outside));
        assert!(read(&store, "/dev/tty").starts_with(outside));
        assert!(read(&store, "store/image").starts_with("the path must be absolute"));
        assert_eq!(read(&root.join("other-name"), &format!("{}/store/image", root.display())), "store/image");
    }
}
