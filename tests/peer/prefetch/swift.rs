//! Images from real Swift: OpenStack's own behind a real Keystone, and radosgw with the same Keystone; and
//! those that a real Glance has put there.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::env::{self, *};
use crate::support::http;
use crate::support::images::content;
use crate::support::openstack::GlanceApi;
use crate::support::prefetch::*;
use crate::support::stores::{Cut, Nginx};
use crate::support::swift::{LargeObject, ObjectStores, RADOSGW, SWIFT};

const SIZE: usize = 3_000_001;

/// A cache, Glance's database, and two stores of Swift.
struct SwiftStores {
    stores: &'static ObjectStores,
    prefetch: Prefetch,
    /// A file of accounts: `ref1` with the password of the user glance, `app` with an application credential.
    references: String,
}

impl SwiftStores {
    fn new(driver: Driver) -> Self {
        let (stores, prefetch) = (ObjectStores::shared(), Prefetch::new(driver));
        let id = stores.keystone.application_credential("glance", "service", &prefetch.db.name);
        let url = stores.keystone.url();
        let references = format!(
            "[ref1]\nauth_address = {url}\nuser = service:glance\nkey = 'glancepw'\n\
             project_domain_id = default\nuser_domain_name = Default\n\
             [app]\nauth_address = {url}\napplication_credential_id = {id}\n\
             application_credential_secret = s3cret\n"
        );
        SwiftStores { stores, prefetch, references }
    }

    /// Writes a configuration with a store for each region and more lines at its end, and returns its path.
    fn conf(&self, references: &str, more: &str) -> String {
        let (env, db) = (&self.prefetch.env, &self.prefetch.db);
        env.write("swift.conf", references);
        let base = env.conf_text("enabled_backends = sw:swift, gw:swift, disk:file");
        let text = format!(
            "{base}\n[database]\nconnection = {}\n[backend_defaults]\nswift_store_config_file = swift.conf\n\
             [disk]\nfilesystem_store_datadir = {}\n\
             [gw]\nswift_store_region = {RADOSGW}\n[sw]\nswift_store_region = {SWIFT}\n{more}\n",
            db.url,
            env.outside("store").display(),
        );
        env.write("stores.conf", text)
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn run(&self, more: &str, arguments: &[&str]) -> Run {
        let conf = self.conf(&self.references, more);
        let run = self.prefetch.env.raw(&[&["prefetch", "--config-file", &conf], arguments].concat());
        for secret in ["glancepw", "s3cret", "gAAAA"] {
            assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret}: {run:?}");
        }
        run
    }

    fn record(&self, letter: char, location: &str, store: &str) {
        self.prefetch.record(letter, &content(letter, SIZE), &[]);
        self.prefetch.locate(letter, location, &json!({ "store": store }).to_string());
    }

    /// Returns the location of an object with the password of the user glance in it.
    fn with_password(&self, object: &str) -> String {
        format!(
            "swift+http://service%3Aglance:glancepw@{}/v3/glance/{object}",
            self.stores.keystone.address()
        )
    }
}

/// Plain, static and dynamic large objects of both servers, with the credentials of a file, of a location and
/// of an application credential: fetched, and served by Glance's own driver.
#[test]
fn every_kind_of_object_fills_the_cache_and_glance_serves_it() {
    for driver in [Sqlite, Xattr] {
        let s = SwiftStores::new(driver);
        for (region, letters) in [(SWIFT, "abcd"), (RADOSGW, "ef01")] {
            let account = s.stores.account(region, "glance", "service");
            for (letter, kind) in letters.chars().zip(["plain", "static", "dynamic", "own"]) {
                let (bytes, name) = (content(letter, SIZE), format!("{}-{letter}", driver.name()));
                match kind {
                    "static" => account.put_large(&name, &bytes, 3, LargeObject::Static),
                    "dynamic" => account.put_large(&name, &bytes, 3, LargeObject::Dynamic),
                    _ => account.put("glance", &name, &bytes, &[]),
                }
                let store = if region == SWIFT { "sw" } else { "gw" };
                let location = match kind {
                    "own" => s.with_password(&name),
                    "static" => format!("swift+config://app/glance/{name}"),
                    _ => format!("swift+config://ref1/glance/{name}"),
                };
                s.record(letter, &location, store);
            }
        }
        s.prefetch.queue("01abcdef");
        let run = s.run("", &["-v"]).ok();
        let images: Vec<_> = "01abcdef".chars().map(|letter| (letter, SIZE)).collect();
        assert_eq!(run.json()["total_files_prefetched"], 8, "{}", run.stderr);
        s.prefetch.holds(&images);
        assert_eq!(s.prefetch.queued(), "");
        s.prefetch.glance_serves(&images);
    }
}

