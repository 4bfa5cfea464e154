//! `prefetch`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use anyhow::anyhow;
use clap::{ArgGroup, Args, ValueEnum};

use super::flags::{
    CacheArgs, ChangeArgs, EXIT_CODES_IN_SHORT, ImageArg, LIMITS, LimitArgs, LogArgs, NODES, NodesArgs,
    REMOTE,
};
use super::{conclude, conclude_on_nodes};
use crate::exit::{Exit, Failure};
use crate::fetch::judge::FetchPolicy;
use crate::host::glance::settings::{Selection, Settings};
use crate::ops::ids::named_ids;
use crate::ops::nodes::NodesCall;
use crate::ops::prefetch::request::{Limit, PrefetchRequest};
use crate::ops::prefetch::{dequeue, enqueue, prefetch};
use crate::run::Run;
use crate::source::Via;
use crate::units::{Amount, TimeSpan, given_bytes, given_size};

/// Prefetches with the options of the command line.
pub(crate) fn run(run: &Run, args: PrefetchArgs) -> Result<Exit, Failure> {
    args.change.check(&args.cache)?;
    if args.nodes.are_asked() {
        let images = named_ids("the images to queue", args.images.iter().map(ImageArg::id))?;
        let request = args.nodes.request(NodesCall::Queue(images), args.jobs, args.os_cloud);
        return conclude_on_nodes(run, args.cache, (args.change, args.log), &request);
    }
    let selection = Selection::from(args.cache);
    let config = selection.read(run, false)?;
    let settings = Settings::new(&config, selection)?;
    args.log.open(run, &config, &args.change);
    let what = if args.dequeue { "the images to take out of the queue" } else { "the images to fetch" };
    let images = named_ids(what, args.images.iter().map(ImageArg::id))?;
    let change = args.change.into();
    if args.enqueue {
        return Ok(conclude(run, &enqueue(run, &settings, &change, &images)?));
    }
    if args.dequeue || args.dequeue_all {
        let images = args.dequeue.then_some(&images[..]);
        return Ok(conclude(run, &dequeue(run, &settings, &change, images)?));
    }
    let rate = match args.rate_limit {
        Some(0) => {
            return Err(Failure::usage(anyhow!(
                "--rate-limit takes a size of at least one byte; it is the rate per second"
            )));
        }
        rate => rate,
    };
    let limit = match (args.within_limit, args.make_room) {
        (_, true) => Limit::MadeSpace,
        (true, _) => Limit::Kept,
        _ => Limit::Ignored,
    };
    let request = PrefetchRequest {
        images: (!args.images.is_empty()).then_some(images),
        jobs: args.jobs.unwrap_or(IMAGES_AT_A_TIME).into(),
        rate,
        min_rate: args.min_rate,
        reserve: args.reserve,
        max_size: args.limit.max_size,
        limit,
        policy: FetchPolicy { retry: args.retry, require_checksum: args.require_checksum },
        stall_time: args.stall_time,
        via: args.via.into(),
        cloud: args.os_cloud,
        change,
    };
    Ok(conclude(run, &prefetch(run, &settings, &request)?))
}

const EXIT_CODES_OF_PREFETCH: &str = "Exit codes:
  0    done, also if there was nothing to do; an image that Glance has cached or
       is caching counts as done
  1    finished, but an image that was asked for is not in the cache
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index or database unreachable, or no permission;
       nothing was changed
  130  ended by SIGINT, the index is consistent and no unfinished download is left
       (143: ended by SIGTERM)";

