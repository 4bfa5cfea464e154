//! The output of the program. No other folder prints anything.
//!
//! Results are printed on stdout, everything else on stderr. The effect of quiet, verbose, a terminal and an
//! old name is decided once, in [`Output`]; callers never ask for it. The same messages are written to the
//! logs that [`audit`] chooses. Errors while printing never end a run.

// Only this module may print.
#![allow(clippy::print_stderr)]

pub(crate) mod audit;
pub(crate) mod log;
pub(crate) mod oslo;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod textfile;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use indicatif::MultiProgress;
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use serde_json::Value;

use self::log::Log;
use crate::exit::Failure;
use crate::output::oslo::Level;

/// The form of a printed result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One object for programs
    Json,
    /// Metrics in the text format of Prometheus, of status only
    Prometheus,
}

/// The amount of messages on stderr.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Verbosity {
    /// Only errors.
    Quiet,
    Normal,
    Verbose,
}

/// A result that can be shown as text and as JSON.
pub(crate) trait Report: Serialize {
    /// Returns the result as text, in lines that each end with a newline.
    fn text(&self) -> String;
}

/// A change to an entry, as a sentence and as facts: names in lower case, and values, escaped.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) sentence: String,
    pub(crate) facts: Vec<(&'static str, String)>,
}

/// The output of this run.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    verbosity: Verbosity,
    /// False under an old name: then nothing is printed on stdout.
    stdout_is_ours: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    log: RefCell<Option<Log>>,
    /// The name of the logger in log records, as in those of Glance's own tools.
    logger: &'static str,
    /// True once the result could not be written.
    failed: Cell<bool>,
    /// The progress bars on the terminal, if any. Messages are printed above them.
    bars: RefCell<Option<MultiProgress>>,
    /// The report of the run for `--textfile`, if it is to be kept.
    report: RefCell<Option<Value>>,
}

impl Output {
    pub(crate) fn new(format: Format, verbosity: Verbosity) -> Self {
        Output {
            format,
            verbosity,
            stdout_is_ours: true,
            stdout_is_terminal: stdout().is_terminal(),
            stderr_is_terminal: stderr().is_terminal(),
            log: RefCell::new(None),
            logger: "glance-cache",
            failed: Cell::new(false),
            bars: RefCell::new(None),
            report: RefCell::new(None),
        }
    }

    /// From now on, keeps the report of the run.
    pub(crate) fn keep_report(&self, keep: bool) {
        *self.report.borrow_mut() = keep.then_some(Value::Null);
    }

    /// Returns the report that was kept; null if there was none.
    pub(crate) fn kept_report(&self) -> Value {
        self.report.borrow().clone().unwrap_or(Value::Null)
    }

    /// Keeps this report, if one is to be kept.
    pub(crate) fn keep(&self, report: &impl Serialize) {
        if let Some(kept) = &mut *self.report.borrow_mut() {
            *kept = serde_json::to_value(report).expect("the keys of all maps in reports are strings");
        }
    }

    /// True if metrics are printed as the result.
    pub(crate) fn prints_metrics(&self) -> bool {
        self.format == Format::Prometheus
    }

    /// Returns the output of an old tool. It prints nothing on stdout, and only problems on stderr.
    pub(crate) fn legacy(logger: &'static str) -> Self {
        Output { stdout_is_ours: false, logger, ..Output::new(Format::Json, Verbosity::Normal) }
    }

