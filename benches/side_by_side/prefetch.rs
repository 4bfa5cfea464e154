//! A queue of images fetched from a file store on the same disk, beside what copies and hashes the same files with the system's
//! own tools, beside the prefetcher of Glance 31.1.0, and beside that of Glance 33.0.0, which does not start by itself:
//! `prefetcher33.py` mends the one call that it fails at.
//!
//! Everybody has to have the copies on disk: a `sync` of the file system is part of the time. The first image is the largest, so
//! that whoever does two at a time can. The store was read before, and is in the page cache as far as it fits. Glance's
//! prefetchers, which keep whole images in memory (that of 31 one at a time, that of 33 all at once), fetch only the smaller images.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::make::{self, Driver};
use super::{Bench, MIB, OURS, Sample, medians, memory, time, times};

const ROUNDS: usize = 5;
/// Random bytes that all images are made of, each in another order.
const BLOCK: usize = 1 << 20;

/// What Glance's models read of its tables, and one by which ours knows the database.
const TABLES: &str = "
    CREATE TABLE cached_images (id INTEGER PRIMARY KEY);
    CREATE TABLE images (id PRIMARY KEY, name, size, virtual_size, status, created_at, updated_at, deleted_at, deleted, disk_format,
        container_format, checksum, owner, min_disk, min_ram, protected, visibility, os_hidden, os_hash_algo, os_hash_value);
    CREATE TABLE image_locations (id INTEGER PRIMARY KEY, image_id, value, created_at, updated_at, deleted_at, deleted, meta_data,
        status);
    CREATE TABLE image_properties (id INTEGER PRIMARY KEY, image_id, name, value, created_at, updated_at, deleted_at, deleted);
    CREATE TABLE image_members (id INTEGER PRIMARY KEY, image_id, member, can_share, status, created_at, updated_at, deleted_at,
        deleted);
    CREATE TABLE image_tags (id INTEGER PRIMARY KEY, image_id, value, created_at, updated_at, deleted_at, deleted);";

/// So many images of so many MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    count: usize,
    mib: usize,
}

impl Batch {
    pub(super) const SMALL: Batch = Batch { count: 20, mib: 50 };
    pub(super) const LARGE: Batch = Batch { count: 1, mib: 4096 };

    /// Reads `20x50`.
    pub(super) fn parse(text: &str) -> Result<Batch> {
        let (count, mib) = text.split_once('x').context("COUNTxMIB")?;
        Ok(Batch { count: count.parse()?, mib: mib.parse()? })
    }

