//! Images through the API of a real glance-api, with a real Keystone for the tokens.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::env::{self, *};
use crate::support::images::content;
use crate::support::openstack::{GlanceApi, Keystone};
use crate::support::prefetch::Prefetch;
use crate::support::stores::Cut;

const SIZE: usize = 3_000_001;

/// Returns `prefetch` beside a glance-api, not run yet, with nothing but these variables.
fn ours(glance: &GlanceApi, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut ours = Command::new(BINARY);
    ours.args(["prefetch", "--config-file"]).arg(glance.configuration()).args(arguments);
    ours.env_clear().env("HOME", "/nonexistent").envs(variables.iter().copied()).stdin(Stdio::null());
    ours
}

#[must_use = "check the exit code: ok(), code(), fails()"]
fn run(glance: &GlanceApi, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let run = env::run(&mut ours(glance, arguments, variables), &std::env::temp_dir());
    for secret in ["adminpw", "glancepw", "demopw", "gAAAA"] {
        assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret}: {run:?}");
    }
    run
}

/// Returns what the report says of its only image.
fn reason(run: &Run) -> String {
    run.json()["images"][0]["message"].as_str().unwrap_or_default().to_owned()
}

/// Returns the entry of an image in the node's own list, when it is there.
#[track_caller]
fn listed(glance: &GlanceApi, token: &str, image: &str) -> Value {
    let start = Instant::now();
    loop {
        let list = glance.call("GET /v2/cache", token, None).json();
        let images = list["cached_images"].as_array().unwrap();
        let mut found = images.iter().filter(|cached| cached["image_id"] == *image);
        if let Some(first) = found.next() {
            assert!(found.next().is_none(), "{list}");
            return first.clone();
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{list}");
        sleep(Duration::from_millis(50));
    }
}

/// The node itself is asked. Its cache middleware would cache the image, as it does for a client; while our
/// claim is there it does not, and it serves what we have fetched.
#[test]
fn the_node_itself_does_not_cache_the_image_a_second_time() {
    for driver in ["sqlite", "xattr", "centralized_db"] {
        let keystone = Keystone::shared();
        let glance = GlanceApi::start(keystone, driver, "debug = true");
        let token = keystone.token("admin", "admin");
        let (bytes, booted) = (content('a', SIZE), glance.upload(&token, b"an image that was booted"));
        let image = glance.upload(&token, &bytes);
        glance.download(&token, &booted);
        listed(&glance, &token, &booted);

        let url = glance.url();
        let variables = [("OS_CACHE_API__GLANCE_API_URL", url.as_str())];
        let arguments = ["--via", "api", "-v", "--rate-limit", "1500000", &image];
        let running = Running::start(&mut ours(&glance, &arguments, &variables), &std::env::temp_dir());
        let claim = glance.cache().join("incomplete").join(&image);
        until("the claim", || claim.exists());
        sleep(Duration::from_secs(1));
        assert_eq!(claim.metadata().unwrap().len(), 0, "{driver}: somebody writes to our claim");
        let run = running.wait().ok();
        assert!(run.stderr.contains("from Glance's API, verified by sha512"), "{}", run.stderr);

        let tees = |image: &str| glance.log().matches(&format!("Tee'ing image '{image}' into cache")).count();
        assert_eq!((tees(&booted), tees(&image)), (1, 0), "{driver}");
        assert_eq!(listed(&glance, &token, &image)["hits"], 0, "{driver}");
        // It is served from the cache, also when the store has lost it.
        fs::remove_file(glance.stored(&image)).unwrap();
        assert!(glance.download(&token, &image) == bytes, "{driver}");
        assert_eq!(listed(&glance, &token, &image)["hits"], 1, "{driver}");
    }
}

/// A location that nothing here reads comes through the API, with `--via auto`, and says so without it.
#[test]
fn a_location_that_nothing_reads() {
    let keystone = Keystone::shared();
    let glance = GlanceApi::start(keystone, "sqlite", "");
    let token = keystone.token("admin", "admin");
    let bytes = content('a', SIZE);
    let url = glance.url();
    let variables = [("OS_CACHE_API__GLANCE_API_URL", url.as_str())];
    for location in ["cinder://store/volume", "vsphere://h/folder/x?dcPath=d&dsName=e", "ftp://u:s3cret@h/x"]
    {
        let image = glance.upload(&token, &bytes);
        let database = glance.database_with_location(&image, location);
        let database_url = format!("sqlite:///{}", database.path().display());
        let arguments = ["--database", &database_url, "-v", &image];
        let left_out = [&arguments[..], &["--via", "store"]].concat();
        let refused = run(&glance, &left_out, &variables).code(1);
        assert!(refused.stderr.contains("but --via store leaves it out"), "{}", refused.stderr);
        let fetched = run(&glance, &arguments, &variables).ok();
        assert!(fetched.stderr.contains("(through Glance's API)"), "{}", fetched.stderr);
        assert!(!fetched.stderr.contains("s3cret"), "{}", fetched.stderr);
        assert!(fs::read(glance.cache().join(&image)).unwrap() == bytes);
        assert!(glance.download(&token, &image) == bytes);
    }
}

/// Nothing is configured: the message says what to set, and the other images are fetched.
#[test]
fn without_credentials_the_message_says_what_to_set() {
    let p = Prefetch::new(Sqlite);
    p.image('a', SIZE);
    p.record('b', &content('b', 9), &["cinder://store/volume"]);
    p.queue("ba");
    let run = p.run(&[]).code(1);
    let said = Prefetch::told(&run, 'b').to_string();
    assert!(
        said.contains(
            "there are no credentials: set OS_CLOUD (or --os-cloud), OS_AUTH_URL and what goes with it"
        ),
        "{said}"
    );
    p.holds(&[('a', SIZE)]);
    assert_eq!(p.queued(), "b");
    p.run(&["--via", "api"]).fails(2, &["cannot use Glance's API", "there are no credentials: set OS_CLOUD"]);
    p.run(&["--os-cloud", "site"]).fails(2, &["cannot use the cloud"]);
    p.run(&["--via", "elsewhere"]).fails(2, &["invalid value 'elsewhere' for '--via <WAY>'"]);
}

/// The address from the catalogue: no service, two regions, one of them chosen; and credentials that are
/// wrong, or may not see the image.
#[test]
fn the_address_of_the_catalogue_and_other_credentials() {
    let keystone = Keystone::private("");
    let glance = GlanceApi::start(&keystone, "sqlite", "");
    let token = keystone.token("admin", "admin");
    let image = glance.upload(&token, &content('a', SIZE));
    let url = keystone.url();
    let openrc = |user: &'static str, password: &'static str, project: &'static str| {
        vec![
            ("OS_AUTH_URL", url.as_str()),
            ("OS_USERNAME", user),
            ("OS_PASSWORD", password),
            ("OS_PROJECT_NAME", project),
        ]
    };
    let admin = openrc("admin", "adminpw", "admin");
    let arguments = ["--via", "api", &image];
    let refused = |variables: &[(&str, &str)], why: &str| {
        let run = run(&glance, &[&arguments[..], &["--retry"]].concat(), variables).code(1);
        let said = reason(&run);
        assert!(said.contains(why), "{said}, not {why}");
    };
    refused(&admin, "the catalogue has no service of the type 'image': it has identity");
    keystone.add_endpoint("image", "RegionOne", &glance.url());
    keystone.add_endpoint("image", "North", "http://127.0.0.1:1");
    refused(&admin, "the catalogue has several public endpoints of 'image', in the regions North, RegionOne");
    let north = [&admin[..], &[("OS_REGION_NAME", "North")]].concat();
    refused(&north, "cannot connect to 127.0.0.1");
    let wrong = [&openrc("admin", "wr0ng", "admin")[..], &[("OS_REGION_NAME", "RegionOne")]].concat();
    refused(&wrong, "refuses the user 'admin' (domain 'default')");
    let override_url = glance.url();
    let somebody = [&openrc("demo", "demopw", "demo")[..], &[("OS_IMAGE_ENDPOINT_OVERRIDE", &override_url)]];
    let somebody = somebody.concat();
    glance.make_private(&token, &image);
    refused(&somebody, "answers 404 (there is no such image, or these credentials may not see it)");
    let right = [&admin[..], &[("OS_REGION_NAME", "RegionOne")]].concat();
    run(&glance, &arguments, &right).ok();
    assert!(fs::read(glance.cache().join(&image)).unwrap() == content('a', SIZE));
}

