//! Which database, which node, which directory: unset, unknown, nearly right, named by flags.

use std::fs;

use serde_json::json;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::rights::give_to_nobody;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, SqliteFile};

fn node_unset_unknown_or_nearly_right(kind: Kind) {
    let c = five(kind);
    let before = c.snapshot().1;
    for (node, says) in [
        ("", "worker_self_reference_url is not set"),
        ("http://n1.example:9292/", "did you mean http://n1.example:9292?"),
        ("https://n1.example:9292", "did you mean http://n1.example:9292?"),
        ("http://n1.example:9293", "did you mean http://n1.example:9292?"),
        ("http://other:9292", "a node is registered when glance-api is started"),
    ] {
        let conf = c.conf_with(&c.db.url, node, "image_cache_max_size = 3000");
        for command in
            [&["prune"][..], &["prune", "--dry-run"], &["clean", "--repair"], &["list"], &["status"]]
        {
            let run = c.env.raw(&[command, &["--config-file", &conf]].concat());
            run.fails(2, &[says, NODE]);
        }
        c.env.old("glance-cache-pruner", &["--config-file", &conf]).fails(1, &[NODE]);
        let roomy = c.conf_with(&c.db.url, node, "image_cache_max_size = 5000");
        c.env.old("glance-cache-pruner", &["--config-file", &roomy]).ok().silent();
    }
    assert_eq!(c.left(), "abcde");
    assert_eq!(c.snapshot().1, before, "nothing was registered");
}

#[test]
fn node_unset_unknown_or_nearly_right_on_sqlite() {
    node_unset_unknown_or_nearly_right(SqliteFile);
}

#[test]
fn node_unset_unknown_or_nearly_right_on_mariadb() {
    node_unset_unknown_or_nearly_right(MariaDb);
}

#[test]
fn node_unset_unknown_or_nearly_right_on_postgresql() {
    node_unset_unknown_or_nearly_right(PostgreSql);
}

fn database_unset_missing_or_without_tables(kind: Kind) {
    let c = five(kind);
    let tool = |database: &str| {
        let conf = c.conf_with(database, NODE, "image_cache_max_size = 3000");
        c.env.raw(&["prune", "--config-file", &conf])
    };
    tool("").fails(2, &["[database] connection is not set"]);
    tool("nonsense s3cret").fails(2, &["cannot use the URL of the database"]);
    if kind == SqliteFile {
        tool("sqlite:////nonexistent/dir/x").fails(3, &["/nonexistent/dir"]);
        tool(&format!("sqlite:///{}", c.env.outside("absent").display()))
            .fails(3, &["glance-manage db_sync"]);
        let empty = c.env.outside("empty.sqlite");
        rusqlite::Connection::open(&empty).unwrap().execute_batch("CREATE TABLE images (id)").unwrap();
        tool(&format!("sqlite:///{}", empty.display()))
            .fails(3, &["node_reference", "glance-manage db_sync"]);
        assert!(!c.env.outside("absent").exists());
    } else {
        tool(&c.db.url.replace(&c.db.name, "absent")).fails(3, &["absent"]);
        let bare = Database::new(kind, std::path::Path::new(""));
        bare.sql("DROP TABLE cached_images; ");
        bare.sql("DROP TABLE node_reference");
        tool(&bare.url).fails(3, &["glance-manage db_sync"]);
    }
    assert_eq!(c.left(), "abcde");
}

#[test]
fn database_unset_missing_or_without_tables_on_sqlite() {
    database_unset_missing_or_without_tables(SqliteFile);
}

#[test]
fn database_unset_missing_or_without_tables_on_mariadb() {
    database_unset_missing_or_without_tables(MariaDb);
}

#[test]
fn database_unset_missing_or_without_tables_on_postgresql() {
    database_unset_missing_or_without_tables(PostgreSql);
}

fn the_driver_in_another_case(kind: Kind) {
    let c = five(kind);
    let conf = fs::read_to_string(c.conf()).unwrap().replace("= centralized_db", "= CENTRALIZED_DB");
    let conf = c.env.write("other.conf", conf);
    c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000B"]).ok();
    assert_eq!(c.left(), "cde");
}

