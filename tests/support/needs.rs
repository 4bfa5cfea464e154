//! The parts of the real world that a test can ask for: programs, services, privileges.
//!
//! Each fixture calls the function of every part that it uses. The call panics when this machine lacks the
//! part, and says how to get it; no test is skipped. It also panics when `tests/peer/parts` does not declare
//! the part for the running test, because `tests/run FILTER` installs only what that table declares for the
//! tests that FILTER selects. Tests in `tests/cli` need nothing, so there each call panics.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

use super::env::BINARY;

/// A text in the path of a test, then the parts that tests with that text in their path ask for; line by
/// line.
const DECLARED: &str = include_str!("../peer/parts");

/// The variable that names a file to which each call appends its test and its part. `tests/run` compares it
/// with the table.
const ASKED: &str = "GLANCE_CACHE_TEST_ASKED";

/// Asks for the rights of root.
#[track_caller]
pub(crate) fn root() {
    ask("root");
    assert!(rustix::process::geteuid().is_root(), "this test needs root: run tests/run as root");
}

/// Asks for strace, which shows, fails and delays system calls.
#[track_caller]
pub(crate) fn strace() {
    programs("strace", &["strace"]);
}

/// Returns the Python that has Glance 33.
#[track_caller]
pub(crate) fn glance() -> PathBuf {
    python("glance", "GLANCE_CACHE_TEST_PYTHON", "glance-33")
}

/// Returns the Python that has Glance 31, whose prefetcher starts.
#[track_caller]
pub(crate) fn glance_31() -> PathBuf {
    python("glance-31", "GLANCE_CACHE_TEST_GLANCE31_PYTHON", "glance-31")
}

/// Returns the Python that has Glance 32, whose Cache API has neither clean nor prune.
#[track_caller]
pub(crate) fn glance_32() -> PathBuf {
    python("glance-32", "GLANCE_CACHE_TEST_GLANCE32_PYTHON", "glance-32")
}

/// Returns the Python that has Ironic.
#[track_caller]
pub(crate) fn ironic() -> PathBuf {
    python("ironic", "GLANCE_CACHE_TEST_IRONIC_PYTHON", "ironic-39")
}

/// Returns the Python that has Keystone and uWSGI.
#[track_caller]
pub(crate) fn keystone() -> PathBuf {
    python("keystone", "GLANCE_CACHE_TEST_KEYSTONE_PYTHON", "keystone-30")
}

/// Returns the Python that has the clients of the Cache API; their commands are beside it.
#[track_caller]
pub(crate) fn clients() -> PathBuf {
    python("clients", "GLANCE_CACHE_TEST_CLIENTS_PYTHON", "clients")
}

/// Returns the Python that has OpenStack Swift. Its servers share tokens in memcached.
#[track_caller]
pub(crate) fn swift() -> PathBuf {
    programs("swift", &["memcached"]);
    python("swift", "GLANCE_CACHE_TEST_SWIFT_PYTHON", "swift-2.38")
}

#[track_caller]
pub(crate) fn haproxy() {
    programs("haproxy", &["haproxy"]);
}

#[track_caller]
pub(crate) fn apache() {
    programs("apache", &["apache2"]);
}

#[track_caller]
pub(crate) fn mariadb() {
    programs("mariadb", &["mariadbd", "mariadb", "openssl"]);
}

#[track_caller]
pub(crate) fn postgresql() {
    programs("postgresql", &["initdb", "postgres", "psql", "openssl"]);
}

/// Asks for MariaDB with Galera, and what a node copies another one with.
#[track_caller]
pub(crate) fn galera() {
    programs("galera", &["mariadbd", "mariadb", "rsync", "ss"]);
    let library = Path::new("/usr/lib/galera/libgalera_smm.so");
    assert!(
        library.is_file(),
        "{} is not on this machine: `tests/run galera` installs it",
        library.display()
    );
}

#[track_caller]
pub(crate) fn pgbouncer() {
    programs("pgbouncer", &["pgbouncer"]);
}

#[track_caller]
pub(crate) fn nginx() {
    programs("nginx", &["nginx", "openssl"]);
}

/// Asks for a Ceph cluster with its block devices and S3.
#[track_caller]
pub(crate) fn ceph() {
    programs("ceph", &["ceph-mon", "ceph-osd", "ceph", "rbd", "radosgw"]);
}

