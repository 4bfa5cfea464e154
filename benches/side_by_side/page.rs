//! Writes `docs/performance.md` and its two plots, from the results of the run that just ended.
//!
//! No figure on the page was typed by hand. The sentences between the tables explain the figures and repeat
//! none of them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::machine;
use super::plot::{self, Line, Panel, Plot};
use super::results::{Row, Service, Table, Who, count, memory, time, times};
use super::watch::{MIB, Sample};

const INTRODUCTION: &str = "\
# Performance

<!-- Written by `benches/run --markdown`. Do not edit: run it again. -->

This page compares `glance-cache` with the tools that it replaces, and with a **bare program** that makes only
the necessary system calls: it lists the same directories, looks at every file and unlinks the same ones. The
bare program knows no index, locks nothing and reports nothing, so it shows what the file system itself costs.

";

const METHOD: &str = "\
The figures are medians. The programs run in turn, so that a busy machine slows all of them. Each run that
removes or fetches something gets a new cache, which is written to disk before the clock starts. The page
cache is warm for all of them. The time is that of the whole process, from start to exit. After each run the
entries that are left are counted: a program that removed too few or too many would end the benchmark.

In the tables, *runs* is the number of runs of glance-cache, and *memory* is the peak of resident memory. A
number in parentheses says how many times as long as glance-cache the other program took, or how many times as
much memory.

";

const AFTER_START: &str = "\
`/bin/true` shows the cost of starting any process, and `open index` that of a program that only opens the
sqlite index, as glance-cache has to.

";

const AFTER_WORK: &str = "\
glance-cache can be faster than the bare program because two threads share the looks and the unlinks. It also
does more: it reads the index, keeps the rows and the files consistent, and looks at each file again before it
removes it. A clean also reads `/proc`, to find files that are still being written. That takes longer where
many files are open.

";

const AFTER_HOST: &str = "\
In Ironic's caches an image is renamed and looked at twice before it is removed, so that no image is lost that
an instance was just given. Ironic's own code runs inside a conductor, so its start is shown separately.

";

const AFTER_PREFETCH: &str = "\
`cp, two` copies and hashes two images at a time with `cp` and `sha512sum`; `cp, one` copies all images and
then hashes them; `tee` does both in one pass, an image at a time. They check nothing and publish nothing. The
prefetcher of Glance 33 does not start by itself: it was measured with the one failing call mended.

";

const BEFORE_SERVICE: &str = "\
`glance-cache serve` and glance-api 33 (behind uWSGI: two processes of four threads) work on one cache of a
thousand images, with one Keystone, and nothing to prune. Eight clients send one request after the other, each
on a new connection.
";

const AGAIN: &str = "\
## Run it again

```sh
tests/run beside_                   # installs the real tools in target/peer
benches/run --quick --markdown      # writes this page: about ten minutes
benches/run --markdown              # the same with 100,000 images
benches/run --help
```
";

/// Writes the page and its plots into `docs`.
pub(super) fn write(docs: &Path, machine: &str, bench: &Bench) -> Result<()> {
    let mut page = INTRODUCTION.to_owned();
    let _ = writeln!(page, "{}\n", wrapped(&compared(machine, bench)?));
    page += METHOD;
    if let Some(work) = bench.results.tables.iter().find(|table| table.title == "Work") {
        for (name, plot) in [("time", time_plot(work)), ("memory", memory_plot(work))] {
            let file = format!("performance-{name}.svg");
            save(&docs.join(&file), &plot::svg(&plot))?;
            let _ = writeln!(page, "![{}]({file})\n", plot.title);
        }
    }
    for table in &bench.results.tables {
        section(&mut page, table);
    }
    if let Some(service) = &bench.results.service {
        service_section(&mut page, service);
    }
    page += AGAIN;
    save(&docs.join("performance.md"), &page)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// Returns the versions that were compared, and the machine.
fn compared(machine: &str, bench: &Bench) -> Result<String> {
    let output = Command::new(&bench.programs.ours).arg("--version").output()?;
    ensure!(output.status.success(), "{} --version fails", bench.programs.ours.display());
    let mut compared = vec![String::from_utf8(output.stdout)?.trim().to_owned()];
    let programs = &bench.programs;
    let real = [("Glance", &programs.glance), ("Glance", &programs.glance31), ("Ironic", &programs.ironic)];
    for (name, python) in real {
        if let Some(python) = python {
            compared.push(format!("{name} {}", machine::version(python, &name.to_lowercase())?));
        }
    }
    Ok(format!("Compared: {}. Machine, before the run: {machine}.", compared.join(", ")))
}

/// Returns the text in lines that fit the house.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > 110 {
            lines.push(word.to_owned());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last] += space;
            lines[last] += word;
        }
    }
    lines.join("\n")
}