/// The account of the store's own section, and an endpoint that takes the catalogue's place.
#[test]
fn the_account_of_the_section_and_an_endpoint_of_its_own() {
    let s = SwiftStores::new(Sqlite);
    s.stores.account(RADOSGW, "glance", "service").put("glance", "section", &content('a', SIZE), &[]);
    s.record('a', "swift+config://ref1/glance/section", "sw");
    let url = s.stores.keystone.url();
    let conf = s.conf(
        "",
        &format!(
            "swift_store_config_file =\nswift_store_auth_address = {url}\nswift_store_user = \
             service:glance\nswift_store_key = glancepw\nswift_store_region = nowhere\n\
             swift_store_endpoint = {}",
            s.stores.endpoint(RADOSGW, "service")
        ),
    );
    s.prefetch.env.raw(&["prefetch", "--config-file", &conf, &id('a')]).ok();
    s.prefetch.holds(&[('a', SIZE)]);
}

/// Keystone and Swift behind TLS, with an authority of their own.
#[test]
fn an_authority_of_its_own() {
    let s = SwiftStores::new(Sqlite);
    let nginx = Nginx::start();
    s.stores.account(SWIFT, "glance", "service").put("glance", "tls", &content('a', SIZE), &[]);
    let behind = |url: &str| {
        let (port, path) = url.rsplit_once(':').unwrap().1.split_once('/').unwrap();
        nginx.https_url(&format!("/to/{port}/{path}"))
    };
    let (keystone, endpoint) =
        (behind(&s.stores.keystone.url()), behind(&s.stores.endpoint(SWIFT, "service")));
    let place = keystone.strip_prefix("https://").unwrap();
    s.record('a', &format!("swift://service%3Aglance:glancepw@{place}/glance/tls"), "sw");
    let endpoint = format!("swift_store_endpoint = {endpoint}\n");
    let refused = s.run(&endpoint, &[&id('a')]).code(1);
    let said = said(&refused.json(), 'a');
    assert!(said.contains("cannot establish TLS with localhost"), "{said}");
    let ca = format!("{endpoint}swift_store_cacert = {}\n", nginx.ca().display());
    s.run(&ca, &[&id('a')]).ok();
    s.prefetch.holds(&[('a', SIZE)]);

    s.record('b', "swift+config://ref1/glance/tls", "sw");
    s.prefetch.update('b', "checksum = NULL, os_hash_algo = NULL, os_hash_value = NULL");
    let run = s.run(&format!("{endpoint}swift_store_auth_insecure = true\n"), &[&id('b')]).ok();
    assert!(run.stderr.contains("swift_store_auth_insecure is set"), "{}", run.stderr);
}

/// The password in a location has been replaced since, and the store's own account has the new one.
#[test]
fn an_old_password_in_a_location() {
    let s = SwiftStores::new(Xattr);
    s.stores.account(SWIFT, "glance", "service").put("glance", &id('a'), &content('a', SIZE), &[]);
    s.record('a', &s.with_password(&id('a')).replace("glancepw", "wr0ng"), "sw");
    s.run("", &[&id('a')]).ok();
    s.prefetch.holds(&[('a', SIZE)]);
}

/// What a real Glance put into Swift is read where Glance says it is, and Glance serves it from the cache when
/// Swift has it no more.
#[test]
fn what_glance_put_there() {
    let stores = ObjectStores::shared();
    let references = tempfile::NamedTempFile::new().unwrap();
    let url = stores.keystone.url();
    let text = format!("[ref1]\nauth_address = {url}\nuser = service:glance\nkey = glancepw\n");
    fs::write(references.path(), text).unwrap();
    let glance = GlanceApi::start(
        stores.keystone,
        "sqlite",
        &format!(
            "enabled_backends = fs:file, web:http, sw:swift\n[sw]\nswift_store_config_file = {}\n\
             default_swift_reference = ref1\n\
             swift_store_region = {SWIFT}\nswift_store_container = images\n\
             swift_store_create_container_on_put = true",
            references.path().display()
        ),
    );
    let token = stores.keystone.token("admin", "admin");
    let bytes = content('a', SIZE);
    let image = glance.upload_to(&token, &bytes, Some("sw"));
    let run = glance.run("prefetch", &["-v", &image]).ok();
    assert!(run.stderr.contains(&format!("from swift+config://ref1/images/{image}")), "{}", run.stderr);
    let account = stores.account(SWIFT, "glance", "service");
    let deleted = account.call("DELETE", &format!("images/{image}"), &[], None);
    assert!((200..300).contains(&deleted.status), "{}", deleted.text());
    assert_eq!(account.call("GET", &format!("images/{image}"), &[], None).status, 404);
    assert!(glance.download(&token, &image) == bytes);
}

