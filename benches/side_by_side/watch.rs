//! Measures programs: wall time, processor time and peak memory of one run, and the medians of several.
//!
//! The stop-watch is a process of its own, because the kernel adds up the usage of all children of a process.
//! It is this same executable, called as `measure PROGRAM ARGUMENT...`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

pub(super) const MIB: f64 = 1024.0 * 1024.0;

/// One run of a program, or the medians of several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds.
    pub(super) wall: f64,
    /// Seconds, user and system.
    pub(super) cpu: f64,
    /// Bytes.
    pub(super) peak: f64,
}

impl Sample {
    /// Returns the medians, of each figure separately.
    pub(super) fn medians(samples: &[Sample]) -> Sample {
        let median = |figure: fn(&Sample) -> f64| {
            let mut figures: Vec<f64> = samples.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            let middle = figures.len() / 2;
            if figures.len() % 2 == 1 {
                figures[middle]
            } else {
                f64::midpoint(figures[middle - 1], figures[middle])
            }
        };
        Sample { wall: median(|s| s.wall), cpu: median(|s| s.cpu), peak: median(|s| s.peak) }
    }
}

/// Runs a program and prints its wall and processor time (microseconds) and its peak memory (KiB).
pub(super) fn measure(arguments: &[String]) -> Result<()> {
    let (program, rest) = arguments.split_first().context("measure PROGRAM ARGUMENT...")?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    let wall = started.elapsed().as_micros();
    ensure!(status.success(), "{arguments:?} ended with {status}");
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = [used.user_time(), used.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    println!("{wall} {} {}", cpu[0] + cpu[1], used.max_rss());
    Ok(())
}

/// Has the stop-watch at `myself` run a program, with a cleared environment and `home` as its home.
pub(super) fn measured(myself: &Path, home: &Path, arguments: &[String]) -> Result<Sample> {
    let output = Command::new(myself)
        .arg("measure")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let figures: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[wall, cpu, peak] = figures.as_slice() else { bail!("measure printed {text:?}") };
    Ok(Sample { wall: wall / 1e6, cpu: cpu / 1e6, peak: peak * 1024.0 })
}
