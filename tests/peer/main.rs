//! The binary beside real parts: Glance, Ironic, MariaDB, PostgreSQL, nginx, Ceph; with root's file systems
//! and owners; under strace.
//!
//! `tests/run FILTER` installs the parts that the selected tests ask for, and runs these. `parts` is the
//! table of what they ask for; a fixture that asks for more fails. Built with the feature `peer` alone, so
//! that a plain `cargo test` needs nothing.
//!
//! `beside_glance`, `beside_glance_31`, `beside_ironic` and `live` drive the real tools beside ours;
//! `central` and `prefetch` follow what works with real servers; `schema` compares the tests' tables with
//! Glance's; `all_caches`, `file_systems`, `full_disk`, `hostile`, `immutable`, `legacy` and `rights` are
//! what only root can arrange, in modules named `as_root`; `terminal` is what a person sees; `system_calls`
//! looks at what the kernel sees, `verify` is about the contents of images, `faults` fails each of these
//! calls, and `crash_states` builds what a killed run leaves; `glance_api`, `keystone`, `nodes` and `serve`
//! have a real glance-api or Keystone beside the program.

// Clocks set the ages of test images, the environment says how long and how much, and what was compared is
// printed; fixtures unwrap as the tests do.
#![allow(clippy::too_many_lines, reason = "a test reads from top to bottom")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

mod all_caches;
mod beside_glance;
mod beside_glance_31;
mod beside_ironic;
mod central;
mod clusters;
mod completion;
mod crash_states;
mod faults;
mod file_systems;
mod full_disk;
mod glance_api;
mod hostile;
mod immutable;
mod keystone;
mod legacy;
mod live;
mod manual;
mod nodes;
mod prefetch;
mod prometheus;
mod rights;
mod schema;
mod serve;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod system_calls;
mod systemd;
mod terminal;
mod verify;
