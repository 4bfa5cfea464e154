//! Waits that always end: bounded in time, and given up soon after the run is interrupted.
//!
//! Whatever waits wakes up several times a second to look at the [`Interrupt`]. Work that the system cannot
//! interrupt (resolving a name, opening a file of a server that does not answer) runs on a thread that is
//! left behind when it takes too long; it ends with the process.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::pin::pin;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::timeout;

use crate::interrupt::Interrupt;

/// Interval at which a wait looks if it should end.
const LOOK: Duration = Duration::from_millis(200);

/// The limits of all waits for others.
#[derive(Clone, Debug)]
pub(crate) struct Waits {
    /// For a host name to be resolved and a connection to be made, and for a file to be opened.
    pub(crate) connect: Duration,
    /// For the next bytes; also for the whole head of an answer.
    pub(crate) silence: Duration,
    /// Before a broken stream is resumed; doubled at each try without progress.
    pub(crate) pause: Duration,
    /// The least that a stream has to bring.
    pub(crate) least: Least,
    /// Ends every wait.
    pub(crate) interrupt: Interrupt,
}

/// The least that a stream has to bring: a slower one is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least {
    /// In bytes.
    pub(crate) bytes: u64,
    /// Within so much time spent waiting for it.
    pub(crate) within: Duration,
}

impl Least {
    /// Returns a rate in bytes per second, which is measured over a minute.
    pub(crate) fn per_second(bytes: u64) -> Self {
        Least { bytes: bytes.saturating_mul(60), within: Duration::from_secs(60) }
    }
}

impl Waits {
    /// Returns the limits that suit a run that nobody watches.
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        Waits {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            least: Least::per_second(1024),
            interrupt,
        }
    }

    /// Fails once the run is interrupted.
    ///
    /// The error is not of `ErrorKind::Interrupted`, because that means to try again.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        if self.interrupt.raised() { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }

    /// Does nothing for a while.
    pub(crate) fn sleep(&self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            self.go_on()?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => thread::sleep(left.min(LOOK)),
            }
        }
    }

    /// Asks again and again, for as long as silence is allowed, until there is an answer.
    ///
    /// `attempt` has to wait no longer than it is told, and then to fail with `WouldBlock`.
    pub(crate) fn until<T>(&self, mut attempt: impl FnMut(Duration) -> io::Result<T>) -> io::Result<T> {
        let start = Instant::now();
        loop {
            match attempt(LOOK) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if start.elapsed() >= self.silence {
                        return Err(silent(self.silence));
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
            self.go_on()?;
        }
    }

    /// Waits for a future, for as long as silence is allowed. The future may be in any state afterwards.
    pub(super) async fn within_silence<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        let end = Instant::now() + self.silence;
        let mut work = pin!(work);
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            match timeout(left.min(LOOK), work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) if left.is_zero() => return Err(silent(self.silence)),
                Err(_) => {}
            }
        }
    }

    /// Does work that nothing can interrupt. It is left to itself when it takes longer than a connection may.
    pub(crate) fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().spawn(move || sender.send(work()))?;
        let end = Instant::now() + self.connect;
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left.min(LOOK)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that did it ended without a result"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if left.is_zero() => return Err(silent(self.connect)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Connects to the first of the host's addresses that answers.
    pub(crate) fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let (name, limit) = (host.trim_matches(['[', ']']).to_owned(), self.connect);
        let connect = move || {
            let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
            for address in (name.as_str(), port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, limit) {
                    Ok(socket) => return Ok(socket),
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        self.apart(connect).with_context(|| format!("cannot connect to {host} port {port}"))
    }
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("nothing came for {} s", tenths(limit)))
}

/// Returns the error of an answer of which something came in time, but not all that was waited for.
pub(super) fn unfinished(limit: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("it was not complete within {} s", tenths(limit)))
}

/// Returns a time in seconds, to the tenth.
fn tenths(time: Duration) -> f32 {
    (time.as_secs_f32() * 10.0).round() / 10.0
}

/// A measure of how fast a stream comes, while it is waited for: a slow reader is not the stream's fault.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes how long was waited for how many bytes. Fails with [`TooSlow`] when that is less than the least.
    pub(crate) fn note(&mut self, waited: Duration, bytes: u64, least: Least) -> io::Result<()> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < least.within {
            return Ok(());
        }
        let measured = std::mem::take(self);
        if measured.bytes < least.bytes {
            return Err(io::Error::other(TooSlow { bytes: measured.bytes, within: measured.waited }));
        }
        Ok(())
    }
}

/// A stream that brings less than the least is given up: no use to try it again.
#[derive(Debug)]
pub(crate) struct TooSlow {
    bytes: u64,
    within: Duration,
}

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooSlow { bytes, within } = self;
        write!(f, "the server is too slow: {bytes} bytes in {} s", within.as_secs_f32().round())
    }
}

impl std::error::Error for TooSlow {}
