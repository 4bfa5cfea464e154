//! Times `glance-cache` beside the real tools and beside a bare program, on the same caches, and prints one table.
//!
//! `benches/run` calls it. Everything compared is run in turn, several times, in one invocation, and what is printed are
//! medians and their ratios: a machine that is busy slows all of them. Each run that changes something gets a cache of its
//! own, made afresh and written back before the clock starts; the page cache is left as it is, warm for everybody. What a run
//! leaves behind is counted: one that removed too little or too much ends the bench.
//!
//! The same executable is also the programs compared with (`bare`, `open`) and the stop-watch (`measure`), which has to be a
//! process of its own because the kernel adds up what all children of a process used.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench speaks")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the tool itself")]

mod bare;
mod host;
mod make;
mod prefetch;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use self::make::{Driver, Facts};
use self::prefetch::Batch;

const OURS: &str = env!("CARGO_BIN_EXE_glance-cache");
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "bare" => bare(rest),
        Some((command, rest)) if command == "open" => open(rest),
        Some((command, rest)) if command == "measure" => measure(rest),
        Some((command, rest)) if command == "make" => make(rest),
        _ => table(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// `bare CUTOFF DIR...`
fn bare(arguments: &[String]) -> Result<()> {
    let (cutoff, dirs) = arguments.split_first().context("bare CUTOFF DIR...")?;
    bare::run(cutoff.parse()?, dirs)
}

/// `open FILE`: opens a database and reads its schema. What a start costs that has to look into an index.
fn open(arguments: &[String]) -> Result<()> {
    let db = rusqlite::Connection::open(&arguments[0])?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    ensure!(tables > 0, "an empty database");
    Ok(())
}

/// `make DIR DRIVER IMAGES`: makes a cache to run a profiler on, and prints the limit that has half of it pruned.
fn make(arguments: &[String]) -> Result<()> {
    let [dir, driver, images] = arguments else { bail!("make DIR DRIVER IMAGES") };
    let driver = if driver == "sqlite" { Driver::Sqlite } else { Driver::Xattr };
    let images = images.parse()?;
    make::cache(Path::new(dir), driver, images, 0)?;
    println!("{}", make::facts(images).limit);
    Ok(())
}

/// `measure PROGRAM ARGUMENT...`: runs it and prints wall and CPU time (microseconds) and peak memory (KiB).
fn measure(arguments: &[String]) -> Result<()> {
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {}", arguments[0]))?;
    let wall = started.elapsed().as_micros();
    ensure!(status.success(), "{arguments:?} ended with {status}");
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = [used.user_time(), used.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    println!("{wall} {} {}", cpu[0] + cpu[1], used.max_rss());
    Ok(())
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds.
    wall: f64,
    /// Seconds, user and system.
    cpu: f64,
    /// Bytes.
    peak: f64,
}

/// The medians of several runs, each figure for itself.
fn medians(samples: &[Sample]) -> Sample {
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Prune,
    Clean,
}

/// Who does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Ours,
    Bare,
    Real,
    /// `/bin/true`
    True,
    /// A program that does nothing but open the database.
    Open,
}

/// The bench: where it works, and what it was asked for.
struct Bench {
    dir: PathBuf,
    myself: PathBuf,
    /// A Python that has the real Glance, beside which its tools are.
    real: Option<PathBuf>,
    /// A Python that has the real Ironic.
    ironic: Option<PathBuf>,
    /// A Python that has a Glance whose prefetcher works.
    glance31: Option<PathBuf>,
    /// How many caches were made. Each has a name of its own: see `benches/run`.
    made: usize,
    targets: Vec<(String, bool)>,
}

/// One line of the table.
#[derive(Clone, Copy)]
struct Line {
    work: Work,
    driver: Driver,
    /// Images (prune), or invalid and as many stalled entries (clean).
    entries: usize,
    rounds: usize,
    /// Runs of the real tool: none where it does not end in reasonable time.
    real: usize,
}

fn table(arguments: &[String]) -> Result<()> {
    let (mut dir, mut sizes, mut only_host) = (None, vec![1_000, 10_000, 100_000], false);
    let (mut only_prefetch, mut batches) = (false, [Batch::SMALL, Batch::LARGE]);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dir" => dir = arguments.next().map(PathBuf::from),
            "--million" => sizes.push(1_000_000),
            "--host" => only_host = true,
            "--prefetch" => only_prefetch = true,
            "--images" => {
                let list = arguments.next().context("--images takes a list like 20x50,1x4096")?;
                let list: Vec<Batch> =
                    list.split(',').map(Batch::parse).collect::<Result<_>>().context("--images")?;
                batches = list.try_into().ok().context("--images takes two batches")?;
            }
            "--sizes" => {
                let list = arguments.next().context("--sizes takes a list like 1000,10000")?;
                sizes = list.split(',').map(str::parse).collect::<Result<_, _>>().context("--sizes")?;
            }
            other => bail!("unknown argument {other}: see benches/run --help"),
        }
    }
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let real = given("GLANCE_CACHE_TEST_PYTHON");
    if let Some(real) = &real {
        ensure!(
            real.with_file_name("glance-cache-pruner").exists(),
            "there is no glance-cache-pruner beside {}: GLANCE_CACHE_TEST_PYTHON must be the Python that Glance is installed for",
            real.display()
        );
    } else {
        println!(
            "NOT COMPARED WITH THE REAL TOOLS: set GLANCE_CACHE_TEST_PYTHON to a Python that has Glance (tests/run makes one)\n"
        );
    }
    let ironic = given("GLANCE_CACHE_TEST_IRONIC_PYTHON");
    if ironic.is_none() && !only_prefetch {
        println!("NOT COMPARED WITH IRONIC: set GLANCE_CACHE_TEST_IRONIC_PYTHON to a Python that has it\n");
    }
    let glance31 = given("GLANCE_CACHE_TEST_GLANCE31_PYTHON");
    if glance31.is_none() && only_prefetch {
        println!(
            "NOT COMPARED WITH GLANCE 31: set GLANCE_CACHE_TEST_GLANCE31_PYTHON to a Python that has it\n"
        );
    }
    let dir = dir.context("--dir DIR: where the caches are made")?;
    let myself = std::env::current_exe()?;
    let mut bench = Bench { dir, myself, real, ironic, glance31, made: 0, targets: Vec::new() };
    if only_prefetch {
        prefetch::table(&mut bench, batches)?;
    } else {
        if !only_host {
            bench.start_up()?;
            bench.work(&sizes)?;
            println!();
        }
        // Three caches of a million, made ten times and more, are for those who ask for just that.
        sizes.retain(|images| only_host || *images <= 100_000);
        host::table(&mut bench, &sizes)?;
    }
    println!("\nTargets");
    for (what, holds) in &bench.targets {
        println!("  {}  {what}", if *holds { "holds " } else { "MISSED" });
    }
    Ok(())
}

