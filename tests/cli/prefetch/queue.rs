//! The queue and the command line: what is fetched, verified and published, and entries that are not as
//! Glance makes them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::Prefetch;

#[test]
fn the_queue_is_fetched_verified_and_emptied() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 3_000_000);
        p.image('b', 0);
        p.image('c', 17);
        p.queue("cab");
        let run = p.run(&["-v"]).ok().says(&["fetched aaaaaaaa", "verified by sha512"]);
        let report = run.json();
        assert_eq!(report["total_files_prefetched"], 3, "{report}");
        assert_eq!(report["total_bytes_prefetched"], 3_000_017, "{report}");
        let order: Vec<_> = report["images"].as_array().unwrap().iter().map(|i| &i["image_id"]).collect();
        assert_eq!(order.len(), 3);
        assert_eq!(
            Prefetch::told(&run, 'a'),
            json!({"image_id": id('a'), "outcome": "fetched", "bytes": 3_000_000, "size": 3_000_000, "location": p.location('a'),
                   "verified_by": "sha512", "queued": false})
        );
        p.holds(&[('a', 3_000_000), ('b', 0), ('c', 17)]);
        assert_eq!(p.queued(), "");
        // Once more there is nothing to do, and nothing is done.
        let before = p.env.snapshot();
        p.run(&[]).ok().has(&json!({"total_files_prefetched": 0, "images": []}));
        assert_eq!(p.env.snapshot(), before);
    }
}

#[test]
fn images_are_named_listed_and_queued() {
    let p = Prefetch::new(Sqlite);
    for letter in "abcd".chars() {
        p.image(letter, 9);
    }
    p.queue("d");
    let list = p.env.write("list", format!("# golden\n{}\n\n{} # twice\n{}\n", id('b'), id('a'), id('b')));
    let mut command = p.command(&["-", &id('d')]);
    p.env.finish(command.stdin(File::open(list).unwrap())).ok().has(&json!({"total_files_prefetched": 3}));
    p.holds(&[('a', 9), ('b', 9), ('d', 9)]);
    assert_eq!(p.queued(), "");
    let run = p.run(&["--enqueue", &id('c'), &id('a')]).ok();
    for (letter, outcome, is_queued) in [('c', "enqueued", true), ('a', "cached", false)] {
        let told = Prefetch::told(&run, letter);
        assert_eq!((&told["outcome"], &told["queued"]), (&json!(outcome), &json!(is_queued)));
    }
    assert_eq!(p.queued(), "c");
    p.run(&[]).ok();
    p.holds(&[('a', 9), ('b', 9), ('c', 9), ('d', 9)]);
    p.run(&["not-a-uuid"]).code(2);
    p.run(&["--enqueue"]).code(2);
    p.run(&[&id('e')]).fails(1, &["has no such image"]);
}

#[test]
fn a_dry_run_tells_all_and_changes_nothing() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.env.image(('f', 1000, 5, 0));
        p.image('a', 3000);
        p.image('f', 1000);
        p.queue("abf");
        let before = p.env.snapshot();
        let run = p.run(&["--dry-run"]).code(1);
        assert_eq!(p.env.snapshot(), before);
        let report = run.json();
        assert_eq!((&report["dry_run"], &report["total_bytes_prefetched"]), (&json!(true), &json!(3000)));
        assert_eq!(report["plan"][0]["image_id"], id('a'));
        assert_eq!(Prefetch::told(&run, 'a')["size"], 3000, "{report}");
        assert!(report["plan"][0]["reason"].as_str().unwrap().contains(&p.location('a')), "{report}");
        assert_eq!(report["cache_size_after"], 4000);
        let text = p.run(&["-n", "--format", "text"]).code(1);
        assert!(text.stdout.contains("would fetch 1 image"), "{}", text.stdout);
    }
}

#[test]
fn an_empty_queue_asks_for_nothing() {
    let p = Prefetch::new(Xattr);
    // No database, no index: a cron job on a node without a queue.
    p.run(&["--database", "mysql://nobody@127.0.0.1:1/x"]).ok().has(&json!({"images": []}));
    p.queue("a");
    p.run(&["--database", "mysql://nobody@127.0.0.1:1/x"]).fails(3, &["cannot connect"]);
    let conf = p.env.conf("");
    p.env.raw(&["prefetch", "--config-file", &conf]).fails(2, &["[database] connection is not set"]);
    assert_eq!(p.queued(), "a");
}

#[test]
fn without_a_database_in_the_settings_nothing_is_made() {
    for queued in ["a", ""] {
        let p = Prefetch::new(Xattr);
        p.queue(queued);
        let (conf, named) = (p.env.conf(""), id('b'));
        let mut arguments = vec!["prefetch", "--config-file", &conf];
        if queued.is_empty() {
            arguments.push(&named);
        }
        let before = p.env.snapshot();
        p.env.raw(&arguments).fails(2, &["[database] connection is not set"]);
        assert_eq!(p.env.snapshot(), before);
    }
}

#[test]
fn an_image_that_does_not_exist_leaves_the_queue() {
    let p = Prefetch::new(Sqlite);
    p.queue("a");
    p.run(&["--dry-run"]).fails(1, &["has no such image; it would be removed from the queue"]);
    assert_eq!(p.queued(), "a");
    p.run(&[]).fails(1, &["has no such image; it was removed from the queue"]);
    assert_eq!(p.queued(), "");
}

