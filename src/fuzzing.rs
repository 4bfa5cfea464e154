//! Feeds whatever reads bytes from outside with broken ones: nothing may panic, or take its time.
//!
//! Begins with the files of `tests/corpus/TARGET`, and changes them at random. An input whose result is of a
//! kind that was not seen yet is changed further: an error after the first opens the way to the second.
//! `GLANCE_CACHE_TEST_FUZZ` says for how many seconds each target runs; without it, for a fraction of one.
//! The seed is printed; `GLANCE_CACHE_TEST_SEED` repeats it. An input that panics is written to
//! `target/fuzz`, and belongs into the corpus when it is mended.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs};

/// The time for which a target runs when nothing is said.
const SHORT: Duration = Duration::from_millis(100);
/// The longest time for one input. The machine may have other work.
const SLOW: Duration = Duration::from_secs(5);
/// The greatest length of an input, in bytes.
const LONGEST: usize = 8192;
/// The greatest number of inputs that are changed further.
const MANY: usize = 4000;

/// Pieces that often make a difference, in any language.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\"",
    b"'",
    b"\\",
    b"%",
    b"%00",
    b"%zz",
    b"$",
    b"${",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b":",
    b"://",
    b"@",
    b"/",
    b"//",
    b"..",
    b"?",
    b"&",
    b"=",
    b"#",
    b",",
    b";",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"18446744073709551615",
    b"9223372036854775808",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"not ",
    b" or ",
    b" and ",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x82",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x92\xbe",
    b"&a ",
    b"*a",
    b"!!",
    b"<<: ",
    b"- ",
    b"|\n",
    b"ffffffffffffffff",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
];

/// Numbers that look random; the same seed gives the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() >> 11) as usize % bound }
    }
}

/// Runs a target, which returns the kind of its result, such as the text of an error.
pub(crate) fn fuzz(target: &str, run: impl Fn(&[u8]) -> String) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = number("GLANCE_CACHE_TEST_FUZZ").map_or(SHORT, Duration::from_secs);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("GLANCE_CACHE_TEST_SEED").unwrap_or(clock) | 1;
    let mut random = Random(seed);
    let mut pool = corpus(target);
    let (mut kinds, mut found, mut executions) = (HashSet::new(), Vec::new(), 0_u64);
    let begun = Instant::now();
    let mut next = 0;
    while next < pool.len() || begun.elapsed() < limit {
        let as_it_is = pool.get(next).cloned();
        let input = as_it_is.unwrap_or_else(|| changed(&pool, &mut random));
        let is_new = next >= pool.len();
        next += 1;
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| run(&input)));
        executions += 1;
        match result {
            Ok(kind) if started.elapsed() < SLOW => {
                if kinds.insert(general(&kind)) && is_new && pool.len() < MANY {
                    pool.push(input);
                    next = pool.len();
                }
            }
            Ok(_) => found.push(keep(target, "slow", found.len(), &input)),
            Err(_) => found.push(keep(target, "panic", found.len(), &input)),
        }
        if found.len() > 20 {
            break;
        }
    }
    println!(
        "{target}: {executions} executions in {:.1} s, {} kinds of results, {} failures (seed {seed})",
        begun.elapsed().as_secs_f64(),
        kinds.len(),
        found.len()
    );
    assert!(found.is_empty(), "{target} fails with {found:?}");
}

/// Returns what is known to be interesting for a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Writes an input that failed, and returns where.
fn keep(target: &str, how: &str, number: usize, input: &[u8]) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{target}-{how}-{number}"));
    fs::write(&file, input).unwrap();
    file.display().to_string()
}

/// Returns the kind of a result without what is quoted in it, and without numbers.
fn general(kind: &str) -> String {
    let mut general = String::new();
    for (n, part) in kind.split(['\'', '"', '`']).enumerate() {
        if n % 2 == 0 {
            general.extend(part.chars().filter(char::is_ascii_alphabetic).take(100));
        }
    }
    general
}

/// Returns one of the inputs with some changes.
fn changed(pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..=random.below(6) {
        let (at, other) = (random.below(input.len() + 1), &pool[random.below(pool.len())]);
        let to = (at + random.below(32)).min(input.len());
        match random.below(9) {
            0 if !input.is_empty() => input[at.min(to.saturating_sub(1))] ^= 1 << random.below(8),
            1 => drop(input.splice(at..at, [random.next() as u8])),
            2 => drop(input.drain(at..to)),
            3 => {
                let copy = input[at..to].to_vec();
                let times = 1 + random.below(40);
                drop(input.splice(at..at, copy.repeat(times)));
            }
            4 => input.truncate(at),
            5 => {
                let from = random.below(other.len() + 1);
                let until = (from + random.below(64)).min(other.len());
                drop(input.splice(at..to, other[from..until].to_vec()));
            }
            6 => input.extend_from_slice(other),
            _ => {
                let until = if random.below(2) == 0 { at } else { to };
                drop(input.splice(at..until, WORDS[random.below(WORDS.len())].iter().copied()));
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// Returns the kind of a result whose error is a text.
pub(crate) fn kind<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(error) => format!("{error:#}"),
    }
}
