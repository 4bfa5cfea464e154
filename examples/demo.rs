//! A tour of `glance-cache`: makes a small image cache in a temporary directory and runs the program on it.
//!
//! `cargo run --release --example demo` needs nothing but a Rust toolchain. It makes the cache as Glance's
//! sqlite driver would, shows each command with what the program really printed, and removes everything at
//! the end. It reads and writes nothing outside the temporary directory and cargo's target directory.
//!
//! A newcomer's first command should be quick, so nothing is compiled twice. Optimising the whole program at
//! link time is half of a release build, and the tour does not need it: unless there is a release build
//! already, the tour compiles the program without it and keeps the result among the examples. So no quick
//! build is ever mistaken for the released program, and a later `cargo build --release` or `cargo install`
//! finds every library crate already compiled.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tour speaks")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the tool itself")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Timespec, Timestamps, futimens};

const MIB: u64 = 1024 * 1024;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Glance's own table (`glance/image_cache/drivers/sqlite.py`).
const TABLE: &str = "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, \
     last_accessed REAL DEFAULT 0.0, last_modified REAL DEFAULT 0.0, size INTEGER DEFAULT 0, \
     hits INTEGER DEFAULT 0, checksum TEXT)";

/// Images that the index knows: id, MiB, seconds since the last use, hits.
const TRACKED: &[(&str, u64, u64, i64)] = &[
    ("0b6f3c1e-52a7-4d0e-9a41-6a1f0f4f7c10", 2252, 41 * DAY, 3),
    ("3d8a94b2-7f15-4c8b-8d2e-1b7c5e90a2f4", 640, 12 * DAY, 17),
    ("5e21d7c8-0c94-4e6f-b3a0-94f2c8d1e6b7", 1434, 5 * DAY, 8),
    ("9c47e0a5-61bd-4f3a-a7c9-2e5d80b4f139", 299, 30 * HOUR, 42),
    ("c1f5b860-9e2d-47a8-95f1-d04a7b3c6e82", 21, HOUR, 311),
];
/// A file without a row, as a Glance that crashed between the two leaves it.
const ORPHAN: (&str, u64, u64) = ("7a90c4d3-28e6-4b1f-8c57-f3b6a1e05d94", 512, 20 * DAY);
/// A row without a file, as a killed pruner leaves it.
const GHOST: (&str, u64, u64) = ("e83b16f7-4da9-4c20-b6e8-07c9f52ad341", 310, 60 * DAY);
/// A row that no driver writes. Glance's own pruner would remove the file outside the cache that it names.
const IMPOSSIBLE: &str = "../glance-api.conf";
const INVALID: (&str, u64, u64) = ("a4d2f9b1-c370-48e5-9b6d-8f1e7c20a563", 95, 2 * DAY);
/// A download that failed three days ago, and one that is under way.
const STALLED: (&str, u64, u64) = ("b7e05a62-1f8c-4d93-a2b4-5c6d9e3f7081", 780, 3 * DAY);
const UNDER_WAY: (&str, u64, u64) = ("d6c8317f-e04b-4a52-8f9c-b1a27e5d4c60", 150, 0);
const QUEUED: (&str, u64, u64) = ("f2a7d05c-8b36-4e91-ad48-60e3b9c1f725", 0, HOUR);

/// The stops of the tour: what to say, and the command lines to show then.
const STOPS: &[(&str, &[&str])] = &[
    (
        "This is a small image cache, as Glance's sqlite driver keeps it: five images, and a few things that \
         went wrong. The files are sparse: they have the sizes of images but take no space. The \
         configuration names the directory and limits the cache to 4 GiB.",
        &["cat glance-api.conf"],
    ),
    (
        "How is the cache doing? `status` changes nothing, and neither does anything with --dry-run.",
        &["glance-cache status --config-file glance-api.conf"],
    ),
    (
        "What is in it? `list` names every entry and its state.",
        &["glance-cache list --config-file glance-api.conf --human"],
    ),
    (
        "The cache is over its limit. What would `prune` remove, and why? The images that were not used for \
         the longest time go first.",
        &["glance-cache prune --config-file glance-api.conf --dry-run --format text"],
    ),
    (
        "Now for real. The result is one JSON object, for scripts. --format text prints words instead.",
        &["glance-cache prune --config-file glance-api.conf"],
    ),
    (
        "`clean` removes invalid entries and stalled downloads. The download that is under way stays.",
        &["glance-cache clean --config-file glance-api.conf"],
    ),
    (
        "`clean --repair` repairs the index. It drops the row that points out of the cache. An image \
         without a row is neither used nor removed by Glance, so it gets a row once it is ten minutes old. \
         The one here was made a moment ago, and Glance might be publishing it right now, so it is left \
         alone. First the dry run, then for real.",
        &[
            "glance-cache clean --repair --config-file glance-api.conf --dry-run --format text",
            "glance-cache clean --repair --config-file glance-api.conf --format text",
        ],
    ),
    (
        "The cache is within its limit now, and files that are not images were not touched.",
        &["glance-cache list --config-file glance-api.conf --human", "ls image-cache"],
    ),
];

const AFTER: &str = "\
These commands look at a real cache and change nothing. Run them as the user that glance-api runs as. They \
read the configuration in /etc/glance:

    glance-cache status
    glance-cache prune --dry-run --format text
    glance-cache clean --dry-run --format text

