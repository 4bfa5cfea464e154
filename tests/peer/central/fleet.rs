//! All nodes of a central database: `list`, `status --all-nodes`, and nodes that are decommissioned.

use serde_json::{Value, json};

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

fn list_tells_what_the_rows_say_in_utc(kind: Kind) {
    let c = five(kind);
    c.db.sql("UPDATE cached_images SET last_accessed = '2024-01-12 17:58:48', hits = 7");
    let conf = c.conf();
    for zone in ["UTC", "Asia/Tokyo", "America/New_York"] {
        let mut command = c.env.command(BINARY);
        command.env("TZ", zone).args(["list", "--config-file", &conf, "--format", "json"]);
        let list = c.env.finish(&mut command).ok().json();
        assert_eq!(list["cached_images"].as_array().unwrap().len(), 5);
        assert_eq!(list["cached_images"][0]["last_accessed"], json!(1_705_082_328.0));
        assert_eq!(list["cached_images"][0]["hits"], json!(7));
    }
    let before = c.snapshot();
    c.run("list", &[]).ok();
    c.run("status", &[]).ok();
    c.run("prune", &["--dry-run", "--max-size", "0"]).ok().has(&json!({"total_files_pruned": 5}));
    assert_eq!(c.snapshot(), before, "nothing is changed by looking");
}

#[test]
fn list_tells_what_the_rows_say_in_utc_on_sqlite() {
    list_tells_what_the_rows_say_in_utc(SqliteFile);
}

#[test]
fn list_tells_what_the_rows_say_in_utc_on_mariadb() {
    list_tells_what_the_rows_say_in_utc(MariaDb);
}

#[test]
fn list_tells_what_the_rows_say_in_utc_on_postgresql() {
    list_tells_what_the_rows_say_in_utc(PostgreSql);
}

fn the_fleet_at_a_glance(kind: Kind) {
    let c = fleet(kind);
    let before = c.db.rows("SELECT COUNT(*), SUM(size) FROM cached_images");
    let run = c.run("status", &["--all-nodes", "--format", "json"]).ok();
    println!(
        "{kind:?}: status --all-nodes, 50 nodes and 100,000 rows: {:.0} ms",
        run.took.as_secs_f64() * 1e3
    );
    let status = run.json();
    assert_eq!(
        status["total"],
        json!({"nodes": 50, "images": 100_000, "bytes": 199_950_000_u64, "different_images": 95_100})
    );
    assert_eq!(status["nodes"].as_array().unwrap().len(), 50);
    let own = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == NODE).unwrap();
    assert_eq!(
        own,
        &json!({"node": NODE, "images": 2000, "bytes": 3_999_000, "hits": 2000, "this_node": true,
        "oldest_use": "2026-01-01T00:00:00Z", "newest_use": "2026-01-28T00:00:00Z"})
    );
    assert_eq!(
        status["on_most_nodes"][0],
        json!({"image_id": nth_id(0), "nodes": 50, "bytes": 1000, "hits": 50})
    );
    assert_eq!(status["on_one_node"]["images"], json!(95_000));
    assert_eq!(status["on_one_node"]["largest"][0]["bytes"], json!(2999));
    let text = c.run("status", &["--all-nodes"]).ok();
    assert!(text.stdout.contains("50 nodes, 95100 different images"), "{}", text.stdout);
    // Needs no cache directory.
    let file = c.env.write("url", &c.db.url);
    c.env.raw(&["status", "--all-nodes", "--database-file", &file]).ok();

    let list = c.run("list", &["--image", &nth_id(7), "--format", "json"]).ok().json();
    assert_eq!(list["nodes"].as_array().unwrap().len(), 50);
    assert_eq!(list["cached_images"][0]["hits"], json!(1));
    // More than the harness takes from a run.
    let conf = c.conf();
    let all = c
        .env
        .command(BINARY)
        .args(["list", "--all-nodes", "--format", "json", "--config-file", &conf])
        .output();
    let all: Value = serde_json::from_slice(&all.unwrap().stdout).unwrap();
    assert_eq!(all["cached_images"].as_array().unwrap().len(), 100_000);
    assert_eq!(c.db.rows("SELECT COUNT(*), SUM(size) FROM cached_images"), before);
}

#[test]
fn the_fleet_at_a_glance_on_sqlite() {
    the_fleet_at_a_glance(SqliteFile);
}

#[test]
fn the_fleet_at_a_glance_on_mariadb() {
    the_fleet_at_a_glance(MariaDb);
}

