//! `prune --require SIZE [--on PATH]`: frees space on one file system by removing images from all caches on
//! it.
//!
//! The whole order of removal is planned first. If all images together could not free enough, none is
//! removed, unless the request allows it. If enough space is free already, no lock is taken and nothing is
//! opened.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use rustix::fs::{Mode, OFlags, fstatvfs};
use serde::Serialize;

use super::prune::PruneRequest;
use super::report::{ChangeReport, Ending, HostRun, human_or_unknown, is_zero};
use crate::cache::outcome::{Action, EntryError, Outcome};
use crate::cache::plan::PruneReason;
use crate::exit::Failure;
use crate::host::Host;
use crate::host::cache::{Foreseen, ImageCache, Item, Planned, PlannedRemoval, Removing, Rules};
use crate::host::gather::{Gathered, Member};
use crate::host::order::{Pick, View, by_priority, carry_out, enough};
use crate::os::mounts::identity;
use crate::os::space::{Space, available, capacity};
use crate::output::Report;
use crate::output::progress::{Bar, CacheBar};
use crate::units::{Amount, count, human};

/// The options of a request for space.
#[derive(Debug)]
pub(crate) struct SpaceRequest {
    pub(crate) amount: Amount,
    /// Any path on the file system; `None` stands for the Glance cache.
    pub(crate) on: Option<PathBuf>,
    /// Remove images even if all of them together cannot free enough.
    pub(crate) best_effort: bool,
    /// The rules for choosing images. Its limits are not used.
    pub(crate) prune: PruneRequest,
}

/// Frees space on one file system.
pub(crate) fn require(host: &Host<'_>, request: &SpaceRequest) -> Result<SpaceReport, Failure> {
    host.run.catch_signals()?;
    let path = match &request.on {
        Some(path) => path.clone(),
        None => glance_directory(host)?,
    };
    let (fd, required) = find(&path, request.amount)?;
    let mut space = Space::new(fd.as_fd(), required).map_err(Failure::cannot_start)?;
    let dry_run = request.prune.change.dry_run;
    let mut report = SpaceReport::new(&path, required, space.base, dry_run);
    let rules = request.prune.rules(host)?;
    // If enough space is free already, no lock is taken, so that no other run has to wait.
    if space.base >= required {
        if dry_run {
            report.run.would_prune(&[], [], rules.now);
        }
        return Ok(report);
    }
    let (device, _) = identity(fd.as_fd()).map_err(Failure::cannot_start)?;
    let mut gathered = Gathered::open(host, Some(device))?;
    if rules.changing {
        gathered.lock()?;
    }
    gathered.survey(&rules)?;
    gathered.report_warnings(host.run);
    if host.run.interrupt.raised() {
        report.run.did(host.run, &gathered.members, Vec::new());
        return Ok(report);
    }
    space.measure();
    let order = report.plan(&mut gathered, &space, &rules, request.best_effort);
    if !report.refused && !dry_run {
        let outcomes = remove(host, &mut gathered, &order, &mut space);
        report.run.did(host.run, &gathered.members, outcomes);
        report.measure(&space);
        report.count();
    }
    report.note_shortage();
    Ok(report)
}

/// Returns the directory of the Glance cache. Its file system is the one to free space on if no other is
/// named.
fn glance_directory(host: &Host<'_>) -> Result<PathBuf, Failure> {
    let directory = host.selection.directory(&host.config)?;
    directory.map(|setting| setting.value).ok_or_else(|| {
        Failure::usage(anyhow!(
            "--require needs a file system: image_cache_dir is not set, and --on is not given"
        ))
        .hint("give --on PATH, with any path on that file system")
    })
}

