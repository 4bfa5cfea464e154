//! Image caches on the disk: what they hold, which of it is removed, and how.
//!
//! **Decisions**, without I/O and without a clock: [`entry`] (images, rows and other entries), [`inventory`]
//! (a directory joined with its index), [`plan`] (what is removed, in which order and why), [`usable`]
//! (which images Glance still serves).
//!
//! **Actions**: [`dir`] (the directory by descriptors), [`index`] and [`ledger`] (Glance's indexes, and
//! transactions on them), [`lock`] (oslo's locks), [`execute`] and [`outcome`] (carrying out a plan, and the
//! result), [`pending`] (a note of the rows that may be
//! without files), [`queue`] (images to fetch), [`stage`] (a new image, from its claim until it is
//! published), [`mod@set_aside`] (a broken image), [`verified`] (the memory of verifications).
//!
//! **Locks** keep two of these programs, and the API calls of glance-api, from working at the same time. They
//! do not keep Glance from caching, reading and deleting images meanwhile. So the file and its row are looked
//! at again before each removal.
//!
//! **A crash** at any point leaves at worst ghosts (rows without files), and of a prefetch an empty claim.
//! Glance's drivers accept such a cache as it is, and the next run repairs it. The orders of steps that make
//! it so are in [`execute`] and [`stage`].

pub(crate) mod dir;
pub(crate) mod entry;
pub(crate) mod execute;
#[cfg(test)]
mod fuzz;
pub(crate) mod index;
pub(crate) mod inventory;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod outcome;
pub(crate) mod pending;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod set_aside;
pub(crate) mod stage;
pub(crate) mod usable;
pub(crate) mod verified;
