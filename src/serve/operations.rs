//! The operations behind the calls: each runs in a child, in its lane, to its end.
//!
//! A client that leaves ends nothing: an operation is a task of its own, and the request only waits for it.
//! The child's exit code becomes a status: 0 is 200; 3 because of a lock is 503, to be tried again; all
//! others are 500, and a cache that is still over its limit is no success; over the time limit is 504.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::spawn_local;

use super::answer::{ApiAnswer, Problem, without_paths, without_paths_in};
use super::child::{ChildEnd, Children};
use super::lanes::{Lane, Lanes};
use super::metrics::Metrics;
use super::ready::{ReadyAnswers, ReadyKind};
use crate::names::ImageId;
use crate::output::python::python;

/// The longest time for a question about an image.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// The removed files and bytes of an operation, for the log.
pub(super) type Totals = (u64, u64);

/// The end of an operation: its report, or the problem that it ran into.
pub(super) type Done = Result<Value, Failed>;

/// An operation that failed: the problem for the client, and the whole message for the log.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) problem: Problem,
    pub(super) message: String,
}

impl Failed {
    fn new(problem: Problem) -> Self {
        let message = problem.explanation.clone();
        Failed { problem, message }
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Failed::new(problem)
    }
}

/// The answer of an operation, and its totals.
pub(super) type Answering = Result<(ApiAnswer, Option<Totals>), Failed>;

/// The part of the cache that is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cleared {
    Cache,
    Queue,
    Both,
}

/// All that operations share.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) children: Children,
    lanes: Lanes,
    pub(super) metrics: Rc<Metrics>,
    ready: ReadyAnswers,
    /// For the option of the children.
    lock_timeout: String,
    limit: Duration,
    /// Wakes the task that prefetches the queue.
    queued: Notify,
    ongoing: Cell<usize>,
    /// The end of a list that others wait for.
    listing: Lane,
    latest: Cell<u64>,
    list: tokio::sync::watch::Sender<(u64, Option<Listed>)>,
}

/// A list that was made.
type Listed = Result<Bytes, Failed>;

impl Operations {
    pub(super) fn new(
        children: Children,
        metrics: Rc<Metrics>,
        ready: ReadyAnswers,
        (lock_timeout, limit): (Duration, Duration),
    ) -> Rc<Self> {
        Rc::new(Operations {
            children,
            lanes: Lanes::new(),
            metrics,
            ready,
            lock_timeout: format!("{}ms", lock_timeout.as_millis()),
            limit,
            queued: Notify::new(),
            ongoing: Cell::new(0),
            listing: Lane::new(1),
            latest: Cell::new(0),
            list: tokio::sync::watch::Sender::new((0, None)),
        })
    }

    /// True if an operation is not finished.
    pub(super) fn are_ongoing(&self) -> bool {
        self.ongoing.get() > 0 || self.children.are_running()
    }

    /// Runs an operation as a task of its own, so that it goes on when nobody waits for it any more.
    async fn detached<T: 'static, F>(
        self: &Rc<Self>,
        operation: impl FnOnce(Rc<Self>) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Failed>> + 'static,
    {
        let operations = Rc::clone(self);
        let running = operation(Rc::clone(self));
        let task = spawn_local(async move {
            operations.ongoing.set(operations.ongoing.get() + 1);
            let done = running.await;
            operations.ongoing.set(operations.ongoing.get() - 1);
            done
        });
        task.await.unwrap_or_else(|e| Err(Failed::new(Problem::failed(format!("the operation failed: {e}")))))
    }

    /// Runs commands that change something, in their lane.
    async fn change(&self, name: &'static str, lane: &Lane, commands: &[&[&str]]) -> Done {
        let _turn = entered(name, lane.enter().await)?;
        self.carry_out(name, commands).await
    }

    /// Runs commands one after the other, by somebody who has the turn in their lane.
    async fn carry_out(&self, name: &'static str, commands: &[&[&str]]) -> Done {
        let mut reports = Vec::new();
        for command in commands {
            let command =
                [command, &["--format", "json", "--lock-timeout", &*self.lock_timeout][..]].concat();
            // A prefetch gives up by itself what is too slow, and may take hours for what is not.
            let limit = (name != "prefetch").then_some(self.limit);
            reports.push(self.judged(name, self.children.run(&command, limit).await)?);
        }
        Ok(if reports.len() == 1 { reports.remove(0) } else { Value::Array(reports) })
    }

