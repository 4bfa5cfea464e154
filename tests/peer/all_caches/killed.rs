//! A prune of all caches that is killed anywhere: nothing is lost but what was to go, and the next run mends
//! the rest.

use crate::support::env::*;
use crate::support::host::*;
use crate::support::strace::traced;

/// Killed by -9 wherever it is: nothing is lost but what was to go, and the next run mends.
#[test]
fn killed_anywhere_the_next_run_mends() {
    for round in 0..12_u64 {
        let env = HostEnv::new();
        env.limits(1, 0);
        for n in 0..100 {
            env.image("iso", &master(n), 10);
        }
        for n in 0..50 {
            env.use_image("iso", &master(2 * n));
        }
        let call = ["renameat", "unlinkat", "newfstatat"][round as usize % 3];
        let kill = format!("{call}:signal=KILL:when={}", 10 + 3 * round);
        let mut slow = traced(&env, &kill, &["prune", "--all-caches"]);
        let killed = Running::start(&mut slow, env.path("").as_path()).wait();
        assert_ne!(killed.code, 0, "{call}: {}", killed.stderr);
        env.run("clean", &["--all-caches"]).ok();
        for n in 0..50 {
            assert!(env.dir("iso").join(master(2 * n)).exists(), "an image in use");
        }
        assert!(env.names("iso").iter().all(|name| name.len() == 36), "{:?}", env.names("iso"));
        env.later("prune", &["--all-caches"]).code(0);
        assert_eq!(env.names("iso").len(), 50);
    }
}