/// A stream that breaks goes on where it broke, for each kind of object on both servers.
#[test]
fn a_break_is_taken_up() {
    for region in [SWIFT, RADOSGW] {
        let s = SwiftStores::new(Xattr);
        let account = s.stores.account(region, "glance", "service");
        for (letter, kind) in
            [('a', None), ('b', Some(LargeObject::Static)), ('c', Some(LargeObject::Dynamic))]
        {
            let (bytes, name) = (content(letter, SIZE), format!("breaks-{letter}"));
            match kind {
                None => account.put("glance", &name, &bytes, &[]),
                Some(kind) => account.put_large(&name, &bytes, 3, kind),
            }
            s.record(letter, &format!("swift+config://ref1/glance/{name}"), "sw");
            let cut = Cut::start(&s.stores.address(region), 2, 2_000_000);
            let endpoint = s.stores.endpoint(region, "service");
            let endpoint = endpoint.replace(&s.stores.address(region), &cut.address);
            s.run(&format!("swift_store_endpoint = {endpoint}"), &[&id(letter)]).ok();
        }
        s.prefetch.holds(&[('a', SIZE), ('b', SIZE), ('c', SIZE)]);
    }
}

/// A token that is revoked in the middle of an image is renewed when the stream breaks.
#[test]
fn a_token_that_dies_in_the_middle_is_renewed() {
    const LARGE: usize = 24 << 20;
    let s = SwiftStores::new(Sqlite);
    let keystone = s.stores.keystone;
    keystone.add_user("shortlived", "demo", "member");
    let bytes = content('a', LARGE);
    s.stores.account(SWIFT, "shortlived", "demo").put("glance", "dies", &bytes, &[]);
    s.prefetch.record('a', &bytes, &["swift+config://short/glance/dies"]);
    // One connection is broken off, one is refused with the old token, and one has the new token.
    let cut = Cut::start(&s.stores.address(SWIFT), 3, 16 << 20);
    let endpoint = s.stores.endpoint(SWIFT, "demo");
    let behind = endpoint.replace(&s.stores.address(SWIFT), &cut.address);
    let references =
        format!("[short]\nauth_address = {}\nuser = demo:shortlived\nkey = shortlivedpw\n", keystone.url());
    let conf = s.conf(&references, &format!("swift_store_endpoint = {behind}"));
    let mut command = s.prefetch.env.command(BINARY);
    command.args(["prefetch", "--config-file", &conf, "--rate-limit", "2MiB", &id('a')]);
    let old = keystone.token("shortlived", "demo");
    let running = Running::start(&mut command, &s.prefetch.env.outside(""));
    std::thread::sleep(Duration::from_secs(2));
    keystone.revoke_tokens("shortlived");
    let path = endpoint.split_once(&s.stores.address(SWIFT)).unwrap().1.to_owned() + "/glance/dies";
    let head = format!("HEAD {path}");
    let refused = http::send(&s.stores.address(SWIFT), &head, &[("X-Auth-Token", &old)], None);
    assert_eq!(refused.status, 401);
    running.wait().ok();
    s.prefetch.holds(&[('a', LARGE)]);
}