fn section(page: &mut String, table: &Table) {
    let (title, work, after) = match table.title {
        "Start" => ("Nothing to do", "Ten images in a cache that is within its limit.", AFTER_START),
        "Work" => (
            "Prune and clean",
            "A prune removes half of the bytes of so many images. A clean removes so many invalid and as \
             many stalled entries.",
            AFTER_WORK,
        ),
        "Host" => (
            "All caches of a host",
            "`prune --all-caches` removes half of so many images in each of three caches of Ironic's.",
            AFTER_HOST,
        ),
        _ => (
            "Prefetch",
            "The images come from a file store on the same disk. They are verified by SHA-512 and on disk at \
             the end.",
            AFTER_PREFETCH,
        ),
    };
    let _ = writeln!(page, "## {title}\n\n{}\n", wrapped(work));
    rows(page, table);
    *page += "\n";
    *page += after;
}

fn rows(page: &mut String, table: &Table) {
    let columns: Vec<Who> = table.columns[1..]
        .iter()
        .copied()
        .filter(|who| table.rows.iter().any(|row| row.of(*who).is_some()))
        .collect();
    let real: Vec<Who> =
        columns.iter().copied().filter(|who| who.shows_memory() && *who != Who::Bare).collect();
    *page += "| | entries | runs | glance-cache | memory |";
    for who in &columns {
        let _ = write!(page, " {} |", who.label());
    }
    for who in &real {
        let _ = write!(page, " memory of {} |", who.label());
    }
    let _ = writeln!(page, "\n|---|{}", "---:|".repeat(4 + columns.len() + real.len()));
    for row in &table.rows {
        let Some(ours) = row.of(Who::Ours) else { continue };
        let _ = write!(
            page,
            "| {} | {} | {} | {} | {} |",
            row.name,
            count(row.entries),
            row.rounds,
            time(ours.wall),
            memory(ours.peak)
        );
        for who in &columns {
            let _ = write!(page, " {} |", cell(row, *who, ours.wall, |s| s.wall, time));
        }
        for who in &real {
            let _ = write!(page, " {} |", cell(row, *who, ours.peak, |s| s.peak, memory));
        }
        *page += "\n";
    }
}

fn service_section(page: &mut String, service: &Service) {
    let _ = writeln!(page, "## Service\n\n{BEFORE_SERVICE}");
    *page += "| | Glance, a second | serve, a second | times | Glance, median | serve, median | Glance, 99 % | serve, 99 % |\n";
    *page += "|---|---:|---:|---:|---:|---:|---:|---:|\n";
    for (line, [theirs, ours]) in &service.requests {
        let _ = writeln!(
            page,
            "| `{line}` | {} | {} | {} | {} | {} | {} | {} |",
            count(theirs.rate as usize),
            count(ours.rate as usize),
            times(ours.rate / theirs.rate),
            time(theirs.median),
            time(ours.median),
            time(theirs.most),
            time(ours.most)
        );
    }
    let [idle, most, theirs] = service.memory.map(memory);
    let text = format!(
        "On kept connections, {} probes a second are answered. The service is ready {} after its start. It takes \
         {idle} before any request and {most} at most, and glance-api {theirs}.",
        count(service.kept.rate as usize),
        time(service.ready)
    );
    let _ = writeln!(page, "\n{}\n", wrapped(&text));
}

/// Returns a figure of somebody else, and how many times ours it is.
fn cell(row: &Row, who: Who, ours: f64, figure: fn(&Sample) -> f64, show: fn(f64) -> String) -> String {
    let Some(other) = row.of(who) else { return "-".to_owned() };
    format!("{} ({})", show(figure(&other)), times(figure(&other) / ours))
}

fn time_plot(work: &Table) -> Plot {
    Plot {
        title: "Time against the number of entries".into(),
        description: "Seconds from start to exit. Both axes are logarithmic. Lower is better.".into(),
        panels: panels(work, |sample| sample.wall),
        label: |seconds| match seconds {
            s if s < 0.000_999 => format!("{:.0} µs", s * 1e6),
            s if s < 0.999 => format!("{:.0} ms", s * 1e3),
            s => format!("{s:.0} s"),
        },
    }
}

fn memory_plot(work: &Table) -> Plot {
    Plot {
        title: "Peak memory against the number of entries".into(),
        description: "Peak of resident memory. Both axes are logarithmic. Lower is better.".into(),
        panels: panels(work, |sample| sample.peak / MIB),
        label: |mib| format!("{mib} MiB"),
    }
}

/// Returns a panel for each kind of work.
fn panels(work: &Table, figure: fn(&Sample) -> f64) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for row in &work.rows {
        if panels.last().is_none_or(|panel| panel.title != row.name) {
            let lines = work.columns.iter().map(|who| Line { who: *who, points: Vec::new() }).collect();
            panels.push(Panel { title: row.name.clone(), lines });
        }
        let Some(panel) = panels.last_mut() else { continue };
        for line in &mut panel.lines {
            line.points.extend(row.of(line.who).map(|sample| [row.entries as f64, figure(&sample)]));
        }
    }
    for panel in &mut panels {
        panel.lines.retain(|line| !line.points.is_empty());
    }
    panels
}
