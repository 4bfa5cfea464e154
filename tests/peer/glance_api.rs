//! The program beside a real glance-api that runs as a service, with a real Keystone in front of it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::openstack::{GlanceApi, Keystone};

/// `list --format json` shows what `GET /v2/cache` answers: the same images with the same numbers.
#[test]
fn list_shows_what_the_service_answers() {
    for driver in ["sqlite", "xattr", "centralized_db"] {
        let keystone = Keystone::shared();
        let glance = GlanceApi::start(keystone, driver, "");
        let token = keystone.token("admin", "admin");
        let booted = glance.upload(&token, b"an image that was booted");
        let queued = glance.upload(&token, b"an image that the service fetches from its queue");
        glance.download(&token, &booted);
        assert_eq!(glance.call(&format!("PUT /v2/cache/{queued}"), &token, None).status, 202);

        let theirs = until_cached(&glance, &token, 2);
        let ours = glance.run("list", &["--format", "json"]).ok().json();
        assert_eq!(theirs["queued_images"], ours["queued_images"], "{driver}");
        let by_id = |listed: &Value| {
            let mut images = listed["cached_images"].as_array().unwrap().clone();
            images.sort_by_key(|image| image["image_id"].to_string());
            images
                .iter()
                .map(|image| ["image_id", "size", "hits"].map(|key| image[key].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(by_id(&theirs), by_id(&ours), "{driver}");
    }
}

/// Waits until the service has so many images in its cache and none in its queue, and returns its list.
#[track_caller]
fn until_cached(glance: &GlanceApi, token: &str, images: usize) -> Value {
    let start = Instant::now();
    loop {
        let answer = glance.call("GET /v2/cache", token, None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let list = answer.json();
        let count = |key: &str| list[key].as_array().unwrap().len();
        if (count("cached_images"), count("queued_images")) == (images, 0) {
            return list;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{list}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
