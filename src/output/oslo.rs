//! The line formats of oslo.log.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::panic::Location;
use std::path::Path;

use jiff::Zoned;
use serde::Serialize;

use crate::output::log::LogSettings;

/// How much a record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        }
    }

    /// Returns the number Python's logging gives it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Level::Debug => 10,
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
        }
    }

    /// Returns the severity syslog and the journal give it.
    fn severity(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warning => 4,
            Level::Error => 3,
        }
    }
}

/// How a record becomes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Text,
    Json,
}

/// Returns `text` on one line, with nothing in it that a terminal acts on.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    // Line separators and the marks that make text run the other way.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// What there is to log.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) level: Level,
    pub(crate) logger: &'a str,
    pub(crate) message: &'a str,
    pub(crate) time: Zoned,
    /// When the log was opened.
    pub(crate) opened: &'a Zoned,
    pub(crate) place: &'a Location<'a>,
}

impl Record<'_> {
    /// Returns the seconds since the epoch, as Python's logging has them.
    fn created(&self) -> f64 {
        self.time.timestamp().as_microsecond() as f64 / 1e6
    }

    fn milliseconds(&self) -> f64 {
        f64::from(self.time.millisecond())
    }

    fn milliseconds_since_opened(&self) -> f64 {
        self.time.timestamp().duration_since(self.opened.timestamp()).as_secs_f64() * 1e3
    }

    /// Returns the source file's name.
    fn file_name(&self) -> &str {
        Path::new(self.place.file()).file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    fn module(&self) -> &str {
        self.file_name().trim_end_matches(".rs")
    }

    /// Returns what syslog(3) would send: oslo.log opens it with the program's name and no options.
    pub(crate) fn syslog(&self, program: &str, facility: u8, line: &str) -> Vec<u8> {
        let priority = facility << 3 | self.level.severity();
        format!("<{priority}>{} {program}: {line}", self.time.strftime("%b %e %H:%M:%S")).into_bytes()
    }

    /// Returns oslo.log's fields in the journal's native protocol.
    ///
    /// The facility is the number journald wants; oslo.log sends it shifted by three bits, which journald
    /// takes for another one.
    pub(crate) fn journal(&self, program: &str, facility: u8, line: &str) -> Vec<u8> {
        let mut packet = Vec::new();
        for (name, value) in [
            ("MESSAGE", line),
            ("CODE_FILE", self.place.file()),
            ("CODE_LINE", &self.place.line().to_string()),
            ("CODE_FUNC", FUNCTION),
            ("THREAD_NAME", THREAD),
            ("PROCESS_NAME", PROCESS),
            ("LOGGER_NAME", self.logger),
            ("LOGGER_LEVEL", self.level.name()),
            ("SYSLOG_IDENTIFIER", program),
            ("PRIORITY", &self.level.severity().to_string()),
            ("SYSLOG_FACILITY", &facility.to_string()),
        ] {
            packet.extend(name.bytes());
            // A format of several lines makes a value of several lines, which goes with its length.
            if value.contains('\n') {
                packet.push(b'\n');
                packet.extend((value.len() as u64).to_le_bytes());
            } else {
                packet.push(b'=');
            }
            packet.extend(value.bytes());
            packet.push(b'\n');
        }
        packet
    }
}

/// What Python calls its only thread and process; log pipelines have them as constants.
const THREAD: &str = "MainThread";

const PROCESS: &str = "MainProcess";

/// The function a record comes from, which only Python knows.
pub(crate) const FUNCTION: &str = "-";

/// The project that Glance's tools log as.
const PROJECT: &str = "glance";

/// How records become lines, worked out once.
#[derive(Debug)]
pub(crate) enum Layout {
    Text { date_format: String, format: Vec<Piece>, debug_format: Vec<Piece> },
    Json { date_format: String, hostname: Option<String> },
}

