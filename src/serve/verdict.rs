//! The verdict on an operation that ended: what its caller is told, and what only the log has.
//!
//! The messages of a child are for the operator of this host: they name paths, processes and users. Not a
//! word of them is in an answer. A caller gets a sentence of this file for each kind of failure, and of a
//! report only the keys that are listed here, with numbers, ids of images and words of our own. A key that
//! somebody adds to a report stays here until it is listed.

use hyper::StatusCode;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};

use super::answer::Problem;
use super::child::ChildEnd;
use crate::names::ImageId;

/// The keys of reports whose values are numbers, true, false or null.
const FIGURES: [&str; 19] = [
    "total_files_pruned",
    "total_bytes_pruned",
    "total_files_cleaned",
    "total_bytes_cleaned",
    "total_files_prefetched",
    "total_bytes_prefetched",
    "cache_size_before",
    "cache_size_after",
    "max_size",
    "over_limit",
    "ghosts_forgotten",
    "orphans_adopted",
    "orphans_too_young",
    "rows_dropped",
    "left_alone",
    "invalid_files",
    "stalled_files",
    "still_queued",
    "dry_run",
];
/// The two keys of Glance's prune.
const GLANCES: [&str; 2] = ["total_files_pruned", "total_bytes_pruned"];
/// So many images that failed are named in a sentence.
const NAMED: usize = 8;
/// The end of a sentence whose details a caller does not get.
const SEE_LOG: &str = "The log of the service has the reason.";

/// An operation that failed: the problem for the client, and the whole message for the log.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) problem: Problem,
    pub(super) message: Box<str>,
    /// True if it was the end of the service that ended it.
    pub(super) is_interrupted: bool,
}

impl Failed {
    pub(super) fn new(problem: Problem) -> Self {
        let message = problem.explanation.clone();
        Failed::because(problem, message)
    }

    /// Returns a failure with a message that only the log has.
    pub(super) fn because(problem: Problem, message: String) -> Self {
        Failed { problem, message: message.into_boxed_str(), is_interrupted: false }
    }

    /// Returns the failure of an operation that the end of the service ended.
    pub(super) fn interrupted() -> Self {
        Failed { is_interrupted: true, ..Failed::new(ended_by_signal()) }
    }
}

fn ended_by_signal() -> Problem {
    Problem::busy("The operation was ended by a signal; the cache is consistent.")
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Failed::new(problem)
    }
}

/// Returns the failure of a child: what its caller is told, and its own messages for the log.
pub(super) fn failed(name: &str, ended: &ChildEnd, report: &Value) -> Failed {
    let first = ended.message();
    let message = if first.is_empty() { format!("{name} ended with {}", ended.code) } else { first };
    let problem = match ended.code {
        _ if ended.is_over_time => {
            let text = format!("The operation took longer than {} s, and was ended.", ended.took.as_secs());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, text)
        }
        3 if report["reason"] == "locked" => match report["locked"].as_str() {
            Some("index") => Problem::busy("The index of the cache is locked by another process."),
            Some("database") => Problem::busy("Glance's database is locked by another process."),
            _ => locked(),
        },
        130 | 143 => ended_by_signal(),
        1 => {
            let problem = Problem::failed(incomplete(report));
            if report.is_object() { problem.with_report(public(report)) } else { problem }
        }
        2 => Problem::failed(format!("The configuration of the service is wrong. {SEE_LOG}")),
        _ => {
            let what = match name {
                "look" => "Glance's database cannot be read.",
                "enqueue" | "prefetch" => "The cache or Glance's database cannot be used.",
                _ => "The cache or its index cannot be used.",
            };
            Problem::failed(format!("{what} {SEE_LOG}"))
        }
    };
    Failed::because(problem, message)
}

/// Somebody else holds the lock that the operation needs.
pub(super) fn locked() -> Problem {
    Problem::busy("The cache is locked by another operation.")
}

/// Returns the sentences about an operation that is done in part.
fn incomplete(report: &Value) -> String {
    let errors = || report["errors"].as_array().into_iter().flatten();
    let mut sentences = Vec::new();
    if errors().any(|error| error["action"] == "limit") {
        sentences.push(over_limit(report));
    }
    let others = errors().filter(|error| error["action"] != "limit");
    let names: Vec<&str> = others.map(|error| image_in(&error["name"]).unwrap_or("the cache")).collect();
    if !names.is_empty() {
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        sentences.push(format!("Failed: {}{more}.", names[..names.len().min(NAMED)].join(", ")));
    }
    if sentences.is_empty() {
        sentences.push("The operation was not completed.".to_owned());
    }
    sentences.push(SEE_LOG.to_owned());
    sentences.join(" ")
}

