//! What can be done: a request in, a report out.

pub(crate) mod prefetch;
