//! The log sinks of oslo.log: a file, syslog, the systemd journal and, for debugging, stderr.
//!
//! The old tools log where Glance's configuration says, and under their names this program does the same,
//! with the same file, line format or JSON keys, and journal fields. Under its own name, it writes the same
//! lines. [`super::audit`] decides which sinks there are.
//!
//! Promises:
//! * A sink that cannot be opened or written, or whose daemon does not run, causes one warning, which the
//!   caller gets as text to print; the run continues. A file is tried again with the next line, since
//!   removals may free space on a full disk. A socket that fails is not tried again, so that a stuck daemon
//!   costs one timeout and not one per line.
//! * A file is only appended to, and opened again once its name is another file's or nobody's, so that
//!   logrotate can rename it or cut it off while a run goes on.
//! * Each record is one line, whatever file names it contains: control characters and the like are escaped.
//! * Opening a FIFO never waits for a reader, and without a configured sink there is no system call.
//! * When root logs to a directory that others can write to, it follows no symlink in place of the log file
//!   and appends only to a regular file with a single name: the owner of `/var/log/glance` must not be able
//!   to choose which file root writes to. The directory itself may be a symlink. A log file that root creates
//!   there belongs to the directory's owner, and only its owner can write to it. Without root's rights a log
//!   file may be anything that the user can write to, `/dev/stderr` and symlinks included.
//!
//! Does not rotate files, read Python logging configurations (`log_config_append`), filter by logger
//! (`default_log_levels`), or create directories. The stderr sink takes only records below a warning, and
//! only if debug is set: `output` itself prints warnings and errors there, and a run without any prints
//! nothing.

use std::cell::RefCell;
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

use crate::output::oslo::{Encoding, Layout, Level, LogRecord, escape};

/// The longest wait for a daemon that does not read its socket.
const SOCKET_PATIENCE: Duration = Duration::from_secs(1);

/// The options of oslo.log, with its defaults: there is no sink by default.
#[derive(Clone, Debug)]
pub(super) struct LogSettings {
    /// `log_file`; relative to `log_dir` if that is set.
    pub(super) log_file: Option<PathBuf>,
    /// `log_dir`; without `log_file` the file has the program's name.
    pub(super) log_dir: Option<PathBuf>,
    /// `use_syslog`.
    pub(super) syslog: bool,
    /// `use_journal`.
    pub(super) journal: bool,
    /// `use_stderr`, which matters only if `level` is debug.
    pub(super) stderr: bool,
    /// `syslog_log_facility`, used for the journal as well.
    pub(super) facility: String,
    /// The lowest level that is logged: debug with `debug`, otherwise info.
    pub(super) level: Level,
    /// JSON with `use_json`, otherwise text.
    pub(super) encoding: Encoding,
    /// `log_date_format` in the notation of strftime.
    pub(super) date_format: String,
    /// `logging_default_format_string`.
    pub(super) format: String,
    /// `logging_debug_format_suffix`, appended to debug records.
    pub(super) debug_suffix: String,
    /// The socket of syslog.
    pub(super) syslog_socket: PathBuf,
    /// The socket of the journal.
    pub(super) journal_socket: PathBuf,
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
    /// `None` if there are no sinks.
    lines: Option<LogLines>,
}

/// The data from which lines are formatted.
#[derive(Debug)]
struct LogLines {
    layout: Layout,
    /// The time at which the log was opened, in the time zone of the log.
    opened: Zoned,
}

#[derive(Debug)]
struct Sink {
    kind: SinkKind,
    /// The sink's name in warnings.
    place: String,
    /// True once a line was lost here and the warning was returned.
    failed: AtomicBool,
}

#[derive(Debug)]
enum SinkKind {
    File(LogFile),
    Stderr,
    /// The number of the facility, and the socket.
    Syslog(u8, UnixDatagram),
    Journal(u8, UnixDatagram),
}

/// An open log file.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// True with the rights of root.
    superuser: bool,
    file: RefCell<File>,
}

impl LogFile {
    fn open(path: PathBuf, superuser: bool) -> io::Result<Self> {
        let file = RefCell::new(open_file(&path, superuser)?);
        Ok(LogFile { path, superuser, file })
    }

