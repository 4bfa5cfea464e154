//! Three nodes of MariaDB with Galera: writers on the others, nodes that die or refuse, limits of a write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::central::{Central, NODE};
use crate::support::clusters::*;
use crate::support::env::*;
use crate::support::prefetch::Prefetch;
use crate::support::servers::{Database, MariaDb, Session};

/// Prunes again and again while clients of the two other nodes use the same images. (Between our look and our
/// COMMIT they are not seen, so that an image which they use may be removed.)
#[test]
fn writers_on_the_other_nodes() {
    let galera = Galera::whole();
    let (mut left_alone, mut refused) = (0, 0);
    for round in 0..rounds().max(3) {
        let c = galera.central();
        c.large(1500);
        let others =
            [2, 3].map(|node| Writer::start(&Database::at(MariaDb, galera.port(node), &c.db.name), 1500));
        for kept in [1200, 900, 600, 300] {
            let run = c.run("prune", &["--max-size", &format!("{kept}B")]);
            left_alone += run.json()["left_alone"].as_u64().unwrap();
            // Where all are used all the time, some stay beyond the limit.
            let count = Count::of(&c);
            assert_eq!(count, Count::equal(count.files), "round {round}: {run:?}");
            let is_held = run.code == 0 && count.files == kept;
            assert!(is_held || (run.code == 1 && run.stderr.contains("used or changed during")), "{run:?}");
        }
        for other in others {
            let (done, conflicts) = other.stop();
            assert!(done > 10, "the writer was kept from writing");
            refused += conflicts;
        }
        c.run("prune", &["--max-size", "300B"]).ok().has(&json!({"ghosts_forgotten": 0}));
        assert_eq!(Count::of(&c), Count::equal(300));
    }
    println!(
        "{} prunes: files and rows agree after each; {left_alone} images used meanwhile were kept, {refused} \
         writes were refused",
        4 * rounds().max(3)
    );
}

#[test]
fn two_glance_nodes_use_two_database_nodes() {
    let galera = Galera::whole();
    let one = galera.central();
    let db = Database::at(MariaDb, galera.port(2), &one.db.name);
    until("the tables on the other node", || {
        db.rows("SHOW TABLES").len() == one.db.rows("SHOW TABLES").len()
    });
    let other = Central::of(TestEnv::empty(Xattr), db, "http://n2.example:9292");
    one.large(3000);
    other.large(3000);
    let arguments = ["prune", "--max-size", "100B"];
    let (first, second) =
        (start_through(&one, &one.db, &arguments), start_through(&other, &other.db, &arguments));
    first.wait().ok().has(&json!({"total_files_pruned": 2900}));
    second.wait().ok().has(&json!({"total_files_pruned": 2900}));
    assert_eq!((Count::of(&one), Count::of(&other)), (Count::equal(100), Count::equal(100)));
}

/// Another session gives an image its row, on another node, while we fetch the image.
#[test]
fn an_image_is_fetched_while_another_node_gets_its_row() {
    let galera = Galera::whole();
    let c = galera.central();
    let elsewhere = Database::at(MariaDb, galera.port(3), &c.db.name);
    let p = Prefetch::with(c.env, c.db);
    let letters = "abcdef";
    for letter in letters.chars() {
        p.image(letter, 1000);
    }
    let conf = format!("image_cache_driver = centralized_db\nworker_self_reference_url = {NODE}");
    for _ in 0..rounds().max(4) {
        p.queue(letters);
        let mut there = Session::open(&elsewhere);
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let inserting = std::thread::spawn(move || {
            let mut inserted = 0;
            for letter in letters.chars().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let sql = format!(
                    "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                     node_reference_id) SELECT '{}', UTC_TIMESTAMP(), UTC_TIMESTAMP(), 1, 7, node_reference_id \
                     FROM node_reference",
                    id(letter)
                );
                inserted += usize::from(there.try_sql(&sql).is_ok());
            }
            inserted
        });
        let mut command = p.env.command(BINARY);
        command.args(["prefetch", "--config-file", &p.conf(&conf)]);
        let run = Running::start(&mut command, &p.env.outside("")).wait();
        end.store(true, Ordering::Relaxed);
        let inserted = inserting.join().unwrap();
        println!("exit {} with {inserted} rows of others: {}", run.code, run.stderr);
        let run = run.ok();
        assert_eq!(run.json()["total_files_prefetched"], 6, "{run:?}");
        assert!(inserted > 0);
        assert_eq!(p.env.images(), letters);
        let rows = p.db.rows("SELECT image_id FROM cached_images ORDER BY image_id");
        assert_eq!(rows.concat(), letters.chars().map(id).collect::<Vec<_>>());
        p.env.raw(&["prune", "--max-size", "0", "--config-file", &p.conf(&conf)]).ok();
        assert_eq!(p.db.rows("SELECT id FROM cached_images").len(), 0);
    }
}

