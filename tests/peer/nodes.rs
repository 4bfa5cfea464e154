//! Commands that ask nodes, with a real glance-api as the node and a real Keystone for the tokens.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::support::env::{self, BINARY, Run, until};
use crate::support::openstack::{GlanceApi, Keystone};
use crate::support::running::free_port;
use crate::support::service::Service;

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

/// A TLS server whose certificate, which the client trusts, is for another name.
struct OfAnotherName {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl OfAnotherName {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let openssl = |line: &str| {
            let mut command = Command::new("openssl");
            command.args(line.split_whitespace()).current_dir(dir.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other.example \
                    -addext subjectAltName=DNS:other.example -keyout key.pem -out cert.pem";
        assert!(openssl(make).status().unwrap().success());
        let serve = format!("s_server -accept 127.0.0.1:{port} -cert cert.pem -key key.pem -www -quiet");
        let child = openssl(&serve).spawn().unwrap();
        until("the server to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        OfAnotherName { child, url: format!("https://127.0.0.1:{port}"), dir }
    }
}

impl Drop for OfAnotherName {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Real nodes of every kind in one run: each has its own truth, and the totals are those of the nodes that have
/// done it.
#[test]
fn nodes_in_all_states() {
    let keystone = Keystone::shared();
    let (done, _) = with_two_images(keystone, "sqlite");
    let (locked, _) = with_two_images(keystone, "xattr");
    let older = GlanceApi::older(keystone, "sqlite", "");
    let authtoken = keystone.authtoken();
    let no_cache = "[DEFAULT]\nimage_cache_dir =\n[paste_deploy]\nflavor = keystone\n";
    let without_cache = GlanceApi::behind(&(authtoken.clone() + no_cache), "sqlite", "", 1);
    let rules = tempfile::tempdir().unwrap();
    fs::write(rules.path().join("policy.yaml"), "cache_prune: '!'\n").unwrap();
    let policy = format!("[oslo_policy]\npolicy_file = {}/policy.yaml\n", rules.path().display());
    let strict = GlanceApi::behind(&(authtoken + &policy), "sqlite", "", 1);
    let other = OfAnotherName::start();
    // Ours waits for its lock for a second, and says that it is busy.
    let busy_env = env::TestEnv::empty(env::Sqlite);
    let settings = busy_env.write("own.conf", "[cache_api]\nlock_timeout = 1s\n");
    let configuration = locked.configuration();
    let arguments = ["--config-file", &settings, "--bind", "127.0.0.1:0"];
    let busy = Service::at(&busy_env, configuration.to_str().unwrap(), &arguments);
    let busy_url = format!("http://{}", busy.address.as_ref().unwrap());
    let _held = lock(locked.cache().parent().unwrap(), "glance-cache-prune");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let rows: [(&str, &str, Value, &str); 8] = [
        (&done.url(), "done", json!(200), ""),
        (&locked.url(), "unknown", json!(null), "may have done it or still be at work"),
        (&older.url(), "not_supported", json!(405), "glance-api there is older than v2.18 (it says v2.1"),
        (&without_cache.url(), "caching_off", json!(404), "image_cache_dir is not set there"),
        (&strict.url(), "refused", json!(403), "role"),
        (&other.url, "unreachable", json!(null), "certificate"),
        // Whether there is time to ask it again depends on how long its answer took.
        (&busy_url, "busy", json!(503), "busy"),
        (&dead, "unreachable", json!(null), "refused"),
    ];
    let mut line = vec!["prune", "--timeout", "10s"];
    line.extend(rows.iter().flat_map(|(node, ..)| ["--os-image-url", node]));
    let authority = other.dir.path().join("cert.pem");
    let auth = keystone.url();
    let mut variables = openrc(&auth, "admin", "adminpw", "admin");
    variables.push(("OS_CACERT", authority.to_str().unwrap()));
    let result = run(&line, &variables).code(1).json();
    println!("{result}");
    for ((_, status, http, part), found) in rows.iter().zip(result["nodes"].as_array().unwrap()) {
        let error = found["error"].as_str().unwrap_or_default();
        assert_eq!((&found["status"], &found["http_status"]), (&json!(status), http), "{found}");
        assert!(error.contains(part), "{found}");
    }
    assert_eq!(
        json!([result["nodes_asked"], result["nodes_done"], result["total_files_pruned"]]),
        json!([8, 1, 1])
    );
    assert_eq!(result["errors"].as_array().unwrap().len(), 7);
}

/// A node goes on with what it was asked for when the client is killed.
#[test]
fn a_client_that_is_killed_leaves_the_node_at_work() {
    let keystone = Keystone::shared();
    let (glance, _) = with_two_images(keystone, "sqlite");
    let token = keystone.token("admin", "admin");
    let images =
        || glance.call("GET /v2/cache", &token, None).json()["cached_images"].as_array().unwrap().len();
    let held = lock(glance.cache().parent().unwrap(), "glance-cache-prune");
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.args(["prune", "--os-image-url", &glance.url()]).env_clear().stdin(Stdio::null());
    command.env("HOME", home.path()).env("OS_TOKEN", &token);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Nothing shows that Glance waits for its lock.
    std::thread::sleep(Duration::from_secs(2));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(images(), 2, "the lock was held");
    drop(held);
    until("Glance to prune", || images() == 1);
    run(&["prune", "--os-image-url", &glance.url()], &[("OS_TOKEN", &token)]).ok().has(&json!({
        "total_files_pruned": 0, "nodes_done": 1,
    }));
}
