//! Connections that never keep anybody waiting: bounded, and given up soon after the run is interrupted.
//!
//! Sockets wake up several times a second to look at the [`Interrupt`]; what the system cannot interrupt (a name being
//! resolved, a file of a server that is gone being opened) runs on a thread that is left behind. TLS is rustls, as for the
//! databases, with the system's authorities unless a file is set.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::tls::{Tls, TlsMode, client_config};
use crate::interrupt::Interrupt;

/// How often a wait looks at whether it should end.
const LOOK: Duration = Duration::from_millis(200);

/// How long to wait for others.
#[derive(Clone, Debug)]
pub(crate) struct Waits {
    /// For a connection to be made, its host's name resolved, a file opened.
    pub(crate) connect: Duration,
    /// For the next byte.
    pub(crate) silence: Duration,
    /// Before a broken stream is taken up again; doubled at each try without progress.
    pub(crate) pause: Duration,
    /// Ends every wait.
    pub(crate) interrupt: Interrupt,
}

impl Waits {
    /// What suits a run that nobody watches.
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        Waits {
            connect: Duration::from_secs(10),
            silence: Duration::from_mins(1),
            pause: Duration::from_secs(1),
            interrupt,
        }
    }

    /// Fails once the run is interrupted.
    ///
    /// Not with `ErrorKind::Interrupted`: that means to try again.
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
    /// `attempt` waits [`LOOK`] at most and then says `WouldBlock`.
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

    /// Does what nothing can interrupt; when it takes too long it is left to itself.
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
                    return Err(io::Error::other("it came to nothing"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if left.is_zero() => return Err(silent(self.connect)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("nothing came for {} s", limit.as_secs_f32()))
}

/// Whom a server's certificate has to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    System,
    /// The only authorities, in a file (PEM).
    Only(PathBuf),
    /// Anybody.
    Anybody,
}

/// A connection to a server.
pub(crate) enum Connection {
    Plain(Wire),
    Encrypted(Box<StreamOwned<ClientConnection, Wire>>),
}

impl Connection {
    /// Connects to the first of the host's addresses that answers.
    pub(crate) fn open(host: &str, port: u16, waits: &Waits) -> Result<Self> {
        let (name, limit) = (host.trim_matches(['[', ']']).to_owned(), waits.connect);
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
        let socket = waits.apart(connect).with_context(|| format!("cannot connect to {host} port {port}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        Ok(Connection::Plain(Wire { socket, waits: waits.clone() }))
    }

    /// Encrypts the connection; a server that is not the one asked for is an error.
    pub(crate) fn encrypt(self, host: &str, trust: &Trust) -> Result<Self> {
        let Connection::Plain(mut wire) = self else { return Ok(self) };
        let (mode, ca) = match trust {
            Trust::System => (TlsMode::Full, None),
            Trust::Only(file) => (TlsMode::Full, Some(file.clone())),
            Trust::Anybody => (TlsMode::Unverified, None),
        };
        let config = client_config(&Tls { mode, ca, identity: None })?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .with_context(|| format!("{host} can stand in no certificate"))?;
        let mut tls = ClientConnection::new(Arc::new(config), name)?;
        while tls.is_handshaking() {
            let (read, written) =
                tls.complete_io(&mut wire).with_context(|| format!("cannot agree with {host} on TLS"))?;
            ensure!(read + written > 0, "{host} ended the connection while agreeing on TLS");
        }
        Ok(Connection::Encrypted(Box::new(StreamOwned::new(tls, wire))))
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(wire) => wire.read(buffer),
            Connection::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(wire) => wire.write(buffer),
            Connection::Encrypted(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Plain(wire) => wire.flush(),
            Connection::Encrypted(stream) => stream.flush(),
        }
    }
}

/// A socket whose reads and writes end in time.
pub(crate) struct Wire {
    socket: TcpStream,
    waits: Waits,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waits.go_on()?;
        let socket = &mut self.socket;
        self.waits.until(|_| socket.read(buffer))
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let socket = &mut self.socket;
        self.waits.until(|_| socket.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}
