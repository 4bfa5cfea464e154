//! Images in Ceph, through the `rbd` command of ceph-common.
//!
//! `rbd export` runs as a child that writes to a pipe. It gets names as options of their own, so that none is taken for another;
//! it reads nothing from us, and it does not outlive its reader. Its last words go into the error when it fails.

use std::io::{self, ErrorKind, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::location::RbdImage;
use super::{Body, Opened, Source};
use crate::names::escaped;
use crate::net::wire::Waits;

/// Reads of 4 MiB that an export has under way at once: with Ceph's own 10 it takes up to 300 MiB of memory, and nothing here
/// takes what it reads so fast ...
const READS: &str = "--rbd_concurrent_management_ops=4";
/// ... and how large a block of memory, in bytes, it gives back as soon as it is done with it. glibc's own rule learns to keep all of
/// them: three times the memory.
const GIVEN_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");
/// So much of what the command says is kept.
const MAX_WORDS: usize = 4096;

/// The options of a store.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) conf: Option<String>,
    pub(super) user: Option<String>,
    pub(super) pool: String,
    /// In seconds; below 0 is Ceph's own.
    pub(super) timeout: i64,
}

/// An RBD image or a snapshot of it.
pub(super) struct RbdSource {
    shown: String,
    program: &'static str,
    arguments: Vec<String>,
    waits: Waits,
}

impl RbdSource {
    pub(super) fn new(shown: String, settings: &Settings, image: RbdImage, waits: &Waits) -> Result<Self> {
        let pool = image.pool.unwrap_or_else(|| settings.pool.clone());
        let names = [Some(&pool), Some(&image.image), image.snapshot.as_ref()];
        for name in names.into_iter().flatten() {
            // In a name these would begin another one; Ceph itself allows none of them.
            ensure!(
                !name.is_empty() && !name.contains(['/', '@', '\0']),
                "one of its names is none of Ceph's"
            );
        }
        let mut arguments = ["export", "--no-progress", READS].map(str::to_owned).to_vec();
        let mut option = |name: &str, value: &str| arguments.push(format!("--{name}={value}"));
        option("pool", &pool);
        option("image", &image.image);
        if let Some(snapshot) = &image.snapshot {
            option("snap", snapshot);
        }
        if let Some(user) = &settings.user {
            option("id", user);
        }
        if let Some(conf) = &settings.conf {
            option("conf", conf);
        }
        if settings.timeout >= 0 {
            for name in ["rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout"] {
                option(name, &settings.timeout.to_string());
            }
        }
        option("path", "-");
        Ok(RbdSource { shown, program: "rbd", arguments, waits: waits.clone() })
    }
}

impl Source for RbdSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn open(&self) -> Result<Opened> {
        let mut command = Command::new(self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings in the environment are ours, and may hold passwords.
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OS_")) {
            command.env_remove(name);
        }
        command.env(GIVEN_BACK.0, GIVEN_BACK.1);
        // A key typed at the terminal is for us, not for it.
        let child = command.process_group(0).spawn();
        let mut child = match child {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                bail!("the command {} is not installed: install ceph-common", self.program)
            }
            child => child.with_context(|| format!("cannot run {}", self.program))?,
        };
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let words = listen(errors);
        let mut export = Export { child, output, words, waits: self.waits.clone() };
        // What is wrong with the image is said before its first byte.
        let mut first = vec![0; 64 * 1024];
        let read = export.read(&mut first)?;
        first.truncate(read);
        Ok(Opened {
            size: None,
            encoding: None,
            body: Body::Stream(Box::new(io::Cursor::new(first).chain(export))),
        })
    }
}

/// Reads all that a child says, so that it is never kept waiting, and keeps the beginning.
fn listen(errors: Option<ChildStderr>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    // Without a thread its words are lost, and it finds nobody to tell them to.
    let _ = thread::Builder::new().spawn(move || {
        let mut words = Vec::new();
        if let Some(mut errors) = errors {
            let _ = (&mut errors).take(MAX_WORDS as u64).read_to_end(&mut words);
            let _ = io::copy(&mut errors, &mut io::sink());
        }
        sender.send(words)
    });
    receiver
}

/// A child that writes an image; ended when dropped.
struct Export {
    child: Child,
    /// `None` once all was read.
    output: Option<ChildStdout>,
    words: Receiver<Vec<u8>>,
    waits: Waits,
}

impl Read for Export {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(output) = &mut self.output else { return Ok(0) };
        self.waits.go_on()?;
        let read = self.waits.until(|wait| {
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
            if poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&wait))? == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            output.read(buffer)
        });
        match read {
            Ok(0) if !buffer.is_empty() => self.finish().map(|()| 0),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                let _ = self.child.kill();
                Err(self.failed(format!("rbd export is silent, {e} (is the cluster reachable?)")))
            }
            read => read,
        }
    }
}

impl Export {
    /// Waits for the child, which has closed its output, and says why it failed when it did.
    fn finish(&mut self) -> io::Result<()> {
        self.output = None;
        let child = &mut self.child;
        let status = self.waits.until(|wait| match child.try_wait()? {
            Some(status) => Ok(status),
            None => {
                thread::sleep(wait.min(Duration::from_millis(5)));
                Err(ErrorKind::WouldBlock.into())
            }
        })?;
        if status.success() {
            return Ok(());
        }
        let message = match (status.code(), status.signal()) {
            (Some(code), _) => format!("rbd export ended with {code}"),
            (_, signal) => format!("rbd export was ended by signal {}", signal.unwrap_or_default()),
        };
        Err(self.failed(message))
    }

    /// An error with what the child said last.
    fn failed(&self, message: String) -> io::Error {
        let words = self.words.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<String> = lines.map(|line| escaped(line.as_bytes())).collect();
        let last = [vec![message], lines[lines.len().saturating_sub(3)..].to_vec()].concat();
        io::Error::other(last.join(": "))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
