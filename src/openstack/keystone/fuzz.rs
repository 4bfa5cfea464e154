//! Answers of Keystone with any bytes.

use serde_json::{Deserializer, from_slice};

use super::catalog::{Catalog, EndpointSettings, ServiceSought, services};
use super::rules::{AccessRule, path_matches};
use super::token::TokenBody;
use crate::fuzzing::{fuzz, kind};

#[test]
fn tokens_of_any_bytes() {
    fuzz("token", |bytes| {
        let mut kinds = String::new();
        let answer: Result<TokenBody, _> = from_slice(bytes);
        kinds += &kind(&answer);
        if let Ok(TokenBody { mut token }) = answer {
            let _ = (token.lifetime(), token.expires(), token.has_system_scope(), token.is_bound());
            let _ = token.role_names().len();
            for rule in token.access_rules().unwrap_or_default() {
                kinds += if allows(&rule) { "allowed" } else { "not" };
            }
        }
        kinds
    });
}

fn allows(rule: &AccessRule) -> bool {
    rule.allows("image", "POST", "/v2/cache/prune")
}

#[test]
fn catalogues_of_any_bytes() {
    fuzz("catalogue", |bytes| {
        let services = services(&mut Deserializer::from_slice(bytes));
        let Ok(services) = services else { return kind(&services) };
        let catalog = Catalog::new(services);
        let mut kinds = String::new();
        for region in [None, Some("RegionOne")] {
            for interface in ["public", "internalURL"] {
                let settings = EndpointSettings { region: "region", address: "address" };
                let sought = ServiceSought { service_type: "image", interface, region, settings };
                kinds += &kind(&catalog.endpoint(&sought));
            }
        }
        kinds
    });
}

#[test]
fn paths_of_any_bytes() {
    fuzz("path", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (pattern, path) = text.split_once('\n').unwrap_or((&text, "/v2/cache/prune"));
        format!("{}", path_matches(pattern, path))
    });
}
