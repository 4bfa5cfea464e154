//! The shared core: image caches on disk, and what may happen to them.
//!
//! **Decide** (no I/O, no clock): [`entry`] names and identities; [`inventory`] joins a directory with its index; [`plan`]
//! what goes, in which order and why.
//!
//! **Touch the world**: [`dir`] the cache directory by descriptor; [`index`] Glance's indexes, which [`ledger`] changes
//! by transactions; [`lock`] oslo's locks;
//! [`execute`] carries out a plan, [`outcome`] what came of it; [`queue`] what is to be fetched; [`stage`] a new image from its
//! claim until it is published.
//!
//! **Locks** keep two of ours, and the API calls of glance-api, from working at once. They do not keep Glance from caching,
//! reading and deleting images meanwhile: before each unlink the file and its row are looked at again.
//!
//! **A crash** at any point leaves at worst ghosts (rows without files), and of a prefetch an empty claim. Glance's drivers accept
//! such a cache as it is, and the next run mends it. The orders that make it so are in [`execute`] and [`stage`].

pub(crate) mod dir;
pub(crate) mod entry;
pub(crate) mod execute;
pub(crate) mod index;
pub(crate) mod inventory;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod stage;
