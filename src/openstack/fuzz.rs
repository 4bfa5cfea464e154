//! Files in YAML, and answers of the Cache API, with any bytes.

use std::time::Duration;

use super::cache_api::{CacheCall, NodeAnswer, current_version, meaning, node_url, shown_url};
use super::secret::Secret;
use super::yaml;
use crate::fuzzing::{fuzz, kind};
use crate::names::ImageId;

#[test]
fn yaml_of_any_bytes() {
    fuzz("yaml", |bytes| {
        let read = yaml::parse(&String::from_utf8_lossy(bytes));
        match &read {
            Ok(yaml) => {
                let clouds = yaml.get("clouds").and_then(|clouds| clouds.get("prod"));
                format!(
                    "{} {:?}",
                    yaml.kind(),
                    clouds.and_then(|cloud| cloud.get("auth")?.scalar()).is_some()
                )
            }
            Err(error) => format!("{error:?}"),
        }
    });
}

#[test]
fn answers_of_nodes_of_any_bytes() {
    let id = ImageId::new(b"8534f457-38d0-48ec-8f10-99c6c3e1b258").unwrap();
    fuzz("node-answer", |bytes| {
        let mut kinds = String::new();
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.splitn(3, '\n');
        let first = lines.next().unwrap_or_default();
        let second = lines.next().map(str::to_owned);
        for status in [200, 202, 300, 302, 401, 403, 404, 409, 500, 503] {
            let answer = NodeAnswer {
                status,
                allow: second.clone(),
                location: second.clone(),
                retry_after: first.parse().ok().map(Duration::from_secs),
                body: bytes.to_vec(),
                token: Secret::new(first),
            };
            let _ = current_version(&answer);
            for call in [CacheCall::List, CacheCall::Queue(id), CacheCall::Clean, CacheCall::Prune] {
                kinds += &format!("{:?}", meaning(call, &answer)).chars().take(40).collect::<String>();
            }
        }
        let _ = shown_url(&text);
        kinds + &kind(&node_url(&text))
    });
}
