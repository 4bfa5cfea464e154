//! Commands that ask nodes, with a real glance-api as the node and a real Keystone for the tokens.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::support::env::{self, BINARY, Run};
use crate::support::openstack::{GlanceApi, Keystone};

/// Runs the program with nothing but these variables.
#[must_use = "check the exit code: ok(), code(), fails()"]
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let home = tempfile::tempdir().unwrap();
    let mut ours = Command::new(BINARY);
    ours.args(arguments).env_clear().env("HOME", home.path()).envs(variables.iter().copied());
    ours.current_dir(home.path()).stdin(Stdio::null());
    env::run(&mut ours, home.path())
}

/// Returns the variables of an openrc file.
fn openrc<'a>(
    keystone: &'a str,
    user: &'a str,
    password: &'a str,
    project: &'a str,
) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OS_AUTH_URL", keystone),
        ("OS_USERNAME", user),
        ("OS_PASSWORD", password),
        ("OS_PROJECT_NAME", project),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
    ]
}

fn statuses(result: &Value) -> Vec<&str> {
    result["nodes"].as_array().unwrap().iter().map(|node| node["status"].as_str().unwrap()).collect()
}

/// A node whose cache has two images of ten bytes, and room for one.
fn with_two_images(keystone: &Keystone, driver: &str) -> (GlanceApi, Vec<String>) {
    let glance = GlanceApi::start(keystone, driver, "image_cache_max_size = 15");
    let token = keystone.token("admin", "admin");
    let ids = ["an image.1", "an image.2"].map(|content| glance.upload(&token, content.as_bytes()));
    for id in &ids {
        glance.download(&token, id);
    }
    let start = Instant::now();
    loop {
        let list = glance.call("GET /v2/cache", &token, None).json();
        if list["cached_images"].as_array().unwrap().len() == 2 {
            return (glance, ids.to_vec());
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{list}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_prunes_and_cleans_its_cache() {
    let keystone = Keystone::shared();
    let (glance, _) = with_two_images(keystone, "sqlite");
    let (url, auth) = (glance.url(), keystone.url());
    let admin = openrc(&auth, "admin", "adminpw", "admin");
    run(&["prune", "--os-image-url", &url], &admin).ok().has(&json!({
        "total_files_pruned": 1, "total_bytes_pruned": 10, "nodes_done": 1,
    }));
    // The service's own user has the role as well, and the configuration its password.
    glance.run("prune", &["--os-image-url", &url]).ok().has(&json!({"total_files_pruned": 0}));
    run(&["clean", "--os-image-url", &url], &admin).ok().has(&json!({
        "total_files_cleaned": null, "nodes_done": 1,
    }));
}

#[test]
fn list_and_status_show_what_the_node_answers() {
    let keystone = Keystone::shared();
    let (glance, ids) = with_two_images(keystone, "sqlite");
    let (url, auth) = (glance.url(), keystone.url());
    let admin = openrc(&auth, "admin", "adminpw", "admin");
    let ours = run(&["list", "--os-image-url", &url, "--format", "json"], &admin).ok().json();
    let theirs = glance.call("GET /v2/cache", &keystone.token("admin", "admin"), None).json();
    let by_id = |list: &Value| {
        let mut images = list["cached_images"].as_array().unwrap().clone();
        images.sort_by_key(|image| image["image_id"].to_string());
        let keys = ["image_id", "size", "hits", "last_accessed", "last_modified"];
        images.iter().map(|image| keys.map(|key| image[key].clone())).collect::<Vec<_>>()
    };
    assert_eq!(by_id(&ours), by_id(&theirs));
    assert!(ids.iter().all(|id| ours.to_string().contains(id.as_str())));
    run(&["status", "--os-image-url", &url, "--format", "json"], &admin).ok().has(&json!({
        "api_version": "v2.18", "images": 2, "bytes": 20, "queued": 0,
    }));
}

#[test]
fn who_may_not_is_refused() {
    let keystone = Keystone::shared();
    let (glance, _) = with_two_images(keystone, "sqlite");
    let (url, auth) = (glance.url(), keystone.url());
    let prune = ["prune", "--os-image-url", &url];
    for user in ["demo", "reader", "manager"] {
        let password = format!("{user}pw");
        let result = run(&prune, &openrc(&auth, user, &password, "demo")).code(1).json();
        assert_eq!((statuses(&result), &result["nodes"][0]["http_status"]), (vec!["refused"], &json!(403)));
    }
    let wrong = openrc(&auth, "admin", "wrong", "admin");
    run(&prune, &wrong).fails(3, &["refuses"]);
    let token = keystone.token("admin", "admin");
    let revoke = [("X-Auth-Token", token.as_str()), ("X-Subject-Token", token.as_str())];
    let answer = crate::support::http::send(&keystone.address(), "DELETE /v3/auth/tokens", &revoke, None);
    assert_eq!(answer.status, 204);
    for token in [token.as_str(), "garbage"] {
        let result = run(&prune, &[("OS_TOKEN", token)]).code(1).json();
        assert_eq!((statuses(&result), &result["nodes"][0]["http_status"]), (vec!["refused"], &json!(401)));
    }
    // Nothing was pruned by all that.
    let list = glance.call("GET /v2/cache", &keystone.token("admin", "admin"), None).json();
    assert_eq!(list["cached_images"].as_array().unwrap().len(), 2);
}

#[test]
fn all_nodes_of_the_central_database_do_it() {
    let keystone = Keystone::shared();
    let (glance, ids) = with_two_images(keystone, "centralized_db");
    glance.run("prune", &["--all-nodes"]).ok().has(&json!({
        "total_files_pruned": 1, "nodes_asked": 1, "nodes_done": 1,
    }));
    let arguments = ["--all-nodes", &ids[0], &ids[1], "11111111-2222-4333-8444-555555555555"];
    let run = glance.run("prefetch", &arguments).code(1).says(&["answers 404"]);
    assert_eq!(run.json()["total_images_queued"], 2);
}

#[test]
fn the_endpoint_of_the_catalogue_is_not_asked() {
    let keystone = Keystone::private("");
    let (glance, _) = with_two_images(&keystone, "centralized_db");
    keystone.add_endpoint("image", "RegionOne", &glance.url());
    glance.run("prune", &["--all-nodes"]).fails(3, &["no node was asked", "probably a load balancer"]);
    glance.run("prune", &["--os-image-url", &glance.url()]).ok().has(&json!({"total_files_pruned": 1}));
}

#[test]
fn an_application_credential_can_be_limited_to_prune() {
    // Glance keeps access rules only if the catalogue has its service.
    let keystone = Keystone::private("");
    keystone.add_endpoint("image", "RegionOne", "http://glance.example:9292");
    let glance = GlanceApi::behind(
        &(keystone.authtoken() + "service_type = image\n"),
        "sqlite",
        "image_cache_max_size = 15",
        1,
    );
    let token = keystone.token("admin", "admin");
    let user = keystone.call("GET", "/users?name=admin", Some(&token), None).json()["users"][0]["id"].take();
    let rules = json!([{"service": "image", "method": "POST", "path": "/v2/cache/prune"}]);
    let body = json!({"application_credential": {
        "name": format!("prune-{}", std::process::id()), "access_rules": rules, "secret": "s3cr3t",
    }});
    let path = format!("/users/{}/application_credentials", user.as_str().unwrap());
    let made = keystone.call("POST", &path, Some(&token), Some(&body));
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["application_credential"]["id"].as_str().unwrap().to_owned();
    let (url, auth) = (glance.url(), keystone.url());
    let variables = [
        ("OS_AUTH_URL", auth.as_str()),
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_APPLICATION_CREDENTIAL_ID", &id),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "s3cr3t"),
    ];
    run(&["prune", "--os-image-url", &url], &variables).ok().has(&json!({"nodes_done": 1}));
    let result = run(&["clean", "--os-image-url", &url], &variables).code(1).json();
    assert_eq!((statuses(&result), &result["nodes"][0]["http_status"]), (vec!["refused"], &json!(401)));
}

/// Takes oslo's lock of that name as glance-api does, until the file is dropped.
fn lock(dir: &Path, name: &str) -> File {
    let file = File::options().append(true).create(true).open(dir.join(name)).unwrap();
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

/// Glance waits for its lock without limit, so the node may still do it.
#[test]
fn a_node_that_waits_for_its_lock_is_unknown() {
    let keystone = Keystone::shared();
    let (glance, _) = with_two_images(keystone, "sqlite");
    let url = glance.url();
    let dir = glance.cache().parent().unwrap().to_owned();
    let held = lock(&dir, "glance-cache-prune");
    let start = Instant::now();
    let result = glance.run("prune", &["--os-image-url", &url, "--timeout", "2s"]).code(1).json();
    assert_eq!(statuses(&result), ["unknown"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(held);
    glance.stop();
    let result = glance.run("prune", &["--os-image-url", &url]).code(1).json();
    assert_eq!(statuses(&result), ["unreachable"]);
}
