//! The clients of OpenStack, unmodified, against the service alone, and against a real Glance 33: the same
//! words and exit codes.

use serde_json::json;

use super::Beside;
use super::steps::{NO_IMAGE, NO_SEARCH, SETTINGS, Scene};
use crate::support::openstack::{GlanceApi, Keystone};

const NO_NODES: &str = "409: 409 Conflict: Centralized caching is not enabled";

#[test]
fn all_commands_work_with_the_service_alone() {
    let keystone = Keystone::shared();
    let glance = GlanceApi::start(keystone, "sqlite", SETTINGS);
    let beside = Beside::start(&glance, "");
    let scene = Scene::new(keystone, &glance, beside.url());
    let counts = [scene.glance(), scene.openstack(NO_SEARCH), scene.sdk(&json!(NO_NODES))];
    println!("commands of glance, openstack and openstacksdk: {counts:?}");
    let log = beside.service.stderr();
    for call in ["GET /v2/cache 200", "POST /v2/cache/prune 200", "POST /v2/cache/clean 200"] {
        assert!(log.contains(call), "{call}: {log}");
    }
}

/// Holds the table itself against the real thing.
#[test]
fn all_commands_do_the_same_with_glance_33() {
    let keystone = Keystone::shared();
    let glance = GlanceApi::start(keystone, "sqlite", SETTINGS);
    let scene = Scene::new(keystone, &glance, glance.url());
    let counts = [scene.glance(), scene.openstack(NO_IMAGE), scene.sdk(&json!(NO_NODES))];
    println!("commands of glance, openstack and openstacksdk: {counts:?}");
}

#[test]
fn the_nodes_of_a_central_database_are_listed() {
    let keystone = Keystone::shared();
    let glance = GlanceApi::start(keystone, "centralized_db", SETTINGS);
    let beside = Beside::start(&glance, "");
    for url in [glance.url(), beside.url()] {
        let scene = Scene::new(keystone, &glance, url);
        assert_eq!(scene.sdk(&json!([glance.url()])), 13);
    }
}