    /// Appends a line, to the file that has the name now.
    fn append(&self, line: &str) -> io::Result<()> {
        // A rotated file is used on only if there can be no new one.
        if self.is_renamed()
            && let Ok(file) = open_file(&self.path, self.superuser)
        {
            self.file.replace(file);
        }
        self.file.borrow_mut().write_all(format!("{line}\n").as_bytes())
    }

    /// True if the file no longer has the name by which it was opened.
    fn is_renamed(&self) -> bool {
        let named = rustix::fs::statat(rustix::fs::CWD, &self.path, AtFlags::empty());
        let open = rustix::fs::fstat(&*self.file.borrow());
        match (named, open) {
            (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) != (open.st_dev, open.st_ino),
            (Err(error), _) => error == rustix::io::Errno::NOENT,
            (Ok(_), Err(_)) => false,
        }
    }
}

impl Log {
    /// Opens the sinks of `settings` for the program of this name.
    ///
    /// Returns a warning for each sink that cannot be used; the others are used.
    pub(super) fn open(settings: &LogSettings, program: &str) -> (Log, Vec<String>) {
        let mut sinks = Vec::new();
        let mut warnings = Vec::new();
        let mut add = |place: &Path, opened: io::Result<SinkKind>| {
            let place = escape(&place.to_string_lossy()).into_owned();
            match opened {
                Ok(kind) => sinks.push(Sink { kind, place, failed: AtomicBool::new(false) }),
                Err(error) => {
                    warnings.push(format!("cannot log to {place}: {error} (continuing without this log)"));
                }
            }
        };

        if let Some(path) = settings.path(program) {
            let superuser = rustix::process::geteuid().is_root();
            add(&path, LogFile::open(path.clone(), superuser).map(SinkKind::File));
        }
        if settings.stderr && settings.level == Level::Debug {
            add(Path::new("stderr"), Ok(SinkKind::Stderr));
        }
        let facility = facility(&settings.facility);
        let number = facility.unwrap_or(USER);
        if settings.journal {
            let socket = connect(&settings.journal_socket);
            add(&settings.journal_socket, socket.map(|socket| SinkKind::Journal(number, socket)));
        }
        if settings.syslog {
            let socket = connect(&settings.syslog_socket);
            add(&settings.syslog_socket, socket.map(|socket| SinkKind::Syslog(number, socket)));
        }
        if facility.is_none() && (settings.journal || settings.syslog) {
            let name = settings.facility.escape_debug();
            warnings.push(format!(
                "syslog_log_facility = {name} is not a facility such as LOG_LOCAL0; using LOG_USER"
            ));
        }

        let lines = (!sinks.is_empty()).then(|| LogLines {
            layout: settings.layout(),
            opened: Timestamp::now().to_zoned(TimeZone::system()),
        });
        (Log { program: program.to_owned(), level: settings.level, sinks, lines }, warnings)
    }

    /// True if there is no sink.
    pub(super) fn is_idle(&self) -> bool {
        self.sinks.is_empty()
    }

