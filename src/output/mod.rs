//! The only place that speaks.
//!
//! Results go to stdout, everything else to stderr. What quiet, verbose, a terminal and an old name mean is decided once, when
//! the [`Output`] is made; nobody asks again. Under an old name the same words go to the log sinks of oslo.log's options.

// The one module that may print.
#![allow(clippy::print_stderr)]

pub(crate) mod log;
pub(crate) mod oslo;
pub(crate) mod progress;
pub(crate) mod table;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use indicatif::MultiProgress;
use serde::Serialize;

use self::log::Log;
use crate::exit::Failure;
use crate::output::oslo::Level;

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One object for programs
    Json,
}

/// How much is said on stderr.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Verbosity {
    /// Errors alone.
    Quiet,
    Normal,
    Verbose,
}

/// A result that can be shown to people and to programs.
pub(crate) trait Report: Serialize {
    /// The same in words: lines, each ended.
    fn text(&self) -> String;
}

/// Where and how this run speaks.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    verbosity: Verbosity,
    /// Under an old name nothing goes to stdout.
    stdout_is_ours: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    log: RefCell<Option<Log>>,
    /// The logger that records are filed under, as Glance's own tools do.
    logger: &'static str,
    failed: Cell<bool>,
    /// The bars that are being drawn, if any: lines have to go above them.
    bars: RefCell<Option<MultiProgress>>,
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
        }
    }

    /// The voice of an old tool: silent on stdout, and on stderr unless something is wrong.
    pub(crate) fn legacy(logger: &'static str) -> Self {
        Output { stdout_is_ours: false, logger, ..Output::new(Format::Json, Verbosity::Normal) }
    }

    /// Sends what is said from now on to these sinks, too.
    pub(crate) fn set_log(&self, log: Log) {
        *self.log.borrow_mut() = Some(log);
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// Whether somebody is there to watch progress.
    fn shows_progress(&self) -> bool {
        self.stderr_is_terminal && self.stdout_is_ours && self.verbosity == Verbosity::Normal
    }

    /// Prints the result, and on a terminal or when verbose its words on stderr.
    pub(crate) fn summary(&self, report: &impl Report) {
        let text = report.text();
        if !self.stdout_is_ours {
            self.record(Level::Info, text.trim_end());
            return;
        }
        match self.format {
            Format::Text => self.print(&text),
            Format::Json => {
                self.json(report);
                if self.is_verbose() || (self.stderr_is_terminal && self.verbosity == Verbosity::Normal) {
                    self.say(&text);
                }
            }
        }
    }

    /// Prints the result of a command that only looks.
    pub(crate) fn result(&self, report: &impl Report) {
        match self.format {
            Format::Text => self.print(&report.text()),
            Format::Json => self.json(report),
        }
    }

    fn json(&self, report: &impl Serialize) {
        let mut line =
            serde_json::to_string(report).expect("reports have no maps with other keys than strings");
        line.push('\n');
        self.print(&line);
    }

    /// Writes to stdout. A reader that has gone away is nobody's fault; a full disk behind stdout is reported.
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

    /// Whether the result could not be told.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    pub(crate) fn error(&self, message: &str) {
        self.record(Level::Error, message);
        self.say(&format!("error: {message}\n"));
    }

    pub(crate) fn warning(&self, message: &str) {
        self.record(Level::Warning, message);
        if self.verbosity >= Verbosity::Normal {
            self.say(&format!("warning: {message}\n"));
        }
    }

    /// Says something that only who asked for more wants to know.
    pub(crate) fn note(&self, message: &str) {
        self.record(Level::Debug, message);
        if self.is_verbose() {
            self.say(&format!("{message}\n"));
        }
    }

    /// One line that an old tool was called, for people only.
    pub(crate) fn deprecation(&self, message: &str) {
        if self.stderr_is_terminal {
            self.say(&format!("{message}\n"));
        }
    }

    /// Tells that something was done to an entry, if anybody listens: there may be a million of them.
    pub(crate) fn did(&self, message: impl FnOnce() -> String) {
        if !self.is_verbose() && self.log.borrow().is_none() {
            return;
        }
        let message = message();
        self.record(Level::Info, &message);
        if self.is_verbose() {
            self.say(&format!("{message}\n"));
        }
    }

    /// Ends a run that could not be made: the error on stderr, and where a result is awaited, in its place.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.error(&format!("{:#}", failure.error));
        for hint in &failure.hints {
            self.record(Level::Error, hint);
            self.say(&format!("hint: {hint}\n"));
        }
        if self.stdout_is_ours && self.format == Format::Json && failure.exit.is_refusal() {
            self.json(&serde_json::json!({ "error": format!("{:#}", failure.error) }));
        }
    }

    /// Writes to stderr. There is nowhere to complain when that fails.
    fn say(&self, text: &str) {
        let write = || drop(stderr().lock().write_all(text.as_bytes()));
        match &*self.bars.borrow() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Hands a record to the log; a sink that fails is told of once, as the log promises.
    #[track_caller]
    fn record(&self, level: Level, message: &str) {
        let warnings = match &*self.log.borrow() {
            Some(log) => log.write(level, self.logger, message),
            None => return,
        };
        for warning in warnings {
            self.say(&format!("warning: {warning}\n"));
        }
    }
}

/// Standard input, for options that take a file.
pub(crate) fn stdin() -> impl std::io::Read {
    std::io::stdin()
}
