//! What cannot be fetched: what is said, the exit code, whether it stays in the queue, and what the next run
//! does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::support::double::{Double, answer, keystone};
use crate::support::env::*;
use crate::support::images::{content, digest};
use crate::support::prefetch::Prefetch;
use crate::support::stores::answering;

/// The outcome for an image that cannot be fetched.
struct Fate {
    outcome: &'static str,
    stays_queued: bool,
    /// True if what was fetched of it is in `invalid`.
    invalid: bool,
}

const GONE: Fate = Fate { outcome: "gone", stays_queued: false, invalid: false };
const NOT_READY: Fate = Fate { outcome: "not_ready", stays_queued: true, invalid: false };
const FAILED: Fate = Fate { outcome: "failed", stays_queued: true, invalid: false };
const INVALID: Fate = Fate { outcome: "failed", stays_queued: true, invalid: true };
const REFUSED: Fate = Fate { outcome: "refused", stays_queued: true, invalid: false };

/// Fetches the image `b` as `make` makes it, between two good ones, which are fetched all the same.
#[track_caller]
fn is_refused(make: fn(&Prefetch), words: &[&str], fate: &Fate) {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 1000);
        p.image('c', 1000);
        make(&p);
        p.queue("abc");
        fs::write(p.env.path("queue/README"), "").unwrap();
        let run = p.run(&[]).fails(1, words).says(&[&id('b'), "queue/README"]);
        assert!(!run.stderr.contains("s3cret") && !run.stdout.contains("s3cret"), "{}", run.stderr);
        println!("{}", run.stderr);
        let told = Prefetch::told(&run, 'b');
        assert_eq!(told["outcome"], fate.outcome, "{told}");
        assert_eq!(told["queued"], fate.stays_queued, "{told}");
        assert_eq!(p.env.images().replace('b', ""), "ac");
        assert_eq!(p.queued(), if fate.stays_queued { "Rb" } else { "R" });
        assert_eq!(p.env.names("incomplete"), [""; 0]);
        assert_eq!(p.env.names("invalid"), if fate.invalid { vec![id('b')] } else { vec![] });
        if fate.invalid && driver == Xattr {
            let list = p.env.list();
            assert!(list["invalid"][0].to_string().contains("mismatch: got"), "{list}");
        }
    }
}

/// The image `b` on a server that calls it encoded, with nothing on record to check it by but what is set here.
fn encoded(p: &Prefetch, set: &str) {
    let location = answering("HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n", content('b', 9));
    p.record('b', &content('b', 9), &[&location]);
    p.update('b', &format!("os_hash_algo = NULL, os_hash_value = NULL, checksum = NULL{set}"));
}

#[test]
fn an_encoded_image_without_size_and_hash() {
    let words = ["encoded (gzip)", "neither the size nor the hash"];
    is_refused(|p| encoded(p, ", size = NULL"), &words, &FAILED);
}

#[test]
fn an_encoded_image_whose_size_is_known_is_fetched() {
    let p = Prefetch::new(Sqlite);
    encoded(&p, "");
    p.queue("b");
    p.run(&[]).ok();
    p.holds(&[('b', 9)]);
}

/// The size of the image is not on record, and its first location claims more than any disk holds.
#[test]
fn a_location_that_lies_about_the_size_does_not_keep_the_next_from_being_tried() {
    let p = Prefetch::new(Sqlite);
    let lie = "HTTP/1.0 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n";
    fs::write(p.stored('b'), content('b', 9)).unwrap();
    p.record('b', &content('b', 9), &[&answering(lie, content('b', 9)), &p.location('b')]);
    p.update('b', "size = NULL");
    p.queue("b");
    p.run(&[]).ok().says(&["of the file system may be used", "trying the next location"]);
    p.holds(&[('b', 9)]);
    // Without another location it is a failure, which a later run tries again.
    p.record('c', &content('c', 9), &[&answering(lie, content('c', 9))]);
    p.update('c', "size = NULL");
    p.queue("c");
    p.run(&[]).fails(1, &["of the file system may be used", "stays in the queue"]);
}

#[test]
fn an_unknown_image() {
    is_refused(|_| {}, &["has no such image", "removed from the queue"], &GONE);
}

#[test]
fn a_deleted_image() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "deleted = 1, status = 'deleted'");
        },
        &["the image is deleted", "removed from the queue"],
        &GONE,
    );
}

#[test]
fn a_deactivated_image() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "status = 'deactivated'");
        },
        &["deactivated, not active", "stays in the queue"],
        &NOT_READY,
    );
}

#[test]
fn an_image_without_locations() {
    is_refused(|p| p.record('b', b"x", &[]), &["no active location", "stays"], &NOT_READY);
}