    fn bytes(self) -> u64 {
        (self.count * self.mib * BLOCK) as u64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Ours,
    /// `cp` and `sha512sum`, two images at a time.
    Two,
    /// `cp` of all, then `sha512sum` of all.
    One,
    /// `tee | sha512sum`, one image after the other.
    Tee,
    Glance31,
    /// Glance 33's, mended.
    Mended33,
}

const BOUNDS: [Who; 3] = [Who::Two, Who::One, Who::Tee];
/// Glance's own prefetchers, and what the table calls them.
const GLANCES: [(Who, &str); 2] = [(Who::Glance31, "Glance 31"), (Who::Mended33, "33, mended")];
/// Has the prefetcher of Glance 33 start.
const MENDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/side_by_side/prefetcher33.py");

/// Times fetching the smaller images, then those and the larger ones.
pub(super) fn table(bench: &mut Bench, [small, large]: [Batch; 2]) -> Result<()> {
    println!(
        "Prefetch: images from a file store on the same disk, verified by SHA-512 and on disk at the end"
    );
    print!(
        "{:24}{:>6}{:>10}{:>10}{:>11}{:>10}{:>12}{:>10}{:>10}{:>10}",
        "", "runs", "ours", "CPU", "peak", "MiB/s", "2 x cp;sha", "cp;sha", "tee|sha", "of best"
    );
    for (_, glance) in GLANCES {
        print!("{glance:>12}{:>12}", "its peak");
    }
    println!();
    let lines: [(String, &[Batch]); 2] = [
        (format!("{} x {} MiB", small.count, small.mib), &[small]),
        (format!("{} x {}, {} x {} MiB", large.count, large.mib, small.count, small.mib), &[large, small]),
    ];
    for (name, batches) in lines {
        let store = bench.dir.join("store");
        let ids = stored(&store, &bench.dir.join("glance.sqlite"), batches)?;
        line(bench, &name, &store, &ids, batches)?;
        fs::remove_dir_all(&store)?;
    }
    Ok(())
}

fn line(bench: &mut Bench, name: &str, store: &Path, ids: &[String], batches: &[Batch]) -> Result<()> {
    let mut who = vec![Who::Ours, Who::Two, Who::One, Who::Tee];
    if batches.len() == 1 {
        who.extend(bench.glance31.is_some().then_some(Who::Glance31));
        who.extend(bench.real.is_some().then_some(Who::Mended33));
    }
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); who.len()];
    for round in 0..ROUNDS {
        // In turn, and not always in the same order.
        for at in 0..who.len() {
            let at = (at + round) % who.len();
            samples[at].push(fresh_run(bench, who[at], store, ids, batches)?);
        }
    }
    let of = |wanted: Who| who.iter().position(|who| *who == wanted).map(|at| medians(&samples[at]));
    let Some(ours) = of(Who::Ours) else { bail!("ours did not run") };
    let bounds: Vec<f64> = BOUNDS.into_iter().filter_map(of).map(|sample| sample.wall).collect();
    let best = bounds.iter().copied().fold(f64::INFINITY, f64::min);
    let bytes: u64 = batches.iter().map(|batch| batch.bytes()).sum();
    print!(
        "{name:24}{ROUNDS:>6}{:>10}{:>10}{:>11}{:>10.0}{:>12}{:>10}{:>10}{:>10}",
        time(ours.wall),
        time(ours.cpu),
        memory(ours.peak),
        bytes as f64 / MIB / ours.wall,
        time(bounds[0]),
        time(bounds[1]),
        time(bounds[2]),
        times(best / ours.wall),
    );
    for (who, _) in GLANCES {
        let shown = of(who).map_or(["-".to_owned(), "-".to_owned()], |g| [time(g.wall), memory(g.peak)]);
        print!("{:>12}{:>12}", shown[0], shown[1]);
    }
    println!();
    let ratio = best / ours.wall;
    bench.target(
        format!("prefetch of {name}: {} of the faster bound's throughput, at least 0.9", times(ratio)),
        ratio >= 0.9,
    );
    bench.target(
        format!("prefetch of {name}: peak {}, under 32 MiB", memory(ours.peak)),
        ours.peak < 32.0 * MIB,
    );
    for (who, glance) in GLANCES {
        let Some(theirs) = of(who) else { continue };
        let (faster, smaller) = (theirs.wall / ours.wall, theirs.peak / ours.peak);
        bench.target(
            format!("prefetch of {name}: {} times as fast as {glance}, more than 1", times(faster)),
            faster > 1.0,
        );
        bench.target(
            format!("prefetch of {name}: {glance} takes {} times the memory, at least 30", times(smaller)),
            smaller >= 30.0,
        );
    }
    Ok(())
}

/// Makes a store with these images, and a database that knows them and no others.
fn stored(store: &Path, database: &Path, batches: &[Batch]) -> Result<Vec<String>> {
    fs::create_dir(store)?;
    let mut random = fs::File::open("/dev/urandom")?;
    let mut block = vec![0; BLOCK];
    std::io::Read::read_exact(&mut random, &mut block)?;
    let sizes = batches.iter().flat_map(|batch| std::iter::repeat_n(batch.mib, batch.count));
    let mut ids = Vec::new();
    for (n, mib) in sizes.enumerate() {
        // In the order of their names: that is the order in which a shell has them.
        let id = format!("{n:08x}-0000-4000-8000-000000000000");
        let mut file = fs::File::create_new(store.join(&id))?;
        for part in 0..mib {
            let from = (n * 65_537 + part * 4099) % BLOCK;
            file.write_all(&block[from..])?;
            file.write_all(&block[..from])?;
        }
        ids.push(id);
    }
    let _ = fs::remove_file(database);
    let db = rusqlite::Connection::open(database)?;
    db.execute_batch(TABLES)?;
    for id in &ids {
        let path = store.join(id);
        let size = i64::try_from(fs::metadata(&path)?.len())?;
        let now = "2025-01-01 00:00:00";
        db.execute(
            "INSERT INTO images (id, size, status, created_at, updated_at, deleted, disk_format, container_format, checksum, min_disk, \
             min_ram, protected, visibility, os_hidden, os_hash_algo, os_hash_value) \
             VALUES (?1, ?2, 'active', ?3, ?3, 0, 'raw', 'bare', ?4, 0, 0, 0, 'public', 0, 'sha512', ?5)",
            (id, size, now, digest("md5sum", &path)?, digest("sha512sum", &path)?),
        )?;
        db.execute(
            "INSERT INTO image_locations (image_id, value, created_at, updated_at, deleted, meta_data, status) \
             VALUES (?1, ?2, ?3, ?3, 0, '{}', 'active')",
            (id, format!("file://{}", path.display()), now),
        )?;
    }
    Ok(ids)
}

