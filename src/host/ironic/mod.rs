//! Ironic's caches of master images, as kinds of cache: one each for ISO, instance and TFTP images.
//!
//! Ironic's own options say where they are. Planning and counting are here; [`master`] scans a directory and
//! removes images beside a running conductor. Nothing here writes to Ironic's database or talks to Ironic.

mod master;

use std::fmt::Display;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use anyhow::Result;

use self::master::{LeftoverState, Master, MasterDir, Survey};
use super::cache::{
    Distance, Foreseen, HeldImage, Holder, ImageCache, Item, Limits, Planned, PlannedRemoval, Remains,
    Removing, Rules, Stock, Tally, Unlocked, Until,
};
use super::{CacheKind, ConfiguredCache, Declared, Host, scaled};
use crate::cache::dir::{CachePlace, Removal};
use crate::cache::entry::Seen;
use crate::cache::lock::LockWait;
use crate::cache::outcome::{Action, EntryError, Last, Removed};
use crate::cache::plan::{Goal, Kept, PrunePlan, PruneReason};
use crate::config::{self, Opt};
use crate::database::refusal::Refusal;
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::names::Name;
use crate::os::locks::process;
use crate::run::Run;
use crate::units::{Amount, Nanos, SECOND, count, span};

/// A kind of master images: the options for its directory and its limits.
pub(super) struct MasterImages {
    name: &'static str,
    priority: u32,
    directory: Opt<'static>,
    /// In MiB.
    size: Opt<'static>,
    /// In minutes.
    ttl: Opt<'static>,
}

pub(super) static ISO: MasterImages = MasterImages {
    name: "ironic-iso",
    priority: 75,
    directory: config::DEPLOY_ISO_MASTER_PATH,
    size: config::DEPLOY_ISO_CACHE_SIZE,
    ttl: config::DEPLOY_ISO_CACHE_TTL,
};

pub(super) static INSTANCE: MasterImages = MasterImages {
    name: "ironic-instance",
    priority: 50,
    directory: config::PXE_INSTANCE_MASTER_PATH,
    size: config::PXE_IMAGE_CACHE_SIZE,
    ttl: config::PXE_IMAGE_CACHE_TTL,
};

pub(super) static TFTP: MasterImages = MasterImages {
    name: "ironic-tftp",
    priority: 25,
    directory: config::PXE_TFTP_MASTER_PATH,
    size: config::PXE_IMAGE_CACHE_SIZE,
    ttl: config::PXE_IMAGE_CACHE_TTL,
};

impl CacheKind for MasterImages {
    fn name(&self) -> &'static str {
        self.name
    }

    fn priority(&self) -> u32 {
        self.priority
    }

    fn find(&self, host: &Host<'_>) -> Result<Option<ConfiguredCache>> {
        let config = host.ironic()?;
        // With an empty path, Ironic caches nothing.
        let Some(directory) = config.optional(&self.directory)? else { return Ok(None) };
        let size = scaled(config.integer(&self.size)?, 1 << 20);
        let age = scaled(config.integer(&self.ttl)?, 60 * SECOND);
        Ok(Some(ConfiguredCache {
            directory: directory.map(PathBuf::from),
            size: size.map(|bytes| Amount::Bytes(bytes.unsigned_abs())),
            age: Some(age),
        }))
    }

    fn open<'a>(
        &self,
        host: &'a Host<'a>,
        cache: &Declared,
    ) -> Result<Option<Box<dyn ImageCache + 'a>>, Failure> {
        let opened = MasterDir::open(&cache.directory.value).map_err(Failure::cannot_start)?;
        Ok(opened.map(|dir| {
            let (survey, unused) = (Survey::default(), Vec::new());
            Box::new(MasterCache { run: host.run, dir, survey, unused }) as Box<dyn ImageCache + 'a>
        }))
    }
}

/// An opened directory of master images.
struct MasterCache<'a> {
    run: &'a Run,
    dir: MasterDir,
    survey: Survey,
    /// Images that no instance uses, least recently used first. The rules may keep some of them.
    unused: Vec<Master>,
}

