//! What lies in the cache of a node and is no image, and rows that point elsewhere.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::rights::Immutable;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, SqliteFile};

fn foreign_files_in_the_base(kind: Kind) {
    let c = five(kind);
    let foreign = ["README", ".hidden", "glance-cache-clean", "x.db"];
    for name in foreign {
        c.env.file(name, 5000, 90);
    }
    c.prunes_to_cde();
    assert!(foreign.iter().all(|name| c.env.path(name).exists()));
}

#[test]
fn foreign_files_in_the_base_on_sqlite() {
    foreign_files_in_the_base(SqliteFile);
}

#[test]
fn foreign_files_in_the_base_on_mariadb() {
    foreign_files_in_the_base(MariaDb);
}

#[test]
fn foreign_files_in_the_base_on_postgresql() {
    foreign_files_in_the_base(PostgreSql);
}

fn a_link_in_the_base_to_a_large_file_outside(kind: Kind) {
    let c = five(kind);
    let target = c.env.outside("large");
    fs::File::create(&target).unwrap().set_len(10_000).unwrap();
    c.env.link(id('f'), &target);
    c.row(&id('f'), 60);
    c.prune("3000")
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
    assert_eq!(c.ids().len(), 3);
    assert!(target.exists() && c.env.path(id('f')).is_symlink());
}

#[test]
fn a_link_in_the_base_to_a_large_file_outside_on_sqlite() {
    a_link_in_the_base_to_a_large_file_outside(SqliteFile);
}

#[test]
fn a_link_in_the_base_to_a_large_file_outside_on_mariadb() {
    a_link_in_the_base_to_a_large_file_outside(MariaDb);
}

#[test]
fn a_link_in_the_base_to_a_large_file_outside_on_postgresql() {
    a_link_in_the_base_to_a_large_file_outside(PostgreSql);
}

fn a_dangling_link_in_the_base(kind: Kind) {
    let c = five(kind);
    c.env.link(id('f'), "/nonexistent/target");
    c.row(&id('f'), 60);
    c.prune("3000").ok().has(&json!({"total_files_pruned": 2, "ghosts_forgotten": 1}));
}

#[test]
fn a_dangling_link_in_the_base_on_sqlite() {
    a_dangling_link_in_the_base(SqliteFile);
}

#[test]
fn a_dangling_link_in_the_base_on_mariadb() {
    a_dangling_link_in_the_base(MariaDb);
}

#[test]
fn a_dangling_link_in_the_base_on_postgresql() {
    a_dangling_link_in_the_base(PostgreSql);
}

fn a_directory_in_the_base(kind: Kind) {
    let c = five(kind);
    fs::create_dir(c.env.path(id('f'))).unwrap();
    c.prune("3000").ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!((c.env.images().as_str(), c.ids().len()), ("cdef", 3));
}

#[test]
fn a_directory_in_the_base_on_sqlite() {
    a_directory_in_the_base(SqliteFile);
}

#[test]
fn a_directory_in_the_base_on_mariadb() {
    a_directory_in_the_base(MariaDb);
}

#[test]
fn a_directory_in_the_base_on_postgresql() {
    a_directory_in_the_base(PostgreSql);
}

fn rows_that_point_outside(kind: Kind) {
    let c = five(kind);
    fs::create_dir(c.env.outside("outside")).unwrap();
    let victim = c.env.write("outside/victim", "x");
    for name in ["../outside/victim", "/etc/passwd", "..", "incomplete/../../outside/victim"] {
        c.row(name, 90);
    }
    c.prunes_to_cde();
    assert!(fs::exists(&victim).unwrap());
    c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 4}));
    assert!(fs::exists(&victim).unwrap());
    assert_eq!(c.left(), "cde");
}

#[test]
fn rows_that_point_outside_on_sqlite() {
    rows_that_point_outside(SqliteFile);
}

#[test]
fn rows_that_point_outside_on_mariadb() {
    rows_that_point_outside(MariaDb);
}

#[test]
fn rows_that_point_outside_on_postgresql() {
    rows_that_point_outside(PostgreSql);
}

fn rows_that_name_a_directory(kind: Kind) {
    let c = five(kind);
    for name in ["", "invalid", "."] {
        c.row(name, 90);
    }
    c.prunes_to_cde();
    assert!(c.env.path("invalid").exists());
    c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 3}));
    assert_eq!(c.left(), "cde", "repair drops the rows that can name no image");
}

#[test]
fn rows_that_name_a_directory_on_sqlite() {
    rows_that_name_a_directory(SqliteFile);
}

#[test]
fn rows_that_name_a_directory_on_mariadb() {
    rows_that_name_a_directory(MariaDb);
}

