//! Describes the machine that a bench runs on, in a line that says nothing about whose it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Returns for example `2 processors (x86_64), 8 GiB of memory, ext4, Linux 6.1, load average 0.05`.
pub(super) fn describe(dir: &Path) -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = meminfo.split_whitespace().nth(1).context("no size in /proc/meminfo")?.parse()?;
    let output = Command::new("df").arg("--output=fstype").arg(dir).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file_system = String::from_utf8(output.stdout)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release: Vec<&str> = release.trim().split(['.', '-', '+']).take(2).collect();
    Ok(format!(
        "{processors} processors ({}), {:.0} GiB of memory, {}, Linux {}, load average {}",
        std::env::consts::ARCH,
        kib / (1024.0 * 1024.0),
        file_system.lines().last().unwrap_or("an unknown file system").trim(),
        release.join("."),
        fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default()
    ))
}

/// Returns the version of a package of Python's, as the environment of `python` has it.
pub(super) fn version(python: &Path, package: &str) -> Result<String> {
    let print = format!("import importlib.metadata as m; print(m.version('{package}'))");
    let output = Command::new(python).args(["-c", &print]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
