//! Ironic's caches of master images: one kind each for ISO, instance and TFTP images, found by Ironic's own options.
//!
//! What they have in common is in [`crate::host::ironic::master`].

mod master;

use std::fmt::Display;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::dir::{Place, Removal};
use crate::cache::entry::Seen;
use crate::cache::outcome::{EntryError, Removed};
use crate::config::{self, Opt};
use crate::database::Refusal;
use crate::host::cache::{Distance, ImageCache, Item, Part, Removing, Rules, Stock, Target, Told};
use crate::host::ironic::master::{Leftover, Master, MasterDir, Survey};
use crate::host::{Declared, Found, Host, Kind, scaled};
use crate::interrupt::Wait;
use crate::names::Name;
use crate::os::locks::process;
use crate::units::{Amount, Nanos, SECOND, count, span};

/// A kind of master images: which options say where they are and how many there may be.
pub(crate) struct MasterImages {
    pub(crate) name: &'static str,
    pub(crate) priority: u32,
    pub(crate) directory: Opt<'static>,
    /// In MiB.
    pub(crate) size: Opt<'static>,
    /// In minutes.
    pub(crate) ttl: Opt<'static>,
}

pub(crate) static ISO: MasterImages = MasterImages {
    name: "ironic-iso",
    priority: 75,
    directory: config::DEPLOY_ISO_MASTER_PATH,
    size: config::DEPLOY_ISO_CACHE_SIZE,
    ttl: config::DEPLOY_ISO_CACHE_TTL,
};

pub(crate) static INSTANCE: MasterImages = MasterImages {
    name: "ironic-instance",
    priority: 50,
    directory: config::PXE_INSTANCE_MASTER_PATH,
    size: config::PXE_IMAGE_CACHE_SIZE,
    ttl: config::PXE_IMAGE_CACHE_TTL,
};

pub(crate) static TFTP: MasterImages = MasterImages {
    name: "ironic-tftp",
    priority: 25,
    directory: config::PXE_TFTP_MASTER_PATH,
    size: config::PXE_IMAGE_CACHE_SIZE,
    ttl: config::PXE_IMAGE_CACHE_TTL,
};

impl Kind for MasterImages {
    fn name(&self) -> &'static str {
        self.name
    }

    fn priority(&self) -> u32 {
        self.priority
    }

    fn find(&self, host: &Host<'_>) -> Result<Option<Found>> {
        let config = host.ironic()?;
        // An empty path is how Ironic is told to cache nothing.
        let Some(directory) = config.optional(&self.directory)? else { return Ok(None) };
        let size = scaled(config.integer(&self.size)?, 1 << 20);
        let age = scaled(config.integer(&self.ttl)?, 60 * SECOND);
        Ok(Some(Found {
            directory: directory.map(PathBuf::from),
            size: size.map(|bytes| Amount::Bytes(bytes.unsigned_abs())),
            age: Some(age),
        }))
    }

    fn open<'a>(&self, _: &'a Host<'a>, cache: &Declared) -> Result<Option<Box<dyn ImageCache + 'a>>> {
        let Some(dir) = MasterDir::open(&cache.directory.value)? else { return Ok(None) };
        Ok(Some(Box::new(MasterCache { dir, survey: Survey::default(), items: Vec::new(), now: 0 })))
    }
}

/// An opened directory of master images.
struct MasterCache {
    dir: MasterDir,
    survey: Survey,
    /// Images that may go, least recently used first.
    items: Vec<Master>,
    /// The time of the survey.
    now: Nanos,
}

impl MasterCache {
    /// Tells the images that may go from those that stay, and brings them into their order.
    fn sort(&mut self, rules: &Rules, stock: &mut Stock) {
        let survey = &mut self.survey;
        stock.size = survey.in_use_bytes;
        stock.in_use = Part { count: survey.in_use, bytes: survey.in_use_allocated };
        let young = rules.now.saturating_sub(rules.min_age);
        self.items = std::mem::take(&mut survey.unused);
        self.items.retain(|image| {
            stock.size = stock.size.saturating_add(image.seen.size);
            let stays = (rules.min_age > 0 && image.last_use() > young)
                || (!rules.keep.is_empty() && rules.keep.contains(&image.name.id().folded()));
            if stays {
                stock.kept.add(image.seen.allocated);
            }
            !stays
        });
        self.items.sort_unstable_by(|a, b| a.last_use().cmp(&b.last_use()).then(a.name.cmp(&b.name)));
        let item = |image: &Master| Item {
            last_use: image.last_use(),
            size: image.seen.size,
            frees: image.seen.allocated,
        };
        stock.items = self.items.iter().map(item).collect();
    }

    /// Counts what crashed downloads left, and tells why some of what is old stays.
    fn note_leftovers(&self, stock: &mut Stock) {
        let survey = &self.survey;
        for found in &survey.temporary {
            let name = &found.name;
            match found.state {
                Leftover::Young => {}
                Leftover::Stale => stock.leftovers.add(found.allocated()),
                Leftover::Strange => {
                    stock.notes.push(format!("{name}/ is old, but holds what no download makes"));
                }
                Leftover::Open(pid) => {
                    let who = process(pid);
                    stock.notes.push(format!("{name}/ is old, but {who} has a file in it open"));
                }
            }
        }
        for part in &survey.parts {
            match part.state {
                Leftover::Stale => stock.leftovers.add(part.seen.allocated),
                Leftover::Open(pid) => {
                    stock.notes.push(format!("{} is old, but {} has it open", part.name, process(pid)));
                }
                Leftover::Young | Leftover::Strange => {}
            }
        }
        if survey.some_unseen {
            stock.notes.push(
                "not every process could be looked into: whether other users have what a download left open is told by its age"
                    .to_owned(),
            );
        }
    }

