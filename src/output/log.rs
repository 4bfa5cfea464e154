//! The log sinks of oslo.log: a file, syslog, the systemd journal and, for debugging, stderr.
//!
//! The old tools log where Glance's configuration says, and so does this program: the same file, the same
//! line format or JSON keys, the same journal fields.
//!
//! Promises:
//! * A sink that cannot be opened or written is one warning, which the caller gets as text to show; the run
//!   goes on. A file is tried again with the next line, since a full disk may have room again after some
//!   removals; a socket that fails is given up, so that a stuck daemon costs one timeout, not one per line.
//! * One record is one line, whatever file names it holds: control characters and the like are escaped.
//! * Nothing waits for a FIFO's reader, and opening with no sink configured makes no system call.
//! * Root, in a log directory that others can write, follows no symlink in the place of the log file and
//!   appends only to a regular file with no other name: who owns `/var/log/glance` must not choose what root
//!   writes to. The directory itself may be a symlink. What root makes there belongs to the directory's
//!   owner. Without root's rights a log file may be anything that the user can write, `/dev/stderr` or a
//!   symlink included.
//!
//! Does not rotate or watch files (a run is short), read Python logging configurations (`log_config_append`),
//! filter by logger (`default_log_levels`), or make directories. The stderr sink takes what is below a
//! warning, and only with debug set: warnings and errors are printed there by `output` itself, and a run that
//! went well prints nothing.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::output::oslo::{Encoding, Layout, Level, Record, escape};

/// How long a line may wait for a daemon that does not read its socket.
const SOCKET_PATIENCE: Duration = Duration::from_secs(1);

/// Where and how to log; the defaults are oslo.log's, which is nowhere.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    /// `log_file`; relative to `log_dir`, if that is set.
    pub(crate) log_file: Option<PathBuf>,
    /// `log_dir`; without `log_file` the file is called after the program.
    pub(crate) log_dir: Option<PathBuf>,
    /// `use_syslog`.
    pub(crate) syslog: bool,
    /// `use_journal`.
    pub(crate) journal: bool,
    /// `use_stderr`, which only matters with `level` at debug.
    pub(crate) stderr: bool,
    /// `syslog_log_facility`, for the journal too.
    pub(crate) facility: String,
    /// Records below this are dropped: debug with `debug`, else info.
    pub(crate) level: Level,
    /// JSON with `use_json`.
    pub(crate) encoding: Encoding,
    /// `log_date_format`, as strftime takes it.
    pub(crate) date_format: String,
    /// `logging_default_format_string`.
    pub(crate) format: String,
    /// `logging_debug_format_suffix`, put behind debug records.
    pub(crate) debug_suffix: String,
    /// Where syslog listens.
    pub(crate) syslog_socket: PathBuf,
    /// Where the journal listens.
    pub(crate) journal_socket: PathBuf,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            log_file: None,
            log_dir: None,
            syslog: false,
            journal: false,
            stderr: false,
            facility: "LOG_USER".to_owned(),
            level: Level::Info,
            encoding: Encoding::Text,
            date_format: "%Y-%m-%d %H:%M:%S".to_owned(),
            format: "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(instance)s%(message)s"
                .to_owned(),
            debug_suffix: "%(funcName)s %(pathname)s:%(lineno)d".to_owned(),
            syslog_socket: PathBuf::from("/dev/log"),
            journal_socket: PathBuf::from("/run/systemd/journal/socket"),
        }
    }
}

/// The open sinks.
#[derive(Debug)]
pub(crate) struct Log {
    program: String,
    level: Level,
    sinks: Vec<Sink>,
    /// `None` when there is nothing to log to.
    lines: Option<Lines>,
}

/// What it takes to make lines.
#[derive(Debug)]
struct Lines {
    layout: Layout,
    /// When the log was opened, in the time zone to log in.
    opened: Zoned,
}

#[derive(Debug)]
struct Sink {
    kind: Kind,
    /// What it is called in warnings.
    place: String,
    /// Whether a line was lost here, and said so.
    failed: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    File(File),
    Stderr,
    /// The facility's number and the socket.
    Syslog(u8, UnixDatagram),
    Journal(u8, UnixDatagram),
}