impl Layout {
    pub(crate) fn new(settings: &LogSettings) -> Layout {
        let date_format = settings.date_format.clone();
        match settings.encoding {
            Encoding::Text => {
                let suffix = &settings.debug_suffix;
                let blank = if suffix.is_empty() { "" } else { " " };
                Layout::Text {
                    date_format,
                    format: pieces(&settings.format),
                    debug_format: pieces(&format!("{}{blank}{suffix}", settings.format)),
                }
            }
            Encoding::Json => {
                let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
                Layout::Json { date_format, hostname: hostname.map(|name| name.trim_end().to_owned()) }
            }
        }
    }

    pub(crate) fn line(&self, record: &Record<'_>) -> String {
        match self {
            Layout::Text { date_format, format, debug_format } => {
                let format = if record.level == Level::Debug { debug_format } else { format };
                format.iter().map(|piece| piece.text(record, date_format)).collect()
            }
            Layout::Json { date_format, hostname } => json(record, date_format, hostname.as_deref()),
        }
    }
}

/// Returns the local time as `format` has it; what strftime does not know stays as it is written.
pub(crate) fn date(time: &Zoned, format: &str) -> String {
    let lenient = jiff::fmt::strtime::Config::new().lenient(true);
    jiff::fmt::strtime::BrokenDownTime::from(time)
        .to_string_with_config(&lenient, format)
        .unwrap_or_else(|_| time.datetime().to_string())
}

/// A part of a Python `%` format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(String),
    Field(Field),
}

/// `%(key)-08.3s`, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Field {
    key: String,
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

/// The widest field there is: wider is a slip of the pen, and would cost that much memory per line.
pub(crate) const WIDEST: usize = 1000;

/// Takes a Python `%` format apart; what is no field of it stays as it is written.
pub(crate) fn pieces(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        literal += &rest[..at];
        rest = &rest[at..];
        if let Some((field, after)) = field(rest) {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            pieces.push(Piece::Field(field));
            rest = after;
        } else {
            literal.push('%');
            rest = rest.strip_prefix("%%").unwrap_or(&rest[1..]);
        }
    }
    literal += rest;
    pieces.push(Piece::Literal(literal));
    pieces
}

/// Takes a field from the front of `text`, and returns what follows.
fn field(text: &str) -> Option<(Field, &str)> {
    let (key, text) = text.strip_prefix("%(")?.split_once(')')?;
    let flags = text.trim_start_matches(['-', '0', '+', ' ', '#']);
    let (left, zeros) = {
        let flags = &text[..text.len() - flags.len()];
        (flags.contains('-'), flags.contains('0'))
    };
    let (width, text) = number(flags);
    let (precision, text) = match text.strip_prefix('.') {
        Some(text) => {
            let (precision, text) = number(text);
            (Some(precision), text)
        }
        None => (None, text),
    };
    let conversion = text.chars().next().filter(char::is_ascii_alphabetic)?;
    Some((Field { key: key.to_owned(), left, zeros, width, precision, conversion }, &text[1..]))
}

/// Takes a number from the front of `text`, 0 if there is none, and returns what follows.
pub(crate) fn number(text: &str) -> (usize, &str) {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (text[..text.len() - rest.len()].parse().unwrap_or(0).min(WIDEST), rest)
}

/// A value that a field can show.
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Float(f64),
}

impl Piece {
    pub(crate) fn text<'a>(&'a self, record: &'a Record<'_>, date_format: &str) -> Cow<'a, str> {
        match self {
            Piece::Literal(text) => Cow::Borrowed(text),
            Piece::Field(field) => Cow::Owned(field.show(field.value(record, date_format))),
        }
    }
}

