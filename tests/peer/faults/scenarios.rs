//! What is swept: commands on small caches. A new command is a line here and a test in `mod.rs`.

use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

/// The index that has the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Sqlite,
    Xattr,
    /// The central database.
    Central(Kind),
}

impl Rows {
    pub(super) fn driver(self) -> &'static str {
        match self {
            Rows::Sqlite => "sqlite",
            Rows::Xattr => "xattr",
            Rows::Central(_) => "centralized_db",
        }
    }

    /// Returns true if the rows are with a server, and not below the swept directory.
    pub(super) fn are_served(self) -> bool {
        matches!(self, Rows::Central(MariaDb | PostgreSql))
    }
}

/// The images that a prefetch has to bring: the letters of the ids, and bytes.
pub(super) const WANTED: [(char, usize); 3] = [('1', 700_000), ('2', 5000), ('3', 17)];

/// The image that is broken in a cache that is verified.
pub(super) const BROKEN: char = 'b';

/// A command on a small cache.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) rows: Rows,
    /// The words before and after the options that say which cache.
    pub(super) command: &'static str,
    pub(super) arguments: &'static [&'static str],
    /// True if the command leaves rows and files in agreement.
    pub(super) mends: bool,
    /// True if the cache is one of several on a file system of its own.
    pub(super) host: bool,
    /// True if images come over http.
    pub(super) web: bool,
}

impl Scenario {
    /// Returns true if the contents of the images are compared with their records.
    pub(super) fn verifies(&self) -> bool {
        self.arguments.contains(&"--verify")
    }
}

pub(super) const PLAIN: Scenario = Scenario {
    name: "",
    rows: Rows::Sqlite,
    command: "",
    arguments: &[],
    mends: false,
    host: false,
    web: false,
};

const LIMIT: &[&str] = &["--max-size", "3000B", "--min-free", "1KiB", "--lock-timeout", "2s"];

pub(super) const CLEAN: Scenario = Scenario { name: "clean", command: "clean", ..PLAIN };
pub(super) const PRUNE_SQLITE: Scenario =
    Scenario { name: "prune, sqlite", command: "prune", arguments: LIMIT, mends: true, ..PLAIN };
pub(super) const PRUNE_XATTR: Scenario = Scenario { name: "prune, xattr", rows: Rows::Xattr, ..PRUNE_SQLITE };
pub(super) const PRUNE_CENTRAL: Scenario =
    Scenario { name: "prune, centralized_db", rows: Rows::Central(SqliteFile), ..PRUNE_SQLITE };
pub(super) const PRUNE_MARIADB: Scenario =
    Scenario { name: "prune, centralized_db on MariaDB", rows: Rows::Central(MariaDb), ..PRUNE_SQLITE };
pub(super) const PRUNE_POSTGRESQL: Scenario =
    Scenario { name: "prune, centralized_db on PostgreSQL", rows: Rows::Central(PostgreSql), ..PRUNE_SQLITE };
pub(super) const REPAIR_SQLITE: Scenario = Scenario {
    name: "clean --repair, sqlite",
    command: "clean",
    arguments: &["--repair", "--lock-timeout", "2s"],
    mends: true,
    ..PLAIN
};
pub(super) const REPAIR_CENTRAL: Scenario =
    Scenario { name: "clean --repair, centralized_db", rows: Rows::Central(SqliteFile), ..REPAIR_SQLITE };
pub(super) const PREFETCH_SQLITE: Scenario = Scenario {
    name: "prefetch, sqlite",
    command: "prefetch",
    arguments: &["-j", "1", "--lock-timeout", "2s"],
    ..PLAIN
};
pub(super) const PREFETCH_XATTR: Scenario =
    Scenario { name: "prefetch, xattr", rows: Rows::Xattr, ..PREFETCH_SQLITE };
pub(super) const PREFETCH_CENTRAL: Scenario =
    Scenario { name: "prefetch, centralized_db", rows: Rows::Central(SqliteFile), ..PREFETCH_SQLITE };
pub(super) const PREFETCH_HTTP: Scenario =
    Scenario { name: "prefetch over http, sqlite", web: true, ..PREFETCH_SQLITE };
const VERIFY: &[&str] = &["--verify", "--lock-timeout", "2s"];
pub(super) const VERIFY_SQLITE: Scenario =
    Scenario { name: "clean --verify, sqlite", command: "clean", arguments: VERIFY, ..PLAIN };
pub(super) const VERIFY_XATTR: Scenario =
    Scenario { name: "clean --verify, xattr", rows: Rows::Xattr, ..VERIFY_SQLITE };
pub(super) const VERIFY_CENTRAL: Scenario =
    Scenario { name: "clean --verify, centralized_db", rows: Rows::Central(SqliteFile), ..VERIFY_SQLITE };
pub(super) const REQUIRE: Scenario =
    Scenario { name: "prune --require", command: "prune", host: true, mends: true, ..PLAIN };
