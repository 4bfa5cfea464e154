//! All image caches of a host, with what only root can arrange: file systems of their own, immutable files,
//! other owners.

mod killed;
mod races;
mod require;
mod trouble;
