//! All image caches of a host at once: `prune --require`, and `--all-caches` of prune, clean, list and status.
//!
//! [`gather`] all caches, decide ([`crate::host::order`]), act, tell: [`room`], [`limits`], [`mod@clean`] and [`mod@look`] are a command
//! each. Which kinds of caches there are is in [`crate::host`].

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;

use crate::commands::flags::{CacheArgs, ChangeArgs, HostArgs};
use crate::commands::prune::PruneArgs;
use crate::config;
use crate::exit::{Exit, Failure};
use crate::host::cache::Rules;
use crate::host::glance::settings::{Selection, Settings};
use crate::host::{Host, Task};
use crate::interrupt::Wait;
pub(crate) use crate::ops::clean_all::clean;
use crate::ops::host_report::HostRun;
use crate::ops::ids::kept_ids;
pub(crate) use crate::ops::look::{Look, look};
use crate::output::Report;
use crate::run::Context;
use crate::units::{Nanos, SECOND, count, human};

/// How long images stay that were just cached or used, unless the command line says otherwise.
pub(crate) const MIN_AGE: Nanos = 600 * SECOND;

pub(crate) fn host(
    context: &Context,
    cache: CacheArgs,
    args: HostArgs,
    task: Task,
    wait: Wait,
) -> Result<Host<'_>, Failure> {
    let selection = Selection::from(cache);
    Ok(Host {
        context,
        config: Settings::read(context, selection.sources.clone(), task == Task::Look)?,
        selection,
        ironic_sources: args.ironic.0,
        ironic: OnceCell::new(),
        task,
        wait,
        skip_if_locked: false,
        stall_time: None,
        invalid_grace: 0,
    })
}

pub(crate) fn wait(context: &Context, change: &ChangeArgs) -> Wait {
    let limit = if change.skip_if_locked { std::time::Duration::ZERO } else { change.lock_timeout.as_std() };
    Wait { limit, interrupt: context.interrupt.clone() }
}

/// `prune --require` and `prune --all-caches`.
pub(crate) fn prune(context: &Context, args: PruneArgs) -> Result<Exit, Failure> {
    if args.limit.max_size.is_some() {
        return Err(Failure::usage(anyhow!(
            "--max-size is of one cache: every cache is held to its own limit here"
        )));
    }
    let rules = Rules {
        now: context.now,
        min_age: args.min_age.map_or(MIN_AGE, |age| age.0),
        grace: args.host.temp_grace.0,
        keep: kept_ids(&args.keep, &args.keep_from)?,
        changing: !args.change.dry_run,
        forget_all: args.forget_all,
    };
    context.start()?;
    let mut host = host(context, args.cache, args.host, Task::Prune, wait(context, &args.change))?;
    host.stall_time = args.stall_time;
    host.skip_if_locked = args.change.skip_if_locked;
    let Some(amount) = args.room.require else {
        return Ok(crate::ops::limits::hold(context, &host, &rules));
    };
    let path = match args.room.on {
        Some(path) => path,
        None => glance_directory(&host)?,
    };
    let wish = crate::ops::require::Wish { amount, path: &path, best_effort: args.room.best_effort };
    crate::ops::require::require(context, &host, &rules, &wish)
}

/// Where `--require` looks when it is not told.
fn glance_directory(host: &Host<'_>) -> Result<PathBuf, Failure> {
    let configured = host.config.optional(&config::IMAGE_CACHE_DIR).map_err(Failure::usage)?;
    let given = host.selection.cache_dir.clone();
    given.or_else(|| configured.map(|setting| PathBuf::from(setting.value))).ok_or_else(|| {
        Failure::usage(anyhow!(
            "image_cache_dir is not set, so --require does not know which file system is meant"
        ))
        .hint("name a directory on it with --on PATH")
    })
}

/// What `prune --all-caches` or `clean --all-caches` did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct TotalsReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_files_pruned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_bytes_pruned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_files_cleaned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_bytes_cleaned: Option<u64>,
    #[serde(flatten)]
    pub(crate) run: HostRun,
}

impl TotalsReport {
    pub(crate) fn pruned(run: HostRun) -> Self {
        TotalsReport {
            total_files_pruned: Some(run.sum(|line| line.files_pruned)),
            total_bytes_pruned: Some(run.sum(|line| line.bytes_pruned)),
            run,
            ..TotalsReport::default()
        }
    }

    pub(crate) fn cleaned(run: HostRun) -> Self {
        TotalsReport {
            total_files_cleaned: Some(run.sum(|line| line.files_cleaned)),
            total_bytes_cleaned: Some(run.sum(|line| line.bytes_cleaned)),
            run,
            ..TotalsReport::default()
        }
    }
}

impl Report for TotalsReport {
    fn text(&self) -> String {
        let mut text = self.run.plan();
        let verb = self.run.verb();
        for line in &self.run.caches {
            let name = &line.name;
            let _ = if self.total_files_pruned.is_some() {
                let (files, bytes) = (count(line.files_pruned, "image"), human(line.bytes_pruned));
                let (size, limit) = (human(line.size), human(line.limit));
                writeln!(text, "prune: {name}: {verb} {files}, {bytes}; it holds {size} of {limit}")
            } else {
                let (files, bytes) = (count(line.files_cleaned, "file"), human(line.bytes_cleaned));
                writeln!(text, "clean: {name}: {verb} {files}, {bytes}")
            };
        }
        text
    }
}
