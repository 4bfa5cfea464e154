//! One cache of Glance's: starts that find nothing to do, prunes of half of the bytes, and cleans of
//! everything.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::make::{self, Driver, Facts};
use super::results::{Row, Table, Who, memory, time, times};
use super::watch::{MIB, Sample};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Prune,
    Clean,
}

/// What is done, and on which cache.
#[derive(Clone, Copy)]
struct Task {
    work: Work,
    driver: Driver,
    /// Images (prune), or invalid and as many stalled entries (clean).
    entries: usize,
}

impl Task {
    fn name(self) -> String {
        match self.work {
            Work::Prune => format!("prune, {}", self.driver.name()),
            Work::Clean => format!("clean, {}", self.driver.name()),
        }
    }

    /// How many files the program looks at.
    fn files(self) -> usize {
        if self.work == Work::Clean { 2 * self.entries } else { self.entries }
    }

    /// How often glance-cache runs.
    fn rounds(self) -> usize {
        match self.entries {
            0..=1_000 => 15,
            1_001..=10_000 => 9,
            10_001..=100_000 => 5,
            _ => 3,
        }
    }

    /// How often Glance's tool runs: not at all where it takes minutes or hours.
    fn rounds_of_glance(self) -> usize {
        let most = if (self.work, self.driver) == (Work::Prune, Driver::Xattr) { 1_000 } else { 10_000 };
        if self.entries <= most { 3 } else { 0 }
    }
}

/// Measures starts that find nothing to do, next to `/bin/true` and a program that opens the index.
pub(super) fn start_up(bench: &mut Bench) -> Result<()> {
    let columns = bench.present(&[Who::Ours, Who::Nothing, Who::OpenIndex, Who::Glance]);
    let work = "nothing to do in a cache of ten images that is within its limit";
    let mut table = Table::new("Start", work, &columns);
    for driver in [Driver::Sqlite, Driver::Xattr] {
        let cache = bench.next_cache();
        make::cache(&cache, driver, 10, 0)?;
        configure(bench, driver, u64::MAX >> 1)?;
        for work in [Work::Clean, Work::Prune] {
            let task = Task { work, driver, entries: 10 };
            let rounds = bench.rounds(101);
            let mut everybody = bench.builds(rounds);
            everybody.push((Who::Nothing, rounds));
            everybody.extend((driver == Driver::Sqlite).then_some((Who::OpenIndex, rounds)));
            everybody.extend(bench.programs.glance.is_some().then_some((Who::Glance, 3)));
            let runs = bench.in_turn(&everybody, |bench, who| run(bench, who, task, 0))?;
            let row = Row { name: task.name(), entries: task.entries, rounds, runs };
            start_up_targets(bench, &row);
            table.push(row);
        }
        fs::remove_dir_all(&cache)?;
    }
    println!();
    bench.results.tables.push(table);
    Ok(())
}

fn start_up_targets(bench: &mut Bench, row: &Row) {
    let (Some(ours), Some(nothing)) = (row.of(Who::Ours), row.of(Who::Nothing)) else { return };
    let results = &mut bench.results;
    let start = format!("start of {}", row.name);
    let (least, name) = match row.of(Who::OpenIndex) {
        Some(open) => (open, "a program that opens the index"),
        None => (nothing, "/bin/true"),
    };
    let factor = ours.wall / least.wall;
    results.target(format!("{start}: {} times {name}, at most 3", times(factor)), factor <= 3.0);
    let over = ours.wall - nothing.wall;
    results.target(format!("{start}: {} over /bin/true, at most 3 ms", time(over)), over <= 0.003);
    results.target(format!("{start}: peak {}, under 16 MiB", memory(ours.peak)), ours.peak < 16.0 * MIB);
    if let Some(glance) = row.of(Who::Glance) {
        let factor = glance.wall / ours.wall;
        let what = format!("{start}: {} times faster than Glance's tool, at least 300", times(factor));
        results.target(what, factor >= 300.0);
    }
}

/// Measures prunes and cleans, next to the bare program and Glance's tools.
pub(super) fn work(bench: &mut Bench, sizes: &[usize]) -> Result<()> {
    let work = "prune removes half of the bytes of N images, clean N invalid and N stalled entries";
    let mut table = Table::new("Work", work, &bench.present(&[Who::Ours, Who::Bare, Who::Glance]));
    let kinds = [(Work::Prune, Driver::Xattr), (Work::Prune, Driver::Sqlite), (Work::Clean, Driver::Xattr)];
    for (work, driver) in kinds {
        let mut smaller: Option<Row> = None;
        for entries in sizes.iter().copied() {
            let task = Task { work, driver, entries };
            let row = compare(bench, task)?;
            if let (Some(smaller), 1_000..) = (&smaller, entries) {
                growth_target(bench, smaller, &row);
            }
            work_targets(bench, task, &row);
            table.push(row.clone());
            smaller = Some(row);
        }
    }
    println!();
    bench.results.tables.push(table);
    Ok(())
}

