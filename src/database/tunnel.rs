//! TLS to a MySQL server whose certificate is pinned, for a client library that cannot verify it.
//!
//! The library refuses a self-signed certificate that the settings name as their own authority, and takes no
//! verifier. So it talks to a Unix socket of this process instead, without TLS, and what it says goes on to
//! the server with TLS, verified as everywhere else ([`crate::net::tls`]).
//!
//! Only the login is changed on its way. The library does not see that the server offers TLS, and the server
//! gets a request for TLS before the login. So the server counts one packet more until it has answered the
//! login.
//!
//! The socket is in a directory of its own that only this user may enter. One connection is let in, which has
//! to be of this process, and then socket and directory are removed. A process that is killed before leaves
//! them behind, empty.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{TcpStream as Blocking, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use std::{future, io, process, thread};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, mkdirat, unlinkat};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::net::tls::{Tls, client_config, server_name};

/// The places for the directory: the first is there in containers and services that may write nowhere else.
const PLACES: [&str; 4] = ["/dev/shm", "/tmp", "/run", "/var/tmp"];
/// The bit of the flags' second byte that offers or wants TLS.
const TLS: u8 = 0x08;
/// The length of a request for TLS, which is the beginning of a login.
const REQUEST: usize = 32;
/// The greatest length of a packet of the login.
const LONGEST: usize = 1 << 16;
/// The first byte of an answer that ends the login: done, or refused.
const ENDS: [u8; 2] = [0x00, 0xff];

/// A way to a server, which waits for the library. Once the library is connected, it may be dropped.
pub(super) struct Tunnel {
    socket: Socket,
    failure: Arc<Mutex<Option<String>>>,
    ended: Receiver<()>,
}

impl Tunnel {
    /// Connects to a server and waits for the library, on a thread that ends with the connection.
    pub(super) fn open(tls: &Tls, host: &str, port: u16, limit: Duration) -> Result<Self> {
        let connector = TlsConnector::from(Arc::new(client_config(tls)?));
        let name = server_name(host)?;
        let shown = || format!("cannot connect to {host}:{port}");
        let address = (host, port).to_socket_addrs().with_context(shown)?.next().with_context(shown)?;
        let server = Blocking::connect_timeout(&address, limit).with_context(shown)?;
        server.set_nonblocking(true).and_then(|()| server.set_nodelay(true)).with_context(shown)?;
        let socket = Socket::new()?;
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot use the network")?;
        let listener = {
            let _runtime = runtime.enter();
            UnixListener::bind(socket.path()).context("cannot listen on a socket")?
        };
        let failure = Arc::new(Mutex::new(None));
        let (tell, ended) = channel();
        let noted = Arc::clone(&failure);
        let carry = move || {
            let carried = runtime.block_on(async {
                let library = timeout(limit, first(&listener)).await.context("nobody came")??;
                drop(listener);
                let server = TcpStream::from_std(server)?;
                carry(library, server, &connector, name, limit).await
            });
            if let Err(error) = carried {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            }
            drop(tell);
        };
        thread::Builder::new().name("tunnel".into()).spawn(carry).context("cannot start a thread")?;
        Ok(Tunnel { socket, failure, ended })
    }

    /// Returns the socket for the library.
    pub(super) fn path(&self) -> PathBuf {
        self.socket.path()
    }

