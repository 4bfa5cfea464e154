//! How far a prune goes with the rows of a central database, in which order, and two nodes or runs at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Kind, MariaDb, PostgreSql, Session, SqliteFile};

fn over_the_limit(kind: Kind) {
    let c = five(kind);
    c.prunes_to_cde();
    assert_eq!(c.left(), "cde");
}

#[test]
fn over_the_limit_on_sqlite() {
    over_the_limit(SqliteFile);
}

#[test]
fn over_the_limit_on_mariadb() {
    over_the_limit(MariaDb);
}

#[test]
fn over_the_limit_on_postgresql() {
    over_the_limit(PostgreSql);
}

fn size_equals_limit(kind: Kind) {
    let c = five(kind);
    c.prune("5000").ok().has(&json!({"total_files_pruned": 0}));
    assert_eq!(c.left(), "abcde");
}

#[test]
fn size_equals_limit_on_sqlite() {
    size_equals_limit(SqliteFile);
}

#[test]
fn size_equals_limit_on_mariadb() {
    size_equals_limit(MariaDb);
}

#[test]
fn size_equals_limit_on_postgresql() {
    size_equals_limit(PostgreSql);
}

fn limit_zero_spares_the_last_empty_image(kind: Kind) {
    let c = Central::new(kind, &[FIVE, &[('f', 0, 1, 0)]].concat());
    c.prune("0").ok();
    assert_eq!(c.left(), "f");
}

#[test]
fn limit_zero_spares_the_last_empty_image_on_sqlite() {
    limit_zero_spares_the_last_empty_image(SqliteFile);
}

#[test]
fn limit_zero_spares_the_last_empty_image_on_mariadb() {
    limit_zero_spares_the_last_empty_image(MariaDb);
}

#[test]
fn limit_zero_spares_the_last_empty_image_on_postgresql() {
    limit_zero_spares_the_last_empty_image(PostgreSql);
}

fn an_orphan_larger_than_the_limit(kind: Kind) {
    for (hours, left) in [(60, "bcde"), (1, "")] {
        let c = five(kind);
        c.env.orphan('f', 5000, hours);
        c.prune("4000").ok();
        assert_eq!(c.left(), left);
    }
}

#[test]
fn an_orphan_larger_than_the_limit_on_sqlite() {
    an_orphan_larger_than_the_limit(SqliteFile);
}

#[test]
fn an_orphan_larger_than_the_limit_on_mariadb() {
    an_orphan_larger_than_the_limit(MariaDb);
}

#[test]
fn an_orphan_larger_than_the_limit_on_postgresql() {
    an_orphan_larger_than_the_limit(PostgreSql);
}

fn two_pruners_at_once(kind: Kind) {
    let c = Central::empty(kind);
    c.large(400);
    let conf = c.conf();
    let start = || {
        let mut command = c.env.command(BINARY);
        command.args(["prune", "--config-file", &conf, "--max-size", "200B"]);
        Running::start(&mut command, &c.env.outside(""))
    };
    let (one, other) = (start(), start());
    let _ = (one.wait().ok(), other.wait().ok());
    assert_eq!(c.ids().len(), 200);
    assert!((200..400).all(|n| c.env.path(nth_id(n)).exists()), "the most recently used are left");
}

#[test]
fn two_pruners_at_once_on_sqlite() {
    two_pruners_at_once(SqliteFile);
}

#[test]
fn two_pruners_at_once_on_mariadb() {
    two_pruners_at_once(MariaDb);
}

#[test]
fn two_pruners_at_once_on_postgresql() {
    two_pruners_at_once(PostgreSql);
}

fn ties_go_by_row_order(kind: Kind) {
    let c = Central::new(kind, &[('d', 1000, 9, 0), ('a', 1000, 9, 0), ('c', 1000, 9, 0), ('b', 1000, 9, 0)]);
    c.prune("2000").ok();
    assert_eq!(c.left(), "bc");
}

#[test]
fn ties_go_by_row_order_on_sqlite() {
    ties_go_by_row_order(SqliteFile);
}

#[test]
fn ties_go_by_row_order_on_mariadb() {
    ties_go_by_row_order(MariaDb);
}

#[test]
fn ties_go_by_row_order_on_postgresql() {
    ties_go_by_row_order(PostgreSql);
}