/// What is wrong, and the line that says so. The image stays in the queue, and the others are fetched.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_is_said_and_the_others_go_on() {
    let s = SwiftStores::new(Sqlite);
    let account = s.stores.account(SWIFT, "glance", "service");
    account.put("glance", "good", &content('0', SIZE), &[]);
    account.put_large("missing", &content('a', SIZE), 3, LargeObject::Static);
    assert_eq!(account.call("DELETE", "glance/missing-00001", &[], None).status, 204);
    account.put_large("shorter", &content('b', SIZE), 3, LargeObject::Dynamic);
    assert_eq!(account.call("DELETE", "glance/shorter-00001", &[], None).status, 204);
    let (address, url) = (s.stores.keystone.address(), s.stores.keystone.url());
    let project = s.stores.endpoint(SWIFT, "demo");
    s.record('0', "swift+config://ref1/glance/good", "sw");
    let cases = [
        ('a', "swift+config://ref1/glance/missing".to_owned(), "sw", "not resumed after"),
        (
            'b',
            "swift+config://ref1/glance/shorter".to_owned(),
            "sw",
            "size mismatch: got 2000000 bytes, expected 3000001",
        ),
        ('c', "swift+config://ref1/glance/none".to_owned(), "sw", "answers 404 (it is not there"),
        (
            'd',
            format!("swift+http://service%3Aglance:wr0ng@{address}/v3/glance/good"),
            "bare",
            "Keystone at {url}/auth/tokens refuses the user 'glance' (domain 'default') for the project \
             'service' (domain 'default'): the password is wrong",
        ),
        (
            'e',
            s.with_password("good"),
            "two",
            "the catalogue has several public endpoints of 'object-store', in the regions Ceph, RegionOne: \
             choose one with swift_store_region",
        ),
        ('f', s.with_password("good"), "none", "the catalogue has no service of the type 'objects': it has"),
        ('1', s.with_password("good"), "demo", "answers 403 (the user of the account may not read it)"),
        ('2', "swift+config://other/glance/good".to_owned(), "sw", "the account other is not in"),
        (
            '3',
            format!("swift+http://{}/glance/good", project.strip_prefix("http://").unwrap()),
            "sw",
            "it has no credentials, as in a store with swift_store_multi_tenant, which is read through \
             Glance's API only; Glance's API could give the image, but there are no credentials: set OS_CLOUD",
        ),
        ('4', "swift+http://service%3Aglance:x@127.0.0.1:1/v3/glance/o".to_owned(), "sw", "cannot connect"),
    ];
    for (letter, location, store, _) in &cases {
        s.record(*letter, location, store);
    }
    let letters: String = cases.iter().map(|(letter, ..)| *letter).collect();
    s.prefetch.queue(&format!("{letters}0"));
    let more = format!(
        "[two]\n[none]\nswift_store_service_type = objects\n[demo]\nswift_store_endpoint = {project}\n\
         [bare]\nswift_store_config_file =\n[DEFAULT]\nenabled_backends = sw:swift, gw:swift, disk:file, \
         two:swift, none:swift, demo:swift, bare:swift"
    );
    let run = s.run(&more, &[]).code(1);
    let report = run.json();
    for (letter, _, _, why) in &cases {
        let why = why.replace("{url}", &url);
        let said = said(&report, *letter);
        assert!(said.contains(&why), "{letter}: {said}");
        assert!(said.contains(r#""queued":true"#) && !said.contains("wr0ng"), "{said}");
    }
    s.prefetch.holds(&[('0', SIZE)]);
    assert_eq!(s.prefetch.queued().chars().count(), cases.len());
}

/// The location of a multi-tenant store, and one that nothing here reads, come through Glance's API.
#[test]
fn a_multi_tenant_location_comes_through_the_api() {
    let stores = ObjectStores::shared();
    let glance = GlanceApi::start(stores.keystone, "sqlite", "");
    let token = stores.keystone.token("admin", "admin");
    let bytes = content('a', SIZE);
    let image = glance.upload(&token, &bytes);
    // A copy of its database says that the image is in a store that only Glance can read.
    let location = format!("swift+http://h/v1/AUTH_x/glance/{image}");
    let database = glance.database_with_location(&image, &location);
    let mut ours = Command::new(BINARY);
    ours.args(["prefetch", "--config-file"]).arg(glance.configuration()).args(["-v", "--database"]);
    ours.arg(format!("sqlite:///{}", database.path().display()))
        .arg(&image)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    ours.env("OS_CACHE_API__GLANCE_API_URL", glance.url());
    ours.env("OS_DEFAULT__ENABLED_BACKENDS", "sw:swift");
    let run = env::run(&mut ours, &std::env::temp_dir()).ok();
    let place = format!("from {location} (through Glance's API)");
    assert!(run.stderr.contains(&place), "{}", run.stderr);
    assert!(fs::read(glance.cache().join(&image)).unwrap() == bytes);
}