#[test]
fn the_fleet_at_a_glance_on_postgresql() {
    the_fleet_at_a_glance(PostgreSql);
}

fn a_dead_node_is_forgotten(kind: Kind) {
    let c = fleet(kind);
    let count = || c.db.rows("SELECT COUNT(*) FROM cached_images")[0][0].clone();
    let forget = |arguments: &[&str]| c.run("clean", &[&["--forget-node"], arguments].concat());
    forget(&["http://f07:9292", "--dry-run"])
        .ok()
        .has(&json!({"rows_forgotten": 2000, "node_removed": true, "dry_run": true}));
    assert_eq!(count(), "100000");
    forget(&[NODE]).fails(2, &["is the node of this host"]);
    for other in ["http://f07:9292/", "HTTP://F07:9292", "http://f07:9292 "] {
        forget(&[other]).fails(2, &["did you mean http://f07:9292?"]);
    }
    forget(&["http://f\u{f3}7:9292"]).fails(2, &["does not know the node"]);
    forget(&["http://f07:9292"])
        .ok()
        .has(&json!({"node": "http://f07:9292", "rows_forgotten": 2000, "node_removed": true, "errors": []}));
    assert_eq!(count(), "98000");
    assert!(
        c.db.rows("SELECT 1 FROM node_reference WHERE node_reference_url = 'http://f07:9292'").is_empty()
    );
    forget(&["http://f07:9292"]).fails(2, &["does not know the node"]);
    // Something else refers to it: the node stays.
    if kind != SqliteFile {
        c.db.sql(
            "CREATE TABLE other (n BIGINT, FOREIGN KEY (n) REFERENCES node_reference (node_reference_id))",
        );
        c.db.sql(
            "INSERT INTO other SELECT node_reference_id FROM node_reference WHERE node_reference_url = \
                  'http://f08:9292'",
        );
        forget(&["http://f08:9292"]).ok().has(&json!({"rows_forgotten": 2000, "node_removed": false}));
        assert_eq!(count(), "96000");
    }
}

/// A database that refuses some of the rows: the others are deleted, and only these are counted.
#[test]
fn a_part_of_a_dead_node_is_forgotten() {
    let c = fleet(SqliteFile);
    let node = "(SELECT node_reference_id FROM node_reference WHERE node_reference_url = 'http://f07:9292')";
    c.db.sql(&format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
         SELECT printf('%08x-0000-0000-0000-00000000ffff', id), last_accessed, last_modified, 5000, 1, {node} \
         FROM cached_images WHERE node_reference_id = {node} LIMIT 10"
    ));
    c.db.sql(
        "CREATE TRIGGER t BEFORE DELETE ON cached_images WHEN OLD.size = 5000 BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let left = format!("SELECT COUNT(*), SUM(size) FROM cached_images WHERE node_reference_id = {node}");
    let number = |column: usize| c.db.rows(&left)[0][column].parse::<u64>().unwrap();
    let (rows, bytes) = (number(0), number(1));
    let report = c.run("clean", &["--forget-node", "http://f07:9292"]).code(1).json();
    let forgotten = rows - number(0);
    assert_eq!((forgotten, number(0)), (2000, 10));
    assert_eq!((&report["rows_forgotten"], &report["bytes"]), (&json!(forgotten), &json!(bytes - number(1))));
    assert_eq!(report["node_removed"], false, "{report}");
}

#[test]
fn a_dead_node_is_forgotten_on_sqlite() {
    a_dead_node_is_forgotten(SqliteFile);
}

#[test]
fn a_dead_node_is_forgotten_on_mariadb() {
    a_dead_node_is_forgotten(MariaDb);
}

#[test]
fn a_dead_node_is_forgotten_on_postgresql() {
    a_dead_node_is_forgotten(PostgreSql);
}

/// The sum of three such rows fits into no column.
fn sums_beyond_every_column_are_shown(kind: Kind) {
    let c = five(kind);
    c.db.sql("UPDATE cached_images SET size = 9000000000000000000, hits = 9");
    let status = c.run("status", &["--all-nodes", "--format", "json"]).ok().json();
    assert_eq!(status["nodes"][0]["bytes"], json!(i64::MAX), "{status}");
    assert_eq!(status["nodes"][0]["hits"], json!(45), "{status}");
}

#[test]
fn sums_beyond_every_column_are_shown_on_mariadb() {
    sums_beyond_every_column_are_shown(MariaDb);
}

#[test]
fn sums_beyond_every_column_are_shown_on_postgresql() {
    sums_beyond_every_column_are_shown(PostgreSql);
}