fn is_nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

impl Log {
    /// Opens the sinks of `settings` for the program of this name.
    ///
    /// Returns a warning for each that is not available, but for a daemon that does not run; the others are used.
    pub(crate) fn open(settings: &LogSettings, program: &str) -> (Log, Vec<String>) {
        let mut sinks = Vec::new();
        let mut warnings = Vec::new();
        let mut add = |place: &Path, is_socket: bool, opened: io::Result<Kind>| {
            let place = escape(&place.to_string_lossy()).into_owned();
            match opened {
                Ok(kind) => sinks.push(Sink { kind, place, failed: AtomicBool::new(false) }),
                // A container without a log daemon: the old tools pass over it in silence.
                Err(error) if is_socket && is_nobody_there(&error) => {}
                Err(error) => warnings.push(format!("cannot log to {place}: {error}; going on without it")),
            }
        };

        if let Some(path) = settings.path(program) {
            let superuser = rustix::process::geteuid().is_root();
            add(&path, false, open_file(&path, superuser).map(Kind::File));
        }
        if settings.stderr && settings.level == Level::Debug {
            add(Path::new("stderr"), false, Ok(Kind::Stderr));
        }
        let facility = facility(&settings.facility);
        let number = facility.unwrap_or(USER);
        if settings.journal {
            let path = &settings.journal_socket;
            add(path, true, connect(path).map(|socket| Kind::Journal(number, socket)));
        }
        if settings.syslog {
            let path = &settings.syslog_socket;
            add(path, true, connect(path).map(|socket| Kind::Syslog(number, socket)));
        }
        if facility.is_none() && (settings.journal || settings.syslog) {
            let name = settings.facility.escape_debug();
            warnings.push(format!(
                "syslog_log_facility = {name} is no facility such as LOG_LOCAL0; using LOG_USER"
            ));
        }

        let lines = (!sinks.is_empty()).then(|| Lines {
            layout: Layout::new(settings),
            opened: Timestamp::now().to_zoned(TimeZone::system()),
        });
        (Log { program: program.to_owned(), level: settings.level, sinks, lines }, warnings)
    }

    /// Writes a record to all sinks, and returns a warning for each that loses a line for the first time.
    ///
    /// The message is only put together when it goes somewhere.
    #[track_caller]
    #[must_use]
    pub(crate) fn write(&self, level: Level, logger: &str, message: impl Display) -> Vec<String> {
        let Some(Lines { layout, opened }) = self.lines.as_ref().filter(|_| level >= self.level) else {
            return Vec::new();
        };
        let message = message.to_string();
        let record = Record {
            level,
            logger,
            message: &escape(&message),
            // The one clock that is not passed in: a log line tells when it was written.
            time: Timestamp::now().to_zoned(opened.time_zone().clone()),
            opened,
            place: Location::caller(),
        };
        let line = layout.line(&record);
        self.sinks.iter().filter_map(|sink| sink.write(&self.program, &record, &line)).collect()
    }
}

impl LogSettings {
    /// Returns the path of the log file, if there is to be one.
    fn path(&self, program: &str) -> Option<PathBuf> {
        let set = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        match (set(&self.log_dir), set(&self.log_file)) {
            (None, file) => file,
            (Some(dir), Some(file)) => Some(dir.join(file)),
            (Some(dir), None) => Some(dir.join(format!("{program}.log"))),
        }
    }
}

impl Sink {
    fn write(&self, program: &str, record: &Record<'_>, line: &str) -> Option<String> {
        let lost_before = self.failed.load(Ordering::Relaxed);
        let written = match &self.kind {
            Kind::File(file) => (&*file).write_all(format!("{line}\n").as_bytes()),
            Kind::Stderr if record.level >= Level::Warning => Ok(()),
            Kind::Stderr => io::stderr().write_all(format!("{line}\n").as_bytes()),
            Kind::Syslog(..) | Kind::Journal(..) if lost_before => Ok(()),
            Kind::Syslog(facility, socket) => send(socket, &record.syslog(program, *facility, line)),
            Kind::Journal(facility, socket) => send(socket, &record.journal(program, *facility, line)),
        };
        let error = written.err()?;
        self.failed.store(true, Ordering::Relaxed);
        (!lost_before).then(|| format!("log lines are lost: cannot write to {}: {error}", self.place))
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SOCKET_PATIENCE))?;
    Ok(socket)
}

