//! A queue of images fetched from a file store on the same disk.
//!
//! It runs next to the system's own tools, which copy and hash the same files, to the prefetcher of Glance
//! 31.1.0, and to that of Glance 33.0.0. The latter does not start by itself: `prefetcher33.py` mends the one
//! call that fails.
//!
//! Everybody has to have the copies on disk: a `sync` of the file system is part of the time. The first image
//! is the largest, so that programs that fetch two at a time can do so. The store was read before, and is in
//! the page cache as far as it fits. Glance's prefetchers keep whole images in memory (that of 31 one at a
//! time, that of 33 all at once), so they fetch only the smaller images.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::make::{self, Driver};
use super::results::{Row, Table, Who, memory, times};
use super::watch::{MIB, Sample};

const ROUNDS: usize = 5;
/// Random bytes that all images are made of, each in another order.
const BLOCK: usize = 1 << 20;

/// The columns that Glance's models read of its tables, and one by which glance-cache recognises the
/// database.
const TABLES: &str = "
    CREATE TABLE cached_images (id INTEGER PRIMARY KEY);
    CREATE TABLE images (
        id PRIMARY KEY, name, size, virtual_size, status, created_at, updated_at, deleted_at, deleted,
        disk_format, container_format, checksum, owner, min_disk, min_ram, protected, visibility, os_hidden,
        os_hash_algo, os_hash_value);
    CREATE TABLE image_locations (
        id INTEGER PRIMARY KEY, image_id, value, created_at, updated_at, deleted_at, deleted,
        meta_data, status);
    CREATE TABLE image_properties (
        id INTEGER PRIMARY KEY, image_id, name, value, created_at, updated_at, deleted_at, deleted);
    CREATE TABLE image_members (
        id INTEGER PRIMARY KEY, image_id, member, can_share, status, created_at, updated_at, deleted_at,
        deleted);
    CREATE TABLE image_tags (
        id INTEGER PRIMARY KEY, image_id, value, created_at, updated_at, deleted_at, deleted);";

const IMAGE: &str = "
    INSERT INTO images (id, size, status, created_at, updated_at, deleted, disk_format, container_format,
        checksum, min_disk, min_ram, protected, visibility, os_hidden, os_hash_algo, os_hash_value)
    VALUES (?1, ?2, 'active', ?3, ?3, 0, 'raw', 'bare', ?4, 0, 0, 0, 'public', 0, 'sha512', ?5)";

const LOCATION: &str = "
    INSERT INTO image_locations (image_id, value, created_at, updated_at, deleted, meta_data, status)
    VALUES (?1, ?2, ?3, ?3, 0, '{}', 'active')";

/// When all images were made.
const MADE: &str = "2025-01-01 00:00:00";

/// Several images of the same size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    count: usize,
    mib: usize,
}

impl Batch {
    pub(super) const USUAL: [Batch; 2] = [Batch { count: 20, mib: 50 }, Batch { count: 1, mib: 4096 }];
    pub(super) const QUICK: [Batch; 2] = [Batch { count: 20, mib: 50 }, Batch { count: 1, mib: 512 }];

    /// Reads `20x50`.
    pub(super) fn parse(text: &str) -> Result<Batch> {
        let (count, mib) = text.split_once('x').context("COUNTxMIB")?;
        Ok(Batch { count: count.parse()?, mib: mib.parse()? })
    }

    fn bytes(self) -> u64 {
        (self.count * self.mib * BLOCK) as u64
    }
}

/// The system's own tools, which copy and hash the same files.
const BOUNDS: [Who; 3] = [Who::CopyTwo, Who::CopyOne, Who::Tee];
const GLANCES: [Who; 2] = [Who::Glance31, Who::Glance33];
/// Has the prefetcher of Glance 33 start.
const MENDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/side_by_side/prefetcher33.py");

