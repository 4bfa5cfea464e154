//! The line formats of oslo.log: text from a Python `%` format, JSON, syslog packets and journal fields.
//!
//! Promises the same lines as oslo.log's own formatters, except that a message stays on one line and that
//! fields which only Python knows (function, thread and process names) hold constants. A mistake in a format
//! never fails: the part that is not a field is printed as it is written.
//!
//! Does no I/O, except that JSON lines need the name of the host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::panic::Location;
use std::path::Path;

use jiff::Zoned;
use serde::Serialize;

/// The importance of a record.
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

    /// Returns the number of the level in Python's logging.
    fn number(self) -> u8 {
        match self {
            Level::Debug => 10,
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
        }
    }

    /// Returns the severity of the level in syslog and the journal.
    fn severity(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warning => 4,
            Level::Error => 3,
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Text,
    Json,
}

/// Returns `text` as one line without characters that control a terminal.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    // The ranges are line separators and marks that reverse the direction of text.
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

/// One message to log.
#[derive(Debug)]
pub(super) struct LogRecord<'a> {
    pub(super) level: Level,
    pub(super) logger: &'a str,
    pub(super) message: &'a str,
    pub(super) time: Zoned,
    /// The time at which the log was opened.
    pub(super) opened: &'a Zoned,
    /// The place in the source code that logged the message.
    pub(super) place: &'a Location<'a>,
    /// The facts of the message, for the journal and for JSON: names in lower case, and values, escaped.
    pub(super) facts: &'a [(&'static str, String)],
}

impl LogRecord<'_> {
    /// Returns the time in seconds since the epoch, to the microsecond as in Python's logging.
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

    /// Returns the packet that syslog(3) would send; oslo.log opens it with the program's name and no
    /// options.
    pub(super) fn syslog(&self, program: &str, facility: u8, line: &str) -> Vec<u8> {
        let priority = facility << 3 | self.level.severity();
        format!("<{priority}>{} {program}: {line}", self.time.strftime("%b %e %H:%M:%S")).into_bytes()
    }

    /// Returns oslo.log's fields in the journal's native protocol, then the facts of the message as fields
    /// whose names begin with `GLANCE_CACHE_`.
    ///
    /// The facility is the number that journald expects. oslo.log sends it shifted by three bits, which
    /// journald takes for another facility.
    pub(super) fn journal(&self, program: &str, facility: u8, line: &str) -> Vec<u8> {
        let mut packet = Vec::new();
        let names = self.facts.iter().map(|(name, _)| format!("GLANCE_CACHE_{}", name.to_ascii_uppercase()));
        let names: Vec<String> = names.collect();
        let facts = names.iter().zip(self.facts).map(|(name, (_, value))| (name.as_str(), value.as_str()));
        let of_oslo = [
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
        ];
        for (name, value) in of_oslo.into_iter().chain(facts) {
            packet.extend(name.bytes());
            // The configured format may have several lines; such a value is sent with its length.
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

/// Python's names of its only thread and process, which log pipelines rely on as constants.
const THREAD: &str = "MainThread";

const PROCESS: &str = "MainProcess";

/// The function that logged a record, which Rust cannot tell.
const FUNCTION: &str = "-";

/// The project in the records of Glance's tools.
const PROJECT: &str = "glance";

/// A line format, parsed once.
#[derive(Debug)]
pub(super) enum Layout {
    Text { date_format: String, format: Vec<Piece>, debug_format: Vec<Piece> },
    Json { date_format: String, hostname: Option<String> },
}

impl Layout {
    /// Returns lines of text; debug records get a suffix.
    pub(super) fn text(date_format: &str, format: &str, debug_suffix: &str) -> Layout {
        let blank = if debug_suffix.is_empty() { "" } else { " " };
        Layout::Text {
            date_format: date_format.to_owned(),
            format: pieces(format),
            debug_format: pieces(&format!("{format}{blank}{debug_suffix}")),
        }
    }

    /// Returns lines of JSON.
    pub(super) fn json(date_format: &str) -> Layout {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let hostname = hostname.map(|name| name.trim_end().to_owned());
        Layout::Json { date_format: date_format.to_owned(), hostname }
    }

    /// Returns a record as a line, without the newline at its end.
    pub(super) fn line(&self, record: &LogRecord<'_>) -> String {
        match self {
            Layout::Text { date_format, format, debug_format } => {
                let format = if record.level == Level::Debug { debug_format } else { format };
                format.iter().map(|piece| piece.text(record, date_format)).collect()
            }
            Layout::Json { date_format, hostname } => json(record, date_format, hostname.as_deref()),
        }
    }
}

/// Returns the local time in `format`; conversions that strftime does not know are kept as written.
fn date(time: &Zoned, format: &str) -> String {
    let lenient = jiff::fmt::strtime::Config::new().lenient(true);
    jiff::fmt::strtime::BrokenDownTime::from(time)
        .to_string_with_config(&lenient, format)
        .unwrap_or_else(|_| time.datetime().to_string())
}

/// A part of a Python `%` format.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Field(Field),
}

/// The parts of a field such as `%(key)-08.3s`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    key: String,
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

/// The largest width of a field. A larger one is a typing mistake that would cost as much memory for each
/// line.
const WIDEST: usize = 1000;

/// Splits a Python `%` format into its parts; anything that is not a field is kept as written.
fn pieces(format: &str) -> Vec<Piece> {
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

/// Parses the field at the start of `text`, and returns it with the rest.
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

/// Parses the number at the start of `text`, 0 if there is none, and returns it with the rest.
fn number(text: &str) -> (usize, &str) {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (text[..text.len() - rest.len()].parse().unwrap_or(0).min(WIDEST), rest)
}

/// A value of a field.
enum Value<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Float(f64),
}

impl Piece {
    fn text<'a>(&'a self, record: &'a LogRecord<'_>, date_format: &str) -> Cow<'a, str> {
        match self {
            Piece::Literal(text) => Cow::Borrowed(text),
            Piece::Field(field) => Cow::Owned(field.show(field.value(record, date_format))),
        }
    }
}

