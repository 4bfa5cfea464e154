//! Images in Ceph, through the `rbd` command of ceph-common.
//!
//! `rbd export` runs as a child that writes to a pipe. It gets names as options of their own, so that none is
//! taken for another option. It reads nothing from this process and does not outlive its reader. When it
//! fails, its last lines are part of the error.

use std::io::{self, ErrorKind, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context as _, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::location::scheme;
use crate::config::{RADOS_CONNECT_TIMEOUT, RBD_STORE_CEPH_CONF, RBD_STORE_POOL, RBD_STORE_USER};
use crate::names::escaped;
use crate::net::wire::Waits;
use crate::source::opened::{Body, End, Opened, Source};
use crate::source::store::{Options, Store, Wanted};

/// Limits the reads of 4 MiB that an export has under way at once. With Ceph's own limit of 10 it takes up to
/// 300 MiB of memory, and an image is not written as fast as that is read.
const READS: &str = "--rbd_concurrent_management_ops=4";
/// Size in bytes of a block of memory that the export returns to the system as soon as it is done with it.
/// Otherwise glibc learns to keep all such blocks, which takes three times the memory.
const GIVEN_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");
/// Limit of the messages of the command that are kept, in bytes.
const MAX_MESSAGES: usize = 4096;

/// A pool of RBD images.
struct RbdStore {
    conf: Option<String>,
    user: Option<String>,
    pool: String,
    /// In seconds; Ceph's own if negative.
    timeout: i64,
    waits: Waits,
}

/// Reads the options of a store.
pub(super) fn set_up(options: &Options<'_>, waits: &Waits) -> Result<Box<dyn Store>> {
    Ok(Box::new(RbdStore {
        conf: options.value(RBD_STORE_CEPH_CONF)?,
        user: options.value(RBD_STORE_USER)?,
        pool: options.config.text(&options.of(RBD_STORE_POOL))?.value,
        timeout: options.config.integer(&options.of(RADOS_CONNECT_TIMEOUT))?.value,
        waits: waits.clone(),
    }))
}

impl Store for RbdStore {
    fn owns(&self, url: &str) -> bool {
        parse(url).is_ok_and(|image| image.pool.as_ref() == Some(&self.pool))
    }

    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>> {
        let arguments = self.arguments(parse(wanted.url)?)?;
        let waits = self.waits.clone();
        Ok(Box::new(RbdSource { shown: wanted.shown, program: "rbd", arguments, waits }))
    }
}

impl RbdStore {
    /// Returns the arguments of the command that writes an image to its standard output.
    fn arguments(&self, image: RbdImage) -> Result<Vec<String>> {
        let pool = image.pool.unwrap_or_else(|| self.pool.clone());
        let names = [Some(&pool), Some(&image.image), image.snapshot.as_ref()];
        for name in names.into_iter().flatten() {
            // In a name these would begin another one; Ceph itself allows none of them.
            ensure!(
                !name.is_empty() && !name.contains(['/', '@', '\0']),
                "one of its names is not a valid name of Ceph's"
            );
        }
        let mut arguments = ["export", "--no-progress", READS].map(str::to_owned).to_vec();
        let mut option = |name: &str, value: &str| arguments.push(format!("--{name}={value}"));
        option("pool", &pool);
        option("image", &image.image);
        if let Some(snapshot) = &image.snapshot {
            option("snap", snapshot);
        }
        if let Some(user) = &self.user {
            option("id", user);
        }
        if let Some(conf) = &self.conf {
            option("conf", conf);
        }
        if self.timeout >= 0 {
            for name in ["rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout"] {
                option(name, &self.timeout.to_string());
            }
        }
        option("path", "-");
        Ok(arguments)
    }
}

/// The parts of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RbdImage {
    /// Without it, the store's.
    pub(super) pool: Option<String>,
    pub(super) image: String,
    pub(super) snapshot: Option<String>,
}

/// Takes a location apart: `IMAGE` or `FSID/POOL/IMAGE/SNAPSHOT`.
pub(super) fn parse(url: &str) -> Result<RbdImage> {
    let parts: Vec<&str> = scheme(url)?.1.split('/').collect();
    ensure!(!parts.contains(&""), "one of its parts is empty");
    let decoded = |text: &str| -> Result<String> {
        let text = percent_decode_str(text).decode_utf8();
        Ok(text.context("one of its names is not UTF-8 once its percent codes are replaced")?.into_owned())
    };
    match parts[..] {
        [image] => Ok(RbdImage { pool: None, image: image.to_owned(), snapshot: None }),
        // The fsid does not choose the cluster, the store does.
        [_, pool, image, snapshot] => Ok(RbdImage {
            pool: Some(decoded(pool)?),
            image: decoded(image)?,
            snapshot: Some(decoded(snapshot)?),
        }),
        _ => bail!("it is neither IMAGE nor FSID/POOL/IMAGE/SNAPSHOT"),
    }
}

/// An RBD image or a snapshot of it, to be exported.
struct RbdSource {
    shown: String,
    program: &'static str,
    arguments: Vec<String>,
    waits: Waits,
}

impl Source for RbdSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn open(&self) -> Result<Opened> {
        let mut command = Command::new(self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings in the environment are for this program, and may hold passwords.
        #[expect(clippy::disallowed_methods, reason = "the child inherits the environment of the process")]
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OS_")) {
            command.env_remove(name);
        }
        command.env(GIVEN_BACK.0, GIVEN_BACK.1);
        // A key typed at the terminal is for this program, not for the child.
        let child = command.process_group(0).spawn();
        let mut child = match child {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                bail!("the command {} is not installed: install ceph-common", self.program)
            }
            child => child.with_context(|| format!("cannot run {}", self.program))?,
        };
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let messages = listen(errors);
        let mut export = Export { child, output, messages, waits: self.waits.clone() };
        // If something is wrong with the image, the command says so before the first byte.
        let mut first = vec![0; 64 * 1024];
        let read = export.read(&mut first)?;
        first.truncate(read);
        Ok(Opened {
            size: None,
            encoding: None,
            end: End::Announced,
            warning: None,
            body: Body::Stream(Box::new(io::Cursor::new(first).chain(export))),
        })
    }
}

/// Reads all messages of a child, so that it never waits for a reader, and keeps the beginning.
fn listen(errors: Option<ChildStderr>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    // If there can be no thread, the messages are lost and the child cannot write them.
    let _ = thread::Builder::new().spawn(move || {
        let mut messages = Vec::new();
        if let Some(mut errors) = errors {
            let _ = (&mut errors).take(MAX_MESSAGES as u64).read_to_end(&mut messages);
            let _ = io::copy(&mut errors, &mut io::sink());
        }
        sender.send(messages)
    });
    receiver
}

/// A child that writes an image. It is killed when this is dropped.
struct Export {
    child: Child,
    /// `None` once everything was read.
    output: Option<ChildStdout>,
    messages: Receiver<Vec<u8>>,
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
    /// Waits for the child, which has closed its output. Fails if it failed.
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

    /// Returns an error with the last lines of the child's messages.
    fn failed(&self, message: String) -> io::Error {
        let messages = self.messages.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let messages = String::from_utf8_lossy(&messages);
        let lines = messages.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<String> = lines.map(|line| escaped(line.as_bytes())).collect();
        let last = [vec![message], lines[lines.len().saturating_sub(3)..].to_vec()].concat();
        io::Error::other(last.join(": "))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // It fails if the child has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