/// Opens a path on the file system, and returns it with the number of bytes that are to be free there.
fn find(path: &Path, amount: Amount) -> Result<(OwnedFd, u64), Failure> {
    let shown = path.display();
    let cannot = |e: rustix::io::Errno| Failure::usage(anyhow!("cannot get the file system of {shown}: {e}"));
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    let whole = capacity(&fstatvfs(&fd).map_err(cannot)?);
    let required = amount.of(whole);
    if required > whole {
        return Err(Failure::usage(anyhow!(
            "--require {} is more than the whole file system of {shown}, which has {}",
            human(required),
            human(whole)
        )));
    }
    Ok((fd, required))
}

/// Removes images in this order until enough space is free. Returns the outcome for each cache.
fn remove(
    host: &Host<'_>,
    gathered: &mut Gathered<'_>,
    order: &[Pick],
    space: &mut Space<'_>,
) -> Vec<Outcome> {
    let bar = Bar::new(&host.run.output, "pruning", order.len() as u64, Some(space.missing()));
    let names: Vec<String> = gathered.members.iter().map(|member| member.declared.name.clone()).collect();
    let bars: Vec<CacheBar<'_>> = names.iter().map(|name| bar.of_cache(name)).collect();
    let new = |bar| Removing { interrupt: &host.run.interrupt, progress: bar, outcome: Outcome::default() };
    let mut removing: Vec<Removing<'_>> = bars.iter().map(|bar| new(bar)).collect();
    let mut caches: Vec<&mut dyn ImageCache> =
        gathered.members.iter_mut().map(|member| &mut *member.cache as &mut dyn ImageCache).collect();
    carry_out(&mut caches, order, space, &mut removing);
    removing.into_iter().map(|removing| removing.outcome).collect()
}

/// The report of `prune --require`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SpaceReport {
    total_files_pruned: u64,
    total_bytes_pruned: u64,
    path: String,
    required: u64,
    available_before: u64,
    available_after: u64,
    /// Bytes of disk that the removal of all images that may be removed would have freed; `None` if no cache
    /// was looked at.
    reclaimable: Option<u64>,
    /// Bytes that would be missing even then.
    missing: u64,
    /// True if nothing was removed because all images together could not have freed enough.
    refused: bool,
    /// Invalid and stalled files that were removed first, because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_bytes_cleaned: u64,
    #[serde(flatten)]
    run: HostRun,
}

impl SpaceReport {
    fn new(path: &Path, required: u64, available: u64, dry_run: bool) -> Self {
        SpaceReport {
            path: path.display().to_string(),
            required,
            available_before: available,
            available_after: available,
            run: HostRun::empty(dry_run),
            ..SpaceReport::default()
        }
    }

    /// Plans the removal, and fills in the expected result. Returns the whole order of removal.
    fn plan(
        &mut self,
        gathered: &mut Gathered<'_>,
        space: &Space<'_>,
        rules: &Rules,
        best_effort: bool,
    ) -> Vec<Pick> {
        let dry_run = self.run.ending.dry_run;
        let errors = std::mem::take(&mut gathered.errors);
        self.run = HostRun::new(&gathered.members, &gathered.warnings, errors, dry_run);
        let items: Vec<Vec<Item>> =
            gathered.members.iter_mut().map(|member| member.cache.items(rules)).collect();
        let members = &gathered.members;
        let age = |member: &Member<'_>| member.declared.age.as_ref().map(|age| age.value);
        let views = members.iter().zip(&items).map(|(member, items)| View { items, age: age(member) });
        let views: Vec<View<'_>> = views.collect();
        let order = by_priority(&views, rules.now);
        let reclaimable = members.iter().map(|member| member.stock.reclaimable.bytes).sum();
        self.reclaimable = Some(reclaimable);
        self.missing = space.missing().saturating_sub(reclaimable);
        self.refused = self.missing > 0 && !best_effort;
        if dry_run {
            let picks = if self.refused { &[][..] } else { enough(&order, &views, space.missing()) };
            let victim = |pick: &Pick| {
                let Item { last_use, size, frees } = items[pick.cache][pick.item as usize];
                let name = members[pick.cache].cache.name(pick.item);
                let reason = if pick.expired { PruneReason::Expired } else { PruneReason::LeastRecentlyUsed };
                let removal = PlannedRemoval { name, size, frees, last_use, is_orphan: false, reason };
                (pick.cache, Foreseen::Removal(removal))
            };
            // A cache that loses an image also loses its rows without a file.
            let loses = |cache: &usize| picks.iter().any(|pick| pick.cache == *cache);
            let ghosts = (0..members.len()).filter(loses).flat_map(|cache| {
                let entries = members[cache].cache.describe(&Planned::default());
                entries.into_iter().map(move |entry| (cache, entry))
            });
            self.run.would_prune(members, ghosts.chain(picks.iter().map(victim)), rules.now);
            self.count();
        }
        order
    }