#[test]
fn an_image_whose_location_is_deleted() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.db.sql("UPDATE image_locations SET status = 'deleted' WHERE image_id LIKE 'b%'");
        },
        &["no active location"],
        &NOT_READY,
    );
}

#[test]
fn a_location_of_an_unknown_scheme() {
    is_refused(|p| p.record('b', b"x", &["gopher://h/x"]), &["gopher"], &FAILED);
}

#[test]
fn a_location_in_swift() {
    is_refused(|p| p.record('b', b"x", &["swift+https://u:s3cret@auth/c/o"]), &["swift"], &FAILED);
}

#[test]
fn a_record_that_says_0_bytes() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "size = 0");
        },
        &["got 9 bytes"],
        &FAILED,
    );
}

#[test]
fn a_record_that_says_more_bytes() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "size = 10");
        },
        &["got 9 bytes, expected 10"],
        &FAILED,
    );
}

#[test]
fn a_wrong_hash() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "os_hash_value = 'ffff'");
        },
        &["sha512", "expected ffff", "stays in the queue"],
        &INVALID,
    );
}

#[test]
fn a_wrong_checksum_beside_an_unknown_hash() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "os_hash_algo = 'whirlpool', checksum = 'eeee'");
        },
        &["md5", "expected eeee"],
        &INVALID,
    );
}

#[test]
fn a_location_outside_the_store() {
    is_refused(|p| p.record('b', b"x", &["file:///etc/shadow"]), &["/etc/shadow"], &FAILED);
}

#[test]
fn an_image_that_the_store_lacks() {
    is_refused(|p| p.record('b', b"x", &[&p.location('b')]), &["store"], &FAILED);
}

#[test]
fn a_directory_in_the_store() {
    is_refused(
        |p| {
            p.record('b', b"x", &[&p.location('b')]);
            fs::create_dir(p.stored('b')).unwrap();
        },
        &["store"],
        &FAILED,
    );
}

#[test]
fn an_image_whose_name_a_directory_has() {
    is_refused(
        |p| {
            p.image('b', 9);
            fs::create_dir(p.env.path(id('b'))).unwrap();
        },
        &["is not a file", "stays"],
        &FAILED,
    );
}

#[test]
fn an_image_too_large_for_the_disk() {
    is_refused(
        |p| {
            p.image('b', 9);
            p.update('b', "size = 1000000000000000");
        },
        &["does not fit", "stays"],
        &REFUSED,
    );
}

#[test]
fn the_next_location_is_tried() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        let good = content('a', 5000);
        let wrong = p.env.outside("store/wrong");
        fs::write(&wrong, content('b', 5000)).unwrap();
        fs::write(p.stored('a'), &good).unwrap();
        let wrong = format!("file://{}", wrong.display());
        p.record('a', &good, &["gopher://x/y", "file:///nowhere/at/all", &wrong, &p.location('a')]);
        p.queue("a");
        let run = p.run(&[]).ok().says(&["gopher", "nowhere", "mismatch: got", "trying the next location"]);
        assert_eq!(Prefetch::told(&run, 'a')["location"], p.location('a'));
        p.holds(&[('a', 5000)]);
        assert_eq!(p.env.names("invalid"), [id('a')]);
    }
}

#[test]
fn what_failed_is_not_downloaded_again_until_something_changes() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.image('b', 9);
    p.update('b', "os_hash_value = 'ffff'");
    p.queue("ba");
    let before = fs::metadata(p.env.path("queue").join(id('b'))).unwrap().mtime();
    p.run(&[]).fails(1, &["expected ffff"]);
    assert_eq!(fs::metadata(p.env.path("queue").join(id('b'))).unwrap().mtime(), before);
    fs::remove_file(p.env.path("invalid").join(id('b'))).unwrap();
    let run = p.run(&[]).fails(1, &["in an earlier run", "expected ffff", "--retry"]);
    assert_eq!(Prefetch::told(&run, 'b')["outcome"], "skipped");
    assert_eq!(p.env.names("invalid"), [""; 0]);
    p.run(&["--retry"]).fails(1, &["expected ffff"]);
    assert_eq!(p.env.names("invalid"), [id('b')]);
    // Who names it wants it tried.
    fs::remove_file(p.env.path("invalid").join(id('b'))).unwrap();
    p.run(&[&id('b')]).fails(1, &["expected ffff"]);
    assert_eq!(p.env.names("invalid"), [id('b')]);
    p.update('b', &format!("os_hash_value = '{}'", digest("sha512sum", &content('b', 9))));
    p.run(&[]).ok();
    p.holds(&[('a', 9), ('b', 9)]);
    assert_eq!(p.queued(), "");
}

