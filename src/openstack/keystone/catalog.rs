//! The catalogue that comes with a token: which service is where.
//!
//! Names are compared as keystoneauth does it: `publicURL` is `public`, and an underscore in a type is a
//! dash. Unlike there, two different endpoints that fit are an error, not the first of them: the second
//! region's images are not the first one's.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use url::Url;

use super::error::KeystoneError;
use crate::names::escaped;
use crate::openstack::cache_api::shown_url;

/// The services of a cloud, as one token sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    /// `None` for a token that comes without a catalogue.
    services: Option<Vec<CatalogService>>,
}

/// A service that is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceSought<'a> {
    /// Such as `image`.
    pub(crate) service_type: &'a str,
    /// Such as `internal` or `internalURL`.
    pub(crate) interface: &'a str,
    /// Without it, all regions have to have the same address.
    pub(crate) region: Option<&'a str>,
    pub(crate) settings: EndpointSettings,
}

/// The settings that choose an endpoint, as messages name them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointSettings {
    pub(crate) region: &'static str,
    /// Takes the place of the catalogue's addresses.
    pub(crate) address: &'static str,
}

impl EndpointSettings {
    /// Those of a glance-api that this is installed with.
    pub(in crate::openstack) const OF_GLANCE: Self = EndpointSettings {
        region: "region_name in [keystone_authtoken]",
        address: "glance_api_url in [cache_api]",
    };
}

/// A service as Keystone writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct CatalogService {
    #[serde(rename = "type", default)]
    pub(super) service_type: String,
    #[serde(default, deserialize_with = "what_is_understood")]
    endpoints: Vec<CatalogEndpoint>,
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct CatalogEndpoint {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    region_id: Option<String>,
    #[serde(default)]
    url: Option<String>,
}

impl CatalogEndpoint {
    fn region(&self) -> &str {
        self.region_id.as_deref().or(self.region.as_deref()).unwrap_or_default()
    }

    fn url(&self) -> &str {
        self.url.as_deref().unwrap_or_default()
    }
}

/// Reads the members of a list that are as they should be. An odd one is not the service that is looked for,
/// and the others are as good.
fn what_is_understood<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(members) = Value::deserialize(from)? else { return Ok(Vec::new()) };
    Ok(members.into_iter().filter_map(|member| T::deserialize(member).ok()).collect())
}

