//! `list`: what it shows of each state, sorted and formatted as asked, and that it only looks.

use serde_json::{Value, json};

use crate::support::central::{Central, NODE, five};
use crate::support::env::*;
use crate::support::servers::SqliteFile;

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
fn an_image_that_was_never_counted_has_no_hits() {
    let env = TestEnv::xattr(&FIVE[..1]);
    env.orphan('f', 600, 5);
    let hits: Vec<_> =
        env.list()["cached_images"].as_array().unwrap().iter().map(|i| i["hits"].clone()).collect();
    assert_eq!(hits, [0, 0]);
}

#[test]
fn a_link_in_the_queue_is_no_entry_and_one_elsewhere_is() {
    let env = every_state();
    for place in ["queue", "incomplete", "invalid"] {
        env.link(format!("{place}/{}", id('9')), "nowhere");
    }
    let list = env.list();
    assert_eq!(list["queued_images"], json!([id('2')]));
    assert_eq!(ids(&list["incomplete"]), [id('3'), id('9')]);
    assert_eq!(ids(&list["invalid"]), [id('4'), id('9')]);
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

// -- Named images --

#[test]
fn one_image_by_its_id_on_every_driver() {
    for env in TestEnv::both(FIVE) {
        for arguments in [vec![id('c')], vec![id('c').to_uppercase()], vec!["--image".to_owned(), id('c')]] {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let text = env.run("list", &words).ok().stdout;
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.contains(&id('c')), "{text}");
            let list = env.run("list", &[&words[..], &["--format", "json"]].concat()).ok().json();
            assert_eq!(ids(&list["cached_images"]), [id('c')]);
        }
        let list = env.run("list", &[&id('a'), &id('d'), "--format", "json"]).ok().json();
        assert_eq!(ids(&list["cached_images"]), [id('a'), id('d')]);
    }
}

#[test]
fn a_named_image_is_shown_in_any_state_and_one_in_none_is_exit_code_1() {
    let env = every_state();
    for (letter, state) in
        [('f', "orphan"), ('1', "ghost"), ('2', "queued"), ('3', "incomplete"), ('4', "invalid")]
    {
        let text = env.run("list", &[&id(letter), "--format", "value", "--columns", "state"]).ok().stdout;
        assert_eq!(text, format!("{state}\n"));
    }
    let run = env.run("list", &[&id('a'), &id('7'), "--format", "value", "--columns", "image"]).code(1);
    assert_eq!(run.stdout, format!("{}\n", id('a')));
    assert_eq!(run.stderr, format!("error: image {} is not in the cache\n", id('7')));
    env.run("list", &["no-id"]).fails(2, &["no-id", "UUID"]);
    // It may be there, and only not be shown.
    for filter in
        [["--state", "queued"], ["--older-than", "1000d"], ["--larger-than", "1GiB"], ["--limit", "0"]]
    {
        env.run("list", &[&[&id('7')[..]], &filter[..]].concat()).ok();
    }
}

#[test]
fn a_directory_that_is_configured_and_missing_has_no_entries() {
    let env = TestEnv::sqlite(&[]);
    let missing = env.outside("missing");
    let conf = env.write("gone.conf", format!("[DEFAULT]\nimage_cache_dir = {}\n", missing.display()));
    let list = env.raw(&["list", "--format", "json", "--config-file", &conf]).ok().json();
    assert_eq!(list["cached_images"], json!([]));
}