#[test]
fn a_missing_file_is_tried_again_each_time() {
    let p = Prefetch::new(Sqlite);
    p.record('a', &content('a', 9), &[&p.location('a')]);
    p.queue("a");
    p.run(&[]).code(1);
    fs::write(p.stored('a'), content('a', 9)).unwrap();
    p.run(&[]).ok();
    p.holds(&[('a', 9)]);
}

#[test]
fn what_cannot_be_verified_is_told_or_refused() {
    let p = Prefetch::new(Xattr);
    p.image('a', 9);
    p.update('a', "os_hash_algo = NULL, os_hash_value = NULL, checksum = NULL");
    p.queue("a");
    p.run(&["--require-checksum"]).fails(1, &["neither a hash nor a checksum", "stays in the queue"]);
    assert_eq!(p.env.images(), "");
    let run = p.run(&[]).ok().says(&["only by its size"]);
    assert_eq!(Prefetch::told(&run, 'a')["verified_by"], "size");
    p.holds(&[('a', 9)]);
}

#[test]
fn a_long_reason_is_remembered_too() {
    let p = Prefetch::new(Sqlite);
    let wrong = p.env.outside(format!("store/{}", vec!["d".repeat(200); 15].join("/")));
    fs::create_dir_all(wrong.parent().unwrap()).unwrap();
    fs::write(&wrong, content('b', 1000)).unwrap();
    p.record('a', &content('a', 1000), &[&format!("file://{}", wrong.display())]);
    let long = format!("odd://127.0.0.1:1/{}", "x".repeat(5000));
    p.locate('a', &long, "{}");
    p.queue("a");
    p.run(&[]).code(1);
    p.run(&[]).fails(1, &["in an earlier run"]);
}

#[test]
fn what_only_the_configuration_refuses_is_tried_once_it_is_mended() {
    let p = Prefetch::new(Sqlite);
    let bytes = content('a', 1000);
    fs::write(p.stored('a'), &bytes).unwrap();
    p.record('a', &bytes, &[&p.location('a')]);
    p.queue("a");
    let conf = p.env.conf(&format!("[glance_store]\nstores = rbd\n[database]\nconnection = {}", p.db.url));
    p.env.raw(&["prefetch", "--config-file", &conf]).fails(1, &["not enabled"]);
    p.run(&[]).ok();
    p.holds(&[('a', 1000)]);
}

/// A trigger passes the new row over, and the statement succeeds.
#[test]
fn an_image_whose_row_is_not_inserted_is_not_published() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.run(&[&id('a')]).ok();
    p.image('b', 9);
    p.queue("b");
    p.env.sql("CREATE TRIGGER no BEFORE INSERT ON cached_images BEGIN SELECT RAISE(IGNORE); END");
    p.run(&[]).fails(1, &["cannot be published", "was not inserted"]);
    assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("a", "b"));
}

/// A token alone does not say where Glance is: wrong settings, and nothing is tried.
#[test]
fn a_token_alone_is_no_way_to_glance() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 9);
    p.queue("a");
    let run = |arguments: &[&str], more: &[(&str, &str)]| {
        let mut command = p.command(arguments);
        p.env.finish(command.env("OS_TOKEN", "s3cret-t0ken").envs(more.iter().copied()))
    };
    let words = "cannot use Glance's API: OS_TOKEN does not say where Glance is: set OS_AUTH_URL to the address \
                 of its Keystone, or OS_IMAGE_ENDPOINT_OVERRIDE to that of Glance";
    run(&["--via", "api"], &[]).fails(2, &[words]);
    assert_eq!(p.queued(), "a");
    let place = [("OS_IMAGE_ENDPOINT_OVERRIDE", "http://127.0.0.1:1")];
    run(&["--via", "api"], &place).fails(1, &["cannot connect to 127.0.0.1 port 1"]);
    // What needs no API is fetched all the same.
    run(&[], &[]).ok();
    p.holds(&[('a', 9)]);
}

/// The glance-api of this host is asked with Glance's own credentials only.
#[test]
fn the_credentials_of_an_operator_ask_the_glance_of_their_catalogue() {
    let p = Prefetch::new(Xattr);
    p.record('a', b"image", &["cinder://store/a"]);
    let [own, theirs] = [(); 2].map(|()| Double::says(answer("404 Not Found", "", "")));
    let keystone = keystone(&theirs.url());
    let mut command = p.command(&[&id('a')]);
    command.env("OS_AUTH_URL", keystone.url()).env("OS_USERNAME", "u");
    command.env("OS_PASSWORD", "s3cret").env("OS_PROJECT_NAME", "p");
    command.env("OS_CACHE_API__GLANCE_API_URL", own.url());
    let _ = p.env.finish(&mut command).fails(1, &[&id('a'), "answers 404"]);
    assert_eq!((own.lines().len(), theirs.lines().is_empty()), (0, false));
}