fn what_was_used_since_the_plan_stays(kind: Kind) {
    let c = five(kind);
    let mut glance = Session::open(&c.db);
    glance.sql(if c.db.kind == PostgreSql {
        "BEGIN"
    } else if c.db.kind == MariaDb {
        "START TRANSACTION"
    } else {
        "BEGIN IMMEDIATE"
    });
    glance.sql(&format!("UPDATE cached_images SET hits = hits + 1 WHERE image_id = '{}'", id('a')));
    let mut command = c.env.command(BINARY);
    command.args(["prune", "--config-file", &c.conf(), "--max-size", "3000B"]);
    let run = Running::start(&mut command, &c.env.outside(""));
    if kind == SqliteFile {
        // Meanwhile it reads the rows as they were, and then waits for the whole database.
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(c.env.images(), "abcde", "nothing goes before its row is sure");
        glance.sql("COMMIT");
        run.wait().ok().has(&json!({"total_files_pruned": 2, "left_alone": 1}));
    } else {
        // The row that is held is not waited for: its image is in use.
        run.wait().ok().has(&json!({"total_files_pruned": 2, "left_alone": 1}));
        glance.sql("COMMIT");
    }
    assert_eq!(c.left(), "ade", "{:?}", c.db.kind);
}

#[test]
fn what_was_used_since_the_plan_stays_on_sqlite() {
    what_was_used_since_the_plan_stays(SqliteFile);
}

#[test]
fn what_was_used_since_the_plan_stays_on_mariadb() {
    what_was_used_since_the_plan_stays(MariaDb);
}

#[test]
fn what_was_used_since_the_plan_stays_on_postgresql() {
    what_was_used_since_the_plan_stays(PostgreSql);
}

/// An idle session holds one row of an image and one of a ghost: neither keeps the others.
fn a_row_that_is_locked_stops_nothing(kind: Kind) {
    let c = five(kind);
    c.row(&id('8'), 70);
    c.row(&id('9'), 60);
    let mut idle = Session::open(&c.db);
    idle.sql(if kind == PostgreSql { "BEGIN" } else { "START TRANSACTION" });
    idle.sql(&format!(
        "SELECT * FROM cached_images WHERE image_id IN ('{}', '{}') FOR UPDATE",
        id('a'),
        id('9')
    ));
    let started = Instant::now();
    let counts = json!({"ghosts_forgotten": 1, "total_files_pruned": 2, "left_alone": 2});
    c.prune("3000").ok().has(&counts);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(c.env.images(), "ade");
    let row = |name: char| c.ids().contains(&id(name));
    assert!(row('a') && row('9') && !row('8') && !row('b'));
    idle.sql("ROLLBACK");
    c.prune("0").ok().has(&json!({"ghosts_forgotten": 1, "total_files_pruned": 3, "left_alone": 0}));
    assert!(c.ids().is_empty());
}

#[test]
fn a_row_that_is_locked_stops_nothing_on_mariadb() {
    a_row_that_is_locked_stops_nothing(MariaDb);
}

#[test]
fn a_row_that_is_locked_stops_nothing_on_postgresql() {
    a_row_that_is_locked_stops_nothing(PostgreSql);
}

fn two_nodes_share_one_database(kind: Kind) {
    let one = Central::empty(kind);
    let other = Central::of(TestEnv::empty(Xattr), one.db.clone(), "http://n2.example:9292");
    one.large(600);
    other.large(600);
    let start = |c: &Central| {
        let mut command = c.env.command(BINARY);
        command.args(["prune", "--config-file", &c.conf(), "--max-size", "100B"]);
        Running::start(&mut command, &c.env.outside(""))
    };
    let (first, second) = (start(&one), start(&other));
    first.wait().ok().has(&json!({"total_files_pruned": 500}));
    second.wait().ok().has(&json!({"total_files_pruned": 500}));
    for c in [&one, &other] {
        assert_eq!(c.ids().len(), 100);
        assert!(c.ids().iter().all(|id| c.env.path(id).exists()));
    }
}

#[test]
fn two_nodes_share_one_database_on_sqlite() {
    two_nodes_share_one_database(SqliteFile);
}

#[test]
fn two_nodes_share_one_database_on_mariadb() {
    two_nodes_share_one_database(MariaDb);
}

#[test]
fn two_nodes_share_one_database_on_postgresql() {
    two_nodes_share_one_database(PostgreSql);
}
