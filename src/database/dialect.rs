//! The languages of the databases, as far as they differ. No I/O here.

/// The language of a kind of database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// MySQL and MariaDB.
    MySql,
    PostgreSql,
    Sqlite,
}

impl Dialect {
    /// Returns an expression that reads a time column as a number, whatever the time zones of session and
    /// server.
    pub(crate) fn epoch(self, column: &str) -> String {
        match self {
            Dialect::MySql => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column})"),
            Dialect::PostgreSql => format!("extract(epoch FROM {column})::float8"),
            Dialect::Sqlite => column.to_owned(),
        }
    }

    /// Returns an expression as a whole number: sums have types of their own.
    pub(crate) fn whole(self, expression: &str) -> String {
        match self {
            Dialect::PostgreSql => format!("({expression})::bigint"),
            Dialect::MySql | Dialect::Sqlite => expression.to_owned(),
        }
    }

    /// Returns the expression of a sum, which may be larger than any column.
    pub(crate) fn sum(self, expression: &str) -> String {
        match self {
            Dialect::PostgreSql => format!("({expression})::text"),
            Dialect::MySql | Dialect::Sqlite => expression.to_owned(),
        }
    }

    /// Returns the table of the cached images, to be read by its primary key only. MySQL would scan a small
    /// table, and lock every row of it.
    pub(crate) fn by_key(self) -> &'static str {
        match self {
            Dialect::MySql => "cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "cached_images",
        }
    }

    /// Returns the beginning of a deletion by primary key.
    pub(crate) fn delete(self) -> &'static str {
        match self {
            Dialect::MySql => "DELETE cached_images FROM cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "DELETE FROM cached_images",
        }
    }

    /// Returns the end of a read that locks its rows. SQLite's transaction has locked everything.
    pub(crate) fn locking(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::MySql | Dialect::PostgreSql => " FOR UPDATE",
        }
    }

    /// Returns the beginning and the end of a locking read that leaves out rows which another session has
    /// locked. MariaDB knows this since 10.6, MySQL since 8.0, PostgreSQL since 9.5.
    ///
    /// In a session that does not wait for locks, MariaDB 10.11 fails such a read with error 1180. So the
    /// setting differs for this statement; no lock is waited for all the same. MySQL takes it for a comment.
    pub(crate) fn skipping(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Sqlite => ("", ""),
            Dialect::MySql => {
                ("/*M! SET STATEMENT innodb_lock_wait_timeout = 1 FOR */ ", " FOR UPDATE SKIP LOCKED")
            }
            Dialect::PostgreSql => ("", " FOR UPDATE SKIP LOCKED"),
        }
    }

    /// Returns the end of an insert that skips rows which exist, if there is one.
    ///
    /// MySQL's `IGNORE` would also skip whatever the database refuses, in silence, and `ON DUPLICATE KEY
    /// UPDATE` needs the right to update.
    pub(crate) fn unless_it_exists(self) -> Option<&'static str> {
        match self {
            Dialect::MySql => None,
            Dialect::PostgreSql | Dialect::Sqlite => Some(" ON CONFLICT DO NOTHING"),
        }
    }

    /// Returns the statement that begins a transaction.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Dialect::MySql => "START TRANSACTION",
            // The server's default may be a stricter level, which reports conflicts that do not matter here.
            Dialect::PostgreSql => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Dialect::Sqlite => "BEGIN EXCLUSIVE",
        }
    }

    /// Returns the statement that keeps a transaction from waiting for locks while it holds some: it is tried
    /// again instead. On MySQL the session says so, once.
    pub(super) fn impatience(self) -> Option<&'static str> {
        (self == Dialect::PostgreSql).then_some("SET LOCAL lock_timeout = '250ms'")
    }
}
