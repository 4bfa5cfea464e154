//! Glance's records on every kind of database, the central index that is filled, and privileges.

use std::fs;
use std::path::Path;

use crate::support::central::{documents, grants};
use crate::support::env::*;
use crate::support::prefetch::*;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

fn an_id_in_capitals_is_another_image(kind: Kind) {
    let p = Prefetch::on(Sqlite, kind);
    p.image('a', 1000);
    let capitals = id('a').to_uppercase();
    p.queue("a");
    p.env.file(Path::new("queue").join(&capitals), 0, 1);
    let run = p.run(&[]).code(1);
    println!("{kind:?} {}", run.stderr);
    assert!(!p.env.path(&capitals).exists(), "{kind:?}");
    p.holds(&[('a', 1000)]);
}

#[test]
fn an_id_in_capitals_is_another_image_on_sqlite() {
    an_id_in_capitals_is_another_image(SqliteFile);
}

#[test]
fn an_id_in_capitals_is_another_image_on_mariadb() {
    an_id_in_capitals_is_another_image(MariaDb);
}

#[test]
fn an_id_in_capitals_is_another_image_on_postgresql() {
    an_id_in_capitals_is_another_image(PostgreSql);
}

fn odd_records(kind: Kind) {
    // What is told, exit code, whether it is cached then.
    let cases: &[(&str, &str, i32, bool)] = &[
        ("size = NULL", "", 0, true),
        ("size = 0", "expected 0 according to Glance's record", 1, false),
        ("size = -1", "", 0, true),
        ("size = 9223372036854775807", "", 1, false),
        ("checksum = UPPER(checksum), os_hash_algo = NULL", "md5", 0, true),
        ("os_hash_value = UPPER(os_hash_value), os_hash_algo = 'SHA512'", "SHA512", 0, true),
        ("os_hash_algo = '', os_hash_value = ''", "md5", 0, true),
        ("os_hash_algo = 'shake_256'", "md5", 0, true),
        ("os_hash_algo = '', os_hash_value = '', checksum = ''", "size", 0, true),
        ("status = 'ACTIVE'", "status", 1, false),
        ("os_hidden = 1", "", 0, true),
        ("visibility = 'private'", "", 0, true),
        ("checksum = 'ffff'", "", 0, true),
        ("os_hash_value = 'ffff'", "expected ffff", 1, false),
    ];
    for (change, word, code, cached) in cases {
        let p = Prefetch::on(Xattr, kind);
        p.image('a', 1000);
        let change = if kind == PostgreSql {
            change.replace("os_hidden = 1", "os_hidden = true")
        } else {
            (*change).to_owned()
        };
        p.update('a', &change);
        p.queue("a");
        let run = p.run(&["-v"]);
        println!("{kind:?} {change}: {} {}", run.code, run.stderr);
        assert_eq!(run.code, *code, "{change}");
        assert!(run.stderr.contains(word), "{change}");
        assert_eq!(p.env.left() == "a", *cached, "{change}");
    }
}

#[test]
fn odd_records_on_sqlite() {
    odd_records(SqliteFile);
}

#[test]
fn odd_records_on_mariadb() {
    odd_records(MariaDb);
}

#[test]
fn odd_records_on_postgresql() {
    odd_records(PostgreSql);
}

fn a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced(kind: Kind) {
    let p = Prefetch::on(Xattr, kind);
    p.image('a', 600_000);
    p.queue("a");
    let mut command = on_central(&p, "http://n1.example:9292", &["--rate-limit", "1MB"]);
    p.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://n2.example:9292')");
    let ours = Running::start(&mut command, &p.env.outside(""));
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    p.db.sql(&format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
         SELECT '{}', '2024-01-01 00:00:00', '2024-01-01 00:00:00', 1000, 7, node_reference_id FROM \
         node_reference",
        id('a')
    ));
    ours.wait().ok();
    let rows = p.db.rows("SELECT size, hits FROM cached_images ORDER BY node_reference_id");
    assert_eq!(rows, [["600000", "0"], ["1000", "7"]], "{kind:?}: only this node's");
    assert_eq!(p.env.images(), "a");
}

#[test]
fn a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced_on_sqlite() {
    a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced(SqliteFile);
}

#[test]
fn a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced_on_mariadb() {
    a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced(MariaDb);
}

#[test]
fn a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced_on_postgresql() {
    a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced(PostgreSql);
}

