//! Progress bars on a terminal: one for removals, and one for each image that is being fetched.
//!
//! Nothing is drawn unless stderr is a terminal that can move its cursor, and the run is neither quiet nor
//! verbose; callers need not check that. A bar is never wider than the terminal, and is drawn in ASCII where
//! the locale is not UTF-8. Bars disappear when they end, and the terminal is restored even if a signal ends
//! the run.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::io::stderr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::{Event, Output};
use crate::cache::dir::CachePlace;
use crate::cache::outcome::{Last, Progress, Removed};
use crate::fetch::Meter;
use crate::names::ImageId;
use crate::units::{human, when};

/// The time after which a bar appears; shorter work needs none.
const PATIENCE: Duration = Duration::from_millis(500);

/// A bar that advances with each removal.
pub(crate) struct Bar<'a> {
    output: &'a Output,
    verb: &'static str,
    /// Bytes to remove; `None` if the bar counts entries.
    bytes: Option<u64>,
    /// Entries to process.
    entries: u64,
    /// Bytes or entries done so far.
    done: Cell<u64>,
    started: Instant,
    is_hidden: bool,
    bar: OnceCell<ProgressBar>,
}

impl<'a> Bar<'a> {
    /// Returns a bar that counts bytes, or entries if `bytes` is `None`. It appears after half a second.
    pub(crate) fn new(output: &'a Output, verb: &'static str, entries: u64, bytes: Option<u64>) -> Self {
        Bar {
            output,
            verb,
            bytes,
            entries,
            done: Cell::new(0),
            started: Instant::now(),
            is_hidden: false,
            bar: OnceCell::new(),
        }
    }

    /// Returns a bar that is never drawn, for removals beside other bars.
    pub(crate) fn hidden(output: &'a Output) -> Self {
        let mut bar = Bar::new(output, "pruning", 0, None);
        bar.is_hidden = true;
        bar
    }

    /// Returns the bar for the removals from one of several caches.
    pub(crate) fn of_cache<'b>(&'b self, cache: &'b str) -> CacheBar<'b> {
        CacheBar { bar: self, cache }
    }

    /// Reports an entry that was removed. `cache` is the name of the cache if there are several.
    fn report(&self, removed: Removed<'_>, cache: Option<&str>) {
        self.output.did(|| event(removed, cache));
        self.advance(removed);
    }

    fn advance(&self, removed: Removed<'_>) {
        let step = if self.bytes.is_some() { removed.bytes } else { 1 };
        self.show(self.done.get().saturating_add(step));
    }

    /// Draws the bar with so much done.
    pub(crate) fn show(&self, done: u64) {
        self.done.set(done);
        let shows = !self.is_hidden && self.started.elapsed() >= PATIENCE;
        let Some(width) = self.output.width_of_bars().filter(|_| shows) else {
            return;
        };
        let bar = self.bar.get_or_init(|| {
            let template = match (self.bytes, width) {
                (_, ..NARROW) => "{prefix} {percent} %",
                (Some(_), ..WIDE) => "{prefix} {wide_bar} {bytes} of {total_bytes}",
                (Some(_), _) => {
                    "{prefix} {bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left"
                }
                (None, ..WIDE) => "{prefix} {wide_bar} {pos} of {len}",
                (None, _) => "{prefix} {bar:30} {pos} of {len}, {per_sec}, {eta} left",
            };
            let length = self.bytes.unwrap_or(self.entries);
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            bar.with_style(style(template, self.output)).with_prefix(self.verb)
        });
        bar.set_position(self.done.get());
    }
}

impl Progress for Bar<'_> {
    fn removed(&self, removed: Removed<'_>) {
        self.report(removed, None);
    }
}

/// A bar for the removals from one of several caches.
pub(crate) struct CacheBar<'a> {
    bar: &'a Bar<'a>,
    cache: &'a str,
}

impl Progress for CacheBar<'_> {
    fn removed(&self, removed: Removed<'_>) {
        self.bar.report(removed, Some(self.cache));
    }
}

/// Returns the event of an entry that was removed from a cache.
fn event(removed: Removed<'_>, cache: Option<&str>) -> Event {
    let Removed { reason, bytes, .. } = removed;
    let name = removed.place.show(removed.name);
    let of_cache = cache.map(|cache| format!(" of {cache}")).unwrap_or_default();
    let is_image = removed.place == CachePlace::Base;
    let mut facts = vec![
        ("action", if removed.is_ghost { "forget" } else { "remove" }.to_owned()),
        (if is_image { "image_id" } else { "entry" }, name.clone()),
    ];
    facts.extend(cache.map(|cache| ("cache", cache.to_owned())));
    if removed.is_ghost {
        facts.push(("reason", reason.to_owned()));
        return Event { sentence: format!("forgot {name}{of_cache}: {reason}"), facts };
    }
    let row = if removed.is_orphan { ", without a row" } else { "" };
    let (last, fact) = match removed.last {
        Last::Use(time) => (format!(", last use {}", when(time)), Some(("last_use", when(time)))),
        Last::Write(time) => (format!(", last write {}", when(time)), Some(("last_write", when(time)))),
        Last::Unknown => (String::new(), None),
    };
    facts.extend([("bytes", bytes.to_string()), ("reason", format!("{reason}{row}"))]);
    facts.extend(fact);
    let sentence = format!("removed {name}{of_cache} ({}): {reason}{row}{last}", size(bytes));
    Event { sentence, facts }
}