#[test]
fn an_image_that_cannot_be_taken_out_of_the_queue_is_an_error() {
    use std::os::unix::fs::PermissionsExt as _;

    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.queue("a");
    fs::set_permissions(p.env.path("queue"), fs::Permissions::from_mode(0o555)).unwrap();
    let conf = p.conf("");
    let run = p.env.finish(p.without_rights().args(["prefetch", "--config-file", &conf]));
    let errors = run.fails(1, &["cannot take", "out of the queue"]).json()["errors"].clone();
    assert_eq!((errors.as_array().unwrap().len(), &errors[0]["action"]), (1, &json!("dequeue")), "{errors}");
    p.holds(&[('a', 9)]);
    assert_eq!(p.queued(), "a");
}

#[test]
fn an_index_that_cannot_be_written_to_ends_the_run_before_anything_is_fetched() {
    use std::os::unix::fs::PermissionsExt as _;

    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.queue("a");
    fs::set_permissions(p.env.path("cache.db"), fs::Permissions::from_mode(0o444)).unwrap();
    let conf = p.conf("");
    let run = p.env.finish(p.without_rights().args(["prefetch", "--config-file", &conf]));
    run.fails(3, &["cannot write to the index", "nothing was downloaded"]);
    assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("", "a"));
}

#[test]
fn an_index_that_nothing_names_is_not_made() {
    let p = Prefetch::new(Xattr);
    p.image('a', 9);
    p.queue("a");
    let conf = fs::read_to_string(p.conf("")).unwrap().replace("image_cache_driver = xattr\n", "");
    let conf = p.env.write("bare.conf", conf);
    let before = p.env.images();
    let run = p.env.raw(&["prefetch", "--config-file", &conf]);
    run.fails(2, &["cannot tell which index", "set image_cache_driver, or give --driver"]);
    assert_eq!((p.env.images(), p.queued().as_str()), (before, "a"));
}

#[test]
fn only_a_run_that_changes_something_needs_the_index() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.queue("a");
    let writer = p.env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let run = p.run(&["--dry-run", "--lock-timeout", "100ms"]).ok();
    assert_eq!(Prefetch::told(&run, 'a')["outcome"], "fetched");
    p.run(&["--lock-timeout", "100ms"]).fails(3, &["cache.db"]);
    assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "a"));
}

#[test]
fn only_a_run_that_changes_something_makes_an_index() {
    let p = Prefetch::new(Sqlite);
    fs::remove_file(p.env.path("cache.db")).unwrap();
    p.image('a', 9);
    p.queue("a");
    let before = tree(p.env.dir());
    p.run(&["--dry-run"]).ok();
    assert_eq!(tree(p.env.dir()), before);
    p.run(&[]).ok();
    p.holds(&[('a', 9)]);
}

#[test]
fn hostile_entries_of_the_queue_are_survived() {
    let p = Prefetch::new(Sqlite);
    for letter in "abcd".chars() {
        p.image(letter, 100);
    }
    p.queue("abcd");
    let entry = |letter: char| p.env.path("queue").join(id(letter));
    fs::write(entry('a'), vec![0xff; 5000]).unwrap();
    fs::write(entry('b'), "{\"glance-cache\":".repeat(200)).unwrap();
    fs::File::create(entry('c')).unwrap().set_len(1 << 40).unwrap();
    fs::write(entry('d'), "[".repeat(4000)).unwrap();
    p.env.fifo(Path::new("queue").join(id('e')));
    let outside = p.env.outside("precious");
    fs::write(&outside, "precious").unwrap();
    p.env.link(Path::new("queue").join(id('f')), &outside);
    fs::create_dir(entry('9')).unwrap();
    let run = p.run(&[]).ok();
    println!("{}", run.stderr);
    p.holds(&[('a', 100), ('b', 100), ('c', 100), ('d', 100)]);
    assert_eq!(p.env.names("queue").len(), 3);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
}

#[test]
fn a_memory_is_not_written_through_a_hard_link() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.update('a', "os_hash_value = 'ffff'");
    let precious = p.env.outside("precious");
    fs::write(&precious, "precious").unwrap();
    fs::hard_link(&precious, p.env.path("queue").join(id('a'))).unwrap();
    p.run(&[]).code(1);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn a_link_to_the_stores_file_is_never_what_is_published() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 1000);
        p.queue("a");
        p.run(&[]).ok();
        let (ours, theirs) =
            (fs::metadata(p.env.path(id('a'))).unwrap(), fs::metadata(p.stored('a')).unwrap());
        assert_ne!(ours.ino(), theirs.ino());
        assert_eq!((ours.nlink(), theirs.nlink()), (1, 1));
        assert_eq!(ours.mode() & 0o7777, 0o644);
    }
}

#[test]
fn credentials_stay_out_of_the_childs_environment() {
    let p = Prefetch::new(Sqlite);
    p.record('a', &content('a', 10), &["rbd://image-a"]);
    p.queue("a");
    let rbd = p.env.outside("bin/rbd");
    fs::create_dir(p.env.outside("bin")).unwrap();
    fs::write(
        &rbd,
        format!(
            "#!/bin/sh\nenv > {}\ncat /proc/$PPID/cmdline >> {0}; exit 1\n",
            p.env.outside("seen").display()
        ),
    )
    .unwrap();
    chmod(&rbd, 0o755);
    let conf = p.env.conf("[glance_store]\nstores = rbd");
    let mut command = p.env.command(BINARY);
    command.args(["prefetch", "--config-file", &conf]);
    command
        .env("OS_DATABASE__CONNECTION", format!("{}?secret=s3cret", p.db.url))
        .env("OS_GLANCE_STORE__S3_STORE_SECRET_KEY", "s3cret");
    command.env("PATH", format!("{}:/usr/bin:/bin", p.env.outside("bin").display()));
    let run = p.env.finish(&mut command);
    println!("{} {}", run.code, run.stderr);
    let seen = fs::read_to_string(p.env.outside("seen")).unwrap();
    assert!(!seen.contains("s3cret"), "{seen}");
}
