//! The real Glance in a helper process: one request a line, one answer a line. See
//! `tests/peer/python/peer.py` for what it can do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::needs;

/// Returns one of Glance's own console scripts.
pub(crate) fn script(name: &str) -> PathBuf {
    needs::glance().with_file_name(name)
}

/// Returns the prefetcher of Glance 31.1.0: that of 33 does not start.
pub(crate) fn prefetcher() -> PathBuf {
    needs::glance_31().with_file_name("glance-cache-prefetcher")
}

/// A process with the real Glance loaded, ended when dropped.
pub(crate) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        Self::run(&needs::glance(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/peer.py"))
    }

    /// Starts the real Ironic instead. See `tests/peer/python/ironic_peer.py` for what it can do.
    pub(crate) fn ironic() -> Self {
        Self::run(&needs::ironic(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/ironic_peer.py"))
    }

    fn run(python: &Path, helper: &str) -> Self {
        let mut child = Command::new(python)
            .args(["-I", "-B"]) // a file beside the helper must not stand for a package of its name
            .arg(helper)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers }
    }

    /// Sends a request; [`Peer::answer`] waits for what comes back.
    pub(crate) fn ask(&mut self, op: &str, mut arguments: Value) {
        arguments["op"] = json!(op);
        writeln!(self.requests, "{arguments}").unwrap();
    }

    /// Waits for the answer, or for the error's type and message.
    pub(crate) fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the real Glance is gone ({error}): {line:?}"));
        match answer["error"].take() {
            Value::Null => Ok(answer["ok"].take()),
            error => Err(error.as_str().unwrap_or_default().into()),
        }
    }

    /// Asks and waits.
    pub(crate) fn try_call(&mut self, op: &str, arguments: Value) -> Result<Value, String> {
        self.ask(op, arguments);
        self.answer()
    }

    /// Asks and waits; an error fails the test.
    #[track_caller]
    pub(crate) fn call(&mut self, op: &str, arguments: Value) -> Value {
        let what = format!("{op} {arguments}");
        self.try_call(op, arguments).unwrap_or_else(|error| panic!("the real Glance, {what}: {error}"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
