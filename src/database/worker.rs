//! A connection on a thread of its own, so that no wait of it keeps the command waiting.
//!
//! A name may not resolve, a server may accept the connection and say nothing, or stop in the middle of an
//! answer. The caller gets an answer within the time limit or an error, and a signal ends the wait. A thread
//! that is still waiting then is left behind; it ends with the process.
//!
//! A client library may panic, over a server's answer or without descriptors. That is an error like any
//! other, and ends the connection.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::cell::Cell;
use crate::database::refusal::Refusal;
use crate::interrupt::Interrupt;
use crate::names::escaped;

/// The limit for a statement. Each is bounded by the size of a batch or a page, except the sums over the
/// whole table, which take this long with about ten million rows.
const STATEMENT: Duration = Duration::from_secs(10);
/// The name of the threads of connections.
const THREAD: &str = "database";
/// The time between two looks for a signal.
const LOOK: Duration = Duration::from_millis(100);
/// The time that a statement still has after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// A connection to a database server, as its thread uses it. Texts are given as parameters; numbers and image
/// ids stand in the statement.
pub(super) trait ServerConnection {
    /// Runs a query. Each `?` in it stands for one of the texts.
    fn query(&mut self, sql: &str, texts: &[String]) -> Result<Vec<Vec<Cell>>, Refusal>;

    /// Runs a statement and returns how many rows it changed.
    fn execute(&mut self, sql: &str) -> Result<u64, Refusal>;

    /// True if the connection is lost.
    fn is_lost(&self) -> bool;
}

/// A piece of work for the thread of the connection.
type Statement = Box<dyn FnOnce(&mut dyn ServerConnection) + Send>;

/// A connection and its thread.
pub(super) struct Worker {
    jobs: Option<Sender<Statement>>,
    thread: Option<JoinHandle<()>>,
    interrupt: Interrupt,
    lost: bool,
    /// The name of the database in messages.
    shown: String,
}

impl Worker {
    /// Opens a connection on a new thread, within this time.
    pub(super) fn open<C: ServerConnection>(
        shown: String,
        open: impl FnOnce() -> Result<C, Refusal> + Send + 'static,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self, Refusal> {
        let (jobs, queue) = channel::<Statement>();
        let (tell, opened) = channel();
        let name = shown.clone();
        keep_panics_quiet();
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || match unwinding(&name, open).and_then(|opened| opened) {
                Ok(mut client) => {
                    let _ = tell.send(Ok(()));
                    for job in queue {
                        job(&mut client);
                    }
                }
                Err(refusal) => {
                    let _ = tell.send(Err(refusal));
                }
            })
            .map_err(|e| Refusal::Broken(anyhow!(e).context("cannot start a thread")))?;
        let mut worker = Worker {
            jobs: Some(jobs),
            thread: Some(thread),
            interrupt: interrupt.clone(),
            lost: false,
            shown,
        };
        match worker.wait(&opened, limit) {
            Ok(result) => result.map(|()| worker),
            Err(refusal) => Err(refusal),
        }
    }

    /// Runs a query. Each `?` in it stands for one of the texts.
    pub(super) fn query(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let (sql, texts) = (sql.to_owned(), texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        self.run(move |client| client.query(&sql, &texts))
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        let sql = sql.to_owned();
        self.run(move |client| client.execute(&sql))
    }

    /// True if the connection is lost, or was given up.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Runs something on the connection and waits for its result.
    fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut dyn ServerConnection) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, answer) = channel();
        let name = self.shown.clone();
        let statement: Statement = Box::new(move |client| {
            let _ = tell.send(match unwinding(&name, || (job(client), client.is_lost())) {
                Ok(answer) => answer,
                // The state of the connection is unknown.
                Err(refusal) => (Err(refusal), true),
            });
        });
        if self.lost || self.jobs.as_ref().is_none_or(|jobs| jobs.send(statement).is_err()) {
            self.lost = true;
            return Err(Refusal::Broken(anyhow!("the connection to the database ({}) is lost", self.shown)));
        }
        let (result, lost) = self.wait(&answer, STATEMENT)?;
        self.lost |= lost;
        result
    }

    /// Waits for an answer of the thread. Without one the connection is given up.
    fn wait<T>(&mut self, answer: &Receiver<T>, limit: Duration) -> Result<T, Refusal> {
        let mut deadline = Instant::now() + limit;
        let mut interrupted = false;
        loop {
            match answer.recv_timeout(LOOK.min(deadline.saturating_duration_since(Instant::now()))) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => {
                    self.lost = true;
                    if interrupted {
                        return Err(Refusal::Interrupted);
                    }
                    let seconds = limit.as_secs_f64();
                    return Err(Refusal::Broken(anyhow!(
                        "the database ({}) did not answer within {seconds:.0} s",
                        self.shown
                    )));
                }
            }
            if !interrupted && self.interrupt.raised() {
                interrupted = true;
                deadline = deadline.min(Instant::now() + GRACE);
            }
        }
    }
}

/// Runs something of a client library. A panic in it is the error that it should have returned.
fn unwinding<T>(shown: &str, run: impl FnOnce() -> T) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = PANIC.take().unwrap_or_else(|| payload(panic.as_ref()));
        let text = escaped(text.as_bytes());
        Refusal::Broken(anyhow!("the database client failed on the connection to {shown}: {text}"))
    })
}

thread_local! {
    /// The message of the last panic of this thread, with its place.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the panics of the connections' threads from being printed, once for the process: they are reported
/// as errors.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                return others(info);
            }
            // The path names the crate and its version behind the registry's directory.
            let place = info.location().map_or_else(String::new, |place| {
                let file = place.file().rsplit("/registry/src/").next().unwrap_or_default();
                format!(" ({file}:{})", place.line())
            });
            PANIC.set(Some(format!("{}{place}", payload(info.payload()))));
        }));
    });
}

/// Returns the message of a panic.
fn payload(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked").to_owned()
}

impl Drop for Worker {
    /// Closes the connection properly, unless it was given up.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take().filter(|_| !self.lost) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that panics whenever it is asked something.
    struct Panicking;

    impl ServerConnection for Panicking {
        fn query(&mut self, sql: &str, _: &[String]) -> Result<Vec<Vec<Cell>>, Refusal> {
            panic!("no answer to {sql}")
        }

        fn execute(&mut self, _: &str) -> Result<u64, Refusal> {
            Ok(0)
        }

        fn is_lost(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_panic_of_the_client_is_reported_as_what_it_is() {
        let limit = Duration::from_secs(10);
        let none = Interrupt::default();
        let mut worker = Worker::open("mysql glance at db".into(), || Ok(Panicking), limit, &none).unwrap();
        let error = format!("{:#}", worker.query("SELECT 1", &[]).unwrap_err().into_error());
        assert!(error.contains("mysql glance at db") && error.contains("no answer to SELECT 1"), "{error}");
        assert!(worker.is_lost());
        let opened = Worker::open("db".into(), || -> Result<Panicking, _> { panic!("no key") }, limit, &none);
        let error = format!("{:#}", opened.err().unwrap().into_error());
        assert!(error.contains("no key"), "{error}");
    }
}