#[test]
fn the_nodes_of_a_central_database_that_have_an_image_are_listed_too() {
    let c = five(SqliteFile);
    c.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://n2.example:9292')");
    let other = Central { node: "http://n2.example:9292", ..c };
    for letter in ['a', '7'] {
        other.row(&id(letter), 3);
    }
    let (conf, form) = (other.conf_with(&other.db.url, NODE, ""), ["--format", "value"]);
    let list = |letter: char, arguments: &[&str]| {
        let columns = ["--columns", "state,node"];
        other.env.raw(&[&["list", "--image", &id(letter)][..], &form, &columns, arguments].concat())
    };
    let (here, there) = (format!("tracked {NODE}\n"), "tracked http://n2.example:9292\n".to_owned());
    let from_here = ["--config-file", &conf];
    // Without a cache only the database is asked, on whichever host.
    let from_afar = ["--database", &other.db.url];
    for (arguments, letter, expected) in [
        (from_here, 'a', here.clone() + &there),
        (from_here, 'b', here.clone()),
        (from_here, '7', there.clone()),
        (from_afar, 'a', here.clone() + &there),
        (from_afar, '7', there),
    ] {
        assert_eq!(list(letter, &arguments).ok().stdout, expected, "{letter} {arguments:?}");
    }
    let json = other.run("list", &["--image", &id('a'), "--format", "json"]).ok().json();
    assert_eq!((&json["image_id"], json["nodes"].as_array().unwrap().len()), (&json!(id('a')), 2), "{json}");
    for arguments in [from_here, from_afar] {
        list('8', &arguments).fails(1, &["is not in the cache"]);
    }
}

// -- States --

#[test]
fn each_state_has_one_word() {
    let env = every_state();
    env.file(format!("incomplete/{}", id('5')), 50, 30);
    for (state, letters) in [
        ("tracked", "abcde"),
        ("orphan", "f"),
        ("ghost", "1"),
        ("queued", "2"),
        ("incomplete", "3"),
        ("stalled", "5"),
        ("invalid", "4"),
    ] {
        let run = env.run("list", &["--state", state, "--format", "value", "--columns", "state,image"]).ok();
        let expected: Vec<_> = letters.chars().map(|letter| format!("{state} {}", id(letter))).collect();
        assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected);
    }
    let help = env.raw(&["list", "--help"]).ok().stdout;
    assert!(help.contains("- stalled:") && !help.contains("- cached:"), "{help}");
}

#[test]
fn the_old_word_for_all_images_is_still_accepted() {
    let run =
        every_state().run("list", &["--state", "cached", "--format", "value", "--columns", "state"]).ok();
    assert_eq!(run.stdout, "tracked\n".repeat(5) + "orphan\n");
}

#[test]
fn json_tells_stalled_entries_from_those_being_written() {
    let env = every_state();
    env.file(format!("incomplete/{}", id('5')), 50, 30);
    let list = env.list();
    assert_eq!(ids(&list["incomplete"]), [id('3'), id('5')]);
    assert_eq!(
        (&list["incomplete"][0]["stalled"], &list["incomplete"][1]["stalled"]),
        (&json!(false), &json!(true))
    );
}

#[test]
fn ghosts_and_orphans_have_the_keys_of_images() {
    let list = every_state().list();
    let keys = |key: &str| list[key][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys("orphans"), keys("cached_images"));
    assert_eq!(keys("ghosts"), keys("cached_images"));
    assert_eq!((&list["orphans"][0]["hits"], &list["ghosts"][0]["hits"]), (&Value::Null, &json!(0)));
}

#[test]
fn times_in_json_are_seconds_since_the_epoch() {
    let env = every_state();
    let list = env.list();
    let ago = |hours: i64| json!(env.now - (hours * 3600) as f64);
    for (state, hours) in [("ghosts", 3), ("incomplete", 1), ("invalid", 1)] {
        assert_eq!(list[state][0]["last_modified"], ago(hours), "{state}");
    }
    assert_eq!(list["ghosts"][0]["last_accessed"], ago(3));
}

#[test]
fn a_name_that_is_not_utf_8_can_be_recovered() {
    use std::os::unix::ffi::OsStrExt as _;
    let env = every_state();
    env.file(std::ffi::OsStr::from_bytes(b"invalid/bad\xff"), 10, 3);
    let invalid = env.list()["invalid"].clone();
    assert_eq!(invalid[0].get("name_bytes"), None, "{invalid}");
    assert_eq!(
        (&invalid[1]["image_id"], &invalid[1]["name_bytes"]),
        (&json!("bad\\xff"), &json!("YmFk/w=="))
    );
    let lines = env.run("list", &["--state", "invalid", "--format", "jsonl"]).ok().stdout;
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["name_bytes"], json!("YmFk/w=="));
}

// -- Forms --