#[test]
fn the_node_is_killed() {
    let galera = Galera::whole();
    let mut c = galera.central();
    let _ = struck(&c, &c.db, || galera.signal(1, Signal::KILL));
    cannot_start(&c, &c.db, "cannot connect");
    let first = c.db.clone();
    c.db = Database::at(MariaDb, galera.port(2), &c.db.name);
    mended(&c);
    galera.mend();
    c.db = first;
    assert_eq!(Count::of(&c), Count::equal(10), "on the node that came back, too");
}

/// The node refuses queries, with or without an end to the connections there are.
fn queries_are_refused(how: &str) {
    let galera = Galera::whole();
    let c = galera.central();
    let run = struck(&c, &c.db, || galera.sql(1, &format!("SET GLOBAL wsrep_reject_queries = {how}")));
    assert_eq!(run.code, 1, "{run:?}");
    cannot_start(&c, &c.db, "error 1047");
    galera.sql(1, "SET GLOBAL wsrep_reject_queries = NONE");
    mended(&c);
}

/// The server finds out in COMMIT that a write is too large, when the files are removed: their rows are
/// deleted all the same, in smaller parts. Of the limit there is a warning, and the batches that follow keep
/// to it.
#[test]
fn a_write_is_too_large_in_bytes() {
    let galera = Galera::whole();
    let c = galera.central();
    c.large(400);
    galera.sql(1, "SET GLOBAL wsrep_max_ws_size = 4096");
    let run = c.run("prune", &["--max-size", "100B", "--lock-timeout", "10s"]);
    let first = Count::of(&c);
    // Rows without files are deleted in parts, too.
    (0..1000).map(nth_id).filter(|id| c.env.path(id).exists()).take(40).for_each(|id| {
        std::fs::remove_file(c.env.path(id)).unwrap();
    });
    let second = c.run("prune", &["--max-size", "40B", "--lock-timeout", "10s"]);
    galera.sql(1, "SET GLOBAL wsrep_max_ws_size = 2147483647");
    println!("exit {}: {first:?}; {}", run.code, run.stderr);
    println!("exit {}: {:?}; {}", second.code, Count::of(&c), second.stderr);
    assert_eq!(first, Count::equal(100));
    assert_eq!(run.stderr.matches("in smaller transactions").count(), 1, "{run:?}");
    let _ = run.ok().has(&json!({"total_files_pruned": 300, "errors": []}));
    let _ = second.ok().has(&json!({"ghosts_forgotten": 40, "total_files_pruned": 20, "errors": []}));
    assert_eq!(Count::of(&c), Count::equal(40));
}

/// The server finds out in the statement: no file is removed.
#[test]
fn a_write_is_too_large_in_rows() {
    let galera = Galera::whole();
    let c = galera.central();
    c.large(400);
    galera.sql(1, "SET GLOBAL wsrep_max_ws_rows = 60");
    let run = c.run("prune", &["--max-size", "40B", "--lock-timeout", "5s"]);
    galera.sql(1, "SET GLOBAL wsrep_max_ws_rows = 0");
    println!("exit {}: {:?}; {}", run.code, Count::of(&c), run.stderr);
    let _ = run.ok().has(&json!({"total_files_pruned": 360, "errors": []}));
    assert_eq!(Count::of(&c), Count::equal(40));
}

