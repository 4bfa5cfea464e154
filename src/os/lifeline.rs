//! The life line of a child of the service: a pipe at its standard input, whose other end the service holds.
//!
//! However the service ends, SIGKILL included, the kernel closes its end, and the child is asked to end as by
//! SIGTERM: between two entries, or at once where nothing was changed yet. (`PR_SET_PDEATHSIG` would do less:
//! the kernel forgets it when a thread takes the file system rights of another user, as root's prune does.)

use std::io::{ErrorKind, Read as _, stdin};
use std::thread;

use rustix::process::{Signal, getpid, kill_process};

use crate::interrupt::Interrupt;

/// The variable that tells a child that its standard input is its life line.
pub(crate) const VARIABLE: &str = "GLANCE_CACHE_LIFELINE";

/// Watches the life line on a thread of its own. Without a thread, the child goes on alone.
pub(crate) fn watch(interrupt: Interrupt) {
    let _ = thread::Builder::new().spawn(move || {
        let mut byte = [0];
        loop {
            match stdin().read(&mut byte) {
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        // A second signal would end it in the middle of an entry.
        if !interrupt.raised() {
            let _ = kill_process(getpid(), Signal::TERM);
        }
    });
}