    /// Writes a record to all sinks, and returns a warning for each that loses a line for the first time.
    ///
    /// The message is formatted only if there is a sink for it. Its facts are fields of the journal and keys
    /// of JSON lines.
    #[track_caller]
    #[must_use]
    pub(crate) fn write(
        &self,
        level: Level,
        logger: &str,
        message: impl Display,
        facts: &[(&'static str, String)],
    ) -> Vec<String> {
        let Some(LogLines { layout, opened }) = self.lines.as_ref().filter(|_| level >= self.level) else {
            return Vec::new();
        };
        let message = message.to_string();
        let record = LogRecord {
            level,
            logger,
            message: &escape(&message),
            // The only clock that is not passed in, because a log line shows when it was written.
            time: Timestamp::now().to_zoned(opened.time_zone().clone()),
            opened,
            place: Location::caller(),
            facts,
        };
        let line = layout.line(&record);
        self.sinks.iter().filter_map(|sink| sink.write(&self.program, &record, &line)).collect()
    }
}

impl LogSettings {
    fn layout(&self) -> Layout {
        match self.encoding {
            Encoding::Text => Layout::text(&self.date_format, &self.format, &self.debug_suffix),
            Encoding::Json => Layout::json(&self.date_format),
        }
    }

    /// Returns the path of the log file, if one is configured.
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
    fn write(&self, program: &str, record: &LogRecord<'_>, line: &str) -> Option<String> {
        let lost_before = self.failed.load(Ordering::Relaxed);
        let written = match &self.kind {
            SinkKind::File(file) => file.append(line),
            SinkKind::Stderr if record.level >= Level::Warning => Ok(()),
            SinkKind::Stderr => io::stderr().write_all(format!("{line}\n").as_bytes()),
            SinkKind::Syslog(..) | SinkKind::Journal(..) if lost_before => Ok(()),
            SinkKind::Syslog(facility, socket) => send(socket, &record.syslog(program, *facility, line)),
            SinkKind::Journal(facility, socket) => send(socket, &record.journal(program, *facility, line)),
        };
        let error = written.err()?;
        self.failed.store(true, Ordering::Relaxed);
        (!lost_before).then(|| format!("log lines are lost: cannot write to {}: {error}", self.place))
    }
}

/// Connects to a daemon's socket.
fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match socket.connect(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(io::Error::other("no daemon listens there"))
        }
        Err(error) => Err(error),
        Ok(()) => socket.set_write_timeout(Some(SOCKET_PATIENCE)).map(|()| socket),
    }
}

fn send(socket: &UnixDatagram, packet: &[u8]) -> io::Result<()> {
    loop {
        match socket.send(packet) {
            // The kernel does not restart a call with a timeout after a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}

/// Opens a log file for appending, and creates it if it is missing, with the checks that the module promises.
fn open_file(path: &Path, superuser: bool) -> io::Result<File> {
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
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
            // Root without CAP_CHOWN, as in some containers, still gets a log.
            let _ = rustix::fs::fchown(&file, Some(user), Some(group));
            Ok(file.into())
        }
        Ok(file) if is_sole_name(&rustix::fs::fstat(&file)?, &dir, name)? => Ok(file.into()),
        Ok(_) | Err(rustix::io::Errno::LOOP) => Err(io::Error::other(
            "not a regular file with a single name, in a directory that other users can write to",
        )),
        Err(error) => Err(error.into()),
    }
}

fn only_root_writes(dir: &Stat) -> bool {
    dir.st_uid == 0 && dir.st_mode & 0o022 == 0
}

/// True if the open file is a regular file that `name` still names and that has no other name.
///
/// The name is checked instead of the descriptor. Otherwise, a hard link to another user's file could be
/// removed between the two calls, and the descriptor's link count would then look right.
fn is_sole_name(open: &Stat, dir: &impl std::os::fd::AsFd, name: &OsStr) -> io::Result<bool> {
    let named = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)
        && named.st_nlink == 1
        && FileType::from_raw_mode(named.st_mode) == FileType::RegularFile)
}

/// The number of `LOG_USER`.
const USER: u8 = 1;

