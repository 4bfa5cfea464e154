//! The output of the program. No other folder prints anything.
//!
//! Results are printed on stdout, everything else on stderr. The effect of quiet, verbose, a terminal, its
//! width and colours, and an old name is decided once, in [`Output`]; callers never ask for it. The same
//! messages are written to the logs that [`audit`] chooses. Errors while printing never end a run.

// Only this module may print.
#![allow(clippy::print_stderr)]

pub(crate) mod audit;
pub(crate) mod log;
pub(crate) mod oslo;
pub(crate) mod progress;
pub(crate) mod python;
pub(crate) mod rows;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod textfile;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write, stderr, stdout};

use anyhow::anyhow;
use clap::ValueEnum;
use indicatif::MultiProgress;
use serde::Serialize;
use serde_json::Value;

use self::log::Log;
use self::rows::{ListStyle, Listing, Rank};
use self::screen::{Screen, is_utf8};
use crate::exit::{Exit, Failure};
use crate::os::locks::Held;
use crate::output::oslo::{Level, escape};

/// The size of the pieces in which long results are written, in bytes.
const PIECE: usize = 64 << 10;

/// The form of a printed result. Only lists have the last three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[value(name = "table", alias = "text")]
    Text,
    /// One object for programs
    Json,
    /// An object for each entry, on a line of its own
    Jsonl,
    /// Comma-separated values
    Csv,
    /// Bare values with blanks between them, without a header
    Value,
    /// Metrics in the text format of Prometheus. Only `status` has them.
    #[value(skip)]
    Prometheus,
}

impl Format {
    /// Returns the form of the result of a change, if no option names one: text on a terminal, and otherwise
    /// the object that programs expect.
    pub(crate) fn of_changes() -> Self {
        if stdout().is_terminal() { Format::Text } else { Format::Json }
    }
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

    /// Returns the lines of the text that a log gets. Those of a table are not among them: a log has no
    /// columns, and each row is a line of its own in it already.
    fn logged(&self) -> String {
        self.text()
    }
}

/// A change to an entry, as a sentence and as facts: names in lower case, and values, escaped.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) sentence: String,
    pub(crate) facts: Vec<(&'static str, String)>,
}

/// A run that was refused, for programs.
#[derive(Serialize)]
struct RefusedRun {
    error: String,
    /// A word that programs can rely on.
    reason: &'static str,
    /// The kind of what is locked, if that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<&'static str>,
}

