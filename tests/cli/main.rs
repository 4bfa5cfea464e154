//! The binary seen from outside: real directories, a cleared environment, one integration binary.
//!
//! `env` has the vocabulary; `clean`, `prune`, `list`, `status` follow the commands, `config` the configuration, `legacy`
//! the old names, `safety` what must never happen, `full` what a full disk does. `edge` goes through the measured oddities
//! of Glance's own tools one by one, and `compat` (with `peer`) runs the real Glance beside ours. Tests that need root live in
//! modules named `as_root`, those that need the real Glance in `compat`, those that need real database servers in `central`
//! (with `servers`); all are ignored with their reason and run by `tests/run`.

// The environment is read here to find the peer's Python, clocks set the ages of test images, and what was compared is
// printed; helpers outside `#[test]` functions unwrap as the tests do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

mod central;
mod clean;
mod compat;
mod config;
mod documents;
mod edge;
mod env;
mod faults;
mod full;
mod host;
mod host_edge;
mod hostile;
mod ironic;
mod legacy;
mod list;
mod live;
mod peer;
mod prefetch;
mod prefetch_edge;
mod prefetch_peer;
mod prune;
mod root;
mod safety;
mod servers;
mod sources;
mod status;
mod stores;