/// Measures fetching the smaller images, then those and the larger ones.
pub(super) fn table(bench: &mut Bench, [small, large]: [Batch; 2]) -> Result<()> {
    let work = "images from a file store on the same disk, verified by SHA-512 and on disk at the end";
    let columns = bench.present(&[&[Who::Ours], &BOUNDS[..], &GLANCES[..]].concat());
    let mut table = Table::new("Prefetch", work, &columns);
    for batches in [&[small][..], &[large, small]] {
        let store = bench.dir.join("store");
        let ids = stored(&store, &bench.dir.join("glance.sqlite"), batches)?;
        let rounds = bench.rounds(ROUNDS);
        let mut everybody = bench.builds(rounds);
        everybody.extend(BOUNDS.map(|who| (who, rounds)));
        if batches.len() == 1 {
            everybody.extend(bench.programs.glance31.is_some().then_some((Who::Glance31, rounds)));
            everybody.extend(bench.programs.glance.is_some().then_some((Who::Glance33, rounds)));
        }
        let queue = Queue { store: &store, ids: &ids, batches };
        let runs = bench.in_turn(&everybody, |bench, who| fresh_run(bench, who, &queue))?;
        let name = batches.iter().map(|batch| format!("{} x {} MiB", batch.count, batch.mib));
        let name = name.collect::<Vec<_>>().join(" + ");
        let row = Row { name, entries: ids.len(), rounds, runs };
        targets(bench, &row);
        table.push(row);
        fs::remove_dir_all(&store)?;
    }
    println!();
    bench.results.tables.push(table);
    Ok(())
}

fn targets(bench: &mut Bench, row: &Row) {
    let Some(ours) = row.of(Who::Ours) else { return };
    let results = &mut bench.results;
    let prefetch = format!("prefetch of {}", row.name);
    let bounds = BOUNDS.into_iter().filter_map(|who| row.of(who));
    let ratio = bounds.map(|bound| bound.wall).fold(f64::INFINITY, f64::min) / ours.wall;
    let what = format!("{prefetch}: {} of the fastest copy's throughput, at least 0.9", times(ratio));
    results.target(what, ratio >= 0.9);
    let what = format!("{prefetch}: peak {}, under 32 MiB", memory(ours.peak));
    results.target(what, ours.peak < 32.0 * MIB);
    for who in GLANCES {
        let Some(theirs) = row.of(who) else { continue };
        let (faster, smaller) = (theirs.wall / ours.wall, theirs.peak / ours.peak);
        let what = format!("{prefetch}: {} times as fast as {}, more than 1", times(faster), who.label());
        results.target(what, faster > 1.0);
        let what =
            format!("{prefetch}: {} takes {} times the memory, at least 30", who.label(), times(smaller));
        results.target(what, smaller >= 30.0);
    }
}

/// The images to fetch.
struct Queue<'a> {
    store: &'a Path,
    ids: &'a [String],
    batches: &'a [Batch],
}

/// Makes a store with these images and a database that knows them and no others. Returns their ids.
fn stored(store: &Path, database: &Path, batches: &[Batch]) -> Result<Vec<String>> {
    fs::create_dir(store)?;
    let block = random_block()?;
    let sizes = batches.iter().flat_map(|batch| std::iter::repeat_n(batch.mib, batch.count));
    let mut ids = Vec::new();
    for (n, mib) in sizes.enumerate() {
        // A shell lists the store in the order of the names.
        let id = format!("{n:08x}-0000-4000-8000-000000000000");
        let mut file = fs::File::create_new(store.join(&id))?;
        for part in 0..mib {
            let from = (n * 65_537 + part * 4099) % BLOCK;
            file.write_all(&block[from..])?;
            file.write_all(&block[..from])?;
        }
        ids.push(id);
    }
    let image = |id: &String| {
        let path = store.join(id);
        StoredImage { id: id.clone(), location: format!("file://{}", path.display()), path }
    };
    let images: Vec<StoredImage> = ids.iter().map(image).collect();
    self::database(database, &images.iter().collect::<Vec<_>>())?;
    Ok(ids)
}

fn random_block() -> Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    fs::File::open("/dev/urandom")?.read_exact(&mut block)?;
    Ok(block)
}

/// Returns so many MiB that no two blocks of are the same.
pub(super) fn random(mib: usize) -> Result<Vec<u8>> {
    let block = random_block()?;
    let parts = (0..mib).map(|part| part * 4099 % BLOCK);
    Ok(parts.flat_map(|from| [&block[from..], &block[..from]].concat()).collect())
}

