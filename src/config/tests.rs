//! Tests of discovery, layering and messages, and the comparison with the real oslo.config.
//!
//! Each test lays out a directory that takes the place of `/`, with `home` in it as the home directory. The
//! dialect itself is tested in `oslo.rs`.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A file tree and a call, to be resolved by this program and by the real oslo.config.
struct Case {
    dir: TempDir,
    program: &'static str,
    /// As on the command line: `--config-file`, a path, ...
    args: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Case {
    fn new(program: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let environment =
            BTreeMap::from([("HOME".to_owned(), dir.path().join("home").display().to_string())]);
        Self { dir, program, args: Vec::new(), environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Writes one line that sets the cache's size, in `[DEFAULT]`.
    fn size(self, name: &str, size: u32) -> Self {
        self.file(name, format!("[DEFAULT]\nimage_cache_max_size = {size}\n"))
    }

    fn arg(mut self, flag: &str, name: &str) -> Self {
        let path = self.path(name).display().to_string();
        self.args.extend([flag.to_owned(), path]);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config> {
        let source = |pair: &[String]| match pair[0].as_str() {
            "--config-file" => ConfigSource::File(PathBuf::from(&pair[1])),
            _ => ConfigSource::Dir(PathBuf::from(&pair[1])),
        };
        Config::load(&ConfigSearch {
            project: &GLANCE,
            program: self.program.to_owned(),
            sources: self.args.chunks(2).map(source).collect(),
            environment: self.environment.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            root: self.dir.path().to_owned(),
            pass_over_unreadable: false,
        })
    }

    /// Returns the size and its origin, or the error, without the directory's own path.
    fn size_found(&self) -> String {
        let size = self.load().and_then(|config| config.integer(&IMAGE_CACHE_MAX_SIZE));
        let text = match size {
            Ok(size) => format!("{} {}", size.value, size.origin),
            Err(error) => format!("{error:#}"),
        };
        text.replace(&format!("{}/", self.dir.path().display()), "/")
    }
}

fn pruner() -> Case {
    Case::new("glance-cache-pruner")
}

fn tool() -> Case {
    Case::new("glance-cache")
}

/// A case with this one file.
fn only(content: impl AsRef<[u8]>) -> Case {
    pruner().file("etc/glance/glance-api.conf", content)
}

/// Returns a case in which every layer of `program` sets another size.
fn every_layer(program: &'static str) -> Case {
    Case::new(program)
        .size("usr/share/glance/glance-api-dist.conf", 1)
        .size("usr/share/glance/glance-cache-dist.conf", 2)
        .size("etc/glance/glance-api.conf", 3)
        .size("etc/glance/glance.conf", 4)
        .size("etc/glance/glance-cache.conf", 5)
        .size("etc/glance/glance.conf.d/a.conf", 6)
        .size("etc/glance/glance-cache-pruner.conf.d/a.conf", 7)
        .size("etc/glance/glance-cache-pruner.conf.d/b.conf", 8)
        .size("etc/glance/glance-api.conf.d/a.conf", 9)
        .size("etc/glance/glance-cache.conf.d/a.conf", 10)
        .size("own.conf", 11)
        .size("own.d/a.conf", 12)
}

#[test]
fn later_layers_win() {
    let all = || every_layer("glance-cache-pruner");
    let without = |case: Case, names: &[&str]| {
        for name in names {
            fs::rename(case.path(name), case.path(name).with_extension("off")).unwrap();
        }
        case
    };
    let dirs = ["etc/glance/glance.conf.d", "etc/glance/glance-cache-pruner.conf.d"];
    let files = ["etc/glance/glance-cache.conf", "etc/glance/glance.conf", "etc/glance/glance-api.conf"];
    for (case, expected) in [
        (pruner(), "10737418240 default"),
        (all(), "8 /etc/glance/glance-cache-pruner.conf.d/b.conf:2"),
        (without(all(), &dirs[1..]), "6 /etc/glance/glance.conf.d/a.conf:2"),
        (without(all(), &dirs), "5 /etc/glance/glance-cache.conf:2"),
        (without(without(all(), &dirs), &files[..1]), "4 /etc/glance/glance.conf:2"),
        (without(without(all(), &dirs), &files[..2]), "3 /etc/glance/glance-api.conf:2"),
        (without(without(all(), &dirs), &files), "2 /usr/share/glance/glance-cache-dist.conf:2"),
        (all().arg("--config-file", "own.conf"), "11 /own.conf:2"),
        (
            all().file("own.conf", "").arg("--config-file", "own.conf"),
            "8 /etc/glance/glance-cache-pruner.conf.d/b.conf:2",
        ),
        (all().arg("--config-dir", "own.d"), "12 /own.d/a.conf:2"),
        (all().file("own.d/a.conf", "").arg("--config-dir", "own.d"), "5 /etc/glance/glance-cache.conf:2"),
        (all().arg("--config-dir", "own.d").arg("--config-file", "own.conf"), "11 /own.conf:2"),
        (all().arg("--config-file", "own.conf").arg("--config-dir", "own.d"), "12 /own.d/a.conf:2"),
        (
            all()
                .file("own.conf", "")
                .arg("--config-file", "own.conf")
                .file("e.d/a.txt", "")
                .arg("--config-dir", "e.d"),
            "2 /usr/share/glance/glance-cache-dist.conf:2",
        ),
        (
            all().arg("--config-file", "own.conf").variable("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "13"),
            "13 OS_DEFAULT__IMAGE_CACHE_MAX_SIZE",
        ),
        (every_layer("glance-cache"), "10 /etc/glance/glance-cache.conf.d/a.conf:2"),
        (
            without(every_layer("glance-cache"), &["etc/glance/glance-cache.conf.d"]),
            "9 /etc/glance/glance-api.conf.d/a.conf:2",
        ),
        (every_layer("glance-cache-cleaner"), "6 /etc/glance/glance.conf.d/a.conf:2"),
    ] {
        assert_eq!(case.size_found(), expected, "{} {:?}", case.program, case.args);
    }
}

#[test]
fn first_place_wins() {
    let names = ["home/.glance", "home", "etc/glance", "etc", "snap-common/etc/glance", "snap/etc/glance"];
    for first in 0..names.len() {
        for kind in ["glance-cache.conf", "glance.conf.d/a.conf"] {
            let mut case = tool();
            for variable in ["SNAP_COMMON", "SNAP"] {
                let value = case.path(&variable.to_lowercase().replace('_', "-")).display().to_string();
                case = case.variable(variable, &value);
            }
            for name in &names[first..] {
                case = case.size(&format!("{name}/{kind}"), 7);
            }
            assert_eq!(case.size_found(), format!("7 /{}/{kind}:2", names[first]));
            let config = case.load().unwrap();
            assert_eq!(config.files_read().count(), 1);
            let missing = config.files_missing();
            assert!(!missing.is_empty() && missing.iter().all(|path| !path.exists()), "{missing:?}");
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn fails_on_unreadable_files() {
    let with_fifo = |name: &str| {
        let case = tool().size("own.d/a.conf", 1);
        fs::create_dir_all(case.path("etc/glance")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, case.path(name), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        case
    };
    let with_link = || {
        let case = tool().size("own.d/a.conf", 1);
        std::os::unix::fs::symlink("nowhere", case.path("own.d/b.conf")).unwrap();
        case
    };
    for (case, expected) in [
        (
            tool().arg("--config-file", "x"),
            "cannot read configuration file /x: No such file or directory (os error 2)",
        ),
        (
            tool().arg("--config-dir", "x"),
            "cannot read configuration directory /x: No such file or directory (os error 2)",
        ),
        (
            tool().file("x", "").arg("--config-dir", "x"),
            "cannot read configuration directory /x: Not a directory (os error 20)",
        ),
        (
            tool().file("x/y", "").arg("--config-file", "x"),
            "cannot read configuration file /x: not a regular file",
        ),
        (
            tool().file("home/glance.conf/y", ""),
            "cannot read configuration file /home/glance.conf: not a regular file",
        ),
        (
            with_fifo("etc/glance/glance.conf"),
            "cannot read configuration file /etc/glance/glance.conf: not a regular file",
        ),
        (
            with_fifo("own.d/b.conf").arg("--config-dir", "own.d"),
            "cannot read configuration file /own.d/b.conf: not a regular file",
        ),
        (
            with_link().arg("--config-dir", "own.d"),
            "cannot read configuration file /own.d/b.conf: No such file or directory (os error 2)",
        ),
        (
            only("[DEFAULT]\n\nx\n"),
            "/etc/glance/glance-api.conf:3: expected name = value, [section] or a comment",
        ),
        (Case { args: vec!["--config-file".into(), "/dev/null".into()], ..only("[") }, "10737418240 default"),
        (
            Case { args: vec!["--config-file".into(), "/dev/zero".into()], ..tool() },
            "cannot read configuration file /dev/zero: not a regular file",
        ),
        (
            Case { args: vec!["--config-file".into(), "~/x".into()], ..tool().size("home/x", 4) },
            "4 /home/x:2",
        ),
        (
            Case { args: vec!["--config-dir".into(), "~".into()], ..tool().size("home/x.conf", 4) },
            "4 /home/x.conf:2",
        ),
    ] {
        assert_eq!(case.size_found(), expected);
    }
}

#[test]
fn fails_on_files_without_permission() {
    // Root may read everything, so root runs this test as another user.
    let _nobody = crate::os::owner::Owner { uid: 65534, gid: 65534 }.act().unwrap();
    let with_mode = |case: Case, name: &str, mode: u32| {
        fs::set_permissions(case.path(name), fs::Permissions::from_mode(mode)).unwrap();
        case
    };
    let file = || tool().size("etc/glance/glance.conf", 5);
    let dir = || tool().size("etc/glance/glance.conf.d/a.conf", 6);
    let denied =
        "Permission denied (os error 13) (run as the user glance-api runs as, or give another one with";
    let place = "/etc/glance/glance.conf";
    for (case, expected) in [
        (
            with_mode(file(), &place[1..], 0),
            format!("cannot read configuration file {place}: {denied} --config-file)"),
        ),
        (
            with_mode(dir(), "etc/glance/glance.conf.d", 0o300),
            format!("cannot read configuration directory {place}.d: {denied} --config-dir)"),
        ),
        (with_mode(file(), "etc/glance", 0), "10737418240 default".to_owned()),
        (with_mode(dir(), "etc/glance", 0), "10737418240 default".to_owned()),
    ] {
        assert_eq!(case.size_found(), expected);
        // Otherwise the temporary directory could not be removed.
        for name in ["etc/glance", "etc/glance/glance.conf.d"] {
            let _ = fs::set_permissions(case.path(name), fs::Permissions::from_mode(0o700));
        }
    }
}

#[test]
fn names_the_place_of_a_bad_value() {
    let size = |text: &str| only(format!("[DEFAULT]\nimage_cache_max_size = {text}\n"));
    let place = "/etc/glance/glance-api.conf:2: image_cache_max_size is";
    for (case, expected) in [
        (size("10G"), format!("{place} \"10G\", but must be a whole number of 0 or more, without a unit")),
        (size("-1"), format!("{place} \"-1\", but must be a whole number of 0 or more, without a unit")),
        (size(""), format!("{place} \"\", but must be a whole number of 0 or more, without a unit")),
        (
            size("a\x1b[2J"),
            format!("{place} \"a\\u{{1b}}[2J\", but must be a whole number of 0 or more, without a unit"),
        ),
        (
            size("$nope"),
            format!(
                "{place} \"$nope\", but $nope is not an option of this tool (write $$ for a dollar sign)"
            ),
        ),
        (size("$image_cache_max_size"), format!("{place} \"$image_cache_max_size\", but")),
        (
            tool().variable("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "'7'"),
            "OS_DEFAULT__IMAGE_CACHE_MAX_SIZE: image_cache_max_size is \"'7'\", but must be".to_owned(),
        ),
    ] {
        let found = case.size_found();
        assert!(found.starts_with(&expected), "{found}\n{expected}");
        assert_eq!(case.load().unwrap().problems().len(), 1);
        assert_eq!(case.load().unwrap().integer(&IMAGE_CACHE_STALL_TIME).unwrap().value, 86400);
    }
}

#[test]
fn never_shows_a_secret() {
    for secret in
        ["mysql://u:pa$word@h/db", "mysql://u:${pa.word}@h/db", "mysql://u:pa$image_cache_stall_time@h/db"]
    {
        let text = format!("[DEFAULT]\nimage_cache_stall_time = word\n[database]\nconnection = {secret}\n");
        let config = only(text).load().unwrap();
        let error = format!("{:#}", config.optional(&DATABASE_CONNECTION).unwrap_err());
        assert!(error.ends_with(
            "/glance-api.conf:4: [database] connection has an invalid value (not shown, because it is secret)"
        ));
        assert!(
            config.problems().iter().all(|problem| !problem.contains("mysql")),
            "{:?}",
            config.problems()
        );
    }
    let error = format!("{:#}", only("[database]\nconnection mysql\n").load().unwrap_err());
    assert!(!error.contains("mysql"), "{error}");
}

#[test]
fn collects_options_given_several_times() {
    let case =
        only("[glance_store]\nfilesystem_store_datadirs = /a:1\nfilesystem_store_datadirs = /b\n[x]\n");
    let case = case.file("etc/glance/glance-cache.conf", "[glance_store]\nfilesystem_store_datadirs = /c\n");
    let every = |config: &Config, opt: &Opt| -> Vec<String> {
        config.every(opt).unwrap().into_iter().map(|setting| setting.value).collect()
    };
    let config = case.load().unwrap();
    assert_eq!(every(&config, &FILESYSTEM_STORE_DATADIRS), ["/a:1", "/b", "/c"]);
    assert_eq!(
        config.every(&FILESYSTEM_STORE_DATADIRS).unwrap()[2].origin.to_string(),
        format!("{}:2", case.path("etc/glance/glance-cache.conf").display())
    );
    assert_eq!(every(&config, &Opt { group: "x", ..FILESYSTEM_STORE_DATADIRS }), [""; 0]);
    let case = case.variable("OS_GLANCE_STORE__FILESYSTEM_STORE_DATADIRS", "/d");
    assert_eq!(every(&case.load().unwrap(), &FILESYSTEM_STORE_DATADIRS), ["/d"]);
}

#[test]
fn reads_typed_values_of_any_section() {
    let config = only(
        "[DEFAULT]\nimage_cache_driver = XAttr\nenabled_backends = a:file, b:rbd\nlogfile = x.log\nlog_dir=\n\
         [Ceph]\nrbd_store_pool = p-$image_cache_sqlite_db\nhosts = x,y\n[database]\n[ceph]\n",
    );
    let config = config.load().unwrap();
    assert_eq!(config.choice(&IMAGE_CACHE_DRIVER).unwrap().value, "xattr");
    let stores = config.dictionary(&ENABLED_BACKENDS).unwrap().value;
    assert_eq!(stores, [("a".into(), "file".into()), ("b".into(), "rbd".into())]);
    assert_eq!(config.list(&STORES).unwrap().value, ["file", "http"]);
    assert_eq!(config.list(&Opt::new("ceph", "hosts", ValueKind::List)).unwrap().value, ["x", "y"]);
    assert!(config.is_set(&ENABLED_BACKENDS) && !config.is_set(&STORES));
    assert_eq!(config.optional(&LOG_FILE).unwrap().unwrap().value, "x.log");
    assert_eq!(config.optional(&LOG_DIR).unwrap(), None);
    assert_eq!(config.optional(&DATABASE_CONNECTION).unwrap(), None);
    assert_eq!(config.text(&SYSLOG_LOG_FACILITY).unwrap().map(|name| name.len()).value, 8);
    assert!(config.boolean(&USE_STDERR).unwrap().value);
    assert_eq!(config.sections(), ["DEFAULT", "Ceph", "database"]);
    let pool = Opt::new("ceph", "rbd_store_pool", ValueKind::Text).or("images");
    assert_eq!(config.text(&pool).unwrap().value, "p-cache.db");
    assert_eq!(config.text(&Opt { group: "other", ..pool }).unwrap().value, "images");
    let unset = config.text(&Opt::new("ceph", "x", ValueKind::Text)).unwrap_err();
    assert_eq!(unset.to_string(), "[ceph] x is not set");
}

/// Files with every detail of the dialect that the real oslo.config should be asked about.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "", "\n\n", "#", "[DEFAULT]", "\u{feff}[DEFAULT]\ndebug=1", "\u{feff}", "\u{feff}# x = 1\n", "k", "k=v",
    "=", "[", "[]", "[ ]\nx=1", "[DEFAULT]\nk", "[DEFAULT\n", "[DEFAULT] ;\n", " [DEFAULT]\n",
    "[DEFAULT]\n debug=1", "[DEFAULT]\n\tdebug=1", "[default]\ndebug=1", "[Default]\ndebug=1",
    "[ DEFAULT ]\ndebug=1", "[DEFAULT]]\ndebug=1", "[DEFAULT]\ndebug=1\n[default]\ndebug=0",
    "[DATABASE]\nconnection=x",
    "[Database]\nconnection=1\n[database]\nconnection=2\n[DATABASE]\nconnection=3\n",
    "[database]\nconnection=2\n[DATABASE]\nmax_retries=3\n", "[OSLO_CONCURRENCY]\nlock_path=/x",
    "[oslo_concurrency]\nlock_path=/x", "[DEFAULT]\nDebug=1", "[DEFAULT]\nuse-syslog=1",
    "[DEFAULT]\nlog-file=1", "[DEFAULT]\nlogfile=1", "[DEFAULT]\nlogdir=1", "[DEFAULT]\nlog-config=1",
    "[DEFAULT]\nlog_config=1", "[DEFAULT]\nlog-config=1\nlog_config=2",
    "[DEFAULT]\nlog_config=1\nlog-config=2", "[DEFAULT]\nlog_file=1\nlogfile=2",
    "[DEFAULT]\nlogfile=2\nlog_file=1", "[DEFAULT]\nlog_file=\nlogfile=2",
    "[DEFAULT]\nimage_cache_dir=a\nimage_cache_dir=b",
    "[DEFAULT]\nimage_cache_dir=a\n[x]\n[DEFAULT]\nimage_cache_dir=b",
    "[DEFAULT]\nimage_cache_dir=a\n[DEFAULT]\n", "[DEFAULT]\nimage_cache_dir=a\nimage_cache_dir=",
    "[DEFAULT]\nimage_cache_dir=a\n  b\n\n", "[DEFAULT]\nimage_cache_dir=a\n  b\n# c\n",
    "[DEFAULT]\nimage_cache_dir=a\n# c\n  b\n", "[DEFAULT]\nimage_cache_dir=a\n\n  b\n",
    "[DEFAULT]\nimage_cache_dir=a\n  # b\n", "[DEFAULT]\nimage_cache_dir=\n  b\n",
    "[DEFAULT]\nimage_cache_dir=a\r\n  b\r\n", "[DEFAULT]\rimage_cache_dir=a\rdebug=1",
    "[DEFAULT]\nimage_cache_dir=a\n \u{a0} b\n", "[DEFAULT]\nimage_cache_dir=a\n\u{a0}b=1\n",
    "[DEFAULT]\n\u{b}image_cache_dir=a\n", "[DEFAULT]\n\u{1c}image_cache_dir\u{1f}=\u{1d}a\u{1e}\n",
    "[DEFAULT]\nimage_cache_dir=a\u{b}b\u{c}\n", "[DEFAULT]\nimage_cache_dir=a\u{85}b\u{2028}c\u{2029}d\n",
    "[DEFAULT]\nimage_cache_dir=a\0b\n", "[DEFAULT]\nimage_cache_dir=caf\u{e9}\n",
    "[DEFAULT]\nimage_cache_dir : a", "[DEFAULT]\nimage_cache_dir = a:b=c",
    "[DEFAULT]\nimage_cache_dir : a=b:c", "[DEFAULT]\nimage_cache_dir == a",
    "[DEFAULT]\nimage_cache_dir := a", "[DEFAULT]\n: a", "[DEFAULT]\n\u{a0}= a",
    "[DEFAULT]\nimage_cache_dir = \"a\"", "[DEFAULT]\nimage_cache_dir = 'a'",
    "[DEFAULT]\nimage_cache_dir = \"a'", "[DEFAULT]\nimage_cache_dir = \"", "[DEFAULT]\nimage_cache_dir = '",
    "[DEFAULT]\nimage_cache_dir = ''", "[DEFAULT]\nimage_cache_dir = '\"a\"'",
    "[DEFAULT]\nimage_cache_dir = ' a '", "[DEFAULT]\nimage_cache_dir = \"a\" \"b\"",
    "[DEFAULT]\nimage_cache_dir = \"a\n b\"", "[DEFAULT]\nimage_cache_dir = \"a\"\n \"b\"",
    "[DEFAULT]\nimage_cache_dir = a ; b # c",
];

/// Values that are each tried for a text, a number, a boolean, a choice and a secret.
#[rustfmt::skip]
const VALUES: &[&str] = &[
    "", "0", "1", "7", "-1", "+5", "-0", "00012", "1_000", "1__0", "_1", "1_", "10G", "10GB", "1.5", "1e3",
    "0x10", "7 # c", "0b1", "0o7", "\u{663}\u{664}", "1_\u{ff15}", "\u{b2}", "\u{1d7d8}", "\u{a0}7\u{2003}",
    "\"7\"", "'7'", "\" 7 \"", "\"\u{1c}7\"", "\"\u{85}7\"", "\" \"", "\"\u{a0}\"", "\"+ 7\"", "--7",
    "9223372036854775807", "9223372036854775808", "99999999999999999999999999", "-9223372036854775809", "inf",
    "None", "true", "TRUE", "Yes", "on", "oFF", "\"true \"", "t", "01", "sqlite", "SQLite", "XATTR",
    "centralized_DB", "sqlite,xattr", "\"sqlite \"", "a, b", "a:b,c:d,", "$image_cache_stall_time",
    "${image_cache_stall_time}", "${image_cache_stall_time}0", "$image_cache_sqlite_db/x",
    "$image_cache_sqlite_db.x", "$image_cache_sqlite_db.", "$state_path", "$HOME", "$nope/x", "${nope}",
    "$$x", "$$$$", "\\$x", "\\$$image_cache_sqlite_db", "$$$image_cache_sqlite_db", "\\\\$x", "$", "a$", "${",
    "${}", "${image_cache_sqlite_db", "$5", "$ x", "$-x", "$\u{e9}", "${ image_cache_sqlite_db }",
    "$database.max_retries", "${database.max_retries}", "$database.nope", "$database",
    "$Database.max_retries", "$DEFAULT.debug", "$nope.nope", "$database.connection",
    "$oslo_concurrency.lock_path", "$debug", "$use_stderr$use_json", "$image_cache_dir",
    "$image_cache_max_size", "$image_cache_driver", "$log_file", "$log_config_append", "$max_retries",
    "$Image_Cache_Dir", "$image_cache_sqlite_db-$syslog_log_facility", "%(image_cache_dir)s", "~/x", "./x",
    "/var/lib/glance/image-cache/", "mysql+pymysql://glance:p%40ss@db/glance?charset=utf8",
];

#[rustfmt::skip]
const SECTIONS: &[&str] = &[
    "[DEFAULT]", "[DEFAULT]", "[DEFAULT]", "[database]", "[DATABASE]", "[oslo_concurrency]", "[default]",
    "[glance_store]",
];

/// Lines that break a file, or look as if they did.
#[rustfmt::skip]
const ODD_LINES: &[&str] = &[
    "novalue", "[bad", " indented", "\t# indented", "", "# c", "; c", "#c\n x", "=x", "[]", "\u{feff}",
    "x = \n  y", "\r",
];

/// Pieces of values that the dialect treats specially.
#[rustfmt::skip]
const SIGNS: &[&str] = &[
    "$", "$$", "\\$", "\\", "{", "}", "${", "\"", "'", "_", "+", "-", ":", "=", ",", "#", ";", "%",
];

const BLANKS: &[&str] = &[" ", "\t", "\u{a0}", "\u{1c}", "\u{85}", "\u{3000}", "\u{b}", "\0", "é", "٣"];

/// A generator of numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Returns a value, which the option usually accepts.
    fn value(&mut self, opt: &Opt) -> String {
        if self.chance(4) {
            return self.pick(VALUES).to_owned();
        }
        match opt.kind {
            ValueKind::Text | ValueKind::List | ValueKind::Dictionary => format!("v{}", self.below(1000)),
            ValueKind::Integer { .. } => self.below(1000).to_string(),
            ValueKind::Boolean => self.pick(&["true", "False", "1", "off"]).to_owned(),
            ValueKind::Choice(choices) => self.pick(choices).to_owned(),
        }
    }

    fn content(&mut self) -> String {
        let mut text = String::from("[DEFAULT]\n");
        for _ in 0..self.below(12) {
            if self.chance(6) {
                text += self.pick(SECTIONS);
            } else if self.chance(60) {
                text += self.pick(ODD_LINES);
            } else {
                let opt = self.pick(KNOWN);
                let name =
                    if self.chance(5) { *opt.older_names.first().unwrap_or(&opt.name) } else { opt.name };
                text += name;
                text += self.pick(&["=", " = ", ":", " : "]);
                text += &self.value(&opt);
            }
            text += self.pick(&["\n", "\n", "\n", "\r\n", " \n"]);
        }
        text
    }

    fn case(&mut self) -> Case {
        let program = self.pick(&[
            "glance-cache-pruner",
            "glance-cache-cleaner",
            "glance-cache-prefetcher",
            "glance-cache",
        ]);
        let mut case = Case::new(program);
        for (variable, place) in [("SNAP", "snap"), ("SNAP_COMMON", "common")] {
            if self.chance(2) {
                let path = case.path(place).display().to_string();
                case = case.variable(variable, &path);
            }
        }
        let own = format!("{program}.conf.d/x.conf");
        for place in ["home/.glance", "home", "etc/glance", "etc", "snap/etc/glance", "common/etc/glance"] {
            for name in [
                "glance.conf",
                "glance-api.conf",
                "glance-cache.conf",
                "glance.conf.d/a.conf",
                "glance.conf.d/B.conf",
                "glance.conf.d/.hidden.conf",
                "glance.conf.d/c.txt",
                "glance-cache-pruner.conf.d/a.conf",
                &own,
            ] {
                if self.chance(9) {
                    case = case.file(&format!("{place}/{name}"), self.content());
                }
            }
        }
        for name in
            ["one.conf", "two.conf", "one.d/b.conf", "one.d/\u{e9}.conf", "two.d/c.conf", "two.d/c.conf.off"]
        {
            case = case.file(name, self.content());
        }
        for _ in 0..self.below(4) {
            case = match self.below(9) {
                0..=3 => case.arg("--config-file", self.pick(&["one.conf", "two.conf"])),
                4..=7 => case.arg("--config-dir", self.pick(&["one.d", "two.d"])),
                _ => case.arg(self.pick(&["--config-file", "--config-dir"]), "missing"),
            };
        }
        for _ in 0..self.below(3) {
            let opt = self.pick(KNOWN);
            let name =
                format!("OS_{}__{}", opt.group, self.pick(&[opt.name, opt.name, "logfile"])).to_uppercase();
            let value = self.value(&opt).replace('\0', "");
            case = case.variable(&name, &value);
        }
        case
    }
}

/// The options that the real tool reads when it starts: those that oslo.log accepts as flags, and
/// `config_source`.
const READ_AT_START: &[Opt] = &[
    CONFIG_SOURCE,
    DEBUG,
    LOG_CONFIG_APPEND,
    LOG_DATE_FORMAT,
    LOG_FILE,
    LOG_DIR,
    USE_SYSLOG,
    USE_JOURNAL,
    SYSLOG_LOG_FACILITY,
    USE_JSON,
];

/// True if one of those has an invalid value, in a file even where a variable overrides it.
fn stops_the_start(case: &Case) -> bool {
    let mut config = case.load().unwrap();
    let bad = |config: &Config| READ_AT_START.iter().any(|opt| config.shown(opt, 0).is_err());
    bad(&config) || {
        config.environment.clear();
        bad(&config)
    }
}

fn all_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = TEXTS.iter().map(only).collect();
    cases.push(only(b"[DEFAULT]\nimage_cache_dir = caf\xe9\n"));
    for value in VALUES {
        let text = format!(
            "[DEFAULT]\nimage_cache_dir = {value}\nimage_cache_max_size = {value}\nuse_stderr = {value}\n\
             image_cache_driver = {value}\nlog_file = {value}\n\
             [database]\nconnection = {value}\nmax_retries = {value}\n"
        );
        cases.push(only(text));
        let mut case = pruner();
        for option in
            ["IMAGE_CACHE_DIR", "IMAGE_CACHE_STALL_TIME", "USE_STDERR", "IMAGE_CACHE_DRIVER", "LOGFILE"]
        {
            case = case.variable(&format!("OS_DEFAULT__{option}"), value);
        }
        cases.push(
            case.variable("OS_DATABASE__CONNECTION", value).variable("OS_DATABASE__MAX_RETRIES", value),
        );
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    cases.extend((0..600).map(|_| dice.case()));
    cases
}

/// Returns the differences between our answer and the real one, except for those that are intended.
fn differences(case: &Case, ours: &Result<Config>, theirs: &Value) -> Vec<String> {
    let config = match (ours, theirs["error"].as_str()) {
        (Err(_), Some(_)) => return Vec::new(),
        (Err(error), None) => return vec![format!("only we refuse: {error:#}")],
        // This program judges these, like all others, only when they are asked for.
        (Ok(_), Some(_)) if stops_the_start(case) => return Vec::new(),
        (Ok(_), Some(error)) => return vec![format!("only oslo.config refuses: {error}")],
        (Ok(config), None) => config,
    };
    let values = theirs["values"].as_array().unwrap();
    let is_number = |opt: &Opt| matches!(opt.kind, ValueKind::Integer { .. });
    let empty_number =
        KNOWN.iter().zip(values).any(|(opt, theirs)| is_number(opt) && theirs["value"].is_null());
    let mut found = Vec::new();
    for (opt, theirs) in KNOWN.iter().zip(values) {
        let ours = config.shown(opt, 0);
        let same = match (&ours, theirs["value"].as_str()) {
            // These have several values, and only the S3 client judges the last.
            _ if ["filesystem_store_datadirs", "policy_dirs", "s3_store_bucket_url_format"]
                .contains(&opt.name) =>
            {
                true
            }
            // Our default differs: TLS goes unverified only if the option is set.
            (Ok(Some(ours)), Some(theirs)) if opt.name == "https_insecure" && !config.is_set(opt) => {
                ours != theirs
            }
            _ if theirs["unknown"] == true || matches!(opt.kind, ValueKind::List | ValueKind::Dictionary) => {
                true
            }
            (Err(_), None) if theirs["error"].is_string() => true,
            // Python accepts an empty number and fails later; for us it is an error, also when referred to.
            (Err(error), _) if empty_number => error.to_string().contains("whole number"),
            (Ok(None), None) => theirs["error"].is_null(),
            // Python's numbers have no bounds.
            (Ok(Some(ours)), Some(theirs)) if is_number(opt) => {
                theirs.parse::<i128>().unwrap().clamp(i64::MIN.into(), i64::MAX.into()).to_string() == *ours
            }
            (Ok(Some(ours)), Some(theirs)) => ours == theirs,
            _ => false,
        };
        if !same {
            found.push(format!("{}: {ours:?}, oslo.config {theirs}", opt.name));
        }
    }
    found
}

/// The real oslo.config, in the Python named by `GLANCE_CACHE_TEST_PYTHON`.
struct Peer {
    python: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    both_refuse: usize,
}

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    fn start() -> Self {
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let mut python = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/resolved_options.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let questions = python.stdin.take().unwrap();
        let answers = BufReader::new(python.stdout.take().unwrap()).lines();
        Peer { python, questions, answers, both_refuse: 0 }
    }

    /// Returns the options that this oslo.config knows as well and that a value may refer to.
    ///
    /// Options with several values are left out, because Python's notation of lists and dictionaries is not
    /// ours, and so is one whose default differs on purpose.
    fn registered(&mut self) -> Vec<&'static str> {
        let theirs = self.ask(&only(""));
        let known = KNOWN.iter().zip(theirs["values"].as_array().unwrap());
        let registered = known.filter(|(opt, value)| {
            value["unknown"] != true
                && !matches!(opt.kind, ValueKind::List | ValueKind::Dictionary)
                && !["filesystem_store_datadirs", "policy_dirs", "https_insecure"].contains(&opt.name)
        });
        registered.map(|(opt, _)| opt.name).collect()
    }

    fn ask(&mut self, case: &Case) -> Value {
        let options: Vec<_> = KNOWN.iter().map(|opt| json!([opt.group, opt.name])).collect();
        let question = json!({
            "root": case.dir.path(), "program": case.program, "args": case.args, "env": case.environment,
            "options": options,
        });
        writeln!(self.questions, "{question}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }

    /// Returns the differences between both answers to a case.
    fn differences(&mut self, case: &Case) -> Vec<String> {
        let theirs = self.ask(case);
        let ours = case.load();
        self.both_refuse += usize::from(ours.is_err());
        differences(case, &ours, &theirs)
    }

    /// Ends the peer and prints the numbers.
    fn end(mut self, cases: usize, different: usize) {
        drop(self.questions);
        self.python.wait().unwrap();
        println!("{cases} cases, {} refused as a whole by both, {different} different", self.both_refuse);
    }
}

/// Every case means the same to this program and to the real oslo.config, or both reject it.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
fn agrees_with_the_real_oslo_config() {
    let cases = all_cases();
    let mut peer = Peer::start();
    let mut different = 0;
    for case in &cases {
        let found = peer.differences(case);
        if !found.is_empty() {
            different += 1;
            let files = Command::new("grep").args(["-r", ""]).arg(case.dir.path()).output().unwrap().stdout;
            println!(
                "{} {:?} {:?}\n{}",
                case.program,
                case.args,
                case.environment,
                String::from_utf8_lossy(&files)
            );
            println!("=> {}\n", found.join("\n=> "));
        }
    }
    peer.end(cases.len(), different);
    assert_eq!(different, 0);
}

/// Generates a value from parts that have a meaning in values; it refers to these options.
fn any_value(names: &[&'static str]) -> impl Strategy<Value = String> {
    let names = || prop::sample::select(names.to_vec());
    let reference = prop_oneof![
        names().prop_map(|name| format!("${name}")),
        names().prop_map(|name| format!("${{{name}}}")),
        names().prop_map(|name| format!("$database.{name}")),
        names().prop_map(|name| format!("${{oslo_concurrency.{name}}}")),
    ];
    let piece = prop_oneof![
        3 => "[0-9]{1,3}",
        3 => "[a-z/._-]{1,6}",
        2 => reference,
        2 => prop::sample::select(SIGNS).prop_map(str::to_owned),
        1 => prop::sample::select(BLANKS).prop_map(str::to_owned),
        1 => prop::sample::select(VALUES).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// Generates a file from lines that have a meaning in files.
fn any_file(names: &[&'static str]) -> impl Strategy<Value = String> {
    let option = (
        0..KNOWN.len(),
        any_value(names),
        prop::sample::select(vec!["=", " = ", ":", " : ", "", "\t="]),
        0..8,
    )
        .prop_map(|(n, value, sign, older)| {
            let opt = KNOWN[n];
            let name = if older == 0 { opt.older_names.first().unwrap_or(&opt.name) } else { &opt.name };
            format!("{name}{sign}{value}")
        });
    let grouped = (0..KNOWN.len(), any_value(names))
        .prop_map(|(n, value)| format!("[{}]\n{} = {value}", KNOWN[n].group, KNOWN[n].name));
    let line = prop_oneof![
        12 => option,
        6 => grouped,
        2 => any_value(names).prop_map(|value| format!("  {value}")),
        2 => prop::sample::select(SECTIONS).prop_map(str::to_owned),
        1 => any_value(names).prop_map(|value| format!("# {value}")),
        1 => prop::sample::select(ODD_LINES).prop_map(str::to_owned),
        1 => any_value(names),
    ];
    let end = prop::sample::select(vec!["\n", "\n", "\n", "\n", "\r\n", " \n", "\n\n", "\r"]);
    prop::collection::vec((line, end), 0..6).prop_map(|lines| {
        lines.into_iter().fold("[DEFAULT]\n".to_owned(), |text, (line, end)| text + &line + end)
    })
}

/// The same for generated files and variables; prints the smallest one that differs.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
fn agrees_with_the_real_oslo_config_on_anything() {
    let cases = std::env::var("GLANCE_CACHE_TEST_CASES").map_or(2000, |text| text.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut peer = Peer::start();
    let names = &peer.registered();
    let peer = RefCell::new(peer);
    let anything = (any_file(names), prop::option::of((0..KNOWN.len(), any_value(names))));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&anything, |(text, variable)| {
        let mut case = only(text);
        if let Some((n, value)) = variable {
            let name = format!("OS_{}__{}", KNOWN[n].group, KNOWN[n].name).to_uppercase();
            case = case.variable(&name, &value.replace('\0', ""));
        }
        let found = peer.borrow_mut().differences(&case);
        prop_assert!(found.is_empty(), "{}", found.join("\n"));
        Ok(())
    });
    peer.into_inner().end(cases as usize, usize::from(outcome.is_err()));
    outcome.unwrap();
}