impl Field {
    /// Returns what a record has under this key: nothing for the keys of a request, as there is none, or
    /// unknown ones.
    fn value<'a>(&self, record: &'a Record<'_>, date_format: &str) -> Value<'a> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        match self.key.as_str() {
            "asctime" => Value::Text(date(&record.time, date_format).into()),
            "isotime" => Value::Text(date(&record.time, "%Y-%m-%dT%H:%M:%S%.6f%:z").into()),
            "created" => Value::Float(record.created()),
            "msecs" => Value::Float(record.milliseconds()),
            "relativeCreated" => Value::Float(record.milliseconds_since_opened()),
            "message" => text(record.message),
            "name" => text(record.logger),
            "levelname" => text(record.level.name()),
            "levelno" => Value::Integer(record.level.number().into()),
            "process" => Value::Integer(std::process::id().into()),
            "processName" => text(PROCESS),
            "thread" => Value::Integer(rustix::thread::gettid().as_raw_nonzero().get().into()),
            "threadName" => text(THREAD),
            "pathname" => text(record.place.file()),
            "filename" => text(record.file_name()),
            "module" => text(record.module()),
            "lineno" => Value::Integer(record.place.line().into()),
            "funcName" => text(FUNCTION),
            "error_summary" => text("-"),
            "project" => text(PROJECT),
            "version" => text(env!("CARGO_PKG_VERSION")),
            _ => text(""),
        }
    }

    /// Shows a value as Python's `%` would.
    fn show(&self, value: Value<'_>) -> String {
        let (shown, is_number) = match (self.conversion, value) {
            ('d' | 'i' | 'u', Value::Integer(number)) => (self.digits(number), true),
            ('d' | 'i' | 'u', Value::Float(number)) => (self.digits(number as i64), true),
            ('f' | 'F', Value::Integer(number)) => (self.fixed(number as f64), true),
            ('f' | 'F', Value::Float(number)) => (self.fixed(number), true),
            ('r' | 'a', Value::Text(text)) => (self.cut(&format!("'{text}'")), false),
            (_, Value::Text(text)) => (self.cut(&text), false),
            (_, Value::Integer(number)) => (self.cut(&number.to_string()), false),
            (_, Value::Float(number)) => (self.cut(&format!("{number:?}")), false),
        };
        let width = self.width;
        match (self.left, self.zeros && is_number) {
            (true, _) => format!("{shown:<width$}"),
            (false, true) => format!("{shown:0>width$}"),
            (false, false) => format!("{shown:>width$}"),
        }
    }

    fn digits(&self, number: i64) -> String {
        format!("{number:0width$}", width = self.precision.unwrap_or(0))
    }

    fn fixed(&self, number: f64) -> String {
        format!("{number:.digits$}", digits = self.precision.unwrap_or(6))
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }
}

/// Returns a record as oslo.log's `JSONFormatter` does, with its keys and types.
pub(crate) fn json(record: &Record<'_>, date_format: &str, hostname: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        message: &'a str,
        asctime: String,
        name: &'a str,
        msg: &'a str,
        args: [(); 0],
        levelname: &'a str,
        levelno: u8,
        pathname: &'a str,
        filename: &'a str,
        module: &'a str,
        lineno: u32,
        funcname: &'a str,
        created: f64,
        msecs: f64,
        relative_created: f64,
        thread: i32,
        thread_name: &'a str,
        process_name: &'a str,
        process: u32,
        traceback: Option<&'a str>,
        hostname: Option<&'a str>,
        error_summary: &'a str,
        context: Context,
        extra: Extra,
    }
    #[derive(Serialize)]
    struct Context {}
    #[derive(Serialize)]
    struct Extra {
        project: &'static str,
        version: &'static str,
    }

    let line = Line {
        message: record.message,
        asctime: date(&record.time, date_format),
        name: record.logger,
        msg: record.message,
        args: [],
        levelname: record.level.name(),
        levelno: record.level.number(),
        pathname: record.place.file(),
        filename: record.file_name(),
        module: record.module(),
        lineno: record.place.line(),
        funcname: FUNCTION,
        created: record.created(),
        msecs: record.milliseconds(),
        relative_created: record.milliseconds_since_opened(),
        thread: rustix::thread::gettid().as_raw_nonzero().get(),
        thread_name: THREAD,
        process_name: PROCESS,
        process: std::process::id(),
        traceback: None,
        hostname,
        error_summary: "",
        context: Context {},
        extra: Extra { project: PROJECT, version: env!("CARGO_PKG_VERSION") },
    };
    serde_json::to_string(&line).expect("strings and numbers are JSON")
}
