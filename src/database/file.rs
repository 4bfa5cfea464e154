//! Glance's database in an SQLite file, as small installations and development machines have it.
//!
//! The file is opened as carefully as the sqlite index, as the owner of the directory it is in.

use std::path::Path;

use anyhow::{Context as _, Result};
use rusqlite::params_from_iter;
use rusqlite::types::ValueRef;

use super::cell::Cell;
use super::sqlite::{Contents, SqliteFile, SqlitePath};
use crate::database::opening::{Opening, Purpose};
use crate::database::refusal::Refusal;
use crate::interrupt::Wait;
use crate::os::locks::HeldThing;

const CONTENTS: Contents = Contents { name: "database", thing: HeldThing::Database, table: None };

/// Glance's database in a file, open.
#[derive(Debug)]
pub(super) struct File(SqliteFile);

impl File {
    /// Opens the file at a path.
    pub(super) fn open(path: &Path, purpose: Purpose, wait: &Wait) -> Result<Opening<Self>> {
        let path = SqlitePath::alone(path, CONTENTS)?;
        let shown = format!("cannot use the database {}", path.path().display());
        Ok(match SqliteFile::open(path, purpose, wait).context(shown)? {
            Opening::Open(file) => Opening::Open(File(file)),
            Opening::Nothing(path) => Opening::Nothing(path),
            Opening::Unreadable(why) => Opening::Unreadable(why),
        })
    }

    /// Runs a query. Each `?` in it stands for one of the texts.
    pub(super) fn query(&self, sql: &str, texts: &[&str], wait: &Wait) -> Result<Vec<Vec<Cell>>, Refusal> {
        self.0.run(wait, |connection| {
            let mut statement = connection.prepare(sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query(params_from_iter(texts))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push((0..columns).map(|n| row.get_ref(n).map(cell)).collect::<rusqlite::Result<_>>()?);
            }
            Ok(found)
        })
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn execute(&self, sql: &str, wait: &Wait) -> Result<u64, Refusal> {
        self.0.run(wait, |connection| connection.execute(sql, []).map(|count| count as u64))
    }

    /// Writes to the disk what the commit will need.
    pub(super) fn secure(&self) -> Result<(), Refusal> {
        self.0.change(SqliteFile::secure)
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Cell::Text(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}