impl MasterCache<'_> {
    /// Sorts the unused images, and counts those that may be removed and those that stay.
    fn sort(&mut self, rules: &Rules, stock: &mut Stock) {
        let survey = &mut self.survey;
        let mut size = survey.in_use_bytes;
        stock.in_use = Tally { count: survey.in_use, bytes: survey.in_use_allocated };
        self.unused = std::mem::take(&mut survey.unused);
        self.unused.sort_unstable_by(|a, b| a.last_use().cmp(&b.last_use()).then(a.name.cmp(&b.name)));
        for image in &self.unused {
            size = size.saturating_add(image.seen.size);
            match kept(image, rules) {
                Some(_) => stock.kept.add(image.seen.allocated),
                None => stock.reclaimable.add(image.seen.allocated),
            }
        }
        (stock.size, stock.is_tallied) = (Some(size), true);
    }

    /// Counts the files that crashed downloads left, and notes why some old files stay.
    fn note_leftovers(&self, stock: &mut Stock) {
        let survey = &self.survey;
        for found in &survey.temporary {
            let name = &found.name;
            match found.state {
                LeftoverState::Young => {}
                LeftoverState::Stale => stock.leftovers.add(found.allocated()),
                LeftoverState::Strange => {
                    stock
                        .notes
                        .push(format!("{name}/ is old, but also holds files that are not a download's"));
                }
                LeftoverState::Open(pid) => {
                    let who = process(pid);
                    stock.notes.push(format!("{name}/ is old, but stays: {who} has a file in it open"));
                }
            }
        }
        for part in &survey.parts {
            match part.state {
                LeftoverState::Stale => stock.leftovers.add(part.seen.allocated),
                LeftoverState::Open(pid) => {
                    stock.notes.push(format!(
                        "{} is old, but stays: {} has it open",
                        part.name,
                        process(pid)
                    ));
                }
                LeftoverState::Young | LeftoverState::Strange => {}
            }
        }
        if survey.some_unseen {
            stock.notes.push(
                "cannot see every open file of other users: only the age shows which downloads crashed"
                    .to_owned(),
            );
        }
    }

    /// Removes one image, and accounts for it.
    fn remove_one(
        &mut self,
        position: u32,
        until: &mut Until<'_, '_>,
        reason: PruneReason,
        removing: &mut Removing<'_>,
    ) {
        let image = &self.unused[position as usize];
        let Seen { size, allocated, .. } = image.seen;
        let outcome = &mut removing.outcome;
        match self.dir.remove(&self.survey, image) {
            Ok(Removal::Removed) => {
                outcome.files += 1;
                outcome.bytes = outcome.bytes.saturating_add(size);
                until.removed(size, allocated);
                removing.progress.removed(Removed {
                    place: CachePlace::Base,
                    name: image.name.as_name(),
                    bytes: size,
                    reason: reason.text(),
                    is_ghost: false,
                    is_orphan: false,
                    last: Last::Use(image.last_use()),
                });
            }
            Ok(Removal::AlreadyGone) => {
                outcome.bytes_gone = outcome.bytes_gone.saturating_add(size);
                until.removed(size, allocated);
            }
            Ok(Removal::Changed) => outcome.left_alone += 1,
            Err(e) => outcome.errors.push(failed(&image.name, &e)),
        }
    }

    /// Returns the reason for removing something whose last sign of life was at this time.
    fn reason(&self, newest: Nanos) -> String {
        format!("left by a download that crashed {} ago", span(self.run.now.saturating_sub(newest).max(0)))
    }

    fn clean_temporary(&self, interrupt: &Interrupt, removing: &mut Removing<'_>) {
        for found in self.survey.temporary.iter().filter(|found| found.state == LeftoverState::Stale) {
            if interrupt.raised() {
                break;
            }
            let done = self.dir.remove_temporary(found, interrupt);
            removing.outcome.stalled_files += done.files;
            removing.outcome.bytes_cleaned += done.bytes;
            if done.errors.is_empty() {
                removing.progress.removed(leftover(found.name.as_name(), done.bytes, found.newest));
            }
            removing.outcome.errors.extend(done.errors);
        }
    }

    fn clean_parts(&self, interrupt: &Interrupt, removing: &mut Removing<'_>) {
        for part in self.survey.parts.iter().filter(|part| part.state == LeftoverState::Stale) {
            if interrupt.raised() {
                break;
            }
            match self.dir.remove_part(part) {
                Ok(Removal::Removed) => {
                    removing.outcome.stalled_files += 1;
                    removing.outcome.bytes_cleaned += part.seen.allocated;
                    let newest = part.seen.mtime.max(part.seen.ctime);
                    removing.progress.removed(leftover(part.name.as_name(), part.seen.allocated, newest));
                }
                Ok(Removal::AlreadyGone) => {}
                Ok(Removal::Changed) => removing.outcome.left_alone += 1,
                Err(e) => removing.outcome.errors.push(failed(&part.name, &e)),
            }
        }
    }
}