fn digest(tool: &str, path: &Path) -> Result<String> {
    let output = Command::new(tool).arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().filter(|digest| !digest.is_empty()).context("no digest")?.to_owned())
}

/// Has all images fetched or copied into a new directory, and looks at what is there.
fn fresh_run(bench: &mut Bench, who: Who, store: &Path, ids: &[String], batches: &[Batch]) -> Result<Sample> {
    let cache = bench.next_cache();
    make::cache(&cache, Driver::Sqlite, 0, 0)?;
    for id in ids {
        fs::write(cache.join("queue").join(id), "")?;
    }
    // What was made or removed before is not the next program's business.
    rustix::fs::syncfs(fs::File::open(&cache)?)?;
    let command = format!("{} && sync -f {}", command(bench, who, store, &cache)?, cache.display());
    let sample = bench.measured(&["/bin/sh".into(), "-c".into(), command])?;
    let (mut files, mut bytes) = (0, 0);
    for id in ids {
        bytes += fs::metadata(cache.join(id)).with_context(|| format!("{who:?} left out {id}"))?.len();
        files += 1;
    }
    let expected: u64 = batches.iter().map(|batch| batch.bytes()).sum();
    ensure!(bytes == expected, "{who:?}: {files} images of {bytes} bytes, not {expected}");
    fs::remove_dir_all(&cache)?;
    Ok(sample)
}

fn command(bench: &Bench, who: Who, store: &Path, cache: &Path) -> Result<String> {
    let (store, out) = (store.display(), cache.display());
    Ok(match who {
        Who::Ours => format!("{OURS} prefetch --config-file {}", configure(bench, cache)?.display()),
        Who::Two => format!(
            "printf '%s\\n' {store}/* | xargs -P 2 -I @ sh -c 'cp @ {out}/ && sha512sum @ > /dev/null'"
        ),
        Who::One => format!("cp {store}/* {out}/ && sha512sum {store}/* > /dev/null"),
        Who::Tee => {
            format!("for file in {store}/*; do tee {out}/${{file##*/}} < $file | sha512sum > /dev/null; done")
        }
        Who::Glance31 => {
            let python = bench.glance31.as_ref().context("there is no Glance 31")?;
            let tool = python.with_file_name("glance-cache-prefetcher");
            format!("{} --config-file {} 2> /dev/null", tool.display(), configure(bench, cache)?.display())
        }
        Who::Mended33 => {
            let python = bench.real.as_ref().context("there is no Glance 33")?.display();
            format!("{python} {MENDED} --config-file {} 2> /dev/null", configure(bench, cache)?.display())
        }
    })
}

fn configure(bench: &Bench, cache: &Path) -> Result<PathBuf> {
    let dir = bench.dir.display();
    let text = format!(
        "[DEFAULT]\nimage_cache_dir = {0}\nimage_cache_driver = sqlite\nimage_cache_max_size = 1099511627776\n\
         [database]\nconnection = sqlite:///{dir}/glance.sqlite\n\
         [glance_store]\nstores = file\ndefault_store = file\nfilesystem_store_datadir = {dir}/store\n\
         [oslo_concurrency]\nlock_path = {0}\n",
        cache.display()
    );
    let conf = bench.dir.join("prefetch.conf");
    fs::write(&conf, text)?;
    Ok(conf)
}
