//! Listeners: sockets that systemd hands over, or those of the settings.
//!
//! A Unix socket is made with mode 0660 and belongs to the group that owns the cache. The socket of a service
//! that has crashed is replaced; one behind which somebody listens is not.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, accessat, chownat, statat, unlinkat};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::settings::ListenPlace;

/// The client of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp,
    /// By the kernel's word.
    Unix {
        uid: u32,
    },
}

/// An open listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, Option<OwnSocket>),
}

/// A socket that this process has made, and removes when it ends.
#[derive(Debug)]
pub(super) struct OwnSocket {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // Another service may have replaced it.
        if identity(&self.path).is_some_and(|(found, _)| found == self.identity) {
            let _ = unlinkat(CWD, &self.path, AtFlags::empty());
        }
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, Peer),
    Unix(UnixStream, Peer),
}

impl Listener {
    /// Returns the place of the listener.
    pub(super) fn place(&self) -> ListenPlace {
        match self {
            Listener::Tcp(_, address) => ListenPlace::Tcp(*address),
            Listener::Unix(_, own) => {
                ListenPlace::Unix(own.as_ref().map(|own| own.path.clone()).unwrap_or_default())
            }
        }
    }

    /// Returns the place of the listener in words.
    pub(super) fn shown(&self) -> String {
        match self {
            Listener::Tcp(_, address) => address.to_string(),
            Listener::Unix(_, Some(own)) => format!("unix:{}", own.path.display()),
            Listener::Unix(_, None) => "a Unix socket of systemd".to_owned(),
        }
    }

    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, Peer::Tcp))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Accepted::Unix(stream, Peer::Unix { uid }))
            }
        }
    }
}

/// Returns the sockets that systemd hands over.
pub(super) fn of_systemd() -> Result<Vec<Listener>> {
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        let wrong = || format!("socket {index} of systemd cannot be listened at: give a stream socket");
        // A Unix socket is none of TCP, which is no error yet.
        if let Ok(Some(tcp)) = handed.take_tcp_listener(index) {
            listeners.push(tcp_listener(tcp).with_context(wrong)?);
            continue;
        }
        let unix = handed.take_unix_listener(index).ok().flatten().with_context(wrong)?;
        unix.set_nonblocking(true)?;
        listeners.push(Listener::Unix(UnixListener::from_std(unix)?, None));
    }
    Ok(listeners)
}

/// Prepares a listener. Its connections inherit from it that nothing waits for more: an answer is written in
/// one piece, and a connection costs one call less than if each was told.
fn tcp_listener(listener: StdTcpListener) -> Result<Listener> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    // Only streams have this option in the standard library; it is one of both. Without it, answers are late.
    let _ = StdTcpStream::from(OwnedFd::from(listener.try_clone()?)).set_nodelay(true);
    Ok(Listener::Tcp(TcpListener::from_std(listener)?, address))
}

/// Listens at a place. The socket belongs to this group, if it is one of ours.
pub(super) fn listen(place: &ListenPlace, group: Option<u32>) -> Result<Option<Listener>> {
    match place {
        ListenPlace::None => Ok(None),
        ListenPlace::Tcp(address) => {
            let listener =
                StdTcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
            tcp_listener(listener).map(Some)
        }
        ListenPlace::Unix(path) => unix(path, group).map(Some),
    }
}

/// Fails if it would not be possible to listen at a place, in the same words. Nothing is opened there that a
/// client could connect to, and a service that listens there already is no failure.
pub(super) fn check(place: &ListenPlace) -> Result<()> {
    match place {
        ListenPlace::None => Ok(()),
        // Both protocols have the same addresses, and the same rights for low ports.
        ListenPlace::Tcp(address) => match UdpSocket::bind(address) {
            Err(e) if e.kind() != ErrorKind::AddrInUse => {
                Err(e).with_context(|| format!("cannot listen at {address}"))
            }
            _ => Ok(()),
        },
        ListenPlace::Unix(path) => {
            is_replaceable(path)?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            accessat(CWD, parent, Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
                .map_err(std::io::Error::from)
                .with_context(|| format!("cannot listen at unix:{}", path.display()))
        }
    }
}

/// True if there is a socket at a path. Fails if there is anything else.
fn is_replaceable(path: &Path) -> Result<bool> {
    match identity(path) {
        None => Ok(false),
        Some((_, true)) => Ok(true),
        Some((_, false)) => bail!("{} exists and is no socket: it is not replaced", path.display()),
    }
}

fn unix(path: &Path, group: Option<u32>) -> Result<Listener> {
    let shown = || format!("cannot listen at unix:{}", path.display());
    if is_replaceable(path)? {
        if StdUnixStream::connect(path).is_ok() {
            bail!("another service listens at unix:{}", path.display());
        }
        unlinkat(CWD, path, AtFlags::empty()).with_context(shown)?;
    }
    // Nobody else may connect, not even in the moment before a chmod. This process has no other thread yet.
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = StdUnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.with_context(shown)?;
    if let Some(group) = group {
        // Only root and members of the group may do this. Without it, the socket is for the own group.
        let _ = chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW);
    }
    listener.set_nonblocking(true)?;
    let (identity, _) = identity(path).with_context(shown)?;
    let own = OwnSocket { path: path.to_owned(), identity };
    Ok(Listener::Unix(UnixListener::from_std(listener)?, Some(own)))
}

/// Returns device and inode of a file, and true if it is a socket.
fn identity(path: &Path) -> Option<((u64, u64), bool)> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    Some(((stat.st_dev, stat.st_ino), is_socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_inherit_that_nothing_waits_for_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = ListenPlace::Tcp("127.0.0.1:0".parse().unwrap());
            let listener = listen(&place, None).unwrap().unwrap();
            let ListenPlace::Tcp(address) = listener.place() else { panic!("{listener:?}") };
            let _client = StdTcpStream::connect(address).unwrap();
            let Accepted::Tcp(stream, _) = listener.accept().await.unwrap() else { panic!() };
            assert!(stream.nodelay().unwrap());
        });
    }
}