fn compare(bench: &mut Bench, task: Task) -> Result<Row> {
    let facts = make::facts(task.entries);
    let rounds = bench.rounds(task.rounds());
    let mut everybody = bench.builds(rounds);
    everybody.push((Who::Bare, rounds));
    everybody.extend(bench.programs.glance.is_some().then_some((Who::Glance, task.rounds_of_glance())));
    let runs = bench.in_turn(&everybody, |bench, who| fresh_run(bench, who, task, facts))?;
    Ok(Row { name: task.name(), entries: task.entries, rounds, runs })
}

fn work_targets(bench: &mut Bench, task: Task, row: &Row) {
    let (Some(ours), Some(bare)) = (row.of(Who::Ours), row.of(Who::Bare)) else { return };
    let results = &mut bench.results;
    let work = format!("{} of {}", row.name, row.entries);
    if row.entries == 100_000 {
        let most = match (task.work, task.driver) {
            (Work::Prune, Driver::Xattr) => 1.3,
            (Work::Prune, Driver::Sqlite) => 1.6,
            (Work::Clean, _) => 1.2,
        };
        let factor = ours.wall / bare.wall;
        let what = format!("{work}: {} times the bare program, at most {most}", times(factor));
        results.target(what, factor <= most);
        results.target(format!("{work}: peak {}, under 64 MiB", memory(ours.peak)), ours.peak < 64.0 * MIB);
    }
    let per_file = ((ours.peak - 12.0 * MIB) / task.files() as f64).max(0.0);
    let what = format!("{work}: {per_file:.0} bytes per file over 12 MiB, under 200");
    results.target(what, per_file < 200.0);
}

/// Ten times the entries take ten times the processor time, with some room for noise.
fn growth_target(bench: &mut Bench, smaller: &Row, row: &Row) {
    let (Some(least), Some(ours)) = (smaller.of(Who::Ours), row.of(Who::Ours)) else { return };
    let growth = (ours.cpu / least.cpu) / (row.entries as f64 / smaller.entries as f64);
    let what = format!(
        "{} from {} to {}: CPU per entry grows {} times, at most 1.5",
        row.name,
        smaller.entries,
        row.entries,
        times(growth)
    );
    bench.results.target(what, growth <= 1.5);
}

/// Makes a cache, has it pruned or cleaned, and counts the entries that are left.
fn fresh_run(bench: &mut Bench, who: Who, task: Task, facts: Facts) -> Result<Sample> {
    let cache = bench.next_cache();
    configure(bench, task.driver, facts.limit)?;
    let (images, partials) = if task.work == Work::Prune { (task.entries, 0) } else { (0, task.entries) };
    make::cache(&cache, task.driver, images, partials)?;
    // Otherwise the program that runs next would wait for what making the cache left to be written.
    rustix::fs::syncfs(fs::File::open(&cache)?)?;
    let sample = run(bench, who, task, facts.cutoff)?;
    let left = |sub| -> Result<usize> {
        let names = fs::read_dir(cache.join(sub))?.map(|entry| Ok(entry?.file_name()));
        Ok(names.collect::<Result<Vec<_>>>()?.iter().filter(|name| name.len() == 36).count())
    };
    let left = left("")? + left("invalid")? + left("incomplete")?;
    let expected = if task.work == Work::Prune { facts.left } else { 0 };
    ensure!(left == expected, "{who:?}, {}: {left} entries are left, not {expected}", task.name());
    fs::remove_dir_all(&cache)?;
    Ok(sample)
}

fn run(bench: &Bench, who: Who, task: Task, cutoff: i64) -> Result<Sample> {
    let conf = bench.dir.join("glance-cache.conf").display().to_string();
    let cache = bench.cache();
    let below = |sub: &str| cache.join(sub).display().to_string();
    let myself = bench.myself.display().to_string();
    let prunes = task.work == Work::Prune;
    let arguments: Vec<String> = match who {
        Who::Bare if prunes => vec![myself, "bare".into(), cutoff.to_string(), below("")],
        Who::Bare => {
            vec![myself, "bare".into(), i64::MAX.to_string(), below("invalid"), below("incomplete")]
        }
        Who::OpenIndex => vec![myself, "open".into(), below("cache.db")],
        Who::Nothing => vec!["/bin/true".into()],
        Who::Glance => {
            let python = bench.programs.glance.as_ref().context("there is no Glance")?;
            let tool = if prunes { "glance-cache-pruner" } else { "glance-cache-cleaner" };
            vec![python.with_file_name(tool).display().to_string(), "--config-file".into(), conf]
        }
        _ => {
            let command = if prunes { "prune" } else { "clean" };
            vec![bench.build(who), command.into(), "--config-file".into(), conf]
        }
    };
    bench.measured(&arguments)
}

fn configure(bench: &Bench, driver: Driver, limit: u64) -> Result<()> {
    let text = format!(
        "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = {}\nimage_cache_max_size = {limit}\n",
        bench.cache().display(),
        driver.name()
    );
    fs::write(bench.dir.join("glance-cache.conf"), text).context("cannot write the configuration")
}
