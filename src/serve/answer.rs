//! Answers, with the heads and bodies of Glance's API.
//!
//! The texts are Glance's to the letter, since clients and people's scripts look for them. An error has the
//! form that the client accepts: text, HTML or JSON. JSON is never sent to a client that accepts anything:
//! python-glanceclient asks with `*/*`, and fails on a body of JSON whose values are texts.
//!
//! No answer has a path, a process or a message of this host in it: the explanations are fixed sentences, see
//! `verdict`. What a client has sent is repeated only in part.

use std::borrow::Cow;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::output::python::python;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=UTF-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// The seconds after which a client may try again what is busy now.
pub(super) const AGAIN: u32 = 5;
/// So many characters of a method are repeated.
pub(super) const MOST_OF_METHOD: usize = 64;
/// So many characters of a path, or of a part of one, are repeated.
pub(super) const MOST_OF_PATH: usize = 255;

/// The answer to a request.
#[derive(Clone, Debug)]
pub(super) struct ApiAnswer {
    pub(super) status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl ApiAnswer {
    /// Returns an answer without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        ApiAnswer { status, headers: vec![(CONTENT_TYPE, HTML)], body: Bytes::new() }
    }

    /// Returns an answer without a body, and without the type of one.
    pub(super) fn bare(status: StatusCode) -> Self {
        ApiAnswer { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Returns an answer with a text.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        ApiAnswer { status: StatusCode::OK, headers: vec![(CONTENT_TYPE, TEXT)], body: text.into() }
    }

    /// Returns the answer with another status.
    pub(super) fn having(self, status: StatusCode) -> Self {
        ApiAnswer { status, ..self }
    }

    /// Returns an answer with a body that is JSON already.
    pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        ApiAnswer { status, headers: vec![(CONTENT_TYPE, JSON)], body: body.into() }
    }

    /// Returns a redirection.
    pub(super) fn redirect(to: &'static str) -> Self {
        let answer = ApiAnswer::empty(StatusCode::FOUND);
        answer.with(LOCATION, HeaderValue::from_static(to))
    }

    /// Adds a header.
    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Returns the answer as hyper sends it. With `closes`, the connection ends with it.
    pub(super) fn into_response(self, request_id: Option<&str>, closes: bool) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if let Some(id) = request_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(HeaderName::from_static("x-openstack-request-id"), id);
        }
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A request that is not fulfilled.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// For people. Glance's own text where Glance has one.
    pub(super) explanation: String,
    /// The value of `Allow`.
    allow: Option<&'static str>,
    /// The value of `WWW-Authenticate`.
    challenge: Option<Box<str>>,
    may_try_again: bool,
    /// The report of the operation, for clients that accept JSON.
    report: Option<Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, explanation: impl Into<String>) -> Self {
        let explanation = explanation.into();
        Problem { status, explanation, allow: None, challenge: None, may_try_again: false, report: None }
    }

    pub(super) fn bad_request(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, explanation)
    }

    pub(super) fn unauthorized(challenge: String) -> Self {
        let explanation = "This server could not verify that you are authorized to access the document you \
                           requested. Either you supplied the wrong credentials (e.g., bad password), or \
                           your browser does not understand how to supply the credentials required.";
        Problem { challenge: Some(challenge.into()), ..Self::new(StatusCode::UNAUTHORIZED, explanation) }
    }

    /// The rule of the policy denies it.
    pub(super) fn forbidden(rule: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("You are not authorized to complete {rule} action."))
    }

    pub(super) fn no_resource() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The resource could not be found.")
    }

    pub(super) fn no_image(id: &str) -> Self {
        let id = beginning(id, MOST_OF_PATH);
        Self::new(StatusCode::NOT_FOUND, format!("Image {id} not found."))
    }

    pub(super) fn not_allowed(method: &Method, allow: &'static str) -> Self {
        let method = beginning(method.as_str(), MOST_OF_METHOD);
        let explanation = format!("The method {method} is not allowed for this resource. ");
        Problem { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, explanation) }
    }

    /// It cannot be done now.
    pub(super) fn busy(explanation: impl Into<String>) -> Self {
        Problem { may_try_again: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, explanation) }
    }

    pub(super) fn failed(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, explanation)
    }

    /// Adds the report of the operation.
    pub(super) fn with_report(self, report: Value) -> Self {
        Problem { report: Some(report), ..self }
    }

    /// Returns the answer in the form that the client accepts.
    pub(super) fn answer(self, accept: &HeaderMap) -> ApiAnswer {
        let reason = self.status.canonical_reason().unwrap_or("Unknown");
        let (line, explanation) = (format!("{} {reason}", self.status.as_u16()), &self.explanation);
        let end = if self.allow.is_some() { "\n" } else { "\n\n\n" };
        let (kind, body) = match (Form::accepted(accept), self.report) {
            (Form::Json, Some(report)) => (JSON, python(&report)),
            (Form::Json, None) => {
                let message = format!("{explanation}<br /><br />{end}");
                let body = ErrorInJson { message, code: &line, title: reason };
                (JSON, python(&body))
            }
            (Form::Html, _) => {
                let explanation = html(explanation);
                let body = format!(
                    "<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n  <h1>{line}</h1>\n  \
                     {explanation}<br /><br />{end}\n </body>\n</html>"
                );
                (HTML, body)
            }
            (Form::Text, _) => {
                let end = if explanation.ends_with(' ') { "\n\n " } else { "\n\n   " };
                (TEXT, format!("{line}\n\n{explanation}{end}"))
            }
        };
        let mut answer = ApiAnswer { status: self.status, headers: Vec::new(), body: body.into() };
        if let Some(allow) = self.allow {
            answer = answer.with(ALLOW, HeaderValue::from_static(allow));
        }
        answer = answer.with(CONTENT_TYPE, kind);
        if self.may_try_again {
            answer = answer.with(RETRY_AFTER, HeaderValue::from(AGAIN));
        }
        match self.challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
            Some(challenge) => answer.with(WWW_AUTHENTICATE, challenge),
            None => answer,
        }
    }
}

