//! The operations behind the calls: each runs in a child, in its lane, to its end.
//!
//! A client that leaves ends nothing: an operation is a task of its own, and the request only waits for it.
//! The child's exit code becomes a status: 0 is 200; 3 because of a lock is 503, to be tried again; all
//! others are 500, and a cache that is still over its limit is no success; over the time limit is 504. A
//! child that had no directory to work on is no success either, though it exits with 0: one place decides
//! that for the answer, the log and the metrics.
//!
//! A request waits for its turn and for the lock no longer than `lock_timeout` in all. The clock waits for
//! its turn as long as it takes.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Map, Value};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, timeout};

use super::answer::{ApiAnswer, Problem};
use super::child::{ChildEnd, Children};
use super::lanes::{Lane, Lanes, NoTurn, Turned};
use super::metrics::Metrics;
use super::mounted::{CacheMount, has_images};
use super::ready::{ReadyAnswers, ReadyKind};
use super::verdict::{Failed, InOrder, failed, locked, public};
use crate::names::ImageId;
use crate::ops::metrics::nothing_known;
use crate::output::Output;
use crate::output::python::python;

/// The longest time for a question about an image.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// The last line of metrics that are complete.
const END_OF_METRICS: &str = "# EOF\n";

/// The removed files and bytes of an operation, for the log.
pub(super) type Totals = (u64, u64);

/// The end of an operation: its report, or the problem that it ran into.
pub(super) type Done = Result<Value, Failed>;

/// The answer of an operation, and its totals.
pub(super) type Answering = Result<(ApiAnswer, Option<Totals>), Failed>;

/// The part of the cache that is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cleared {
    Cache,
    Queue,
    Both,
}

/// The one for whom an operation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnBehalf {
    /// A client, which is told when it has waited long enough.
    Request,
    Clock,
}

/// All that operations share.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) children: Rc<Children>,
    lanes: Lanes,
    pub(super) metrics: Rc<Metrics>,
    ready: ReadyAnswers,
    lock_timeout: Duration,
    limit: Duration,
    /// Wakes the task that prefetches the queue.
    queued: Notify,
    ongoing: Cell<usize>,
    /// True once the service is ending. Then what a signal has ended is no failure.
    is_ending: Cell<bool>,
    mount: CacheMount,
    /// The end of a list that others wait for.
    listing: Lane,
    latest: Cell<u64>,
    list: watch::Sender<(u64, Option<Listed>)>,
    /// The look at the state of the cache for metrics, and what it has found.
    looking: RefCell<Option<JoinHandle<()>>>,
    state: watch::Sender<Option<String>>,
}

/// A list that was made.
type Listed = Result<Bytes, Failed>;

impl Operations {
    pub(super) fn new(
        children: Rc<Children>,
        metrics: Rc<Metrics>,
        ready: ReadyAnswers,
        (lock_timeout, limit): (Duration, Duration),
        output: Rc<Output>,
    ) -> Rc<Self> {
        Rc::new(Operations {
            children,
            lanes: Lanes::new(),
            metrics,
            mount: CacheMount::new(ready.cache_dir().to_owned(), output),
            ready,
            lock_timeout,
            limit,
            queued: Notify::new(),
            ongoing: Cell::new(0),
            is_ending: Cell::new(false),
            listing: Lane::new(1),
            latest: Cell::new(0),
            list: watch::Sender::new((0, None)),
            looking: RefCell::default(),
            state: watch::Sender::new(None),
        })
    }

    /// True if an operation is not finished.
    pub(super) fn are_ongoing(&self) -> bool {
        self.ongoing.get() > 0 || self.children.are_running()
    }

