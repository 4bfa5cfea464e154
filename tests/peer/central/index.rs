//! The tables of a central database as an index: rows that are wrong, refused or held by others, and odd
//! settings of servers.

use std::time::Duration;

use serde_json::json;

use crate::support::central::*;
use crate::support::clusters::start_through;
use crate::support::env::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server, Session, SqliteFile};

fn a_row_without_a_file(kind: Kind) {
    let c = five(kind);
    c.row(&id('f'), 60);
    c.prune("3000")
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
    assert_eq!(c.left(), "cde");
}

#[test]
fn a_row_without_a_file_on_sqlite() {
    a_row_without_a_file(SqliteFile);
}

#[test]
fn a_row_without_a_file_on_mariadb() {
    a_row_without_a_file(MariaDb);
}

#[test]
fn a_row_without_a_file_on_postgresql() {
    a_row_without_a_file(PostgreSql);
}

fn a_rows_size_is_wrong(kind: Kind) {
    let c = five(kind);
    c.db.sql("UPDATE cached_images SET size = 99999");
    c.prunes_to_cde();
}

#[test]
fn a_rows_size_is_wrong_on_sqlite() {
    a_rows_size_is_wrong(SqliteFile);
}

#[test]
fn a_rows_size_is_wrong_on_mariadb() {
    a_rows_size_is_wrong(MariaDb);
}

#[test]
fn a_rows_size_is_wrong_on_postgresql() {
    a_rows_size_is_wrong(PostgreSql);
}

fn a_row_that_cannot_be_deleted(kind: Kind) {
    let c = five(kind);
    match kind {
        MariaDb => c.db.sql(
            "CREATE TRIGGER t BEFORE DELETE ON cached_images FOR EACH ROW SIGNAL SQLSTATE \
                             '45000' SET MESSAGE_TEXT = 'no'",
        ),
        PostgreSql => c.db.sql(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE \
                                EXCEPTION ''no''; END'; CREATE TRIGGER t BEFORE DELETE ON cached_images FOR \
                                EACH ROW EXECUTE FUNCTION f()",
        ),
        SqliteFile => c.db.sql(
            "CREATE TRIGGER t BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, \
                                'no'); END",
        ),
    }
    c.prune("3000").fails(3, &["no"]);
    assert_eq!(c.left(), "abcde", "an index that refuses costs no file");
}

#[test]
fn a_row_that_cannot_be_deleted_on_sqlite() {
    a_row_that_cannot_be_deleted(SqliteFile);
}

#[test]
fn a_row_that_cannot_be_deleted_on_mariadb() {
    a_row_that_cannot_be_deleted(MariaDb);
}

#[test]
fn a_row_that_cannot_be_deleted_on_postgresql() {
    a_row_that_cannot_be_deleted(PostgreSql);
}

fn a_row_whose_deletion_does_nothing(kind: Kind) {
    let c = five(kind);
    match kind {
        // No trigger there can pass a row over. Rows that are not in the table itself are the nearest: they
        // are not reached by its primary key.
        MariaDb => {
            c.db.sql("RENAME TABLE cached_images TO elsewhere");
            c.db.sql("CREATE VIEW cached_images AS SELECT * FROM elsewhere");
        }
        PostgreSql => c.db.sql(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; \
                                END'; CREATE TRIGGER t BEFORE DELETE ON cached_images FOR EACH ROW EXECUTE \
                                FUNCTION f()",
        ),
        SqliteFile => c.db.sql(
            "CREATE TRIGGER t BEFORE DELETE ON cached_images BEGIN SELECT RAISE(IGNORE); \
                                END",
        ),
    }
    c.prune("3000").code(3);
    assert_eq!(c.left(), "abcde");
}

#[test]
fn a_row_whose_deletion_does_nothing_on_sqlite() {
    a_row_whose_deletion_does_nothing(SqliteFile);
}

#[test]
fn a_row_whose_deletion_does_nothing_on_mariadb() {
    a_row_whose_deletion_does_nothing(MariaDb);
}

#[test]
fn a_row_whose_deletion_does_nothing_on_postgresql() {
    a_row_whose_deletion_does_nothing(PostgreSql);
}

/// Locks the whole table of a server against changes, not against reading.
fn hold_the_table(session: &mut Session, kind: Kind) {
    if kind == PostgreSql {
        session.sql("BEGIN");
        session.sql("LOCK TABLE cached_images IN EXCLUSIVE MODE");
    } else {
        session.sql("LOCK TABLES cached_images READ");
    }
}

fn release_the_table(session: &mut Session, kind: Kind) {
    session.sql(if kind == PostgreSql { "ROLLBACK" } else { "UNLOCK TABLES" });
}

/// Locks the table even against reading, as an upgrade of the schema does.
fn hide_the_table(session: &mut Session, kind: Kind) {
    if kind == PostgreSql {
        session.sql("BEGIN");
        session.sql("LOCK TABLE cached_images IN ACCESS EXCLUSIVE MODE");
    } else {
        session.sql("LOCK TABLES cached_images WRITE");
    }
}

