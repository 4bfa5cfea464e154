//! `prune --require SIZE [--on PATH]`: makes room on one file system, out of all caches that are on it.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::anyhow;
use rustix::fs::{Mode, OFlags, fstatvfs};
use serde::Serialize;

use crate::cache::outcome::{EntryError, Outcome};
use crate::exit::{Exit, Failure};
use crate::host::Host;
use crate::host::cache::{ImageCache, Removing, Rules};
use crate::host::gather::{Gathered, Member, gather};
use crate::host::order::{Pick, View, carry_out, enough, room};
use crate::ops::host_report::{HostRun, is_zero};
use crate::os::mounts::identity;
use crate::os::space::{Space, available, capacity};
use crate::output::Report;
use crate::output::progress::Bar;
use crate::run::Context;
use crate::units::{Amount, count, human};

/// What is asked for.
pub(crate) struct Wish<'a> {
    pub(crate) amount: Amount,
    /// Anything on the file system that is meant.
    pub(crate) path: &'a Path,
    /// Whether to take what there is when it cannot be enough.
    pub(crate) best_effort: bool,
}

pub(crate) fn require(
    context: &Context,
    host: &Host<'_>,
    rules: &Rules,
    wish: &Wish<'_>,
) -> Result<Exit, Failure> {
    let (fd, required) = find(wish)?;
    let mut space = Space::new(fd.as_fd(), required).map_err(Failure::cannot_start)?;
    let mut report = RoomReport::new(wish.path, required, space.base, !rules.changing);
    // Enough is there already: nobody is kept waiting for a lock.
    if space.base >= required {
        if report.run.dry_run {
            report.run.would_prune(&[], &[], rules.now);
        }
        context.output.summary(&report);
        return Ok(Exit::Done);
    }
    let (device, _) = identity(fd.as_fd()).map_err(Failure::cannot_start)?;
    let mut gathered = gather(host, rules, Some(device));
    gathered.tell(context);
    if context.interrupt.raised() {
        report.run.did(context, &gathered.members, Vec::new());
        return Ok(report.tell(context));
    }
    space.measure();
    let order = report.plan(&gathered, &space, rules, wish);
    if report.refused || report.run.dry_run {
        return Ok(report.tell(context));
    }
    let outcomes = remove(context, host, &mut gathered, &order, &mut space);
    report.run.did(context, &gathered.members, outcomes);
    match space.figures() {
        Ok(fs) => report.available_after = available(&fs),
        Err(e) => {
            let message = format!("cannot ask for the free space: {e}");
            report.run.errors.push(EntryError { name: report.path.clone(), action: "measure", message });
        }
    }
    report.missing = required.saturating_sub(report.available_after);
    report.count();
    Ok(report.tell(context))
}