    /// Fills in the space that is free now.
    fn measure(&mut self, space: &Space<'_>) {
        match space.figures() {
            Ok(fs) => self.available_after = available(&fs),
            Err(e) => {
                let message = format!("cannot get the free space: {e}");
                let name = self.path.clone();
                self.run.ending.errors.push(EntryError { name, action: Action::Measure, message });
            }
        }
        self.missing = self.required.saturating_sub(self.available_after);
    }

    /// Sums up the lines of the caches.
    fn count(&mut self) {
        self.total_files_pruned = self.run.sum(|line| line.files_pruned);
        self.total_bytes_pruned = self.run.sum(|line| line.bytes_pruned);
        self.total_files_cleaned = self.run.sum(|line| line.files_cleaned);
        self.total_bytes_cleaned = self.run.sum(|line| line.bytes_cleaned);
    }

    /// Notes the missing space, unless a signal ended the run.
    fn note_shortage(&mut self) {
        if self.missing > 0 && self.run.ending.signal.is_none() {
            self.run.ending.shortfalls = vec![self.shortage()];
        }
    }

    fn shortage(&self) -> String {
        if self.total_files_pruned > 0 && !self.run.ending.dry_run {
            return format!(
                "{} has {} free instead of {}: {} are missing (no other image may be removed, or its removal \
                 would free no space)",
                self.path,
                human(self.available_after),
                human(self.required),
                human(self.missing)
            );
        }
        format!(
            "cannot get {} free on {}: {} are free, all images that may be removed would free {}, and {} \
             would still be missing; nothing was removed",
            human(self.required),
            self.path,
            human(self.available_before),
            human_or_unknown(self.reclaimable),
            human(self.missing)
        )
    }

    /// Returns a line for each cache, with the space that it could free and the space that it cannot.
    fn holders(&self) -> String {
        let mut text = String::new();
        for line in &self.run.caches {
            let _ = write!(
                text,
                "{} ({}): {} could free {}",
                line.name,
                line.directory,
                line.reclaimable
                    .map_or("an unknown number of images".to_owned(), |part| count(part.count, "image")),
                human_or_unknown(line.reclaimable.map(|part| part.bytes))
            );
            for (part, noun, what) in [
                (line.in_use.unwrap_or_default(), "image", "in use"),
                (line.kept.unwrap_or_default(), "image", "too young or protected"),
                (line.leftovers, "file", "left by crashed downloads (clean --all-caches removes them)"),
            ] {
                if part.count > 0 {
                    let _ =
                        write!(text, "; {} held by {} {what}", human(part.bytes), count(part.count, noun));
                }
            }
            text.push('\n');
        }
        text
    }
}

impl ChangeReport for SpaceReport {
    fn ending(&self) -> &Ending {
        &self.run.ending
    }
}

