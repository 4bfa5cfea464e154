//! The central tables in an SQLite file: small installations, and everybody's development machine.
//!
//! The file is opened as carefully as the sqlite index, as the owner of the directory it is in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rusqlite::params_from_iter;
use rusqlite::types::ValueRef;

use super::Cell;
use crate::cache::index::Refusal;
use crate::cache::index::sqlite::{Found, Location, Purpose, Sqlite};
use crate::interrupt::Wait;

/// What was found at the path.
pub(super) enum Opened {
    File(File),
    Nothing(PathBuf),
    Unreadable(String),
}

pub(super) struct File(Sqlite);

impl File {
    pub(super) fn open(path: &Path, purpose: Purpose, wait: &Wait) -> Result<Opened> {
        let location = Location::alone(path)?;
        let path = location.path().to_owned();
        let found = Sqlite::open(location, purpose, wait)
            .with_context(|| format!("cannot use the database {}", path.display()))?;
        Ok(match found {
            Found::Index(sqlite) => Opened::File(File(sqlite)),
            Found::Nothing => Opened::Nothing(path),
            Found::Unreadable(why) => Opened::Unreadable(why),
        })
    }

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

    pub(super) fn execute(&self, sql: &str, wait: &Wait) -> Result<u64, Refusal> {
        self.0.run(wait, |connection| connection.execute(sql, []).map(|count| count as u64))
    }

    pub(super) fn secure(&self) -> Result<(), Refusal> {
        self.0.change(Sqlite::secure)
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
