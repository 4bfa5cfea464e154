//! What is to be fetched: the images that were named, or what is in the queue; and `--enqueue`, which only puts them there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Read as _;

use anyhow::Context as _;

use crate::cache::dir::CacheDir;
use crate::cache::outcome::EntryError;
use crate::cache::queue::{self, Enqueued, Memory, Queue};
use crate::commands::flags::ChangeArgs;
use crate::commands::prefetch::Wanted;
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Settings;
use crate::names::ImageId;
use crate::ops::ids::parse_line;
use crate::ops::prefetch::outcome::{ImageOutcome, ImageReport, PrefetchReport};
use crate::ops::prefetch::{Wishes, existing, exit_code};
use crate::ops::tell;
use crate::output::stdin;
use crate::run::Context;
use crate::units::human;

/// More than a million ids: what is longer is no list of images.
const LONGEST_LIST: u64 = 64 << 20;

/// The images that were named, each once, in order; `None` when none were.
pub(crate) fn wanted(given: &[Wanted]) -> Result<Option<Vec<ImageId>>, Failure> {
    let mut images = Vec::new();
    for wanted in given {
        match wanted {
            Wanted::Image(id) => images.push(*id),
            Wanted::Stdin => read_ids(&mut images).map_err(Failure::usage)?,
        }
    }
    let mut known = HashSet::new();
    images.retain(|id| known.insert(*id));
    Ok((!given.is_empty()).then_some(images))
}

fn read_ids(images: &mut Vec<ImageId>) -> anyhow::Result<()> {
    let mut text = String::new();
    let shown = "cannot read the images to fetch from standard input";
    let length = stdin().take(LONGEST_LIST + 1).read_to_string(&mut text).context(shown)?;
    anyhow::ensure!(length as u64 <= LONGEST_LIST, "{shown}: it is longer than {}", human(LONGEST_LIST));
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or("").trim();
        if !id.is_empty() {
            images.push(parse_line(id, &format_args!("standard input:{}", number + 1))?);
        }
    }
    Ok(())
}

/// Puts images into the queue and does nothing else.
pub(crate) fn enqueue(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    images: &[ImageId],
) -> Result<Exit, Failure> {
    let dir = existing(settings)?;
    context.start()?;
    let mut report = PrefetchReport::default();
    report.run.dry_run = change.dry_run;
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
            context.output.error(&format!("image {id}: {message}"));
            let (name, message) = (id.to_string(), message.clone());
            report.run.errors.push(EntryError { name, action: "enqueue", message });
        }
        let queued = outcome == ImageOutcome::Enqueued;
        report.still_queued += u64::from(queued);
        let image_id = id.to_string();
        let image =
            ImageReport { image_id, outcome, bytes: 0, location: None, verified_by: None, message, queued };
        report.images.push(image);
    }
    let exit = exit_code(&report);
    tell(context, &mut report, |report| &mut report.run, Ok(exit))
}

/// An image that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: ImageId,
    /// Whether it is in the queue.
    pub(crate) queued: bool,
    pub(crate) memory: Option<Memory>,
}

/// What is to be fetched, in order. Names in the queue that are no image's are told, and left.
pub(crate) fn requests(
    context: &Context,
    dir: &CacheDir,
    wishes: &Wishes,
) -> Result<VecDeque<Request>, Failure> {
    let queue = Queue::read(dir).map_err(Failure::cannot_start)?;
    let entry = |entry: queue::Queued| Request { id: entry.id, queued: true, memory: entry.memory };
    let Some(images) = &wishes.images else {
        for name in &queue.foreign {
            context.output.warning(&format!("queue/{name} is no image's entry, and is left alone"));
        }
        return Ok(queue.images.into_iter().map(entry).collect());
    };
    let mut known: HashMap<ImageId, Request> =
        queue.images.into_iter().map(|found| (found.id, entry(found))).collect();
    // Who names an image wants it tried, whatever happened before.
    let named = |id: &ImageId| match known.remove(id) {
        Some(request) => Request { memory: None, ..request },
        None => Request { id: *id, queued: false, memory: None },
    };
    Ok(images.iter().map(named).collect())
}