For another directory, or without a configuration, add --cache-dir DIR. The directory of this demo has been \
removed.";

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result<()> {
    let binary = build()?;
    let temporary = tempfile::Builder::new()
        .prefix("glance-cache-demo-")
        .tempdir()
        .context("cannot make a temporary directory: set TMPDIR to one that can be written")?;
    let demo = Demo { binary, dir: temporary.path().canonicalize()? };
    demo.make_cache().with_context(|| format!("cannot make a small cache in {}", demo.dir.display()))?;

    for (text, lines) in STOPS {
        say(text);
        for line in *lines {
            demo.show(line)?;
        }
    }
    temporary.close().context("cannot remove the temporary directory")?;
    say(AFTER);
    Ok(())
}

/// Has cargo build the program that the tour shows, and returns its path.
///
/// A release build that is already there is brought up to date and used. Otherwise a quick build is made and
/// moved next to the tour's own executable.
fn build() -> Result<PathBuf> {
    if cfg!(debug_assertions) {
        return cargo(&["build"], &[]);
    }
    // The tour is target/release/examples/demo, a release build of the program target/release/glance-cache.
    let tour = std::env::current_exe()?;
    if tour.ancestors().nth(2).is_some_and(|release| release.join("glance-cache").exists()) {
        return cargo(&["build", "--release"], &[]);
    }
    // The library crates were compiled for link-time optimisation. This still links them that way, but
    // optimises nothing.
    let quick = ["--", "-C", "lto=thin", "-C", "opt-level=0", "-C", "codegen-units=16"];
    let built = cargo(&["rustc", "--release"], &quick)?;
    let kept = tour.with_file_name("glance-cache-for-demo");
    fs::rename(&built, &kept)
        .with_context(|| format!("cannot move {} to {}", built.display(), kept.display()))?;
    Ok(kept)
}

/// Runs cargo on the program and returns the path that cargo reports.
fn cargo(command: &[&str], rustc: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("Building glance-cache ...");
    // `cargo run` describes this package to the tour. The build script of ring reads the same variables, so
    // with them cargo would take ring for changed, and build it and everything above it a second time.
    let described = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        name.to_str()
            .is_some_and(|name| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_"))
    });
    let mut build = Command::new(&cargo);
    described.for_each(|name| {
        build.env_remove(name);
    });
    let output = build
        .args(command)
        .args(["--quiet", "--bin", "glance-cache", "--message-format", "json-render-diagnostics"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .args(rustc)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}: the demo needs a Rust toolchain", cargo.display()))?;
    ensure!(output.status.success(), "glance-cache does not build: see above");
    String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built glance-cache but did not report where")
}

/// Prints a paragraph, in lines that suit a terminal. Lines that are set apart stay as they are.
fn say(text: &str) {
    println!();
    for line in text.lines() {
        if line.starts_with(' ') {
            println!("{line}");
            continue;
        }
        let mut column = 0;
        for word in line.split(' ') {
            if column > 0 && column + 1 + word.chars().count() > 90 {
                println!();
                column = 0;
            }
            if column > 0 {
                print!(" ");
                column += 1;
            }
            print!("{word}");
            column += word.chars().count();
        }
        println!();
    }
}

/// The tour's cache, and the binary to run on it.
struct Demo {
    binary: PathBuf,
    dir: PathBuf,
}

impl Demo {
    /// Shows a command line as a person would type it, runs it, and shows what it printed.
    fn show(&self, line: &str) -> Result<()> {
        println!("\n$ {line}");
        let mut words = line.split(' ');
        let program = match words.next() {
            Some("glance-cache") => self.binary.as_path(),
            Some(program) => Path::new(program),
            None => bail!("an empty command line"),
        };
        // Settings of a real Glance must not come in. Only variables that change how output looks are kept.
        let kept = ["PATH", "TZ", "LANG", "LC_ALL"];
        let output = Command::new(program)
            .args(words)
            .current_dir(&self.dir)
            .env_clear()
            .envs(kept.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{line} ended with {}", output.status);
        Ok(())
    }

    fn make_cache(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let cache = self.dir.join("image-cache");
        for sub in ["incomplete", "invalid", "queue"] {
            fs::create_dir_all(cache.join(sub))?;
        }
        fs::create_dir(self.dir.join("locks"))?;
        let config = format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\nimage_cache_max_size = {}\n\n\
             [oslo_concurrency]\nlock_path = {}\n",
            cache.display(),
            4096 * MIB,
            self.dir.join("locks").display()
        );
        fs::write(self.dir.join("glance-api.conf"), config)?;

        let db = rusqlite::Connection::open(cache.join("cache.db"))?;
        db.execute_batch(TABLE)?;
        let row = |id: &str, mib: u64, ago: u64, hits: i64| {
            let used = (now - ago) as f64;
            let row = (id, used, used, (mib * MIB) as i64, hits);
            db.execute("INSERT INTO cached_images VALUES (?1, ?2, ?3, ?4, ?5, NULL)", row)
        };
        for (id, mib, ago, hits) in TRACKED {
            row(id, *mib, *ago, *hits)?;
            sparse(&cache.join(id), *mib, now - ago)?;
        }
        row(GHOST.0, GHOST.1, GHOST.2, 1)?;
        row(IMPOSSIBLE, 1, 90 * DAY, 0)?;
        for (sub, (name, mib, ago)) in [
            (".", ORPHAN),
            ("invalid", INVALID),
            ("incomplete", STALLED),
            ("incomplete", UNDER_WAY),
            ("queue", QUEUED),
            (".", ("README", 0, 90 * DAY)),
        ] {
            sparse(&cache.join(sub).join(name), mib, now - ago)?;
        }
        Ok(())
    }
}

/// Makes a file of that many MiB that takes no space, last used and changed at `used` (seconds since the
/// epoch).
fn sparse(path: &Path, mib: u64, used: u64) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len(mib * MIB)?;
    let used = Timespec { tv_sec: used as i64, tv_nsec: 0 };
    futimens(&file, &Timestamps { last_access: used, last_modification: used })?;
    Ok(())
}
