//! The images to fetch: those that are named, or those in the queue. Also puts images into the queue without
//! fetching them.

use std::collections::{HashMap, HashSet, VecDeque};

use super::outcome::{ImageOutcome, ImageReport, PrefetchReport};
use crate::cache::dir::CacheDir;
use crate::cache::outcome::{Action, EntryError};
use crate::cache::queue::{self, Enqueued, Memory, Queue};
use crate::exit::Failure;
use crate::host::glance::settings::Settings;
use crate::names::ImageId;
use crate::ops::Change;
use crate::ops::prefetch::request::{PrefetchRequest, existing};
use crate::ops::report::{Ending, Step};
use crate::output::Event;
use crate::run::Run;

/// Puts images into the queue, and does not fetch them.
pub(crate) fn enqueue(
    run: &Run,
    settings: &Settings<'_>,
    change: &Change,
    images: &[ImageId],
) -> Result<PrefetchReport, Failure> {
    let dir = existing(settings)?;
    run.catch_signals()?;
    let mut report = PrefetchReport { ending: Ending::new(change.dry_run), ..PrefetchReport::default() };
    if change.dry_run {
        report.ending.plan = Some(Vec::new());
    }
    let mut queue: HashSet<ImageId> =
        Queue::read(&dir).map_err(Failure::cannot_start)?.images.into_iter().map(|entry| entry.id).collect();
    for id in images {
        let added = if change.dry_run { queue::would_add(&dir, *id) } else { queue::add(&dir, *id) };
        let (outcome, message) = match added {
            Ok(Enqueued::Queued) => (ImageOutcome::Enqueued, None),
            Ok(Enqueued::AlreadyQueued) => {
                (ImageOutcome::Enqueued, Some("the image was in the queue already".to_owned()))
            }
            Ok(Enqueued::Cached) => (ImageOutcome::Cached, None),
            Ok(Enqueued::BeingCached) => (ImageOutcome::LeftToGlance, None),
            Err(e) => (ImageOutcome::Failed, Some(format!("{e:#}"))),
        };
        if let (ImageOutcome::Failed, Some(message)) = (outcome, &message) {
            run.output.error(&format!("image {id}: {message}"));
            let (name, message) = (id.to_string(), message.clone());
            report.ending.errors.push(EntryError { name, action: Action::Enqueue, message });
        }
        let queued = outcome == ImageOutcome::Enqueued;
        if queued {
            queue.insert(*id);
        }
        if let (Some(plan), true) = (&mut report.ending.plan, queued && message.is_none()) {
            plan.push(Step::new("enqueue", id.to_string(), None, "it is neither cached nor queued"));
        }
        report.images.push(ImageReport::of_queue(*id, outcome, message));
    }
    report.still_queued = Some(queue.len() as u64);
    Ok(report)
}

/// Takes images out of the queue: these, or all.
pub(crate) fn dequeue(
    run: &Run,
    settings: &Settings<'_>,
    change: &Change,
    images: Option<&[ImageId]>,
) -> Result<PrefetchReport, Failure> {
    let dir = existing(settings)?;
    run.catch_signals()?;
    let mut report = PrefetchReport { ending: Ending::new(change.dry_run), ..PrefetchReport::default() };
    let queue = Queue::read(&dir).map_err(Failure::cannot_start)?;
    let all: Vec<ImageId> = queue.images.into_iter().map(|entry| entry.id).collect();
    let mut queued: HashSet<ImageId> = all.iter().copied().collect();
    let images = images.map_or(all, <[ImageId]>::to_vec);
    if change.dry_run {
        let steps = images.iter().filter(|id| queued.contains(id));
        let steps = steps.map(|id| Step::new("dequeue", id.to_string(), None, "it is in the queue"));
        report.ending.plan = Some(steps.collect());
    }
    for id in images {
        if run.interrupt.raised() {
            report.ending.stopped(run);
            break;
        }
        let is_queued = queued.contains(&id);
        let taken = if change.dry_run { Ok(is_queued) } else { queue::remove(&dir, id) };
        let (outcome, message) = match &taken {
            Ok(true) => (ImageOutcome::Dequeued, None),
            Ok(false) => (ImageOutcome::NotQueued, Some("the image is not in the queue".to_owned())),
            Err(e) => (ImageOutcome::Failed, Some(format!("{e:#}"))),
        };
        match (outcome, &message) {
            (ImageOutcome::Dequeued, _) if !change.dry_run => run.output.did(|| taken_out(id)),
            (ImageOutcome::NotQueued, _) => {
                run.output.warning(&format!("image {id} is not in the queue"));
            }
            (ImageOutcome::Failed, Some(message)) => {
                run.output.error(&format!("image {id}: {message}"));
                let (name, message) = (id.to_string(), message.clone());
                report.ending.errors.push(EntryError { name, action: Action::Dequeue, message });
            }
            _ => {}
        }
        if outcome != ImageOutcome::Failed {
            queued.remove(&id);
        }
        report.images.push(ImageReport::of_queue(id, outcome, message));
    }
    report.still_queued = Some(queued.len() as u64);
    Ok(report)
}

/// Returns the event of an image that was taken out of the queue.
fn taken_out(id: ImageId) -> Event {
    let facts = vec![("action", "dequeue".to_owned()), ("image_id", id.to_string())];
    Event { sentence: format!("took {id} out of the queue"), facts }
}

/// An image to fetch.
#[derive(Clone, Debug)]
pub(super) struct WantedImage {
    pub(super) id: ImageId,
    /// True if it is in the queue.
    pub(super) queued: bool,
    /// The failure of an earlier run, if it has noted one.
    pub(super) memory: Option<Memory>,
}

/// The images to fetch, in order, and the number of other images in the queue.
#[derive(Debug, Default)]
pub(super) struct WantedImages {
    pub(super) images: VecDeque<WantedImage>,
    pub(super) others: u64,
}

/// Returns the images to fetch. Entries of the queue that are not an image's are reported, and stay.
pub(super) fn requests(run: &Run, dir: &CacheDir, wanted: &PrefetchRequest) -> Result<WantedImages, Failure> {
    let queue = Queue::read(dir).map_err(Failure::cannot_start)?;
    let entry = |entry: queue::Queued| WantedImage { id: entry.id, queued: true, memory: entry.memory };
    let Some(images) = &wanted.images else {
        for name in &queue.foreign {
            run.output.warning(&format!("queue/{name} is not the entry of an image, and is ignored"));
        }
        return Ok(WantedImages { images: queue.images.into_iter().map(entry).collect(), others: 0 });
    };
    let mut known: HashMap<ImageId, WantedImage> =
        queue.images.into_iter().map(|found| (found.id, entry(found))).collect();
    // An image that is named is fetched even if it failed before.
    let named = |id: &ImageId| match known.remove(id) {
        Some(request) => WantedImage { memory: None, ..request },
        None => WantedImage { id: *id, queued: false, memory: None },
    };
    let images = images.iter().map(named).collect();
    Ok(WantedImages { images, others: known.len() as u64 })
}