fn a_row_that_a_server_refuses_is_told(kind: Kind) {
    for (change, word) in [
        ("ALTER TABLE cached_images ADD CONSTRAINT small CHECK (size < 1000)", "small"),
        ("DELETE FROM node_reference", "foreign key"),
        (
            "CREATE UNIQUE INDEX sizes ON cached_images (size); \
             INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
             node_reference_id) \
             SELECT 'b', '2024-01-01 00:00:00', '2024-01-01 00:00:00', 600000, 0, node_reference_id FROM \
             node_reference",
            "uplicate",
        ),
    ] {
        let p = Prefetch::on(Xattr, kind);
        p.image('a', 600_000);
        p.queue("a");
        let arguments = ["--rate-limit", "1MB", "--lock-timeout", "1s"];
        let mut command = on_central(&p, "http://n1.example:9292", &arguments);
        let ours = Running::start(&mut command, &p.env.outside(""));
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        p.db.sql(change);
        let run = ours.wait().fails(1, &["cannot be published", "cannot insert a row", word]);
        println!("{kind:?}: {}", run.stderr);
        assert_eq!(
            (p.env.images().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
            ("", "a", 0)
        );
    }
}

#[test]
fn a_row_that_a_server_refuses_is_told_on_mariadb() {
    a_row_that_a_server_refuses_is_told(MariaDb);
}

#[test]
fn a_row_that_a_server_refuses_is_told_on_postgresql() {
    a_row_that_a_server_refuses_is_told(PostgreSql);
}

fn a_database_older_than_the_central_index_has_the_records(kind: Kind) {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::on(driver, kind);
        p.image('a', 1000);
        p.db.sql("DROP TABLE cached_images");
        p.db.sql("DROP TABLE node_reference");
        p.queue("a");
        p.run(&["--dry-run"]).ok();
        p.run(&[]).ok();
        p.holds(&[('a', 1000)]);
    }
}

#[test]
fn a_database_older_than_the_central_index_has_the_records_on_sqlite() {
    a_database_older_than_the_central_index_has_the_records(SqliteFile);
}

#[test]
fn a_database_older_than_the_central_index_has_the_records_on_mariadb() {
    a_database_older_than_the_central_index_has_the_records(MariaDb);
}

#[test]
fn a_database_older_than_the_central_index_has_the_records_on_postgresql() {
    a_database_older_than_the_central_index_has_the_records(PostgreSql);
}

fn without_a_database_or_its_tables_nothing_is_made(kind: Kind) {
    let p = Prefetch::on(Sqlite, kind);
    p.image('a', 1000);
    p.image('b', 1000);
    p.queue("ab");
    fs::remove_file(p.env.path("cache.db")).unwrap();
    let before = p.env.snapshot();
    let conf = p.env.write("bare.conf", p.env.conf_text(""));
    for images in [&[][..], &[id('a')]] {
        let arguments = [&["prefetch".to_owned(), "--config-file".to_owned(), conf.clone()], images].concat();
        p.env.raw(&arguments).fails(2, &["[database] connection is not set"]);
    }
    assert_eq!(p.env.snapshot(), before);
    p.db.sql("ALTER TABLE images RENAME TO elsewhere");
    let run = p.run(&[]).fails(3, &["images", "glance-manage db_sync"]);
    assert!(
        !run.stderr.contains(&id('a')) && run.json()["error"].is_string(),
        "once for all: {}",
        run.stderr
    );
    let mut after = p.env.snapshot();
    after.retain(|path, _| !path.contains("glance-cache"));
    let keys = |map: &std::collections::BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&after), keys(&before), "{kind:?}");
    // What a dead run left goes all the same: nothing else is to be done.
    for letter in "ab".chars() {
        fs::remove_file(p.env.path("queue").join(id(letter))).unwrap();
    }
    fs::write(p.env.path("incomplete").join(id('c') + ".prefetch"), "half").unwrap();
    p.env.raw(&["prefetch", "--config-file", &conf]).ok();
    assert_eq!(p.env.names("incomplete"), [""; 0]);
}

#[test]
fn without_a_database_or_its_tables_nothing_is_made_on_sqlite() {
    without_a_database_or_its_tables_nothing_is_made(SqliteFile);
}

#[test]
fn without_a_database_or_its_tables_nothing_is_made_on_mariadb() {
    without_a_database_or_its_tables_nothing_is_made(MariaDb);
}

#[test]
fn without_a_database_or_its_tables_nothing_is_made_on_postgresql() {
    without_a_database_or_its_tables_nothing_is_made(PostgreSql);
}

fn what_the_documents_grant_for_prefetch_is_enough(kind: Kind) {
    let documents = documents();
    let p = Prefetch::on(Xattr, kind);
    p.image('a', 1000);
    p.queue("a");
    let (name, is_maria) = (&p.db.name, kind == MariaDb);
    let user = if is_maria { format!("{name}@'127.0.0.1'") } else { name.clone() };
    let login = if is_maria { "IDENTIFIED BY" } else { "LOGIN PASSWORD" };
    p.db.sql(&format!("CREATE {} {user} {login} 'pr1vate'", if is_maria { "USER" } else { "ROLE" }));
    for (n, grant) in grants(&documents, kind, true).into_iter().enumerate() {
        let grant = grant.trim().split(';').next().unwrap().replace("glance.", &format!("{name}."));
        let grant = grant.replace("'glance_cache'@'%'", &user).replace("glance_cache", &user);
        let conf = p.conf("");
        let text = fs::read_to_string(&conf).unwrap().replace("g:s3cret", &format!("{name}:pr1vate"));
        let conf = p.env.write("granted.conf", text);
        let run = p.env.raw(&["prefetch", "--config-file", &conf]);
        assert!(run.code > 0 && !run.stderr.contains("pr1vate"), "{n}: {}", run.stderr);
        p.db.sql(&grant);
    }
    p.env.raw(&["prefetch", "--config-file", p.env.outside("granted.conf").to_str().unwrap()]).ok();
    p.holds(&[('a', 1000)]);
}

