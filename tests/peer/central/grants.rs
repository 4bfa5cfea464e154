//! The privileges that the documents grant: all of them are needed, and they are enough.

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Kind, MariaDb, PostgreSql};

/// Returns the privileges that the documents grant for all but `prefetch`, one statement each.
fn granted(kind: Kind) -> Vec<String> {
    let documents = documents();
    let one_each = |line: &str| {
        let (privileges, object) = line["GRANT ".len()..].split_once(" ON ").unwrap();
        let object = object.split(';').next().unwrap().to_owned();
        let grant = |privilege: &str| format!("GRANT {} ON {object}", privilege.trim());
        privileges.split(',').map(grant).collect::<Vec<_>>()
    };
    grants(&documents, kind, false).into_iter().flat_map(one_each).collect()
}

fn the_grants_of_the_documents_are_enough_and_all_are_needed(kind: Kind) {
    let grants = granted(kind);
    // With all of them, then with each left out in turn.
    for left_out in std::iter::once(None).chain((0..grants.len()).map(Some)) {
        let (c, _mount) = with_an_old_orphan(kind);
        c.row(&id('9'), 60);
        let dead = Central::of(TestEnv::empty(Xattr), c.db.clone(), "http://dead:9292");
        dead.row(&id('a'), 60);
        let name = &c.db.name;
        let user = if kind == MariaDb {
            c.db.sql(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'pr1vate'"));
            format!("{name}@'127.0.0.1'")
        } else {
            c.db.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'pr1vate'"));
            name.clone()
        };
        for (_, grant) in grants.iter().enumerate().filter(|(n, _)| Some(*n) != left_out) {
            let sql = grant
                .replace("glance.", &format!("{name}."))
                .replace("'glance_cache'@'%'", &user)
                .replace("glance_cache", &user);
            c.db.sql(&sql);
        }
        let conf = c.conf_with(&c.db.url.replace("g:s3cret", &format!("{name}:pr1vate")), NODE, "");
        let runs = [
            &["status", "--all-nodes"][..],
            &["list"],
            &["clean", "--repair"],
            &["prune", "--max-size", "3000B"],
            &["clean", "--forget-node", "http://dead:9292"],
        ]
        .map(|command| c.env.raw(&[command, &["--config-file", &conf]].concat()));
        println!(
            "{kind:?} without {:?}: {:?}",
            left_out.map(|n| &grants[n]),
            runs.each_ref().map(|run| run.code)
        );
        if let Some(n) = left_out {
            assert!(runs.iter().any(|run| run.code > 0), "{} is not needed", grants[n]);
            assert!(
                c.ids().iter().all(|id| c.env.path(id).exists() || id.starts_with('9')),
                "files went without their rows"
            );
        } else {
            let [_, _, repair, prune, forget] = runs.map(Run::ok);
            repair.has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 1}));
            prune.has(&json!({"total_files_pruned": 3}));
            forget.has(&json!({"rows_forgotten": 1, "node_removed": true}));
        }
    }
}

mod as_root {
    use super::*;

    #[test]
    fn the_grants_of_the_documents_are_enough_and_all_are_needed_on_mariadb() {
        super::the_grants_of_the_documents_are_enough_and_all_are_needed(MariaDb);
    }

    #[test]
    fn the_grants_of_the_documents_are_enough_and_all_are_needed_on_postgresql() {
        super::the_grants_of_the_documents_are_enough_and_all_are_needed(PostgreSql);
    }
}
