//! pgbouncer before PostgreSQL, in its three modes.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::support::central::*;
use crate::support::clusters::*;
use crate::support::env::*;
use crate::support::servers::{Database, PostgreSql, Session};

/// The modes in which transactions stay on one server connection.
const MODES: [&str; 2] = ["session", "transaction"];

#[test]
fn everything_works_in_session_and_transaction_mode() {
    for mode in MODES {
        let c = five(PostgreSql);
        let pool = PgBouncer::start(&c.db, mode, "");
        let through = pool.before(&c.db);
        c.row(&id('f'), 60);
        assert_eq!(run_through(&c, &through, &["list"]).ok().stdout.lines().count(), 7);
        run_through(&c, &through, &["status"]).ok();
        run_through(&c, &through, &["clean", "--repair"]).ok().has(&json!({"ghosts_forgotten": 1}));
        run_through(&c, &through, &["prune", "--max-size", "3000B"])
            .ok()
            .has(&json!({"total_files_pruned": 2}));
        assert_eq!(c.left(), "cde", "{mode}");
    }
}

/// More runs than connections to the server, which Glance uses, too.
#[test]
fn a_pool_that_is_smaller_than_the_number_of_runs() {
    // A run has two connections at a time: one to the index, and one to the records of images.
    for (mode, size) in [("session", 6), ("transaction", 1)] {
        let one = Central::empty(PostgreSql);
        let pool = PgBouncer::start(&one.db, mode, &format!("default_pool_size = {size}"));
        let others = ["http://n2.example:9292", "http://n3.example:9292"]
            .map(|node| Central::of(TestEnv::empty(Xattr), one.db.clone(), node));
        let all: Vec<&Central> = others.iter().chain([&one]).collect();
        let through = pool.before(&one.db);
        for c in &all {
            c.large(1000);
        }
        let arguments = ["prune", "--max-size", "100B"];
        let runs: Vec<Running> = all.iter().map(|c| start_through(c, &through, &arguments)).collect();
        for run in runs {
            run.wait().ok().has(&json!({"total_files_pruned": 900}));
        }
        for c in all {
            assert_eq!(Count::of(c), Count::equal(100), "{mode}");
        }
    }
}

/// Nothing holds rows between two statements there: no file is removed, and the reason is pgbouncer's.
#[test]
fn statement_mode_is_refused() {
    let c = five(PostgreSql);
    let pool = PgBouncer::start(&c.db, "statement", "");
    let through = pool.before(&c.db);
    assert_eq!(run_through(&c, &through, &["list"]).ok().stdout.lines().count(), 6);
    cannot_start(&c, &through, "statement pooling mode");
    c.row(&id('f'), 60);
    let _ = run_through(&c, &through, &["clean", "--repair"]).fails(3, &["statement pooling mode"]);
    assert_eq!((c.env.images().as_str(), c.ids().len()), ("abcde", 6));
}

#[test]
fn it_is_killed_and_started_again() {
    let c = Central::empty(PostgreSql);
    let pool = PgBouncer::start(&c.db, "transaction", "");
    let _ = struck(&c, &pool.before(&c.db), || {
        pool.crash();
        sleep(Duration::from_millis(500));
        pool.restart();
    });
    assert_eq!(Count::of(&c).ghosts, 0, "the run goes on as soon as it is back");
    mended(&c);
}

/// The reasons that pgbouncer gives when it ends a connection are those of the report.
#[test]
fn its_reasons_are_reported() {
    let c = five(PostgreSql);
    // Every place is taken.
    let pool = PgBouncer::start(&c.db, "session", "max_client_conn = 1");
    let other = Session::open(&pool.before(&c.db));
    cannot_start(&c, &pool.before(&c.db), "no more connections allowed");
    drop(other);
    // Nobody gets a connection to the server within a second.
    let pool = PgBouncer::start(&c.db, "session", "default_pool_size = 1\nquery_wait_timeout = 1");
    let mut other = Session::open(&pool.before(&c.db));
    other.sql("SELECT 1");
    cannot_start(&c, &pool.before(&c.db), "query_wait_timeout");
    drop(other);
    // The server lets nobody in.
    let pool = PgBouncer::start(&c.db, "transaction", "server_login_retry = 1\nquery_wait_timeout = 2");
    let gone = Database::at(PostgreSql, pool.before(&c.db).port(), "t_gone");
    cannot_start(&c, &gone, "t_gone");
    // A transaction that does nothing for too long: another session has the row that it waits for.
    let pool = PgBouncer::start(&c.db, "transaction", "idle_transaction_timeout = 1\nquery_timeout = 1");
    let slow = run_through(&c, &pool.before(&c.db), &["list"]).ok();
    assert_eq!(slow.stdout.lines().count(), 6);
    let mut other = Session::open(&c.db);
    other.sql("BEGIN");
    other.sql("LOCK TABLE cached_images IN ACCESS EXCLUSIVE MODE");
    let waits = run_through(&c, &pool.before(&c.db), &["list"]).fails(3, &["query timeout"]);
    println!("{}", waits.stderr);
    other.sql("ROLLBACK");
    assert_eq!(c.left(), "abcde");
}

/// What takes its time: see `GLANCE_CACHE_TEST_CLUSTERS` in CONTRIBUTING.md.
mod on_demand {
    use super::*;

    #[test]
    fn connections_are_ended_in_the_middle() {
        for mode in MODES {
            let c = Central::empty(PostgreSql);
            let pool = PgBouncer::start(&c.db, mode, "");
            let _ = struck(&c, &pool.before(&c.db), || {
                for _ in 0..5 {
                    pool.order(&format!("KILL {}", c.db.name));
                    sleep(Duration::from_millis(100));
                    pool.order(&format!("RESUME {}", c.db.name));
                    sleep(Duration::from_millis(100));
                }
            });
            mended(&c);
        }
    }

    /// The server's side is cut, not ours.
    #[test]
    fn connections_to_the_server_are_cut_in_the_middle() {
        for mode in MODES {
            let c = Central::empty(PostgreSql);
            let pool = PgBouncer::start(&c.db, mode, "server_login_retry = 1");
            let _ = struck(&c, &pool.before(&c.db), || {
                for _ in 0..10 {
                    c.db.cut_others();
                    sleep(Duration::from_millis(50));
                }
            });
            mended(&c);
        }
    }

    #[test]
    fn the_database_is_disabled_in_the_middle() {
        for mode in MODES {
            let c = Central::empty(PostgreSql);
            let pool = PgBouncer::start(&c.db, mode, "");
            let through = pool.before(&c.db);
            let run = struck(&c, &through, || {
                pool.order(&format!("DISABLE {}", c.db.name));
                pool.order(&format!("KILL {}", c.db.name));
            });
            assert_eq!(run.code, 1, "{run:?}");
            println!("{}", run.stderr);
            pool.order(&format!("ENABLE {}", c.db.name));
            pool.order(&format!("RESUME {}", c.db.name));
            mended(&c);
        }
    }
}