impl Field {
    /// Returns the record's value for this key.
    ///
    /// The value is empty for unknown keys and for the keys of an API request, because there is no request
    /// here.
    fn value<'a>(&self, record: &'a LogRecord<'_>, date_format: &str) -> Value<'a> {
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

    /// Formats a value like Python's `%` operator.
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

/// A record with the keys and types of oslo.log's `JSONFormatter`.
#[derive(Serialize)]
struct JsonLine<'a> {
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
    context: NoContext,
    extra: Extra<'a>,
}

/// The context of an API request, which is empty here.
#[derive(Serialize)]
struct NoContext {}

/// oslo.log puts here whatever a program adds to a record.
#[derive(Serialize)]
struct Extra<'a> {
    project: &'static str,
    version: &'static str,
    #[serde(flatten)]
    facts: BTreeMap<&'a str, &'a str>,
}

fn json(record: &LogRecord<'_>, date_format: &str, hostname: Option<&str>) -> String {
    let line = JsonLine {
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
        context: NoContext {},
        extra: Extra {
            project: PROJECT,
            version: env!("CARGO_PKG_VERSION"),
            facts: record.facts.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        },
    };
    serde_json::to_string(&line).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use serde_json::Value as Json;

    use super::*;

    const FORMAT: &str =
        "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(instance)s%(message)s";
    const DATE_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

    /// Returns a record of this time.
    fn record<'a>(level: Level, message: &'a str, time: &Zoned, opened: &'a Zoned) -> LogRecord<'a> {
        LogRecord {
            level,
            logger: "glance.image_cache",
            message,
            time: time.clone(),
            opened,
            place: Location::caller(),
            facts: &[],
        }
    }

    fn moment(zone: &str) -> Zoned {
        Timestamp::new(1_700_000_007, 45_678_000).unwrap().to_zoned(TimeZone::posix(zone).unwrap())
    }

    #[test]
    fn text_stays_on_its_line() {
        for (text, escaped) in [
            ("plain é 漢 \\ \"", "plain é 漢 \\ \""),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\x1b[31m\x7f\0", "\\u{1b}[31m\\u{7f}\\u{0}"),
            ("\u{9b}\u{2028}\u{202e}\u{2067}", "\\u{9b}\\u{2028}\\u{202e}\\u{2067}"),
            ("bad\u{fffd}", "bad\u{fffd}"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    #[test]
    fn formats_of_lines() {
        let time = moment("JST-9");
        for (format, line) in [
            ("", ""),
            ("%(message)s", "m"),
            ("%(levelname)-8s|%(levelname)8s|%(levelname).3s", "INFO    |    INFO|INF"),
            ("%(msecs)03d %(msecs)s %(msecs).1f %(levelno)05d", "045 45.0 45.0 00020"),
            ("%(asctime)s %(isotime)s", "2023-11-15 07:13:27 2023-11-15T07:13:27.045678+09:00"),
            ("[%(instance)s%(resource)s%(user_identity)s%(color)s]", "[]"),
            ("[%(nope)s%(nope)5d]", "[     ]"),
            ("100%% %% %(x %(message", "100% % %(x %(message"),
            ("%(message)", "%(message)"),
            ("%(message)é %", "%(message)é %"),
            ("%(project)s/%(processName)s/%(threadName)s", "glance/MainProcess/MainThread"),
            ("%(relativeCreated)d", "1000"),
        ] {
            let layout = Layout::text(DATE_FORMAT, format, "");
            let opened = &time - jiff::SignedDuration::from_secs(1);
            assert_eq!(layout.line(&record(Level::Info, "m", &time, &opened)), line, "{format}");
        }
        let wide = pieces("%(message)99999999999999999999999s %(message)5000s");
        let width: usize =
            wide.iter().map(|piece| piece.text(&record(Level::Info, "m", &time, &time), "").len()).sum();
        assert_eq!(width, 1 + 1 + WIDEST);
    }

    #[test]
    fn dates_never_fail() {
        let time = moment("UTC0");
        for (format, shown) in [("%d %b, %H:%M", "14 Nov, 22:13"), ("%! %", "%! %"), ("", "")] {
            assert_eq!(date(&time, format), shown);
        }
    }

    #[test]
    fn packets_have_the_form_that_the_daemons_expect() {
        let time = moment("UTC0") - jiff::SignedDuration::from_hours(24 * 7);
        let packet = record(Level::Info, "", &time, &time).syslog("prog", 1, "m");
        assert_eq!(packet, b"<14>Nov  7 22:13:27 prog: m");
        let packet = record(Level::Info, "", &time, &time).journal("prog", 1, "a\nb");
        assert!(packet.starts_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nCODE_FILE="));
    }

    /// A line to format: time zone, format, date format, level, encoding and message.
    type Sample = (&'static str, &'static str, &'static str, Level, Encoding, &'static str);

    fn samples() -> Vec<Sample> {
        const ODD: &str = "%(levelname)-8s|%(levelname)8s|%(levelname).3s|%(msecs)d|%(msecs)s|%(msecs).2f|\
            %(created)f|%(created)s|%(isotime)s|%(levelno)05d%%|%(process)9d|%(project)s|%(name)r|\
            %(instance)s%(resource)s%(user_identity)s%(color)s|%(error_summary)s|%(filename)s %(module)s \
            %(funcName)s %(lineno)-6dx|%(threadName)s %(processName)s|%(message)5s|%(relativeCreated)d";
        let mut samples = Vec::new();
        for zone in ["UTC0", "JST-9", "CET-1CEST,M3.5.0,M10.5.0/3", "NST3:30NDT,M3.2.0,M11.1.0"] {
            for (format, date_format) in
                [(FORMAT, DATE_FORMAT), (ODD, "%d/%b/%Y:%H:%M:%S %z %Z %j %a %p %I %y %e %%")]
            {
                for (level, encoding, message) in [
                    (Level::Debug, Encoding::Text, "debugging"),
                    (Level::Info, Encoding::Text, "removed \u{e9} 100%"),
                    (Level::Warning, Encoding::Text, "careful"),
                    (Level::Error, Encoding::Text, "failed"),
                    (Level::Info, Encoding::Json, "removed \"\u{e9}\" \\ 100%"),
                    (Level::Error, Encoding::Json, "failed"),
                ] {
                    samples.push((zone, format, date_format, level, encoding, message));
                }
            }
        }
        samples
    }

    /// Returns the lines that the real oslo.log makes of the samples.
    fn real_lines(samples: &[Sample], place: &Location<'_>) -> Vec<String> {
        let asked = |&(zone, format, date_format, level, encoding, message): &Sample| {
            serde_json::json!({
                "zone": zone, "format": format, "date_format": date_format, "message": message,
                "level": level.number(), "json": encoding == Encoding::Json,
                "time": 1_700_000_007.045_678, "name": "glance.image_cache", "path": place.file(),
                "line": place.line(), "function": FUNCTION, "process": std::process::id(),
                "since_start": 1500.0,
            })
        };
        let asked: Vec<Json> = samples.iter().map(asked).collect();
        #[expect(clippy::disallowed_methods, reason = "the test's own switch")]
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let output = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/log_lines.py"))
            .arg(serde_json::to_string(&asked).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Needs a Python with Glance, whose oslo.log formats the same records.
    #[test]
    #[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a python that has glance"]
    fn lines_are_those_of_the_real_formatters() {
        let place = Location::caller();
        let samples = samples();
        let real = real_lines(&samples, place);
        assert_eq!(samples.len(), real.len());
        for (sample, real) in samples.iter().zip(&real) {
            let &(zone, format, date_format, level, encoding, message) = sample;
            let layout = match encoding {
                Encoding::Text => Layout::text(date_format, format, "%(funcName)s %(pathname)s:%(lineno)d"),
                Encoding::Json => Layout::json(date_format),
            };
            let time = moment(zone);
            let opened = &time - jiff::SignedDuration::from_millis(1500);
            let ours = layout.line(&LogRecord { place, ..record(level, message, &time, &opened) });
            match encoding {
                Encoding::Text => assert_eq!(&ours, real, "{sample:?}"),
                Encoding::Json => assert_same_json(&ours, real),
            }
        }
    }

    /// Asserts the same keys with the same values; the thread's number and the version need only have the
    /// type.
    fn assert_same_json(ours: &str, real: &str) {
        let [ours, real] = [ours, real].map(|line| {
            let mut line: Json = serde_json::from_str(line).unwrap();
            assert!(line["thread"].take().is_u64() && line["extra"]["version"].take().is_string(), "{line}");
            line
        });
        assert_eq!(ours, real);
    }
}