/// Returns a size for people, and the exact one with it.
fn size(bytes: u64) -> String {
    let shown = human(bytes);
    let exact = format!("{bytes} B");
    if shown == exact { exact } else { format!("{shown}, {exact}") }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Terminals narrower than this have no space for a bar.
const NARROW: usize = 50;
/// Terminals narrower than this have no space for a rate and the time that is left.
const WIDE: usize = 100;

/// Returns the style of a template. Bars are drawn with characters that the terminal can show.
fn style(template: &str, output: &Output) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constant");
    if output.has_unicode { style } else { style.progress_chars("#-") }
}

/// A guard: while it lives, the terminal does not echo `^C`.
///
/// The echo would push the bars down a line, and the topmost bar would stay on the screen when they are
/// cleared.
struct NoEcho(Termios);

impl NoEcho {
    fn begin() -> Option<Self> {
        let was = in_foreground().then(|| tcgetattr(stderr())).and_then(Result::ok)?;
        let mut quiet = was.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(stderr(), OptionalActions::Now, &quiet).ok().map(|()| NoEcho(was))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if in_foreground() {
            // If the terminal has disappeared, there is nothing to restore.
            let _ = tcsetattr(stderr(), OptionalActions::Now, &self.0);
        }
    }
}

/// True if this process is in the foreground. The kernel stops a background process that changes the
/// terminal.
fn in_foreground() -> bool {
    tcgetpgrp(stderr()).is_ok_and(|group| group == getpgrp())
}

/// One bar for each image that is being fetched, and one for the total.
pub(crate) struct Downloads<'a> {
    output: &'a Output,
    no_echo: Option<NoEcho>,
    /// `None` if progress is not shown.
    bars: Option<(MultiProgress, ProgressBar)>,
    each: HashMap<ImageId, (ProgressBar, Arc<Meter>)>,
    /// Bytes of the images whose fetches have ended.
    done: u64,
}

impl<'a> Downloads<'a> {
    /// Starts with the bar for the total; `total` is called only if progress is shown.
    pub(crate) fn new(output: &'a Output, total: impl FnOnce() -> u64) -> Self {
        let bars = output.width_of_bars().map(|width| {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            output.bars.replace(Some(bars.clone()));
            let total = bars.add(bar(total(), width, output).with_prefix("total"));
            (bars, total)
        });
        let no_echo = bars.as_ref().and_then(|_| NoEcho::begin());
        Downloads { output, no_echo, bars, each: HashMap::new(), done: 0 }
    }

    /// Restores the terminal. To be called before anything that may end the process while there are bars.
    pub(crate) fn give_back_terminal(&mut self) {
        self.no_echo = None;
    }

    /// Adds a bar for an image.
    pub(crate) fn begin(&mut self, id: ImageId, size: u64, meter: &Arc<Meter>) {
        if let Some((bars, total)) = &self.bars {
            let width = self.output.width_of_bars().unwrap_or_default();
            // The first eight digits of an id are enough to tell images apart.
            let bar = bar(size, width, self.output).with_prefix(id.as_str()[..8].to_owned());
            let bar = bars.insert_before(total, bar);
            self.each.insert(id, (bar, Arc::clone(meter)));
        }
    }

    /// Redraws all bars from their meters.
    pub(crate) fn tick(&self) {
        let Some((_, total)) = &self.bars else { return };
        let mut sum = self.done;
        for (bar, meter) in self.each.values() {
            let moved = meter.moved.load(Ordering::Relaxed);
            bar.set_length(meter.size.load(Ordering::Relaxed).max(moved));
            bar.set_position(moved);
            sum += moved;
        }
        total.set_position(sum);
    }

    /// Removes an image's bar. An image that could not be fetched counts as done, since no more bytes will
    /// come.
    pub(crate) fn end(&mut self, id: ImageId) {
        if let Some((bar, meter)) = self.each.remove(&id) {
            self.done += meter.size.load(Ordering::Relaxed);
            bar.finish_and_clear();
        }
    }
}

/// Returns the bar of a download, on a line as wide as the terminal.
fn bar(length: u64, width: usize, output: &Output) -> ProgressBar {
    let template = match width {
        ..NARROW => "{prefix:8} {percent} %",
        NARROW..WIDE => "{prefix:8} {wide_bar} {bytes} of {total_bytes}",
        WIDE.. => "{prefix:8} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
    };
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    bar.with_style(style(template, output))
}

impl Drop for Downloads<'_> {
    fn drop(&mut self) {
        self.output.bars.replace(None);
        if let Some((bars, total)) = &self.bars {
            total.finish_and_clear();
            // If the terminal has disappeared, there is nothing to clear.
            let _ = bars.clear();
        }
    }
}