    /// From now on, also writes all messages to this log. The warnings are about parts of it that cannot be
    /// used.
    pub(crate) fn set_log(&self, (log, warnings): (Log, Vec<String>)) {
        *self.log.borrow_mut() = Some(log).filter(|log| !log.is_idle());
        for warning in warnings {
            self.warning(&warning);
        }
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Returns the number of columns of the terminal that stdout is, if it is one.
    pub(crate) fn stdout_width(&self) -> Option<usize> {
        let columns = self.stdout_is_terminal.then(|| tcgetwinsize(stdout()).ok()).flatten()?.ws_col;
        (columns > 0).then_some(usize::from(columns))
    }

    /// True if results are printed as text.
    pub(crate) fn shows_text(&self) -> bool {
        self.format == Format::Text
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// True if progress bars are shown.
    fn shows_progress(&self) -> bool {
        self.stderr_is_terminal && self.stdout_is_ours && self.verbosity == Verbosity::Normal
    }

    /// Prints the result of a change. If it is printed as JSON, a terminal or verbose output also gets it as
    /// text, on stderr.
    pub(crate) fn summary(&self, report: &impl Report) {
        self.keep(report);
        let text = report.text();
        for line in text.lines() {
            self.record(Level::Info, line, &[]);
        }
        if !self.stdout_is_ours {
            return;
        }
        match self.format {
            Format::Text | Format::Prometheus => self.print(&text),
            Format::Json => {
                self.json(report);
                if self.is_verbose() || (self.stderr_is_terminal && self.verbosity == Verbosity::Normal) {
                    self.say(&text);
                }
            }
        }
    }

    /// Prints the result of a command that changes nothing.
    pub(crate) fn result(&self, report: &impl Report) {
        match self.format {
            Format::Text | Format::Prometheus => self.print(&report.text()),
            Format::Json => self.json(report),
        }
    }

    fn json(&self, report: &impl Serialize) {
        let mut line = serde_json::to_string(report).expect("the keys of all maps in reports are strings");
        line.push('\n');
        self.print(&line);
    }

    /// Writes to stdout. It is not an error if the reader has closed the pipe, but any other failure, such as
    /// a full disk, is reported.
    pub(crate) fn print(&self, text: &str) {
        let mut out = stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                self.error(&format!("cannot write the result to standard output: {e}"));
                self.failed.set(true);
            }
            _ => {}
        }
    }

    /// True if the result could not be written to stdout.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Reports an error.
    pub(crate) fn error(&self, message: &str) {
        self.record(Level::Error, message, &[]);
        self.say(&format!("error: {message}\n"));
    }

    /// Reports a warning, unless only errors are wanted.
    pub(crate) fn warning(&self, message: &str) {
        self.record(Level::Warning, message, &[]);
        if self.verbosity >= Verbosity::Normal {
            self.say(&format!("warning: {message}\n"));
        }
    }

    /// Reports a detail, if the output is verbose.
    pub(crate) fn note(&self, message: &str) {
        self.record(Level::Debug, message, &[]);
        if self.is_verbose() {
            self.say(&format!("{message}\n"));
        }
    }

    /// Reports to a person at a terminal that an old name was used.
    pub(crate) fn deprecation(&self, message: &str) {
        if self.stderr_is_terminal {
            self.say(&format!("{message}\n"));
        }
    }

    /// Reports that an entry was changed, if the output is verbose or there is a log. The event is made only
    /// then, because there may be a million entries.
    pub(crate) fn did(&self, event: impl FnOnce() -> Event) {
        if !self.is_verbose() && self.log.borrow().is_none() {
            return;
        }
        let Event { sentence, facts } = event();
        self.record(Level::Info, &sentence, &facts);
        if self.is_verbose() {
            self.say(&format!("{sentence}\n"));
        }
    }

    /// Reports the failure of a run, with its hints. If JSON is expected on stdout, the error is also printed
    /// there.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.error(&format!("{:#}", failure.error));
        for hint in &failure.hints {
            self.record(Level::Error, hint, &[]);
            self.say(&format!("hint: {hint}\n"));
        }
        if self.stdout_is_ours && self.format == Format::Json && failure.exit.is_refusal() {
            self.json(&serde_json::json!({ "error": format!("{:#}", failure.error) }));
        }
    }

    /// Writes to stderr. If that fails, nothing can be done about it.
    fn say(&self, text: &str) {
        let write = || drop(stderr().lock().write_all(text.as_bytes()));
        match &*self.bars.borrow() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Writes a record to the log. If the log cannot be written, a warning is printed once.
    #[track_caller]
    fn record(&self, level: Level, message: &str, facts: &[(&'static str, String)]) {
        let warnings = match &*self.log.borrow() {
            Some(log) => log.write(level, self.logger, message, facts),
            None => return,
        };
        for warning in warnings.iter().filter(|_| self.verbosity >= Verbosity::Normal) {
            self.say(&format!("warning: {warning}\n"));
        }
    }
}

/// Returns standard input, for options that take a file.
pub(crate) fn stdin() -> impl std::io::Read {
    std::io::stdin()
}
