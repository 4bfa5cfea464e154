//! `prefetch`: its options, and what they ask for.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::str::FromStr;

use anyhow::anyhow;
use clap::Args;

use crate::commands::flags::{CacheArgs, ChangeArgs, LimitArgs};
use crate::exit::{Exit, Failure};
use crate::fetch::judge::Wish;
use crate::host::glance::settings::{Selection, Settings};
use crate::names::ImageId;
use crate::ops::prefetch::wanted::{enqueue, wanted};
use crate::ops::prefetch::{Limit, Wishes, prefetch};
use crate::run::Context;
use crate::units::{Amount, TimeSpan};

const EXIT_CODES_OF_PREFETCH: &str = "Exit codes:
  0    done, also when there was nothing to do; images that Glance has cached or is caching count as done
  1    finished, but some image that was asked for is not in the cache
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index or database unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent and nothing staged left";

const LOCK_TIMEOUT_OF_PREFETCH: &str = "How long to wait for the lock that glance-api takes, too, and for a busy index; an image that is \
                                        fetched waits to be published as long as its fetch took, at least this long";

/// Fetch images into the cache before anybody asks for them
///
/// Fetches what is in the queue, oldest first, or the images named. Each is read from its locations in the order of their stores'
/// weights, verified by size and hash, and published with its row in the index; one that is there, or that Glance is just caching, is
/// left alone. Needs Glance's database, which knows the images and where they are.
///
/// What cannot be cached stays in the queue; an image whose data was fetched and wrong is not tried again until its record changes or
/// --retry is given. An image that is not, or no longer, in Glance's database leaves the queue.
///
/// The limit of the cache is the business of prune: the cache is filled beyond it, as Glance does, unless --within-limit or --make-room
/// is given.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_OF_PREFETCH)]
#[command(mut_arg("lock_timeout", |arg| arg.help(LOCK_TIMEOUT_OF_PREFETCH)))]
pub(crate) struct PrefetchArgs {
    /// The images to fetch; - reads ids from standard input, one a line [default: what is in the queue]
    #[arg(value_name = "ID")]
    pub(crate) images: Vec<Wanted>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Only put the images into the queue, for a later run or for Glance
    #[arg(long, requires = "images", conflicts_with_all = ["retry", "require_checksum", "within_limit", "make_room"])]
    pub(crate) enqueue: bool,
    /// Try again what failed before and has not changed since
    #[arg(long)]
    pub(crate) retry: bool,
    /// How many images to fetch at a time
    #[arg(short, long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Move no more than this in a second, all images together
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate_limit: Option<Amount>,
    /// Leave this much of the file system free; a percentage is of the file system
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(crate) reserve: Amount,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Do not fetch what would put the cache over its limit
    #[arg(long, conflicts_with = "make_room")]
    pub(crate) within_limit: bool,
    /// First remove least recently used images, as prune does, where the limit or the disk leaves no room; never what is queued or
    /// wanted by this run
    #[arg(long)]
    pub(crate) make_room: bool,
    /// Do not fetch an image whose record has neither a hash nor a checksum to verify it by
    #[arg(long)]
    pub(crate) require_checksum: bool,
    /// Take over a half-cached image of somebody else's that was not written to for this long [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<TimeSpan>,
}

/// An image that was asked for, or a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Image(ImageId),
    Stdin,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" { Ok(Wanted::Stdin) } else { text.parse().map(Wanted::Image) }
    }
}

/// Prefetches, as the command line says.
pub(crate) fn run(context: &Context, args: PrefetchArgs) -> Result<Exit, Failure> {
    let settings = Settings::load(context, Selection::from(args.cache))?;
    let images = wanted(&args.images)?;
    if args.enqueue {
        return enqueue(context, &settings, &args.change, &images.unwrap_or_default());
    }
    let rate = match args.rate_limit {
        Some(Amount::Percent(_) | Amount::Bytes(0)) => {
            return Err(Failure::usage(anyhow!(
                "--rate-limit takes a size of at least one byte, for a second"
            )));
        }
        Some(Amount::Bytes(bytes)) => Some(bytes),
        None => None,
    };
    let limit = match (args.within_limit, args.make_room) {
        (_, true) => Limit::MadeRoom,
        (true, _) => Limit::Kept,
        _ => Limit::Ignored,
    };
    let wishes = Wishes {
        images,
        jobs: args.jobs.into(),
        rate,
        reserve: args.reserve,
        max_size: args.limit.max_size,
        limit,
        wish: Wish { retry: args.retry, require_checksum: args.require_checksum },
        stall_time: args.stall_time,
    };
    prefetch(context, &settings, &args.change, &wishes)
}
