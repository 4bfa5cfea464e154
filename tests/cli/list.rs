//! `list`: what it shows of each state, sorted and formatted as asked, and that it only looks.

use serde_json::{Value, json};

use crate::support::env::*;

/// Makes one of every state: a..e tracked, f orphan, 1 ghost, 2 queued, 3 incomplete, 4 invalid.
fn every_state() -> TestEnv {
    let env = TestEnv::sqlite(FIVE);
    env.sql(&format!("UPDATE cached_images SET hits = 7 WHERE image_id = '{}'", id('c')));
    env.orphan('f', 600, 5);
    env.ghost('1', 3);
    env.file(format!("queue/{}", id('2')), 0, 9);
    env.file(format!("incomplete/{}", id('3')), 30, 1);
    env.file(format!("invalid/{}", id('4')), 40, 1);
    env
}

fn ids(list: &Value) -> Vec<String> {
    let id = |entry: &Value| {
        entry["image_id"]
            .as_str()
            .or(entry["name"].as_str())
            .or(entry.as_str())
            .unwrap_or_default()
            .to_string()
    };
    list.as_array().unwrap_or(&vec![]).iter().map(id).collect()
}

/// Returns these words in the order in which they first stand in a text.
fn order<'a>(text: &str, words: &[&'a str]) -> Vec<&'a str> {
    let mut found: Vec<_> = words.iter().filter_map(|word| text.find(word).map(|at| (at, *word))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, word)| word).collect()
}

#[test]
fn json_is_the_body_of_the_api_with_the_rest_beside_it() {
    let list = every_state().list();
    let mut cached = ids(&list["cached_images"]);
    cached.sort();
    assert_eq!(cached, ['a', 'b', 'c', 'd', 'e'].map(id));
    assert_eq!(list["queued_images"], json!([id('2')]));
    for (state, letter) in [("orphans", 'f'), ("ghosts", '1'), ("incomplete", '3'), ("invalid", '4')] {
        let key = list.as_object().unwrap().keys().find(|key| key.starts_with(state.trim_end_matches('s')));
        let key = key.unwrap_or_else(|| panic!("no array for {state} in {list}"));
        assert_eq!(ids(&list[key]), [id(letter)], "{key}");
    }
}

#[test]
fn a_cached_image_has_the_keys_and_types_of_glance() {
    for env in TestEnv::both(&[('c', 1234, 30, 7)]) {
        let image = env.list()["cached_images"][0].clone();
        assert_eq!(
            (&image["image_id"], &image["hits"], &image["size"]),
            (&json!(id('c')), &json!(7), &json!(1234))
        );
        for key in ["last_accessed", "last_modified"] {
            let age =
                env.now - image[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {image}"));
            assert!((age - 30.0 * 3600.0).abs() < 2.0, "{key}: {image}");
        }
    }
}

#[test]
fn text_names_every_state() {
    let run = every_state().run("list", &[]).ok();
    for letter in ['a', 'b', 'c', 'd', 'e', 'f', '2', '3', '4'] {
        assert!(run.stdout.contains(&id(letter)), "{letter} in\n{}", run.stdout);
    }
    for state in ["queued", "incomplete", "invalid", "orphan"] {
        assert!(run.stdout.contains(state), "{state} in\n{}", run.stdout);
    }
    assert_eq!(run.stderr, "");
}

#[test]
fn state_selects() {
    let env = every_state();
    for (state, letters) in [("queued", "2"), ("incomplete", "3"), ("invalid", "4"), ("orphan", "f")] {
        let text = env.run("list", &["--state", state]).ok().stdout;
        let shown: String = "abcdef1234".chars().filter(|letter| text.contains(&id(*letter))).collect();
        assert_eq!(shown, letters, "--state {state}:\n{text}");
    }
    let run = env.run("list", &["--state", "fine"]).code(2);
    assert!(run.stderr.contains("fine"), "{run:?}");
}

#[test]
fn sorts_and_reverses() {
    let env = TestEnv::sqlite(&[('a', 20, 30, 1), ('b', 30, 10, 3), ('c', 10, 20, 2)]);
    let ids = ['a', 'b', 'c'].map(id);
    let words: Vec<&str> = ids.iter().map(String::as_str).collect();
    let sorted = |arguments: &[&str]| {
        let text = env.run("list", arguments).ok().stdout;
        order(&text, &words).iter().map(|id| &id[..1]).collect::<String>()
    };
    let mut seen = Vec::new();
    for key in ["size", "hits"] {
        let forward = sorted(&["--sort", key]);
        let backward = sorted(&["--sort", key, "--reverse"]);
        assert_eq!(forward.chars().rev().collect::<String>(), backward, "--sort {key}");
        seen.push(forward);
    }
    assert!(["cab", "bac"].contains(&seen[0].as_str()), "by size: {}", seen[0]);
    assert!(["acb", "bca"].contains(&seen[1].as_str()), "by hits: {}", seen[1]);
}

#[test]
fn sizes_are_bytes_off_a_terminal_and_human_when_asked() {
    let env = TestEnv::xattr(&[('a', 5 << 20, 1, 0)]);
    assert!(env.run("list", &[]).ok().stdout.contains("5242880"));
    assert!(env.run("list", &["--bytes"]).ok().stdout.contains("5242880"));
    let human = env.run("list", &["--human"]).ok().stdout;
    assert!(human.contains("5 MiB") || human.contains("5.00 MiB") || human.contains("5.0 MiB"), "{human}");
}

#[test]
fn an_empty_cache_lists_nothing() {
    for env in TestEnv::both(&[]) {
        let list = env.list();
        assert_eq!((&list["cached_images"], &list["queued_images"]), (&json!([]), &json!([])));
        env.run("list", &[]).ok();
    }
}

#[test]
fn queued_are_in_the_order_of_queueing() {
    let env = TestEnv::xattr(&[]);
    for (letter, hours) in [('a', 1), ('b', 3), ('c', 2)] {
        env.file(format!("queue/{}", id(letter)), 0, hours);
    }
    assert_eq!(env.list()["queued_images"], json!([id('b'), id('c'), id('a')]));
}

#[test]
fn hits_that_are_no_number_do_not_stop_it() {
    let env = TestEnv::xattr(FIVE);
    for (letter, hits) in
        [('a', b"many" as &[u8]), ('b', b""), ('c', b"-1"), ('d', b"99999999999999999999"), ('e', b"\xff")]
    {
        env.set_hits(&id(letter), hits);
    }
    assert_eq!(env.list()["cached_images"].as_array().unwrap().len(), 5);
}

#[test]
fn looking_changes_nothing() {
    for env in [every_state(), TestEnv::xattr(FIVE)] {
        let before = env.snapshot();
        for arguments in [
            &["list"] as &[&str],
            &["status"],
            &["list", "--format", "json"],
            &["status", "-v"],
            &["status", "--check"],
        ] {
            let run = env.run(arguments[0], &arguments[1..]);
            assert!(run.code < 2, "{run:?}");
        }
        assert_eq!(env.snapshot(), before);
    }
}

#[test]
fn looking_works_while_every_lock_is_held() {
    for env in TestEnv::both(FIVE) {
        let _locks = ["glance-cache-clean", "glance-cache-prune", "glance-cache", "image_cache_db_init"]
            .map(|name| env.lock(name));
        assert_eq!(env.list()["cached_images"].as_array().unwrap().len(), 5);
        env.run("status", &[]).ok();
    }
}