/// Returns the number of a facility. Like oslo.log, accepts either case, with or without `LOG_`.
fn facility(name: &str) -> Option<u8> {
    const NAMES: [&str; 12] = [
        "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP",
    ];
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("LOG_").unwrap_or(&upper);
    if let Some([digit @ b'0'..=b'7']) = name.strip_prefix("LOCAL").map(str::as_bytes) {
        return Some(16 + digit - b'0');
    }
    // Number 0 is reserved for the kernel.
    NAMES.iter().position(|known| *known == name).filter(|&number| number > 0).map(|number| number as u8)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

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
            assert_eq!(log.write(Level::Debug, "n", "d", &[]), [""; 0]);
            assert_eq!(log.write(Level::Error, "n", "a\nb", &[]), [""; 0]);
            assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_is_opened_again_after_it_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let format = "%(message)s".to_owned();
        let settings = LogSettings { log_file: Some(at("a.log")), format, ..LogSettings::default() };
        let (log, _) = Log::open(&settings, "prog");
        let write = |line: &str| assert_eq!(log.write(Level::Info, "n", line, &[]), [""; 0]);
        write("one");
        fs::rename(at("a.log"), at("a.log.1")).unwrap();
        write("two");
        // As copytruncate does.
        fs::File::create(at("a.log")).unwrap();
        write("three");
        fs::rename(at("a.log"), at("a.log.2")).unwrap();
        fs::create_dir(at("a.log")).unwrap();
        write("four");
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!((read("a.log.1").as_str(), read("a.log.2").as_str()), ("one\n", "three\nfour\n"));
    }

    #[test]
    fn without_a_configured_sink_nothing_is_opened() {
        let (log, warnings) = Log::open(&LogSettings { stderr: true, ..LogSettings::default() }, "prog");
        assert!(log.sinks.is_empty() && log.lines.is_none() && warnings.is_empty());
        assert_eq!(log.write(Level::Error, "n", "m", &[]), [""; 0]);
    }

    #[test]
    fn a_missing_directory_and_a_missing_daemon_are_warnings() {
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
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        let daemon = "no daemon listens there";
        let expected = ["a\\u{1b}.log", daemon, daemon, "= nope\\n is not a facility"];
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part), "{warning}");
        }
        assert_eq!(log.write(Level::Error, "n", "m", &[]), [""; 0]);
    }

    #[test]
    fn lost_lines_cause_one_warning() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("syslog")).unwrap();
        let (log, warnings) = Log::open(
            &LogSettings { log_file: Some("/dev/full".into()), syslog: true, ..settings(dir.path()) },
            "prog",
        );
        assert_eq!(warnings, [""; 0]);
        drop(socket);
        let lost = log.write(Level::Info, "n", "m", &[]);
        assert!(lost.len() == 2 && lost[0].contains("/dev/full"), "{lost:?}");
        assert_eq!(log.write(Level::Info, "n", "m", &[]), [""; 0]);
    }

    #[test]
    fn a_stuck_daemon_costs_one_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let _unread = UnixDatagram::bind(dir.path().join("journal")).unwrap();
        let settings = LogSettings { journal: true, ..settings(dir.path()) };
        let (log, _) = Log::open(&settings, "prog");
        let started = std::time::Instant::now();
        let warnings: Vec<_> =
            (0..10_000).flat_map(|number| log.write(Level::Info, "n", number, &[])).collect();
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
        assert_eq!(log.write(Level::Warning, "n", "disk\nfull", &[]), [""; 0]);
        let mut packet = [0; 200];
        let length = socket.recv(&mut packet).unwrap();
        let packet = str::from_utf8(&packet[..length]).unwrap();
        assert!(packet.starts_with("<156>") && packet.ends_with(" prog: disk\\nfull"), "{packet}");
    }

    #[test]
    fn journal_gets_the_fields_of_oslo() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("journal")).unwrap();
        let settings =
            LogSettings { journal: true, format: "%(message)s".to_owned(), ..settings(dir.path()) };
        let (log, _) = Log::open(&settings, "prog");
        let line = line!() + 2;
        let facts = [("action", "remove".to_owned()), ("reason", "two\nlines".to_owned())];
        assert_eq!(log.write(Level::Error, "glance", "bad\x1b", &facts), [""; 0]);
        let mut packet = [0; 1000];
        let length = socket.recv(&mut packet).unwrap();
        let expected = format!(
            "MESSAGE=bad\\u{{1b}}\nCODE_FILE={}\nCODE_LINE={line}\nCODE_FUNC=-\nTHREAD_NAME=MainThread\n\
             PROCESS_NAME=MainProcess\nLOGGER_NAME=glance\nLOGGER_LEVEL=ERROR\nSYSLOG_IDENTIFIER=prog\n\
             PRIORITY=3\nSYSLOG_FACILITY=1\nGLANCE_CACHE_ACTION=remove\nGLANCE_CACHE_REASON\n\
             \t\0\0\0\0\0\0\0two\nlines\n",
            file!()
        );
        assert_eq!(str::from_utf8(&packet[..length]).unwrap(), expected);
    }

    #[test]
    fn root_writes_to_no_file_that_others_chose() {
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
        // Only root can show that a new file gets the directory's owner.
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
}
