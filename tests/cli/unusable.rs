//! Images that Glance does not serve any more, because their records are deleted, deactivated or missing:
//! `list` and `status` name them, and `prune` removes them first.

use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::prefetch::Prefetch;

/// Makes a cache of seven images, `a` used longest ago, of which `e`, `f` and `7` are unusable.
fn seven(driver: Driver) -> Prefetch {
    let p = Prefetch::new(driver);
    for (hours, letter) in (1..).zip("7fedcba".chars()) {
        p.image(letter, 1000);
        p.env.image((letter, 1000, hours, 0));
    }
    p.update('e', "status = 'deleted', deleted = 1");
    p.update('f', "status = 'deactivated'");
    p.db.sql(&format!("DELETE FROM image_locations WHERE image_id = '{}'", id('7')));
    p.db.sql(&format!("DELETE FROM images WHERE id = '{}'", id('7')));
    p
}

#[must_use]
fn run(p: &Prefetch, arguments: &[&str]) -> Run {
    p.env.raw(&[arguments, &["--config-file", &p.conf("")]].concat())
}

/// Returns the reasons in a list by the letter of the image.
fn reasons(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let images = list["cached_images"].as_array().unwrap();
    let found = images.iter().filter(|image| image.get("unusable").is_some());
    found.map(|image| (text(&image["image_id"])[..1].to_owned(), text(&image["unusable"]))).collect()
}

#[test]
fn list_and_status_name_them() {
    for driver in [Sqlite, Xattr] {
        let p = seven(driver);
        let list = run(&p, &["list", "--format", "json"]).ok().json();
        let expected = [("7", "no_record"), ("e", "deleted"), ("f", "deactivated")];
        assert_eq!(reasons(&list), expected.map(|(letter, why)| (letter.to_owned(), why.to_owned())));
        let table = run(&p, &["list"]).ok().stdout;
        assert!(table.contains("UNUSABLE") && table.contains("deactivated"), "{table}");
        let status = run(&p, &["status", "--format", "json"]).ok().json();
        assert_eq!((&status["unusable"]["count"], &status["unusable"]["bytes"]), (&json!(3), &json!(3000)));
        let text = run(&p, &["status"]).ok().stdout;
        assert!(text.contains("Glance's database has no record of it"), "{text}");
        let metrics = run(&p, &["status", "--format", "prometheus"]).ok().stdout;
        assert!(metrics.contains("glance_cache_unusable_images{cache=\"glance\"} 3"), "{metrics}");
        run(&p, &["status", "--check"]).ok();
    }
}

/// Scripts count on the columns.
#[test]
fn csv_and_values_have_the_same_columns_whether_or_not_an_image_is_unusable() {
    let p = seven(Sqlite);
    for format in ["csv", "value"] {
        let asked = run(&p, &["list", "--format", format]).ok().stdout;
        assert_eq!(asked, run(&p, &["list", "--format", format, "--no-database"]).ok().stdout);
    }
    let chosen = run(&p, &["list", "--format", "value", "--columns", "unusable"]).ok().stdout;
    assert_eq!(chosen, "no_record\n-\n-\n-\n-\ndeleted\ndeactivated\n");
    let lines = run(&p, &["list", "--format", "jsonl"]).ok().stdout;
    assert_eq!(lines.matches("\"unusable\":").count(), 3, "{lines}");
}

#[test]
fn without_a_database_nothing_is_named() {
    let p = seven(Sqlite);
    for arguments in [&["--no-database"][..], &[]] {
        let conf =
            if arguments.is_empty() { p.env.write("bare.conf", p.env.conf_text("")) } else { p.conf("") };
        let run =
            |command: &[&str]| p.env.raw(&[command, &["--config-file", &conf], arguments].concat()).ok();
        let list = run(&["list", "--format", "json"]).json();
        assert!(reasons(&list).is_empty(), "{list}");
        assert!(!run(&["list"]).stdout.contains("UNUSABLE"));
        assert_eq!(run(&["status", "--format", "json"]).json().get("unusable"), None);
        run(&["prune", "--dry-run", "--max-size", "6000B"]).has(&json!({"total_files_pruned": 1}));
        let plan = run(&["prune", "--dry-run", "--max-size", "6000B"]).json()["plan"].clone();
        assert_eq!(plan[0]["image_id"], id('a'), "{plan}");
    }
}

#[test]
fn prune_removes_them_first_and_only_when_over_the_limit() {
    for driver in [Sqlite, Xattr] {
        let p = seven(driver);
        run(&p, &["prune", "--max-size", "7000B"]).ok().has(&json!({"total_files_pruned": 0}));
        let plan = run(&p, &["prune", "--max-size", "3000B", "--dry-run"]).ok().json()["plan"].clone();
        let step = |n: usize| {
            let text = |key: &str| plan[n][key].as_str().unwrap().to_owned();
            (text("image_id")[..1].to_owned(), text("reason"))
        };
        let why =
            ["its record is deleted", "it is deactivated", "Glance's database has no record of it", "least"];
        for (n, (letter, why)) in ["e", "f", "7", "a"].iter().zip(why).enumerate() {
            let (image, reason) = step(n);
            assert!(image == *letter && reason.contains(why), "{n}: {image}: {reason}");
        }
        run(&p, &["prune", "--max-size", "3000B"]).ok();
        assert_eq!(p.env.left(), "bcd");
    }
}

#[test]
fn a_database_that_does_not_answer_is_a_warning_only_if_it_is_needed() {
    let p = seven(Sqlite);
    let broken = std::fs::read_to_string(p.conf("")).unwrap();
    let broken = broken.replace(&p.db.url, "mysql+pymysql://glance:s3cret@127.0.0.1:1/glance");
    let conf = p.env.write("broken.conf", broken);
    let prune = |limit: &str| p.env.raw(&["prune", "--config-file", &conf, "--max-size", limit]);
    assert_eq!(prune("7000B").ok().stderr, "");
    let pruned = prune("6000B").ok().says(&["are not removed first", "127.0.0.1"]);
    assert!(!pruned.stderr.contains("s3cret"), "{pruned:?}");
    assert_eq!(p.env.left(), "7bcdef");
    let status = p.env.raw(&["status", "--config-file", &conf, "--format", "json"]).ok().json();
    assert_eq!(status.get("unusable"), None);
    assert!(status["notes"].to_string().contains("not known which images"), "{status}");
    p.env.raw(&["list", "--config-file", &conf]).ok();
    // An old name does not ask.
    let config = p.env.write(
        "old.conf",
        std::fs::read_to_string(&conf).unwrap() + "[DEFAULT]\nimage_cache_max_size = 5000\n",
    );
    p.env.old("glance-cache-pruner", &["--config-file", &config]).ok().silent();
    assert_eq!(p.env.left(), "7cdef");
}

#[test]
fn the_database_of_another_glance_is_not_believed() {
    let p = seven(Sqlite);
    p.db.sql("DELETE FROM image_locations");
    p.db.sql(&format!("DELETE FROM images WHERE id NOT IN ('{}', '{}', '{}')", id('b'), id('e'), id('f')));
    assert!(reasons(&run(&p, &["list", "--format", "json"]).ok().json()).is_empty());
    let pruned = run(&p, &["prune", "--max-size", "6000B"]).ok();
    pruned.says(&["no record of 4 of 7 cached images", "another Glance"]);
    assert_eq!(p.env.left(), "7bcdef", "the least recently used one is removed");
}
