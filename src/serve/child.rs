//! Operations in child processes of this program.
//!
//! Locks and SQLite's state belong to a process, and the interrupt ends a whole one. A child of its own has
//! every guarantee that the command line gives, a hard time limit, and gives its memory back when it ends. It
//! reads the configuration from the same files and the same environment.
//!
//! A child that is over its time gets SIGTERM, which ends it between two entries, and SIGKILL later. It has a
//! process group of its own, so that Ctrl-C in a terminal ends the service and not what it is about to
//! finish. A client that leaves ends no child. If the service is killed, the life line ends it.
//!
//! A thread waits for each child and leaves it a zombie, so that its number stays its own until this file has
//! collected it. (A pidfd needs Linux 5.3, and tokio's processes need a handler for signals in every
//! command.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

use crate::config::ConfigSource;
use crate::os::lifeline;

/// The time between SIGTERM and SIGKILL.
const MERCY: Duration = Duration::from_secs(10);
/// The most that is kept of a result, in bytes. A list of a million images has 200 MB.
const MOST_RESULT: usize = 512 << 20;
/// The most that is kept of messages, in bytes.
const MOST_MESSAGES: usize = 16 << 10;
/// So many errors of a child are in the log.
const MOST_TOLD: usize = 8;

/// The commands that change something, and write a log.
const CHANGING: [&str; 3] = ["prune", "clean", "prefetch"];

/// Variables that are addressed to this process and not to its children.
const OWN_VARIABLES: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The end of an operation.
#[derive(Debug)]
pub(super) struct ChildEnd {
    /// The exit code; 128 and the number of the signal that ended it.
    pub(super) code: i32,
    /// True if it was ended because it took too long.
    pub(super) is_over_time: bool,
    pub(super) result: Vec<u8>,
    messages: Vec<u8>,
    pub(super) took: Duration,
}

impl ChildEnd {
    /// Returns the result as JSON; null if it is none.
    pub(super) fn report(&self) -> Value {
        serde_json::from_slice(&self.result).unwrap_or(Value::Null)
    }

    /// Returns the first errors, or else the first message.
    pub(super) fn message(&self) -> String {
        let messages = String::from_utf8_lossy(&self.messages);
        let errors: Vec<&str> = messages.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
        match errors.len() {
            0 => messages.lines().next().unwrap_or_default().to_owned(),
            1..=MOST_TOLD => errors.join("; "),
            all => format!("{}; and {} more errors", errors[..MOST_TOLD].join("; "), all - MOST_TOLD),
        }
    }
}

/// The children of this service.
#[derive(Debug)]
pub(super) struct Children {
    /// The options of each child: the sources of the configuration.
    sources: Vec<OsString>,
    /// The options of each child that changes something: the logs.
    logs: Vec<OsString>,
    /// The numbers of those that run, with true for those that were asked to end. A second SIGTERM would end
    /// them at once, with rows whose files are gone.
    running: RefCell<BTreeMap<i32, bool>>,
}

impl Children {
    pub(super) fn new(sources: &[ConfigSource], logs: Vec<OsString>) -> Rc<Self> {
        let option = |source: &ConfigSource| match source {
            ConfigSource::File(path) => ["--config-file".into(), path.clone().into_os_string()],
            ConfigSource::Dir(path) => ["--config-dir".into(), path.clone().into_os_string()],
        };
        let sources = sources.iter().flat_map(option).collect();
        Rc::new(Children { sources, logs, running: RefCell::default() })
    }

    /// Runs a command of this program to its end, or to the end of its time. A task of its own collects the
    /// child, also if the caller is dropped meanwhile.
    pub(super) async fn run(self: &Rc<Self>, line: &[&str], limit: Option<Duration>) -> io::Result<ChildEnd> {
        let (children, command) = (Rc::clone(self), self.command(line));
        let running = spawn_local(async move { children.run_to_end(command, limit).await });
        running.await.map_err(io::Error::other)?
    }

    /// Returns a command of this program with its sources.
    fn command(&self, line: &[&str]) -> Command {
        // The file may have been replaced by an update meanwhile; this is still the program that runs.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("glance-cache").args(line).args(&self.sources).process_group(0);
        if line.first().is_some_and(|command| CHANGING.contains(command)) {
            command.args(&self.logs);
        }
        command
            .stdin(Stdio::piped())
            .env(lifeline::VARIABLE, "stdin")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command
    }

    async fn run_to_end(&self, mut command: Command, limit: Option<Duration>) -> io::Result<ChildEnd> {
        let start = Instant::now();
        let mut child = command.spawn()?;
        // It is closed when the child has ended, or by the kernel when this process ends.
        let _lifeline = child.stdin.take();
        let pid = child.id().cast_signed();
        self.running.borrow_mut().insert(pid, false);
        let result = spawn_local(read(child.stdout.take().map(OwnedFd::from), MOST_RESULT));
        let messages = spawn_local(read(child.stderr.take().map(OwnedFd::from), MOST_MESSAGES));
        let ended = self.wait(&mut child, limit).await;
        self.running.borrow_mut().remove(&pid);
        let (status, is_over_time) = ended?;
        let result = result.await.map_err(io::Error::other)?;
        let messages = messages.await.map_err(io::Error::other)?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Ok(ChildEnd { code, is_over_time, result, messages, took: start.elapsed() })
    }

    /// True if a child is running.
    pub(super) fn are_running(&self) -> bool {
        !self.running.borrow().is_empty()
    }

    /// Asks all children to end that were not asked before.
    pub(super) fn terminate(&self) {
        for (pid, is_asked) in self.running.borrow_mut().iter_mut() {
            if !std::mem::replace(is_asked, true) {
                signal(*pid, Signal::TERM);
            }
        }
    }

    /// Asks a child to end, if it was not asked before.
    fn ask(&self, pid: i32) {
        let mut running = self.running.borrow_mut();
        if running.get_mut(&pid).is_some_and(|is_asked| !std::mem::replace(is_asked, true)) {
            signal(pid, Signal::TERM);
        }
    }

    /// Waits for the end of a child. Returns its status, and true if it was over its time.
    async fn wait(&self, child: &mut Child, limit: Option<Duration>) -> io::Result<(ExitStatus, bool)> {
        let pid = child.id().cast_signed();
        let mut end = spawn_blocking(move || wait_for_end(pid));
        let mut is_over_time = false;
        if let Some(limit) = limit
            && timeout(limit, &mut end).await.is_err()
        {
            is_over_time = true;
            self.ask(pid);
            if timeout(MERCY, &mut end).await.is_err() {
                signal(pid, Signal::KILL);
            }
        }
        if !end.is_finished() {
            end.await.map_err(io::Error::other)??;
        }
        Ok((child.wait()?, is_over_time))
    }
}

/// Waits for the end of a child without collecting it.
fn wait_for_end(pid: i32) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::INTR) => {}
            ended => return Ok(ended.map(drop)?),
        }
    }
}

/// Sends a signal to a child that was not waited for yet, so that the number is still its own.
fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended.
        let _ = kill_process(pid, signal);
    }
}

/// Reads a pipe to its end, and keeps its beginning.
async fn read(pipe: Option<OwnedFd>, most: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(Ok(mut stream)) = pipe.map(Receiver::from_owned_fd) else { return kept };
    let mut piece = vec![0; 32 << 10];
    // The part before an error is enough.
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        kept.extend_from_slice(&piece[..read.min(most - kept.len())]);
    }
    kept
}
