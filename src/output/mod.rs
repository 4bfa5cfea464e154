//! Everything this program says.

pub(crate) mod log;
