//! A connection on a thread of its own, so that no wait of it keeps the command waiting.
//!
//! A name may not resolve, a server may accept the connection and say nothing, or stop in the middle of an
//! answer. The caller gets an answer within the time limit or an error, and a signal ends the wait. A thread
//! that is still waiting then is left behind; it ends with the process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::cell::Cell;
use crate::database::refusal::Refusal;
use crate::interrupt::Interrupt;

/// The limit for a statement. Each is bounded by the size of a batch or a page, except the sums over the
/// whole table, which take this long with about ten million rows.
const STATEMENT: Duration = Duration::from_secs(10);
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
        let thread = std::thread::Builder::new()
            .name("database".into())
            .spawn(move || match open() {
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
        let statement: Statement = Box::new(move |client| {
            let result = job(client);
            let _ = tell.send((result, client.is_lost()));
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

impl Drop for Worker {
    /// Closes the connection properly, unless it was given up.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take().filter(|_| !self.lost) {
            let _ = thread.join();
        }
    }
}
