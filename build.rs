//! Finds the commit and the target of this build, for `--version`.
//!
//! The commit is in the variable `GLANCE_CACHE_COMMIT`, which packages set; or in the file that
//! `cargo package` adds; or git knows it. A tarball has none of them, and is built without a commit. So is a
//! debug build: each commit would otherwise compile the program anew.

// Cargo passes everything in the environment, and takes its instructions from stdout.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::env::var;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GLANCE_CACHE_COMMIT");
    let target = var("TARGET").unwrap_or_default();
    let is_debug = var("PROFILE").is_ok_and(|profile| profile == "debug");
    let commit = if is_debug { Some("debug build".to_owned()) } else { commit() };
    let build = commit.map_or(target.clone(), |commit| format!("{commit}, {target}"));
    println!("cargo:rustc-env=GLANCE_CACHE_BUILD={build}");
}

/// Returns the first twelve digits of the commit.
fn commit() -> Option<String> {
    let commit = var("GLANCE_CACHE_COMMIT").ok().or_else(of_package).or_else(of_git)?;
    let is_hash = commit.len() >= 12 && commit.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hash.then(|| commit[..12].to_owned())
}

/// Returns the commit that `cargo package` was called at.
fn of_package() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let hash = text.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
    Some(hash.to_owned())
}

/// Returns the commit that is checked out here. A checkout that only contains this directory does not count.
fn of_git() -> Option<String> {
    let answer = git(&["rev-parse", "--show-prefix", "HEAD"])?;
    let hash = answer.strip_prefix('\n')?;
    // Git appends to this file whenever another commit is checked out.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(log.trim()).is_file()
    {
        println!("cargo:rerun-if-changed={}", log.trim());
    }
    Some(hash.trim().to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
}
