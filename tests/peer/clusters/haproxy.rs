//! `HAProxy` before a server: connections that are cut when idle or at any time, servers in maintenance or
//! drained, and a cluster behind it whose nodes die.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::central::*;
use crate::support::clusters::*;
use crate::support::env::*;
use crate::support::servers::{Database, MariaDb, Session};

/// A proxy that ends each connection over which nothing came for so long.
#[test]
fn idle_connections_are_cut() {
    // The longer ones cut little.
    let all = ["60ms", "200ms", "2s"];
    for kind in SERVERS {
        for idle in &all[..rounds().min(all.len())] {
            let c = Central::empty(kind);
            let proxy = HaProxy::start(&[c.db.port()], idle, "backup");
            let _ = struck(&c, &proxy.before(&c.db), || {});
            mended(&c);
        }
    }
}

#[test]
fn connections_are_cut_all_the_time() {
    for kind in SERVERS {
        let c = Central::empty(kind);
        let proxy = HaProxy::start(&[c.db.port()], "10s", "backup");
        let _ = struck(&c, &proxy.before(&c.db), || {
            for _ in 0..20 {
                proxy.order("shutdown sessions server db/s1");
                sleep(Duration::from_millis(50));
            }
        });
        mended(&c);
    }
}

/// Another session has locked the table when the connection is cut, so that no file of the next batch is
/// removed yet: the run goes on with a new connection. The proxy lets nobody in for a moment, so that the
/// first attempt to connect again fails, too.
#[test]
fn a_connection_is_lost_before_a_file_is_removed() {
    for kind in SERVERS {
        let c = Central::empty(kind);
        let proxy = HaProxy::start(&[c.db.port()], "10s", "backup");
        let mut other = Session::open(&c.db);
        let run = struck(&c, &proxy.before(&c.db), || {
            if kind == MariaDb {
                other.sql("LOCK TABLES cached_images WRITE");
            } else {
                other.sql("BEGIN");
                other.sql("LOCK TABLE cached_images IN ACCESS EXCLUSIVE MODE");
            }
            sleep(Duration::from_millis(300));
            proxy.order("set server db/s1 state maint");
            proxy.order("shutdown sessions server db/s1");
            sleep(Duration::from_secs(1));
            proxy.order("set server db/s1 state ready");
            other.sql(if kind == MariaDb { "UNLOCK TABLES" } else { "ROLLBACK" });
        });
        let _ = run.ok().has(&json!({"errors": []}));
        assert_eq!(Count::of(&c), Count::equal(10), "{kind:?}");
    }
}

/// Who is connected goes on; nobody else is let in.
#[test]
fn drain() {
    for kind in SERVERS {
        let c = Central::empty(kind);
        let proxy = HaProxy::start(&[c.db.port()], "10s", "backup");
        let through = proxy.before(&c.db);
        let _ = struck(&c, &through, || proxy.order("set server db/s1 state drain")).ok();
        c.large(50);
        cannot_start(&c, &through, "cannot connect");
        proxy.order("set server db/s1 state ready");
        run_through(&c, &through, &["prune", "--max-size", "10B"])
            .ok()
            .has(&json!({"total_files_pruned": 50}));
        assert_eq!(Count::of(&c), Count::equal(10));
    }
}

fn behind(galera: &Galera, balance: &str) -> HaProxy {
    HaProxy::start(&[1, 2, 3].map(|node| galera.port(node)), "10s", balance)
}

#[test]
fn galera_whose_first_node_is_drained_for_the_next_run() {
    let galera = Galera::whole();
    let c = galera.central();
    let proxy = behind(&galera, "backup");
    let through = proxy.before(&c.db);
    let _ = struck(&c, &through, || proxy.order("set server db/s1 state drain")).ok();
    c.large(50);
    run_through(&c, &through, &["prune", "--max-size", "10B"]).ok().has(&json!({"total_files_pruned": 50}));
    until("the rows on the first node", || Count::of(&c) == Count::equal(10));
}

/// What takes its time: see `GLANCE_CACHE_TEST_CLUSTERS` in CONTRIBUTING.md.
mod on_demand {
    use super::*;

    /// The server is put into maintenance and its connections are ended, for good or for a moment.
    #[test]
    fn maintenance() {
        for kind in SERVERS {
            for is_short in [true, false] {
                let c = Central::empty(kind);
                let proxy = HaProxy::start(&[c.db.port()], "10s", "backup");
                let through = proxy.before(&c.db);
                let run = struck(&c, &through, || {
                    proxy.order("set server db/s1 state maint");
                    proxy.order("shutdown sessions server db/s1");
                    if is_short {
                        sleep(Duration::from_secs(1));
                        proxy.order("set server db/s1 state ready");
                    }
                });
                if is_short {
                    assert_eq!(Count::of(&c).ghosts, 0, "{run:?}");
                } else {
                    assert_eq!(run.code, 1, "{run:?}");
                    cannot_start(&c, &through, "cannot connect");
                    proxy.order("set server db/s1 state ready");
                }
                mended(&c);
            }
        }
    }

    #[test]
    fn galera_whose_first_node_is_killed() {
        let galera = Galera::whole();
        let mut c = galera.central();
        let proxy = behind(&galera, "backup");
        let through = proxy.before(&c.db);
        let _ = struck(&c, &through, || galera.signal(1, Signal::KILL));
        c.db = through;
        assert_eq!(Count::of(&c).ghosts, 0, "the run goes on with the next node");
        mended(&c);
        galera.mend();
        c.db = Database::at(MariaDb, galera.port(1), &c.db.name);
        assert_eq!(Count::of(&c), Count::equal(10), "on the node that came back, too");
    }

    /// Each connection is to another node, and is cut soon; clients use the images meanwhile.
    #[test]
    fn galera_whose_nodes_take_turns_and_are_cut() {
        let galera = Galera::whole();
        let mut c = galera.central();
        let proxy = behind(&galera, "roundrobin");
        let through = proxy.before(&c.db);
        let others =
            [2, 3].map(|node| Writer::start(&Database::at(MariaDb, galera.port(node), &c.db.name), 2500));
        let _ = struck(&c, &through, || {
            for n in 0..30 {
                proxy.order(&format!("shutdown sessions server db/s{}", n % 3 + 1));
                sleep(Duration::from_millis(50));
            }
        });
        for other in others {
            let _ = other.stop();
        }
        c.db = through;
        mended(&c);
    }
}
