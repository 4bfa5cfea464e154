//! The service: one request, one answer, one line in the log.
//!
//! The order of judging is fixed: the path and the method, then the token, the policy, the body, and only
//! then locks and the existence of images. Who may do nothing learns nothing, and waits for nobody.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use super::answer::{ApiAnswer, Form, MOST_OF_METHOD, MOST_OF_PATH, Problem, beginning};
use super::auth::{Auth, Known, RequestFacts, image_target};
use super::connection::Answered;
use super::health::{health, is_probe, note};
use super::listen::Peer;
use super::operations::{Answering, Cleared, OnBehalf, Operations, Totals};
use super::routes::{Call, image_id, resource_type, route};
use super::verdict::Failed;
use super::versions::Discovery;
use crate::openstack::policy::condition::Target;
use crate::openstack::policy::rules::CacheRule;
use crate::output::Output;
use crate::output::oslo::Level;
use crate::output::python::python;

/// The longest id of a request that is taken over from a client.
const MOST_OF_ID: usize = 64;

/// A service with all that its answers need.
pub(super) struct Service {
    pub(super) auth: Auth,
    pub(super) operations: Rc<Operations>,
    pub(super) versions: Discovery,
    pub(super) output: Rc<Output>,
    pub(super) disable_by_file: Option<PathBuf>,
    pub(super) has_database: bool,
}

/// The facts of a request for its line in the log.
#[derive(Default)]
struct Noted {
    call: Option<&'static str>,
    caller: Option<Known>,
    totals: Option<Totals>,
    /// The whole message of a failure.
    message: Option<String>,
}

impl Service {
    /// Answers a request.
    pub(super) async fn answer(self: Rc<Self>, peer: Peer, request: Request<Incoming>) -> Answered {
        if is_probe(&request) {
            let answer = health(&request, self.disable_by_file.as_deref());
            note(&self.output, &request, &answer);
            return (answer, None);
        }
        let start = Instant::now();
        let (head, body) = request.into_parts();
        let id = request_id(&head.headers);
        let mut noted = Noted::default();
        let answer = match self.handle(peer, &head, body, &mut noted).await {
            Ok(answer) => answer,
            Err(failed) => {
                let status = failed.problem.status;
                let is_told = status.is_server_error() || status == StatusCode::UNAUTHORIZED;
                noted.message = Some(failed.message.into_string()).filter(|_| is_told);
                failed.problem.answer(&head.headers)
            }
        };
        self.operations.metrics.request(noted.call.unwrap_or("unknown"), answer.status.as_u16());
        // Parts of Glance that answer before its API know no ids: authentication, and the list of versions.
        let has_id =
            answer.status != StatusCode::UNAUTHORIZED && !matches!(noted.call, Some("versions" | "options"));
        self.log(&head, &id, (&answer, start), noted);
        let id = Some(id).filter(|_| has_id);
        (answer, id)
    }

    async fn handle(
        &self,
        peer: Peer,
        head: &Parts,
        body: Incoming,
        noted: &mut Noted,
    ) -> Result<ApiAnswer, Failed> {
        let (path, query) = (head.uri.path(), head.uri.query());
        let call = route(&head.method, path, query)?;
        noted.call = Some(call.name());
        if call.needs_caller() {
            let method = head.method.as_str();
            let asked = RequestFacts { peer, headers: &head.headers, method, path };
            noted.caller = Some(self.auth.caller(asked).await?);
        }
        if let (Some(rule), Some(caller)) = (call.rule(), &noted.caller) {
            let target = self.target(&call, rule).await?;
            self.auth.check(caller, rule, &target)?;
        }
        check_body(&head.method, &head.headers, body).await?;
        let (answer, totals) = self.perform(call, head).await?;
        noted.totals = totals;
        Ok(answer)
    }

    /// Returns the thing that a call is about, as the policy sees it. Glance's database is only asked if the
    /// policy needs to know.
    async fn target(&self, call: &Call, rule: CacheRule) -> Result<Target, Failed> {
        match call {
            Call::Queue(id) | Call::Delete(id) if self.auth.reads_target(rule) => {
                let image = match image_id(id) {
                    Ok(id) if self.has_database => self.operations.image(id).await?,
                    _ => None,
                };
                Ok(image_target(image.as_ref()))
            }
            _ => Ok(Target::cache()),
        }
    }

