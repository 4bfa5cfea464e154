//! The results of a bench as data, and the tables on the terminal.
//!
//! A table is printed line by line while the bench runs. The page and the plots read the same rows
//! afterwards.

use super::load::Load;
use super::watch::{MIB, Sample};

/// Who does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Ours,
    /// Another build of glance-cache, given with `--compare`.
    Before,
    /// The bare program, which makes the necessary system calls and no others.
    Bare,
    /// The tool of Glance 33 that does the same work.
    Glance,
    /// `/bin/true`
    Nothing,
    /// A program that only opens the index.
    OpenIndex,
    Ironic,
    /// Ironic's code with nothing to clean.
    IronicStart,
    /// `cp` and `sha512sum`, two images at a time.
    CopyTwo,
    /// `cp` of all images, then `sha512sum` of all.
    CopyOne,
    /// `tee | sha512sum`, one image after the other.
    Tee,
    Glance31,
    /// Glance 33's prefetcher, which needs one call mended before it starts.
    Glance33,
}

impl Who {
    /// Returns the name in tables.
    pub(super) fn label(self) -> &'static str {
        match self {
            Who::Ours => "glance-cache",
            Who::Before => "before",
            Who::Bare => "bare program",
            Who::Glance => "Glance's tool",
            Who::Nothing => "/bin/true",
            Who::OpenIndex => "open index",
            Who::Ironic => "Ironic",
            Who::IronicStart => "Ironic's start",
            Who::CopyTwo => "cp, two",
            Who::CopyOne => "cp, one",
            Who::Tee => "tee",
            Who::Glance31 => "Glance 31",
            Who::Glance33 => "33, mended",
        }
    }

    /// True if the program's memory is worth comparing.
    pub(super) fn shows_memory(self) -> bool {
        matches!(self, Who::Bare | Who::Glance | Who::Ironic | Who::Glance31 | Who::Glance33)
    }
}

/// One kind of work on so many entries: the medians of everybody who did it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// Images, or invalid and as many stalled entries.
    pub(super) entries: usize,
    /// Runs of glance-cache.
    pub(super) rounds: usize,
    pub(super) runs: Vec<(Who, Sample)>,
}

impl Row {
    pub(super) fn of(&self, wanted: Who) -> Option<Sample> {
        self.runs.iter().find(|(who, _)| *who == wanted).map(|(_, sample)| *sample)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    /// Everybody compared, in the order of the columns; glance-cache is first.
    pub(super) columns: Vec<Who>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// Begins a table and prints its head.
    pub(super) fn new(title: &'static str, work: &'static str, columns: &[Who]) -> Self {
        println!("{title}: {work}");
        print!("{:24}{:>9}{:>6}{:>13}{:>10}{:>10}", "", "N", "runs", "glance-cache", "CPU", "peak");
        for who in &columns[1..] {
            print!("{:>15}{:>7}", who.label(), "times");
            print!("{}", if who.shows_memory() { format!("{:>10}", "peak") } else { String::new() });
        }
        println!();
        Self { title, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row and prints it. `times` is how many times as long as glance-cache somebody else took.
    pub(super) fn push(&mut self, row: Row) {
        print!("{:24}{:>9}{:>6}", row.name, row.entries, row.rounds);
        if let Some(ours) = row.of(Who::Ours) {
            print!("{:>13}{:>10}{:>10}", time(ours.wall), time(ours.cpu), memory(ours.peak));
            for who in &self.columns[1..] {
                let shown = row.of(*who).map_or(["-".to_owned(), "-".to_owned(), "-".to_owned()], |other| {
                    [time(other.wall), times(other.wall / ours.wall), memory(other.peak)]
                });
                print!("{:>15}{:>7}", shown[0], shown[1]);
                print!("{}", if who.shows_memory() { format!("{:>10}", shown[2]) } else { String::new() });
            }
        }
        println!();
        self.rows.push(row);
    }
}

/// The service beside glance-api.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// A request, with the answers of Glance and of the service.
    pub(super) requests: Vec<(String, [Load; 2])>,
    /// Probes on kept connections.
    pub(super) kept: Load,
    /// Seconds from the start to the first answer.
    pub(super) ready: f64,
    /// Bytes: resident memory before any request, the most of it, and Glance's.
    pub(super) memory: [f64; 3],
}

/// The results of a whole bench.
#[derive(Clone, Debug, Default)]
pub(super) struct Results {
    pub(super) tables: Vec<Table>,
    pub(super) service: Option<Service>,
    /// What should hold, and whether it does.
    pub(super) targets: Vec<(String, bool)>,
}

impl Results {
    pub(super) fn target(&mut self, what: String, holds: bool) {
        self.targets.push((what, holds));
    }

    pub(super) fn print_targets(&self) {
        println!("\nTargets");
        for (what, holds) in &self.targets {
            println!("  {}  {what}", if *holds { "holds " } else { "MISSED" });
        }
    }

    /// Prints one table of two builds, and says of each row if a figure grew by more than a twentieth.
    pub(super) fn print_comparison(&self) {
        println!("\nBefore and after: the ratios are after / before, or to the time of the bare program");
        print!("{:24}{:>9}{:>6}{:>11}{:>11}{:>7}{:>7}", "", "N", "runs", "before", "after", "time", "CPU");
        println!("{:>11}{:>11}{:>7}{:>13}{:>12}", "peak", "after", "peak", "before/bare", "after/bare");
        let mut worse = 0;
        for row in self.tables.iter().flat_map(|table| &table.rows) {
            let (Some(before), Some(after)) = (row.of(Who::Before), row.of(Who::Ours)) else { continue };
            let [wall, cpu, peak] =
                [after.wall / before.wall, after.cpu / before.cpu, after.peak / before.peak];
            let to_bare = |sample: Sample| match row.of(Who::Bare) {
                Some(bare) => times(sample.wall / bare.wall),
                None => "-".to_owned(),
            };
            print!("{:24}{:>9}{:>6}", row.name, row.entries, row.rounds);
            print!("{:>11}{:>11}{wall:>7.3}{cpu:>7.3}", time(before.wall), time(after.wall));
            print!("{:>11}{:>11}{peak:>7.3}", memory(before.peak), memory(after.peak));
            print!("{:>13}{:>12}", to_bare(before), to_bare(after));
            let grew = [wall, cpu, peak].iter().any(|ratio| *ratio > 1.05);
            println!("{}", if grew { "  WORSE" } else { "" });
            worse += usize::from(grew);
        }
        println!("\n{worse} rows are worse by more than a twentieth in time, CPU or memory");
    }
}

pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

pub(super) fn memory(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / MIB)
}

pub(super) fn times(ratio: f64) -> String {
    match ratio {
        r if r < 10.0 => format!("{r:.2}"),
        r if r < 100.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

/// Returns a number with commas between thousands.
pub(super) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
