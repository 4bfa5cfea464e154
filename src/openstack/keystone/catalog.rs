//! The catalogue that comes with a token: which service is where.
//!
//! Names are compared as keystoneauth does it: `publicURL` is `public`, and an underscore in a type is a
//! dash. Unlike there, two different endpoints that fit are an error, not the first of them: the second
//! region's images are not the first one's.

use serde::Deserialize;
use url::Url;

use super::error::KeystoneError;
use crate::names::escaped;

/// The services of a cloud, as one token sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog(Vec<CatalogEndpoint>);

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CatalogEndpoint {
    service_type: String,
    interface: String,
    region: String,
    url: String,
}

/// A service as Keystone writes it.
#[derive(Debug, Deserialize)]
pub(super) struct CatalogService {
    #[serde(rename = "type", default)]
    pub(super) service_type: String,
    #[serde(default)]
    endpoints: Vec<WireEndpoint>,
}

#[derive(Debug, Deserialize)]
struct WireEndpoint {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    region_id: Option<String>,
    #[serde(default)]
    url: Option<String>,
}

impl Catalog {
    pub(super) fn new(services: Vec<CatalogService>) -> Self {
        let endpoint = |service_type: &str, endpoint: WireEndpoint| CatalogEndpoint {
            service_type: service_type.to_owned(),
            interface: endpoint.interface,
            region: endpoint.region_id.or(endpoint.region).unwrap_or_default(),
            url: endpoint.url.unwrap_or_default(),
        };
        let of = |service: CatalogService| {
            let service_type = service.service_type;
            service.endpoints.into_iter().map(move |found| endpoint(&service_type, found)).collect::<Vec<_>>()
        };
        Catalog(services.into_iter().flat_map(of).collect())
    }

    /// Returns the address of a service, such as `image`, for an interface, such as `internal`.
    ///
    /// Without a region there has to be one answer for all of them.
    pub(super) fn endpoint(
        &self,
        service_type: &str,
        interface: &str,
        region: Option<&str>,
    ) -> Result<Url, KeystoneError> {
        let interface = plain_interface(interface);
        let is_it = |found: &&CatalogEndpoint| plain_type(&found.service_type) == plain_type(service_type);
        let of_service: Vec<_> = self.0.iter().filter(is_it).collect();
        if of_service.is_empty() {
            return Err(self.lacks(service_type));
        }
        let fits = |found: &&&CatalogEndpoint| {
            found.interface == interface
                && !found.url.is_empty()
                && region.is_none_or(|region| region == found.region)
        };
        let mut fitting: Vec<_> = of_service.iter().filter(fits).copied().collect();
        // The same address in several regions, as Keystone's own usually is, is one.
        fitting.sort_by(|a, b| a.url.cmp(&b.url));
        fitting.dedup_by(|a, b| a.url == b.url);
        match fitting[..] {
            [found] => endpoint_url(service_type, &found.url),
            [] => {
                let wanted = region.map_or_else(String::new, |region| format!(" in the region '{region}'"));
                let all = of_service.iter().map(|found| format!("{} in {}", found.interface, found.region));
                Err(KeystoneError::misconfigured(format!(
                    "the catalogue has no {interface} endpoint of '{service_type}'{wanted}: it has {}",
                    listed(all)
                )))
            }
            _ => {
                let regions = fitting.iter().map(|found| found.region.clone());
                Err(KeystoneError::misconfigured(format!(
                    "the catalogue has several {interface} endpoints of '{service_type}', in the regions {}: \
                     choose one with region_name",
                    listed(regions)
                )))
            }
        }
    }

    fn lacks(&self, service_type: &str) -> KeystoneError {
        if self.0.is_empty() {
            return KeystoneError::misconfigured(format!(
                "there is no catalogue to look for '{service_type}' in: the token is for no project, so \
                 name one"
            ));
        }
        KeystoneError::misconfigured(format!(
            "the catalogue has no service of the type '{service_type}': it has {}",
            listed(self.0.iter().map(|found| found.service_type.clone()))
        ))
    }
}

/// Returns the name that catalogues of version 3 have for an interface.
fn plain_interface(interface: &str) -> &str {
    interface.strip_suffix("URL").unwrap_or(interface)
}

fn plain_type(service_type: &str) -> String {
    service_type.to_lowercase().replace('_', "-")
}

/// Returns each of some names of the catalogue once, in words.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<_> = names.map(|name| escaped(name.as_bytes())).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

fn endpoint_url(service_type: &str, text: &str) -> Result<Url, KeystoneError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    url.ok_or_else(|| {
        KeystoneError::misconfigured(format!(
            "the catalogue's endpoint of '{service_type}' is no URL that begins with http:// or https:// and \
             has no password"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let services = r#"[
            {"type": "identity", "name": "keystone", "id": "1", "endpoints": [
                {"interface": "public", "region": "A", "region_id": "A", "url": "http://k:5000/v3"},
                {"interface": "public", "region": "B", "region_id": "B", "url": "http://k:5000/v3"}]},
            {"type": "image", "endpoints": [
                {"interface": "public", "region": "A", "url": "http://a:9292"},
                {"interface": "internal", "region": "A", "url": "http://a-internal:9292"},
                {"interface": "public", "region_id": "B", "region": "", "url": "http://b:9292/image"}]},
            {"type": "object-store", "endpoints": [
                {"interface": "public", "region": "A", "url": "file:///etc/passwd"},
                {"interface": "admin", "region": "A", "url": null}]},
            {"endpoints": []}]"#;
        Catalog::new(serde_json::from_str(services).unwrap())
    }

    #[test]
    fn finds_the_endpoint_of_a_service() {
        let found = |service_type, interface, region| {
            catalog().endpoint(service_type, interface, region).map(|url| url.to_string())
        };
        assert_eq!(found("image", "public", Some("B")).unwrap(), "http://b:9292/image");
        assert_eq!(found("image", "internalURL", None).unwrap(), "http://a-internal:9292/");
        assert_eq!(found("identity", "public", None).unwrap(), "http://k:5000/v3");
        for (service_type, interface, region, message) in [
            (
                "image",
                "publicURL",
                None,
                "the catalogue has several public endpoints of 'image', in the regions A, B: choose one with \
                 region_name",
            ),
            (
                "image",
                "admin",
                Some("A"),
                "the catalogue has no admin endpoint of 'image' in the region 'A': it has internal in A, \
                 public in A, public in B",
            ),
            (
                "object_store",
                "admin",
                None,
                "the catalogue has no admin endpoint of 'object_store': it has admin in A, public in A",
            ),
            (
                "object-store",
                "public",
                None,
                "the catalogue's endpoint of 'object-store' is no URL that begins with http:// or https:// \
                 and has no password",
            ),
            (
                "volume",
                "public",
                None,
                "the catalogue has no service of the type 'volume': it has identity, image, object-store",
            ),
        ] {
            assert_eq!(found(service_type, interface, region).unwrap_err().to_string(), message);
        }
        let none = Catalog::default().endpoint("image", "public", None).unwrap_err();
        assert!(none.to_string().contains("the token is for no project"), "{none}");
    }
}