/// Fetch images into the cache ahead of their first use
///
/// Fetches the queued images, oldest first, or those given as arguments. Each image is read from its
/// locations, in the order of the weights of their stores, and verified by size and hash before it is
/// published with its row in the index. An image that is already cached, or that Glance is caching right now,
/// is skipped. Needs to read Glance's database, which knows the images and their locations. A location that
/// only Glance can read, such as a volume of Cinder, is read through Glance's API, which needs credentials.
///
/// An image that could not be cached stays in the queue. If its data was wrong, it is not fetched again until
/// its record changes or --retry is given. An image that Glance's database does not have is removed from the
/// queue.
///
/// Like Glance, prefetch fills the cache beyond its limit and leaves it to prune to enforce it, unless
/// --within-limit or --make-room is given.
///
/// With --all-nodes, asks every node to put the images into its queue, and fetches nothing here.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES_OF_PREFETCH)]
#[command(group = ArgGroup::new("local").args(NOT_REMOTE).multiple(true).conflicts_with(REMOTE))]
#[command(group = ArgGroup::new("asked").arg("all_nodes").requires("images"))]
pub(crate) struct PrefetchArgs {
    /// The images to fetch, or - to read ids from standard input
    ///
    /// [default: the images in the queue]
    #[arg(value_name = "ID")]
    pub(super) images: Vec<ImageArg>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Only put the images into the queue
    ///
    /// A later run fetches them, or Glance does.
    #[arg(long, requires = "images",
        conflicts_with_all = ["retry", "require_checksum", "within_limit", "make_room"])]
    pub(super) enqueue: bool,
    /// Only take the images out of the queue
    ///
    /// An image that is not in the queue is reported, and is no error. An image that is being fetched is not
    /// stopped.
    #[arg(long, requires = "images",
        conflicts_with_all = ["enqueue", "retry", "require_checksum", "within_limit", "make_room"])]
    pub(super) dequeue: bool,
    /// Only take all images out of the queue
    #[arg(long, conflicts_with_all = ["images", "enqueue", "dequeue", "retry", "require_checksum",
        "within_limit", "make_room"])]
    pub(super) dequeue_all: bool,
    /// Retry images that failed before
    ///
    /// Without this option, an image whose data was wrong is not fetched again until its record changes.
    #[arg(long)]
    pub(super) retry: bool,
    /// Number of images to fetch at a time [default: 2]
    ///
    /// With --all-nodes, number of nodes to ask at a time [default: 8]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) jobs: Option<u8>,
    /// Skip images whose record has neither a hash nor a checksum
    #[arg(long, hide_short_help = true)]
    pub(super) require_checksum: bool,
    /// Read images from their stores, through Glance's API, or each as it can be: store, api or auto
    ///
    /// With auto, Glance's API is asked only for locations that cannot be read otherwise. It needs
    /// credentials: those of --os-cloud, of OS_CLOUD, OS_AUTH_URL or OS_TOKEN, or section keystone_authtoken.
    #[arg(long, value_name = "WAY", value_enum, default_value_t = ViaArg::Auto,
        hide_possible_values = true, hide_short_help = true)]
    pub(super) via: ViaArg,
    /// Fetch no more than this per second
    ///
    /// The rate is that of all images together.
    #[arg(long, value_name = "SIZE", value_parser = given_bytes, help_heading = LIMITS)]
    pub(super) rate_limit: Option<u64>,
    /// Give up a location that sends less than this per second
    ///
    /// The rate is measured over a minute, then the next location of the image is tried. 0 allows any rate.
    #[arg(long, value_name = "SIZE", value_parser = given_bytes, default_value = "1KiB",
        help_heading = LIMITS, hide_short_help = true)]
    pub(super) min_rate: u64,
    /// Keep this much disk space free
    ///
    /// A percentage refers to the size of the file system.
    #[arg(long, value_name = "SIZE", value_parser = given_size, default_value = "16MiB",
        help_heading = LIMITS)]
    pub(super) reserve: Amount,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    /// Skip images that would put the cache over its limit
    #[arg(long, conflicts_with = "make_room", help_heading = LIMITS)]
    pub(super) within_limit: bool,
    /// If space is short, remove images as prune does
    ///
    /// Least recently used images are removed if the limit or the disk leaves no space for an image. Images
    /// that are in the queue or were asked for in this run are never removed.
    #[arg(long, help_heading = LIMITS)]
    pub(super) make_room: bool,
    /// Take over an image that another process began to cache but has not written to for this long
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(super) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
    #[command(flatten)]
    nodes: NodesArgs,
    /// The cloud in clouds.yaml with the credentials for Glance's API, or for the nodes [default: OS_CLOUD]
    ///
    /// The first of these counts: this option; OS_TOKEN; OS_CLOUD; OS_AUTH_URL with OS_USERNAME and
    /// OS_PASSWORD, or with an application credential; section keystone_authtoken.
    #[arg(long, value_name = "NAME", help_heading = NODES, hide_short_help = true)]
    os_cloud: Option<String>,
}

/// The ways to read images.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ViaArg {
    Auto,
    Store,
    Api,
}

impl From<ViaArg> for Via {
    fn from(way: ViaArg) -> Via {
        match way {
            ViaArg::Auto => Via::Auto,
            ViaArg::Store => Via::Store,
            ViaArg::Api => Via::Api,
        }
    }
}

/// The number of images that are fetched at a time.
const IMAGES_AT_A_TIME: u8 = 2;

/// The options that no node can be asked for.
const NOT_REMOTE: [&str; 12] = [
    "via",
    "enqueue",
    "dequeue",
    "dequeue_all",
    "retry",
    "require_checksum",
    "rate_limit",
    "reserve",
    "max_size",
    "within_limit",
    "make_room",
    "stall_time",
];