impl Report for SpaceReport {
    fn text(&self) -> String {
        let mut text = self.run.ending.preamble();
        if self.missing > 0 {
            text.push_str(&self.holders());
        }
        let _ = write!(
            text,
            "prune: {} {}, {}; {} has {} free",
            self.run.ending.verb("removed", "would remove"),
            count(self.total_files_pruned, "image"),
            human(self.total_bytes_pruned),
            self.path,
            human(self.available_after),
        );
        let _ = writeln!(text, ", {} required", human(self.required));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::line;
    use super::super::report::{CacheLine, Signal};
    use super::*;
    use crate::host::cache::Tally;

    fn report(dry_run: bool) -> SpaceReport {
        let mut report = SpaceReport::new(Path::new("/images"), 4096, 1024, dry_run);
        (report.reclaimable, report.missing) = (Some(2048), 1024);
        report
    }

    #[test]
    fn missing_space_is_an_ending_unless_a_signal_came() {
        let nothing = "cannot get 4 KiB free on /images: 1 KiB are free, all images that may be removed \
                       would free 2 KiB, and 1 KiB would still be missing; nothing was removed";
        let not_enough = "/images has 3 KiB free instead of 4 KiB: 1 KiB are missing (no other image may be \
                          removed, or its removal would free no space)";
        for (files, dry_run, expected) in
            [(0, false, nothing), (0, true, nothing), (2, true, nothing), (2, false, not_enough)]
        {
            let mut report = report(dry_run);
            (report.total_files_pruned, report.available_after) = (files, 3072);
            report.note_shortage();
            assert_eq!(report.run.ending.shortfalls, [expected]);
        }
        let mut enough = report(false);
        enough.missing = 0;
        enough.note_shortage();
        let mut stopped = report(false);
        stopped.run.ending.signal = Some(Signal(15));
        stopped.note_shortage();
        assert!(enough.run.ending.shortfalls.is_empty() && stopped.run.ending.shortfalls.is_empty());
    }

    #[test]
    fn caches_are_summed_up_and_named_with_what_they_hold_if_space_is_missing() {
        let tally = |count| Tally { count, bytes: count * 1024 };
        let one = CacheLine {
            reclaimable: Some(tally(2)),
            in_use: Some(tally(1)),
            kept: Some(tally(3)),
            leftovers: tally(4),
            ..line("one")
        };
        let mut report = report(false);
        report.run.caches = vec![one, line("other")];
        for line in &mut report.run.caches {
            (line.files_pruned, line.bytes_pruned) = (1, 1024);
            (line.files_cleaned, line.bytes_cleaned) = (3, 5);
        }
        report.count();
        assert_eq!((report.total_files_pruned, report.total_bytes_pruned), (2, 2048));
        assert_eq!((report.total_files_cleaned, report.total_bytes_cleaned), (6, 10));
        let summary = "prune: removed 2 images, 2 KiB; /images has 1 KiB free, 4 KiB required\n";
        let holders = "one (/one): 2 images could free 2 KiB; 1 KiB held by 1 image in use; 3 KiB held by 3 \
                       images too young or protected; 4 KiB held by 4 files left by crashed downloads (clean \
                       --all-caches removes them)\n\
                       other (/other): an unknown number of images could free unknown\n";
        assert_eq!(report.text(), format!("{holders}{summary}"));
        report.missing = 0;
        assert_eq!(report.text(), summary);
    }

    #[test]
    fn what_is_missing_is_measured_at_the_end() {
        let temporary = tempfile::tempdir().unwrap();
        let (fd, required) = find(temporary.path(), Amount::Bytes(u64::from(u32::MAX))).unwrap();
        let space = Space::new(fd.as_fd(), required).unwrap();
        let mut report = report(false);
        report.measure(&space);
        assert!(report.available_after > 0 && report.run.ending.errors.is_empty());
        assert_eq!(report.missing, report.required.saturating_sub(report.available_after));
        assert!(find(temporary.path(), Amount::Bytes(u64::MAX)).is_err(), "no file system is so large");
        let whole = capacity(&fstatvfs(&fd).unwrap());
        assert_eq!(find(temporary.path(), Amount::Bytes(whole)).unwrap().1, whole);
    }
}
