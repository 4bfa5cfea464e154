//! The real Glance reads, serves, queues and caches in the same cache.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::env::*;
use crate::support::images::{content, digest};
use crate::support::peer::Peer;
use crate::support::prefetch::*;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

#[test]
fn glance_serves_what_was_fetched() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        let images = [('a', 3_000_000), ('b', 0), ('c', 17)];
        for (letter, size) in images {
            p.image(letter, size);
        }
        p.queue("cab");
        p.run(&[]).ok();
        p.holds(&images);
        p.glance_serves(&images);
    }
}

#[test]
fn glance_lists_what_was_queued() {
    let p = Prefetch::new(Sqlite);
    p.image('c', 9);
    p.run(&["--enqueue", &id('c')]).ok();
    let mut glance = Peer::start();
    let listing = glance.call("listing", json!({"dir": p.env.dir(), "driver": "sqlite"}));
    assert_eq!(listing["queued_images"], json!([id('c')]));
}

#[test]
fn glance_goes_on_with_what_was_fetched() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        for letter in "abc".chars() {
            p.image(letter, 1000);
        }
        p.run(&[&id('a'), &id('b'), &id('c')]).ok();
        if driver == Xattr {
            // Its lock files are images to the xattr driver, and cannot be served.
            for lock in ["glance-cache", "glance-cache-prune"] {
                fs::remove_file(p.env.path(lock)).unwrap();
            }
        }
        let mut glance = Peer::start();
        let arguments = json!({"dir": p.env.dir(), "driver": driver.name(), "gone": [], "fresh": id('f')});
        glance.call("use", arguments);
    }
}

fn records_of_every_database_and_the_central_index(kind: Kind) {
    let p = Prefetch::on(Xattr, kind);
    let node = "http://n1.example:9292";
    p.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
    p.image('a', 100_000);
    p.image('b', 5000);
    p.locate('b', "file:///nowhere", r#"{"store": "other"}"#);
    p.update('c', "size = 1");
    p.queue("abc");
    let conf = p.env.write("glance-api.conf", format!(
        "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = centralized_db\nworker_self_reference_url = \
         {node}\n\
         [glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}\n",
        p.env.dir().display(), p.env.outside("store").display(), p.db.url
    ));
    let run = p.env.raw(&["prefetch", "--config-file", &conf]).code(1);
    assert_eq!(run.json()["total_files_prefetched"], 2, "{kind:?}");
    assert_eq!(Prefetch::told(&run, 'c')["outcome"], "gone");
    assert_eq!(p.env.images(), "ab");
    let rows = p.db.rows("SELECT image_id, size, hits FROM cached_images ORDER BY image_id");
    assert_eq!(rows, [[id('a'), "100000".into(), "0".into()], [id('b'), "5000".into(), "0".into()]]);
    let mut glance = Peer::start();
    let arguments =
        json!({"dir": p.env.dir(), "driver": "centralized_db", "connection": p.db.url, "node": node});
    let found = glance.call("served", arguments);
    assert_eq!(found[id('a')], json!([digest("md5sum", &content('a', 100_000)), 100_000, 0, 1]));
    assert_eq!(found.as_object().unwrap().len(), 2);
}

#[test]
fn records_of_every_database_and_the_central_index_on_sqlite() {
    records_of_every_database_and_the_central_index(SqliteFile);
}

#[test]
fn records_of_every_database_and_the_central_index_on_mariadb() {
    records_of_every_database_and_the_central_index(MariaDb);
}

#[test]
fn records_of_every_database_and_the_central_index_on_postgresql() {
    records_of_every_database_and_the_central_index(PostgreSql);
}

#[test]
fn what_glance_caches_meanwhile_is_glances() {
    for driver in [Sqlite, Xattr] {
        for fail in [false, true] {
            let p = Prefetch::new(driver);
            p.image('a', 3_000_000);
            p.queue("a");
            let mut glance = Peer::start();
            glance.call("listing", json!({"dir": p.env.dir(), "driver": driver.name()}));
            let ours = p.start(&["-v", "--rate-limit", "1500000"]);
            let claim = p.env.path("incomplete").join(id('a'));
            until("the claim", || claim.exists());
            let pause = if fail { 0.0 } else { 4.0 };
            let arguments = json!({
                "dir": p.env.dir(), "driver": driver.name(), "image_id": id('a'), "pause": pause,
                "size": 3_000_000, "fail": fail,
            });
            glance.ask("slowly", arguments);
            if fail {
                // Glance gives up, and moves what was our claim into invalid/: then it is ours again.
                glance.answer().unwrap();
                ours.wait().ok().has(&json!({"total_files_prefetched": 1}));
                p.holds(&[('a', 3_000_000)]);
            } else {
                let run = ours.wait().ok();
                assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance", "{}", run.stderr);
                glance.answer().unwrap();
                assert_eq!(
                    fs::read(p.env.path(id('a'))).unwrap(),
                    vec![b'g'; 3_000_000],
                    "the test's own Glance"
                );
                assert_eq!((p.env.left().as_str(), p.env.names("incomplete").len()), ("a", 0));
            }
        }
    }
}

#[test]
fn killed_at_any_moment_the_next_run_goes_on() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        for letter in "abcdef".chars() {
            p.image(letter, 400_000);
        }
        p.queue("abcdef");
        let mut kills = 0;
        for n in 0_u64.. {
            let mut ours = p.start(&["--rate-limit", "4MB"]);
            sleep(Duration::from_millis(15 + n * 37 % 400));
            if ours.child.try_wait().unwrap().is_some() {
                ours.wait().ok();
                break;
            }
            ours.signal(Signal::KILL);
            let _ = ours.wait();
            kills += 1;
            for letter in p.env.images().chars() {
                assert!(
                    fs::read(p.env.path(id(letter))).unwrap() == content(letter, 400_000),
                    "{letter} after {n} kills"
                );
            }
            let names = p.env.names("incomplete");
            assert!(
                names.iter().all(|name| p.env.path("incomplete").join(name).metadata().unwrap().len() == 0)
            );
            assert!(kills < 200, "it never ends");
        }
        println!("{}: {kills} kills", driver.name());
        p.run(&[]).ok();
        p.holds(&"abcdef".chars().map(|letter| (letter, 400_000)).collect::<Vec<_>>());
        assert_eq!(p.queued(), "");
        p.glance_serves(&"abcdef".chars().map(|letter| (letter, 400_000)).collect::<Vec<_>>());
    }
}

#[test]
fn a_row_without_a_file_that_comes_up_meanwhile_is_replaced() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 3_000_000);
    p.image('b', 100);
    p.run(&[&id('b')]).ok();
    p.queue("a");
    let ours = p.start(&["--rate-limit", "2MB"]);
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    p.env.ghost('a', 1);
    p.env.sql("UPDATE cached_images SET hits = 7 WHERE size = 1000");
    ours.wait().ok();
    p.holds(&[('a', 3_000_000), ('b', 100)]);
    p.glance_serves(&[('a', 3_000_000), ('b', 100)]);
}
