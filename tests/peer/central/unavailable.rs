//! Servers that stop, crash, hang or cut the connection while a prune works: at worst rows without files are
//! left.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server};

/// Prunes while `harm` is done to the server, which `mend` puts right afterwards; then the next run goes on.
fn in_the_middle(kind: Kind, harm: fn(&Server, &Database), mend: fn(&mut Server)) {
    let mut server = Server::private(kind);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.large(20_000);
    let mut command = c.env.command(BINARY);
    command.args(["prune", "--config-file", &c.conf(), "--max-size", "10B", "--lock-timeout", "10s"]);
    let run = Running::start(&mut command, &c.env.outside(""));
    until("the first file to be removed", || !c.env.path(nth_id(300)).exists());
    harm(&server, &c.db);
    let run = run.wait();
    mend(&mut server);
    let images = || c.env.names("").into_iter().filter(|name| name.len() == 36);
    let rows: BTreeSet<_> = c.ids().into_iter().collect();
    let files: BTreeSet<_> = images().collect();
    println!(
        "{kind:?}: exit {} after {:.1} s; {} files, {} rows, {} orphans, {} ghosts; {}",
        run.code,
        run.took.as_secs_f64(),
        files.len(),
        rows.len(),
        files.difference(&rows).count(),
        rows.difference(&files).count(),
        run.stderr.lines().next().unwrap_or_default()
    );
    assert!(run.code == 1 || (run.code == 0 && files.len() == 10), "{run:?}");
    assert_eq!(files.difference(&rows).count(), 0, "orphans were made");
    assert!(run.took < Duration::from_secs(30), "{:?}", run.took);
    c.run("prune", &["--max-size", "10B"]).ok();
    assert_eq!((c.ids().len(), images().count()), (10, 10));
}

fn a_server_that_is_stopped(kind: Kind) {
    in_the_middle(kind, |server, _| server.stop(), Server::restart);
}

#[test]
fn a_server_that_is_stopped_on_mariadb() {
    a_server_that_is_stopped(MariaDb);
}

#[test]
fn a_server_that_is_stopped_on_postgresql() {
    a_server_that_is_stopped(PostgreSql);
}

fn a_server_that_is_killed(kind: Kind) {
    in_the_middle(kind, |server, _| server.crash(), Server::restart);
}

#[test]
fn a_server_that_is_killed_on_mariadb() {
    a_server_that_is_killed(MariaDb);
}

#[test]
fn a_server_that_is_killed_on_postgresql() {
    a_server_that_is_killed(PostgreSql);
}

// PostgreSQL serves a connection with a process of its own, which goes on when its parent hangs.
fn a_server_that_hangs(kind: Kind) {
    in_the_middle(kind, |server, _| server.signal(Signal::STOP), |server| server.signal(Signal::CONT));
}

#[test]
fn a_server_that_hangs_on_mariadb() {
    a_server_that_hangs(MariaDb);
}

#[test]
fn a_server_that_hangs_on_postgresql() {
    a_server_that_hangs(PostgreSql);
}

fn a_connection_that_is_cut(kind: Kind) {
    in_the_middle(kind, |_, database| database.cut_others(), |_| {});
}

#[test]
fn a_connection_that_is_cut_on_mariadb() {
    a_connection_that_is_cut(MariaDb);
}

#[test]
fn a_connection_that_is_cut_on_postgresql() {
    a_connection_that_is_cut(PostgreSql);
}