    /// Turns the end of a child into a report or a problem, and counts it.
    fn judged(&self, name: &'static str, ended: io::Result<ChildEnd>) -> Done {
        let ended = ended.map_err(|e| {
            self.metrics.operation(name, Duration::ZERO, false);
            let problem = Problem::failed("The operation could not be started.");
            Failed { problem, message: format!("cannot start a child process: {e}") }
        })?;
        let report = ended.report();
        let is_done = ended.code == 0 && !ended.is_over_time;
        self.metrics.operation(name, ended.took, is_done);
        self.metrics.freed(totals_of(&report).map_or(0, |(_, bytes)| bytes));
        if is_done { Ok(report) } else { Err(failure(name, &ended, report)) }
    }

    /// `POST /v2/cache/prune`, and the prune of the clock.
    pub(super) async fn prune(self: &Rc<Self>, patiently: bool) -> Answering {
        if let Some(body) = self.ready.answer(ReadyKind::IdlePrune) {
            self.metrics.operation("prune", Duration::ZERO, true);
            return Ok((ApiAnswer::json(StatusCode::OK, body), Some((0, 0))));
        }
        self.detached(move |this| async move {
            let _turn = entered("prune", this.lanes.prune.turn(patiently).await)?;
            if !this.ready.knows_index() {
                // Without it, no print can be taken. A failure shows in the prune itself.
                let _ = this.make_list().await;
            }
            let before = this.ready.before();
            let report = this.carry_out("prune", &[&["prune"]]).await?;
            let totals = totals_of(&report).unwrap_or_default();
            if report["cache_size_before"].is_null() {
                return Err(no_directory());
            }
            let is_idle = totals == (0, 0)
                && ["ghosts_forgotten", "left_alone", "total_files_cleaned"]
                    .iter()
                    .all(|key| report[*key].as_u64().unwrap_or(0) == 0);
            let body = Bytes::from(python(&InOrder::new(report)));
            this.ready.keep(ReadyKind::IdlePrune, before.filter(|_| is_idle), &body);
            Ok((ApiAnswer::json(StatusCode::OK, body), Some(totals)))
        })
        .await
    }

    /// `POST /v2/cache/clean`, and the clean of the clock. Returns the report.
    pub(super) async fn clean(self: &Rc<Self>, patiently: bool) -> Result<(Value, Totals), Failed> {
        self.detached(move |this| async move {
            let _turn = entered("clean", this.lanes.clean.turn(patiently).await)?;
            let report = this.carry_out("clean", &[&["clean"]]).await?;
            if !this.ready.has_directory() {
                return Err(no_directory());
            }
            let totals = totals_of(&report).unwrap_or_default();
            Ok((report, totals))
        })
        .await
    }

    /// `DELETE /v2/cache`.
    pub(super) async fn clear(self: &Rc<Self>, target: Cleared) -> Answering {
        self.detached(move |this| async move {
            let cache: &[&str] = &["prune", "--everything"];
            let queue: &[&str] = &["prefetch", "--dequeue-all"];
            let lines: &[&[&str]] = match target {
                Cleared::Cache => &[cache],
                Cleared::Queue => &[queue],
                Cleared::Both => &[cache, queue],
            };
            let report = this.change("clear", &this.lanes.prune, lines).await?;
            let first = report.as_array().map_or(&report, |reports| &reports[0]);
            Ok((ApiAnswer::empty(StatusCode::NO_CONTENT), totals_of(first)))
        })
        .await
    }

    /// `DELETE /v2/cache/ID`. Removes the image from the cache and from the queue. Fails with 404 if it is in
    /// neither and unknown to Glance, too.
    pub(super) async fn delete(self: &Rc<Self>, id: ImageId, is_unknown: bool) -> Answering {
        self.detached(move |this| async move {
            let id = id.to_string();
            let lines: &[&[&str]] = &[&["prune", "--image", &id], &["prefetch", "--dequeue", &id]];
            let report = this.change("delete", &this.lanes.prune, lines).await?;
            let was_cached = report[0]["not_cached"].as_array().is_some_and(Vec::is_empty);
            let was_queued = report[1]["images"][0]["outcome"] == "dequeued";
            if is_unknown && !was_cached && !was_queued {
                return Err(Failed::new(Problem::no_image(&id)));
            }
            Ok((ApiAnswer::empty(StatusCode::NO_CONTENT), totals_of(&report[0])))
        })
        .await
    }