/// Reads a catalogue that may be missing.
pub(super) fn services<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<CatalogService>>, D::Error> {
    #[derive(Deserialize)]
    struct Services(#[serde(deserialize_with = "what_is_understood")] Vec<CatalogService>);
    Ok(Option::<Services>::deserialize(from)?.map(|services| services.0))
}

impl Catalog {
    pub(super) fn new(services: Option<Vec<CatalogService>>) -> Self {
        Catalog { services }
    }

    /// Returns the address of a service. Without a region there has to be one answer for all of them.
    pub(super) fn endpoint(&self, sought: &ServiceSought<'_>) -> Result<Url, KeystoneError> {
        let ServiceSought { service_type, region, .. } = *sought;
        let interface = plain_interface(sought.interface);
        let services = self.services.iter().flatten();
        let is_it = |found: &&CatalogService| plain_type(&found.service_type) == plain_type(service_type);
        let mut of_type = services.filter(is_it).peekable();
        if of_type.peek().is_none() {
            return Err(self.lacks(service_type));
        }
        let of_service: Vec<_> = of_type.flat_map(|service| &service.endpoints).collect();
        let fits = |found: &&&CatalogEndpoint| {
            found.interface == interface
                && !found.url().is_empty()
                && region.is_none_or(|region| region == found.region())
        };
        let mut fitting: Vec<_> = of_service.iter().filter(fits).copied().collect();
        // The same address in several regions, as Keystone's own usually is, is one.
        fitting.sort_by(|a, b| a.url().cmp(b.url()));
        fitting.dedup_by(|a, b| a.url() == b.url());
        match fitting[..] {
            [found] => endpoint_url(service_type, found.url()),
            [] => {
                let wanted = region.map_or_else(String::new, |region| format!(" in the region '{region}'"));
                let all = of_service.iter().map(|found| match found.region() {
                    "" => format!("{} in no region", found.interface),
                    region => format!("{} in {region}", found.interface),
                });
                Err(KeystoneError::misconfigured(format!(
                    "the catalogue has no {interface} endpoint of '{service_type}'{wanted}: it has {}",
                    listed(all)
                )))
            }
            _ => Err(several(sought, &fitting)),
        }
    }

    fn lacks(&self, service_type: &str) -> KeystoneError {
        KeystoneError::misconfigured(match &self.services {
            None => format!(
                "there is no catalogue to look for '{service_type}' in: the token is for no project, so name \
                 one"
            ),
            Some(services) => format!(
                "the catalogue has no service of the type '{service_type}': it has {}",
                listed(services.iter().map(|found| found.service_type.clone()))
            ),
        })
    }
}

/// Returns the error for endpoints of which any may be meant.
fn several(sought: &ServiceSought<'_>, fitting: &[&CatalogEndpoint]) -> KeystoneError {
    let (interface, service_type) = (plain_interface(sought.interface), sought.service_type);
    let EndpointSettings { region, address } = sought.settings;
    let mut regions: Vec<_> = fitting.iter().map(|found| found.region()).collect();
    regions.sort_unstable();
    regions.dedup();
    KeystoneError::misconfigured(match regions[..] {
        [one] => format!(
            "the catalogue has several {interface} endpoints of '{service_type}' in the region '{}', and \
             none is taken: {}; set {address} to the right one",
            escaped(one.as_bytes()),
            fitting.iter().map(|found| shown_url(found.url())).collect::<Vec<_>>().join(", ")
        ),
        _ => format!(
            "the catalogue has several {interface} endpoints of '{service_type}', in the regions {}: choose \
             one with {region}",
            listed(regions.iter().map(|&region| region.to_owned()))
        ),
    })
}

/// Returns the name that catalogues of version 3 have for an interface.
pub(super) fn plain_interface(interface: &str) -> &str {
    interface.strip_suffix("URL").unwrap_or(interface)
}

fn plain_type(service_type: &str) -> String {
    service_type.to_lowercase().replace('_', "-")
}

/// Returns each of some names of the catalogue once, in words.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<_> =
        names.map(|name| escaped(name.as_bytes())).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
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
        read(services)
    }

    fn read(text: &str) -> Catalog {
        Catalog::new(services(&mut serde_json::Deserializer::from_str(text)).unwrap())
    }

    fn find(
        catalog: &Catalog,
        service_type: &str,
        interface: &str,
        region: Option<&str>,
    ) -> Result<String, String> {
        let settings = EndpointSettings { region: "region_name", address: "the override" };
        let sought = ServiceSought { service_type, interface, region, settings };
        catalog.endpoint(&sought).map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn finds_the_endpoint_of_a_service() {
        let found = |service_type, interface, region| find(&catalog(), service_type, interface, region);
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
            assert_eq!(found(service_type, interface, region).unwrap_err(), message);
        }
    }

    /// One odd member of a catalogue says nothing about the others.
    #[test]
    fn a_catalogue_is_read_as_far_as_it_is_understood() {
        const IMAGE: &str = r#"{"type": "image", "endpoints": [ENDPOINTS]}"#;
        const GOOD: &str = r#"{"interface": "public", "region_id": "R", "url": "http://g"}"#;
        let image = |endpoints: &str| IMAGE.replace("ENDPOINTS", endpoints);
        let good = image(GOOD);
        let second = GOOD.replace("http://g", "http://u:s3cret@h");
        let other = GOOD.replace("http://g", "http://i").replace("\"R\"", "\"S\"");
        let (none, empty) = ("the token is for no project", "'image': it has none at all");
        for (text, expected) in [
            (format!("[{good}]"), Ok("http://g/")),
            (
                format!("[7, null, {{\"type\": 7}}, {{\"type\": \"x\", \"endpoints\": 7}}, {good}]"),
                Ok("http://g/"),
            ),
            (
                format!("[{}]", image(&format!("7, {{\"interface\": []}}, {{\"url\": 7}}, {GOOD}"))),
                Ok("http://g/"),
            ),
            ("null".to_owned(), Err(none)),
            ("[]".to_owned(), Err(empty)),
            ("{}".to_owned(), Err(empty)),
            ("\"x\"".to_owned(), Err(empty)),
            (format!("[{}]", image("")), Err("no public endpoint of 'image': it has none at all")),
            (
                format!("[{}]", image(&GOOD.replace("public", "admin").replace("\"R\"", "null"))),
                Err("no public endpoint of 'image': it has admin in no region"),
            ),
            (
                format!("[{good}, {}]", image(&second)),
                Err("the catalogue has several public endpoints of 'image' in the region 'R', and none is \
                     taken: http://g, http://(credentials)@h; set the override to the right one"),
            ),
            (
                format!("[{}]", image(&format!("{GOOD}, {second}, {other}"))),
                Err("several public endpoints of 'image', in the regions R, S: choose one with region_name"),
            ),
        ] {
            let found = find(&read(&text), "image", "public", None);
            match expected {
                Ok(url) => assert_eq!(found.as_deref(), Ok(url), "{text}"),
                Err(message) => assert!(found.as_ref().unwrap_err().contains(message), "{text}: {found:?}"),
            }
        }
    }
}