/// What takes its time: see `GLANCE_CACHE_TEST_CLUSTERS` in CONTRIBUTING.md.
mod on_demand {
    use super::*;

    #[test]
    fn every_row_is_written_all_the_time() {
        let galera = Galera::whole();
        for _ in 0..rounds() {
            let c = galera.central();
            c.large(300);
            let other = Writer::start(&Database::at(MariaDb, galera.port(2), &c.db.name), 300);
            let run = c.run("prune", &["--max-size", "0", "--lock-timeout", "10s"]);
            let (done, refused) = other.stop();
            let count = Count::of(&c);
            println!("exit {} with {done} writes, {refused} refused: {count:?}; {}", run.code, run.stderr);
            assert_eq!(count, Count::equal(count.files), "{run:?}");
            assert_eq!(run.code, i32::from(count.files > 0), "{run:?}");
            c.run("prune", &["--max-size", "0"]).ok().has(&json!({"ghosts_forgotten": 0}));
            assert_eq!(Count::of(&c), Count::equal(0));
        }
    }

    #[test]
    fn another_node_is_killed() {
        let galera = Galera::whole();
        let c = galera.central();
        // The others wait until it is known to have died.
        let _ = struck(&c, &c.db, || galera.signal(3, Signal::KILL)).ok();
        mended(&c);
        galera.mend();
    }

    #[test]
    fn the_quorum_is_lost() {
        let galera = Galera::whole();
        let c = galera.central();
        let _ = struck(&c, &c.db, || {
            galera.signal(2, Signal::KILL);
            galera.signal(3, Signal::KILL);
        });
        cannot_start(&c, &c.db, "cannot");
        galera.sql(1, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'");
        galera.mend();
        mended(&c);
    }

    #[test]
    fn the_node_gives_its_data_to_another_one() {
        let galera = Galera::whole();
        galera.signal(3, Signal::KILL);
        until("two nodes", || galera.status(1, "wsrep_cluster_size").as_deref() == Some("2"));
        let c = galera.central();
        let _ = struck(&c, &c.db, || galera.join(3));
        galera.mend();
        mended(&c);
        c.db.sql("SELECT 1");
        let joined = Database::at(MariaDb, galera.port(3), &c.db.name);
        until("the same rows on the node that joined", || {
            joined.rows("SELECT id FROM cached_images").len() == 10
        });
    }

    #[test]
    fn queries_are_refused_by_the_node() {
        queries_are_refused("ALL");
    }

    #[test]
    fn queries_are_refused_and_connections_ended_by_the_node() {
        queries_are_refused("ALL_KILL");
    }

    #[test]
    fn a_backup_locks_all_tables_of_the_node_for_a_moment() {
        let galera = Galera::whole();
        let c = galera.central();
        let _ = struck(&c, &c.db, || {
            galera.sql(1, "SET GLOBAL wsrep_desync = ON");
            let mut backup = Session::open(&c.db);
            backup.sql("FLUSH TABLES WITH READ LOCK");
            sleep(Duration::from_secs(3));
            backup.sql("UNLOCK TABLES");
            galera.sql(1, "SET GLOBAL wsrep_desync = OFF");
        });
        mended(&c);
    }

    #[test]
    fn connections_and_queries_are_killed_all_the_time() {
        let galera = Galera::whole();
        let c = galera.central();
        let _ = struck(&c, &c.db, || {
            for n in 0..20 {
                if n % 2 == 0 {
                    c.db.cut_others();
                } else {
                    let mut own = c.db.mysql();
                    let sql = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> \
                               CONNECTION_ID()";
                    for id in mysql::prelude::Queryable::query::<u64, _>(&mut own, sql).unwrap() {
                        drop(mysql::prelude::Queryable::query_drop(&mut own, format!("KILL QUERY {id}")));
                    }
                }
                sleep(Duration::from_millis(50));
            }
        });
        mended(&c);
    }
}