    /// `PUT /v2/cache/ID`. Puts the image into the queue, and wakes the task that fetches it.
    pub(super) async fn queue(self: &Rc<Self>, id: ImageId) -> Answering {
        self.detached(move |this| async move {
            let id = id.to_string();
            let line: &[&[&str]] = &[&["prefetch", "--enqueue", &id]];
            this.change("enqueue", &this.lanes.look, line).await?;
            this.queued.notify_one();
            Ok((ApiAnswer::empty(StatusCode::ACCEPTED), None))
        })
        .await
    }

    /// Waits until an image was put into the queue.
    pub(super) async fn queued(&self) {
        self.queued.notified().await;
    }

    /// Fetches the images in the queue.
    pub(super) async fn prefetch(self: &Rc<Self>) -> Done {
        self.detached(|this| async move {
            let _turn = this.lanes.prefetch.turn(true).await;
            this.carry_out("prefetch", &[&["prefetch"]]).await
        })
        .await
    }

    /// `GET /v2/cache`.
    pub(super) async fn list(self: &Rc<Self>) -> Answering {
        if let Some(body) = self.ready.answer(ReadyKind::List) {
            return Ok((ApiAnswer::json(StatusCode::OK, body), None));
        }
        let body = self.detached(|this| async move { this.share_list().await }).await?;
        Ok((ApiAnswer::json(StatusCode::OK, body), None))
    }

    /// Returns a list that was begun after now. Requests that come while one is made share the next one.
    async fn share_list(&self) -> Listed {
        let mut lists = self.list.subscribe();
        let asked = self.latest.get();
        let turn = self.listing.turn(true).await;
        // The list number `asked` may have begun before this request came; a later one has not.
        if let (number, Some(listed)) = &*lists.borrow_and_update()
            && *number > asked
        {
            return listed.clone();
        }
        self.latest.set(self.latest.get() + 1);
        let number = self.latest.get();
        let listed = self.make_list().await;
        self.list.send_replace((number, Some(listed.clone())));
        drop(turn);
        listed
    }

    /// Makes a list in a child, and keeps it ready.
    async fn make_list(&self) -> Listed {
        let before = self.ready.before();
        let ended = self.children.run(&["__answer", "cached"], Some(LOOK_LIMIT)).await;
        let mut ended = match ended {
            Ok(ended) if ended.code == 0 && !ended.is_over_time => ended,
            ended => return Err(self.judged("list", ended).err().unwrap_or_else(nothing)),
        };
        self.metrics.operation("list", ended.took, true);
        let end = ended.result.iter().position(|byte| *byte == b'\n').ok_or_else(nothing)?;
        let shown: Value = serde_json::from_slice(&ended.result[..end]).unwrap_or(Value::Null);
        self.ready.note_index(shown["index"].as_str().map(Into::into));
        let body = Bytes::from(ended.result.split_off(end + 1));
        self.ready.keep(ReadyKind::List, before, &body);
        Ok(body)
    }

    /// Returns an image of Glance's database; `None` if there is none.
    pub(super) async fn image(self: &Rc<Self>, id: ImageId) -> Result<Option<Map<String, Value>>, Failed> {
        match self.ask("image", id).await? {
            Value::Object(image) => Ok(Some(image)),
            _ => Ok(None),
        }
    }

    /// `GET /v2/cache/nodes/ID`.
    pub(super) async fn nodes(self: &Rc<Self>, id: ImageId) -> Answering {
        match self.ask("nodes", id).await? {
            Value::Null => {
                let problem = Problem::new(StatusCode::CONFLICT, "Centralized caching is not enabled");
                Err(Failed::new(problem))
            }
            // An image that Glance does not know is told apart from one that no node has.
            _ if self.image(id).await?.is_none() => Err(Problem::no_image(id.as_str()).into()),
            nodes => Ok((ApiAnswer::json(StatusCode::OK, python(&nodes)), None)),
        }
    }

    /// Asks a question about an image.
    async fn ask(self: &Rc<Self>, question: &'static str, id: ImageId) -> Done {
        self.detached(move |this| async move {
            let Some(_turn) = this.lanes.look.enter().await else {
                return Err(Failed::new(Problem::busy("Too many requests wait for the database.")));
            };
            let line = ["__answer", question, &*id.to_string()];
            this.judged("look", this.children.run(&line, Some(LOOK_LIMIT)).await)
        })
        .await
    }