fn send(socket: &UnixDatagram, packet: &[u8]) -> io::Result<()> {
    loop {
        match socket.send(packet) {
            // With a timeout set the kernel does not go on by itself after a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}

/// Opens a log file for appending and makes it if it is missing, as the module's promises say.
fn open_file(path: &Path, superuser: bool) -> io::Result<File> {
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let name = path.file_name().ok_or(rustix::io::Errno::ISDIR)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let owner = rustix::fs::fstat(&dir)?;

    if !superuser || only_root_writes(&owner) {
        return Ok(rustix::fs::openat(&dir, name, append | OFlags::CREATE, mode)?.into());
    }
    match rustix::fs::openat(&dir, name, append | OFlags::NOFOLLOW, mode) {
        Err(rustix::io::Errno::NOENT) => {
            let file = rustix::fs::openat(&dir, name, append | OFlags::CREATE | OFlags::EXCL, mode)?;
            let (user, group) =
                (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
            // A root without CAP_CHOWN, as in some containers, still gets its log.
            let _ = rustix::fs::fchown(&file, Some(user), Some(group));
            Ok(file.into())
        }
        Ok(file) if is_sole_name(&rustix::fs::fstat(&file)?, &dir, name)? => Ok(file.into()),
        Ok(_) | Err(rustix::io::Errno::LOOP) => Err(io::Error::other(
            "not a regular file with a single name, in a directory that others than root can write",
        )),
        Err(error) => Err(error.into()),
    }
}

fn only_root_writes(dir: &Stat) -> bool {
    dir.st_uid == 0 && dir.st_mode & 0o022 == 0
}

/// Whether the open file is what `name` is, a regular file, and known by no other name.
///
/// Asked of the name rather than of the descriptor: a hard link to somebody else's file that is taken away
/// between opening and asking would make the count right, but then the name is gone.
fn is_sole_name(open: &Stat, dir: &impl std::os::fd::AsFd, name: &OsStr) -> io::Result<bool> {
    let named = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)
        && named.st_nlink == 1
        && FileType::from_raw_mode(named.st_mode) == FileType::RegularFile)
}

/// The number of `LOG_USER`.
const USER: u8 = 1;

/// Returns the number of a facility; like oslo.log in any case and with or without `LOG_`.
pub(crate) fn facility(name: &str) -> Option<u8> {
    const NAMES: [&str; 12] = [
        "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP",
    ];
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("LOG_").unwrap_or(&upper);
    if let Some([digit @ b'0'..=b'7']) = name.strip_prefix("LOCAL").map(str::as_bytes) {
        return Some(16 + digit - b'0');
    }
    // Only the kernel may log as the kernel.
    NAMES.iter().position(|known| *known == name).filter(|&number| number > 0).map(|number| number as u8)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::process::Command;

    use serde_json::Value as Json;

    use super::super::oslo::{FUNCTION, WIDEST, date, pieces};
    use super::*;

    /// A record of this moment in this time zone.
    fn record<'a>(level: Level, message: &'a str, time: &Zoned, opened: &'a Zoned) -> Record<'a> {
        Record {
            level,
            logger: "glance.image_cache",
            message,
            time: time.clone(),
            opened,
            place: Location::caller(),
        }
    }

    fn moment(zone: &str) -> Zoned {
        Timestamp::new(1_700_000_007, 45_678_000).unwrap().to_zoned(TimeZone::posix(zone).unwrap())
    }

    fn settings(dir: &Path) -> LogSettings {
        LogSettings {
            syslog_socket: dir.join("syslog"),
            journal_socket: dir.join("journal"),
            ..LogSettings::default()
        }
    }

    #[test]
    fn log_file_and_directory_combine() {
        for (dir, file, path) in [
            (None, None, None),
            (None, Some("a.log"), Some("a.log")),
            (None, Some("/x/a.log"), Some("/x/a.log")),
            (Some("/var/log"), None, Some("/var/log/prog.log")),
            (Some("/var/log/"), Some("a.log"), Some("/var/log/a.log")),
            (Some("/var/log"), Some("/x/a.log"), Some("/x/a.log")),
            (Some("rel"), Some("b/a.log"), Some("rel/b/a.log")),
            (Some(""), Some(""), None),
            (Some(""), Some("a.log"), Some("a.log")),
            (Some("/var/log"), Some(""), Some("/var/log/prog.log")),
        ] {
            let settings = LogSettings {
                log_dir: dir.map(PathBuf::from),
                log_file: file.map(PathBuf::from),
                ..LogSettings::default()
            };
            assert_eq!(settings.path("prog"), path.map(PathBuf::from), "{dir:?} {file:?}");
        }
    }

    #[test]
    fn facilities_have_their_numbers() {
        for (name, number) in [
            ("LOG_USER", Some(1)),
            ("user", Some(1)),
            ("Log_Daemon", Some(3)),
            ("authpriv", Some(10)),
            ("LOG_LOCAL0", Some(16)),
            ("local7", Some(23)),
            ("local8", None),
            ("local", None),
            ("local07", None),
            ("kern", None),
            ("", None),
            ("LOG_", None),
            ("LOG_NOPE", None),
        ] {
            assert_eq!(facility(name), number, "{name}");
        }
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
            let layout = Layout::new(&LogSettings { format: format.to_owned(), ..LogSettings::default() });
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
    fn lines_go_to_the_file_from_their_level_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prog.log");
        fs::write(&file, "before\n").unwrap();
        let format = "%(levelname)s %(name)s %(message)s".to_owned();
        for (level, expected) in [
            (Level::Info, "before\nERROR n a\\nb\n"),
            (Level::Debug, "before\nERROR n a\\nb\nDEBUG n d -\nERROR n a\\nb\n"),
        ] {
            let (log, warnings) = Log::open(
                &LogSettings {
                    log_dir: Some(dir.path().to_owned()),
                    level,
                    format: format.clone(),
                    debug_suffix: "%(funcName)s".to_owned(),
                    ..LogSettings::default()
                },
                "prog",
            );
            assert_eq!(warnings, [""; 0]);
            assert_eq!(log.write(Level::Debug, "n", "d"), [""; 0]);
            assert_eq!(log.write(Level::Error, "n", "a\nb"), [""; 0]);
            assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        }
    }

    #[test]
    fn nothing_configured_is_nothing_open() {
        let (log, warnings) = Log::open(&LogSettings { stderr: true, ..LogSettings::default() }, "prog");
        assert!(log.sinks.is_empty() && log.lines.is_none() && warnings.is_empty());
        assert_eq!(log.write(Level::Error, "n", "m"), [""; 0]);
    }

    #[test]
    fn an_absent_file_is_a_warning_and_an_absent_daemon_none() {
        let dir = tempfile::tempdir().unwrap();
        let (log, warnings) = Log::open(
            &LogSettings {
                log_file: Some(dir.path().join("missing/a\x1b.log")),
                syslog: true,
                journal: true,
                facility: "nope\n".to_owned(),
                ..settings(dir.path())
            },
            "prog",
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        for (warning, part) in warnings.iter().zip(["a\\u{1b}.log", "= nope\\n is no facility"]) {
            assert!(warning.contains(part), "{warning}");
        }
        assert_eq!(log.write(Level::Error, "n", "m"), [""; 0]);
    }

    #[test]
    fn lost_lines_are_one_warning() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("syslog")).unwrap();
        let (log, warnings) = Log::open(
            &LogSettings { log_file: Some("/dev/full".into()), syslog: true, ..settings(dir.path()) },
            "prog",
        );
        assert_eq!(warnings, [""; 0]);
        drop(socket);
        let lost = log.write(Level::Info, "n", "m");
        assert!(lost.len() == 2 && lost[0].contains("/dev/full"), "{lost:?}");
        assert_eq!(log.write(Level::Info, "n", "m"), [""; 0]);
    }

    #[test]
    fn stuck_daemon_costs_one_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let _unread = UnixDatagram::bind(dir.path().join("journal")).unwrap();
        let settings = LogSettings { journal: true, ..settings(dir.path()) };
        let (log, _) = Log::open(&settings, "prog");
        let started = std::time::Instant::now();
        let warnings: Vec<_> = (0..10_000).flat_map(|number| log.write(Level::Info, "n", number)).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(started.elapsed() < SOCKET_PATIENCE * 2);
    }

    #[test]
    fn syslog_gets_what_the_c_library_sends() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("syslog")).unwrap();
        let settings = LogSettings {
            syslog: true,
            facility: "local3".to_owned(),
            format: "%(message)s".to_owned(),
            ..settings(dir.path())
        };
        let (log, _) = Log::open(&settings, "prog");
        assert_eq!(log.write(Level::Warning, "n", "disk\nfull"), [""; 0]);
        let mut packet = [0; 200];
        let length = socket.recv(&mut packet).unwrap();
        let packet = str::from_utf8(&packet[..length]).unwrap();
        assert!(packet.starts_with("<156>") && packet.ends_with(" prog: disk\\nfull"), "{packet}");

        let time = moment("UTC0") - jiff::SignedDuration::from_hours(24 * 7);
        let packet = record(Level::Info, "", &time, &time).syslog("prog", 1, "m");
        assert_eq!(packet, b"<14>Nov  7 22:13:27 prog: m");
    }

    #[test]
    fn journal_gets_the_fields_of_oslo() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("journal")).unwrap();
        let settings =
            LogSettings { journal: true, format: "%(message)s".to_owned(), ..settings(dir.path()) };
        let (log, _) = Log::open(&settings, "prog");
        let line = line!() + 1;
        assert_eq!(log.write(Level::Error, "glance", "gone\x1b"), [""; 0]);
        let mut packet = [0; 1000];
        let length = socket.recv(&mut packet).unwrap();
        let expected = format!(
            "MESSAGE=gone\\u{{1b}}\nCODE_FILE={}\nCODE_LINE={line}\nCODE_FUNC=-\nTHREAD_NAME=MainThread\n\
             PROCESS_NAME=MainProcess\nLOGGER_NAME=glance\nLOGGER_LEVEL=ERROR\nSYSLOG_IDENTIFIER=prog\nPRIORITY=3\n\
             SYSLOG_FACILITY=1\n",
            file!()
        );
        assert_eq!(str::from_utf8(&packet[..length]).unwrap(), expected);

        let time = moment("UTC0");
        let packet = record(Level::Info, "", &time, &time).journal("prog", 1, "a\nb");
        assert!(packet.starts_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nCODE_FILE="));
    }

    #[test]
    fn root_writes_to_nothing_that_others_chose() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("logs")).unwrap();
        fs::write(at("secret"), "").unwrap();
        fs::write(at("logs/plain"), "").unwrap();
        symlink(at("secret"), at("logs/symlink")).unwrap();
        symlink(at("nowhere"), at("logs/dangling")).unwrap();
        fs::hard_link(at("secret"), at("logs/hardlink")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("logs/fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        symlink(at("logs"), at("linked")).unwrap();
        // As root this also shows whom new files belong to; others only have themselves.
        let root = rustix::process::geteuid().is_root();
        for (mode, owner, refused) in
            [(0o755, if root { Some(4321) } else { None }, true), (0o777, None, true), (0o755, None, !root)]
        {
            fs::set_permissions(at("logs"), Permissions::from_mode(mode)).unwrap();
            chown(at("logs"), owner.or(root.then_some(0)), owner.or(root.then_some(0))).unwrap();
            for (name, refused) in [
                ("logs/plain", false),
                ("linked/plain", false),
                ("logs/new", false),
                ("logs/symlink", refused),
                ("logs/dangling", refused),
                ("logs/hardlink", refused),
                ("logs/fifo", true),
                ("logs", true),
                ("logs/..", true),
                ("logs/plain/x", true),
                ("missing/x", true),
            ] {
                let opened = open_file(&at(name), true);
                assert_eq!(opened.is_err(), refused, "{name} {mode:o} {opened:?}");
            }
            let (dir, file) = (fs::metadata(at("logs")).unwrap(), fs::metadata(at("logs/new")).unwrap());
            assert_eq!((dir.uid(), dir.gid()), (file.uid(), file.gid()));
            rustix::fs::unlinkat(rustix::fs::CWD, at("logs/new"), AtFlags::empty()).unwrap();
        }
        // Without root's rights the kernel's own checks are enough.
        for (name, refused) in [("logs/symlink", false), ("logs/hardlink", false), ("logs/fifo", true)] {
            assert_eq!(open_file(&at(name), false).is_err(), refused, "{name}");
        }
    }

    /// Needs a python with glance, whose oslo.log formats the same records.
    #[test]
    #[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a python that has glance"]
    fn lines_are_those_of_the_real_formatters() {
        let default = LogSettings::default();
        let odd = "%(levelname)-8s|%(levelname)8s|%(levelname).3s|%(msecs)d|%(msecs)s|%(msecs).2f|%(created)f|\
                   %(created)s|%(isotime)s|%(levelno)05d%%|%(process)9d|%(project)s|%(name)r|%(instance)s%(resource)s\
                   %(user_identity)s%(color)s|%(error_summary)s|%(filename)s %(module)s %(funcName)s %(lineno)-6dx|\
                   %(threadName)s %(processName)s|%(message)5s|%(relativeCreated)d";
        let mut cases = Vec::new();
        for zone in ["UTC0", "JST-9", "CET-1CEST,M3.5.0,M10.5.0/3", "NST3:30NDT,M3.2.0,M11.1.0"] {
            for (format, date_format) in [
                (default.format.as_str(), default.date_format.as_str()),
                (odd, "%d/%b/%Y:%H:%M:%S %z %Z %j %a %p %I %y %e %%"),
            ] {
                for (level, encoding, message) in [
                    (Level::Debug, Encoding::Text, "debugging"),
                    (Level::Info, Encoding::Text, "removed é 100%"),
                    (Level::Warning, Encoding::Text, "careful"),
                    (Level::Error, Encoding::Text, "failed"),
                    (Level::Info, Encoding::Json, "removed \"é\" \\ 100%"),
                    (Level::Error, Encoding::Json, "failed"),
                ] {
                    cases.push((zone, format, date_format, level, encoding, message));
                }
            }
        }

        let place = Location::caller();
        let ours: Vec<String> = cases
            .iter()
            .map(|&(zone, format, date_format, level, encoding, message)| {
                let (time, settings) = (
                    moment(zone),
                    LogSettings {
                        encoding,
                        date_format: date_format.to_owned(),
                        format: format.to_owned(),
                        ..LogSettings::default()
                    },
                );
                let opened = &time - jiff::SignedDuration::from_millis(1500);
                let record = Record { place, ..record(level, message, &time, &opened) };
                Layout::new(&settings).line(&record)
            })
            .collect();
        let asked: Vec<Json> = cases
            .iter()
            .map(|&(zone, format, date_format, level, encoding, message)| {
                serde_json::json!({
                    "zone": zone, "format": format, "date_format": date_format, "message": message,
                    "level": level.number(), "json": encoding == Encoding::Json, "time": 1_700_000_007.045_678,
                    "name": "glance.image_cache", "path": place.file(), "line": place.line(), "function": FUNCTION,
                    "process": std::process::id(), "since_start": 1500.0,
                })
            })
            .collect();

        #[expect(clippy::disallowed_methods, reason = "the test's own switch")]
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let output = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/log_lines.py"))
            .arg(serde_json::to_string(&asked).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let real: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ours.len(), real.len());
        for ((ours, real), case) in ours.iter().zip(&real).zip(&cases) {
            if case.4 == Encoding::Text {
                assert_eq!(ours, real, "{case:?}");
            } else {
                assert_same_json(ours, real);
            }
        }
    }

    /// Asserts the same keys with the same values; the thread's number and the version only have to be such.
    fn assert_same_json(ours: &str, real: &str) {
        let [ours, real] = [ours, real].map(|line| {
            let mut line: Json = serde_json::from_str(line).unwrap();
            assert!(line["thread"].take().is_u64() && line["extra"]["version"].take().is_string(), "{line}");
            line
        });
        assert_eq!(ours, real);
    }
}