impl Bench {
    /// Starts that find nothing to do, against `/bin/true` and a program that opens the database.
    fn start_up(&mut self) -> Result<()> {
        println!("Start-up: nothing to do in a cache of ten images within its limit");
        println!(
            "{:16}{:>7}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>11}",
            "", "runs", "ours", "CPU", "peak", "/bin/true", "open db", "real", "real/ours"
        );
        for driver in [Driver::Sqlite, Driver::Xattr] {
            let cache = self.next_cache();
            make::cache(&cache, driver, 10, 0)?;
            self.configure(driver, u64::MAX >> 1)?;
            for work in [Work::Clean, Work::Prune] {
                let line = Line { work, driver, entries: 10, rounds: 101, real: 3 };
                let [mut ours, mut nothing, mut open, mut real] = [const { Vec::new() }; 4];
                for round in 0..line.rounds {
                    ours.push(self.run(Who::Ours, line, 0)?);
                    nothing.push(self.run(Who::True, line, 0)?);
                    if driver == Driver::Sqlite {
                        open.push(self.run(Who::Open, line, 0)?);
                    }
                    if round < line.real && self.real.is_some() {
                        real.push(self.run(Who::Real, line, 0)?);
                    }
                }
                self.start_up_line(
                    line,
                    [ours, nothing, open, real].map(|s| (!s.is_empty()).then(|| medians(&s))),
                );
            }
            fs::remove_dir_all(&cache)?;
        }
        println!();
        Ok(())
    }

    fn start_up_line(&mut self, line: Line, [ours, nothing, open, real]: [Option<Sample>; 4]) {
        let (Some(ours), Some(nothing)) = (ours, nothing) else { return };
        let name = name(line);
        // Both of them are processes that have to be started, the second also opens the database.
        let reference = nothing.wall + open.map_or(0.0, |open| open.wall - nothing.wall);
        let wall = |sample: Option<Sample>| sample.map_or("-".to_owned(), |s| time(s.wall));
        let ratio = real.map_or("-".to_owned(), |real| times(real.wall / ours.wall));
        println!(
            "{name:16}{:>7}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{ratio:>11}",
            line.rounds,
            time(ours.wall),
            time(ours.cpu),
            memory(ours.peak),
            time(nothing.wall),
            wall(open),
            wall(real)
        );
        let factor = ours.wall / reference;
        self.target(
            format!("start of {name}: {} times /bin/true and opening the database, at most 3", times(factor)),
            factor <= 3.0,
        );
        let over = ours.wall - nothing.wall;
        self.target(format!("start of {name}: {} over /bin/true, at most 3 ms", time(over)), over <= 0.003);
        self.target(
            format!("start of {name}: peak {}, under 16 MiB", memory(ours.peak)),
            ours.peak < 16.0 * MIB,
        );
        if let Some(real) = real {
            let factor = real.wall / ours.wall;
            self.target(
                format!("start of {name}: {} times faster than the real tool, at least 300", times(factor)),
                factor >= 300.0,
            );
        }
    }

