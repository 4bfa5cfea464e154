//! The programs that glance-cache is compared with and that are part of this executable.

use anyhow::{Context as _, Result, bail, ensure};

use super::bare;
use super::make::{self, Driver};

/// `bare CUTOFF DIR...`: the bare program.
pub(super) fn bare(arguments: &[String]) -> Result<()> {
    let (cutoff, dirs) = arguments.split_first().context("bare CUTOFF DIR...")?;
    bare::run(cutoff.parse()?, dirs)
}

/// `open FILE`: opens a database and reads its schema, as every start with an sqlite index has to.
pub(super) fn open(arguments: &[String]) -> Result<()> {
    let [file] = arguments else { bail!("open FILE") };
    let db = rusqlite::Connection::open(file)?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    ensure!(tables > 0, "an empty database");
    Ok(())
}

/// `make DIR DRIVER IMAGES`: makes a cache for a profiler, and prints the limit that has half of it pruned.
pub(super) fn make(arguments: &[String]) -> Result<()> {
    let [dir, driver, images] = arguments else { bail!("make DIR DRIVER IMAGES") };
    let driver = if driver == "sqlite" { Driver::Sqlite } else { Driver::Xattr };
    let images = images.parse()?;
    make::cache(dir.as_ref(), driver, images, 0)?;
    println!("{}", make::facts(images).limit);
    Ok(())
}
