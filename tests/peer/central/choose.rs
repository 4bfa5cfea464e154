//! Images that are named, unused for long, or simply all, on the central database; and Glance's own driver on what is
//! left.

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::peer::Peer;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

fn a_choice_removes_its_images(kind: Kind) {
    for (choice, left) in [
        (&["--image", &id('b'), &id('d')][..], "ace"),
        (&["--older-than", "35h"], "cde"),
        (&["--older-than", "35h", "--keep", &id('a')], "acde"),
        (&["--everything"], ""),
    ] {
        let c = five(kind);
        c.row(&id('9'), 99);
        let before = c.snapshot();
        let planned = c.run("prune", &[choice, &["--dry-run"]].concat()).ok().json();
        assert_eq!(c.snapshot(), before, "{kind:?}, {choice:?}: a dry run changes nothing");
        let done = c.run("prune", choice).ok().json();
        for key in ["total_files_pruned", "total_bytes_pruned", "ghosts_forgotten"] {
            assert_eq!(planned[key], done[key], "{kind:?}, {choice:?}: {key}");
        }
        assert_eq!((c.left().as_str(), &done["ghosts_forgotten"]), (left, &json!(1)), "{kind:?}, {choice:?}");
        let request = json!({
            "dir": c.env.dir(), "driver": "centralized_db", "fresh": id('f'), "connection": c.db.url, "node": c.node,
        });
        Peer::start().call("go_on", request);
    }
}

#[test]
fn a_choice_removes_its_images_on_sqlite() {
    a_choice_removes_its_images(SqliteFile);
}

#[test]
fn a_choice_removes_its_images_on_mariadb() {
    a_choice_removes_its_images(MariaDb);
}

#[test]
fn a_choice_removes_its_images_on_postgresql() {
    a_choice_removes_its_images(PostgreSql);
}
