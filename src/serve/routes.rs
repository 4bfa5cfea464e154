//! The calls of the API: which method and path is which call, and which rule of the policy it is about.
//!
//! Nothing in a path is decoded or normalised: a front end that reads `//` or `%2f` in another way than this
//! service could be passed by. Such paths are refused.

use hyper::Method;

use super::answer::{ApiAnswer, Problem};
use crate::names::ImageId;
use crate::openstack::policy::rules::CacheRule;

/// The newest version of Glance's API whose calls are served.
const NEWEST: u32 = 18;

/// The thing that a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// The list of versions, with the status of several choices if no path was given that is known.
    Versions {
        are_choices: bool,
    },
    /// `OPTIONS` of anything.
    Options,
    /// `GET /v2`, which leads to `/v2/`.
    Root,
    /// `GET /v2/`, which is nothing, but needs a token.
    Nothing,
    ResourceType,
    Image(String),
    List,
    Clear,
    Nodes(String),
    Queue(String),
    Delete(String),
    Clean,
    Prune,
}

impl Call {
    /// Returns the name of the call in metrics and in the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Call::Versions { .. } => "versions",
            Call::Options => "options",
            Call::Root | Call::Nothing => "root",
            Call::ResourceType => "schema",
            Call::Image(_) => "image",
            Call::List => "list",
            Call::Clear => "clear",
            Call::Nodes(_) => "nodes",
            Call::Queue(_) => "queue",
            Call::Delete(_) => "delete",
            Call::Clean => "clean",
            Call::Prune => "prune",
        }
    }

    /// True if the call needs a caller who was made out.
    pub(super) fn needs_caller(&self) -> bool {
        !matches!(self, Call::Versions { .. } | Call::Options)
    }

    /// Returns the rule of the policy that decides, if there is one.
    pub(super) fn rule(&self) -> Option<CacheRule> {
        match self {
            Call::List | Call::Image(_) => Some(CacheRule::List),
            Call::Queue(_) => Some(CacheRule::Image),
            Call::Clear | Call::Delete(_) => Some(CacheRule::Delete),
            Call::Nodes(_) => Some(CacheRule::Nodes),
            Call::Clean => Some(CacheRule::Clean),
            Call::Prune => Some(CacheRule::Prune),
            Call::Versions { .. } | Call::Options | Call::Root | Call::Nothing | Call::ResourceType => None,
        }
    }

    /// True if the call changes the cache.
    pub(super) fn is_change(&self) -> bool {
        matches!(self, Call::Clear | Call::Queue(_) | Call::Delete(_) | Call::Clean | Call::Prune)
    }
}

/// Returns the call of a request.
pub(super) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Call, Problem> {
    if method == Method::OPTIONS {
        return Ok(Call::Options);
    }
    if path.contains("//") || path.contains(['%', '\\']) {
        return Err(Problem::bad_request("Paths with '//', '%' or a backslash are not understood."));
    }
    let call = match path {
        "/versions" | "/versions/" => Ok(Call::Versions { are_choices: false }),
        _ => match below_version(path) {
            Some(rest) => below(method, rest),
            None => Ok(Call::Versions { are_choices: true }),
        },
    }?;
    // A parameter that is ignored, such as dry_run, would be a promise that is not kept.
    match query {
        Some(query) if call.is_change() && !query.is_empty() => {
            Err(Problem::bad_request("This call takes no parameters in its URL."))
        }
        _ => Ok(call),
    }
}