/// Asks for file systems of the type ext4.
#[track_caller]
pub(crate) fn ext4() {
    programs("ext4", &["mkfs.ext4", "debugfs", "mount"]);
}

/// Asks for file systems of the type XFS.
#[track_caller]
pub(crate) fn xfs() {
    programs("xfs", &["mkfs.xfs", "mount"]);
}

/// Asks for files that nobody can change.
#[track_caller]
pub(crate) fn chattr() {
    programs("chattr", &["chattr"]);
}

/// Asks for directories seen through FUSE.
#[track_caller]
pub(crate) fn bindfs() {
    programs("bindfs", &["bindfs"]);
}

/// Asks for a terminal to run a command on.
#[track_caller]
pub(crate) fn script() {
    programs("script", &["script"]);
}

/// What Debian's bash completes with.
#[track_caller]
pub(crate) fn bash_completion() {
    ask("bash-completion");
    let script = Path::new("/usr/share/bash-completion/bash_completion");
    assert!(
        script.is_file(),
        "{} is not on this machine: `tests/run completion` installs it",
        script.display()
    );
}

#[track_caller]
pub(crate) fn zsh() {
    programs("zsh", &["zsh"]);
}

#[track_caller]
pub(crate) fn fish() {
    programs("fish", &["fish"]);
}

#[track_caller]
pub(crate) fn mandoc() {
    programs("mandoc", &["mandoc"]);
}

#[track_caller]
pub(crate) fn man_db() {
    programs("man-db", &["man", "lexgrog"]);
}

/// Asks for Prometheus, its promtool, and the node exporter.
#[track_caller]
pub(crate) fn prometheus() {
    programs("prometheus", &["prometheus", "promtool", "prometheus-node-exporter"]);
}

/// Asks for systemd's checks of units. No manager has to run.
#[track_caller]
pub(crate) fn systemd() {
    programs("systemd", &["systemd-analyze"]);
}

/// Panics unless the table declares this part for the running test.
#[track_caller]
fn ask(part: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    assert!(
        env!("CARGO_CRATE_NAME") == "peer",
        "{test} asks for {part}, but tests in tests/cli need nothing: move it to tests/peer"
    );
    // The test harness names each thread after its test.
    assert!(test.contains("::"), "{part} is asked for outside the thread of the test: ask for it there");
    if let Some(asked) = env::var_os(ASKED) {
        let mut file = fs::File::options().append(true).create(true).open(asked).unwrap();
        file.write_all(format!("{test} {part}\n").as_bytes()).unwrap();
    }
    assert!(
        declared(test).any(|declared| declared == part),
        "{test} asks for {part}, but tests/peer/parts does not say so: add it there, and tests/run will \
         install it"
    );
}

/// Returns the parts that the table declares for a test, some of them perhaps twice.
fn declared(test: &str) -> impl Iterator<Item = &'static str> {
    let lines = DECLARED.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.filter_map(|line| line.trim().split_once(' '));
    entries.filter(move |(text, _)| test.contains(text)).flat_map(|(_, parts)| parts.split_whitespace())
}

/// Asks for a part that consists of these programs.
#[track_caller]
fn programs(part: &str, names: &[&str]) {
    ask(part);
    for name in names {
        assert!(
            is_installed(name),
            "{name} is not on this machine: `tests/run {}` installs it, as root on Debian",
            thread::current().name().unwrap_or_default()
        );
    }
}

fn is_installed(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let postgresql = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut places = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(postgresql.flatten().map(|version| version.path().join("bin")));
    places.any(|place| place.join(name).is_file())
}

/// Asks for a part that is a Python with packages: the one that a variable names, or else that of
/// `tests/run`.
#[track_caller]
fn python(part: &str, variable: &str, directory: &str) -> PathBuf {
    ask(part);
    let named = env::var_os(variable).map(PathBuf::from);
    let python = named.unwrap_or_else(|| {
        let target =
            Path::new(BINARY).ancestors().find(|path| path.file_name() == Some(OsStr::new("target")));
        target.unwrap_or(Path::new("target")).join("peer").join(directory).join("bin/python")
    });
    assert!(
        python.is_file(),
        "{} is not there: `tests/run {}` makes it, or set {variable} to a Python that has the packages of \
         tests/peer/python",
        python.display(),
        thread::current().name().unwrap_or_default()
    );
    python
}
