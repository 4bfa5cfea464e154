//! Glance's own pruner and ours on the same central database.

use crate::support::central::*;
use crate::support::env::*;
use crate::support::peer::script;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

fn side_by_side_with_the_real_pruner(kind: Kind) {
    // Sizes, hours since the last use (ties among them), rows without files; then the limit.
    let shapes: [(&str, &[Image], &str, u64); 8] = [
        ("plain", FIVE, "", 3000),
        ("within", FIVE, "", 5000),
        ("all", FIVE, "", 0),
        (
            "ties",
            &[('d', 900, 5, 1), ('a', 800, 5, 2), ('c', 700, 5, 0), ('b', 600, 5, 9), ('e', 500, 4, 1)],
            "",
            1700,
        ),
        ("ghosts", FIVE, "89", 2500),
        ("empty ones", &[('a', 0, 9, 0), ('b', 1000, 8, 0), ('c', 0, 7, 0), ('d', 1000, 6, 0)], "", 1000),
        ("one large", &[('a', 10, 9, 0), ('b', 1_000_000, 8, 3), ('c', 10, 7, 0)], "", 20),
        (
            "reversed",
            &[('f', 300, 1, 0), ('e', 300, 2, 0), ('d', 300, 3, 0), ('c', 300, 4, 0), ('b', 300, 5, 0)],
            "7",
            650,
        ),
    ];
    let mut differing = Vec::new();
    // Only SQLite has an order among images used in the same second; MariaDB and PostgreSQL take any of them.
    let shapes: Vec<_> = shapes.iter().filter(|shape| shape.0 != "ties" || kind == SqliteFile).collect();
    for (name, images, ghosts, limit) in &shapes {
        let outcome = |real: bool| {
            let c = Central::new(kind, images);
            ghosts.chars().for_each(|ghost| c.row(&id(ghost), 99));
            let conf = c.conf_with(&c.db.url, NODE, &format!("image_cache_max_size = {limit}"));
            if real {
                let run =
                    c.env.finish(c.env.command(script("glance-cache-pruner")).args(["--config-file", &conf]));
                assert_eq!(run.code, 0, "the real pruner: {}", run.stderr);
            } else {
                c.env.old("glance-cache-pruner", &["--config-file", &conf]).ok().silent();
            }
            (c.env.images(), c.db.rows("SELECT id, image_id, size, hits FROM cached_images ORDER BY id"))
        };
        let (theirs, ours) = (outcome(true), outcome(false));
        // Ghosts go at once here, and in their turn there.
        let same_files = theirs.0 == ours.0;
        if !same_files || (ghosts.is_empty() && theirs.1 != ours.1) {
            differing.push(format!("{name}: theirs {theirs:?}, ours {ours:?}"));
        }
    }
    println!("{kind:?}: {} caches, {} differ", shapes.len(), differing.len());
    assert!(differing.is_empty(), "{kind:?}: {differing:#?}");
}

#[test]
fn side_by_side_with_the_real_pruner_on_sqlite() {
    side_by_side_with_the_real_pruner(SqliteFile);
}

#[test]
fn side_by_side_with_the_real_pruner_on_mariadb() {
    side_by_side_with_the_real_pruner(MariaDb);
}

#[test]
fn side_by_side_with_the_real_pruner_on_postgresql() {
    side_by_side_with_the_real_pruner(PostgreSql);
}