/// The output of this run.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    verbosity: Verbosity,
    /// False under an old name: then nothing is printed on stdout.
    stdout_is_ours: bool,
    /// Where stdout goes to.
    out: Screen,
    /// Where stderr goes to.
    err: Screen,
    /// True if the terminal shows other characters than those of ASCII.
    has_unicode: bool,
    /// True if the terminal cannot move its cursor.
    is_dumb: bool,
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
            out: Screen::of(&stdout()),
            err: Screen::of(&stderr()),
            has_unicode: false,
            is_dumb: true,
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

    /// Takes the encoding and the kind of the terminal from the environment.
    #[must_use]
    pub(crate) fn in_environment(self, environment: &BTreeMap<OsString, OsString>) -> Self {
        let variable = |name: &'static str| environment.get(OsStr::new(name)).map(OsString::as_os_str);
        let is_dumb = variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Output { has_unicode: is_utf8(variable), is_dumb, ..self }
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.out.width.is_some()
    }

    /// Returns the number of columns of the terminal that stdout is, if it is one.
    pub(crate) fn stdout_width(&self) -> Option<usize> {
        self.out.width
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

    /// Returns the width of the terminal on which progress bars are shown, or `None` if none are.
    fn width_of_bars(&self) -> Option<usize> {
        let shows = !self.is_dumb && self.stdout_is_ours && self.verbosity == Verbosity::Normal;
        self.err.width.filter(|_| shows)
    }

    /// Prints the result of a change: as text, or as JSON. In the latter case a terminal on stderr gets it as
    /// text, too, and verbose output.
    ///
    /// `plan` returns the plan of a dry run as text, or nothing for a run that changes something.
    pub(crate) fn summary(&self, report: &impl Report, plan: &dyn Fn(&Screen) -> String) {
        self.keep(report);
        let text = report.text();
        for line in report.logged().lines() {
            self.record(Level::Info, line, &[]);
        }
        if !self.stdout_is_ours {
            return;
        }
        match self.format {
            Format::Json => {
                self.json(report);
                if self.is_verbose() {
                    self.say(&(plan(&self.err) + &self.err.wrapped(&text)));
                } else if self.err.width.is_some() && self.verbosity == Verbosity::Normal {
                    // The plan is in the JSON. Here it might be thousands of lines.
                    self.say(&self.err.wrapped(&text));
                }
            }
            _ => {
                let plan = plan(&self.out);
                if self.verbosity > Verbosity::Quiet || !plan.is_empty() {
                    self.print(&self.out.emphasized(&(plan + &self.out.wrapped(&text))));
                }
            }
        }
    }

    /// Prints the result of a command that changes nothing.
    pub(crate) fn result(&self, report: &impl Report) {
        match self.format {
            Format::Json => self.json(report),
            _ => self.print(&self.out.emphasized(&report.text())),
        }
    }

    /// Prints a list in its form. Fails if it does not have a column that is asked for.
    pub(crate) fn list(&self, list: &(impl Listing + Serialize), style: &ListStyle) -> Result<(), Failure> {
        let columns = list.columns();
        let further: &[Rank] = match self.format {
            Format::Jsonl => &[Rank::Noted, Rank::Asked],
            Format::Text | Format::Prometheus => &[Rank::Noted],
            Format::Json | Format::Csv | Format::Value => &[],
        };
        let chosen = style.choose(columns, further).map_err(|unknown| {
            let has: Vec<String> = columns.iter().map(|column| column.key.replace('_', "-")).collect();
            let unknown = unknown.replace('_', "-");
            Failure::usage(anyhow!("this list has no column '{unknown}'; it has {}", has.join(", ")))
        })?;
        match self.format {
            Format::Json if !style.columns.is_empty() => {
                return Err(Failure::usage(anyhow!("--columns cannot be used with --format json"))
                    .hint("--format jsonl prints an object with these keys for each entry"));
            }
            Format::Json => self.json(list),
            Format::Text | Format::Prometheus => self.print(&rows::table(list, &chosen, style, &self.out)),
            Format::Jsonl => {
                self.write(|out| rows::json_lines(list, &chosen, !style.columns.is_empty(), out));
            }
            Format::Csv => self.write(|out| rows::csv(list, &chosen, !style.no_header, out)),
            Format::Value => self.write(|out| rows::values(list, &chosen, out)),
        }
        Ok(())
    }

    fn json(&self, report: &impl Serialize) {
        self.write(|out| {
            serde_json::to_writer(&mut *out, report)?;
            out.write_all(b"\n")
        });
    }

    /// Prints text on stdout.
    pub(crate) fn print(&self, text: &str) {
        self.write(|out| out.write_all(text.as_bytes()));
    }

    /// Writes to stdout, piece by piece. It is not an error if the reader has closed the pipe, but any other
    /// failure, such as a full disk, is reported.
    fn write(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let mut out = BufWriter::with_capacity(PIECE, stdout().lock());
        match write(&mut out).and_then(|()| out.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                // The rest is dropped, not tried again.
                let _ = out.into_parts();
                self.error(&format!("cannot write the result to standard output: {e}"));
                self.failed.set(true);
            }
            Err(_) => drop(out.into_parts()),
            Ok(()) => {}
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

    /// Says what to do about the errors before it.
    pub(crate) fn hint(&self, hint: &str) {
        self.record(Level::Error, hint, &[]);
        self.say(&format!("hint: {hint}\n"));
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
        if self.err.width.is_some() {
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
        failure.hints.iter().for_each(|hint| self.hint(hint));
        if self.stdout_is_ours && self.format == Format::Json && failure.exit.is_refusal() {
            let held = failure.error.downcast_ref::<Held>().filter(|_| failure.exit == Exit::CannotStart);
            self.json(&RefusedRun {
                error: format!("{:#}", failure.error),
                reason: match (failure.exit, held) {
                    (Exit::CannotStart, Some(_)) => "locked",
                    (Exit::CannotStart, None) => "cannot_start",
                    _ => "usage",
                },
                locked: held.map(|Held(thing, _)| thing.word()),
            });
        }
    }

    /// Reports an event of a service: to its log, or on stderr if there is none.
    pub(crate) fn event(&self, level: Level, message: &str, facts: &[(&'static str, String)]) {
        if self.log.borrow().is_some() {
            self.record(level, message, facts);
            return;
        }
        let least = if self.is_verbose() {
            Level::Debug
        } else if self.is_quiet() {
            Level::Error
        } else {
            Level::Info
        };
        if level >= least {
            self.say(&format!("{}\n", escape(message)));
        }
    }

    /// Writes to stderr. If that fails, nothing can be done about it.
    fn say(&self, text: &str) {
        let text = self.err.emphasized(text);
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