/// An image, a file with its content, and its location.
pub(super) struct StoredImage {
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) location: String,
}

/// Makes Glance's database anew, with these images.
pub(super) fn database(database: &Path, images: &[&StoredImage]) -> Result<()> {
    let _ = fs::remove_file(database);
    let db = rusqlite::Connection::open(database)?;
    db.execute_batch(TABLES)?;
    for StoredImage { id, path, location } in images {
        let size = i64::try_from(fs::metadata(path)?.len())?;
        db.execute(IMAGE, (id, size, MADE, digest("md5sum", path)?, digest("sha512sum", path)?))?;
        db.execute(LOCATION, (id, location, MADE))?;
    }
    Ok(())
}

pub(super) fn digest(tool: &str, path: &Path) -> Result<String> {
    let output = Command::new(tool).arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().filter(|digest| !digest.is_empty()).context("no digest")?.to_owned())
}

/// Has all images fetched or copied into a new directory, and checks that they are there.
fn fresh_run(bench: &mut Bench, who: Who, queue: &Queue<'_>) -> Result<Sample> {
    let cache = bench.next_cache();
    make::cache(&cache, Driver::Sqlite, 0, 0)?;
    for id in queue.ids {
        fs::write(cache.join("queue").join(id), "")?;
    }
    // Otherwise the program that runs next would wait for what was made or removed before.
    rustix::fs::syncfs(fs::File::open(&cache)?)?;
    let command = format!("{} && sync -f {}", command(bench, who, queue.store)?, cache.display());
    let sample = bench.measured(&["/bin/sh".into(), "-c".into(), command])?;
    let (mut files, mut bytes) = (0, 0);
    for id in queue.ids {
        bytes += fs::metadata(cache.join(id)).with_context(|| format!("{who:?} left out {id}"))?.len();
        files += 1;
    }
    let expected: u64 = queue.batches.iter().map(|batch| batch.bytes()).sum();
    ensure!(bytes == expected, "{who:?}: {files} images of {bytes} bytes, not {expected}");
    fs::remove_dir_all(&cache)?;
    Ok(sample)
}

/// Returns the shell command that fetches all images.
fn command(bench: &Bench, who: Who, store: &Path) -> Result<String> {
    let (store, cache) = (store.display(), bench.cache());
    let out = cache.display();
    let conf = configure(bench)?;
    let conf = conf.display();
    Ok(match who {
        Who::CopyTwo => format!(
            "printf '%s\\n' {store}/* | xargs -P 2 -I @ sh -c 'cp @ {out}/ && sha512sum @ > /dev/null'"
        ),
        Who::CopyOne => format!("cp {store}/* {out}/ && sha512sum {store}/* > /dev/null"),
        Who::Tee => {
            format!("for file in {store}/*; do tee {out}/${{file##*/}} < $file | sha512sum > /dev/null; done")
        }
        Who::Glance31 => {
            let python = bench.programs.glance31.as_ref().context("there is no Glance 31")?;
            let tool = python.with_file_name("glance-cache-prefetcher");
            format!("{} --config-file {conf} 2> /dev/null", tool.display())
        }
        Who::Glance33 => {
            let python = bench.programs.glance.as_ref().context("there is no Glance 33")?.display();
            format!("{python} {MENDED} --config-file {conf} 2> /dev/null")
        }
        _ => format!("{} prefetch --config-file {conf}", bench.build(who)),
    })
}

fn configure(bench: &Bench) -> Result<PathBuf> {
    let dir = bench.dir.display();
    let text = format!(
        "[DEFAULT]\nimage_cache_dir = {0}\nimage_cache_driver = sqlite\n\
         image_cache_max_size = 1099511627776\n\
         [database]\nconnection = sqlite:///{dir}/glance.sqlite\n\
         [glance_store]\nstores = file\ndefault_store = file\nfilesystem_store_datadir = {dir}/store\n\
         [oslo_concurrency]\nlock_path = {0}\n",
        bench.cache().display()
    );
    let conf = bench.dir.join("prefetch.conf");
    fs::write(&conf, text)?;
    Ok(conf)
}