    /// Returns why the tunnel ended, after the library could not connect.
    pub(super) fn failure(&self) -> Option<String> {
        // It notices the end of the library's connection, or noticed something before.
        let _ = self.ended.recv_timeout(Duration::from_secs(1));
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A directory for one socket, removed when dropped.
struct Socket {
    dir: PathBuf,
}

impl Socket {
    fn new() -> Result<Self> {
        let name = format!("glance-cache-{:016x}", RandomState::new().hash_one(process::id()));
        let mut last = None;
        for place in PLACES {
            let dir = Path::new(place).join(&name);
            match mkdirat(CWD, &dir, Mode::RWXU) {
                Ok(()) => return Ok(Socket { dir }),
                Err(e) => last = Some(io::Error::from(e)),
            }
        }
        let places = PLACES.join(", ");
        Err(last.context("nowhere to try")?)
            .with_context(|| format!("cannot make a directory in one of {places}"))
    }

    fn path(&self) -> PathBuf {
        self.dir.join("mysql")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A directory that stays is empty, and in nobody's way.
        let _ = unlinkat(CWD, self.path(), AtFlags::empty());
        let _ = unlinkat(CWD, &self.dir, AtFlags::REMOVEDIR);
    }
}

/// Waits for the connection of this process.
async fn first(listener: &UnixListener) -> Result<UnixStream> {
    let (library, _) = listener.accept().await.context("cannot wait for the database client")?;
    let own = i32::try_from(process::id()).ok();
    ensure!(library.peer_cred()?.pid() == own, "another process came instead of the database client");
    Ok(library)
}

/// A packet of the login.
struct Packet {
    number: u8,
    body: Vec<u8>,
}

impl Packet {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        let mut head = [0; 4];
        from.read_exact(&mut head).await?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        ensure!(length <= LONGEST, "a packet of {length} bytes in the login");
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        Ok(Packet { number: head[3], body })
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let length = u32::try_from(self.body.len())?.to_le_bytes();
        let mut all = vec![length[0], length[1], length[2], self.number];
        all.extend(&self.body);
        to.write_all(&all).await?;
        Ok(to.flush().await?)
    }

    /// Takes the offer of TLS out of a greeting. Fails if there is none.
    fn without_offer(mut self) -> Result<Self> {
        // The version of the protocol, that of the server up to a zero, 4 bytes of the session, 8 of the
        // nonce, a zero, then the flags.
        let version =
            self.body.iter().skip(1).position(|byte| *byte == 0).context("a greeting without an end")?;
        let flags = self.body.get_mut(version + 2 + 13 + 1).context("a greeting without flags")?;
        ensure!(*flags & TLS != 0, "the server does not offer TLS");
        *flags &= !TLS;
        Ok(self)
    }
}

/// Carries the login and then everything between the library and the server.
async fn carry(
    mut library: UnixStream,
    mut server: TcpStream,
    connector: &TlsConnector,
    name: ServerName<'static>,
    limit: Duration,
) -> Result<()> {
    let greeting = timeout(limit, Packet::read(&mut server)).await.context("no greeting came")??;
    if greeting.body.first() == Some(&0xff) {
        return greeting.write(&mut library).await;
    }
    greeting.without_offer()?.write(&mut library).await?;
    let mut login = Packet::read(&mut library).await?;
    if login.body.len() < REQUEST {
        bail!("a login without flags");
    }
    login.body[1] |= TLS;
    Packet { number: login.number, body: login.body[..REQUEST].to_vec() }.write(&mut server).await?;
    let mut server = timeout(limit, connector.connect(name, server)).await.context("no answer to TLS")??;
    login.number = login.number.wrapping_add(1);
    login.write(&mut server).await?;

    let (mut from_server, mut to_server) = split(server);
    let (mut from_library, mut to_library) = library.into_split();
    let logs_in = Cell::new(true);
    let up = async {
        while logs_in.get() {
            let mut packet = Packet::read(&mut from_library).await?;
            // It may be the first after the login, which the library has waited for.
            packet.number = packet.number.wrapping_add(u8::from(logs_in.get()));
            packet.write(&mut to_server).await?;
        }
        copy(&mut from_library, &mut to_server).await?;
        Ok(to_server.shutdown().await?)
    };
    let down = async {
        while logs_in.get() {
            let mut packet = Packet::read(&mut from_server).await?;
            packet.number = packet.number.wrapping_sub(1);
            logs_in.set(!packet.body.first().is_some_and(|byte| ENDS.contains(byte)));
            packet.write(&mut to_library).await?;
        }
        copy(&mut from_server, &mut to_library).await?;
        Ok(())
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    future::poll_fn(|cx| match up.as_mut().poll(cx) {
        Poll::Pending => down.as_mut().poll(cx),
        ended @ Poll::Ready(_) => ended,
    })
    .await
}