    /// Prunes of half of the bytes and cleans of everything, against the bare program and the real tools.
    fn work(&mut self, sizes: &[usize]) -> Result<()> {
        println!("Work: prune removes half of the bytes of N images, clean N invalid and N stalled entries");
        println!(
            "{:16}{:>10}{:>6}{:>12}{:>12}{:>11}{:>11}{:>11}{:>8}{:>8}{:>11}{:>10}{:>10}",
            "",
            "N",
            "runs",
            "ours",
            "CPU",
            "peak",
            "us/entry",
            "bare",
            "/bare",
            "CPU",
            "real",
            "real/ours",
            "memory"
        );
        for (work, driver) in
            [(Work::Prune, Driver::Xattr), (Work::Prune, Driver::Sqlite), (Work::Clean, Driver::Xattr)]
        {
            let mut before: Option<(Line, Sample)> = None;
            for entries in sizes.iter().copied() {
                let rounds = match entries {
                    0..=1_000 => 15,
                    1_001..=10_000 => 9,
                    10_001..=100_000 => 5,
                    _ => 3,
                };
                // The real pruner takes 8 minutes for 10,000 images with the xattr driver, and hours for more.
                let ends = if (work, driver) == (Work::Prune, Driver::Xattr) { 1_000 } else { 10_000 };
                let real = if self.real.is_some() && entries <= ends { 3 } else { 0 };
                let line = Line { work, driver, entries, rounds, real };
                let ours = self.compare(line)?;
                if let Some((smaller, least)) = before {
                    self.linear(smaller, &least, line, &ours);
                }
                before = Some((line, ours));
            }
        }
        Ok(())
    }

    fn compare(&mut self, line: Line) -> Result<Sample> {
        let facts = make::facts(line.entries);
        let [mut ours, mut bare, mut real] = [const { Vec::new() }; 3];
        for round in 0..line.rounds {
            // In turn, and not always in the same order.
            let who = if round % 2 == 0 { [Who::Ours, Who::Bare] } else { [Who::Bare, Who::Ours] };
            for who in who {
                let sample = self.fresh_run(who, line, facts)?;
                if who == Who::Ours { ours.push(sample) } else { bare.push(sample) }
            }
            if round < line.real {
                real.push(self.fresh_run(Who::Real, line, facts)?);
            }
        }
        let (ours, bare) = (medians(&ours), medians(&bare));
        let real = (!real.is_empty()).then(|| medians(&real));
        let mut text = String::new();
        let files = if line.work == Work::Clean { 2 * line.entries } else { line.entries };
        let _ = write!(
            text,
            "{:16}{:>10}{:>6}{:>12}{:>12}{:>11}{:>11.2}{:>11}{:>8}{:>8}",
            name(line),
            line.entries,
            line.rounds,
            time(ours.wall),
            time(ours.cpu),
            memory(ours.peak),
            ours.wall * 1e6 / files as f64,
            time(bare.wall),
            times(ours.wall / bare.wall),
            times(ours.cpu / bare.cpu)
        );
        let _ = match real {
            Some(real) => write!(
                text,
                "{:>11}{:>10}{:>10}",
                time(real.wall),
                times(real.wall / ours.wall),
                times(real.peak / ours.peak)
            ),
            None => write!(text, "{:>11}{:>10}{:>10}", "-", "-", "-"),
        };
        println!("{text}");
        if line.entries == 100_000 {
            let (first, last) = match (line.work, line.driver) {
                (Work::Prune, Driver::Xattr) => (1.5, 1.3),
                (Work::Prune, Driver::Sqlite) => (2.0, 1.6),
                (Work::Clean, _) => (1.2, 1.2),
            };
            let factor = ours.wall / bare.wall;
            for most in if first > last { vec![first, last] } else { vec![first] } {
                self.target(
                    format!(
                        "{} of 100,000: {} times the bare program, at most {most}",
                        name(line),
                        times(factor)
                    ),
                    factor <= most,
                );
            }
            self.target(
                format!("{} of 100,000: peak {}, under 64 MiB", name(line), memory(ours.peak)),
                ours.peak < 64.0 * MIB,
            );
        }
        let per_entry = (ours.peak - 12.0 * MIB) / files as f64;
        self.target(
            format!(
                "{} of {}: {:.0} bytes per file over 12 MiB, under 200",
                name(line),
                line.entries,
                per_entry.max(0.0)
            ),
            per_entry < 200.0,
        );
        Ok(ours)
    }