#[test]
fn rows_that_name_a_directory_on_postgresql() {
    rows_that_name_a_directory(PostgreSql);
}

fn names_that_are_no_uuid(kind: Kind) {
    let c = five(kind);
    c.env.file("not-a-uuid", 5000, 90);
    c.row("not-a-uuid", 90);
    c.prunes_to_cde();
    assert!(c.env.path("not-a-uuid").exists());
}

#[test]
fn names_that_are_no_uuid_on_sqlite() {
    names_that_are_no_uuid(SqliteFile);
}

#[test]
fn names_that_are_no_uuid_on_mariadb() {
    names_that_are_no_uuid(MariaDb);
}

#[test]
fn names_that_are_no_uuid_on_postgresql() {
    names_that_are_no_uuid(PostgreSql);
}

fn hostile_names(kind: Kind) {
    let c = five(kind);
    for name in [&b"bad\xff\xfename"[..], b"new\nline\x1b[31m"] {
        let name = std::ffi::OsStr::from_bytes(name);
        c.env.file(name, 10, 90);
        c.env.file(std::path::Path::new("invalid").join(name), 10, 90);
        c.env.file(std::path::Path::new("incomplete").join(name), 10, 90);
    }
    c.prunes_to_cde();
    let run = c.run("clean", &["-v"]).ok().has(&json!({"invalid_files": 2, "stalled_files": 2}));
    assert!(!run.stderr.contains('\u{1b}') && !run.stdout.contains('\u{1b}'));
}

#[test]
fn hostile_names_on_sqlite() {
    hostile_names(SqliteFile);
}

#[test]
fn hostile_names_on_mariadb() {
    hostile_names(MariaDb);
}

#[test]
fn hostile_names_on_postgresql() {
    hostile_names(PostgreSql);
}

fn the_next_image_is_immutable(kind: Kind) {
    let c = five(kind);
    let held = Immutable::new(c.env.path(id('a')));
    c.prune("3000").fails(1, &["Operation not permitted"]).has(&json!({"total_files_pruned": 2}));
    assert_eq!(c.left(), "ade", "the next in order was taken instead");
    drop(held);
}

mod as_root {
    use super::*;

    #[test]
    fn the_next_image_is_immutable_on_sqlite() {
        super::the_next_image_is_immutable(SqliteFile);
    }

    #[test]
    fn the_next_image_is_immutable_on_mariadb() {
        super::the_next_image_is_immutable(MariaDb);
    }

    #[test]
    fn the_next_image_is_immutable_on_postgresql() {
        super::the_next_image_is_immutable(PostgreSql);
    }

    /// `INSERT IGNORE` would turn this error into a warning, and the orphan would stay without a word.
    #[test]
    fn an_orphan_whose_row_the_database_refuses_is_an_error_on_mariadb() {
        let (c, _mount) = with_an_old_orphan(MariaDb);
        c.db.sql("DELETE FROM cached_images");
        for letter in "abcde".chars() {
            std::fs::remove_file(c.env.path(id(letter))).unwrap();
        }
        c.db.sql("ALTER TABLE cached_images ADD CONSTRAINT c CHECK (size < 5)");
        let run = c.run("clean", &["--repair"]).fails(3, &["cannot insert rows"]);
        assert!(run.stderr.to_lowercase().contains("constraint"), "{run:?}");
        c.db.sql("ALTER TABLE cached_images DROP CONSTRAINT c");
        c.run("clean", &["--repair"]).ok().has(&json!({"orphans_adopted": 1}));
    }
}

/// A database without an encoding holds any bytes: such a row and such a node keep nothing from being done.
#[test]
fn bytes_of_no_encoding_on_postgresql() {
    let server = Database::bare(PostgreSql);
    let name = format!("{}_ascii", server.name);
    server.sql(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"));
    let db = Database::at(PostgreSql, server.port(), &name);
    db.make_tables();
    db.sql("INSERT INTO node_reference (node_reference_url) VALUES (E'http://caf\\xe9.example:9292')");
    let c = Central::of(TestEnv::empty(Xattr), db, NODE);
    c.images(FIVE);
    for bytes in [r"E'\xff\xfe'", r"E'\xc3\x28-0000-4000-8000-000000000000'"] {
        c.db.sql(&format!(
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
             SELECT {bytes}, now(), now(), 1000, 0, node_reference_id FROM node_reference"
        ));
    }
    let _ = c.run("list", &[]).ok();
    let _ = c.run("status", &["--all-nodes"]).ok();
    c.run("prune", &["--max-size", "3000B"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(c.env.images(), "cde");
    c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 2, "ghosts_forgotten": 0}));
    assert_eq!(c.left(), "cde");
}