    /// Removes one image, and books what came of it.
    fn remove_one(
        &mut self,
        item: u32,
        target: &mut Target<'_, '_>,
        reason: &'static str,
        run: &mut Removing<'_>,
    ) {
        let image = &self.items[item as usize];
        let Seen { size, allocated, .. } = image.seen;
        match self.dir.remove(&self.survey, image) {
            Ok(Removal::Removed) => {
                run.outcome.files += 1;
                run.outcome.bytes = run.outcome.bytes.saturating_add(size);
                target.gone(size, allocated);
                let (place, name) = (Place::Base, image.name.as_name());
                run.progress.removed(Removed { place, name, bytes: size, reason });
            }
            Ok(Removal::AlreadyGone) => {
                run.outcome.bytes_gone = run.outcome.bytes_gone.saturating_add(size);
                target.gone(size, allocated);
            }
            Ok(Removal::Changed) => run.outcome.left_alone += 1,
            Err(e) => run.outcome.errors.push(failed(&image.name, &e)),
        }
    }

    /// Stale leftovers: temporary directories, then single files.
    fn told(&self, newest: Nanos) -> String {
        format!("left by a download that died {} ago", span(self.now.saturating_sub(newest).max(0)))
    }
}

/// An entry that could not be removed.
fn failed(name: &dyn Display, error: &anyhow::Error) -> EntryError {
    EntryError { name: name.to_string(), action: "remove", message: format!("{error:#}") }
}

impl ImageCache for MasterCache {
    fn fd(&self) -> BorrowedFd<'_> {
        self.dir.fd()
    }

    fn lock(&mut self, wait: &Wait) -> Result<()> {
        self.dir.lock(wait)
    }

    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) -> Result<Stock> {
        let mut stock = Stock::default();
        if rules.changing {
            let found = self.dir.recover()?;
            if found > 0 {
                let images = count(found, "image");
                stock.notes.push(format!("put back {images} that a killed run had taken aside"));
            }
        }
        self.now = rules.now;
        self.survey = self.dir.survey(rules.grace, rules.now, caches)?;
        self.sort(rules, &mut stock);
        self.note_leftovers(&mut stock);
        if self.survey.has_aside && !rules.changing {
            stock.notes.push(
                "a killed run has left images aside: the next prune or clean puts them back".to_owned(),
            );
        }
        stock.foreign = self.survey.foreign.iter().map(ToString::to_string).collect();
        stock.errors.append(&mut self.survey.errors);
        Ok(stock)
    }

    fn name(&self, item: u32) -> String {
        self.items[item as usize].name.to_string()
    }

    fn remove(
        &mut self,
        items: &[u32],
        target: &mut Target<'_, '_>,
        reason: &'static str,
        run: &mut Removing<'_>,
    ) {
        for item in items {
            if run.wait.interrupt.raised() {
                run.outcome.stopped = Some(Refusal::Interrupted);
                return;
            }
            match target.distance() {
                Distance::Far => {}
                Distance::Reached => return,
                Distance::Close => {
                    self.tidy();
                    if target.is_reached() {
                        return;
                    }
                }
            }
            if let Err(e) = self.dir.prepare() {
                let name = self.dir.path().display().to_string();
                run.outcome.errors.push(EntryError { name, action: "prune", message: format!("{e:#}") });
                return;
            }
            self.remove_one(*item, target, reason, run);
        }
    }

    fn tidy(&mut self) {
        self.dir.close_aside();
    }

    fn leftovers(&self) -> Vec<Told> {
        let stale = self.survey.temporary.iter().filter(|found| found.state == Leftover::Stale);
        let directories = stale.map(|found| Told {
            name: format!("{}/", found.name),
            reason: self.told(found.newest),
            files: found.files.len() as u64,
            bytes: found.allocated(),
        });
        let parts = self.survey.parts.iter().filter(|part| part.state == Leftover::Stale);
        let parts = parts.map(|part| Told {
            name: part.name.to_string(),
            reason: self.told(part.seen.mtime.max(part.seen.ctime)),
            files: 1,
            bytes: part.seen.allocated,
        });
        directories.chain(parts).collect()
    }

    fn clean(&mut self, run: &mut Removing<'_>) {
        let interrupt = &run.wait.interrupt;
        for found in self.survey.temporary.iter().filter(|found| found.state == Leftover::Stale) {
            if interrupt.raised() {
                break;
            }
            let done = self.dir.remove_temporary(found, interrupt);
            run.outcome.stalled_files += done.files;
            run.outcome.bytes_cleaned += done.bytes;
            if done.errors.is_empty() {
                run.progress.removed(leftover(found.name.as_name(), done.bytes));
            }
            run.outcome.errors.extend(done.errors);
        }
        for part in self.survey.parts.iter().filter(|part| part.state == Leftover::Stale) {
            if interrupt.raised() {
                break;
            }
            match self.dir.remove_part(part) {
                Ok(Removal::Removed) => {
                    run.outcome.stalled_files += 1;
                    run.outcome.bytes_cleaned += part.seen.allocated;
                    run.progress.removed(leftover(part.name.as_name(), part.seen.allocated));
                }
                Ok(Removal::AlreadyGone) => {}
                Ok(Removal::Changed) => run.outcome.left_alone += 1,
                Err(e) => run.outcome.errors.push(failed(&part.name, &e)),
            }
        }
        if interrupt.raised() {
            run.outcome.stopped = Some(Refusal::Interrupted);
        }
    }
}

fn leftover(name: Name<'_>, bytes: u64) -> Removed<'_> {
    Removed { place: Place::Base, name, bytes, reason: "left by a crashed download" }
}
