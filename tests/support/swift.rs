//! Real Swift behind a real Keystone: OpenStack's own servers, which `tests/peer/swift.sh` runs, and radosgw.
//!
//! Both know the tokens of one Keystone, in whose catalogue they are two regions of one service.

use std::sync::OnceLock;

use serde_json::json;

use super::http::{self, Answer};
use super::needs;
use super::openstack::Keystone;
use super::running::{Keep, Servers};
use super::stores::Ceph;

/// The region of OpenStack's Swift.
pub(crate) const SWIFT: &str = "RegionOne";
/// The region of radosgw.
pub(crate) const RADOSGW: &str = "Ceph";

/// Two object stores of one cloud.
pub(crate) struct ObjectStores {
    pub(crate) keystone: &'static Keystone,
    swift: Servers,
    ceph: Ceph,
}

impl ObjectStores {
    /// Returns those that all tests share.
    pub(crate) fn shared() -> &'static ObjectStores {
        static STORES: OnceLock<ObjectStores> = OnceLock::new();
        needs::swift();
        needs::ceph();
        let keystone = Keystone::shared();
        STORES.get_or_init(|| Self::start(keystone))
    }

    fn start(keystone: &'static Keystone) -> Self {
        let mut command = Servers::script("swift.sh", "swift");
        command.env("PYTHON", needs::swift()).env("KEYSTONE", keystone.url());
        let swift = Servers::start(&mut command, 5, Keep::ForTheRun);
        let stores = ObjectStores { keystone, swift, ceph: Ceph::behind(keystone, Keep::ForTheRun) };
        for region in [SWIFT, RADOSGW] {
            let url = format!("http://{}{}$(project_id)s", stores.address(region), account(region));
            keystone.add_endpoint("object-store", region, &url);
        }
        stores
    }

    /// Returns host and port of a region's server.
    pub(crate) fn address(&self, region: &str) -> String {
        if region == SWIFT { format!("127.0.0.1:{}", self.swift.ports[0]) } else { self.ceph.s3() }
    }

    /// Returns the URL of a project's account, as `swift_store_endpoint` has it.
    pub(crate) fn endpoint(&self, region: &str, project: &str) -> String {
        let found = self.keystone.administer("GET", &format!("/projects?name={project}"), None);
        let id = found["projects"][0]["id"].as_str().unwrap().to_owned();
        format!("http://{}{}{id}", self.address(region), account(region))
    }

    /// Returns what uploads objects to an account, as a user who may.
    pub(crate) fn account(&self, region: &str, user: &str, project: &str) -> SwiftAccount {
        let endpoint = self.endpoint(region, project);
        let (address, path) = endpoint.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let account = SwiftAccount {
            address: address.to_owned(),
            path: format!("/{path}"),
            token: self.keystone.token(user, project),
        };
        account.put("glance", "", b"", &[]);
        account
    }
}

/// Returns the path before a project's id.
fn account(region: &str) -> &'static str {
    if region == SWIFT { "/v1/KEY_" } else { "/swift/v1/AUTH_" }
}

/// An account of Swift, with a token for it.
pub(crate) struct SwiftAccount {
    address: String,
    path: String,
    token: String,
}

impl SwiftAccount {
    /// Sends a request for an object, or for its container.
    #[track_caller]
    pub(crate) fn call(
        &self,
        method: &str,
        name: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        let headers = [&[("X-Auth-Token", self.token.as_str())], headers].concat();
        http::send(&self.address, &format!("{method} {}/{name}", self.path), &headers, body)
    }

    /// Puts an object.
    #[track_caller]
    pub(crate) fn put(&self, container: &str, object: &str, content: &[u8], headers: &[(&str, &str)]) {
        let name = format!("{container}/{object}");
        let answer = self.call("PUT", name.trim_end_matches('/'), headers, Some(content));
        assert!((200..300).contains(&answer.status), "PUT {name}: {} {}", answer.status, answer.text());
    }

    /// Puts an object in this many segments, with a list of them (static), or a name that all have in common
    /// (dynamic).
    #[track_caller]
    pub(crate) fn put_large(&self, object: &str, content: &[u8], segments: usize, kind: LargeObject) {
        let size = content.len().div_ceil(segments);
        let mut list = Vec::new();
        for (n, part) in content.chunks(size).enumerate() {
            let name = format!("{object}-{n:05}");
            self.put("glance", &name, part, &[]);
            list.push(json!({"path": format!("/glance/{name}"), "size_bytes": part.len()}));
        }
        match kind {
            LargeObject::Dynamic => {
                self.put("glance", object, b"", &[("X-Object-Manifest", &format!("glance/{object}-"))]);
            }
            LargeObject::Static => {
                let list = json!(list).to_string();
                self.put("glance", &format!("{object}?multipart-manifest=put"), list.as_bytes(), &[]);
            }
        }
    }
}

/// The ways to put an object together from segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LargeObject {
    Static,
    Dynamic,
}