#[test]
fn what_the_documents_grant_for_prefetch_is_enough_on_mariadb() {
    what_the_documents_grant_for_prefetch_is_enough(MariaDb);
}

#[test]
fn what_the_documents_grant_for_prefetch_is_enough_on_postgresql() {
    what_the_documents_grant_for_prefetch_is_enough(PostgreSql);
}

fn the_records_are_read_for_the_other_drivers(kind: Kind, driver: Driver) {
    let p = Prefetch::on(driver, kind);
    p.image('a', 1000);
    p.update('a', "os_hash_algo = NULL");
    p.queue("a");
    assert_eq!(Prefetch::told(&p.run(&[]).ok(), 'a')["verified_by"], "md5");
    p.holds(&[('a', 1000)]);
}

#[test]
fn the_records_are_read_for_sqlite_on_mariadb() {
    the_records_are_read_for_the_other_drivers(MariaDb, Sqlite);
}

#[test]
fn the_records_are_read_for_xattr_on_postgresql() {
    the_records_are_read_for_the_other_drivers(PostgreSql, Xattr);
}

/// A prefetch into the central index, as a user who may read everything and write what is granted here.
#[track_caller]
fn finds_out_first_that_it_cannot_write(kind: Kind, granted: &[&str]) {
    let p = Prefetch::on(Xattr, kind);
    p.image('a', 9);
    p.queue("a");
    let name = &p.db.name;
    let (user, of) = if kind == MariaDb {
        p.db.sql(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 's3cret'"));
        (format!("{name}@'127.0.0.1'"), format!("{name}."))
    } else {
        p.db.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 's3cret'"));
        (name.clone(), String::new())
    };
    for table in ["cached_images", "node_reference", "images", "image_locations"] {
        p.db.sql(&format!("GRANT SELECT ON {of}{table} TO {user}"));
    }
    for grant in granted {
        p.db.sql(&format!("GRANT {grant} {of}cached_images TO {user}"));
    }
    let mut command = on_central(&p, "http://n1:9292", &["-v"]);
    let path = p.env.outside("central.conf");
    let text = fs::read_to_string(&path).unwrap().replace("//g:", &format!("//{name}:"));
    fs::write(&path, text).unwrap();
    let run = p.env.finish(&mut command).fails(3, &["cannot write to the index"]);
    println!("{kind:?} {granted:?}: {}", run.stderr.lines().next().unwrap_or_default());
    assert!(!run.stderr.contains("fetched"), "{}", run.stderr);
    assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "a"));
    assert_eq!(p.env.names("incomplete"), [""; 0]);
}

#[test]
fn who_may_only_read_the_index_downloads_nothing_on_mariadb() {
    for granted in [&[][..], &["INSERT ON"], &["DELETE ON", "UPDATE ON"]] {
        finds_out_first_that_it_cannot_write(MariaDb, granted);
    }
}

#[test]
fn who_may_only_read_the_index_downloads_nothing_on_postgresql() {
    // With the last of them only the right to the sequence of the keys is missing.
    for granted in [&[][..], &["INSERT ON"], &["DELETE, UPDATE, INSERT ON"]] {
        finds_out_first_that_it_cannot_write(PostgreSql, granted);
    }
}

/// As on a hot standby: every transaction is read-only.
#[test]
fn a_read_only_server_is_found_out_before_anything_is_downloaded_on_postgresql() {
    let p = Prefetch::on(Xattr, PostgreSql);
    p.image('a', 9);
    p.queue("a");
    let mut command = on_central(&p, "http://n1:9292", &["-v"]);
    p.db.sql(&format!("ALTER ROLE g IN DATABASE {} SET default_transaction_read_only = on", p.db.name));
    let run = p.env.finish(&mut command).fails(3, &["cannot write to the index", "read-only transaction"]);
    assert!(!run.stderr.contains("fetched"), "{}", run.stderr);
}

#[test]
fn an_image_whose_row_is_not_inserted_is_not_published_on_postgresql() {
    let p = Prefetch::on(Xattr, PostgreSql);
    p.image('a', 9);
    p.queue("a");
    let mut command = on_central(&p, "http://n1:9292", &["-v"]);
    p.db.sql(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t \
         BEFORE INSERT ON cached_images FOR EACH ROW EXECUTE FUNCTION f()",
    );
    p.env.finish(&mut command).fails(1, &["cannot be published", "was not inserted"]);
    assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "a"));
}
