//! Database servers that hang or are lost while images are fetched and published.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::*;
use crate::support::prefetch::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server, Session};

#[test]
fn a_database_that_hangs_keeps_nobody_from_the_lock_on_mariadb() {
    let server = Server::private(MariaDb);
    let p = Prefetch { db: Database::on(&server, "glance"), ..Prefetch::new(Sqlite) };
    p.image('a', 600_000);
    p.queue("a");
    let held = p.env.lock("glance-cache-prune");
    let ours = p.start(&["--rate-limit", "1MB"]);
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    sleep(Duration::from_secs(2));
    // While somebody else has the lock, the database is left alone.
    let asked = || p.db.rows("SHOW GLOBAL STATUS LIKE 'Com_select'")[0][1].parse::<u64>().unwrap();
    let before = asked();
    sleep(Duration::from_secs(2));
    let more = asked() - before;
    println!("{more} queries in two seconds, those of the test among them");
    assert!(more < 10, "{more}");
    server.signal(Signal::STOP);
    drop(held);
    for _ in 0..10 {
        sleep(Duration::from_millis(500));
        drop(p.env.lock("glance-cache-prune"));
    }
    server.signal(Signal::CONT);
    ours.wait().ok();
    p.holds(&[('a', 600_000)]);
}

/// Fetches an image whose row cannot be inserted for now; meanwhile `harm` is done to the server for so many
/// seconds, and `mend` puts it right. The image is published, and not downloaded again.
fn while_it_is_published(kind: Kind, harm: fn(&Server, &Database), seconds: u64, mend: fn(&mut Server)) {
    let mut server = Server::private(kind);
    let p = Prefetch { db: Database::on(&server, "glance"), ..Prefetch::new(Xattr) };
    p.image('a', 600_000);
    p.queue("a");
    let mut command = on_central(&p, "http://n1.example:9292", &["-v", "--rate-limit", "1MB"]);
    let ours = Running::start(&mut command, &p.env.outside(""));
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    // It cannot be recorded for now, and so the harm comes in the middle of it.
    let mut glance = Session::open(&p.db);
    let lock = "LOCK TABLES cached_images WRITE";
    glance.sql(if kind == MariaDb { lock } else { "BEGIN; LOCK TABLE cached_images" });
    sleep(Duration::from_secs(2));
    harm(&server, &p.db);
    sleep(Duration::from_secs(seconds));
    mend(&mut server);
    drop(glance);
    let run = ours.wait().ok();
    println!("{kind:?}: {:.1} s; {}", run.took.as_secs_f64(), run.stderr);
    let row = format!("SELECT size, hits FROM cached_images WHERE image_id = '{}'", id('a'));
    assert_eq!(p.db.rows(&row), [["600000", "0"]], "{kind:?}");
    assert_eq!((p.env.images().as_str(), p.env.names("incomplete").len()), ("a", 0), "{kind:?}");
}

fn a_server_that_is_stopped_costs_no_download(kind: Kind) {
    while_it_is_published(kind, |server, _| server.stop(), 1, Server::restart);
}

#[test]
fn a_server_that_is_stopped_costs_no_download_on_mariadb() {
    a_server_that_is_stopped_costs_no_download(MariaDb);
}

#[test]
fn a_server_that_is_stopped_costs_no_download_on_postgresql() {
    a_server_that_is_stopped_costs_no_download(PostgreSql);
}

fn a_server_that_is_killed_costs_no_download(kind: Kind) {
    while_it_is_published(kind, |server, _| server.crash(), 1, Server::restart);
}

#[test]
fn a_server_that_is_killed_costs_no_download_on_mariadb() {
    a_server_that_is_killed_costs_no_download(MariaDb);
}

#[test]
fn a_server_that_is_killed_costs_no_download_on_postgresql() {
    a_server_that_is_killed_costs_no_download(PostgreSql);
}

fn a_connection_that_is_cut_costs_no_download(kind: Kind) {
    while_it_is_published(kind, |_, database| database.cut_others(), 1, |_| {});
}

#[test]
fn a_connection_that_is_cut_costs_no_download_on_mariadb() {
    a_connection_that_is_cut_costs_no_download(MariaDb);
}

#[test]
fn a_connection_that_is_cut_costs_no_download_on_postgresql() {
    a_connection_that_is_cut_costs_no_download(PostgreSql);
}

// Not on PostgreSQL, which serves a connection with a process of its own: it goes on when its parent hangs.
#[test]
fn a_server_that_hangs_costs_no_download_on_mariadb() {
    while_it_is_published(
        MariaDb,
        |server, _| server.signal(Signal::STOP),
        13,
        |server| server.signal(Signal::CONT),
    );
}
