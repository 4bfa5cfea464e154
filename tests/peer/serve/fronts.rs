//! The service behind real front ends, beside a real Glance 32 that has neither clean nor prune: the clients
//! see one Glance that has both. The files are those of `contrib`.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::Beside;
use super::steps::{NO_IMAGE, SETTINGS, Scene};
use crate::support::env::*;
use crate::support::needs;
use crate::support::openstack::{GlanceApi, Keystone};
use crate::support::running::free_port;

const HAPROXY: &str = include_str!("../../../contrib/haproxy/glance-cache.cfg");
const APACHE: &str = include_str!("../../../contrib/apache/glance-cache.conf");

/// A front end that runs until it is dropped.
struct Front {
    child: Child,
    address: String,
    env: TestEnv,
}

impl Front {
    /// Runs a program with a configuration that is made for the address to listen at.
    fn start(configuration: impl FnOnce(&str, &TestEnv) -> String, line: &[&str]) -> Self {
        let env = TestEnv::empty(Sqlite);
        let address = format!("127.0.0.1:{}", free_port());
        let file = env.write("front.conf", configuration(&address, &env));
        // It ends with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(line).arg(&file).stdin(Stdio::null());
        let output = fs::File::create(env.outside("output")).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").spawn().unwrap();
        let mut front = Front { child, address, env };
        until("the front end to listen", || {
            let ended = front.child.try_wait().unwrap();
            assert!(ended.is_none(), "{line:?}: {}", front.output());
            TcpStream::connect(&front.address).is_ok()
        });
        front
    }

    fn output(&self) -> String {
        fs::read_to_string(self.env.outside("output")).unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Replaces texts of a configuration, each of which has to be there.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to)
    })
}

fn glance_and_service(keystone: &Keystone) -> (GlanceApi, Beside) {
    let glance = GlanceApi::older(keystone, "sqlite", SETTINGS);
    let beside = Beside::start(&glance, &format!("glance_api_url = {}", glance.url()));
    (glance, beside)
}

/// Asserts that both sides answer behind one address.
#[track_caller]
fn are_one(scene: &Scene<'_>) {
    let versions = scene.ask("GET /versions").text();
    let ids = ["v2.18", "v2.17", "v2.16", "v2.14", "v2.9"];
    assert!(ids.iter().all(|id| versions.contains(&format!("\"{id}\""))), "{versions}");
    assert!(versions.contains(&format!("\"{}/v2/\"", scene.url)), "{versions}");
    let images = scene.ask("GET /v2/images");
    assert_eq!(images.status, 200);
    assert_eq!(images.json()["images"].as_array().unwrap().len(), 3);
    for (line, status) in [
        ("GET /v2.5/cache", 200),
        ("GET /v2/cache/", 404),
        // Glance's own, as ever.
        ("GET /v2/cached_images", 200),
        ("POST /v2/cache/prune?dry_run=1", 400),
        ("DELETE /v2/cache/..%2fimages", 400),
        ("POST /v2/cache/%70rune", 400),
        ("GET /healthcheck", 200),
    ] {
        assert_eq!(scene.ask(line).status, status, "{line}");
    }
    // A Glance 32 alone has no such call.
    let alone = scene.glance.call("POST /v2/cache/prune", "x", None).status;
    assert!([401, 405].contains(&alone), "{alone}");
}

#[test]
fn haproxy_makes_one_glance_of_two() {
    needs::haproxy();
    let keystone = Keystone::shared();
    let (glance, beside) = glance_and_service(keystone);
    let configuration = |address: &str, _: &TestEnv| {
        let own = replaced(
            HAPROXY,
            &[
                ("bind 192.0.2.1:9292", &format!("bind {address}")),
                ("glance 127.0.0.1:9291", &format!("glance {}", glance.address())),
                ("glance_cache 127.0.0.1:9393", &format!("glance_cache {}", beside.address())),
            ],
        );
        let times = "timeout connect 5s\n    timeout client 1m\n    timeout server 1m";
        format!("global\n    maxconn 100\ndefaults\n    {times}\n{own}")
    };
    let front = Front::start(configuration, &["haproxy", "-db", "-f"]);
    let scene = Scene::new(keystone, &glance, format!("http://{}", front.address));
    are_one(&scene);
    let nodes = json!("409: 409 Conflict: Centralized caching is not enabled");
    let counts = [scene.glance(), scene.openstack(NO_IMAGE), scene.sdk(&nodes)];
    println!("commands of glance, openstack and openstacksdk: {counts:?}");
    assert!(!front.output().contains("[WARNING]"), "{}", front.output());
}

#[test]
fn apache_makes_one_glance_of_two() {
    needs::apache();
    let keystone = Keystone::shared();
    let (glance, beside) = glance_and_service(keystone);
    let configuration = |address: &str, env: &TestEnv| {
        let own = replaced(APACHE, &[("127.0.0.1:9393", beside.address())]);
        let own = env.write("glance-cache.conf", own);
        let modules = ["mpm_event", "authz_core", "proxy", "proxy_http"]
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
        let dir = env.outside("");
        let user = if rustix::process::geteuid().is_root() { "User nobody\nGroup nogroup\n" } else { "" };
        format!(
            "ServerRoot {0}\nPidFile {0}/pid\nErrorLog {0}/output\nServerName localhost\nListen {address}\n{1}{user}\
             <VirtualHost {address}>\nInclude {own}\nProxyPass / http://{2}/ nocanon\n</VirtualHost>\n",
            dir.display(),
            modules.concat(),
            glance.address(),
        )
    };
    let front = Front::start(configuration, &["apache2", "-DFOREGROUND", "-f"]);
    let scene = Scene::new(keystone, &glance, format!("http://{}", front.address));
    are_one(&scene);
    let nodes = json!("409: 409 Conflict: Centralized caching is not enabled");
    println!("commands of glance and openstacksdk: {:?}", [scene.glance(), scene.sdk(&nodes)]);
}
