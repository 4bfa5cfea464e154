//! The tables of `tests/support/schema` are those that Glance makes: compared in each kind of database.

use std::collections::BTreeSet;

use crate::support::env::TestEnv;
use crate::support::env::Xattr;
use crate::support::servers::{Database, MariaDb, PostgreSql, SqliteFile};

const TABLES: [&str; 4] = ["node_reference", "cached_images", "images", "image_locations"];

/// Runs these queries on both databases, and compares what they answer.
fn assert_same(ours: &Database, glances: &Database, queries: &[String]) {
    for query in queries {
        let [ours, glances] = [ours, glances].map(|database| database.rows(query));
        assert!(!glances.is_empty(), "{query} answers nothing");
        assert_eq!(ours, glances, "{query}");
    }
}

#[test]
fn the_tables_are_glances_on_mariadb() {
    let queries = TABLES.map(|table| format!("SHOW CREATE TABLE {table}"));
    assert_same(&Database::new(MariaDb, "".as_ref()), &Database::whole(MariaDb, "".as_ref()), &queries);
}

#[test]
fn the_tables_are_glances_on_postgresql() {
    let tables = format!("('{}')", TABLES.join("', '"));
    let queries = [
        format!(
            "SELECT table_name, column_name, data_type, udt_name, character_maximum_length, is_nullable, \
             column_default \
             FROM information_schema.columns WHERE table_name IN {tables} ORDER BY table_name, \
             ordinal_position"
        ),
        format!("SELECT tablename, indexdef FROM pg_indexes WHERE tablename IN {tables} ORDER BY 1, 2"),
        format!(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE conrelid::regclass::text IN {tables} ORDER BY 1, 2"
        ),
        "SELECT enumlabel FROM pg_enum JOIN pg_type t ON t.oid = enumtypid WHERE typname = \
         'image_visibility' \
         ORDER BY enumsortorder"
            .into(),
    ];
    assert_same(&Database::new(PostgreSql, "".as_ref()), &Database::whole(PostgreSql, "".as_ref()), &queries);
}

#[test]
fn the_tables_are_glances_on_sqlite() {
    let env = TestEnv::empty(Xattr);
    let (ours, glances) = (env.outside("ours.sqlite"), env.outside("glances.sqlite"));
    let _ = (Database::new(SqliteFile, &ours), Database::whole(SqliteFile, &glances));
    let statements = |file| {
        let db = rusqlite::Connection::open(file).unwrap();
        let mut query = db.prepare("SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL").unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap);
        let of_ours = rows.filter(|(table, _): &(String, String)| TABLES.contains(&table.as_str()));
        // White space and quotes have no meaning there.
        let plain = |sql: String| sql.replace('"', "").split_whitespace().collect::<Vec<_>>().join(" ");
        of_ours.map(|(_, sql)| plain(sql)).collect::<BTreeSet<String>>()
    };
    assert_eq!(statements(ours), statements(glances));
}