/// Returns the reason for keeping an unused image, or `None` if it may be removed.
fn kept(image: &Master, rules: &Rules) -> Option<Kept> {
    if !rules.keep.is_empty() && rules.keep.contains(&image.name.id().folded()) {
        return Some(Kept::Listed);
    }
    let is_young = rules.min_age > 0 && image.last_use() > rules.now.saturating_sub(rules.min_age);
    is_young.then_some(Kept::Young)
}

/// Returns the error of an entry that could not be removed.
fn failed(name: &dyn Display, error: &anyhow::Error) -> EntryError {
    EntryError { name: name.to_string(), action: Action::Remove, message: format!("{error:#}") }
}

impl ImageCache for MasterCache<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.dir.fd()
    }

    fn lock(&mut self, wait: &LockWait) -> Result<(), Unlocked> {
        let limit = if wait.skip_if_locked { std::time::Duration::ZERO } else { wait.limit };
        self.dir.lock(&self.run.wait(limit)).map_err(|e| {
            if self.run.interrupt.raised() {
                Unlocked::Interrupted
            } else if wait.skips(&e) {
                Unlocked::Busy(format!("{e:#}"))
            } else {
                Unlocked::Failed(Failure::cannot_start(e))
            }
        })
    }

    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) -> Result<Stock, Failure> {
        let mut stock = Stock::default();
        if rules.changing {
            let found = self.dir.recover().map_err(Failure::cannot_start)?;
            if found > 0 {
                let images = count(found, "image");
                stock.notes.push(format!("put back {images}, which a killed run had moved aside"));
            }
        }
        self.survey = self.dir.survey(rules.grace, rules.now, caches).map_err(Failure::cannot_start)?;
        self.sort(rules, &mut stock);
        self.note_leftovers(&mut stock);
        if self.survey.has_aside && !rules.changing {
            stock.notes.push(
                "a killed run has moved images aside: the next prune or clean puts them back".to_owned(),
            );
        }
        stock.foreign = self.survey.foreign.iter().map(ToString::to_string).collect();
        stock.errors.append(&mut self.survey.errors);
        Ok(stock)
    }

    fn images(&self, rules: &Rules) -> Vec<HeldImage> {
        let held = |image: &Master, held| HeldImage {
            name: image.name.to_string(),
            is_orphan: false,
            size: image.seen.size,
            last_use: image.last_use(),
            links: image.seen.links,
            held,
        };
        let used = self.survey.used.iter().map(|image| held(image, Some(Holder::InUse)));
        let unused = self.unused.iter().map(|image| held(image, kept(image, rules).map(Holder::Rule)));
        used.chain(unused).collect()
    }

    fn plan(&self, rules: &Rules, limits: &Limits) -> Result<Planned, Failure> {
        let mut planned = Planned::default();
        let mut left = self.survey.in_use_bytes;
        for (position, image) in self.unused.iter().enumerate() {
            let position = position as u32;
            let is_expired = limits.age.is_some_and(|age| image.last_use() < rules.now.saturating_sub(age));
            match kept(image, rules) {
                Some(why) => planned.rest.kept.push((position, why)),
                None if is_expired => {
                    planned.expired.push(position);
                    continue;
                }
                None => planned.rest.candidates.push(position),
            }
            left = left.saturating_add(image.seen.size);
        }
        planned.rest.goal = Goal { size: limits.excess(left), free: 0 };
        Ok(planned)
    }

    fn describe(&self, planned: &Planned) -> Vec<Foreseen> {
        let image = |position: u32| &self.unused[position as usize];
        let victim = |position: u32, reason| {
            let image = image(position);
            Foreseen::Removal(PlannedRemoval {
                name: image.name.to_string(),
                size: image.seen.size,
                frees: image.seen.allocated,
                last_use: image.last_use(),
                is_orphan: false,
                reason,
            })
        };
        let mut left = planned.rest.goal.size;
        let needed = planned.rest.candidates.iter().take_while(|position| {
            let is_needed = left > 0;
            left = left.saturating_sub(image(**position).seen.size);
            is_needed
        });
        let victims: Vec<Foreseen> =
            needed.map(|position| victim(*position, PruneReason::LeastRecentlyUsed)).collect();
        let kept = planned.rest.kept.iter().map(|(position, why)| {
            let image = image(*position);
            Foreseen::Kept { name: image.name.to_string(), size: image.seen.size, why: *why }
        });
        let expired = planned.expired.iter().map(|position| victim(*position, PruneReason::Expired));
        expired.chain(victims).chain(kept).collect()
    }

    fn kept(&self, planned: &Planned) -> Vec<(Kept, u64)> {
        let size = |position: u32| self.unused[position as usize].seen.size;
        planned.rest.kept.iter().map(|(position, why)| (*why, size(*position))).collect()
    }

    fn carry_out(&mut self, planned: Planned, limits: &Limits, removing: &mut Removing<'_>) {
        let Planned { expired, rest: PrunePlan { candidates, goal, .. } } = planned;
        let size = |positions: &[u32]| {
            let sizes = positions.iter().map(|position| self.unused[*position as usize].seen.size);
            sizes.fold(0, u64::saturating_add)
        };
        // Images that stay count towards the size, and so do expired ones that cannot be removed.
        let whole = size(&(0..self.unused.len() as u32).collect::<Vec<_>>());
        let whole = whole.saturating_add(self.survey.in_use_bytes);
        let mut excess = goal.size;
        if !expired.is_empty() {
            self.remove(&expired, &mut Until::All, PruneReason::Expired, removing);
            let outcome = &removing.outcome;
            excess = limits.excess(whole.saturating_sub(outcome.bytes).saturating_sub(outcome.bytes_gone));
        }
        let reason = PruneReason::LeastRecentlyUsed;
        self.remove(&candidates, &mut Until::Size(excess), reason, removing);
    }

    fn items(&mut self, rules: &Rules) -> Vec<Item> {
        self.unused.retain(|image| kept(image, rules).is_none());
        let item = |image: &Master| Item {
            last_use: image.last_use(),
            size: image.seen.size,
            frees: image.seen.allocated,
        };
        self.unused.iter().map(item).collect()
    }

    fn name(&self, item: u32) -> String {
        self.unused[item as usize].name.to_string()
    }

    fn remove(
        &mut self,
        items: &[u32],
        until: &mut Until<'_, '_>,
        reason: PruneReason,
        removing: &mut Removing<'_>,
    ) {
        for item in items {
            if removing.interrupt.raised() {
                removing.outcome.stopped = Some(Refusal::Interrupted);
                return;
            }
            match until.distance() {
                Distance::Far => {}
                Distance::Reached => return,
                Distance::Close => {
                    self.tidy();
                    if until.is_reached() {
                        return;
                    }
                }
            }
            if let Err(e) = self.dir.prepare() {
                let name = self.dir.path().display().to_string();
                let message = format!("{e:#}");
                removing.outcome.errors.push(EntryError { name, action: Action::Prune, message });
                return;
            }
            self.remove_one(*item, until, reason, removing);
        }
    }

    fn tidy(&mut self) {
        self.dir.close_aside();
    }

    fn remains(&self) -> Vec<Remains> {
        let stale = self.survey.temporary.iter().filter(|found| found.state == LeftoverState::Stale);
        let directories = stale.map(|found| Remains {
            name: format!("{}/", found.name),
            reason: self.reason(found.newest),
            is_invalid: false,
            files: found.files.len() as u64,
            bytes: found.allocated(),
        });
        let parts = self.survey.parts.iter().filter(|part| part.state == LeftoverState::Stale);
        let parts = parts.map(|part| Remains {
            name: part.name.to_string(),
            reason: self.reason(part.seen.mtime.max(part.seen.ctime)),
            is_invalid: false,
            files: 1,
            bytes: part.seen.allocated,
        });
        directories.chain(parts).collect()
    }

    fn clean(&mut self, removing: &mut Removing<'_>) {
        let interrupt = removing.interrupt.clone();
        self.clean_temporary(&interrupt, removing);
        self.clean_parts(&interrupt, removing);
        if interrupt.raised() {
            removing.outcome.stopped = Some(Refusal::Interrupted);
        }
    }
}

/// Returns the progress report of a file or directory that a crashed download left.
fn leftover(name: Name<'_>, bytes: u64, newest: Nanos) -> Removed<'_> {
    Removed {
        place: CachePlace::Base,
        name,
        bytes,
        reason: "left by a crashed download",
        is_ghost: false,
        is_orphan: false,
        last: Last::Write(newest),
    }
}
