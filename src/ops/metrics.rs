//! Metrics for Prometheus: the state of caches, and what the runs of each command did.
//!
//! They are made of the JSON of a report, so that metrics and JSON never differ. A number that is `null`
//! there has no sample. `status --format prometheus` prints gauges only, in a text that is valid in
//! OpenMetrics and in Prometheus' own format. A textfile also has the counters of runs, in Prometheus' own
//! format, which is the one that the node exporter reads: each run goes on from the numbers in the file, and
//! keeps the samples of other commands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use self::MetricKind::{Counter, Gauge};
use crate::exit::Exit;
use crate::output::textfile::HEADER;
use crate::units::{Moment, Nanos, seconds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MetricKind {
    Counter,
    Gauge,
}

/// Every metric: name, kind, and the text that explains it.
const METRICS: &[(&str, MetricKind, &str)] = &[
    ("glance_cache_info", Gauge, "The directory of a cache and the type of its index; always 1."),
    ("glance_cache_size_bytes", Gauge, "Size of all images of a cache. The limit refers to it."),
    ("glance_cache_limit_bytes", Gauge, "Limit of a cache."),
    ("glance_cache_allocated_bytes", Gauge, "Disk space that the images of a cache hold."),
    ("glance_cache_entries", Gauge, "Entries of a cache by state."),
    ("glance_cache_entries_bytes", Gauge, "Size of the entries of a cache by state."),
    ("glance_cache_hits", Gauge, "Hits of all images of a cache, as its index counts them."),
    ("glance_cache_oldest_use_timestamp_seconds", Gauge, "Last use of the image that was used longest ago."),
    ("glance_cache_newest_use_timestamp_seconds", Gauge, "Last use of the image that was used last."),
    ("glance_cache_unusable_images", Gauge, "Images of a cache that Glance does not serve any more."),
    ("glance_cache_unusable_bytes", Gauge, "Size of the images that Glance does not serve any more."),
    ("glance_cache_verified_images", Gauge, "Images of a cache whose contents were verified."),
    ("glance_cache_broken_images", Gauge, "Images of a cache whose contents are known to be wrong."),
    (
        "glance_cache_oldest_verification_timestamp_seconds",
        Gauge,
        "Verification of the image that was verified longest ago.",
    ),
    (
        "glance_cache_newest_verification_timestamp_seconds",
        Gauge,
        "Verification of the image that was verified last.",
    ),
    ("glance_cache_index_readable", Gauge, "1 if the index of a cache could be read, otherwise 0."),
    ("glance_cache_attention", Gauge, "Number of things that need attention, as status shows them."),
    ("glance_cache_directory_missing", Gauge, "1 if the configured directory of a cache is missing."),
    ("glance_cache_readable", Gauge, "1 if a cache could be looked at, otherwise 0."),
    ("glance_cache_errors", Gauge, "Caches and entries that could not be looked at."),
    ("glance_cache_file_system_size_bytes", Gauge, "Size of a file system that has caches on it."),
    ("glance_cache_file_system_available_bytes", Gauge, "Free space of a file system that has caches on it."),
    ("glance_cache_node_images", Gauge, "Images of a node in the central database."),
    ("glance_cache_node_size_bytes", Gauge, "Size of the images of a node in the central database."),
    ("glance_cache_node_hits", Gauge, "Hits of all images of a node in the central database."),
    (
        "glance_cache_node_oldest_use_timestamp_seconds",
        Gauge,
        "Last use of the image of a node that was used longest ago.",
    ),
    ("glance_cache_last_run_timestamp_seconds", Gauge, "End of the last run of a command."),
    (
        "glance_cache_last_success_timestamp_seconds",
        Gauge,
        "End of the last run of a command that exited with 0 and was not skipped because of a lock.",
    ),
    ("glance_cache_last_duration_seconds", Gauge, "Duration of the last run of a command."),
    ("glance_cache_last_exit_code", Gauge, "Exit code of the last run of a command."),
    ("glance_cache_runs_total", Counter, "Runs of a command."),
    ("glance_cache_failed_runs_total", Counter, "Runs of a command that did not exit with 0."),
    ("glance_cache_skipped_runs_total", Counter, "Runs of a command that did nothing because of a lock."),
    ("glance_cache_removed_files_total", Counter, "Files that a command has removed."),
    ("glance_cache_freed_bytes_total", Counter, "Size of the files that a command has removed."),
    ("glance_cache_forgotten_rows_total", Counter, "Rows without an image that a command has removed."),
    ("glance_cache_moved_images_total", Counter, "Broken images that were moved to invalid/."),
    ("glance_cache_fetched_images_total", Counter, "Images that prefetch has fetched."),
    ("glance_cache_fetched_bytes_total", Counter, "Size of the images that prefetch has fetched."),
];

/// Samples by the position of their metric in the table, each with its labels in braces and its value.
#[derive(Debug, Default, PartialEq)]
struct Samples(BTreeMap<usize, Vec<(String, String)>>);

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

impl Samples {
    fn add(&mut self, metric: &str, labels: &[Label<'_>], value: f64) {
        let place = METRICS.iter().position(|(name, ..)| *name == metric);
        let place = place.expect("every metric that is written is in the table");
        self.0.entry(place).or_default().push((braces(labels), value.to_string()));
    }

    /// Adds a number of a report, unless it is unknown there.
    fn number(&mut self, metric: &str, labels: &[Label<'_>], value: &Value) {
        if let Some(value) = value.as_f64() {
            self.add(metric, labels, value);
        }
    }

    /// Adds a time of a report as seconds since the epoch, unless it is unknown there.
    fn time(&mut self, metric: &str, labels: &[Label<'_>], value: &Value) {
        if let Some(Moment(time)) = value.as_str().and_then(|text| text.parse().ok()) {
            self.add(metric, labels, seconds(time));
        }
    }

    /// Returns the value of a sample, or 0.
    fn value(&self, metric: &str, labels: &str) -> f64 {
        let place = METRICS.iter().position(|(name, ..)| *name == metric);
        let samples = place.and_then(|place| self.0.get(&place)).into_iter().flatten();
        let value = samples.into_iter().find(|sample| sample.0 == labels).map(|sample| &sample.1);
        value.and_then(|value| value.parse().ok()).filter(|value: &f64| value.is_finite()).unwrap_or(0.0)
    }

    /// Reads a text that this program wrote. Lines that are damaged or unknown are left out.
    fn read(text: &str) -> Samples {
        let mut samples = Samples::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, value)) = line.rsplit_once(' ') else { continue };
            let at = sample.find('{').unwrap_or(sample.len());
            let (name, labels) = sample.split_at(at);
            let place = METRICS.iter().position(|metric| metric.0 == name);
            let is_whole = labels.is_empty() || labels.ends_with('}');
            if let (Some(place), true, Ok(_)) = (place, is_whole, value.parse::<f64>()) {
                samples.0.entry(place).or_default().push((labels.to_owned(), value.to_owned()));
            }
        }
        samples
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (place, samples) in &self.0 {
            let (name, kind, help) = METRICS[*place];
            let kind = if kind == Counter { "counter" } else { "gauge" };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
        text
    }
}

/// Returns labels as the text format wants them. Their values may contain anything.
fn braces(labels: &[Label<'_>]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

/// Returns the text of `status --format prometheus`.
pub(crate) fn exposition(report: &Value) -> String {
    let mut samples = Samples::default();
    of_state(report, &mut samples);
    samples.text() + "# EOF\n"
}

/// Returns the text of `status --format prometheus` for a cache about which nothing could be found out.
pub(crate) fn nothing_known(cache_dir: &str) -> String {
    exposition(&unknown_state(cache_dir))
}

/// Returns what is reported of a cache about which nothing could be found out. The directory is empty if not
/// even that is known.
pub(crate) fn unknown_state(cache_dir: &str) -> Value {
    json!({"cache_dir": cache_dir, "unreadable": "", "attention": [""]})
}

/// Adds the samples of the report of `status`, whichever caches it is about.
fn of_state(report: &Value, samples: &mut Samples) {
    if report.get("cache_dir").is_some() {
        of_cache(report, samples);
    } else if report.get("total").is_some() {
        of_nodes(report, samples);
    } else if report.get("caches").is_some() {
        of_host(report, samples);
    }
}

/// The states of entries, and their keys in the report of one cache.
const STATES: &[(&str, &str)] = &[
    ("tracked", "tracked"),
    ("orphan", "orphans"),
    ("ghost", "ghosts"),
    ("queued", "queued"),
    ("incomplete", "incomplete"),
    ("stalled", "stalled"),
    ("invalid", "invalid"),
];

fn of_cache(report: &Value, samples: &mut Samples) {
    let cache = ("cache", "glance");
    let directory = text(report, "cache_dir");
    if !directory.is_empty() {
        let info = [cache, ("directory", directory), ("index", text(report, "driver"))];
        samples.add("glance_cache_info", &info, 1.0);
    }
    let is_looked_at = report["unreadable"].is_null();
    let is_missing = is_looked_at && report["exists"] == Value::Bool(false);
    samples.add("glance_cache_directory_missing", &[cache], f64::from(u8::from(is_missing)));
    let is_readable = is_looked_at && !is_missing;
    samples.add("glance_cache_readable", &[cache], f64::from(u8::from(is_readable)));
    let attention = report["attention"].as_array().map_or(0, Vec::len);
    samples.add("glance_cache_attention", &[cache], attention as f64);
    samples.number("glance_cache_limit_bytes", &[cache], &report["max_size"]);
    if !is_readable {
        return;
    }
    samples.number("glance_cache_size_bytes", &[cache], &report["cache_size"]);
    samples.number("glance_cache_allocated_bytes", &[cache], &report["allocated"]);
    for (state, key) in STATES {
        let labels = [cache, ("state", *state)];
        samples.number("glance_cache_entries", &labels, &report[*key]["count"]);
        samples.number("glance_cache_entries_bytes", &labels, &report[*key]["bytes"]);
    }
    samples.number("glance_cache_hits", &[cache], &report["hits"]);
    samples.time("glance_cache_oldest_use_timestamp_seconds", &[cache], &report["oldest_use"]);
    samples.time("glance_cache_newest_use_timestamp_seconds", &[cache], &report["newest_use"]);
    samples.number("glance_cache_unusable_images", &[cache], &report["unusable"]["count"]);
    samples.number("glance_cache_unusable_bytes", &[cache], &report["unusable"]["bytes"]);
    let verified = &report["verified"];
    samples.number("glance_cache_verified_images", &[cache], &verified["count"]);
    if let Some(broken) = verified["broken"].as_array() {
        samples.add("glance_cache_broken_images", &[cache], broken.len() as f64);
    }
    samples.time("glance_cache_oldest_verification_timestamp_seconds", &[cache], &verified["oldest"]);
    samples.time("glance_cache_newest_verification_timestamp_seconds", &[cache], &verified["newest"]);
    let is_readable = report["index_unreadable"].is_null();
    samples.add("glance_cache_index_readable", &[cache], f64::from(u8::from(is_readable)));
    file_system(&report["file_system"], samples);
}

fn file_system(report: &Value, samples: &mut Samples) {
    let Some(point) = report["mount_point"].as_str() else { return };
    let labels = [("mountpoint", point)];
    samples.number("glance_cache_file_system_size_bytes", &labels, &report["size"]);
    samples.number("glance_cache_file_system_available_bytes", &labels, &report["available"]);
}

/// The states of entries in the report of all caches of a host, and their keys.
const STATES_OF_HOST: &[(&str, &str)] =
    &[("in_use", "in_use"), ("reclaimable", "reclaimable"), ("kept", "kept"), ("leftover", "leftovers")];

/// The actions of errors about a whole cache, which begin with its name.
const OF_WHOLE_CACHES: [&str; 3] = ["find", "open", "look through"];

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn of_host(report: &Value, samples: &mut Samples) {
    let list = |key: &str| report[key].as_array().into_iter().flatten();
    for cache in list("caches") {
        let name = ("cache", text(cache, "name"));
        let info = [name, ("directory", text(cache, "directory")), ("kind", text(cache, "kind"))];
        samples.add("glance_cache_info", &info, 1.0);
        samples.add("glance_cache_directory_missing", &[name], 0.0);
        samples.add("glance_cache_readable", &[name], 1.0);
        samples.number("glance_cache_size_bytes", &[name], &cache["size"]);
        samples.number("glance_cache_limit_bytes", &[name], &cache["limit"]);
        for (state, key) in STATES_OF_HOST {
            let labels = [name, ("state", *state)];
            samples.number("glance_cache_entries", &labels, &cache[*key]["count"]);
            samples.number("glance_cache_entries_bytes", &labels, &cache[*key]["bytes"]);
        }
    }
    for missing in list("missing") {
        let name = ("cache", text(missing, "name"));
        samples.add("glance_cache_directory_missing", &[name], 1.0);
        samples.add("glance_cache_readable", &[name], 0.0);
    }
    for error in list("errors").filter(|error| OF_WHOLE_CACHES.contains(&text(error, "action"))) {
        let name = text(error, "name");
        let name = name.split_once(" (").map_or(name, |(name, _)| name);
        samples.add("glance_cache_readable", &[("cache", name)], 0.0);
    }
    list("file_systems").for_each(|report| file_system(report, samples));
    samples.add("glance_cache_errors", &[], list("errors").count() as f64);
}

fn of_nodes(report: &Value, samples: &mut Samples) {
    for node in report["nodes"].as_array().into_iter().flatten() {
        let labels = [("node", text(node, "node"))];
        samples.number("glance_cache_node_images", &labels, &node["images"]);
        samples.number("glance_cache_node_size_bytes", &labels, &node["bytes"]);
        samples.number("glance_cache_node_hits", &labels, &node["hits"]);
        let oldest = &node["oldest_use"];
        samples.time("glance_cache_node_oldest_use_timestamp_seconds", &labels, oldest);
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The name of the command.
    pub(crate) command: &'static str,
    pub(crate) at: Nanos,
    pub(crate) duration: Duration,
    pub(crate) exit: Exit,
}

/// The counters of what commands did, each with the keys of the report that it sums up.
const DONE: &[(&str, &[&str])] = &[
    (
        "glance_cache_removed_files_total",
        &["total_files_pruned", "total_files_cleaned", "deleted_images_removed"],
    ),
    (
        "glance_cache_freed_bytes_total",
        &["total_bytes_pruned", "total_bytes_cleaned", "deleted_bytes_removed"],
    ),
    ("glance_cache_forgotten_rows_total", &["ghosts_forgotten"]),
    ("glance_cache_moved_images_total", &["total_files_moved"]),
    ("glance_cache_fetched_images_total", &["total_files_prefetched"]),
    ("glance_cache_fetched_bytes_total", &["total_bytes_prefetched"]),
];

/// Returns the text of a textfile after a run, from the text before it. The report is null if the run failed
/// without one.
pub(crate) fn textfile(last: &str, run: &Ended, report: &Value) -> String {
    let last = Samples::read(last);
    let labels = [("command", run.command)];
    let own = braces(&labels);
    let mut samples = Samples::default();
    let is_skipped = report["skipped"].is_string();
    let is_success = run.exit == Exit::Done && !is_skipped;
    let at = seconds(run.at);
    samples.add("glance_cache_last_run_timestamp_seconds", &labels, at);
    let success = "glance_cache_last_success_timestamp_seconds";
    let last_success = if is_success { at } else { last.value(success, &own) };
    // A command that never succeeded has 0 here, so that an alert can compare it.
    samples.add(success, &labels, last_success);
    samples.add("glance_cache_last_duration_seconds", &labels, run.duration.as_secs_f64());
    samples.add("glance_cache_last_exit_code", &labels, f64::from(run.exit.code()));
    let mut count = |metric: &str, more: f64| samples.add(metric, &labels, last.value(metric, &own) + more);
    count("glance_cache_runs_total", 1.0);
    count("glance_cache_failed_runs_total", if run.exit == Exit::Done { 0.0 } else { 1.0 });
    count("glance_cache_skipped_runs_total", if is_skipped { 1.0 } else { 0.0 });
    for (metric, keys) in DONE {
        let numbers: Vec<f64> = keys.iter().filter_map(|key| report[*key].as_f64()).collect();
        if !numbers.is_empty() || last.value(metric, &own) > 0.0 {
            count(metric, numbers.iter().sum());
        }
    }
    // The reports of changes also name caches, but only `status` is about their state.
    let is_state = run.command == "status" && report.is_object();
    if is_state {
        of_state(report, &mut samples);
    }
    for (place, old) in last.0 {
        let is_of_run = METRICS[place].0.contains("_total") || METRICS[place].0.contains("_last_");
        let kept = old.into_iter().filter(|(labels, _)| if is_of_run { *labels != own } else { !is_state });
        let kept: Vec<_> = kept.collect();
        if !kept.is_empty() {
            let mut all = kept;
            all.append(samples.0.entry(place).or_default());
            samples.0.insert(place, all);
        }
    }
    format!("{HEADER} Read by the textfile collector of the node exporter.\n{}", samples.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(command: &'static str, at: i64, exit: Exit) -> Ended {
        Ended { command, at: at * crate::units::SECOND, duration: Duration::from_millis(1500), exit }
    }

    fn value(text: &str, sample: &str) -> Option<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map(str::to_owned)
    }

    #[test]
    fn counters_go_on_from_the_last_file() {
        let report = json!({"total_files_pruned": 2, "total_bytes_pruned": 3_250_585_600_u64,
            "ghosts_forgotten": 1});
        let first = textfile("", &ended("prune", 100, Exit::Done), &report);
        let second = textfile(&first, &ended("prune", 200, Exit::Incomplete), &report);
        let third = textfile(&second, &ended("prune", 300, Exit::CannotStart), &Value::Null);
        let of = |text: &str, name: &str| value(text, &format!("glance_cache_{name}{{command=\"prune\"}}"));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&first, "removed_files_total"), some("2"));
        assert_eq!(of(&third, "removed_files_total"), some("4"));
        assert_eq!(of(&third, "freed_bytes_total"), some("6501171200"));
        assert_eq!(of(&third, "forgotten_rows_total"), some("2"));
        assert_eq!(of(&third, "fetched_images_total"), None);
        assert_eq!(of(&third, "runs_total"), some("3"));
        assert_eq!(of(&third, "failed_runs_total"), some("2"));
        assert_eq!(of(&third, "last_run_timestamp_seconds"), some("300"));
        assert_eq!(of(&third, "last_success_timestamp_seconds"), some("100"));
        assert_eq!(of(&third, "last_exit_code"), some("3"));
        assert_eq!(of(&third, "last_duration_seconds"), some("1.5"));
    }

    #[test]
    fn commands_share_a_file() {
        let pruned = textfile("", &ended("prune", 100, Exit::Done), &json!({"total_files_pruned": 2}));
        let cleaned = textfile(&pruned, &ended("clean", 200, Exit::Done), &json!({"total_files_cleaned": 3}));
        let state = json!({"cache_dir": "/c", "exists": true, "cache_size": 7});
        let shown = textfile(&cleaned, &ended("status", 300, Exit::Done), &state);
        let host = json!({"caches": [{"name": "glance", "size": 5}], "total_files_pruned": 0});
        let shown = textfile(&shown, &ended("prune", 350, Exit::Done), &host);
        let last = textfile(&shown, &ended("prune", 400, Exit::Done), &json!({"total_files_pruned": 1}));
        let sample = |name: &str| value(&last, name);
        assert_eq!(sample("glance_cache_removed_files_total{command=\"prune\"}").as_deref(), Some("3"));
        assert_eq!(sample("glance_cache_removed_files_total{command=\"clean\"}").as_deref(), Some("3"));
        assert_eq!(sample("glance_cache_size_bytes{cache=\"glance\"}").as_deref(), Some("7"));
        // A family is described once.
        let types: Vec<&str> = last.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let mut once = types.clone();
        once.dedup();
        assert_eq!(types, once);
        // A state that is reported again replaces the old one.
        let again = textfile(&last, &ended("status", 500, Exit::Done), &json!({"cache_dir": "/d"}));
        assert!(!again.contains("directory=\"/c\"") && again.contains("directory=\"/d\""), "{again}");
    }

    #[test]
    fn a_skipped_run_is_no_success() {
        let skipped = json!({"skipped": "locked", "total_files_pruned": 0});
        let text = textfile("", &ended("prune", 100, Exit::Done), &skipped);
        let of = |name: &str| value(&text, &format!("glance_cache_{name}{{command=\"prune\"}}")).unwrap();
        assert_eq!(of("last_success_timestamp_seconds"), "0");
        assert_eq!(of("skipped_runs_total"), "1");
        assert_eq!(of("failed_runs_total"), "0");
    }

    #[test]
    fn damaged_files_count_from_zero() {
        let own = "{command=\"prune\"}";
        for damaged in [
            "glance_cache_runs_total{command=\"prune\"} many",
            "glance_cache_runs_total{command=\"prune\" 7",
            "glance_cache_runs_total{command=\"prune\"}",
            "glance_cache_runs_total{command=\"prune\"} NaN",
            "glance_cache_unknown_total{command=\"prune\"} 7",
            "\0\u{fffd}",
        ] {
            let text = textfile(damaged, &ended("prune", 100, Exit::Done), &Value::Null);
            let runs = value(&text, &format!("glance_cache_runs_total{own}"));
            assert_eq!(runs.as_deref(), Some("1"), "{damaged}: {text}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let report = json!({"nodes": [{"node": "http://a\n\"b\"\\c", "images": 1}], "total": {}});
        let text = exposition(&report);
        assert!(text.contains(r#"glance_cache_node_images{node="http://a\n\"b\"\\c"} 1"#), "{text}");
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(Samples::read(&text).text() + "# EOF\n", text);
    }

    #[test]
    fn a_cache_that_cannot_be_looked_at_has_a_metric() {
        let readable = |report: &Value| {
            let text = exposition(report);
            let of = |name: &str| value(&text, &format!("glance_cache_{name}{{cache=\"glance\"}}"));
            (of("readable"), of("directory_missing"), of("limit_bytes"), of("size_bytes"))
        };
        let some = |value: &str| Some(value.to_owned());
        let cache = |more: &Value| {
            let mut report = json!({"cache_dir": "/c", "max_size": 9, "cache_size": null});
            report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            readable(&report)
        };
        let whole = cache(&json!({"exists": true, "cache_size": 7}));
        assert_eq!(whole, (some("1"), some("0"), some("9"), some("7")));
        let missing = cache(&json!({"exists": false}));
        assert_eq!(missing, (some("0"), some("1"), some("9"), None));
        let unreadable = cache(&json!({"exists": false, "unreadable": "no permission"}));
        assert_eq!(unreadable, (some("0"), some("0"), some("9"), None));
        assert_eq!(value(&nothing_known("/c"), "glance_cache_readable{cache=\"glance\"}"), some("0"));
        for (action, name) in
            [("open", "glance (/a (b))"), ("look through", "glance (/c)"), ("find", "glance")]
        {
            let report = json!({"caches": [], "errors": [{"action": action, "name": name}]});
            assert_eq!(readable(&report).0, some("0"), "{action}");
        }
        assert_eq!(readable(&json!({"caches": [{"name": "glance"}]})).0, some("1"));
    }

    #[test]
    fn times_and_file_systems_have_samples_too() {
        let system = json!({"mount_point": "/c", "size": 9, "available": 4});
        for report in [
            json!({"cache_dir": "/c", "exists": true, "oldest_use": "1970-01-01T00:01:40Z",
                "file_system": system}),
            json!({"caches": [], "file_systems": [system]}),
        ] {
            let text = exposition(&report);
            for (name, expected) in [("size", "9"), ("available", "4")] {
                let sample = format!("glance_cache_file_system_{name}_bytes{{mountpoint=\"/c\"}}");
                assert_eq!(value(&text, &sample).as_deref(), Some(expected), "{text}");
            }
            let oldest = value(&text, "glance_cache_oldest_use_timestamp_seconds{cache=\"glance\"}");
            assert_eq!(oldest.as_deref(), report.get("cache_dir").map(|_| "100"), "{text}");
        }
    }

    #[test]
    fn only_totals_are_counters() {
        let text = textfile("", &ended("status", 100, Exit::Done), &json!({"cache_dir": "/c"}));
        let types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        assert!(types.iter().all(|line| line.contains("_total ") == line.ends_with(" counter")), "{text}");
        assert!(types.iter().any(|line| line.ends_with(" counter")), "{text}");
    }

    #[test]
    fn what_is_unknown_has_no_sample() {
        let report = json!({"cache_dir": "/c", "exists": true, "driver": null, "cache_size": 7,
            "tracked": null, "ghosts": null, "index_unreadable": "locked", "oldest_use": null});
        let text = exposition(&report);
        assert!(!text.contains("tracked") && !text.contains("ghost") && !text.contains("oldest"), "{text}");
        assert!(text.contains("glance_cache_index_readable{cache=\"glance\"} 0"), "{text}");
    }
}
