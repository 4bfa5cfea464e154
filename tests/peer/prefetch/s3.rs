//! Images from a real radosgw, by S3: whose keys are taken, and what is said when they do not do.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::*;
use crate::support::stores::{ACCESS_KEY, Ceph, Cut, OTHER_ACCESS_KEY, SECRET_KEY};

const SIZE: usize = 3_000_000;

/// An image in a bucket.
struct Object {
    ceph: &'static Ceph,
    name: String,
}

impl Object {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (ceph, name) = (Ceph::shared(), format!("keys-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        ceph.put("glance", &name, &content('a', SIZE));
        Object { ceph, name }
    }

    /// Its location without keys.
    fn bare(&self) -> String {
        format!("s3://{}/glance/{}", self.ceph.s3(), self.name)
    }

    /// Its location with these keys.
    fn with(&self, access: &str, secret: &str) -> String {
        self.bare().replace("s3://", &format!("s3+http://{access}:{secret}@"))
    }

    /// Returns the address of Glance's bucket, as messages name it.
    fn bucket(&self) -> String {
        format!("http://{}/glance/", self.ceph.s3())
    }

    fn fetch(&self, settings: &str, location: &str) -> (Prefetch, Run) {
        let p = Prefetch::new(Xattr);
        p.record('a', &content('a', SIZE), &[location]);
        p.queue("a");
        let host = format!("[glance_store]\nstores = file,s3\ns3_store_host = http://{}\n", self.ceph.s3());
        let conf = p.conf(&format!("{host}{settings}"));
        let run = p.env.raw(&["prefetch", "--config-file", &conf]);
        for secret in ["s3cret", "X-Amz", SECRET_KEY] {
            assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret}: {run:?}");
        }
        (p, run)
    }

    #[track_caller]
    fn is_given(&self, settings: &str, location: &str) {
        let (p, run) = self.fetch(settings, location);
        run.ok();
        p.holds(&[('a', SIZE)]);
    }

    #[track_caller]
    fn is_refused(&self, settings: &str, location: &str, why: &str) {
        let (p, run) = self.fetch(settings, location);
        let report = run.fails(1, &[why]).json();
        assert!(said(&report, 'a').contains(why), "{report}");
        p.holds(&[]);
    }
}

/// Returns the store's settings with these keys.
fn keys(access: &str, secret: &str) -> String {
    format!("s3_store_access_key = {access}\ns3_store_secret_key = {secret}\n")
}

fn right() -> String {
    keys(ACCESS_KEY, SECRET_KEY)
}

#[test]
fn the_keys_of_the_store() {
    let object = Object::new();
    object.is_given(&right(), &object.bare());
}

#[test]
fn the_keys_of_the_location() {
    let object = Object::new();
    object.is_given("", &object.with(ACCESS_KEY, SECRET_KEY));
}

#[test]
fn the_keys_of_the_location_when_the_store_names_no_host() {
    let object = Object::new();
    object.is_given("s3_store_host =\n", &object.with(ACCESS_KEY, SECRET_KEY));
}

#[test]
fn the_keys_of_the_location_when_those_of_the_store_are_unknown() {
    let object = Object::new();
    object.is_given(&keys("OLD", "s3cret"), &object.with(ACCESS_KEY, SECRET_KEY));
}

#[test]
fn the_keys_of_the_store_when_those_of_the_location_are_stale() {
    let object = Object::new();
    object.is_given(&right(), &object.with(ACCESS_KEY, "s3cret").replace("s3+http", "s3"));
}

#[test]
fn a_region_and_a_format_of_addresses() {
    let object = Object::new();
    let settings = right() + "s3_store_region_name = us-east-1\ns3_store_bucket_url_format = path\n";
    object.is_given(&settings, &object.bare());
}

#[test]
fn no_keys_at_all() {
    let object = Object::new();
    object.is_refused("", &object.bare(), &format!("{}: there are no keys for it", object.bare()));
}

#[test]
fn a_wrong_secret_in_the_location() {
    let object = Object::new();
    let why = format!("{} answers 403 (SignatureDoesNotMatch: the secret key is wrong)", object.bucket());
    object.is_refused("", &object.with(ACCESS_KEY, "s3cret").replace("s3+http", "s3"), &why);
}

#[test]
fn an_unknown_access_key() {
    let object = Object::new();
    let why = format!("{} answers 403 (InvalidAccessKeyId: the access key is unknown)", object.bucket());
    object.is_refused(&keys("OLD", "s3cret"), &object.bare(), &why);
}

#[test]
fn wrong_keys_in_both_places() {
    let object = Object::new();
    let why = format!(
        "{} answers 403 (SignatureDoesNotMatch: the secret key is wrong), with the store's keys and with the \
         location's own",
        object.bucket()
    );
    let location = object.with(ACCESS_KEY, "s3cret").replace("s3+http", "s3");
    object.is_refused(&keys("OLD", "s3cret"), &location, &why);
}

#[test]
fn keys_of_a_user_who_may_not_read_it() {
    let object = Object::new();
    let why = "answers 403 (AccessDenied: the keys are not accepted, or may not read it)";
    let why = format!("{} {why}", object.bucket());
    object.is_refused(&keys(OTHER_ACCESS_KEY, SECRET_KEY), &object.bare(), &why);
}

#[test]
fn an_object_that_is_not_there() {
    let object = Object::new();
    let why = format!("{} answers 404 (NoSuchKey: it is not there)", object.bucket());
    object.is_refused(&right(), &format!("{}-none", object.bare()), &why);
}

#[test]
fn a_bucket_that_is_not_there() {
    let object = Object::new();
    let s3 = object.ceph.s3();
    let why = format!("http://{s3}/none/ answers 404 (NoSuchBucket: its bucket does not exist");
    object.is_refused(&right(), &format!("s3://{s3}/none/one"), &why);
}

#[test]
fn a_store_that_breaks_off_half_way_is_followed_by_the_next_location() {
    let ceph = Ceph::shared();
    let (p, size) = (Prefetch::new(Sqlite), 24 << 20);
    let cut = Cut::start(&ceph.s3(), 2, 5 << 20);
    for letter in ['a', 'b'] {
        let (bytes, name) = (content(letter, size), format!("s3-breaks-{letter}"));
        ceph.put("glance", &name, &bytes);
        p.record(letter, &bytes, &[&format!("s3://{}/glance/{name}", cut.address)]);
    }
    fs::write(p.stored('b'), content('b', size)).unwrap();
    p.locate('b', &p.location('b'), "{}");
    p.queue("ab");
    let mut command = on_ceph(&p, ceph, &["--rate-limit", "16MB"]);
    command.env("OS_GLANCE_STORE__S3_STORE_HOST", format!("http://{}", cut.address));
    let run = Running::start(&mut command, &p.env.outside("")).wait();
    p.goes_on_after_a_broken_store(&run, "given up after", size, || on_ceph(&p, ceph, &[]));
}