    /// Returns the state of the cache, or the message why it is not known.
    pub(super) async fn status(&self) -> Result<Value, String> {
        let line = ["status", "--format", "json"];
        let ended = self.children.run(&line, Some(LOOK_LIMIT)).await.map_err(|e| e.to_string())?;
        if ended.code == 0 { Ok(ended.report()) } else { Err(ended.message()) }
    }

    /// Returns the state of the cache as metrics; empty if it is not known.
    pub(super) async fn exposition(&self) -> String {
        let line = ["status", "--format", "prometheus"];
        let ended = self.children.run(&line, Some(LOOK_LIMIT)).await;
        let text = ended.ok().filter(|ended| ended.code == 0).map(|ended| ended.result);
        String::from_utf8(text.unwrap_or_default()).unwrap_or_default().replace("# EOF\n", "")
    }
}

/// Returns the turn in a lane, or the problem that too many wait for it.
fn entered(name: &str, turn: Option<OwnedSemaphorePermit>) -> Result<OwnedSemaphorePermit, Failed> {
    turn.ok_or_else(|| Failed::new(Problem::busy(format!("Too many requests wait for {name}."))))
}

fn no_directory() -> Failed {
    Failed::new(Problem::failed("The cache directory does not exist."))
}

fn nothing() -> Failed {
    Failed::new(Problem::failed("The operation gave no result."))
}

/// Returns the removed files and bytes of a report, if it has them.
fn totals_of(report: &Value) -> Option<Totals> {
    let total = |what: &str| {
        let pruned = report[format!("total_{what}_pruned")].as_u64();
        let cleaned = report[format!("total_{what}_cleaned")].as_u64();
        pruned.or(cleaned).map(|_| pruned.unwrap_or(0) + cleaned.unwrap_or(0))
    };
    Some((total("files")?, total("bytes")?))
}

/// Returns the failure of a child.
fn failure(name: &str, ended: &ChildEnd, mut report: Value) -> Failed {
    let first = ended.message();
    let message = if first.is_empty() { format!("{name} ended with {}", ended.code) } else { first };
    without_paths_in(&mut report);
    let shown = without_paths(&message);
    let problem = match ended.code {
        _ if ended.is_over_time => {
            let text = format!("The operation took longer than {} s, and was ended.", ended.took.as_secs());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, text)
        }
        3 if report["reason"] == "locked" => Problem::busy(shown),
        130 | 143 => Problem::busy("The operation was ended by a signal; the cache is consistent."),
        1 => {
            let errors = report["errors"].as_array().cloned().unwrap_or_default();
            let names: Vec<&str> = errors.iter().filter_map(|error| error["name"].as_str()).collect();
            let more =
                if names.len() > 1 { format!(" Failed: {}.", names.join(", ")) } else { String::new() };
            let problem = Problem::failed(format!("{shown}.{more}"));
            if report.is_object() { problem.with_report(report) } else { problem }
        }
        _ => Problem::failed(shown),
    };
    Failed { problem, message }
}

/// A report with the two keys of Glance before all others.
struct InOrder(Value);

const GLANCES: [&str; 2] = ["total_files_pruned", "total_bytes_pruned"];

impl InOrder {
    fn new(mut report: Value) -> Self {
        without_paths_in(&mut report);
        InOrder(report)
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
    use serde_json::json;

    use super::*;

    #[test]
    fn glances_keys_come_first() {
        let report = json!({"a": 1, "total_bytes_pruned": 3, "total_files_pruned": 2, "errors": ["/a/b: c"]});
        let expected = r#"{"total_files_pruned": 2, "total_bytes_pruned": 3, "a": 1, "errors": ["b: c"]}"#;
        assert_eq!(python(&InOrder::new(report)), expected);
    }

    #[test]
    fn totals_are_those_of_all_files() {
        let pruned = json!({"total_files_pruned": 2, "total_bytes_pruned": 30});
        assert_eq!(totals_of(&pruned), Some((2, 30)));
        let both = json!({"total_files_pruned": 2, "total_bytes_pruned": 30, "total_files_cleaned": 1,
            "total_bytes_cleaned": 5});
        assert_eq!(totals_of(&both), Some((3, 35)));
        let cleaned = json!({"total_files_cleaned": 1, "total_bytes_cleaned": 5});
        assert_eq!(totals_of(&cleaned), Some((1, 5)));
        assert_eq!(totals_of(&json!({"error": "x"})), None);
    }
}
