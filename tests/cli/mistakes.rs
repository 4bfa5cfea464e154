//! The mistakes that operators make: wrong directories, drivers, files, sizes, lists, contradictions, and
//! misspelt things. Each is a row: the command line, the exit code, and what the message says.
//!
//! Nothing may be changed by any of them. So names, identities, times, sizes and contents of all files are
//! compared before and after, with the rows of the index and with lock files.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use crate::support::env::*;

/// A command line, its exit code, and parts of the message. In a line, CACHE stands for
/// `--cache-dir DIR --driver sqlite`, DIR for the cache directory, and AT for a directory of files that
/// [`fixture`] makes.
type Row = (&'static str, i32, &'static [&'static str]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Directories.
    ("prune", 2, &["image_cache_dir is not set", "hint: give --cache-dir"]),
    ("prune --cache-dir AT/nowhere", 2, &["AT/nowhere (set by --cache-dir) does not exist", "hint: check"]),
    ("prune --cache-dir AT/good.conf", 2, &["AT/good.conf", "Not a directory"]),
    ("prune --cache-dir AT/plain", 2, &["AT/plain", "does not look like an image cache"]),
    ("clean --cache-dir AT/plain", 2, &["does not look like an image cache"]),
    ("prune --cache-dir AT/linked --max-size 0", 3, &["invalid is a symlink", "must be a directory"]),
    ("prune --require 1GiB --on AT/nowhere", 2, &["cannot get the file system of AT/nowhere"]),
    // Configuration files.
    ("prune --config-file AT/nowhere.conf", 2, &["cannot read configuration file AT/nowhere.conf"]),
    ("prune --config-file AT/plain", 2, &["AT/plain", "not a regular file"]),
    ("prune --config-dir AT/nowhere.d", 2, &["AT/nowhere.d"]),
    ("prune --config-file AT/syntax.conf", 2, &["AT/syntax.conf:1"]),
    ("prune --config-file AT/nodir.conf", 2, &["image_cache_dir is not set"]),
    ("prune --config-file AT/size.conf", 2, &["AT/size.conf:3", "10GB", "without a unit"]),
    ("clean --config-file AT/stall.conf", 2, &["AT/stall.conf:3", "soon"]),
    ("prune --config-file AT/driver.conf", 2, &["AT/driver.conf:3", "memcache", "sqlite"]),
    ("prune --config-file AT/sqlite.conf --max-size 0", 2, &["caches.db (set by AT/sqlite.conf:4)", "cache.db"]),
    ("prune --config-file AT/own.conf --dry-run", 0, &["AT/own.conf:5: [image_cache:x] has no option \"sise\"; \
      did you mean size?"]),
    // The index.
    ("prune --cache-dir DIR --driver memcache", 2, &["invalid value 'memcache'", "centralized_db"]),
    ("prune --cache-dir DIR --driver xattr --max-size 0", 2, &["user.hits", "has rows of 5 of 5 images"]),
    ("prune CACHE --sqlite-db nope.db --max-size 0", 2, &["nope.db", "has rows of 5 of 5 images"]),
    ("clean CACHE --repair --sqlite-db nope.db", 2, &["nope.db", "has rows of 5 of 5 images"]),
    ("prune CACHE --sqlite-db nowhere/cache.db --max-size 0", 3, &["nowhere/cache.db", "No such file"]),
    ("prune --cache-dir AT/damaged --driver sqlite --max-size 0", 3, &["AT/damaged/cache.db is damaged"]),
    ("prune --cache-dir AT/foreign --driver sqlite --max-size 0", 3, &["no table cached_images"]),
    ("prune --cache-dir AT/pipe --driver sqlite --max-size 0", 3, &["is not a regular file"]),
    ("prune --cache-dir AT/lost --max-size 0", 2, &["cannot tell which index AT/lost has", "--driver"]),
    // The central database.
    ("prune --cache-dir DIR --driver centralized_db --max-size 0", 2, &["[database] connection is not set"]),
    ("prune --cache-dir DIR --driver centralized_db --database nonsense", 2, &["cannot use the URL"]),
    ("prune --cache-dir DIR --database mysql://g:secret@h/d", 2, &["contains a password", "--database-file"]),
    ("prune --cache-dir DIR --database-file AT/nowhere", 2, &["AT/nowhere"]),
    ("prune --cache-dir DIR --driver centralized_db --node http://n --database sqlite:////AT/no.sqlite", 3,
     &["AT/no.sqlite does not exist or is empty"]),
    ("clean --forget-node http://n", 2, &["[database] connection is not set"]),
    // Sizes and times.
    ("prune CACHE --max-size 10", 2, &["'10' has no unit: 10 bytes? write 10B, or 10GiB"]),
    ("prune CACHE --max-size 0 --target-size 80", 2, &["write 80B, or 80GiB, or 80%"]),
    ("prefetch CACHE --reserve 16", 2, &["16 bytes? write 16B"]),
    ("prune CACHE --max-size lots", 2, &["'lots' is not a size"]),
    ("prune CACHE --max-size -1", 2, &["-1"]),
    ("prune CACHE --max-size 10XB", 2, &["'10XB' is not a size"]),
    ("prune CACHE --min-free 120%", 2, &["'120%' is more than the whole: a percentage is at most 100%"]),
    ("prune CACHE --max-size 99999999999P", 2, &["'99999999999P' is too large"]),
    ("clean CACHE --verify --budget 5", 2, &["'5' has no unit: 5 bytes? write 5B, or 5GiB\n"]),
    ("prune CACHE --min-age 1000000w", 2, &["'1000000w' is too long: give at most 100000d"]),
    ("prune CACHE --min-free 8000T", 2, &["more than the whole file system"]),
    ("prune CACHE --max-size 3000B --target-size 4000B", 2, &["--target-size", "above the limit"]),
    ("prune CACHE --min-age soon", 2, &["'soon' is not a duration"]),
    ("clean CACHE --stall-time never", 2, &["'never' is not a duration"]),
    ("prune CACHE --lock-timeout x", 2, &["'x' is not a duration"]),
    ("prune CACHE --now yesterday --dry-run", 2, &["'yesterday' is not a time"]),
    ("prune CACHE --max-size 0 --now 2099-01-01T00:00:00Z", 2, &["--now is only for dry runs", "--dry-run"]),
    ("clean CACHE --now 2099-01-01T00:00:00Z", 2, &["--now is only for dry runs"]),
    // Lists.
    ("prune CACHE --max-size 0 --keep golden", 2, &["golden"]),
    ("prune CACHE --max-size 0 --keep-from AT/nowhere", 2, &["the images to keep from AT/nowhere"]),
    ("prune CACHE --max-size 0 --keep-from AT/bad.list", 2, &["AT/bad.list:2"]),
    ("prune CACHE --max-size 0 --keep-from AT/empty.list", 2, &["AT/empty.list", "has no id"]),
    ("prune CACHE --max-size 0 --keep-from -", 2, &["standard input", "has no id"]),
    ("prefetch CACHE golden", 2, &["golden"]),
    // Contradictions.
    ("prune CACHE --all-caches --max-size 1GiB", 2, &["--max-size cannot be used with --all-caches"]),
    ("prune CACHE --all-caches --require 1GiB", 2, &["cannot be used with"]),
    ("prune CACHE --on /", 2, &["--require"]),
    ("clean CACHE --repair --all-caches", 2, &["cannot be used with"]),
    ("clean CACHE --forget-all", 2, &["--repair"]),
    ("prune CACHE -q -v", 2, &["cannot be used with"]),
    ("prefetch CACHE --within-limit --make-room", 2, &["cannot be used with"]),
    ("prefetch CACHE --enqueue", 2, &["<ID>"]),
    ("prefetch CACHE --rate-limit 0", 2, &["--rate-limit takes a size of at least one byte"]),
    ("clean CACHE --verify --invalid-grace 1h", 2, &["'--verify' cannot be used with '--invalid-grace"]),
    ("clean CACHE --verify --stall-time 1h", 2, &["'--verify' cannot be used with '--stall-time"]),
    ("clean CACHE --verify --forget-all", 2, &["'--verify' cannot be used with '--forget-all'"]),
    ("clean CACHE --verify --rate-limit 10%", 2, &["'10%' is a share of something", "20MiB"]),
    ("status CACHE --verify --budget 10%", 2, &["'10%' is a share of something", "20MiB"]),
    ("prefetch CACHE --rate-limit 10%", 2, &["'10%' is a share of something", "20MiB"]),
    ("prefetch CACHE --min-rate 10%", 2, &["'10%' is a share of something"]),
    // Misspelt things, and habits from the old tools.
    ("prunne CACHE", 2, &["unrecognized subcommand 'prunne'", "'prune'"]),
    ("prune CACHE --max-sise 10GiB", 2, &["unexpected argument '--max-sise'", "'--max-size'"]),
    ("prune CACHE --limit 10GiB", 2, &["unexpected argument '--limit' found\n\nUsage"]),
    ("prune CACHE extra", 2, &["unexpected argument 'extra' found\n\nUsage"]),
    ("prune CACHE --format yaml", 2, &["invalid value 'yaml'"]),
    ("prune CACHE --debug", 2, &["--debug is an option of the old tools: use --verbose"]),
    ("clean CACHE -d", 2, &["-d is an option of the old tools: use --verbose"]),
    ("prune CACHE --use-syslog", 2, &["--use-syslog is an option of the old tools: use --syslog"]),
    ("prune CACHE --log-dir=/var/log", 2, &["--log-dir is an option of the old tools: use --log-file FILE"]),
    ("status CACHE --log-file x", 2, &["tip: status and list change nothing, so they write no log"]),
    ("status CACHE --use-syslog", 2, &["tip: status and list change nothing, so they write no log"]),
    ("list CACHE --log-dir=/var/log", 2, &["tip: status and list change nothing, so they write no log"]),
    ("list CACHE --debug", 2, &["--debug is an option of the old tools: use --verbose"]),
    ("status --check --config-file AT/typo.conf", 1, &["AT/typo.conf:4: \"image_cache_max_sise\" is not an \
      option; did you mean image_cache_max_size?"]),
];

/// Makes a cache, and the files that the rows name, in a directory beside it.
fn fixture() -> TestEnv {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 10, 1);
    env.file(format!("incomplete/{}", id('3')), 10, 0);
    let dir = env.dir().display();
    let cache = format!("[DEFAULT]\nimage_cache_dir = {dir}\n");
    for (name, text) in [
        ("good.conf", cache.clone()),
        ("syntax.conf", format!("image_cache_dir = {dir}\n")),
        ("nodir.conf", "[DEFAULT]\nimage_cache_driver = sqlite\n".to_owned()),
        ("size.conf", format!("{cache}image_cache_max_size = 10GB\n")),
        ("stall.conf", format!("{cache}image_cache_stall_time = soon\n")),
        ("driver.conf", format!("{cache}image_cache_driver = memcache\n")),
        ("sqlite.conf", format!("{cache}image_cache_driver = sqlite\nimage_cache_sqlite_db = caches.db\n")),
        ("own.conf", format!("{cache}image_cache_driver = sqlite\n[image_cache:x]\nsise = 10GiB\n")),
        ("typo.conf", format!("{cache}image_cache_driver = sqlite\nimage_cache_max_sise = 10\n")),
        ("bad.list", format!("{}\ngolden\n", id('a'))),
        ("empty.list", "# nothing\n\n".to_owned()),
        ("plain/file", "x".to_owned()),
        ("damaged/cache.db", "no database, but long enough to be taken for one".to_owned()),
    ] {
        env.write(&format!("at/{name}"), text);
    }
    for name in ["damaged", "foreign", "pipe", "lost", "linked"] {
        let at = env.outside("at").join(name);
        make(&at, Xattr);
        fs::write(at.join(id('a')), "image").unwrap();
    }
    let foreign = rusqlite::Connection::open(env.outside("at/foreign/cache.db")).unwrap();
    foreign.execute_batch("CREATE TABLE other (image_id TEXT)").unwrap();
    system(&["mkfifo", env.outside("at/pipe/cache.db").to_str().unwrap()]);
    fs::remove_dir(env.outside("at/linked/invalid")).unwrap();
    std::os::unix::fs::symlink(env.dir().join("invalid"), env.outside("at/linked/invalid")).unwrap();
    env
}

