//! The binary seen from outside, with nothing but a Rust toolchain and the rights of any user.
//!
//! Real directories, a cleared environment, no network beyond this process. What needs a real part (Glance, a
//! database server, root ...) is in `tests/peer`. `clean`, `prune`, `list`, `status` and `prefetch` follow
//! the commands, `all_caches` their runs over a whole host, `choose` images that are named instead of chosen,
//! `audit` the logs, `config` the configuration, `legacy` the old names, `screens` what a person sees,
//! `documents` the examples of README.md and docs, `house` the rules of the source. The others are about what
//! can be in the way: `cache_dir`, `foreign_entries`, `index_in_use`, `odd_index`, `right_index`, `locks`,
//! `signals`, `output`. `metrics` is about what Prometheus reads, `nodes` about commands that ask other nodes,
//! `serve` and `service_*` about the Cache API as a service, `verify` about the contents of images, `unusable`
//! about images that Glance does not serve.

// Clocks set the ages of test images, and what was compared is printed; fixtures unwrap as the tests do.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

mod all_caches;
mod audit;
mod cache_dir;
mod choose;
mod clean;
mod completion;
mod config;
mod documents;
mod foreign_entries;
mod house;
mod index_in_use;
mod legacy;
mod list;
mod locks;
mod metrics;
mod mistakes;
mod nodes;
mod odd_index;
mod output;
mod prefetch;
mod prune;
mod right_index;
mod schemas;
mod screens;
mod serve;
mod service_answers;
mod service_settings;
mod service_times;
mod service_tls;
mod signals;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod unknown;
mod unusable;
mod verify;
