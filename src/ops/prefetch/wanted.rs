//! The images to fetch: those that were named, or what is in the queue; and the request that only puts them there.

use std::collections::{HashMap, VecDeque};

use super::PrefetchRequest;
use super::existing;
use super::outcome::{ImageOutcome, ImageReport, PrefetchReport};
use crate::cache::dir::CacheDir;
use crate::cache::outcome::{Action, EntryError};
use crate::cache::queue::{self, Enqueued, Memory, Queue};
use crate::exit::Failure;
use crate::host::glance::settings::Settings;
use crate::names::ImageId;
use crate::ops::Change;
use crate::ops::report::Ending;
use crate::run::Run;

/// Puts images into the queue and does nothing else.
pub(crate) fn enqueue(
    run: &Run,
    settings: &Settings<'_>,
    change: &Change,
    images: &[ImageId],
) -> Result<PrefetchReport, Failure> {
    let dir = existing(settings)?;
    run.catch_signals()?;
    let mut report = PrefetchReport { ending: Ending::new(change.dry_run), ..PrefetchReport::default() };
    for id in images {
        let added = if change.dry_run { queue::would_add(&dir, *id) } else { queue::add(&dir, *id) };
        let (outcome, message) = match added {
            Ok(Enqueued::Queued) => (ImageOutcome::Enqueued, None),
            Ok(Enqueued::AlreadyQueued) => (ImageOutcome::Enqueued, Some("it was queued already".to_owned())),
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
        report.still_queued += u64::from(queued);
        let image_id = id.to_string();
        let image =
            ImageReport { image_id, outcome, bytes: 0, location: None, verified_by: None, message, queued };
        report.images.push(image);
    }
    Ok(report)
}

/// An image that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct WantedImage {
    pub(crate) id: ImageId,
    /// Whether it is in the queue.
    pub(crate) queued: bool,
    pub(crate) memory: Option<Memory>,
}

/// What is to be fetched, in order. Names in the queue that are no image's are told, and left.
pub(crate) fn requests(
    run: &Run,
    dir: &CacheDir,
    wanted: &PrefetchRequest,
) -> Result<VecDeque<WantedImage>, Failure> {
    let queue = Queue::read(dir).map_err(Failure::cannot_start)?;
    let entry = |entry: queue::Queued| WantedImage { id: entry.id, queued: true, memory: entry.memory };
    let Some(images) = &wanted.images else {
        for name in &queue.foreign {
            run.output.warning(&format!("queue/{name} is no image's entry, and is left alone"));
        }
        return Ok(queue.images.into_iter().map(entry).collect());
    };
    let mut known: HashMap<ImageId, WantedImage> =
        queue.images.into_iter().map(|found| (found.id, entry(found))).collect();
    // Who names an image wants it tried, whatever happened before.
    let named = |id: &ImageId| match known.remove(id) {
        Some(request) => WantedImage { memory: None, ..request },
        None => WantedImage { id: *id, queued: false, memory: None },
    };
    Ok(images.iter().map(named).collect())
}
