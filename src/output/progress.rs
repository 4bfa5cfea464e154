//! Progress on a terminal, for what lasts longer than half a second.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Output;
use super::report::human;
use crate::cache::execute::{Progress, Removed};

/// What ends sooner needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Counts what is done against what is to be done.
pub(crate) struct Bar<'a> {
    output: &'a Output,
    verb: &'static str,
    /// Bytes to go, where they are the measure.
    bytes: Option<u64>,
    entries: u64,
    done: Cell<u64>,
    started: Instant,
    bar: OnceCell<ProgressBar>,
}

impl<'a> Bar<'a> {
    /// A bar over so many bytes, or entries where there are no bytes to count. It shows nothing before half a second.
    pub(crate) fn new(output: &'a Output, verb: &'static str, entries: u64, bytes: Option<u64>) -> Self {
        Bar {
            output,
            verb,
            bytes,
            entries,
            done: Cell::new(0),
            started: Instant::now(),
            bar: OnceCell::new(),
        }
    }

    fn advance(&self, removed: Removed<'_>) {
        let step = if self.bytes.is_some() { removed.bytes } else { 1 };
        self.done.set(self.done.get().saturating_add(step));
        if !self.output.shows_progress() || self.started.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_init(|| {
            let template = match self.bytes {
                Some(_) => "{prefix} {bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
                None => "{prefix} {bar:30} {pos} of {len}, {per_sec}, {eta} left",
            };
            let style = ProgressStyle::with_template(template).expect("the template is constant");
            let length = self.bytes.unwrap_or(self.entries);
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(self.verb)
        });
        bar.set_position(self.done.get());
    }
}

impl Progress for Bar<'_> {
    fn removed(&self, removed: Removed<'_>) {
        self.output.removed(|| {
            let name = removed.place.show(removed.name);
            match removed.reason {
                "ghost" => format!("forgot {name}: its file is missing"),
                reason => format!("removed {name} ({}): {reason}", human(removed.bytes)),
            }
        });
        self.advance(removed);
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