    /// Counts something that the end of the service waits for, until it is dropped.
    pub(super) fn ongoing(&self) -> Ongoing<'_> {
        self.ongoing.set(self.ongoing.get() + 1);
        Ongoing(&self.ongoing)
    }

    /// From now on the service is ending.
    pub(super) fn end(&self) {
        self.is_ending.set(true);
    }

    /// True if the service is ending.
    pub(super) fn are_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// Looks at the cache directory. Fails if its file system seems not to be mounted.
    pub(super) async fn check_mount(&self) -> Result<(), Failed> {
        match self.mount.lost().await {
            None => Ok(()),
            Some(why) => {
                let problem = Problem::failed("The file system of the cache seems not to be mounted.");
                Err(Failed::because(problem, why))
            }
        }
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
            let _ongoing = operations.ongoing();
            running.await
        });
        task.await.unwrap_or_else(|e| {
            let problem = Problem::failed("The operation ended unexpectedly.");
            Err(Failed::because(problem, format!("the operation failed: {e}")))
        })
    }

    /// Returns the time until which a request that comes now waits for its turn and for the lock.
    fn patience(&self) -> Instant {
        Instant::now() + self.lock_timeout
    }

    /// Waits for the turn in a lane. Returns it, and the time until which the lock is waited for.
    async fn turn(&self, behalf: OnBehalf, name: &str, lane: &Lane) -> Result<Turn, Failed> {
        match behalf {
            OnBehalf::Request => {
                let until = self.patience();
                Ok((entered(name, lane.enter(until).await)?, until))
            }
            OnBehalf::Clock => {
                let turn = entered(name, lane.turn().await)?;
                if self.are_ending() {
                    return Err(Failed::interrupted());
                }
                Ok((turn, self.patience()))
            }
        }
    }

    /// Runs commands that change something, in their lane.
    async fn change(&self, name: &'static str, lane: &Lane, commands: &[&[&str]]) -> Done {
        let (_turn, until) = self.turn(OnBehalf::Request, name, lane).await?;
        self.carry_out(name, until, commands).await
    }

    /// Runs commands one after the other, by somebody who has the turn in their lane, and waits for the lock
    /// until this time. Of several commands, only the first takes one.
    async fn carry_out(&self, name: &'static str, until: Instant, commands: &[&[&str]]) -> Done {
        let mut took = Duration::ZERO;
        let mut reports = self.check_mount().await.map(|()| Vec::new());
        for command in commands {
            let Ok(done) = &mut reports else { break };
            let left = until.saturating_duration_since(Instant::now());
            let lock_timeout = format!("{}ms", left.as_millis());
            let command = [command, &["--format", "json", "--lock-timeout", &*lock_timeout][..]].concat();
            // A prefetch gives up by itself what is too slow, and may take hours for what is not.
            let limit = (name != "prefetch").then_some(self.limit);
            let ended = self.children.run(&command, limit).await;
            took += ended.as_ref().map_or(Duration::ZERO, |ended| ended.took);
            match self.judged(name, ended) {
                Ok(report) => done.push(report),
                Err(failed) => reports = Err(failed),
            }
        }
        if !matches!(&reports, Err(failed) if failed.is_interrupted) {
            self.metrics.operation(name, took, reports.is_ok());
        }
        reports.map(|mut reports| if reports.len() == 1 { reports.remove(0) } else { Value::Array(reports) })
    }

    /// Turns the end of a child into a report or a problem.
    fn judged(&self, name: &'static str, ended: io::Result<ChildEnd>) -> Done {
        let ended = ended.map_err(|e| {
            let problem = Problem::failed("The operation could not be started.");
            Failed::because(problem, format!("cannot start a child process: {e}"))
        })?;
        let report = ended.report();
        self.metrics.freed(totals_of(&report).map_or(0, |(_, bytes)| bytes));
        if ended.code != 0 || ended.is_over_time {
            let is_interrupted = self.are_ending() && !ended.is_over_time && matches!(ended.code, 130 | 143);
            return Err(Failed { is_interrupted, ..failed(name, &ended, &report) });
        }
        // On the command line, a directory that is not there is a cache that is empty. A prune says if it has
        // looked at one: the settings may have named another directory since this service was started.
        let is_away = match report.get("cache_size_before") {
            Some(size) => size.is_null(),
            None => name != "look" && !self.ready.has_directory(),
        };
        if is_away {
            let problem = Problem::failed("The cache directory does not exist.");
            let directory = self.ready.cache_dir().display();
            let message = format!("the cache directory {directory} does not exist");
            return Err(Failed::because(problem, message));
        }
        Ok(report)
    }

    /// `POST /v2/cache/prune`, and the prune of the clock.
    pub(super) async fn prune(self: &Rc<Self>, behalf: OnBehalf) -> Answering {
        // The clock looks for itself: its poll may know better.
        if behalf == OnBehalf::Request
            && let Some(body) = self.ready.answer(ReadyKind::IdlePrune)
        {
            self.metrics.operation("prune", Duration::ZERO, true);
            return Ok((ApiAnswer::json(StatusCode::OK, body), Some((0, 0))));
        }
        self.detached(move |this| async move {
            let (_turn, until) = this.turn(behalf, "prune", &this.lanes.prune).await?;
            if !this.ready.knows_index() {
                // Without it, no print can be taken. A failure shows in the prune itself.
                let _ = this.make_list().await;
            }
            let before = this.ready.before();
            let report = this.carry_out("prune", until, &[&["prune"]]).await?;
            let totals = totals_of(&report).unwrap_or_default();
            let is_idle = totals == (0, 0)
                && ["ghosts_forgotten", "left_alone", "total_files_cleaned"]
                    .iter()
                    .all(|key| report[*key].as_u64().unwrap_or(0) == 0);
            let body = Bytes::from(python(&InOrder::new(&report)));
            this.ready.keep(ReadyKind::IdlePrune, before.filter(|_| is_idle), &body);
            Ok((ApiAnswer::json(StatusCode::OK, body), Some(totals)))
        })
        .await
    }

    /// `POST /v2/cache/clean`, and the clean of the clock. Returns the report for callers.
    pub(super) async fn clean(self: &Rc<Self>, behalf: OnBehalf) -> Result<(Value, Totals), Failed> {
        self.detached(move |this| async move {
            let (_turn, until) = this.turn(behalf, "clean", &this.lanes.clean).await?;
            let report = this.carry_out("clean", until, &[&["clean"]]).await?;
            let totals = totals_of(&report).unwrap_or_default();
            Ok((public(&report), totals))
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

    /// True if there are images in the queue.
    pub(super) async fn has_queue(&self) -> bool {
        let queue = self.ready.cache_dir().join("queue");
        spawn_blocking(move || has_images(&queue)).await.unwrap_or(false)
    }

    /// Fetches the images in the queue.
    pub(super) async fn prefetch(self: &Rc<Self>) -> Result<Totals, Failed> {
        self.detached(|this| async move {
            let (_turn, until) = this.turn(OnBehalf::Clock, "prefetch", &this.lanes.prefetch).await?;
            let report = this.carry_out("prefetch", until, &[&["prefetch"]]).await?;
            let total = |key: &str| report[key].as_u64().unwrap_or(0);
            Ok((total("total_files_prefetched"), total("total_bytes_prefetched")))
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
        let turn = self.listing.turn().await;
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
        if let Err(failed) = self.check_mount().await {
            self.metrics.operation("list", Duration::ZERO, false);
            return Err(failed);
        }
        let before = self.ready.before();
        let ended = self.children.run(&["__answer", "cached"], Some(LOOK_LIMIT)).await;
        let took = ended.as_ref().map_or(Duration::ZERO, |ended| ended.took);
        let found = match &ended {
            Ok(ended) if ended.code == 0 && !ended.is_over_time => {
                ended.result.iter().position(|byte| *byte == b'\n')
            }
            _ => None,
        };
        self.metrics.operation("list", took, found.is_some());
        let (mut ended, end) = match (ended, found) {
            (Ok(ended), Some(end)) => (ended, end),
            (ended, _) => return Err(self.judged("list", ended).err().unwrap_or_else(nothing)),
        };
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
            let _turn = entered("the database", this.lanes.look.enter(this.patience()).await)?;
            let line = ["__answer", question, &*id.to_string()];
            let ended = this.children.run(&line, Some(LOOK_LIMIT)).await;
            let took = ended.as_ref().map_or(Duration::ZERO, |ended| ended.took);
            let answer = this.judged("look", ended);
            this.metrics.operation("look", took, answer.is_ok());
            answer
        })
        .await
    }

    /// Returns the size of the cache and its limit, or the message why neither is known.
    pub(super) async fn fill_level(&self) -> Result<Value, String> {
        let line = ["__answer", "fill-level"];
        let ended = self.children.run(&line, Some(LOOK_LIMIT)).await.map_err(|e| e.to_string())?;
        if ended.code != 0 {
            return Err(ended.message());
        }
        let mut level = ended.report();
        if let Err(failed) = self.check_mount().await {
            // The limit is known all the same.
            level["cache_size"] = Value::Null;
            level["over_limit"] = Value::Null;
            level["unknown"] = Value::from(&*failed.message);
        }
        Ok(level)
    }

    /// Returns the state of the cache as metrics. One of them says so if the cache cannot be looked at, or
    /// not in this time. There is one look at a time, and those who come meanwhile wait for the same one.
    pub(super) async fn exposition(self: &Rc<Self>, patience: Duration) -> String {
        let mut states = self.state.subscribe();
        let is_looking = self.looking.borrow().as_ref().is_some_and(|task| !task.is_finished());
        if !is_looking {
            let this = Rc::clone(self);
            let task = spawn_local(async move { drop(this.state.send_replace(this.look_at_state().await)) });
            *self.looking.borrow_mut() = Some(task);
        }
        let state = match timeout(patience, states.changed()).await {
            Ok(Ok(())) => states.borrow().clone(),
            _ => None,
        };
        let state = state.unwrap_or_else(|| nothing_known(&self.ready.cache_dir().display().to_string()));
        state.replace(END_OF_METRICS, "")
    }

    /// Looks at the state of the cache in a child. Returns it as metrics, or `None` if that is not possible.
    async fn look_at_state(&self) -> Option<String> {
        self.check_mount().await.ok()?;
        let line = ["status", "--format", "prometheus"];
        let ended = self.children.run(&line, Some(LOOK_LIMIT)).await.ok()?;
        String::from_utf8(ended.result).ok().filter(|text| text.ends_with(END_OF_METRICS))
    }
}

/// Something that the end of the service waits for.
pub(super) struct Ongoing<'a>(&'a Cell<usize>);

impl Drop for Ongoing<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The turn in a lane, and the time until which the lock is waited for.
type Turn = (OwnedSemaphorePermit, Instant);

/// Returns the turn in a lane, or the problem that there is none.
fn entered(name: &str, turn: Turned) -> Result<OwnedSemaphorePermit, Failed> {
    turn.map_err(|why| match why {
        NoTurn::Crowded => Failed::new(Problem::busy(format!("Too many requests wait for {name}."))),
        NoTurn::Late => {
            let message = format!("other requests for {name} were before it for all of lock_timeout");
            let problem = match name {
                "the database" | "enqueue" => {
                    Problem::busy("Other requests for Glance's database have not ended.")
                }
                _ => locked(),
            };
            Failed::because(problem, message)
        }
    })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
