//! Servers that a script of `tests/peer` runs. The script prints `ready` when they answer, and stops them when
//! its standard input ends, however the test process ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Returns a port that nobody listens at. None of those that the kernel gives to clients: one of theirs may
/// have it by the time it is wanted.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let n = std::process::id() as usize * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (10_000 + n % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The life of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// They are stopped when the fixture is dropped.
    ForTheTest,
    /// One test after another uses them: they are stopped when the process ends.
    ForTheRun,
}

/// Servers under way.
pub(crate) struct Servers {
    pub(crate) dir: PathBuf,
    pub(crate) ports: Vec<u16>,
    child: Child,
    /// What the script is told, and what it answers.
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    /// `None` for those that last as long as the process.
    _scratch: Option<TempDir>,
}

impl Servers {
    /// Returns the command that runs a kind of servers: `tests/peer/SCRIPT KIND`.
    pub(crate) fn script(script: &str, kind: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer").join(script));
        command.arg(kind);
        command
    }

    /// Starts servers in an empty directory, with as many free ports as they take.
    pub(crate) fn start(command: &mut Command, ports: usize, keep: Keep) -> Self {
        Self::prepared(command, ports, keep, |_, _| ())
    }

    /// Starts servers after their directory was prepared. `prepare` gets the directory and the ports.
    pub(crate) fn prepared(
        command: &mut Command,
        ports: usize,
        keep: Keep,
        prepare: impl FnOnce(&Path, &[u16]),
    ) -> Self {
        let scratch = tempfile::Builder::new().prefix("gct-st-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let dir = scratch.path().to_owned();
        let ports: Vec<u16> = (0..ports).map(|_| free_port()).collect();
        prepare(&dir, &ports);
        command.arg(&dir).args(ports.iter().map(u16::to_string));
        let scratch = match keep {
            Keep::ForTheRun => {
                command.arg("remove");
                let _ = scratch.keep();
                None
            }
            Keep::ForTheTest => Some(scratch),
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(
            line,
            "ready\n",
            "{command:?} did not start (tests/run installs it): see {}",
            dir.display()
        );
        Servers { dir, ports, child, talk: Mutex::new(Some((stdin, stdout))), _scratch: scratch }
    }

    /// Asks the script for something, where it takes requests, and waits until it is done.
    pub(crate) fn ask(&self, request: &str) {
        let mut talk = self.talk.lock().unwrap();
        let (stdin, stdout) = talk.as_mut().unwrap();
        writeln!(stdin, "{request}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{request}: see {}", self.dir.display());
    }

    /// Stops the first server as an operator does.
    pub(crate) fn stop(&self) {
        signal(Signal::TERM, &fs::read_to_string(self.dir.join("pid")).unwrap());
    }

    /// Has the script start them again; the caller waits until they answer.
    pub(crate) fn start_again(&self) {
        signal(Signal::USR1, &fs::read_to_string(self.dir.join("keeper")).unwrap());
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.talk.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
///
/// `pid` is its number in decimal, as in a file or a listing; white space around it is allowed.
pub(crate) fn signal(signal: Signal, pid: &str) {
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).unwrap();
}
