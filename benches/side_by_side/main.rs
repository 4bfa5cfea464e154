//! Times `glance-cache` next to the real tools and to a bare program, on the same caches, and prints tables.
//!
//! `benches/run` calls it. The programs that are compared run in turn, several times, in one invocation, and
//! medians and their ratios are printed: a busy machine slows all of them. Each run that changes something
//! gets a new cache, which is written back to disk before the clock starts. The page cache stays as it is,
//! warm for everybody. The entries that a run leaves behind are counted: a program that removed too little or
//! too much ends the bench.
//!
//! The same executable is also the programs compared with (`bare`, `open`) and the stop-watch (`measure`).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench speaks")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the tool itself")]

mod bare;
#[path = "../../tests/support/cache.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is the tests' own")]
mod cache;
mod host;
#[path = "../../tests/support/http.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is the tests' own")]
mod http;
mod load;
mod machine;
mod make;
mod one_cache;
mod page;
mod plot;
mod prefetch;
mod programs;
mod results;
#[path = "../../tests/support/running.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is the tests' own")]
mod running;
mod serve;
mod stores;
mod wanted;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use self::results::{Results, Who};
use self::wanted::Programs;
use self::watch::Sample;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "bare" => programs::bare(rest),
        Some((command, rest)) if command == "open" => programs::open(rest),
        Some((command, rest)) if command == "make" => programs::make(rest),
        Some((command, rest)) if command == "measure" => watch::measure(rest),
        _ => bench(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[String]) -> Result<()> {
    let wanted = wanted::read(arguments)?;
    let machine = machine::describe(&wanted.dir)?;
    println!("{machine}\n");
    let mut bench = Bench {
        dir: wanted.dir,
        myself: std::env::current_exe()?,
        programs: wanted.programs,
        made: 0,
        results: Results::default(),
    };
    if wanted.parts.one_cache {
        one_cache::start_up(&mut bench)?;
        one_cache::work(&mut bench, &wanted.sizes)?;
    }
    if wanted.parts.host {
        // Three caches of a million images are for those who ask for nothing else.
        let most = if wanted.parts.one_cache { 100_000 } else { usize::MAX };
        let sizes: Vec<usize> = wanted.sizes.iter().copied().filter(|images| *images <= most).collect();
        host::table(&mut bench, &sizes)?;
    }
    if wanted.parts.prefetch {
        prefetch::table(&mut bench, wanted.batches)?;
    }
    if wanted.parts.serve {
        serve::table(&mut bench)?;
    }
    if wanted.parts.stores {
        stores::table(&mut bench)?;
    }
    if bench.programs.before.is_some() {
        bench.results.print_comparison();
    } else {
        bench.results.print_targets();
    }
    if let Some(docs) = &wanted.page {
        page::write(docs, &machine, &bench)?;
    }
    Ok(())
}

/// The bench while it runs.
struct Bench {
    /// Where the caches are made.
    dir: PathBuf,
    /// This executable.
    myself: PathBuf,
    programs: Programs,
    /// How many caches were made. Each has a name of its own: see `benches/run`.
    made: usize,
    results: Results,
}

impl Bench {
    /// Runs everybody in turn, each so many times, and returns the medians. Everybody begins a round once.
    fn in_turn(
        &mut self,
        everybody: &[(Who, usize)],
        mut run: impl FnMut(&mut Bench, Who) -> Result<Sample>,
    ) -> Result<Vec<(Who, Sample)>> {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); everybody.len()];
        let rounds = everybody.iter().map(|(_, runs)| *runs).max().unwrap_or(0);
        for round in 0..rounds {
            for place in 0..everybody.len() {
                let at = (place + round) % everybody.len();
                let (who, runs) = everybody[at];
                if round < runs {
                    samples[at].push(run(self, who)?);
                }
            }
        }
        let medians = everybody.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty());
        Ok(medians.map(|((who, _), samples)| (*who, Sample::medians(samples))).collect())
    }

    /// Returns the builds of glance-cache that are measured, each with its number of runs.
    fn builds(&self, rounds: usize) -> Vec<(Who, usize)> {
        let before = self.programs.before.is_some().then_some((Who::Before, rounds));
        [(Who::Ours, rounds)].into_iter().chain(before).collect()
    }

    /// Returns those of the programs that are there.
    fn present(&self, wanted: &[Who]) -> Vec<Who> {
        let programs = &self.programs;
        let is_there = |who: &Who| match who {
            Who::Before => programs.before.is_some(),
            Who::Glance | Who::Glance33 => programs.glance.is_some(),
            Who::Glance31 => programs.glance31.is_some(),
            Who::Ironic | Who::IronicStart => programs.ironic.is_some(),
            _ => true,
        };
        wanted.iter().copied().filter(is_there).collect()
    }

    /// Returns how often glance-cache runs. Two builds that are compared run more often: small differences
    /// matter.
    fn rounds(&self, usual: usize) -> usize {
        if self.programs.before.is_some() { 2 * usual + 1 } else { usual }
    }

    /// Returns the path of a build of glance-cache.
    fn build(&self, who: Who) -> String {
        let path = if who == Who::Before { self.programs.before.as_ref() } else { None };
        path.unwrap_or(&self.programs.ours).display().to_string()
    }

    fn measured(&self, arguments: &[String]) -> Result<Sample> {
        watch::measured(&self.myself, &self.dir, arguments)
    }

    fn next_cache(&mut self) -> PathBuf {
        self.made += 1;
        self.cache()
    }

    /// The cache that is worked on.
    fn cache(&self) -> PathBuf {
        self.dir.join(format!("cache-{:04}", self.made))
    }
}