fn a_hidden_table_is_waited_for(kind: Kind) {
    let c = five(kind);
    let mut other = Session::open(&c.db);
    let prune = &["prune", "--max-size", "3000B", "--lock-timeout", "30s"][..];
    // PostgreSQL is waited for ten seconds. A command that changes nothing waits for two.
    let long = if kind == PostgreSql { 5 } else { 12 };
    for (arguments, seconds) in [(prune, long), (&["list"], 1)] {
        hide_the_table(&mut other, kind);
        let run = start_through(&c, &c.db, arguments);
        std::thread::sleep(Duration::from_secs(seconds));
        release_the_table(&mut other, kind);
        let run = run.wait().ok();
        assert!(run.took > Duration::from_secs(seconds), "{arguments:?}: {:?}", run.took);
    }
    assert_eq!(c.left(), "cde");
    hide_the_table(&mut other, kind);
    let run =
        c.run("prune", &["--max-size", "1000B", "--lock-timeout", "2s"]).fails(3, &["cannot read the rows"]);
    let most = if kind == PostgreSql { 15 } else { 6 };
    assert!(run.took > Duration::from_secs(2) && run.took < Duration::from_secs(most), "{:?}", run.took);
    release_the_table(&mut other, kind);
}

#[test]
fn a_hidden_table_is_waited_for_on_mariadb() {
    a_hidden_table_is_waited_for(MariaDb);
}

#[test]
fn a_hidden_table_is_waited_for_on_postgresql() {
    a_hidden_table_is_waited_for(PostgreSql);
}

fn the_index_is_held_by_a_writer(kind: Kind) {
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let c = five(kind);
        let before = c.snapshot();
        let mut other = Session::open(&c.db);
        if kind == SqliteFile {
            other.sql(begin);
            other.sql(&format!("UPDATE cached_images SET hits = hits + 1 WHERE image_id = '{}'", id('a')));
        } else {
            hold_the_table(&mut other, kind);
        }
        let run = c.prune("3000").code(3);
        assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
        if kind == SqliteFile {
            other.sql("ROLLBACK");
        } else {
            release_the_table(&mut other, kind);
        }
        assert_eq!(c.snapshot().1, before.1);
        c.prunes_to_cde();
    }
}

#[test]
fn the_index_is_held_by_a_writer_on_sqlite() {
    the_index_is_held_by_a_writer(SqliteFile);
}

#[test]
fn the_index_is_held_by_a_writer_on_mariadb() {
    the_index_is_held_by_a_writer(MariaDb);
}

#[test]
fn the_index_is_held_by_a_writer_on_postgresql() {
    the_index_is_held_by_a_writer(PostgreSql);
}

fn a_limit_for_connecting_does_not_limit_what_comes_after(kind: Kind) {
    let c = five(kind);
    let mut glance = Session::open(&c.db);
    hold_the_table(&mut glance, kind);
    let conf = c.conf_with(&format!("{}?connect_timeout=1", c.db.url), NODE, "");
    let mut command = c.env.command(BINARY);
    let run = Running::start(
        command.args(["prune", "--config-file", &conf, "--max-size", "3000B"]),
        &c.env.outside(""),
    );
    std::thread::sleep(Duration::from_secs(4));
    release_the_table(&mut glance, kind);
    run.wait().ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(c.left(), "cde");
}

#[test]
fn a_limit_for_connecting_does_not_limit_what_comes_after_on_mariadb() {
    a_limit_for_connecting_does_not_limit_what_comes_after(MariaDb);
}

#[test]
fn a_limit_for_connecting_does_not_limit_what_comes_after_on_postgresql() {
    a_limit_for_connecting_does_not_limit_what_comes_after(PostgreSql);
}

#[test]
fn a_database_that_takes_no_writes_costs_no_file_on_postgresql() {
    let c = five(PostgreSql);
    c.db.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", c.db.name));
    c.prune("3000").fails(3, &["read-only"]);
    let url = format!("{}?target_session_attrs=read-write&connect_timeout=1", c.db.url);
    let conf = c.conf_with(&url, NODE, "");
    c.env
        .raw(&["prune", "--config-file", &conf, "--max-size", "3000B", "--dry-run"])
        .fails(3, &["cannot connect"]);
    c.run("list", &[]).ok();
    assert_eq!(c.env.images(), "abcde");
}

#[test]
fn a_database_that_takes_no_writes_costs_no_file_on_mariadb() {
    let server = Server::private(MariaDb);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    c.db.sql("CREATE USER glance@'127.0.0.1' IDENTIFIED BY 'pr1vate'");
    c.db.sql("GRANT ALL ON glance.* TO glance@'127.0.0.1'");
    c.db.sql("SET GLOBAL read_only = ON");
    let conf = c.conf_with(&c.db.url.replace("g:s3cret", "glance:pr1vate"), NODE, "");
    c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000B"]).fails(3, &["read-only"]);
    assert_eq!(c.left(), "abcde");
}

