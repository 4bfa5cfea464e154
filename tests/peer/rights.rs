//! Caches of another user than root, run by that user, by a stranger, and by root.

use std::os::unix::fs::MetadataExt as _;

use crate::support::env::*;
use crate::support::prefetch::Prefetch;
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
    fn only_root_and_the_owner_of_the_cache_may_verify_its_images() {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1000);
        p.run(&[&id('a')]).ok();
        let conf = p.conf("");
        let arguments = ["status", "--verify", "--config-file", &conf];
        let as_nobody = || p.env.finish(p.env.nobodys().args(arguments));
        as_nobody().fails(3, &["without changing their access times", "as the user that glance-api runs as"]);
        p.env.raw(&arguments).ok();
        give_to_nobody(p.env.dir());
        as_nobody().ok();
        p.env.raw(&arguments).ok();
    }

    #[test]
    fn entries_of_another_owner_need_attention() {
        let env = TestEnv::sqlite(FIVE);
        (0..20).for_each(|n| env.file(nth_id(n), 1, 1));
        env.file("README", 1, 1);
        let wrong = |env: &TestEnv| {
            let status = env.status();
            let attention = status["attention"].as_array().unwrap().iter();
            let found = attention.filter(|entry| entry["code"] == "wrong_owner");
            let messages = found.map(|entry| entry["message"].as_str().unwrap().to_owned());
            (messages.collect::<Vec<_>>(), status["wrong_owners"].as_array().unwrap().clone())
        };
        assert_eq!(wrong(&env), (vec![], vec![]));
        for name in [&id('a'), "invalid", "README"] {
            give_to_nobody(&env.path(name));
        }
        let (messages, owners) = wrong(&env);
        assert!(
            messages[0].starts_with("3 entries not owned by user 0, the owner of the cache"),
            "{messages:?}"
        );
        let names: Vec<_> = owners.iter().map(|owner| owner["name"].as_str().unwrap()).collect();
        assert_eq!(names, [&id('a'), "invalid/", "README"]);
        assert!(owners.iter().all(|owner| owner["uid"] == 65534), "{owners:?}");
        // More than are named.
        (0..18).for_each(|n| give_to_nobody(&env.path(nth_id(n))));
        let (messages, owners) = wrong(&env);
        assert!(messages[0].starts_with("21 entries not owned"), "{messages:?}");
        assert_eq!(owners.len(), 20);
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
