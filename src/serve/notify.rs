//! Messages to systemd: that the service is ready, and that it is stopping.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::run::Run;

/// Sends a message to the manager that started this process, if it waits for one.
pub(super) fn notify(run: &Run, message: &str) {
    let Some(place) = run.environment.get(OsStr::new("NOTIFY_SOCKET")) else { return };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address)
    });
    // Without an answer to expect, there is nothing else to do: the manager will find that nothing came.
    if let Err(e) = sent {
        run.output.note(&format!("cannot notify systemd: {e}"));
    }
}
