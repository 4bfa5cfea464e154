//! Metrics of the service in Prometheus' text format. Those of the cache itself are what
//! `status --format prometheus` says, and stand before them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hyper::HeaderMap;
use jiff::Timestamp;

use super::settings::Intervals;

/// The time that a scrape has if its client does not say it: the default of Prometheus, in seconds.
const SCRAPE_TIMEOUT: f64 = 10.0;

/// Returns for how long a scrape waits for the state of the cache: four fifths of the time that Prometheus
/// has for it, which its header says. So what is known comes in time.
pub(super) fn scrape_patience(headers: &HeaderMap) -> Duration {
    let header = headers.get("x-prometheus-scrape-timeout-seconds");
    let seconds = header.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| (0.1..=60.0).contains(seconds)).unwrap_or(SCRAPE_TIMEOUT);
    Duration::from_secs_f64(0.8 * seconds)
}

/// Numbers of one kind of operation.
#[derive(Clone, Debug, Default)]
struct Operation {
    count: u64,
    seconds: f64,
    /// Seconds since the epoch.
    last_success: Option<i64>,
    last_failure: Option<i64>,
    consecutive_failures: u64,
}

/// The numbers so far.
#[derive(Debug, Default)]
struct Numbers {
    requests: BTreeMap<(&'static str, u16), u64>,
    operations: BTreeMap<&'static str, Operation>,
    freed_bytes: u64,
    keystone_errors: u64,
    policy_reload_failed: bool,
}

/// Counts what the service does.
#[derive(Debug)]
pub(super) struct Metrics {
    numbers: RefCell<Numbers>,
    /// The operations that the clock repeats, with their intervals.
    intervals: Vec<(&'static str, Duration)>,
}

impl Metrics {
    pub(super) fn new(intervals: &Intervals) -> Self {
        let Intervals { prune, clean, prefetch, .. } = *intervals;
        let all = [("prune", prune), ("clean", clean), ("prefetch", prefetch)];
        let intervals = all.into_iter().filter_map(|(name, interval)| Some((name, interval?))).collect();
        Metrics { numbers: RefCell::default(), intervals }
    }

    /// Counts a request.
    pub(super) fn request(&self, call: &'static str, status: u16) {
        *self.numbers.borrow_mut().requests.entry((call, status)).or_default() += 1;
    }

    /// Counts an operation. Returns how many of its kind have failed one after the other, and how many had
    /// before.
    pub(super) fn operation(&self, name: &'static str, took: Duration, is_done: bool) -> (u64, u64) {
        let mut numbers = self.numbers.borrow_mut();
        let operation = numbers.operations.entry(name).or_default();
        operation.count += 1;
        operation.seconds += took.as_secs_f64();
        let before = operation.consecutive_failures;
        if is_done {
            operation.last_success = Some(Timestamp::now().as_second());
            operation.consecutive_failures = 0;
        } else {
            operation.last_failure = Some(Timestamp::now().as_second());
            operation.consecutive_failures += 1;
        }
        (operation.consecutive_failures, before)
    }

    /// Counts bytes that were removed.
    pub(super) fn freed(&self, bytes: u64) {
        self.numbers.borrow_mut().freed_bytes += bytes;
    }

    /// Counts a request that Keystone could not be asked about.
    pub(super) fn keystone_failed(&self) {
        self.numbers.borrow_mut().keystone_errors += 1;
    }

    /// Notes if the policy could not be read again.
    pub(super) fn policy_failed(&self, failed: bool) {
        self.numbers.borrow_mut().policy_reload_failed = failed;
    }

    /// Returns the text.
    pub(super) fn text(&self) -> String {
        let numbers = self.numbers.borrow();
        let mut text = String::new();
        head(&mut text, "requests_total", "counter", "Requests by call and status.");
        for ((call, status), count) in &numbers.requests {
            let _ = writeln!(
                text,
                "glance_cache_api_requests_total{{call=\"{call}\",status=\"{status}\"}} {count}"
            );
        }
        head(&mut text, "operation_seconds", "summary", "Duration of operations.");
        for (name, Operation { count, seconds, .. }) in &numbers.operations {
            let _ = writeln!(text, "glance_cache_api_operation_seconds_sum{{op=\"{name}\"}} {seconds}");
            let _ = writeln!(text, "glance_cache_api_operation_seconds_count{{op=\"{name}\"}} {count}");
        }
        self.times(&numbers, &mut text);
        head(&mut text, "consecutive_failures", "gauge", "Operations that failed one after the other.");
        for (name, operation) in &numbers.operations {
            let failures = operation.consecutive_failures;
            let _ = writeln!(text, "glance_cache_api_consecutive_failures{{op=\"{name}\"}} {failures}");
        }
        for (name, kind, help, value) in [
            ("freed_bytes_total", "counter", "Size of the files that were removed.", numbers.freed_bytes),
            (
                "keystone_errors_total",
                "counter",
                "Requests that Keystone could not be asked about.",
                numbers.keystone_errors,
            ),
            (
                "policy_reload_failed",
                "gauge",
                "1 if the policy could not be read again, and the old one is in force.",
                u64::from(numbers.policy_reload_failed),
            ),
        ] {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "glance_cache_api_{name} {value}");
        }
        text
    }

    /// Adds the times of operations, and their intervals.
    fn times(&self, numbers: &Numbers, text: &mut String) {
        for (kind, help) in [
            ("success", "End of the last operation that succeeded."),
            ("failure", "End of the last operation that failed."),
        ] {
            let metric = format!("last_{kind}_timestamp_seconds");
            head(text, &metric, "gauge", help);
            for (name, operation) in &numbers.operations {
                let is_success = kind == "success";
                let time = if is_success { operation.last_success } else { operation.last_failure };
                if let Some(time) = time {
                    let _ = writeln!(text, "glance_cache_api_{metric}{{op=\"{name}\"}} {time}");
                }
            }
        }
        head(text, "interval_seconds", "gauge", "Time between two operations by the clock.");
        for (name, interval) in &self.intervals {
            let seconds = interval.as_secs_f64();
            let _ = writeln!(text, "glance_cache_api_interval_seconds{{op=\"{name}\"}} {seconds}");
        }
    }
}

/// Adds the lines that say what a metric is.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP glance_cache_api_{name} {help}\n# TYPE glance_cache_api_{name} {kind}");
}
