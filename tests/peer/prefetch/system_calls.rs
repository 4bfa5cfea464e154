//! A prefetch that is killed or refused at each system call that changes something: the next run mends what
//! is left.

use std::fs;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::needs;
use crate::support::prefetch::*;

#[test]
fn an_image_that_cannot_be_published_leaves_no_row() {
    needs::strace();
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.queue("a");
    p.run(&["--dry-run"]).ok();
    let mut command = p.env.command("/usr/bin/strace");
    let log = p.env.outside("strace");
    command.args(["-f", "-o", log.to_str().unwrap(), "-e", "inject=linkat:error=ENOSPC", BINARY]);
    command.args(["prefetch", "--config-file", &p.conf("")]);
    p.env.finish(&mut command).fails(1, &["cannot be published", "No space left"]);
    assert_eq!((p.env.images().as_str(), p.env.rows().as_str(), p.queued().as_str()), ("", "", "a"));
    p.run(&[]).ok();
    p.holds(&[('a', 1000)]);
}

/// Returns the calls of a fetch that change something, and how often a thread makes each.
fn changing_calls(p: &Prefetch) -> Vec<(String, usize)> {
    needs::strace();
    let log = p.env.outside("strace");
    let mut command = p.env.command("/usr/bin/strace");
    command.args(["-f", "-o", log.to_str().unwrap(), "-e", CHANGING, BINARY]).args(arguments(p));
    p.env.finish(&mut command).ok();
    let mut counts = std::collections::BTreeMap::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        if let Some((name, _)) = call.split_once('(') {
            *counts.entry((name.to_owned(), thread.to_owned())).or_insert(0) += 1;
        }
    }
    let mut most = std::collections::BTreeMap::new();
    for ((name, _), count) in counts {
        let entry = most.entry(name).or_insert(0);
        *entry = count.max(*entry);
    }
    most.into_iter().collect()
}

const CHANGING: &str = "trace=openat,unlinkat,unlink,linkat,pwrite64,copy_file_range,ftruncate,\
                        fdatasync,fsync,utimensat,fsetxattr,ioctl";

fn arguments(p: &Prefetch) -> Vec<String> {
    ["prefetch", "--config-file", &p.conf(""), "-j", "1"].map(str::to_owned).to_vec()
}

fn three(driver: Driver) -> Prefetch {
    let p = Prefetch::new(driver);
    for letter in "abc".chars() {
        p.image(letter, 70_000);
    }
    p.queue("abc");
    p
}

/// Fetches three images while a system call fails or kills, and lets the next run mend what is left.
fn refused(driver: Driver, inject: &str) {
    needs::strace();
    let p = three(driver);
    let log = p.env.outside("strace");
    let mut command = p.env.command("/usr/bin/strace");
    command.args(["-f", "-o", log.to_str().unwrap(), "-e", inject, BINARY]).args(arguments(&p));
    let run = p.env.finish(&mut command);
    let context = format!("{} {inject}: {}", driver.name(), run.stderr);
    println!("{context}");
    assert!([0, 1, 2, 3, 137].contains(&run.code) && !run.stderr.contains("panicked"), "{context}");
    for letter in p.env.images().chars() {
        assert!(fs::read(p.env.path(id(letter))).unwrap() == content(letter, 70_000), "{letter}: {context}");
    }
    if driver == Sqlite && p.env.path("cache.db").exists() {
        let (images, rows) = (p.env.images(), p.env.rows());
        assert!(images.chars().all(|image| rows.contains(image)), "an orphan: {images} {rows} {context}");
    }
    assert!(p.env.images().len() + p.queued().len() >= 3, "{context}");
    p.run(&["--retry"]).ok();
    p.holds(&[('a', 70_000), ('b', 70_000), ('c', 70_000)]);
    assert_eq!(p.queued(), "", "{context}");
}

#[test]
fn killed_or_refused_at_each_system_call_the_next_run_mends_it() {
    for driver in [Sqlite, Xattr] {
        let calls = changing_calls(&three(driver));
        assert!(calls.iter().any(|(name, _)| name == "linkat"), "{calls:?}");
        let mut runs = 0;
        for (name, count) in &calls {
            // The dynamic linker's and the configuration's openat say nothing about a fetch.
            let first = if name == "openat" { 10 } else { 1 };
            for when in first..=*count {
                // Killed at each of them, refused in turn.
                let error = ["error=ENOSPC", "error=EIO"][runs % 2];
                let whats = if runs % 3 == 0 { vec!["signal=KILL", error] } else { vec!["signal=KILL"] };
                for what in whats {
                    runs += 1;
                    refused(driver, &format!("inject={name}:{what}:when={when}"));
                }
            }
        }
        println!("{}: {runs} runs, {calls:?}", driver.name());
    }
}
