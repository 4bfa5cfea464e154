//! A real Keystone, and a real glance-api with its cache: `tests/peer/openstack.sh` runs them behind uWSGI.
//!
//! One Keystone serves all tests of a run that do not change it for others; a test that stops it, or wants
//! another configuration, has one of its own. Each test has its own glance-api.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::env::{self, BINARY, Run};
use super::http::{self, Answer};
use super::needs;
use super::running::{self, Keep, Servers};

/// A Keystone with the users of `tests/peer/openstack.sh`: each has the password `NAMEpw`.
pub(crate) struct Keystone(Servers);

impl Keystone {
    /// Returns the one that all tests share.
    pub(crate) fn shared() -> &'static Keystone {
        static KEYSTONE: OnceLock<Keystone> = OnceLock::new();
        needs::keystone();
        KEYSTONE.get_or_init(|| Self::start("", Keep::ForTheRun))
    }

    /// Starts one that only the caller has, with these lines added to its configuration.
    pub(crate) fn private(configuration: &str) -> Keystone {
        Self::start(configuration, Keep::ForTheTest)
    }

    fn start(configuration: &str, keep: Keep) -> Self {
        let mut command = Servers::script("openstack.sh", "keystone");
        command.env("PYTHON", needs::keystone());
        Keystone(Servers::prepared(&mut command, 1, keep, |dir, _| {
            fs::write(dir.join("extra.conf"), configuration).unwrap();
        }))
    }

    /// Returns host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0.ports[0])
    }

    /// Returns the URL as deployments write it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v3", self.address())
    }

    /// Returns `[keystone_authtoken]` of the service user glance.
    pub(crate) fn authtoken(&self) -> String {
        let url = self.url();
        format!(
            "[keystone_authtoken]\nwww_authenticate_uri = {url}\nauth_url = {url}\nauth_type = password\n\
             project_domain_id = default\nuser_domain_id = default\nproject_name = service\n\
             username = glance\npassword = glancepw\n"
        )
    }

    /// Calls it: the path is what follows `/v3`.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", "application/json")];
        headers.extend(token.map(|token| ("X-Auth-Token", token)));
        let body = body.map(|body| body.to_string().into_bytes());
        http::send(&self.address(), &format!("{method} /v3{path}"), &headers, body.as_deref())
    }

    /// Calls it as its administrator; a failure fails the test.
    #[track_caller]
    pub(crate) fn administer(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.call(method, path, Some(&self.token("admin", "admin")), body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// Returns a new token of a user for a project.
    #[track_caller]
    pub(crate) fn token(&self, user: &str, project: &str) -> String {
        let domain = json!({"id": "default"});
        self.authenticate(user, json!({"project": {"name": project, "domain": domain}}))
    }

    /// Returns a new token of a user for a scope, which is null for none.
    #[track_caller]
    pub(crate) fn authenticate(&self, user: &str, scope: Value) -> String {
        let password =
            json!({"user": {"name": user, "domain": {"id": "default"}, "password": format!("{user}pw")}});
        let mut auth = json!({"identity": {"methods": ["password"], "password": password}});
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        let answer = self.call("POST", "/auth/tokens", None, Some(&json!({"auth": auth})));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("X-Subject-Token").unwrap().to_owned()
    }

    /// Adds a user, with the password `NAMEpw`, who has a role in a project.
    pub(crate) fn add_user(&self, name: &str, project: &str, role: &str) {
        let id = |path: &str, kind: &str| {
            let found = self.administer("GET", path, None);
            found[kind][0]["id"].as_str().unwrap_or_else(|| panic!("{path}: {found}")).to_owned()
        };
        let body = json!({"user": {"name": name, "password": format!("{name}pw"), "domain_id": "default"}});
        let user = self.administer("POST", "/users", Some(&body))["user"]["id"].as_str().unwrap().to_owned();
        let project = id(&format!("/projects?name={project}"), "projects");
        let role = id(&format!("/roles?name={role}"), "roles");
        self.administer("PUT", &format!("/projects/{project}/users/{user}/roles/{role}"), None);
    }

    /// Revokes all tokens of a user, who may log in again.
    pub(crate) fn revoke_tokens(&self, name: &str) {
        let found = self.administer("GET", &format!("/users?name={name}"), None);
        let path = format!("/users/{}", found["users"][0]["id"].as_str().unwrap());
        for enabled in [false, true] {
            self.administer("PATCH", &path, Some(&json!({"user": {"enabled": enabled}})));
        }
    }

    /// Makes an application credential of a user and returns its id; its secret is `s3cret`.
    pub(crate) fn application_credential(&self, user: &str, project: &str, name: &str) -> String {
        let token = self.token(user, project);
        let me = self.administer("GET", &format!("/users?name={user}"), None);
        let path = format!("/users/{}/application_credentials", me["users"][0]["id"].as_str().unwrap());
        let body = json!({"application_credential": {"name": name, "secret": "s3cret"}});
        let made = self.call("POST", &path, Some(&token), Some(&body));
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["application_credential"]["id"].as_str().unwrap().to_owned()
    }

    /// Adds a service with one endpoint for all interfaces to the catalogue.
    pub(crate) fn add_endpoint(&self, kind: &str, region: &str, url: &str) {
        let service = json!({"service": {"type": kind, "name": kind}});
        let service = self.administer("POST", "/services", Some(&service))["service"]["id"].take();
        if region != "RegionOne" {
            let known = self.administer("GET", "/regions", None);
            let regions = known["regions"].as_array().unwrap();
            if !regions.iter().any(|known| known["id"] == region) {
                self.administer("POST", "/regions", Some(&json!({"region": {"id": region}})));
            }
        }
        for interface in ["public", "internal", "admin"] {
            let endpoint =
                json!({"interface": interface, "url": url, "service_id": service, "region_id": region});
            self.administer("POST", "/endpoints", Some(&json!({"endpoint": endpoint})));
        }
    }

    /// Stops it as an operator does, and waits until nobody answers.
    pub(crate) fn stop(&self) {
        self.0.stop();
        self.until(false);
    }

    /// Starts it again and waits until it answers.
    pub(crate) fn start_again(&self) {
        self.0.start_again();
        self.until(true);
    }

    /// Makes it keep silent, until [`Keystone::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Sends a signal to the master process and to its workers.
    fn signal_all(&self, signal: Signal) {
        let master = fs::read_to_string(self.0.dir.join("pid")).unwrap().trim().to_owned();
        let workers = env::children(master.parse().unwrap()).into_iter().map(|pid| pid.to_string());
        workers.chain([master]).for_each(|pid| running::signal(signal, &pid));
    }

    fn until(&self, wanted: bool) {
        until_connects(&self.address(), wanted);
    }
}

/// A glance-api with Keystone in front of it, a file store and a cache.
pub(crate) struct GlanceApi {
    servers: Servers,
}

impl GlanceApi {
    /// Starts one whose cache has this driver. `settings` are added to its configuration: lines of
    /// `[DEFAULT]` first, then sections.
    pub(crate) fn start(keystone: &Keystone, driver: &str, settings: &str) -> Self {
        Self::behind(&keystone.authtoken(), driver, settings, 1)
    }

    /// Starts one with these `[keystone_authtoken]` and so many processes of four threads.
    pub(crate) fn behind(authtoken: &str, driver: &str, settings: &str, processes: usize) -> Self {
        let mut command = Servers::script("openstack.sh", "glance");
        command.env("PROCESSES", processes.to_string());
        Self::run_by(command, &needs::glance(), (authtoken, driver, settings))
    }

    /// Starts a Glance 32: its Cache API has neither clean nor prune.
    pub(crate) fn older(keystone: &Keystone, driver: &str, settings: &str) -> Self {
        let command = Servers::script("openstack.sh", "glance");
        Self::run_by(command, &needs::glance_32(), (&keystone.authtoken(), driver, settings))
    }

    fn run_by(
        mut command: Command,
        python: &Path,
        (authtoken, driver, settings): (&str, &str, &str),
    ) -> Self {
        command.env("PYTHON", python);
        let paste = python.parent().unwrap().with_file_name("etc/glance/glance-api-paste.ini");
        let servers = Servers::prepared(&mut command, 1, Keep::ForTheTest, |dir, ports| {
            for name in ["etc", "cache", "store", "staging", "tasks"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
            fs::copy(paste, dir.join("etc/api-paste.ini")).unwrap();
            let text = configuration(dir, ports[0], driver, settings) + authtoken;
            fs::write(dir.join("etc/glance-api.conf"), text).unwrap();
        });
        GlanceApi { servers }
    }

    /// Returns host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.servers.ports[0])
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns the directory of its configuration: `--config-dir` for the program.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.servers.dir.join("etc/glance-api.conf")
    }

    /// Returns the directory of all its files.
    pub(crate) fn directory(&self) -> &Path {
        &self.servers.dir
    }

    /// Returns the directory of its cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.servers.dir.join("cache")
    }

    /// Runs `glance-cache COMMAND --config-file CONF ARGUMENTS` beside it.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let mut ours = Command::new(BINARY);
        ours.args([command, "--config-file"]).arg(self.configuration()).args(arguments);
        ours.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        env::run(&mut ours, &self.servers.dir)
    }

    /// Sends a request with this token.
    #[track_caller]
    pub(crate) fn call(&self, line: &str, token: &str, body: Option<&[u8]>) -> Answer {
        http::send(&self.address(), line, &[("X-Auth-Token", token)], body)
    }

    /// Returns what it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.servers.dir.join("glance.log")).unwrap_or_default()
    }

    /// Makes an image with this content in its store and returns the id.
    #[track_caller]
    pub(crate) fn upload(&self, token: &str, content: &[u8]) -> String {
        self.upload_to(token, content, None)
    }

    /// Makes an image with this content in one of its stores and returns the id.
    #[track_caller]
    pub(crate) fn upload_to(&self, token: &str, content: &[u8], store: Option<&str>) -> String {
        let image = json!({"name": "image", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
        let headers = [("X-Auth-Token", token), ("Content-Type", "application/json")];
        let made =
            http::send(&self.address(), "POST /v2/images", &headers, Some(image.to_string().as_bytes()));
        assert_eq!(made.status, 201, "{}\n{}", made.text(), self.log());
        let id = made.json()["id"].as_str().unwrap().to_owned();
        let mut headers = vec![("X-Auth-Token", token), ("Content-Type", "application/octet-stream")];
        headers.extend(store.map(|store| ("X-Image-Meta-Store", store)));
        let sent = http::send(&self.address(), &format!("PUT /v2/images/{id}/file"), &headers, Some(content));
        assert_eq!(sent.status, 204, "{}", sent.text());
        id
    }

    /// Returns a copy of its database in which an image is at another location, in no store that is named.
    pub(crate) fn database_with_location(&self, image: &str, location: &str) -> NamedTempFile {
        let copy = NamedTempFile::new().unwrap();
        fs::copy(self.servers.dir.join("glance.sqlite"), copy.path()).unwrap();
        let database = rusqlite::Connection::open(copy.path()).unwrap();
        let sql = "UPDATE image_locations SET value = ?, meta_data = '{}' WHERE image_id = ?";
        assert_eq!(database.execute(sql, [location, image]).unwrap(), 1);
        copy
    }

    /// Hides an image from all other projects.
    #[track_caller]
    pub(crate) fn make_private(&self, token: &str, image: &str) {
        let change = json!([{"op": "replace", "path": "/visibility", "value": "private"}]).to_string();
        let kind = "application/openstack-images-v2.1-json-patch";
        let headers = [("X-Auth-Token", token), ("Content-Type", kind)];
        let line = format!("PATCH /v2/images/{image}");
        let answer = http::send(&self.address(), &line, &headers, Some(change.as_bytes()));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Returns the path of an image in its file store.
    pub(crate) fn stored(&self, image: &str) -> PathBuf {
        self.servers.dir.join("store").join(image)
    }

    /// Downloads an image, as a client that boots it does: it is cached afterwards.
    #[track_caller]
    pub(crate) fn download(&self, token: &str, id: &str) -> Vec<u8> {
        let answer = self.call(&format!("GET /v2/images/{id}/file"), token, None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body
    }

    /// Stops it as an operator does, and waits until nobody answers.
    pub(crate) fn stop(&self) {
        self.servers.stop();
        until_connects(&self.address(), false);
    }

    /// Starts it again and waits until it answers.
    pub(crate) fn start_again(&self) {
        self.servers.start_again();
        until_connects(&self.address(), true);
    }
}

fn configuration(dir: &Path, port: u16, driver: &str, settings: &str) -> String {
    let dir = dir.display();
    format!(
        "[DEFAULT]\nlog_file = {dir}/glance.log\nimage_cache_dir = {dir}/cache\n\
         image_cache_driver = {driver}\nworker_self_reference_url = http://127.0.0.1:{port}\n\
         node_staging_uri = file://{dir}/staging\nenabled_backends = fs:file, web:http\n{settings}\n\
         [database]\nconnection = sqlite:///{dir}/glance.sqlite\n\
         [paste_deploy]\nflavor = keystone+cachemanagement\nconfig_file = {dir}/etc/api-paste.ini\n\
         [glance_store]\ndefault_backend = fs\n[fs]\nfilesystem_store_datadir = {dir}/store\n\
         [os_glance_staging_store]\nfilesystem_store_datadir = {dir}/staging\n\
         [os_glance_tasks_store]\nfilesystem_store_datadir = {dir}/tasks\n\
         [oslo_concurrency]\nlock_path = {dir}\n\
         [oslo_policy]\nenforce_scope = true\nenforce_new_defaults = true\n"
    )
}

/// Returns the output of a command of the clients: `glance` or `openstack`, in an empty environment and home
/// with these variables.
pub(crate) fn client(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> std::process::Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(needs::clients().with_file_name(name));
    command.args(arguments).env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
    command.envs(variables.iter().copied()).current_dir(home.path());
    command.output().unwrap()
}

/// Waits until an address takes connections, or takes none.
fn until_connects(address: &str, wanted: bool) {
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_ok() != wanted {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{address} did not {}",
            if wanted { "start" } else { "stop" }
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