/// An error in JSON.
#[derive(Serialize)]
struct ErrorInJson<'a> {
    message: String,
    code: &'a str,
    title: &'a str,
}

/// The form of an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    /// Returns the form that the client prefers. HTML is preferred to JSON if the client does not care; text
    /// is for clients that accept neither.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(hyper::header::ACCEPT).into_iter();
        let text: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
        let text = text.join(",").to_ascii_lowercase();
        // As Glance has it: a header that makes no sense is for everything, one that is not there for text.
        if !text.is_empty() && !text.contains('/') {
            return Form::Html;
        }
        let html = quality(&text, "text", "html");
        let json = quality(&text, "application", "json");
        match (html > 0.0 || json > 0.0, html >= json) {
            (false, _) => Form::Text,
            (true, true) => Form::Html,
            (true, false) => Form::Json,
        }
    }
}

/// Returns the quality that a client gives to a media type: that of its most specific range.
fn quality(accept: &str, kind: &str, subtype: &str) -> f32 {
    let ranges = accept.split(',').filter_map(|range| {
        let mut words = range.split(';').map(str::trim);
        let (of_kind, of_subtype) = words.next()?.split_once('/')?;
        let fits = |found: &str, wanted: &str| found == wanted || found == "*";
        if !fits(of_kind, kind) || !fits(of_subtype, subtype) {
            return None;
        }
        let given = words.find_map(|word| word.strip_prefix("q="));
        let quality = given.map_or(Some(1.0), |quality| quality.trim().parse::<f32>().ok())?;
        let precision = usize::from(of_kind != "*") + usize::from(of_subtype != "*");
        Some((precision, quality.clamp(0.0, 1.0)))
    });
    ranges.max_by_key(|(precision, _)| *precision).map_or(0.0, |(_, quality)| quality)
}

/// Escapes a text for HTML as Python does.
fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#x27;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the beginning of a text that a client has sent, with a mark if that is not all of it.
pub(super) fn beginning(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}... ({} characters)", &text[..end], text.chars().count())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: Problem, accept: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(hyper::header::ACCEPT, accept.parse().unwrap());
        }
        String::from_utf8(problem.answer(&headers).body.to_vec()).unwrap()
    }

    #[test]
    fn errors_have_the_form_that_is_accepted() {
        let problem = || Problem::forbidden("cache_prune");
        let text = "403 Forbidden\n\nYou are not authorized to complete cache_prune action.\n\n   ";
        let html = "<html>\n <head>\n  <title>403 Forbidden</title>\n </head>\n <body>\n  <h1>403 \
                    Forbidden</h1>\n  You are not authorized to complete cache_prune action.<br /><br />\n\n\
                    \n\n </body>\n</html>";
        let json = "{\"message\": \"You are not authorized to complete cache_prune action.<br /><br \
                    />\\n\\n\\n\", \"code\": \"403 Forbidden\", \"title\": \"Forbidden\"}";
        for (accept, expected) in [
            (None, text),
            (Some("text/plain"), text),
            (Some("*/*"), html),
            (Some("text/html"), html),
            (Some("application/json"), json),
            (Some("application/json, */*"), html),
            (Some("application/json;q=0.9, */*;q=0.1"), json),
            (Some("text/html;q=0, */*"), json),
            (Some("application/*"), json),
            (Some("nonsense"), html),
            (Some(""), text),
        ] {
            assert_eq!(body(problem(), accept), expected, "{accept:?}");
        }
        let method = Problem::not_allowed(&Method::PUT, "POST");
        let text = "405 Method Not Allowed\n\nThe method PUT is not allowed for this resource. \n\n ";
        assert_eq!(body(method.clone(), None), text);
        let html = body(method, Some("*/*"));
        assert!(html.ends_with("resource. <br /><br />\n\n </body>\n</html>"), "{html:?}");
        let quoted = Problem::bad_request("must be 'cache' & <so>");
        assert!(body(quoted, Some("*/*")).contains("must be &#x27;cache&#x27; &amp; &lt;so&gt;"));
    }

    #[test]
    fn long_texts_of_clients_are_cut() {
        for (text, expected) in [
            ("", ""),
            ("abc", "abc"),
            ("abcd", "abc... (4 characters)"),
            ("\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}", "\u{e4}\u{e4}\u{e4}... (5 characters)"),
        ] {
            assert_eq!(beginning(text, 3), expected);
        }
    }
}
