//! Images that are named instead of chosen by the limit: `prune --image`, `--older-than` and `--everything`,
//! the configured keep list, and images that are taken out of the queue.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::deployed::{PRUNER, deployed};
use crate::support::env::*;

fn ids(letters: &str) -> Vec<String> {
    letters.chars().map(id).collect()
}

/// Prunes with `--image` and the ids of these letters.
fn prune_images(env: &TestEnv, letters: &str, more: &[&str]) -> Run {
    let ids = ids(letters);
    let mut arguments = vec!["--image"];
    arguments.extend(ids.iter().map(String::as_str));
    arguments.extend(more);
    env.prune(&arguments)
}

#[test]
fn named_images_are_removed_and_no_others() {
    for env in TestEnv::both(FIVE) {
        let report = prune_images(&env, "db", &[]).ok().has(&json!({"total_files_pruned": 2,
            "total_bytes_pruned": 2000, "cache_size_after": 3000, "not_cached": [], "errors": []}));
        assert_eq!(report.stderr, "");
        assert_eq!(env.left(), "ace");
        // The limit plays no part, neither before nor after.
        let conf = env.conf("image_cache_max_size = 1000");
        env.raw(&["prune", "--config-file", &conf, "--image", &id('e')]).ok();
        assert_eq!(env.left(), "ac");
    }
}

#[test]
fn an_id_is_taken_in_either_case_and_from_standard_input() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--image", &id('a').to_uppercase(), "--image", &id('c')]).ok();
        assert_eq!(env.left(), "bde");
        let mut command = env.of_cache("prune");
        let mut running =
            Running::start(command.args(["--image", "-"]).stdin(Stdio::piped()), &env.outside(""));
        let mut input = running.child.stdin.take().unwrap();
        writeln!(input, "# unused\n{}\n\n{}", id('b'), id('e')).unwrap();
        drop(input);
        running.wait().ok();
        assert_eq!(env.left(), "d");
        // An empty list names nothing.
        env.prune(&["--image", "-"]).ok().has(&json!({"total_files_pruned": 0}));
        assert_eq!(env.left(), "d");
    }
}

#[test]
fn a_named_image_that_is_not_there_is_reported_and_no_error() {
    for env in TestEnv::both(FIVE) {
        for dry_run in [&["-n"][..], &[]] {
            let run = prune_images(&env, "af", dry_run).ok().says(&[&format!("image {}", id('f'))]);
            run.has(&json!({"total_files_pruned": 1, "not_cached": [id('f')], "errors": []}));
        }
        let run = prune_images(&env, "a", &["--format", "text"]).ok();
        assert!(run.stdout.contains("removed 0 images, 0 B; ") && run.stdout.contains("1 image not in the"));
        assert_eq!(env.left(), "bcde");
    }
    // In a cache that is empty or missing there is no image at all.
    let env = TestEnv::xattr(&[]);
    fs::remove_dir_all(env.dir()).unwrap();
    let conf = env.conf("");
    env.raw(&["prune", "--config-file", &conf, "--image", &id('a')])
        .ok()
        .has(&json!({"not_cached": [id('a')]}));
    fs::create_dir(env.dir()).unwrap();
    prune_images(&env, "a", &[]).ok().has(&json!({"not_cached": [id('a')]}));
    assert_eq!(env.names(""), [""; 0]);
}

#[test]
fn a_protected_image_that_was_named_stays_and_is_an_error() {
    for env in TestEnv::both(FIVE) {
        for protection in [&["--keep", &id('a')][..], &["--min-age", "45h"]] {
            for dry_run in [true, false] {
                let mut more = protection.to_vec();
                if dry_run {
                    more.push("-n");
                }
                let letters = if protection[0] == "--keep" { "a" } else { "b" };
                let run = prune_images(&env, letters, &more).fails(1, &["it stays, as it is"]);
                assert_eq!(run.json()["errors"][0]["name"], json!(id(letters.chars().next().unwrap())));
                assert_eq!(env.left(), "abcde");
            }
        }
    }
}