    /// Ten times the entries take no more than ten times the time, give or take what machines do.
    fn linear(&mut self, smaller: Line, least: &Sample, line: Line, ours: &Sample) {
        let growth = (ours.cpu / least.cpu) / (line.entries as f64 / smaller.entries as f64);
        let text = format!(
            "{} from {} to {}: CPU per entry grows {} times, at most 1.5",
            name(line),
            smaller.entries,
            line.entries,
            times(growth)
        );
        self.target(text, growth <= 1.5);
    }

    fn target(&mut self, what: String, holds: bool) {
        self.targets.push((what, holds));
    }

    /// Makes a cache, has it pruned or cleaned, and counts what is left.
    fn fresh_run(&mut self, who: Who, line: Line, facts: Facts) -> Result<Sample> {
        let cache = self.next_cache();
        self.configure(line.driver, facts.limit)?;
        let (images, partials) = if line.work == Work::Prune { (line.entries, 0) } else { (0, line.entries) };
        make::cache(&cache, line.driver, images, partials)?;
        // What making it left to be written is not the next program's business.
        rustix::fs::syncfs(fs::File::open(&cache)?)?;
        let sample = self.run(who, line, facts.cutoff)?;
        let left = |sub| -> Result<usize> {
            let names = fs::read_dir(cache.join(sub))?.map(|entry| Ok(entry?.file_name()));
            Ok(names.collect::<Result<Vec<_>>>()?.iter().filter(|name| name.len() == 36).count())
        };
        let left = left("")? + left("invalid")? + left("incomplete")?;
        let expected = if line.work == Work::Prune { facts.left } else { 0 };
        ensure!(left == expected, "{who:?}, {}: {left} entries are left, not {expected}", name(line));
        fs::remove_dir_all(&cache)?;
        Ok(sample)
    }

    fn run(&self, who: Who, line: Line, cutoff: i64) -> Result<Sample> {
        let verb = if line.work == Work::Prune { "prune" } else { "clean" };
        let conf = self.dir.join("glance-cache.conf").display().to_string();
        let cache = self.cache();
        let below = |sub: &str| cache.join(sub).display().to_string();
        let mut arguments: Vec<String> = match (who, &self.real) {
            (Who::Ours, _) => vec![OURS.into(), verb.into(), "--config-file".into(), conf],
            (Who::Bare, _) if line.work == Work::Prune => vec!["bare".into(), cutoff.to_string(), below("")],
            (Who::Bare, _) => {
                vec!["bare".into(), i64::MAX.to_string(), below("invalid"), below("incomplete")]
            }
            (Who::Open, _) => vec!["open".into(), below("cache.db")],
            (Who::True, _) => vec!["/bin/true".into()],
            (Who::Real, Some(real)) => {
                let tool =
                    if line.work == Work::Prune { "glance-cache-pruner" } else { "glance-cache-cleaner" };
                vec![real.with_file_name(tool).display().to_string(), "--config-file".into(), conf]
            }
            (Who::Real, None) => bail!("there are no real tools"),
        };
        if matches!(who, Who::Bare | Who::Open) {
            arguments.insert(0, self.myself.display().to_string());
        }
        self.measured(&arguments)
    }

    /// What a program takes, run by the stop-watch.
    fn measured(&self, arguments: &[String]) -> Result<Sample> {
        let output = Command::new(&self.myself)
            .arg("measure")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let figures: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let &[wall, cpu, peak] = figures.as_slice() else { bail!("measure printed {text:?}") };
        Ok(Sample { wall: wall / 1e6, cpu: cpu / 1e6, peak: peak * 1024.0 })
    }

    fn next_cache(&mut self) -> PathBuf {
        self.made += 1;
        self.cache()
    }

    /// The cache that is worked on.
    fn cache(&self) -> PathBuf {
        self.dir.join(format!("cache-{:04}", self.made))
    }

    fn configure(&self, driver: Driver, limit: u64) -> Result<()> {
        let driver = if driver == Driver::Sqlite { "sqlite" } else { "xattr" };
        let text = format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = {driver}\nimage_cache_max_size = {limit}\n",
            self.cache().display()
        );
        fs::write(self.dir.join("glance-cache.conf"), text).context("cannot write the configuration")
    }
}

fn name(line: Line) -> String {
    let driver = if line.driver == Driver::Sqlite { "sqlite" } else { "xattr" };
    match line.work {
        Work::Prune => format!("prune, {driver}"),
        Work::Clean => format!("clean, {driver}"),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn memory(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / MIB)
}

fn times(ratio: f64) -> String {
    match ratio {
        r if r < 10.0 => format!("{r:.2}"),
        r if r < 100.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}
