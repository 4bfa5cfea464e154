//! Commands and output as a page shows them.
//!
//! A page has the paths and times of a real host, the test has its own: both are translated, so that
//! everything that the program prints is compared. What belongs to the machine on which the test runs (free
//! space, mount points, process numbers) is replaced by fixed values. JSON is broken into lines, and long
//! lines are folded to fit the page.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::host::Host;
use crate::support::schemas;

/// Free space on every page: 19.8 GiB.
const FREE: u64 = (198 << 30) / 10;

/// Directories of the page that are below the host's own directory. `/dev`, `/proc` and `/bin` are the
/// machine's.
const OURS: &[&str] = &["/var/", "/etc/", "/usr/local/", "/usr/bin/glance-cache", "/openstack/", "/root"];

const MIRROR: &str = "http://mirror.example.org";

/// Lines longer than this are folded.
const WIDTH: usize = 110;

macro_rules! pattern {
    ($name:ident, $pattern:literal) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).unwrap());
    };
}

pattern!(PATH, r#"(^|[\s='":(]|file://)(/[A-Za-z0-9_./*?-]+)"#);
pattern!(TIME, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z");
pattern!(LOG_TIME, r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}");
pattern!(EPOCH, r#"("last_(?:accessed|modified)":)(\d+)(?:\.\d+)?"#);
pattern!(REQUIRED, r"--require[ =](\d+)(MiB|GiB)");
pattern!(PROCESS, r"process \d+ \(cli-[0-9a-f]+\)");
pattern!(LOG_PROCESS, r"^(\S+ \S+ )\d+( [A-Z]+ )");
// A block or two more, see ON_DISK, is a hundredth of a MiB.
pattern!(ROUND, r"(\d)\.(?:00 ([KGT]iB)|0[01] (MiB))");
pattern!(MOUNT, r"^(file system +)\S+ at \S+, .* free");
pattern!(FREE_IN_CHECK, r" free=\d+B ");
pattern!(MOUNTED_AT, r"mounted at [^ ,;]+");
pattern!(MOUNTS, r"^(file system +)\S+: \S+ \S+ of \S+ \S+ free");
pattern!(NOW_FREE, r"\S+ has [0-9.]+ [KMGT]iB free, [0-9.]+ [KMGT]iB required");
pattern!(CANNOT_GET, r"(cannot get) [0-9.]+ [KMGT]iB (free on \S+): [0-9.]+ [KMGT]iB are free");
pattern!(
    JSON_FILE_SYSTEM,
    r#""file_system":\{"mount_point":"[^"]*","type":"[^"]*","size":\d+,"available":\d+"#
);
pattern!(JSON_MOUNT, r#""file_system":"[^"]*""#);
pattern!(UNSEEN, r"every process|other users");
pattern!(UNSEEN_IN_JSON, r#"\["[^"]*(?:every process|other users)[^"]*"\]"#);
// Bytes on the disk: a file system needs a block or two more for a file in pieces.
pattern!(ON_DISK, r#"("(?:in_use|reclaimable|kept|leftovers)":\{"count":\d+,"bytes":)(\d+)"#);
pattern!(HEADER, r"^[A-Z][A-Z ]*  +[A-Z]");
pattern!(GAP, r" {2,}");

/// Turns a command line of the page into one that can be run.
pub(super) fn real(line: &str, host: &Host) -> String {
    let line = PATH.replace_all(line, |found: &Captures<'_>| {
        let (before, path) = (&found[1], &found[2]);
        let ours = OURS.iter().any(|prefix| path.starts_with(prefix));
        format!("{before}{}{path}", if ours { host.root() } else { "" })
    });
    let line = line.replace(MIRROR, host.mirror());
    let line = TIME.replace_all(&line, |found: &Captures<'_>| at(&found[0], |page| page + host.shift()));
    let free = available(host);
    REQUIRED
        .replace_all(&line, |found: &Captures<'_>| {
            let page = found[1].parse::<u64>().unwrap() << if &found[2] == "MiB" { 20 } else { 30 };
            format!("--require {}", (page + free).saturating_sub(FREE))
        })
        .into_owned()
}

/// Bytes free where the host's files are.
pub(super) fn available(host: &Host) -> u64 {
    let fs = rustix::fs::statvfs(host.root()).unwrap();
    fs.f_bavail * fs.f_frsize
}

/// Turns what a command printed into the lines that a page shows below it. JSON has to be as its schema says.
pub(super) fn shown(line: &str, output: &str, host: &Host) -> Vec<String> {
    let mut text = output.to_owned();
    for (project, directory) in [("glance", "/etc/glance"), ("ironic", "/etc/ironic")] {
        let own = host.home().join(format!(".{project}"));
        text = text.replace(own.to_str().unwrap(), directory);
    }
    let (root, mount) = (host.root(), mount(host));
    text = text.replace(&format!("{root}/usr/libexec/"), "").replace(root, "").replace(host.mirror(), MIRROR);
    text = TIME
        .replace_all(&text, |found: &Captures<'_>| at(&found[0], |real| host.page_time(real)))
        .into_owned();
    text = EPOCH
        .replace_all(&text, |found: &Captures<'_>| {
            format!("{}{}.0", &found[1], host.page_time(found[2].parse().unwrap()))
        })
        .into_owned();
    if let Some(required) = REQUIRED.captures(line) {
        let required = format!("{} {}", &required[1], &required[2]);
        text = CANNOT_GET.replace_all(&text, format!("$1 {required} $2: 19.8 GiB are free")).into_owned();
        let has = format!("/var has 19.8 GiB free, {required} required");
        text = NOW_FREE.replace_all(&text, has).into_owned();
    }
    // The pages show what root sees. Another user cannot look into the processes of others, and is told so.
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        text = UNSEEN_IN_JSON.replace_all(&text, "[]").into_owned();
    }
    let lines = text.lines().filter(|line| is_root || !UNSEEN.is_match(line));
    let lines: Vec<String> = lines.map(machine).collect();
    let mut shown = Vec::new();
    for line in aligned(lines, &mount) {
        let result = serde_json::from_str::<serde_json::Value>(&line).ok();
        if let Some(result) = result.filter(|_| line.starts_with("{\"")) {
            schemas::check(&result, &line);
            shown.extend(json(&line, 0).lines().map(str::to_owned));
        } else {
            shown.extend(folded(&line));
        }
    }
    shown
}

/// A line of output with fixed values for what differs from machine to machine.
fn machine(line: &str) -> String {
    let line = PROCESS.replace_all(line, "process 4711 (glance-api)");
    let line = MOUNT.replace(&line, "${1}ext4 at /var, 19.8 GiB of 98 GiB free");
    let line = FREE_IN_CHECK.replace(&line, " free=21260088115B ");
    let line = MOUNTS.replace(&line, "${1}/var: 19.8 GiB of 98 GiB free");
    let line = JSON_FILE_SYSTEM.replace(
        &line,
        r#""file_system":{"mount_point":"/var","type":"ext4","size":105226698752,"available":21260088115"#,
    );
    let line = ON_DISK.replace_all(&line, |found: &Captures<'_>| {
        format!("{}{}", &found[1], found[2].parse::<u64>().unwrap() >> 20 << 20)
    });
    let line = JSON_MOUNT.replace_all(&line, r#""file_system":"/var""#);
    let line = MOUNTED_AT.replace(&line, "mounted at /var");
    let line = LOG_TIME.replace_all(&line, "2026-11-28 12:00:00.000");
    let line = LOG_PROCESS.replace(&line, "${1}4711$2");
    ROUND.replace_all(&line, "$1 $2$3").trim_end().to_owned()
}

/// An RFC 3339 time, moved.
fn at(time: &str, moved: impl FnOnce(i64) -> i64) -> String {
    let seconds = time.parse::<jiff::Timestamp>().unwrap().as_second();
    jiff::Timestamp::from_second(moved(seconds)).unwrap().to_string()
}

/// The mount point of the host's files, as the program prints it.
fn mount(host: &Host) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let root = std::path::Path::new(host.root());
    points.filter(|point| root.starts_with(point)).max_by_key(|point| point.len()).unwrap().to_owned()
}

/// Replaces the machine's mount point in tables, and lays out their columns anew: the host's paths are longer
/// than the page's.
fn aligned(lines: Vec<String>, mount: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = lines.into_iter().peekable();
    while let Some(header) = lines.next() {
        if !HEADER.is_match(&header) {
            all.push(header);
            continue;
        }
        let columns = GAP.split(&header).count();
        let mut table = vec![header];
        while let Some(row) = lines.next_if(|row| GAP.split(row.trim_start()).count() == columns) {
            table.push(row);
        }
        all.extend(laid_out(&table, mount));
    }
    all
}

fn laid_out(table: &[String], mount: &str) -> Vec<String> {
    let rows: Vec<Vec<&str>> = table.iter().map(|row| GAP.split(row.trim_start()).collect()).collect();
    let cells: Vec<Vec<&str>> = rows
        .iter()
        .map(|row| {
            let is_mount = |n: usize, cell: &str| rows[0][n] == "FILE SYSTEM" && cell == mount;
            row.iter().enumerate().map(|(n, cell)| if is_mount(n, cell) { "/var" } else { *cell }).collect()
        })
        .collect();
    let columns = cells[0].len();
    let width = |n: usize| cells.iter().map(|row| row[n].chars().count()).max().unwrap();
    // A column of which every cell ends at the same place is aligned to the right, the last one too.
    let end = |row: usize, n: usize| {
        let mut at = 0;
        for cell in &rows[row][..=n] {
            at += table[row][at..].find(cell).unwrap() + cell.len();
        }
        at
    };
    let right: Vec<bool> =
        (0..columns).map(|n| n > 0 && (0..rows.len()).all(|row| end(row, n) == end(0, n))).collect();
    cells
        .iter()
        .map(|row| {
            let padded = row.iter().enumerate().map(|(n, cell)| {
                if right[n] { format!("{cell:>0$}", width(n)) } else { format!("{cell:<0$}", width(n)) }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Breaks a line of text at blanks. Tables stay as they are.
fn folded(line: &str) -> Vec<String> {
    if line.chars().count() <= WIDTH || GAP.find_iter(line).count() > 3 {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines.last_mut().unwrap();
        if !last.trim().is_empty() && last.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("    {word}"));
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// Lays out a JSON text: what fits stays on one line.
fn json(text: &str, indent: usize) -> String {
    let one_line = spaced(text);
    let nested = text.starts_with(['{', '[']);
    // The outermost object always has a line for each key.
    if !nested || (indent > 0 && indent + one_line.len() < 96) {
        return one_line;
    }
    let (open, close) = (&text[..1], &text[text.len() - 1..]);
    let inner = " ".repeat(indent + 2);
    let members: Vec<String> = members(&text[1..text.len() - 1])
        .into_iter()
        .map(|member| match member.find("\":").filter(|_| open == "{") {
            Some(end) => {
                let (key, value) = (&member[..=end], &member[end + 2..]);
                format!("{inner}{key}: {}", json(value, indent + 2))
            }
            None => format!("{inner}{}", json(member, indent + 2)),
        })
        .collect();
    format!("{open}\n{}\n{}{close}", members.join(",\n"), " ".repeat(indent))
}

/// The members of an object or array, without its brackets.
fn members(text: &str) -> Vec<&str> {
    let (mut members, mut start) = (Vec::new(), 0);
    for (at, character, depth) in outside_strings(text) {
        if character == ',' && depth == 0 {
            members.push(&text[start..at]);
            start = at + 1;
        }
    }
    members.push(&text[start..]);
    members
}

/// A JSON text with a blank after each comma and colon.
fn spaced(text: &str) -> String {
    let mut spaced = text.to_owned();
    let places: Vec<usize> =
        outside_strings(text).filter(|(_, c, _)| matches!(c, ',' | ':')).map(|(at, ..)| at).collect();
    for at in places.into_iter().rev() {
        spaced.insert(at + 1, ' ');
    }
    spaced
}

/// The characters that are in no string, with their places and how many brackets are open there.
fn outside_strings(text: &str) -> impl Iterator<Item = (usize, char, i32)> {
    let (mut in_string, mut escaped, mut depth) = (false, false, 0);
    text.char_indices().filter_map(move |(at, character)| {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            return None;
        }
        match character {
            '"' => in_string = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        Some((at, character, depth))
    })
}