#[test]
fn json_lines_and_csv_have_a_line_for_each_entry() {
    let env = every_state();
    let lines = env.run("list", &["--format", "jsonl"]).ok().stdout;
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 10);
    let image = entries.iter().find(|entry| entry["image_id"] == json!(id('c'))).unwrap();
    assert_eq!(
        (&image["state"], &image["hits"], &image["size"]),
        (&json!("tracked"), &json!(7), &json!(1000))
    );
    assert!(image["last_use"].as_str().unwrap().ends_with('Z'), "{image}");
    let csv = env.run("list", &["--format", "csv", "--state", "orphan"]).ok().stdout;
    let (header, row) = csv.split_once('\n').unwrap();
    assert_eq!(header, "image_id,state,last_use,modified,size,hits");
    assert!(row.starts_with(&format!("{},orphan,20", id('f'))) && row.ends_with("Z,600,\n"), "{row}");
}

#[test]
fn csv_quotes_what_would_break_it() {
    let env = TestEnv::sqlite(&[]);
    env.file("invalid/a, \"b\"", 10, 3);
    let run = env.run("list", &["--format", "csv", "--columns", "image,size", "--no-header"]).ok();
    assert_eq!(run.stdout, "\"a, \"\"b\"\"\",10\n");
}

#[test]
fn columns_are_shown_in_the_order_of_the_option() {
    let env = every_state();
    let run = env.run("list", &["--columns", "size,image", "--state", "orphan"]).ok();
    assert_eq!(run.stdout, format!("SIZE  IMAGE\n 600  {}\n", id('f')));
    let run = env.run("list", &["--columns", "size", "--state", "orphan", "--no-header"]).ok();
    assert_eq!(run.stdout, "600\n");
    env.run("list", &["--columns", "colour"]).fails(2, &["colour"]);
    env.run("list", &["--columns", "node"]).fails(2, &["no column 'node'", "last-use"]);
    env.run("list", &["--columns", "size", "--format", "json"]).fails(2, &["--columns", "jsonl"]);
    env.run("status", &["--format", "csv"]).fails(2, &["csv", "json"]);
}

#[test]
fn the_old_name_of_the_table_is_still_accepted() {
    let env = every_state();
    assert_eq!(
        env.run("list", &["--format", "text"]).ok().stdout,
        env.run("list", &["--format", "table"]).ok().stdout
    );
}

// -- Choice --

#[test]
fn chooses_by_age_size_and_number() {
    let env = TestEnv::sqlite(&[('a', 20, 30, 1), ('b', 30, 10, 3), ('c', 10, 20, 2)]);
    env.orphan('d', 40, 40);
    let listed = |arguments: &[&str]| {
        let form = ["--format", "value", "--columns", "image"];
        let text = env.run("list", &[arguments, &form].concat()).ok().stdout;
        text.lines().map(|line| line[..1].to_owned()).collect::<String>()
    };
    assert_eq!(listed(&["--older-than", "15h"]), "acd");
    assert_eq!(listed(&["--older-than", "1000d"]), "");
    assert_eq!(listed(&["--larger-than", "20B"]), "bd");
    assert_eq!(listed(&["--larger-than", "20B", "--older-than", "15h"]), "d");
    assert_eq!(listed(&["--sort", "last-use", "--limit", "2"]), "da");
    assert_eq!(listed(&["--limit", "0"]), "");
    env.run("list", &["--larger-than", "50%"]).fails(2, &["'50%' is a share of something"]);
    let old = env.run("list", &["--older-than", "25h", "--format", "json"]).ok().json();
    assert_eq!((ids(&old["cached_images"]), ids(&old["orphans"])), (vec![id('a')], vec![id('d')]));
}

#[test]
fn every_form_lists_every_image() {
    let env = TestEnv::large(Sqlite, 3000);
    for (form, lines) in [("jsonl", 3000), ("csv", 3001), ("value", 3000), ("json", 1), ("table", 3001)] {
        let run = env.run("list", &["--format", form]).ok();
        assert_eq!(run.stdout.lines().count(), lines, "{form}");
        assert!(run.stdout.contains(&nth_id(0)) && run.stdout.contains(&nth_id(2999)), "{form}");
    }
}
