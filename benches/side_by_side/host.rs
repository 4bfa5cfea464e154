//! All image caches of a host: three of Ironic's, of which `prune --all-caches` removes half, beside a bare program and Ironic's own code.
//!
//! Ironic's code is what a conductor runs every hour, once for each cache, in one process that does nothing else; its start, which a
//! conductor has behind it, is told apart. Images are as long as each other, so that half of the bytes is half of the images
//! whichever of those that were cached in the same tick of the clock goes first.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Result, ensure};

use super::make::{self, MASTERS};
use super::{Bench, MIB, OURS, Sample, medians, memory, time, times};

/// Ironic's own cleaning of directories to a size in bytes: SIZE DIRECTORY...
const CLEAN_UP: &str = "import sys, warnings; warnings.simplefilter('ignore')
from ironic.conf import CONF
CONF([], project='ironic', default_config_files=[], default_config_dirs=[])
from ironic.drivers.modules import image_cache
for directory in sys.argv[2:]:
    image_cache.ImageCache(directory, int(sys.argv[1]), 1 << 40).clean_up()";

const ROUNDS: usize = 5;
const ROUNDS_OF_IRONIC: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Ours,
    Bare,
    Ironic,
    /// Ironic's code with nothing to clean.
    Start,
}

pub(super) fn table(bench: &mut Bench, sizes: &[usize]) -> Result<()> {
    println!("Host: prune --all-caches removes half of N images in each of three caches of Ironic's");
    println!(
        "{:>8}{:>6}{:>11}{:>11}{:>11}{:>11}{:>11}{:>8}{:>8}{:>12}{:>12}{:>11}",
        "N", "runs", "ours", "CPU", "peak", "bare", "CPU", "/bare", "CPU", "Ironic CPU", "its start", "peak"
    );
    for images in sizes {
        line(bench, *images)?;
    }
    Ok(())
}

fn line(bench: &mut Bench, images: usize) -> Result<()> {
    let [mut ours, mut bare, mut ironic, mut start] = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        // In turn, and not always in the same order.
        let who = if round % 2 == 0 { [Who::Ours, Who::Bare] } else { [Who::Bare, Who::Ours] };
        for who in who {
            let sample = fresh_run(bench, who, images)?;
            if who == Who::Ours { ours.push(sample) } else { bare.push(sample) }
        }
        if round < ROUNDS_OF_IRONIC && bench.ironic.is_some() {
            ironic.push(fresh_run(bench, Who::Ironic, images)?);
            start.push(run(bench, Who::Start, images)?);
        }
    }
    let (ours, bare) = (medians(&ours), medians(&bare));
    let (theirs, peak) = if ironic.is_empty() {
        (["-".to_owned(), "-".to_owned()], "-".to_owned())
    } else {
        let (ironic, start) = (medians(&ironic), medians(&start));
        ([time(ironic.cpu), time(start.cpu)], memory(ironic.peak))
    };
    println!(
        "{images:>8}{ROUNDS:>6}{:>11}{:>11}{:>11}{:>11}{:>11}{:>8}{:>8}{:>12}{:>12}{peak:>11}",
        time(ours.wall),
        time(ours.cpu),
        memory(ours.peak),
        time(bare.wall),
        time(bare.cpu),
        times(ours.wall / bare.wall),
        times(ours.cpu / bare.cpu),
        theirs[0],
        theirs[1],
    );
    if images == 100_000 {
        let factor = ours.wall / bare.wall;
        bench.target(
            format!("host of 3 x 100,000: {} times the bare program, at most 1.5", times(factor)),
            factor <= 1.5,
        );
        bench.target(
            format!("host of 3 x 100,000: peak {}, under 128 MiB", memory(ours.peak)),
            ours.peak < 128.0 * MIB,
        );
    }
    Ok(())
}

/// Makes the caches, has them pruned, and counts what is left.
fn fresh_run(bench: &mut Bench, who: Who, images: usize) -> Result<Sample> {
    let host = bench.next_cache();
    for cache in MASTERS {
        make::masters(&host.join(cache), images)?;
    }
    // What making it left to be written is not the next program's business.
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
    let arguments = match (who, &bench.ironic) {
        (Who::Ours, _) => {
            let conf = bench.dir.join("host.conf");
            let mut text = format!(
                "[deploy]\niso_master_path = {}\n[pxe]\ninstance_master_path = {}\ntftp_master_path = {}\n",
                below(MASTERS[0]),
                below(MASTERS[1]),
                below(MASTERS[2])
            );
            for kind in ["ironic-iso", "ironic-instance", "ironic-tftp"] {
                let _ = write!(text, "[image_cache:{kind}]\nsize = {size}\nage = 9999d\n");
            }
            fs::write(&conf, text)?;
            let conf = conf.display().to_string();
            let ours = [OURS, "prune", "--all-caches", "--min-age", "0", "--config-file", &conf];
            [&ours[..], &["--ironic-config-file", &conf]].concat().into_iter().map(str::to_owned).collect()
        }
        (Who::Bare, _) => {
            let bare =
                [bench.myself.display().to_string(), "bare".to_owned(), make::middle(images).to_string()];
            bare.into_iter().chain(MASTERS.map(below)).collect()
        }
        (Who::Ironic | Who::Start, Some(python)) => {
            let ironic =
                [python.display().to_string(), "-c".to_owned(), CLEAN_UP.to_owned(), size.to_string()];
            let directories = MASTERS.iter().filter(|_| who == Who::Ironic).map(|cache| below(cache));
            ironic.into_iter().chain(directories).collect::<Vec<String>>()
        }
        (Who::Ironic | Who::Start, None) => Vec::new(),
    };
    bench.measured(&arguments)
}
