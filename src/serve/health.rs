//! Probes of the service's health, which never depend on Keystone, the cache or the last run.

use std::path::Path;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use rustix::fs::{AtFlags, CWD, statat};

use super::answer::{ApiAnswer, Form, MOST_OF_METHOD, beginning};
use crate::output::Output;
use crate::output::oslo::Level;

/// Returns the answer to a probe.
pub(super) fn health(request: &Request<Incoming>, disable_by_file: Option<&Path>) -> ApiAnswer {
    let is_off = disable_by_file.is_some_and(|file| statat(CWD, file, AtFlags::empty()).is_ok());
    let (reason, status) = match (is_off, request.method()) {
        (true, _) => ("DISABLED BY FILE", StatusCode::SERVICE_UNAVAILABLE),
        (false, &Method::HEAD) => return ApiAnswer::bare(StatusCode::NO_CONTENT),
        (false, _) => ("OK", StatusCode::OK),
    };
    match Form::accepted(request.headers()) {
        Form::Json => {
            let start = "{\n    \"detailed\": false,\n    \"reasons\": [\n        ";
            ApiAnswer::json(status, format!("{start}\"{reason}\"\n    ]\n}}"))
        }
        Form::Html | Form::Text => ApiAnswer::text(reason).having(status),
    }
}

/// Logs a request for health or metrics, if the output is verbose: there are many of them.
pub(super) fn note(output: &Output, request: &Request<Incoming>, answer: &ApiAnswer) {
    if output.is_verbose() {
        let method = beginning(request.method().as_str(), MOST_OF_METHOD);
        let line = format!("{method} {} {}", request.uri().path(), answer.status.as_u16());
        output.event(Level::Info, &line, &[]);
    }
}

/// True if a request is a probe of the service's health.
pub(super) fn is_probe(request: &Request<Incoming>) -> bool {
    matches!(request.uri().path(), "/healthcheck" | "/healthcheck/")
}