#[test]
fn the_driver_in_another_case_on_sqlite() {
    the_driver_in_another_case(SqliteFile);
}

#[test]
fn the_driver_in_another_case_on_mariadb() {
    the_driver_in_another_case(MariaDb);
}

#[test]
fn the_driver_in_another_case_on_postgresql() {
    the_driver_in_another_case(PostgreSql);
}

fn the_cache_directory_is_unset_empty_or_relative(kind: Kind) {
    let c = five(kind);
    let dir = format!("image_cache_dir = {}", c.env.dir().display());
    let with = |line: &str| {
        let conf = c.conf_with(&c.db.url, NODE, "image_cache_max_size = 3000");
        c.env.write("other.conf", fs::read_to_string(conf).unwrap().replace(&dir, line))
    };
    for line in ["", "image_cache_dir ="] {
        let conf = with(line);
        for command in ["prune", "clean"] {
            c.env.raw(&[command, "--config-file", &conf]).fails(2, &["image_cache_dir"]);
        }
        for tool in ["glance-cache-pruner", "glance-cache-cleaner"] {
            c.env.old(tool, &["--config-file", &conf]).fails(1, &["image_cache_dir"]);
        }
        assert!(!c.env.outside("incomplete").exists());
    }
    assert_eq!(c.left(), "abcde");
    c.env.raw(&["prune", "--config-file", &with("image_cache_dir = ./cache/")]).ok();
    assert_eq!(c.left(), "cde");
}

#[test]
fn the_cache_directory_is_unset_empty_or_relative_on_sqlite() {
    the_cache_directory_is_unset_empty_or_relative(SqliteFile);
}

#[test]
fn the_cache_directory_is_unset_empty_or_relative_on_mariadb() {
    the_cache_directory_is_unset_empty_or_relative(MariaDb);
}

#[test]
fn the_cache_directory_is_unset_empty_or_relative_on_postgresql() {
    the_cache_directory_is_unset_empty_or_relative(PostgreSql);
}

fn the_cache_directory_is_missing_or_a_file(kind: Kind) {
    let c = Central::empty(kind);
    fs::remove_dir_all(c.env.dir()).unwrap();
    c.prune("0").ok();
    assert!(!c.env.dir().exists());
    fs::write(c.env.dir(), "x").unwrap();
    c.prune("0").code(2);
}

#[test]
fn the_cache_directory_is_missing_or_a_file_on_sqlite() {
    the_cache_directory_is_missing_or_a_file(SqliteFile);
}

#[test]
fn the_cache_directory_is_missing_or_a_file_on_mariadb() {
    the_cache_directory_is_missing_or_a_file(MariaDb);
}

#[test]
fn the_cache_directory_is_missing_or_a_file_on_postgresql() {
    the_cache_directory_is_missing_or_a_file(PostgreSql);
}

fn without_a_driver_set_the_database_tells(kind: Kind) {
    let c = five(kind);
    let conf = fs::read_to_string(c.conf()).unwrap().replace("image_cache_driver = centralized_db\n", "");
    let conf = c.env.write("unset.conf", conf);
    let status = c.env.raw(&["status", "--config-file", &conf, "--format", "json"]).ok();
    status.has(&json!({"driver": "centralized_db", "driver_why": "found this node in the database"}));
    c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000B"]).ok();
    assert_eq!(c.left(), "cde");
    // A node that it does not know, where the directory shows no index with rows of the images.
    let other = fs::read_to_string(&conf).unwrap().replace(NODE, "http://other");
    let other = c.env.write("other.conf", other);
    c.env
        .raw(&["prune", "--config-file", &other, "--max-size", "0"])
        .fails(2, &["does not know the node", NODE]);
    let down =
        fs::read_to_string(&conf).unwrap().replace(&c.db.url, "postgresql://g:s3cret@127.0.0.1:1/glance");
    let down = c.env.write("down.conf", down);
    c.env
        .raw(&["prune", "--config-file", &down, "--max-size", "0"])
        .fails(3, &["image_cache_driver is not set"]);
    assert_eq!(c.left(), "cde");
}

#[test]
fn without_a_driver_set_the_database_tells_on_sqlite() {
    without_a_driver_set_the_database_tells(SqliteFile);
}

