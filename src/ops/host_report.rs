//! What reports of all caches of a host have in common: a line for each cache, a plan with the cache of each step, how a change went.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::cache::outcome::{EntryError, Outcome};
use crate::database::Refusal;
use crate::exit::Exit;
use crate::host::Declared;
use crate::host::cache::{Part, Told};
use crate::host::gather::{Gathered, Member};
use crate::host::order::Pick;
use crate::names::escaped;
use crate::ops::{conclude, stopped_by};
use crate::os::mounts::mount_of;
use crate::run::Context;
use crate::units::{Nanos, SECOND, human, span, when};

/// One cache in a report. Sizes are bytes.
#[derive(Debug, Serialize)]
pub(crate) struct CacheLine {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) priority: u32,
    pub(crate) directory: String,
    pub(crate) directory_set_by: String,
    /// The mount point.
    pub(crate) file_system: String,
    /// The sizes of all images.
    pub(crate) size: u64,
    pub(crate) limit: u64,
    pub(crate) limit_set_by: String,
    /// Seconds, or null when its images do not expire.
    pub(crate) age_limit: Option<i64>,
    /// With the bytes of disk they hold, as the following.
    pub(crate) in_use: Part,
    /// Images that may go now.
    pub(crate) reclaimable: Part,
    /// Images too young to go, or listed to be kept.
    pub(crate) kept: Part,
    pub(crate) leftovers: Part,
    pub(crate) foreign: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) bytes_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) bytes_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) ghosts_forgotten: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl CacheLine {
    pub(crate) fn of(member: &Member<'_>) -> Self {
        let Declared { name, kind, priority, directory, size, age } = &member.declared;
        let stock = &member.stock;
        CacheLine {
            name: name.clone(),
            kind: kind.name(),
            priority: *priority,
            directory: directory.value.display().to_string(),
            directory_set_by: directory.origin.to_string(),
            file_system: mount_point(&directory.value),
            size: stock.size,
            limit: member.limit,
            limit_set_by: size.origin.to_string(),
            age_limit: age.as_ref().map(|age| age.value / SECOND),
            in_use: stock.in_use,
            reclaimable: Part { count: stock.items.len() as u64, bytes: stock.reclaimable() },
            kept: stock.kept,
            leftovers: stock.leftovers,
            foreign: stock.foreign.clone(),
            files_pruned: 0,
            bytes_pruned: 0,
            files_cleaned: 0,
            bytes_cleaned: 0,
            ghosts_forgotten: 0,
        }
    }

    /// Books what was done to the cache.
    fn book(&mut self, outcome: &Outcome) {
        self.files_pruned = outcome.files;
        self.bytes_pruned = outcome.bytes;
        self.files_cleaned = outcome.invalid_files + outcome.stalled_files;
        self.bytes_cleaned = outcome.bytes_cleaned;
        self.ghosts_forgotten = outcome.ghosts_forgotten;
        self.size = self.size.saturating_sub(outcome.bytes).saturating_sub(outcome.bytes_gone);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.size > self.limit
    }

    pub(crate) fn age(&self) -> String {
        self.age_limit.map_or_else(|| "-".to_owned(), |seconds| span(seconds.saturating_mul(SECOND)))
    }
}

/// Where the file system of a path is mounted.
pub(crate) fn mount_point(path: &Path) -> String {
    mount_of(path).map_or_else(|| "unknown".to_owned(), |mount| escaped(mount.point.as_bytes()))
}

/// One step of a plan, with the cache it is in.
#[derive(Debug, Serialize)]
pub(crate) struct HostPlanEntry {
    cache: String,
    /// The image's name, or for what is no image the entry's.
    image_id: String,
    action: &'static str,
    reason: String,
    bytes: u64,
}