    /// Does what a call asks for, after its caller was found to be allowed to.
    async fn perform(&self, call: Call, head: &Parts) -> Answering {
        let operations = &self.operations;
        let answer = match call {
            Call::Versions { are_choices } => self.versions.answer(host(head), are_choices).await,
            Call::Options => ApiAnswer::bare(StatusCode::OK),
            Call::Root => ApiAnswer::redirect("/v2/"),
            Call::Nothing => return Err(Problem::no_resource().into()),
            Call::ResourceType => resource_type(),
            Call::List => return operations.list().await,
            Call::Prune => return operations.prune(OnBehalf::Request).await,
            Call::Clean => {
                let (report, totals) = operations.clean(OnBehalf::Request).await?;
                let answer = match Form::accepted(&head.headers) {
                    Form::Json => ApiAnswer::json(StatusCode::OK, python(&report)),
                    Form::Html | Form::Text => ApiAnswer::empty(StatusCode::OK),
                };
                return Ok((answer, Some(totals)));
            }
            Call::Clear => return operations.clear(cleared(&head.headers)?).await,
            Call::Nodes(id) => return operations.nodes(image_id(&id)?).await,
            Call::Image(id) => {
                let image = self.image(&id).await?.ok_or_else(|| Problem::no_image(&id))?;
                let shown = json!({"id": id, "name": image["name"], "status": image["status"]});
                ApiAnswer::json(StatusCode::OK, python(&shown))
            }
            Call::Queue(id) => {
                let image = self.image(&id).await?.ok_or_else(|| Problem::no_image(&id))?;
                if image["status"] != "active" {
                    let text = "Only images with status active can be targeted for queueing";
                    return Err(Problem::bad_request(text).into());
                }
                return operations.queue(image_id(&id)?).await;
            }
            Call::Delete(id) => {
                let image = image_id(&id)?;
                let is_unknown = self.has_database && self.operations.image(image).await?.is_none();
                return operations.delete(image, is_unknown).await;
            }
        };
        Ok((answer, None))
    }

    /// Returns an image of Glance's database.
    async fn image(&self, id: &str) -> Result<Option<Value>, Failed> {
        let id = image_id(id)?;
        if !self.has_database {
            let text = "Glance's database is not configured here ([database] connection).";
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, text).into());
        }
        Ok(self.operations.image(id).await?.map(Value::Object))
    }

    /// Writes the line of a request.
    fn log(&self, head: &Parts, id: &str, (answer, start): (&ApiAnswer, Instant), noted: Noted) {
        // A client may send names that are as long as a head.
        let method = beginning(head.method.as_str(), MOST_OF_METHOD);
        let (path, status) = (beginning(head.uri.path(), MOST_OF_PATH), answer.status.as_u16());
        let ms = start.elapsed().as_millis();
        let (user, project) = noted
            .caller
            .map_or_else(|| ("-".to_owned(), "-".to_owned()), |caller| (caller.user, caller.project));
        let (user, project) = (beginning(&user, MOST_OF_PATH), beginning(&project, MOST_OF_PATH));
        let mut line = format!("{method} {path} {status} {ms} ms {id} user {user} project {project}");
        let mut facts = vec![
            ("request_id", id.to_owned()),
            ("method", method.to_string()),
            ("path", path.to_string()),
            ("status", status.to_string()),
            ("ms", ms.to_string()),
            ("user_id", user.to_string()),
            ("project_id", project.to_string()),
        ];
        if let Some((files, bytes)) = noted.totals {
            let _ = write!(line, " removed {files} files, {bytes} bytes");
            facts.extend([("total_files", files.to_string()), ("total_bytes", bytes.to_string())]);
        }
        let level = if answer.status.is_server_error() { Level::Warning } else { Level::Info };
        if let Some(message) = noted.message {
            let _ = write!(line, ": {message}");
            facts.push(("error", message));
        }
        self.output.event(level, &line, &facts);
    }
}

