//! All image caches of a host: `prune --all-caches` removes half of the images in each of three caches of
//! Ironic's.
//!
//! It runs next to the bare program and to Ironic's own code, which a conductor runs every hour, once for
//! each cache, in a process that is already there. The start of that process is measured separately. All
//! images have the same size, so that half of the bytes is half of the images, whichever of those that were
//! cached in the same tick of the clock goes first.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::make::{self, MASTERS};
use super::results::{Row, Table, Who, memory, times};
use super::watch::{MIB, Sample};

/// Ironic's own cleaning of directories to a size in bytes: SIZE DIRECTORY...
const CLEAN_UP: &str = "import sys, warnings; warnings.simplefilter('ignore')
from ironic.conf import CONF
CONF([], project='ironic', default_config_files=[], default_config_dirs=[])
from ironic.drivers.modules import image_cache
for directory in sys.argv[2:]:
    image_cache.ImageCache(directory, int(sys.argv[1]), 1 << 40).clean_up()";

const ROUNDS: usize = 5;
const ROUNDS_OF_IRONIC: usize = 3;

pub(super) fn table(bench: &mut Bench, sizes: &[usize]) -> Result<()> {
    let work = "prune --all-caches removes half of N images in each of three caches of Ironic's";
    let columns = bench.present(&[Who::Ours, Who::Bare, Who::Ironic, Who::IronicStart]);
    let mut table = Table::new("Host", work, &columns);
    for images in sizes.iter().copied() {
        let rounds = bench.rounds(ROUNDS);
        let mut everybody = bench.builds(rounds);
        everybody.push((Who::Bare, rounds));
        if bench.programs.ironic.is_some() {
            everybody.extend([(Who::Ironic, ROUNDS_OF_IRONIC), (Who::IronicStart, ROUNDS_OF_IRONIC)]);
        }
        let runs = bench.in_turn(&everybody, |bench, who| match who {
            Who::IronicStart => run(bench, who, images),
            _ => fresh_run(bench, who, images),
        })?;
        let row = Row { name: "prune --all-caches".into(), entries: images, rounds, runs };
        targets(bench, &row);
        table.push(row);
    }
    println!();
    bench.results.tables.push(table);
    Ok(())
}

fn targets(bench: &mut Bench, row: &Row) {
    let (Some(ours), Some(bare)) = (row.of(Who::Ours), row.of(Who::Bare)) else { return };
    if row.entries != 100_000 {
        return;
    }
    let factor = ours.wall / bare.wall;
    let what = format!("host of 3 x 100,000: {} times the bare program, at most 1.5", times(factor));
    bench.results.target(what, factor <= 1.5);
    let what = format!("host of 3 x 100,000: peak {}, under 128 MiB", memory(ours.peak));
    bench.results.target(what, ours.peak < 128.0 * MIB);
}

/// Makes the caches, has them pruned, and counts the images that are left.
fn fresh_run(bench: &mut Bench, who: Who, images: usize) -> Result<Sample> {
    let host = bench.next_cache();
    for cache in MASTERS {
        make::masters(&host.join(cache), images)?;
    }
    // Otherwise the program that runs next would wait for what making the caches left to be written.
    rustix::fs::syncfs(fs::File::open(&host)?)?;
    let sample = run(bench, who, images)?;
    for cache in MASTERS {
        let left = fs::read_dir(host.join(cache))?.count();
        ensure!(left == images - images / 2, "{who:?}: {left} of {images} images are left in {cache}");
    }
    fs::remove_dir_all(&host)?;
    Ok(sample)
}

fn run(bench: &Bench, who: Who, images: usize) -> Result<Sample> {
    let host = bench.cache();
    let below = |cache: &str| host.join(cache).display().to_string();
    let size = make::MASTER * (images - images / 2) as u64;
    let mut arguments: Vec<String> = Vec::new();
    match who {
        Who::Bare => {
            arguments.extend([bench.myself.display().to_string(), "bare".into()]);
            arguments.push(make::middle(images).to_string());
            arguments.extend(MASTERS.map(below));
        }
        Who::Ironic | Who::IronicStart => {
            let python = bench.programs.ironic.as_ref().context("there is no Ironic")?;
            arguments.extend([python.display().to_string(), "-c".into(), CLEAN_UP.into(), size.to_string()]);
            arguments.extend(MASTERS.iter().filter(|_| who == Who::Ironic).map(|cache| below(cache)));
        }
        _ => {
            let conf = configure(bench, size)?;
            arguments.extend([bench.build(who), "prune".into(), "--all-caches".into()]);
            arguments.extend(["--min-age", "0", "--config-file", &conf].map(str::to_owned));
            arguments.extend(["--ironic-config-file".to_owned(), conf]);
        }
    }
    bench.measured(&arguments)
}

/// Writes a configuration with the three caches, each limited to `size` bytes, and returns its path.
fn configure(bench: &Bench, size: u64) -> Result<String> {
    let host = bench.cache();
    let [iso, instance, tftp] = MASTERS.map(|cache| host.join(cache).display().to_string());
    let mut text = format!(
        "[deploy]\niso_master_path = {iso}\n\
         [pxe]\ninstance_master_path = {instance}\ntftp_master_path = {tftp}\n"
    );
    for kind in ["ironic-iso", "ironic-instance", "ironic-tftp"] {
        let _ = write!(text, "[image_cache:{kind}]\nsize = {size}\nage = 9999d\n");
    }
    let conf = bench.dir.join("host.conf");
    fs::write(&conf, text)?;
    Ok(conf.display().to_string())
}