#[test]
fn a_ghost_that_was_named_is_forgotten_and_was_there() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    prune_images(&env, "f", &[]).ok().has(&json!({"ghosts_forgotten": 1, "not_cached": []}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn everything_goes_with_orphans_ghosts_and_empty_images() {
    for dry_run in [true, false] {
        for env in TestEnv::both(FIVE) {
            env.orphan('9', 0, 3);
            if env.driver == Sqlite {
                env.ghost('f', 5);
            }
            env.file("invalid/x", 10, 1);
            env.file(format!("queue/{}", id('8')), 0, 1);
            let before = env.snapshot();
            let more: &[&str] = if dry_run { &["--everything", "-n"] } else { &["--everything"] };
            let ghosts = u64::from(env.driver == Sqlite);
            let run = env.prune(more).ok().has(&json!({"total_files_pruned": 6, "total_bytes_pruned": 5000,
                "cache_size_after": 0, "ghosts_forgotten": ghosts}));
            assert!(!run.json().as_object().unwrap().contains_key("not_cached"));
            if dry_run {
                assert_eq!(env.snapshot(), before);
                let plan = run.json()["plan"].clone();
                let reasons = plan.as_array().unwrap().iter().map(|step| step["reason"].as_str().unwrap());
                assert_eq!(reasons.filter(|reason| reason.contains("asked for by --everything")).count(), 6);
            } else {
                assert_eq!(env.left(), "");
                assert_eq!((env.names("invalid").len(), env.names("queue").len()), (1, 1), "others stay");
                env.prune(&["--everything"]).ok().has(&json!({"total_files_pruned": 0}));
            }
        }
    }
}

#[test]
fn a_large_index_is_emptied() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::large(driver, 3000);
        env.prune(&["--everything", "--keep", &nth_id(7)]).ok().has(&json!({"total_files_pruned": 2999}));
        let images: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
        assert_eq!(images, [nth_id(7)]);
    }
}

#[test]
fn everything_in_a_directory_that_may_be_the_wrong_one_stays() {
    let env = TestEnv::sqlite(&FIVE[..2]);
    for letter in ['3', '4', '5'] {
        env.ghost(letter, 3);
    }
    let before = env.snapshot();
    env.prune(&["--everything", "-n"]).code(1);
    assert_eq!(env.snapshot(), before);
    env.prune(&["--everything"]).code(1);
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("ab", "345ab"));
    env.prune(&["--everything", "--forget-all"]).ok();
    assert_eq!(env.left(), "");
}

#[test]
fn old_images_go_and_young_ones_stay() {
    for env in TestEnv::both(FIVE) {
        let run = env.prune(&["--older-than", "35h", "-n"]).ok();
        let step = &run.json()["plan"][0];
        assert_eq!((&step["image_id"], &step["action"]), (&json!(id('a')), &json!("remove")));
        assert!(step["reason"].as_str().unwrap().starts_with("not used within --older-than (last use "));
        env.prune(&["--older-than", "35h", "--keep", &id('a')]).ok().has(&json!({"total_files_pruned": 1}));
        assert_eq!(env.left(), "acde");
        env.prune(&["--older-than", "35h"]).ok().has(&json!({"total_files_pruned": 1}));
        assert_eq!(env.left(), "cde");
        env.prune(&["--older-than", "35h"]).ok().has(&json!({"total_files_pruned": 0}));
    }
}