impl HostPlanEntry {
    fn of(members: &[Member<'_>], pick: &Pick, now: Nanos) -> Self {
        let Member { declared, cache, stock, .. } = &members[pick.cache];
        let item = stock.items[pick.item as usize];
        let unused = span(now.saturating_sub(item.last_use).max(0));
        let reason = match (pick.expired, &declared.age) {
            (true, Some(age)) => {
                format!("expired: not used for {unused}, and {} are allowed", span(age.value))
            }
            _ => format!(
                "least recently used of priority {}: last use {}",
                declared.priority,
                when(item.last_use)
            ),
        };
        let image_id = cache.name(pick.item);
        HostPlanEntry { cache: declared.name.clone(), image_id, action: "remove", reason, bytes: item.size }
    }

    fn leftover(member: &Member<'_>, told: Told) -> Self {
        let Told { name, reason, bytes, .. } = told;
        HostPlanEntry { cache: member.declared.name.clone(), image_id: name, action: "remove", reason, bytes }
    }
}

/// What changes to the caches of a host have in common.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HostRun {
    /// Images that were used or changed since the plan was made, and stayed.
    pub(crate) left_alone: u64,
    pub(crate) caches: Vec<CacheLine>,
    pub(crate) dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<HostPlanEntry>>,
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<EntryError>,
    /// The signal that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<&'static str>,
}

impl HostRun {
    /// A run that has done nothing yet to what was gathered.
    pub(crate) fn new(gathered: &Gathered<'_>, dry_run: bool) -> Self {
        HostRun {
            caches: gathered.members.iter().map(CacheLine::of).collect(),
            dry_run,
            warnings: gathered.warnings.clone(),
            errors: gathered.errors.clone(),
            ..HostRun::default()
        }
    }

    /// Makes it the report of a dry run that would remove these images.
    pub(crate) fn would_prune(&mut self, members: &[Member<'_>], picks: &[Pick], now: Nanos) {
        for pick in picks {
            let size = members[pick.cache].stock.items[pick.item as usize].size;
            let line = &mut self.caches[pick.cache];
            line.files_pruned += 1;
            line.bytes_pruned = line.bytes_pruned.saturating_add(size);
            line.size = line.size.saturating_sub(size);
        }
        self.plan = Some(picks.iter().map(|pick| HostPlanEntry::of(members, pick, now)).collect());
    }

    /// Makes it the report of a dry run that would remove the leftovers.
    pub(crate) fn would_clean(&mut self, members: &[Member<'_>]) {
        let mut plan = Vec::new();
        for (member, line) in members.iter().zip(&mut self.caches) {
            for told in member.cache.leftovers() {
                line.files_cleaned += told.files;
                line.bytes_cleaned += told.bytes;
                plan.push(HostPlanEntry::leftover(member, told));
            }
        }
        self.plan = Some(plan);
    }

    /// Books what was done, in the order of the caches.
    pub(crate) fn did(&mut self, context: &Context, members: &[Member<'_>], outcomes: Vec<Outcome>) {
        let mut total = Outcome::default();
        for ((member, line), mut outcome) in members.iter().zip(&mut self.caches).zip(outcomes) {
            line.book(&outcome);
            let errors = std::mem::take(&mut outcome.errors);
            self.errors.extend(errors.into_iter().map(|error| member.located(error)));
            total.add(outcome);
        }
        self.left_alone = total.left_alone;
        // It may have come while locks were waited for.
        if context.interrupt.raised() {
            total.stopped = Some(Refusal::Interrupted);
        }
        self.signal = stopped_by(context, &total);
    }

    /// Tells the errors, and how the run ended. `is_short`: something that was asked for could not be had.
    pub(crate) fn end(&self, context: &Context, is_short: bool) -> Exit {
        let stopped = self.signal.map(|_| Refusal::Interrupted);
        end(context, &Outcome { stopped, ..Outcome::default() }, &self.errors, is_short)
    }

    pub(crate) fn sum(&self, figure: fn(&CacheLine) -> u64) -> u64 {
        self.caches.iter().map(figure).fold(0, u64::saturating_add)
    }

    pub(crate) fn verb(&self) -> &'static str {
        if self.dry_run { "would remove" } else { "removed" }
    }

    /// The plan of a dry run, a line for each step.
    pub(crate) fn plan(&self) -> String {
        let mut text = String::new();
        for entry in self.plan.iter().flatten() {
            let HostPlanEntry { cache, image_id, action, reason, bytes } = entry;
            let _ = writeln!(text, "would {action} {cache} {image_id} ({}): {reason}", human(*bytes));
        }
        text
    }
}

/// Tells the errors of a run, and how it ended.
pub(crate) fn end(context: &Context, outcome: &Outcome, errors: &[EntryError], is_short: bool) -> Exit {
    match conclude(context, outcome, errors) {
        Exit::Done if is_short || context.output.has_failed() => Exit::Incomplete,
        exit => exit,
    }
}
