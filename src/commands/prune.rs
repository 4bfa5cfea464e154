//! `prune`: forgets ghosts, then removes least recently used images until the cache is within its limits.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::Args;

use crate::commands::flags::{CacheArgs, ChangeArgs, EXIT_CODES, HostArgs, LimitArgs};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::names::ImageId;
use crate::ops::host;
use crate::ops::prune::{Wishes, prune};
use crate::run::Context;
use crate::units::{Amount, TimeSpan};

/// Prunes, as the command line says.
pub(crate) fn run(context: &Context, args: PruneArgs) -> Result<Exit, Failure> {
    if args.room.require.is_some() || args.host.all_caches {
        return host::prune(context, args);
    }
    let settings = Settings::load(context, Selection::from(args.cache))?;
    let wishes = Wishes {
        max_size: args.limit.max_size,
        target_size: args.target_size,
        min_free: args.min_free,
        min_age: args.min_age.map_or(0, |age| age.0),
        keep: args.keep,
        keep_from: args.keep_from,
        stall_time: args.stall_time,
        forget_all: args.forget_all,
        only_when_over: false,
    };
    prune(context, &settings, &args.change, &wishes)
}

const EXIT_CODES_AND_HOST: &str = "Exit codes:
  0    done, also when there was nothing to do
  1    finished, but something failed, the cache is still over its limit, or the required space cannot be had
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent

All caches of a host:
  --require and --all-caches act on a list of caches, sorted by priority: Ironic's master images as ironic.conf has them, Glance's
  cache, and those that our own configuration (glance-cache.conf or any file of --config-file) declares. 'status --all-caches'
  shows the list. A section declares a cache, or sets priority, size and age of the one that has the kind's name:

    [image_cache:NAME]
    kind = ironic-instance
    directory = /srv/master_images
    size = 20GiB
    age = 7d
    priority = 30

  Priorities are whole numbers from 1; higher goes first, and among equals the one that was registered first: Glance, ISO, instance,
  TFTP, then declared ones. It is the list's order that counts, not which cache the space is for, as in Ironic today: who wants
  another cache to give first raises its priority. Ironic's own options are read as a conductor reads them; a directory has to be an
  absolute path. File systems are told apart by their device number: of btrfs, each subvolume is one. Images that share blocks
  with others (reflinks) free less than it seems beforehand.

Beside a running conductor:
  Only files named <uuid> or <uuid>.converted go, when no instance has a link to them and they were not used for --min-age. An image is
  renamed into a private subdirectory, looked at again, and unlinked there; one that has gained a link is put back. So no image that
  an instance uses is lost. Two things cannot be made safe from outside, because a conductor's locks are its own: a conductor that has just
  found an image and is about to link it misses it when it goes in between, and that one fetch fails with FileNotFoundError; and its own
  scan of a cache fails the same way when an entry vanishes meanwhile. Both are cured by trying again. --min-age keeps images in active use
  out of it; the first use after a long idle time stays exposed. Where that matters, prune while the conductor is stopped or idle.";

/// Remove least recently used images until the cache is within its limit
///
/// Rows without a file are forgotten first, whether the cache is over its limit or not. Images without a row take their turn by
/// the later of their access and modification time. Which images go is decided before the first does: where 10,000 and more go from an
/// sqlite index, they go in the order of its pages.
///
/// With --require, makes room on a file system instead, from all image caches of this host; with --all-caches, holds each of them to its
/// own age and size.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES_AND_HOST)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Once the cache is over its limit, prune down to this; a percentage is of the limit
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"])]
    pub(crate) target_size: Option<Amount>,
    /// Keep at least this much of the file system free; a percentage is of the file system
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"])]
    pub(crate) min_free: Option<Amount>,
    /// Keep images that were cached or used less than this ago [default: 0; 10m with --require or --all-caches]
    #[arg(long, value_name = "DURATION")]
    pub(crate) min_age: Option<TimeSpan>,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Keep this image; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) keep: Vec<ImageId>,
    /// Keep the images named in FILE, one id a line, # starts a comment; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) keep_from: Vec<PathBuf>,
    /// Go on even when most of the index's images are not in the directory, and forget their rows
    #[arg(long)]
    pub(crate) forget_all: bool,
    /// When the disk is too full for the index's journal, incomplete entries older than this go first [default:
    /// image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<TimeSpan>,
}

/// Space that is needed, whichever cache gives it.
#[derive(Debug, Args)]
pub(crate) struct RoomArgs {
    /// Make sure that this much is free, taking images from every cache of this host on that file system: expired ones first,
    /// then by priority of the cache. When all of them cannot give it, nothing is removed. A percentage is of the file system
    #[arg(long, value_name = "SIZE", conflicts_with = "all_caches")]
    pub(crate) require: Option<Amount>,
    /// With --require, the file system that this file or directory is on [default: the Glance cache's]
    #[arg(long, value_name = "PATH", requires = "require")]
    pub(crate) on: Option<PathBuf>,
    /// With --require, take what there is even when it is not enough
    #[arg(long, requires = "require")]
    pub(crate) best_effort: bool,
}