#[test]
fn an_age_needs_its_unit() {
    let env = TestEnv::sqlite(FIVE);
    for age in ["30", "0", " 30 ", "", "d", "-1d", "soon"] {
        let run = env.prune(&["--older-than", age]).code(2);
        assert!(run.stdout.is_empty(), "{run:?}");
    }
    env.prune(&["--older-than", "30"]).fails(2, &["30d for days", "30s for seconds"]);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_choice_excludes_limits_other_choices_and_other_caches() {
    let env = TestEnv::sqlite(FIVE);
    let before = env.snapshot();
    let image = id('a');
    for choice in [&["--image", &image][..], &["--older-than", "1h"], &["--everything"]] {
        for other in [
            &["--max-size", "2MiB"][..],
            &["--target-size", "50%"],
            &["--min-free", "2MiB"],
            &["--all-caches"],
            &["--require", "2MiB"],
        ] {
            let arguments: Vec<&str> = choice.iter().chain(other).copied().collect();
            env.prune(&arguments).fails(2, &["cannot be used with", choice[0], other[0]]);
        }
    }
    env.prune(&["--image", &image, "--everything"]).fails(2, &["cannot be used with"]);
    env.prune(&["--older-than", "1h", "--everything"]).fails(2, &["cannot be used with"]);
    env.prune(&["--image"]).code(2);
    env.prune(&["--image", "no-uuid"]).code(2);
    assert_eq!(env.snapshot(), before);
}

#[test]
fn locks_and_a_locked_index_hold_a_choice_back() {
    for choice in [&["--everything"][..], &["--older-than", "1s"]] {
        let env = TestEnv::sqlite(FIVE);
        let held = env.lock("glance-cache-prune");
        let mut arguments = choice.to_vec();
        arguments.extend(["--lock-timeout", "100ms"]);
        env.prune(&arguments).fails(3, &["glance-cache-prune"]);
        arguments.push("--skip-if-locked");
        env.prune(&arguments).ok();
        drop(held);
        let writer = env.db();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        arguments.pop();
        env.prune(&arguments).code(3);
        drop(writer);
        assert_eq!(env.left(), "abcde");
    }
}

/// Writes `glance-cache.conf` with a keep list, and returns the options that name it.
fn with_keep_list(env: &TestEnv, list: &str) -> [String; 2] {
    let conf = env.conf(&format!("image_cache_max_size = 1000\n[glance_cache]\nkeep_from = {list}"));
    ["--config-file".to_owned(), conf]
}

#[test]
fn the_configured_keep_list_protects_under_every_name() {
    for env in TestEnv::both(FIVE) {
        let list = env.write("golden", format!("{} # the oldest\n\n# and\n{}\n", id('a'), id('b')));
        let [option, conf] = with_keep_list(&env, &list);
        env.raw(&["prune", &option, &conf]).fails(1, &["over its limit"]);
        assert_eq!(env.left(), "ab");
        env.raw(&["prune", "--everything", &option, &conf]).ok();
        assert_eq!(env.left(), "ab");
        env.raw(&["prune", "--everything", "--keep", &id('c'), &option, &conf]).ok();
        let run = env.raw(&["prune", "--image", &id('a'), &option, &conf]).code(1);
        assert!(run.stderr.contains("listed by --keep, --keep-from or keep_from"), "{run:?}");
        assert_eq!(env.left(), "ab");
    }
    let env = deployed(Sqlite, "home");
    let list = env.write("golden", id('a'));
    env.write("home/glance-cache.conf", format!("[glance_cache]\nkeep_from = {list}\n"));
    env.old(PRUNER, &[]).ok().silent();
    assert_eq!(env.left(), "ade");
}

#[test]
fn a_configured_keep_list_that_protects_nothing_is_refused() {
    for list in ["/nowhere/list", "EMPTY", "WRONG", "-"] {
        let env = TestEnv::sqlite(FIVE);
        let list = match list {
            "EMPTY" => env.write("list", "# nothing\n\n"),
            "WRONG" => env.write("list", format!("{}\ngolden\n", id('a'))),
            list => list.to_owned(),
        };
        let [option, conf] = with_keep_list(&env, &list);
        let before = env.snapshot();
        let origin = format!("{conf}:6");
        for choice in [&[][..], &["--everything"], &["-n"]] {
            let mut arguments = vec!["prune", &option, &conf];
            arguments.extend(choice);
            env.raw(&arguments).fails(2, &["keep_from", &origin]);
        }
        env.old(PRUNER, &[&option, &conf]).fails(1, &["keep_from", &origin]);
        assert_eq!(env.snapshot(), before);
        // Operations that remove no image do not need it.
        env.raw(&["clean", &option, &conf]).ok();
    }
}

fn dequeue(env: &TestEnv, arguments: &[&str]) -> Run {
    env.run("prefetch", arguments)
}

fn queue(env: &TestEnv, letters: &str) {
    for letter in letters.chars() {
        env.file(format!("queue/{}", id(letter)), 0, 1);
    }
}

#[test]
fn named_images_are_taken_out_of_the_queue() {
    for env in TestEnv::both(FIVE) {
        queue(&env, "678");
        let before = env.snapshot();
        let outcome = |image: char, outcome: &str| (json!(id(image)), json!(outcome));
        for dry_run in [true, false] {
            let (six, nine) = (id('6'), id('9'));
            let mut arguments = vec!["-v", "--dequeue", &six, &nine];
            if dry_run {
                arguments.push("-n");
            }
            let run = dequeue(&env, &arguments).ok().says(&[&format!("image {nine} is not in the queue")]);
            let report = run.json();
            let images = report["images"].as_array().unwrap().iter();
            let images: Vec<(Value, Value)> =
                images.map(|image| (image["image_id"].clone(), image["outcome"].clone())).collect();
            assert_eq!(images, [outcome('6', "dequeued"), outcome('9', "not_queued")]);
            assert_eq!((&report["still_queued"], &report["errors"]), (&json!(2), &json!([])));
            assert_eq!(report["dry_run"], json!(dry_run));
            assert_eq!(
                run.stderr.contains(&format!("took {six} out of the queue")),
                !dry_run,
                "{}",
                run.stderr
            );
            if dry_run {
                assert_eq!(env.snapshot(), before);
                assert_eq!(report["plan"].as_array().unwrap().len(), 1);
                assert_eq!(report["plan"][0]["action"], json!("dequeue"));
            }
        }
        assert_eq!(env.names("queue"), ids("78"));
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn an_entry_that_cannot_be_taken_out_is_an_error() {
    let env = TestEnv::sqlite(FIVE);
    queue(&env, "6");
    std::fs::create_dir_all(env.path("queue").join(id('7')).join("inside")).unwrap();
    let run = dequeue(&env, &["--dequeue", &id('7'), &id('6')]).fails(1, &[&id('7'), "out of the queue"]);
    let errors = run.json()["errors"].clone();
    assert_eq!((errors.as_array().unwrap().len(), &errors[0]["name"]), (1, &json!(id('7'))), "{errors}");
    assert_eq!(env.names("queue"), [id('7')]);
}

#[test]
fn the_queue_is_emptied_of_images_alone() {
    let env = TestEnv::sqlite(FIVE);
    queue(&env, "678");
    env.file("queue/README", 5, 1);
    dequeue(&env, &["--dequeue-all", "-n"]).ok().has(&json!({"still_queued": 0}));
    assert_eq!(env.names("queue").len(), 4);
    let run = dequeue(&env, &["--dequeue-all", "--format", "text"]).ok();
    assert!(run.stdout.contains("3 out of the queue"), "{run:?}");
    assert_eq!(env.names("queue"), ["README"]);
    dequeue(&env, &["--dequeue-all"]).ok().has(&json!({"images": [], "still_queued": 0}));
}

#[test]
fn dequeuing_excludes_fetching() {
    let env = TestEnv::sqlite(FIVE);
    queue(&env, "6");
    let six = id('6');
    for arguments in [
        &["--dequeue"][..],
        &["--dequeue-all", &six],
        &["--dequeue", "--enqueue", &six],
        &["--dequeue", "--dequeue-all", &six],
        &["--dequeue", "--make-room", &six],
        &["--dequeue-all", "--retry"],
    ] {
        dequeue(&env, arguments).code(2);
    }
    assert_eq!(env.names("queue"), [six]);
}