/// Returns the part of a path that follows a version that is served.
fn below_version(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2")?;
    let (minor, rest) = match rest.strip_prefix('.') {
        None => ("0", rest),
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
    };
    let is_known = |minor: &str| {
        let is_number = !minor.is_empty() && minor.len() < 4 && minor.bytes().all(|c| c.is_ascii_digit());
        is_number && minor.parse::<u32>().is_ok_and(|minor| minor <= NEWEST)
    };
    (is_known(minor) && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
}

/// Returns the call below a version.
fn below(method: &Method, path: &str) -> Result<Call, Problem> {
    let id = |text: &str| text.to_owned();
    let words: Vec<&str> = path.split('/').skip(1).collect();
    match words[..] {
        [] => of_methods(method, &[(Method::GET, Call::Root)], "GET"),
        [""] => of_methods(method, &[(Method::GET, Call::Nothing)], "GET"),
        ["cache"] => {
            of_methods(method, &[(Method::GET, Call::List), (Method::DELETE, Call::Clear)], "GET, DELETE")
        }
        ["cache", "clean"] => of_methods(method, &[(Method::POST, Call::Clean)], "POST"),
        ["cache", "prune"] => of_methods(method, &[(Method::POST, Call::Prune)], "POST"),
        ["cache", image] if !image.is_empty() => {
            let calls = [(Method::DELETE, Call::Delete(id(image))), (Method::PUT, Call::Queue(id(image)))];
            of_methods(method, &calls, "DELETE, PUT")
        }
        ["cache", "nodes", image] if !image.is_empty() => {
            of_methods(method, &[(Method::GET, Call::Nodes(id(image)))], "GET")
        }
        ["images", image] if ImageId::new(image.as_bytes()).is_some() => {
            of_methods(method, &[(Method::GET, Call::Image(id(image)))], "GET")
        }
        ["schemas", "metadefs", "resource_type"] => {
            of_methods(method, &[(Method::GET, Call::ResourceType)], "GET")
        }
        _ => Err(Problem::no_resource()),
    }
}

/// Returns the call of this method.
fn of_methods(method: &Method, calls: &[(Method, Call)], allow: &'static str) -> Result<Call, Problem> {
    let found = calls.iter().find(|(of_method, _)| of_method == method);
    found.map(|(_, call)| call.clone()).ok_or_else(|| Problem::not_allowed(method, allow))
}

/// Returns an image's id as Glance makes it: a UUID in lower case with its dashes.
pub(super) fn image_id(text: &str) -> Result<ImageId, Problem> {
    let id = ImageId::new(text.as_bytes()).filter(|_| !text.bytes().any(|c| c.is_ascii_uppercase()));
    id.ok_or_else(|| Problem::no_image(text))
}

/// Returns the answer to `GET /v2/schemas/metadefs/resource_type`. Glance's client does not go on without one
/// of its schemas.
pub(super) fn resource_type() -> ApiAnswer {
    ApiAnswer::json(hyper::StatusCode::OK, RESOURCE_TYPE)
}

/// Glance's own document.
const RESOURCE_TYPE: &str = "{\"name\": \"resource_type_association\", \
    \"properties\": {\"name\": {\"type\": \"string\", \
    \"description\": \"Resource type names should be aligned with Heat resource types whenever \
    possible: https://docs.openstack.org/heat/latest/template_guide/openstack.html\", \"maxLength\": \
    80}, \"prefix\": {\"type\": \"string\", \"description\": \"Specifies the prefix to use for the \
    given resource type. Any properties in the namespace should be prefixed with this prefix when \
    being applied to the specified resource type. Must include prefix separator (e.g. a colon :).\", \
    \"maxLength\": 80}, \"properties_target\": {\"type\": \"string\", \"description\": \"Some resource \
    types allow more than one key / value pair per instance.  For example, Cinder allows user and \
    image metadata on volumes. Only the image properties metadata is evaluated by Nova (scheduling or \
    drivers). This property allows a namespace target to remove the ambiguity.\", \"maxLength\": 80}, \
    \"created_at\": {\"type\": \"string\", \"readOnly\": true, \"description\": \"Date and time of \
    resource type association\", \"format\": \"date-time\"}, \"updated_at\": {\"type\": \"string\", \
    \"readOnly\": true, \"description\": \"Date and time of the last resource type association \
    modification\", \"format\": \"date-time\"}}, \"additionalProperties\": false, \"required\": \
    [\"name\"]}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_paths_are_calls_or_have_their_status() {
        let id = "11111111-1111-4111-8111-111111111111";
        let image = |kind: fn(String) -> Call| Ok(kind(id.to_owned()));
        let versions = |are_choices| Ok(Call::Versions { are_choices });
        for (line, expected) in [
            ("GET /v2/cache", Ok(Call::List)),
            ("DELETE /v2/cache", Ok(Call::Clear)),
            ("POST /v2/cache", Err(405)),
            ("HEAD /v2/cache", Err(405)),
            ("GET /v2/cache/", Err(404)),
            ("POST /v2/cache/prune", Ok(Call::Prune)),
            ("POST /v2.18/cache/prune", Ok(Call::Prune)),
            ("POST /v2.0/cache/clean", Ok(Call::Clean)),
            ("POST /v2.19/cache/prune", versions(true)),
            ("POST /v2.x/cache/prune", versions(true)),
            ("POST /v2./cache/prune", versions(true)),
            ("POST /v20/cache/prune", versions(true)),
            ("GET /v1/images", versions(true)),
            ("GET /V2/cache", versions(true)),
            ("GET /", versions(true)),
            ("GET /versions", versions(false)),
            ("POST /versions", versions(false)),
            ("GET /versions/", versions(false)),
            ("POST /v2/cache/prune/", Err(404)),
            ("PUT /v2/cache/prune", Err(405)),
            ("POST /v2/cache/prune?dry_run=1", Err(400)),
            ("GET /v2/cache?x=1", Ok(Call::List)),
            ("POST //v2/cache/prune", Err(400)),
            ("POST /v2//cache/prune", Err(400)),
            ("POST /v2/cache/%70rune", Err(400)),
            ("DELETE /v2/cache/..%2fx", Err(400)),
            ("PUT /v2/cache/11111111-1111-4111-8111-111111111111", image(Call::Queue)),
            ("DELETE /v2/cache/11111111-1111-4111-8111-111111111111", image(Call::Delete)),
            ("GET /v2/cache/11111111-1111-4111-8111-111111111111", Err(405)),
            ("GET /v2/cache/nodes", Err(405)),
            ("GET /v2/cache/nodes/11111111-1111-4111-8111-111111111111", image(Call::Nodes)),
            ("GET /v2/images/11111111-1111-4111-8111-111111111111", image(Call::Image)),
            ("GET /v2/images", Err(404)),
            ("GET /v2/images/x", Err(404)),
            ("GET /v2/cached_images", Err(404)),
            ("GET /v2/queued_images", Err(404)),
            ("GET /v2", Ok(Call::Root)),
            ("GET /v2/", Ok(Call::Nothing)),
            ("OPTIONS /anything/%00", Ok(Call::Options)),
            ("GET /v2/schemas/metadefs/resource_type", Ok(Call::ResourceType)),
            ("GET /v2/schemas/image", Err(404)),
        ] {
            let (method, target) = line.split_once(' ').unwrap();
            let (path, query) =
                target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let found = route(&method.parse().unwrap(), path, query);
            assert_eq!(found.map_err(|problem| problem.status.as_u16()), expected, "{line}");
        }
    }

    #[test]
    fn only_ids_as_glance_makes_them_are_images() {
        for (text, expected) in [
            ("11111111-1111-4111-8111-11111111111a", true),
            ("11111111-1111-4111-8111-11111111111A", false),
            ("11111111111141118111111111111111", false),
            ("x", false),
            ("..", false),
        ] {
            assert_eq!(image_id(text).is_ok(), expected, "{text}");
        }
    }
}
