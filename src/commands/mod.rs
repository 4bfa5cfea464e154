//! The subcommands, and what they share: reading the configuration, opening the cache, choosing its index.
//!
//! Each command is one file: gather, decide, act, tell. The clock is read once, in `main`, and handed on.

pub(crate) mod clean;
pub(crate) mod completion;
pub(crate) mod flags;
pub(crate) mod list;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod status;
