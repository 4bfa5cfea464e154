//! SIGINT and SIGTERM as one flag, and waits that it ends.
//!
//! The signal handler only sets the flag. The code that works on a cache checks the flag wherever stopping
//! leaves a consistent cache behind: between two entries, not within one.
//!
//! SIGXFSZ is caught and ignored: a write beyond the file size limit (`ulimit -f`) then fails like any other
//! write, instead of ending the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

/// The flag that a signal sets; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Registers for SIGINT and SIGTERM.
    ///
    /// A second signal ends the process at once, for an operator who does not want to wait.
    pub(crate) fn register(&self) -> std::io::Result<()> {
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let insisted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&insisted))?;
            signal_hook::flag::register(signal, Arc::clone(&insisted))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&self.0), signal as usize)?;
        }
        Ok(())
    }

    /// Returns the number of the signal that arrived, or `None`.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Sets the flag as the signal would.
    pub(crate) fn raise(&self, signal: i32) {
        self.0.store(signal as usize, Ordering::Relaxed);
    }

    /// True if a signal arrived.
    pub(crate) fn raised(&self) -> bool {
        self.signal().is_some()
    }
}

/// Returns the name of a signal that this tool handles.
pub(crate) fn signal_name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// A limited wait for a busy index or lock, which a signal ends early.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) limit: Duration,
    pub(crate) interrupt: Interrupt,
}

impl Wait {
    /// Returns the time at which a wait that begins now ends.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }
}
