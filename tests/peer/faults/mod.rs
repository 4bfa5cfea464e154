//! Faults: every system call of a command that can fail is failed, one at a time, in every way that makes
//! sense, and the process is killed at every one that reaches outside of it. A call that is in neither list
//! here fails the sweep.
//!
//! What must hold after each, whatever the fault: no panic; an exit code of the contract, and 0 only when the
//! same was done as without a fault; one JSON object that names as many files as are gone or fetched, and
//! errors where the code is 1; nothing changed where the code says so; nothing new but lock files, an
//! abandoned journal and a prefetch's images and claims, all of it the cache owner's; nothing outside
//! touched. A prefetch never puts a damaged image into the cache, and a broken one that is moved is in
//! `invalid/`. One that is to be fetched is in the cache or in the queue. The next plain run ends with 0 and
//! leaves no row without a file and no orphan that was not there before; a prefetch then has all images and
//! nothing staged. Glance's own driver goes on with every state of the cache that a fault left.
//!
//! Each call of each thread is reached, though strace counts the calls of every thread for itself: see
//! `tests/peer/shift.c`. `prefetch` runs with one image at a time, so that threads come in the same order
//! each time; root gives each run a PID namespace of its own, where /proc shows nothing else.
//!
//! `scenarios` is the table of what is swept: a command on a small cache. Each sweep tries [`SAMPLE`] faults,
//! spread evenly; with `GLANCE_CACHE_TEST_FAULTS=all` it tries all of them, which takes long, and with names
//! of calls those of these calls. Totals go past the test harness to stderr.
//!
//! `calls` lists how calls fail, `bench` puts the cache back and runs the command, `judge` says what is wrong
//! after a fault, `states` shows Glance what faults left, `sweep` goes through them.

mod bench;
mod calls;
mod judge;
mod scenarios;
mod states;
mod sweep;

use sweep::sweep;

#[test]
fn clean() {
    sweep(&scenarios::CLEAN);
}

#[test]
fn prune_with_sqlite() {
    sweep(&scenarios::PRUNE_SQLITE);
}

#[test]
fn prune_with_xattr() {
    sweep(&scenarios::PRUNE_XATTR);
}

#[test]
fn prune_with_the_central_database() {
    sweep(&scenarios::PRUNE_CENTRAL);
}

#[test]
fn prune_on_mariadb() {
    sweep(&scenarios::PRUNE_MARIADB);
}

#[test]
fn prune_on_postgresql() {
    sweep(&scenarios::PRUNE_POSTGRESQL);
}

#[test]
fn prefetch_with_sqlite() {
    sweep(&scenarios::PREFETCH_SQLITE);
}

#[test]
fn prefetch_with_xattr() {
    sweep(&scenarios::PREFETCH_XATTR);
}

#[test]
fn prefetch_with_the_central_database() {
    sweep(&scenarios::PREFETCH_CENTRAL);
}

#[test]
fn prefetch_over_http() {
    sweep(&scenarios::PREFETCH_HTTP);
}

#[test]
fn repair_with_sqlite() {
    sweep(&scenarios::REPAIR_SQLITE);
}

#[test]
fn repair_with_the_central_database() {
    sweep(&scenarios::REPAIR_CENTRAL);
}

#[test]
fn verify_with_sqlite() {
    sweep(&scenarios::VERIFY_SQLITE);
}

#[test]
fn verify_with_xattr() {
    sweep(&scenarios::VERIFY_XATTR);
}

#[test]
fn verify_with_the_central_database() {
    sweep(&scenarios::VERIFY_CENTRAL);
}

mod as_root {
    use super::*;

    #[test]
    fn prune_require() {
        sweep(&scenarios::REQUIRE);
    }
}
