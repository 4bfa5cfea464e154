//! Entries that nobody can remove: they are reported, and the next go.

use serde_json::json;

use crate::support::env::*;
use crate::support::rights::Immutable;

mod as_root {
    use super::*;

    #[test]
    fn an_image_that_cannot_be_removed_is_reported_and_the_next_goes() {
        for env in TestEnv::both(FIVE) {
            let _a = Immutable::new(env.path(id('a')));
            let run = env.prune(&["--max-size", "3000B"]).fails(1, &[&id('a')]);
            assert_eq!(run.json()["errors"][0]["name"], id('a'));
            assert_eq!(run.json()["cache_size_after"], 3000);
            assert_eq!(env.left(), "ade");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_removed_does_not_stop_a_clean() {
        for env in TestEnv::both(FIVE) {
            for name in ["invalid/a", "invalid/b", "incomplete/a", "incomplete/b"] {
                env.file(name, 10, 100);
            }
            let _held = [Immutable::new(env.path("invalid/a")), Immutable::new(env.path("incomplete/a"))];
            let run = env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 2}));
            assert_eq!(run.json()["errors"].as_array().unwrap().len(), 2);
            assert_eq!((env.names("invalid"), env.names("incomplete")), (vec!["a".into()], vec!["a".into()]));
        }
    }

    #[test]
    fn the_least_recently_used_image_is_immutable() {
        for env in TestEnv::both(FIVE) {
            let _a = Immutable::new(env.path(id('a')));
            env.prune(TO_3000)
                .fails(1, &[&id('a')])
                .has(&json!({"total_files_pruned": 2, "cache_size_after": 3000}));
            assert_eq!(env.left(), "ade");
        }
    }

    #[test]
    fn an_immutable_file_in_invalid() {
        for env in TestEnv::both(FIVE) {
            for name in ["invalid/1", "invalid/2", "invalid/3", "incomplete/4"] {
                env.file(name, 1, 100);
            }
            let _held = Immutable::new(env.path("invalid/2"));
            env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 3}));
            assert_eq!((env.names("invalid"), env.names("incomplete")), (vec!["2".to_string()], vec![]));
        }
    }

    #[test]
    fn an_immutable_file_in_incomplete() {
        for env in TestEnv::both(FIVE) {
            for name in ["incomplete/1", "incomplete/2", "incomplete/3"] {
                env.file(name, 1, 100);
            }
            let _held = Immutable::new(env.path("incomplete/2"));
            env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 2, "stalled_files": 2}));
            assert_eq!(env.names("incomplete"), ["2"]);
        }
    }

    #[test]
    fn the_index_is_immutable() {
        let env = TestEnv::sqlite(FIVE);
        let _held = Immutable::new(env.path("cache.db"));
        env.prune_refuses(3, "cache.db");
        assert_eq!(env.rows(), "abcde");
        env.list();
    }
}
