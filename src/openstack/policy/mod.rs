//! Policies: the question if a caller may use a call of the Cache API, answered as Glance answers it.
//!
//! oslo.policy's rule language, Glance 33's own defaults, and the files of `[oslo_policy]`. **Deny by
//! default**: a rule that is not understood stops the start of the service, or leaves the old rules in force.
//! oslo.policy allows everybody in some of these cases. Deliberately not supported: checks that ask a remote
//! server, and the many forms of Python literals and formats that no policy uses.
//!
//! `condition.rs`, `parse.rs` and `rules.rs` decide, and are pure; `files.rs` reads.

pub(crate) mod condition;
mod defaults;
pub(crate) mod files;
#[cfg(test)]
mod fuzz;
mod parse;
pub(crate) mod rules;
#[cfg(test)]
mod tests;