/// Returns the id of a request: the client's own with `req-` in front, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |id: &&str| {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_' || c == b'.';
        !id.is_empty() && id.len() <= MOST_OF_ID && id.bytes().all(is_plain)
    };
    let given = headers.get("x-openstack-request-id").and_then(|id| id.to_str().ok()).filter(is_plain);
    if let Some(given) = given {
        return format!("req-{}", given.strip_prefix("req-").unwrap_or(given));
    }
    let mut random = [0_u8; 16];
    // Without randomness, ids of requests are not unique, which harms nobody.
    let _ = SystemRandom::new().fill(&mut random);
    let mut number = u128::from_be_bytes(random);
    number = number & !(0xf << 76) | (4 << 76);
    number = number & !(0b11 << 62) | (0b10 << 62);
    let digits = format!("{number:032x}");
    let [a, b, c, d] = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20]];
    format!("req-{a}-{b}-{c}-{d}-{}", &digits[20..])
}

/// Returns host and port as the client wrote them, if they are nothing else.
fn host(head: &Parts) -> Option<&str> {
    let host = head.headers.get(HOST)?.to_str().ok()?;
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b".:-_[]".contains(&c);
    (!host.is_empty() && host.bytes().all(is_plain)).then_some(host)
}

/// Fails if a request has a body that its call does not take. The gate has bounded its size.
async fn check_body(method: &Method, headers: &HeaderMap, body: Incoming) -> Result<(), Problem> {
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !has_body {
        return Ok(());
    }
    if *method == Method::OPTIONS {
        return Ok(());
    }
    if *method == Method::GET {
        return Err(Problem::bad_request("A body is not expected with this request."));
    }
    let body = body.collect().await.map_err(|_| Problem::bad_request("The body is not complete."))?;
    match serde_json::from_slice::<Value>(&body.to_bytes()) {
        // The specification of the calls sends an empty object.
        Ok(Value::Object(members)) if members.is_empty() => Ok(()),
        // A wish that is ignored, such as dry_run, would be a promise that is not kept.
        Ok(Value::Object(_) | Value::Array(_)) => {
            Err(Problem::bad_request("This call takes no body, or an empty JSON object."))
        }
        Ok(_) => Err(Problem::bad_request("Unexpected body type. Expected list/dict.")),
        Err(_) => Err(Problem::bad_request("Malformed JSON in request body.")),
    }
}

/// Returns the part of the cache that is to be cleared.
fn cleared(headers: &HeaderMap) -> Result<Cleared, Problem> {
    let mut given = headers.get_all("x-image-cache-clear-target").iter();
    let (first, second) = (given.next(), given.next());
    let text = first.map_or(Ok(""), |text| text.to_str());
    match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        Ok("" | "both") if second.is_none() => Ok(Cleared::Both),
        Ok("cache") if second.is_none() => Ok(Cleared::Cache),
        Ok("queue") if second.is_none() => Ok(Cleared::Queue),
        _ => Err(Problem::bad_request(
            "If provided 'x-image-cache-clear-target' must be 'cache', 'queue', 'both' or empty string.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn ids_of_requests_are_new_or_the_clients() {
        let of = |id: &'static str| request_id(&headers(&[("x-openstack-request-id", id)]));
        assert_eq!((of("req-abc_1"), of("abc_1")), ("req-abc_1".to_owned(), "req-abc_1".to_owned()));
        for id in ["", "a b", "a;b"] {
            let made = of(id);
            assert_eq!((made.len(), &made[18..19]), (40, "4"), "{made}");
            assert!(made.starts_with("req-") && "89ab".contains(&made[23..24]), "{made}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn the_target_of_a_clear_is_named_once() {
        let name = "x-image-cache-clear-target";
        for (values, expected) in [
            (&[][..], Ok(Cleared::Both)),
            (&[""], Ok(Cleared::Both)),
            (&["both"], Ok(Cleared::Both)),
            (&["CACHE"], Ok(Cleared::Cache)),
            (&["queue"], Ok(Cleared::Queue)),
            (&["bogus"], Err(400)),
            (&["cache,queue"], Err(400)),
            (&["cache", "cache"], Err(400)),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| (name, *value)).collect();
            let found = cleared(&headers(&pairs)).map_err(|problem| problem.status.as_u16());
            assert_eq!(found, expected, "{values:?}");
        }
    }
}
