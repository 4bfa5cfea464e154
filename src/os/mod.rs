//! The operating system: acting as a file's owner, open files, lock holders, mounts, free space,
//! the life line of a child, and files of settings.
//!
//! This room only asks the kernel and reports its answers. It knows nothing of caches, images or settings,
//! and it never removes or renames a file.

pub(crate) mod lifeline;
pub(crate) mod locks;
pub(crate) mod mounts;
pub(crate) mod owner;
pub(crate) mod space;
pub(crate) mod text;
pub(crate) mod writers;
