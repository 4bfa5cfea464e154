//! The central database as a cluster, and behind what stands before one: whatever happens there, files and
//! rows agree with the report, and the next run mends what is left.
//!
//! `GLANCE_CACHE_TEST_ROUNDS` repeats what depends on chance. `tests/run` leaves out the modules `on_demand`
//! unless `GLANCE_CACHE_TEST_CLUSTERS` is set.

mod galera;
mod haproxy;
mod pair;
mod pgbouncer;