/// Returns everything in the cache and beside it, with a hash of the contents of each file, and the rows.
fn checksums(env: &TestEnv) -> (BTreeMap<String, (String, u64)>, Vec<String>) {
    let trees = [tree(env.dir()), tree(&env.outside("at"))];
    let with_hash = |(path, what): (String, String)| {
        let mut hasher = DefaultHasher::new();
        if PathBuf::from(&path).is_file() {
            fs::read(&path).unwrap().hash(&mut hasher);
        }
        (path, (what, hasher.finish()))
    };
    (trees.into_iter().flatten().map(with_hash).collect(), env.ids())
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let env = fixture();
    let (at, dir) = (env.outside("at").display().to_string(), env.dir().display().to_string());
    let before = checksums(&env);
    let mut wrong = Vec::new();
    for (line, code, says) in ROWS {
        let real = |text: &str| {
            let text = text.replace("CACHE", &format!("--cache-dir {dir} --driver sqlite"));
            text.replace("//AT/", &format!("/{at}/")).replace("AT/", &format!("{at}/")).replace("DIR", &dir)
        };
        let words: Vec<String> = real(line).split(' ').map(str::to_owned).collect();
        let run = env.raw(&words);
        // Texts of a status stand on stdout.
        let text = format!("{}{}", run.stderr, run.stdout.replace("\n              ", " "));
        let lacks: Vec<String> = says.iter().map(|say| real(say)).filter(|say| !text.contains(say)).collect();
        if run.code != *code || !lacks.is_empty() {
            wrong.push(format!("{line}: exit code {} for {code}, lacks {lacks:?}:\n{text}", run.code));
        }
        assert!(!text.contains("secret"), "{line}: {text}");
        let after = checksums(&env);
        if after != before {
            let changed = after.0.iter().filter(|(path, what)| before.0.get(*path) != Some(*what));
            let changed: Vec<&String> = changed.map(|(path, _)| path).collect();
            panic!("{line}: changed {changed:?}\n{}\n{}", run.stderr, wrong.join("\n"));
        }
    }
    println!("mistakes: {} rows", ROWS.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}