/// The file system that is meant, and how many bytes are to be free there.
fn find(wish: &Wish<'_>) -> Result<(OwnedFd, u64), Failure> {
    let path = wish.path.display();
    let cannot = |e: rustix::io::Errno| Failure::usage(anyhow!("cannot tell the file system of {path}: {e}"));
    let fd = rustix::fs::open(wish.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    let whole = capacity(&fstatvfs(&fd).map_err(cannot)?);
    let required = wish.amount.of(whole);
    if required > whole {
        return Err(Failure::usage(anyhow!(
            "--require is {}, but the whole file system of {path} has {}",
            human(required),
            human(whole)
        )));
    }
    Ok((fd, required))
}

/// Removes images in this order until the space is there, and returns what was done to each cache.
fn remove(
    context: &Context,
    host: &Host<'_>,
    gathered: &mut Gathered<'_>,
    order: &[Pick],
    space: &mut Space<'_>,
) -> Vec<Outcome> {
    let bar = Bar::new(&context.output, "pruning", order.len() as u64, Some(space.missing()));
    let new = || Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
    let mut runs: Vec<Removing<'_>> = gathered.members.iter().map(|_| new()).collect();
    let mut caches: Vec<&mut dyn ImageCache> =
        gathered.members.iter_mut().map(|member| &mut *member.cache as &mut dyn ImageCache).collect();
    carry_out(&mut caches, order, space, &mut runs);
    runs.into_iter().map(|run| run.outcome).collect()
}

/// What `prune --require` did, or would do.
#[derive(Debug, Default, Serialize)]
struct RoomReport {
    total_files_pruned: u64,
    total_bytes_pruned: u64,
    path: String,
    required: u64,
    available_before: u64,
    available_after: u64,
    /// Bytes of disk that all images that may go would have freed.
    reclaimable: u64,
    /// Bytes that are missing even so.
    missing: u64,
    /// Whether nothing was removed because it could not have been enough.
    refused: bool,
    /// Invalid and stalled files that went first because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_bytes_cleaned: u64,
    #[serde(flatten)]
    run: HostRun,
}

impl RoomReport {
    fn new(path: &Path, required: u64, available: u64, dry_run: bool) -> Self {
        RoomReport {
            path: path.display().to_string(),
            required,
            available_before: available,
            available_after: available,
            run: HostRun { dry_run, ..HostRun::default() },
            ..RoomReport::default()
        }
    }

    /// Plans over what was gathered, and says what would come of it. Returns the whole order in which images go.
    fn plan(
        &mut self,
        gathered: &Gathered<'_>,
        space: &Space<'_>,
        rules: &Rules,
        wish: &Wish<'_>,
    ) -> Vec<Pick> {
        let views: Vec<View<'_>> = gathered.members.iter().map(Member::view).collect();
        let order = room(&views, rules.now);
        self.run = HostRun::new(gathered, self.run.dry_run);
        self.reclaimable = views.iter().map(|view| view.stock.reclaimable()).sum();
        self.missing = space.missing().saturating_sub(self.reclaimable);
        self.refused = self.missing > 0 && !wish.best_effort;
        if self.run.dry_run {
            let picks = if self.refused { &[][..] } else { enough(&order, &views, space.missing()) };
            self.run.would_prune(&gathered.members, picks, rules.now);
            self.count();
        }
        order
    }

    fn count(&mut self) {
        self.total_files_pruned = self.run.sum(|line| line.files_pruned);
        self.total_bytes_pruned = self.run.sum(|line| line.bytes_pruned);
        self.total_files_cleaned = self.run.sum(|line| line.files_cleaned);
        self.total_bytes_cleaned = self.run.sum(|line| line.bytes_cleaned);
    }

    /// Tells what was done, or would be, and how it ended.
    fn tell(&self, context: &Context) -> Exit {
        context.output.summary(self);
        let is_short = self.missing > 0;
        if is_short && self.run.signal.is_none() {
            context.output.error(&self.shortage());
        }
        self.run.end(context, is_short)
    }

    fn shortage(&self) -> String {
        if self.total_files_pruned > 0 && !self.run.dry_run {
            return format!(
                "{} has {} free, not {}: {} are missing; no image is left that may be removed and would free space",
                self.path,
                human(self.available_after),
                human(self.required),
                human(self.missing)
            );
        }
        format!(
            "{} cannot have {} free: {} are free, the images that may go would free {}, {} are missing; nothing was removed",
            self.path,
            human(self.required),
            human(self.available_before),
            human(self.reclaimable),
            human(self.missing)
        )
    }

    /// Who holds what, a line for each cache.
    fn holders(&self) -> String {
        let mut text = String::new();
        for line in &self.run.caches {
            let _ = write!(
                text,
                "{} ({}): {} could free {}",
                line.name,
                line.directory,
                count(line.reclaimable.count, "image"),
                human(line.reclaimable.bytes)
            );
            for (part, what) in [
                (line.in_use, "in use"),
                (line.kept, "too young or to be kept"),
                (line.leftovers, "left by crashed downloads (clean --all-caches removes that)"),
            ] {
                if part.count > 0 {
                    let _ = write!(text, "; {} held by {} {what}", human(part.bytes), part.count);
                }
            }
            text.push('\n');
        }
        text
    }
}

impl Report for RoomReport {
    fn text(&self) -> String {
        let mut text = self.run.plan();
        if self.missing > 0 {
            text.push_str(&self.holders());
        }
        let _ = write!(
            text,
            "prune: {} {}, {}; {} has {} free",
            self.run.verb(),
            count(self.total_files_pruned, "image"),
            human(self.total_bytes_pruned),
            self.path,
            human(self.available_after),
        );
        let _ = writeln!(text, ", {} required", human(self.required));
        text
    }
}
