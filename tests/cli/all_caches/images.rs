//! `list --all-caches --images`: the images of every cache, and what holds them.

use serde_json::{Value, json};

use crate::support::cache::set_times;
use crate::support::env::*;
use crate::support::host::*;

/// Makes a host with two images in Ironic's instance cache, of which one is in use, and two in Glance's.
fn two_caches() -> HostEnv {
    let env = HostEnv::new();
    env.image("instance", &master(1), 1000);
    env.image("instance", &master(2), 2000);
    env.use_image("instance", &master(2));
    // Long before the two of Ironic were made, and a day later.
    drop(glance(&env, &[(3, 30.0 * 86_400.0), (4, 29.0 * 86_400.0)]));
    for n in [3, 4] {
        let then = now() - 30.0 * 86_400.0;
        set_times(&env.dir("glance").join(master(n)), then, then);
    }
    let directory = env.dir("glance");
    env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n", directory.display()));
    env
}

fn rows(env: &HostEnv, arguments: &[&str]) -> Vec<Value> {
    let form = ["--all-caches", "--images", "--format", "jsonl"];
    let text = env.later("list", &[&form, arguments].concat()).ok().stdout;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn images_of_every_cache_with_what_holds_them() {
    let env = two_caches();
    let rows = rows(&env, &[]);
    let seen: Vec<_> = rows.iter().map(|row| (row["cache"].clone(), row["image_id"].clone())).collect();
    assert_eq!(
        seen,
        [("glance", 3), ("glance", 4), ("ironic-instance", 1), ("ironic-instance", 2)]
            .map(|(cache, n)| (json!(cache), json!(master(n)))),
        "by priority, then by name"
    );
    assert_eq!((&rows[2]["links"], &rows[2]["held_by"]), (&json!(1), &Value::Null));
    assert_eq!(
        (&rows[3]["links"], &rows[3]["held_by"], &rows[3]["size"]),
        (&json!(2), &json!("in_use"), &json!(2000))
    );
    let all = env.later("list", &["--all-caches", "--images", "--format", "json"]).ok().json();
    assert_eq!(all["images"].as_array().unwrap().len(), 4);
    assert_eq!((&all["images"][3]["in_use"], &all["images"][2]["in_use"]), (&json!(true), &json!(false)));
    let table = env.later("list", &["--all-caches", "--images"]).ok().stdout;
    assert!(table.starts_with("CACHE") && table.lines().count() == 5, "{table}");
}

#[test]
fn recently_used_images_are_held_by_their_use() {
    let env = two_caches();
    let text =
        env.run("list", &["--all-caches", "--images", "--format", "value", "--columns", "image,held-by"]);
    let text = text.ok().stdout;
    assert!(text.contains(&format!("{} recent_use\n", master(1))), "{text}");
    assert!(text.contains(&format!("{} in_use\n", master(2))), "{text}");
    assert!(text.contains(&format!("{} -\n", master(3))), "{text}");
    assert!(text.contains(&format!("{} -\n", master(4))), "{text}");
}

#[test]
fn they_are_chosen_and_sorted_like_other_lists() {
    let env = two_caches();
    let names = |arguments: &[&str]| -> Vec<Value> {
        rows(&env, arguments).iter().map(|row| row["image_id"].clone()).collect()
    };
    assert_eq!(names(&["--larger-than", "1500B"]).last(), Some(&json!(master(2))));
    assert_eq!(names(&["--sort", "size", "--reverse", "--limit", "1"]).len(), 1);
    assert_eq!(names(&["--older-than", "20d"]), [json!(master(3)), json!(master(4))]);
    assert_eq!(names(&["--older-than", "3000d"]), [Value::Null; 0]);
    env.run("list", &["--all-caches", "--limit", "3"]).fails(2, &["--images"]);
    env.run("list", &["--images"]).fails(2, &["--all-caches"]);
    env.run("list", &["--all-caches", &master(1)]).fails(2, &["--all-caches"]);
}

#[test]
fn the_caches_themselves_are_listed_in_every_form() {
    let env = two_caches();
    let csv = env.later("list", &["--all-caches", "--format", "csv", "--columns", "cache,in-use,limit"]).ok();
    assert!(
        csv.stdout.starts_with("cache,in_use,limit\n") && csv.stdout.contains("\nironic-iso,0,"),
        "{csv:?}"
    );
    let lines = env.later("list", &["--all-caches", "--format", "jsonl"]).ok().stdout;
    let caches: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(caches.len(), 4, "{lines}");
    assert!(caches.iter().any(|cache| cache["in_use"]["count"] == json!(1)), "{lines}");
}
