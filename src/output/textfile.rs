//! The file of metrics that the textfile collector of Prometheus' node exporter reads.
//!
//! A reader sees the old file or the new one, never a part of it. The new text is written to a file without a
//! name, set to mode 0644 whatever the umask, synced, named `.NAME.new` and renamed. A killed run leaves
//! nothing behind, except if it is killed between those last two system calls: then the next run removes
//! `.NAME.new`, and the collector does not read it, because of the end of its name. Where the file system has
//! no files without a name, `.NAME.new` is written.
//!
//! A file is only replaced if this program wrote it: its first line says so. Symbolic links are refused. Runs
//! that write to the same directory wait for each other.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, accessat, fchmod, flock, fstat, linkat,
    openat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::exit::Failure;
use crate::names::NameBuf;

/// The first line of a file that this program wrote.
pub(crate) const HEADER: &str = "# Written by glance-cache.";
/// More than a file of metrics ever has.
const LARGEST: u64 = 1 << 20;
/// The wait for another run that writes to the same directory.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file of metrics that this run may write.
#[derive(Debug)]
pub(crate) struct Textfile {
    path: PathBuf,
    dir: OwnedFd,
    name: NameBuf,
}

impl Textfile {
    /// Opens the directory of the file, and checks that the file may be written. Nothing is changed.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Self::find(path).map_err(Failure::usage)
    }

    fn find(path: &Path) -> Result<Self> {
        let shown = path.display();
        let name = path.file_name().and_then(|name| NameBuf::new(name.as_bytes()));
        let name = name.with_context(|| format!("--textfile {shown} does not name a file"))?;
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, parent, flags, Mode::empty()).with_context(|| {
            format!("cannot open {}, the directory of --textfile {shown}", parent.display())
        })?;
        accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
            .with_context(|| format!("cannot write in {}, for --textfile {shown}", parent.display()))?;
        let file = Textfile { path: path.to_owned(), dir, name };
        file.last()?;
        Ok(file)
    }

    /// Returns what the last run wrote; an empty text if there is no file.
    fn last(&self) -> Result<String> {
        let shown = self.path.display();
        // A pipe must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.dir, self.name.as_name().as_c_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(String::new()),
            Err(Errno::LOOP) => bail!("--textfile {shown} is a symbolic link: name the file it leads to"),
            Err(e) => return Err(e).with_context(|| format!("cannot read --textfile {shown}")),
        };
        let stat = fstat(&file).with_context(|| format!("cannot read --textfile {shown}"))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            bail!("--textfile {shown} is not a regular file");
        }
        let mut text = Vec::new();
        let read = File::from(file).take(LARGEST).read_to_end(&mut text);
        read.with_context(|| format!("cannot read --textfile {shown}"))?;
        // After a power failure, a file can be empty.
        if !text.is_empty() && !text.starts_with(HEADER.as_bytes()) {
            bail!(
                "glance-cache did not write --textfile {shown}, and does not replace it: name another file"
            );
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Replaces the text of the file by what is made of it.
    pub(crate) fn update(&self, make: impl FnOnce(&str) -> String) -> Result<()> {
        self.replace(make).with_context(|| format!("cannot write --textfile {}", self.path.display()))
    }

    fn replace(&self, make: impl FnOnce(&str) -> String) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(e) = flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks is written to without one.
            if e != Errno::WOULDBLOCK {
                break;
            }
            if Instant::now() > deadline {
                bail!("another process has locked the directory for {} seconds", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = make(&self.last()?);
        let new = self.new_name()?;
        // This removes what a killed run left.
        self.forget(&new)?;
        let written = self.write(&text, &new);
        if written.is_err() {
            let _ = self.forget(&new);
        }
        let _ = flock(&self.dir, FlockOperation::Unlock);
        written
    }

    fn new_name(&self) -> Result<NameBuf> {
        let name = self.name.as_name().as_bytes();
        NameBuf::new(&[b".", name, b".new"].concat()).ok_or_else(|| anyhow!("the name is too long"))
    }

    /// Writes the text to a new file, and gives that the name.
    fn write(&self, text: &str, new: &NameBuf) -> Result<()> {
        let new = new.as_name().as_c_str();
        let (file, is_nameless) = self.create(new)?;
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        let mut file = File::from(file);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if is_nameless {
            let place = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            linkat(CWD, place.as_str(), &self.dir, new, AtFlags::SYMLINK_FOLLOW)?;
        }
        renameat(&self.dir, new, &self.dir, self.name.as_name().as_c_str())?;
        Ok(())
    }

    /// Creates the file, if possible without a name. Returns true if it has none.
    fn create(&self, new: &std::ffi::CStr) -> Result<(OwnedFd, bool)> {
        // Until the text is complete, nobody else needs to read it.
        let mode = Mode::RUSR | Mode::WUSR;
        match openat(&self.dir, ".", OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok((file, true)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok((openat(&self.dir, new, flags, mode)?, false))
    }

    fn forget(&self, name: &NameBuf) -> Result<()> {
        match unlinkat(&self.dir, name.as_name().as_c_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn text(body: &str) -> String {
        format!("{HEADER}\n{body}\n")
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.prom");
        for n in 0..3 {
            fs::write(dir.path().join(".cache.prom.new"), "left by a killed run").unwrap();
            let file = Textfile::open(&path).unwrap();
            let last = if n == 0 { String::new() } else { text(&format!("{}", n - 1)) };
            file.update(|old| {
                assert_eq!(old, last);
                text(&n.to_string())
            })
            .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text(&n.to_string()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
            assert_eq!(names(dir.path()), ["cache.prom"]);
        }
    }

    #[test]
    fn files_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let failure = Textfile::open(&dir.path().join(name)).unwrap_err();
            format!("{:#}", failure.error).replace(&format!("{}", dir.path().display()), "DIR")
        };
        fs::write(dir.path().join("passwd"), "root:x:0:0").unwrap();
        symlink("passwd", dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let link = |name| format!("--textfile DIR/{name} is a symbolic link: name the file it leads to");
        assert_eq!(
            refused("passwd"),
            "glance-cache did not write --textfile DIR/passwd, and does not replace it: name another file"
        );
        assert_eq!(refused("link"), link("link"));
        assert_eq!(refused("dangling"), link("dangling"));
        assert_eq!(refused("directory"), "--textfile DIR/directory is not a regular file");
        assert_eq!(
            refused("missing/x"),
            "cannot open DIR/missing, the directory of --textfile DIR/missing/x: No such file or directory \
             (os error 2)"
        );
        assert_eq!(refused(".."), "--textfile DIR/.. does not name a file");
        assert_eq!(fs::read_to_string(dir.path().join("passwd")).unwrap(), "root:x:0:0");
        assert_eq!(names(dir.path()), ["dangling", "directory", "link", "passwd"]);
    }

    #[test]
    fn a_file_that_became_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.prom");
        let file = Textfile::open(&path).unwrap();
        fs::write(dir.path().join("elsewhere"), text("kept")).unwrap();
        symlink("elsewhere", &path).unwrap();
        file.update(|_| text("new")).unwrap_err();
        assert_eq!(fs::read_to_string(dir.path().join("elsewhere")).unwrap(), text("kept"));
    }
}
