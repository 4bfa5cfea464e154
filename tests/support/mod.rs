//! Fixtures of the two test binaries, `tests/cli` and `tests/peer`. No test lives here, and no fixture lives
//! there.
//!
//! `cache` makes caches and `env` runs the binary on them; `host` has the caches of a whole host, `central`
//! those of the nodes of a central database, `prefetch` a queue with all it takes to fetch it, `deployed`
//! what deployers have. Real parts are behind `servers` (databases), `clusters` (of them), `stores` (nginx,
//! Ceph), `openstack` (Keystone, glance-api), `swift`, `peer` (Glance's and Ironic's code), `mounts`, `rights`
//! and `strace`: each of these asks `needs` first, which fails loudly when a part is missing.

#![allow(dead_code, reason = "each of the two binaries uses a part of this")]

pub(crate) mod cache;
pub(crate) mod central;
pub(crate) mod clusters;
pub(crate) mod deployed;
pub(crate) mod double;
pub(crate) mod env;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod images;
pub(crate) mod mounts;
pub(crate) mod needs;
pub(crate) mod openstack;
pub(crate) mod peer;
pub(crate) mod prefetch;
pub(crate) mod rights;
pub(crate) mod running;
pub(crate) mod schemas;
pub(crate) mod servers;
pub(crate) mod service;
pub(crate) mod shells;
pub(crate) mod stores;
pub(crate) mod strace;
pub(crate) mod swift;
