//! Other users than root, and files that nobody can change.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::env::*;
use super::needs;

/// The user and group that own the caches of these tests.
pub(crate) const NOBODY: u32 = 65534;

impl TestEnv {
    /// Runs a command as another user than root, from a copy of the binary that this user can reach. Needs
    /// root.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn as_nobody(&self, command: &str, arguments: &[&str]) -> Run {
        let mut ours = self.nobodys();
        ours.arg(command).arg("--cache-dir").arg(self.dir()).args(["--driver", self.driver.name()]);
        self.finish(ours.args(arguments))
    }

    /// `glance-cache` for another user than root, not run yet. Needs root.
    pub(crate) fn nobodys(&self) -> Command {
        needs::root();
        let copy = self.outside("glance-cache");
        // By another process: a descriptor of ours open for writing would be inherited by a test that forks
        // just now.
        system(&["cp", BINARY, copy.to_str().unwrap()]);
        chmod(&self.outside(""), 0o755);
        let mut ours = self.command(copy);
        ours.uid(NOBODY).gid(NOBODY);
        ours
    }
}

/// Gives a directory and all below it to another user than root.
pub(crate) fn give_to_nobody(path: &Path) {
    needs::root();
    give_away_as_root(path);
}

/// Does the same where root runs the test, and nothing elsewhere.
pub(crate) fn give_away_as_root(path: &Path) {
    if rustix::process::geteuid().is_root() {
        system(&["chown", "-R", &format!("{NOBODY}:{NOBODY}"), path.to_str().unwrap()]);
    }
}

/// A file that nobody can change or unlink, until dropped.
pub(crate) struct Immutable(PathBuf);

impl Immutable {
    pub(crate) fn new(path: PathBuf) -> Self {
        needs::root();
        needs::chattr();
        system(&["chattr", "+i", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}
