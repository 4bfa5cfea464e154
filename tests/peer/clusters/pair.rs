//! A primary of PostgreSQL that waits for its standby in every COMMIT, and the standby itself.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::clusters::*;
use crate::support::env::*;
use crate::support::servers::Session;

/// Each change is on the standby when it is reported; the standby itself is only read.
#[test]
fn the_standby_is_read_and_never_written() {
    let pair = Pair::start();
    let c = pair.central();
    c.images(FIVE);
    c.row(&id('f'), 60);
    let standby = pair.glance(2);
    until("the rows on the standby", || standby.rows("SELECT id FROM cached_images").len() == 6);
    assert_eq!(run_through(&c, &standby, &["list"]).ok().stdout.lines().count(), 7);
    let _ = run_through(&c, &standby, &["status"]).ok();
    run_through(&c, &standby, &["prune", "--max-size", "3000B", "--dry-run"])
        .ok()
        .has(&json!({"total_files_pruned": 2}));
    cannot_start(&c, &standby, "read-only");
    let _ = run_through(&c, &standby, &["clean", "--repair"]).fails(3, &["read-only"]);
    let _ = run_through(&c, &standby, &["prefetch", &id('a'), "--enqueue"]);
    // With both named, the one that is written.
    let (one, two) = (pair.glance(1).port(), pair.glance(2).port());
    let mut both = pair.glance(1);
    both.url = format!(
        "postgresql://g:s3cret@/glance?host=127.0.0.1:{two}&host=127.0.0.1:{one}&target_session_attrs=read-write"
    );
    run_through(&c, &both, &["prune", "--max-size", "3000B"])
        .ok()
        .has(&json!({"total_files_pruned": 2, "ghosts_forgotten": 1}));
    assert_eq!(c.left(), "cde");
    until("the same rows on the standby", || standby.rows("SELECT id FROM cached_images").len() == 3);
}

/// Waits until no COMMIT waits for the standby any more.
fn settle(pair: &Pair) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("the commits", || pair.glance(1).rows(sql) == [["0"]]);
}

/// The standby is away when the run begins, and comes back while the run waits.
#[test]
fn the_standby_comes_back_in_time() {
    let pair = Pair::start();
    let c = pair.central();
    c.large(400);
    pair.signal(2, Signal::KILL);
    let run = start_through(&c, &c.db, &["prune", "--max-size", "40B"]);
    until("the first file to be removed", || !c.env.path(nth_id(0)).exists());
    sleep(Duration::from_secs(2));
    pair.restart(2);
    let run = run.wait().ok();
    println!("exit {} after {:.1} s; {}", run.code, run.took.as_secs_f64(), run.stderr);
    assert_eq!(Count::of(&c), Count::equal(40));
}

/// An administrator ends the wait: the COMMIT has taken effect on the primary.
#[test]
fn the_wait_for_the_standby_is_cancelled() {
    let pair = Pair::start();
    let c = pair.central();
    c.large(400);
    pair.signal(2, Signal::KILL);
    let run = start_through(&c, &c.db, &["prune", "--max-size", "40B"]);
    let mut administrator = Session::open(&c.db);
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("the last batch", || {
        administrator.sql(cancel);
        Count::of(&c).rows == 40
    });
    let _ = run.wait().ok();
    assert_eq!(Count::of(&c), Count::equal(40));
}

/// What takes its time: see `GLANCE_CACHE_TEST_CLUSTERS` in CONTRIBUTING.md.
mod on_demand {
    use super::*;

    /// The standby hangs: the primary does not answer a COMMIT, which takes effect when it comes back.
    #[test]
    fn the_standby_hangs_in_the_middle() {
        let pair = Pair::start();
        let c = pair.central();
        let run = struck(&c, &c.db, || pair.signal(2, Signal::STOP));
        assert_eq!(run.code, 1, "{run:?}");
        println!("{}", run.stderr);
        pair.signal(2, Signal::CONT);
        settle(&pair);
        mended(&c);
    }

    /// The standby is away: nothing is known of the first COMMIT. No second batch follows, and the next run mends
    /// all of it without more options.
    #[test]
    fn the_standby_is_away() {
        let pair = Pair::start();
        let c = pair.central();
        c.large(400);
        pair.signal(2, Signal::KILL);
        let run = run_through(&c, &c.db, &["prune", "--max-size", "40B", "--lock-timeout", "5s"]).code(1);
        println!("exit {} after {:.1} s; {}", run.code, run.took.as_secs_f64(), run.stderr);
        let _ = run.says(&["it is not known if the change took effect"]);
        let count = Count::of(&c);
        println!("{count:?}");
        assert!(count.orphans == 0 && count.ghosts <= 200, "{count:?}");
        pair.restart(2);
        settle(&pair);
        c.run("prune", &["--max-size", "40B"]).ok();
        assert_eq!(Count::of(&c), Count::equal(40));
    }

    /// The primary dies, and the standby becomes one; the URL names both.
    #[test]
    fn the_standby_takes_over_in_the_middle() {
        let pair = Pair::start();
        let mut c = pair.central();
        let (one, two) = (pair.glance(1).port(), pair.glance(2).port());
        let mut both = pair.glance(2);
        both.url = format!(
            "postgresql://g:s3cret@/glance?host=127.0.0.1:{one}&host=127.0.0.1:{two}&target_session_attrs=read-write"
        );
        let _ = struck(&c, &both, || {
            pair.signal(1, Signal::QUIT);
            pair.glance(2).sql("SELECT pg_promote()");
        });
        c.db = both;
        assert_eq!(Count::of(&c).ghosts, 0, "the run goes on with the new primary");
        mended(&c);
    }
}
