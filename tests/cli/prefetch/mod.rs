//! `prefetch` from a file store, with Glance's records in an SQLite file: nothing real is needed for these.

mod beside_others;
mod broken_off;
mod hostile_doubles;
mod limits;
mod queue;
mod refused;
