//! SIGINT and SIGTERM: one flag, looked at between two entries.
//!
//! SIGXFSZ is caught as well, and nothing done about it: a write beyond the limit of file sizes (`ulimit -f`) then fails like any
//! other, instead of ending the process.
//!
//! Nothing is done in the signal handler but setting the flag; whoever works asks it where stopping leaves a consistent
//! cache behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

/// Tells whether the process was asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Registers for SIGINT and SIGTERM. Who sends a second one does not want to wait: it ends the process where it is.
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

    /// The number of the signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Does what a signal would.
    #[cfg(test)]
    pub(crate) fn raise(&self, signal: i32) {
        self.0.store(signal as usize, Ordering::Relaxed);
    }

    pub(crate) fn raised(&self) -> bool {
        self.signal().is_some()
    }
}

/// The name of a signal this tool handles.
pub(crate) fn signal_name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// How long to wait for a busy index or lock, and what ends the wait early.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) limit: Duration,
    pub(crate) interrupt: Interrupt,
}

impl Wait {
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }
}