#[test]
fn odd_settings_of_a_server_make_no_difference_on_mariadb() {
    let server = Server::private(MariaDb);
    let is_mysql = Database::on(&server, "glance").is_mysql();
    let isolation = if is_mysql { "transaction_isolation" } else { "tx_isolation" };
    for (n, (set, to, reset)) in [
        ("sql_safe_updates", "1", "0"),
        ("sql_select_limit", "1", "DEFAULT"),
        ("max_join_size", "10", "DEFAULT"),
        ("sql_mode", "'ANSI_QUOTES,ONLY_FULL_GROUP_BY,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'", "DEFAULT"),
        ("sql_mode", "'ORACLE'", "DEFAULT"),
        (isolation, "'READ-UNCOMMITTED'", "'REPEATABLE-READ'"),
        (isolation, "'SERIALIZABLE'", "'REPEATABLE-READ'"),
        ("autocommit", "0", "1"),
        ("completion_type", "'CHAIN'", "'NO_CHAIN'"),
        ("completion_type", "'RELEASE'", "'NO_CHAIN'"),
        ("time_zone", "'+09:00'", "'SYSTEM'"),
        ("collation_connection", "latin1_bin", "utf8mb4_general_ci"),
        ("wait_timeout", "2", "DEFAULT"),
    ]
    .into_iter()
    .filter(|(_, to, _)| !(is_mysql && *to == "'ORACLE'"))
    .enumerate()
    {
        let node: &'static str = Box::leak(format!("http://n{n}:9292").into());
        let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), node);
        c.images(FIVE);
        c.row(&id('9'), 60);
        c.row("no-uuid", 60);
        let mut root = Session::open(&c.db);
        root.sql(&format!("SET GLOBAL {set} = {to}"));
        let runs = [
            c.run("status", &["--all-nodes"]),
            c.run("list", &["--all-nodes"]),
            c.run("clean", &["--repair"]),
            c.prune("3000"),
        ];
        root.sql(&format!("SET GLOBAL {set} = {reset}"));
        let [_, list, repair, _] = runs.map(Run::ok);
        assert!(list.stdout.contains(&id('e')), "{set} = {to}: {list:?}");
        repair.has(&json!({"ghosts_forgotten": 1, "rows_dropped": 1}));
        assert_eq!(c.left(), "cde", "{set} = {to}");
    }
}

#[test]
fn odd_settings_of_a_server_make_no_difference_on_postgresql() {
    for set in [
        "default_transaction_isolation = 'serializable'",
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'German, DMY'",
        "standard_conforming_strings = off",
        "idle_in_transaction_session_timeout = '5s'",
    ] {
        let c = five(PostgreSql);
        c.row(&id('9'), 60);
        c.db.sql(&format!("ALTER DATABASE {} SET {set}", c.db.name));
        c.run("list", &["--all-nodes"]).ok();
        c.run("clean", &["--repair"]).ok().has(&json!({"ghosts_forgotten": 1}));
        c.prune("3000").ok();
        assert_eq!(c.left(), "cde", "{set}");
    }
}

mod as_root {
    use super::*;

    #[test]
    fn a_commit_that_is_refused_is_repeated_on_postgresql() {
        // PostgreSQL can be made to refuse at COMMIT, as Galera does: here the first that deletes and the
        // first that inserts.
        let (c, _mount) = with_an_old_orphan(PostgreSql);
        for event in ["delete", "insert"] {
            c.db.sql(&format!(
                "CREATE SEQUENCE {event}s; CREATE FUNCTION refuse_{event}() RETURNS trigger LANGUAGE plpgsql \
                 AS \
                 'BEGIN IF nextval(''{event}s'') = 1 THEN RAISE EXCEPTION ''certification failed'' USING \
                 ERRCODE = ''40001''; END IF; RETURN NULL; END'; \
                 CREATE CONSTRAINT TRIGGER {event} AFTER {event} ON cached_images DEFERRABLE INITIALLY \
                 DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION refuse_{event}()",
            ));
        }
        let again = || c.db.sql("SELECT setval('deletes', 1, false)");
        let insert = |name: &str| {
            c.db.sql("ALTER TABLE cached_images DISABLE TRIGGER insert");
            c.row(name, 60);
            c.db.sql("ALTER TABLE cached_images ENABLE TRIGGER insert");
        };
        insert(&id('9'));
        c.run("clean", &["--repair"]).ok().has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 1}));
        insert("no-uuid");
        again();
        c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 1}));
        insert(&id('9'));
        again();
        c.prune("6000").ok().has(&json!({"ghosts_forgotten": 1, "total_files_pruned": 0}));
        again();
        c.prune("3000").ok().has(&json!({"total_files_pruned": 3, "cache_size_after": 3000}));
        assert_eq!(c.left(), "cde");
        let dead = Central::of(TestEnv::empty(Xattr), c.db.clone(), "http://dead:9292");
        c.db.sql("DROP TRIGGER insert ON cached_images");
        dead.row(&id('a'), 60);
        again();
        c.run("clean", &["--forget-node", dead.node])
            .ok()
            .has(&json!({"rows_forgotten": 1, "node_removed": true}));
    }
}
