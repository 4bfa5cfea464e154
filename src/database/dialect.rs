//! Where the languages of the databases differ.

/// A kind of database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// MySQL and MariaDB.
    MySql,
    PostgreSql,
    Sqlite,
}

impl Dialect {
    /// An expression for a time column, whatever the time zones of session and server.
    pub(crate) fn epoch(self, column: &str) -> String {
        match self {
            Dialect::MySql => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column})"),
            Dialect::PostgreSql => format!("extract(epoch FROM {column})::float8"),
            Dialect::Sqlite => column.to_owned(),
        }
    }

    /// An expression as a whole number: sums have types of their own.
    pub(crate) fn whole(self, expression: &str) -> String {
        match self {
            Dialect::PostgreSql => format!("({expression})::bigint"),
            Dialect::MySql | Dialect::Sqlite => expression.to_owned(),
        }
    }

    /// The table, read by primary key and by nothing else: a small table would be scanned, and every row of it locked.
    pub(crate) fn by_key(self) -> &'static str {
        match self {
            Dialect::MySql => "cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "cached_images",
        }
    }

    pub(crate) fn delete(self) -> &'static str {
        match self {
            Dialect::MySql => "DELETE cached_images FROM cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "DELETE FROM cached_images",
        }
    }

    /// What ends a read that locks; SQLite's transaction has locked everything.
    pub(crate) fn locking(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::MySql | Dialect::PostgreSql => " FOR UPDATE",
        }
    }

    /// What begins and ends an insert that leaves rows which are there.
    pub(crate) fn insert(self) -> (&'static str, &'static str) {
        match self {
            Dialect::MySql => ("INSERT IGNORE", ""),
            Dialect::PostgreSql | Dialect::Sqlite => ("INSERT", " ON CONFLICT DO NOTHING"),
        }
    }

    pub(crate) fn begin(self) -> &'static str {
        match self {
            Dialect::MySql => "START TRANSACTION",
            // The default may be another.
            Dialect::PostgreSql => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Dialect::Sqlite => "BEGIN EXCLUSIVE",
        }
    }

    /// What keeps a transaction from waiting for locks while it holds some: it is tried again instead. MySQL knows it for
    /// sessions only.
    pub(crate) fn impatience(self) -> Option<&'static str> {
        (self == Dialect::PostgreSql).then_some("SET LOCAL lock_timeout = '250ms'")
    }
}
