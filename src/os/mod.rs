//! The operating system: acting as another user, who writes to a file, who holds a lock, mounts and free space.
//!
//! Nothing here knows of caches, images or settings.

pub(crate) mod locks;
pub(crate) mod mounts;
pub(crate) mod owner;
pub(crate) mod space;
pub(crate) mod writers;