fn over_limit(report: &Value) -> String {
    match (report["cache_size_after"].as_u64(), report["max_size"].as_u64()) {
        (Some(size), Some(limit)) => format!("The cache is still over its limit: {size} of {limit} bytes."),
        _ => "The cache is still over its limit.".to_owned(),
    }
}

/// Returns the parts of a report that callers may know.
pub(super) fn public(report: &Value) -> Value {
    let members = report.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let items = || value.as_array().into_iter().flatten();
        let value = match key.as_str() {
            "errors" => items().map(|error| public_error(error, report)).collect(),
            "not_cached" => items().filter_map(image_in).map(Value::from).collect(),
            // Of the process, and of a file that is not named like an image, only the number is known.
            "kept_open" => items().map(|entry| json!({ "name": image_in(&entry["name"]) })).collect(),
            "signal" if ["SIGINT", "SIGTERM"].iter().any(|known| value == known) => value.clone(),
            key if FIGURES.contains(&key) && (value.is_number() || value.is_boolean() || value.is_null()) => {
                value.clone()
            }
            _ => return None,
        };
        Some((key.clone(), value))
    });
    Value::Object(members.collect::<Map<_, _>>())
}

/// Returns an error of a report with a message of our own.
fn public_error(error: &Value, report: &Value) -> Value {
    let is_word = |word: &&str| word.len() < 20 && word.bytes().all(|c| c == b' ' || c.is_ascii_lowercase());
    let action = error["action"].as_str().filter(is_word).unwrap_or("change");
    let message =
        if action == "limit" { over_limit(report) } else { format!("This failed: {action}. {SEE_LOG}") };
    let name = image_in(&error["name"]).unwrap_or("cache");
    json!({ "name": name, "action": action, "message": message })
}

/// Returns the image of an entry: the last part of a name such as `invalid/ID`.
fn image_in(name: &Value) -> Option<&str> {
    let last = name.as_str()?.rsplit('/').next()?;
    ImageId::new(last.as_bytes()).map(|_| last)
}

/// A report for callers, with the two keys of Glance before all others.
pub(super) struct InOrder(Value);

impl InOrder {
    pub(super) fn new(report: &Value) -> Self {
        InOrder(public(report))
    }
}

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for key in GLANCES {
            map.serialize_entry(key, &self.0[key])?;
        }
        for (key, value) in self.0.as_object().into_iter().flatten() {
            if !GLANCES.contains(&key.as_str()) {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::python::python;

    const A: &str = "11111111-1111-4111-8111-11111111111a";

    #[test]
    fn glances_keys_come_first_and_texts_stay_here() {
        let report = json!({"max_size": 9, "total_bytes_pruned": 3, "total_files_pruned": 2,
            "errors": [], "error": "/a/b: c", "skipped": "process 7", "new_key": 1, "left_alone": "/x"});
        let expected = r#"{"total_files_pruned": 2, "total_bytes_pruned": 3, "errors": [], "max_size": 9}"#;
        assert_eq!(python(&InOrder::new(&report)), expected);
    }

    #[test]
    fn of_errors_only_the_action_and_the_image_are_shown() {
        let report = json!({
            "errors": [
                {"name": format!("invalid/{A}"), "action": "remove", "message": "cannot remove /a b/c"},
                {"name": "/a b/c", "action": "open /a", "message": "held by python3 (process 7)"},
                {"name": "/a b/c", "action": "limit", "message": "the rest is in /x"},
            ],
            "not_cached": [A, "../x"],
            "kept_open": [{"name": A, "pid": 7}, {"name": "a b", "pid": 8}],
            "signal": "SIGTERM",
            "cache_size_after": 5, "max_size": 3,
        });
        let limit = "The cache is still over its limit: 5 of 3 bytes.";
        let failed = |action| format!("This failed: {action}. {SEE_LOG}");
        assert_eq!(
            public(&report),
            json!({
                "errors": [
                    {"name": A, "action": "remove", "message": failed("remove")},
                    {"name": "cache", "action": "change", "message": failed("change")},
                    {"name": "cache", "action": "limit", "message": limit},
                ],
                "not_cached": [A],
                "kept_open": [{"name": A}, {"name": null}],
                "signal": "SIGTERM",
                "cache_size_after": 5, "max_size": 3,
            })
        );
        assert_eq!(incomplete(&report), format!("{limit} Failed: {A}, the cache. {SEE_LOG}"));
        assert_eq!(incomplete(&Value::Null), format!("The operation was not completed. {SEE_LOG}"));
        let many: Vec<Value> = (0..10).map(|_| json!({"name": A, "action": "remove"})).collect();
        assert!(incomplete(&json!({ "errors": many })).contains(" and 2 more."));
    }
}
