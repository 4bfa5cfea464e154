//! Caches of another user than root, run by that user, by a stranger, and by root.

use std::os::unix::fs::MetadataExt as _;

use crate::support::env::*;
use crate::support::rights::give_to_nobody;

mod as_root {
    use super::*;

    #[test]
    fn a_directory_without_permission_is_refused_and_nothing_changes() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            let before = env.snapshot();
            for arguments in [["prune", "--max-size=0"], ["clean", "--lock-timeout=1s"]] {
                let run = env.as_nobody(arguments[0], &arguments[1..]);
                assert!(run.code == 3 || run.code == 1, "{run:?}");
                assert_ne!(run.stderr, "");
            }
            assert_eq!(env.snapshot(), before);
            env.as_nobody("list", &[]).ok(); // it can be read
            env.as_nobody("status", &[]).ok();
            chmod(env.dir(), 0o700);
            assert_ne!(env.as_nobody("list", &[]).code, 0);
            let run = env.as_nobody("prune", &["--max-size", "0"]).code(3);
            assert!(run.stderr.to_lowercase().contains("permission denied"), "{run:?}");
        }
    }

    #[test]
    fn a_textfile_in_a_directory_that_cannot_be_written_is_refused_first() {
        let env = TestEnv::sqlite(FIVE);
        give_to_nobody(env.dir());
        let place = env.outside("metrics");
        std::fs::create_dir(&place).unwrap();
        chmod(&place, 0o755);
        let file = place.join("cache.prom");
        let run = env.as_nobody("prune", &["--max-size", "3000B", "--textfile", file.to_str().unwrap()]);
        run.fails(2, &["--textfile", file.to_str().unwrap(), "Permission denied"]);
        assert_eq!((env.left(), names(&place)), ("abcde".into(), Vec::<String>::new()));
    }

    #[test]
    fn the_owner_of_the_cache_needs_no_root() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            give_to_nobody(env.dir());
            env.as_nobody("clean", &[]).ok();
            env.as_nobody("prune", &["--max-size", "3000B"]).ok();
            assert_eq!(env.left(), "cde");
        }
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_cache() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            give_to_nobody(env.dir());
            env.clean(&["--repair"]).ok();
            env.prune(&["--max-size", "3000B"]).ok();
            for entry in walkdir::WalkDir::new(env.dir()) {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().uid(), 65534, "{}", entry.path().display());
            }
            env.as_nobody("prune", &["--max-size", "1000B"]).ok();
        }
    }

    #[test]
    fn the_index_is_not_writable() {
        let env = TestEnv::sqlite(FIVE);
        give_to_nobody(env.dir());
        chmod(&env.path("cache.db"), 0o444);
        env.as_nobody("prune", TO_3000).fails(3, &["cache.db"]);
        assert_eq!(env.left(), "abcde");
    }

    #[test]
    fn cache_dir_is_not_searchable() {
        for mode in [0o000, 0o600, 0o444] {
            for env in TestEnv::both(FIVE) {
                env.file("invalid/x", 1, 1);
                give_to_nobody(env.dir());
                chmod(env.dir(), mode);
                for arguments in [TO_3000, &[]] {
                    let command = if arguments.is_empty() { "clean" } else { "prune" };
                    env.as_nobody(command, arguments).fails(3, &[env.dir().to_str().unwrap()]);
                }
                assert_eq!((env.left().as_str(), env.names("invalid").len()), ("abcde", 1));
            }
        }
    }

    #[test]
    fn cache_dir_is_not_writable() {
        for env in TestEnv::both(FIVE) {
            give_to_nobody(env.dir());
            chmod(env.dir(), 0o555);
            let run = env.as_nobody("prune", TO_3000);
            assert!([1, 3].contains(&run.code) && !run.stderr.is_empty(), "{run:?}");
            assert_eq!(env.left(), "abcde");
        }
    }

    #[test]
    fn the_index_is_not_readable() {
        let env = TestEnv::sqlite(FIVE);
        give_to_nobody(env.dir());
        chmod(&env.path("cache.db"), 0);
        env.as_nobody("prune", TO_3000).fails(3, &["cache.db"]);
        assert_eq!(env.left(), "abcde");
    }

    #[test]
    fn invalid_is_not_readable() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 100);
            env.file("incomplete/y", 1, 100);
            give_to_nobody(env.dir());
            chmod(&env.path("invalid"), 0);
            // It goes on with the rest and says so, or does not start; the contract leaves it open.
            let run = env.as_nobody("clean", &[]).says(&["invalid"]);
            let stalled = env.names("incomplete").len();
            assert!((run.code, stalled) == (1, 0) || (run.code, stalled) == (3, 1), "{run:?}");
            chmod(&env.path("invalid"), 0o755);
            assert_eq!(env.names("invalid"), ["x"]);
        }
    }
}