/// The credentials of a cloud in clouds.yaml, with the address of a node in it.
#[test]
fn the_cloud_of_a_file() {
    let keystone = Keystone::shared();
    let glance = GlanceApi::start(keystone, "xattr", "");
    let token = keystone.token("admin", "admin");
    let image = glance.upload(&token, &content('a', SIZE));
    let credential = keystone.application_credential("admin", "admin", "the_cloud_of_a_file");
    let clouds = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "clouds:\n  site:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: {}\n      \
         application_credential_id: {credential}\n      application_credential_secret: s3cret\n    \
         image_endpoint_override: {}/v2/\n",
        keystone.url(),
        glance.url()
    );
    fs::write(clouds.path(), text).unwrap();
    let variables = [("OS_CLIENT_CONFIG_FILE", clouds.path().to_str().unwrap())];
    run(&glance, &["--via", "api", "--os-cloud", "none", &image], &variables).fails(2, &["has only site"]);
    let run = run(&glance, &["--via", "api", "--os-cloud", "site", "-v", &image], &variables).ok();
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert!(fs::read(glance.cache().join(&image)).unwrap() == content('a', SIZE));
}

/// A stream that breaks goes on where it broke, and a token that was revoked meanwhile is renewed.
#[test]
fn a_break_is_taken_up_with_a_new_token() {
    const LARGE: usize = 24 << 20;
    let keystone = Keystone::shared();
    // The middleware would go on to accept a token for five minutes.
    let authtoken = keystone.authtoken() + "token_cache_time = -1\n";
    let glance = GlanceApi::behind(&authtoken, "sqlite", "", 1);
    keystone.add_user("revoked", "admin", "admin");
    let token = keystone.token("admin", "admin");
    let bytes = content('a', LARGE);
    let image = glance.upload(&token, &bytes);
    // One connection is broken off, one is refused with the old token, and one has the new token.
    let cut = Cut::start(&glance.address(), 3, 16 << 20);
    let (url, endpoint) = (keystone.url(), format!("http://{}", cut.address));
    let variables = [
        ("OS_AUTH_URL", url.as_str()),
        ("OS_USERNAME", "revoked"),
        ("OS_PASSWORD", "revokedpw"),
        ("OS_PROJECT_NAME", "admin"),
        ("OS_IMAGE_ENDPOINT_OVERRIDE", &endpoint),
    ];
    let old = keystone.token("revoked", "admin");
    let arguments = ["--via", "api", "--rate-limit", "4MiB", &image];
    let running = Running::start(&mut ours(&glance, &arguments, &variables), &std::env::temp_dir());
    sleep(Duration::from_secs(2));
    keystone.revoke_tokens("revoked");
    assert_eq!(glance.call("GET /v2/images", &old, None).status, 401);
    running.wait().ok();
    assert!(fs::read(glance.cache().join(&image)).unwrap() == bytes);
}