#[test]
fn without_a_driver_set_the_database_tells_on_mariadb() {
    without_a_driver_set_the_database_tells(MariaDb);
}

#[test]
fn without_a_driver_set_the_database_tells_on_postgresql() {
    without_a_driver_set_the_database_tells(PostgreSql);
}

fn flags_name_database_and_node(kind: Kind) {
    let c = five(kind);
    let dir = c.env.dir().to_str().unwrap().to_owned();
    let file = c.env.write("url", format!("{}\n", c.db.url));
    c.env
        .raw(&[
            "prune",
            "--cache-dir",
            &dir,
            "--driver",
            "centralized_db",
            "--database-file",
            &file,
            "--node",
            NODE,
            "--max-size",
            "3000B",
        ])
        .ok();
    assert_eq!(c.left(), "cde");
    // Another directory than the configured one: the configured database is not its index.
    let conf = c.conf().replace("glance-api.conf", "moved.conf");
    fs::write(&conf, fs::read_to_string(c.conf()).unwrap().replace(&dir, "/nonexistent")).unwrap();
    c.env
        .raw(&[
            "prune",
            "--config-file",
            &conf,
            "--cache-dir",
            &dir,
            "--driver",
            "centralized_db",
            "--max-size",
            "0",
        ])
        .fails(2, &["[database] connection is not set"]);
    let run = c.env.raw(&["status", "--cache-dir", &dir, "--database", "mysql://g:s3cret@h/d"]);
    assert!(!run.fails(2, &["process list", "--database-file"]).stderr.contains("s3cret"));
}

#[test]
fn flags_name_database_and_node_on_sqlite() {
    flags_name_database_and_node(SqliteFile);
}

#[test]
fn flags_name_database_and_node_on_mariadb() {
    flags_name_database_and_node(MariaDb);
}

#[test]
fn flags_name_database_and_node_on_postgresql() {
    flags_name_database_and_node(PostgreSql);
}

fn the_cache_directory_is_not_searchable(kind: Kind) {
    for mode in [0o000, 0o600, 0o444] {
        let c = five(kind);
        c.env.file("invalid/x", 1, 1);
        give_to_nobody(c.env.dir());
        chmod(c.env.dir(), mode);
        for command in [&["prune", "--max-size", "3000B"][..], &["clean"]] {
            c.as_nobody(command, "").fails(3, &[c.env.dir().to_str().unwrap()]);
        }
        assert_eq!((c.left().as_str(), c.env.names("invalid").len()), ("abcde", 1));
    }
}

fn the_directory_cannot_be_written(kind: Kind) {
    let c = five(kind);
    give_to_nobody(c.env.dir());
    chmod(c.env.dir(), 0o555);
    // With the locks elsewhere it comes as far as the images.
    let locks = c.env.outside("locks");
    fs::create_dir(&locks).unwrap();
    give_to_nobody(&locks);
    for (lock_path, code) in
        [(String::new(), 3), (format!("[oslo_concurrency]\nlock_path = {}", locks.display()), 1)]
    {
        let run = c.as_nobody(&["prune", "--max-size", "3000B"], &lock_path);
        assert!(run.code == code && !run.stderr.is_empty(), "{run:?}");
        assert_eq!(c.left(), "abcde", "a file that cannot be removed keeps its row");
    }
}

mod as_root {
    use super::*;

    #[test]
    fn the_cache_directory_is_not_searchable_on_sqlite() {
        super::the_cache_directory_is_not_searchable(SqliteFile);
    }

    #[test]
    fn the_cache_directory_is_not_searchable_on_mariadb() {
        super::the_cache_directory_is_not_searchable(MariaDb);
    }

    #[test]
    fn the_cache_directory_is_not_searchable_on_postgresql() {
        super::the_cache_directory_is_not_searchable(PostgreSql);
    }

    #[test]
    fn the_directory_cannot_be_written_on_sqlite() {
        super::the_directory_cannot_be_written(SqliteFile);
    }

    #[test]
    fn the_directory_cannot_be_written_on_mariadb() {
        super::the_directory_cannot_be_written(MariaDb);
    }

    #[test]
    fn the_directory_cannot_be_written_on_postgresql() {
        super::the_directory_cannot_be_written(PostgreSql);
    }
}
