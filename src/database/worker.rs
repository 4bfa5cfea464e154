//! A connection on a thread of its own, so that nothing it waits for can keep the command waiting.
//!
//! Names that do not resolve, a server that takes the connection and says nothing, one that is stopped in the middle of an
//! answer: whoever asks gets an answer within the time set, or an error, and a signal is heard meanwhile. A thread that is
//! still waiting then is left behind; it ends with the process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::{Cell, Refusal};
use crate::interrupt::Interrupt;

/// How long a statement may take. All of them are bounded by the size of a batch or a page, but for the sums over the whole
/// table, which come to this with some ten million rows.
const STATEMENT: Duration = Duration::from_secs(10);
/// How often a signal is looked for ...
const LOOK: Duration = Duration::from_millis(100);
/// ... and how long a statement under way is waited for after it.
const GRACE: Duration = Duration::from_secs(2);

/// A client of a database server. Texts are given as parameters; numbers and image ids stand in the statement.
pub(super) trait Client {
    fn query(&mut self, sql: &str, texts: &[String]) -> Result<Vec<Vec<Cell>>, Refusal>;

    /// Runs a statement and tells how many rows it changed.
    fn execute(&mut self, sql: &str) -> Result<u64, Refusal>;

    /// Whether the connection is gone.
    fn is_lost(&self) -> bool;
}

type Job = Box<dyn FnOnce(&mut dyn Client) + Send>;

/// A client on its thread.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    interrupt: Interrupt,
    lost: bool,
    /// What messages name it.
    shown: String,
}

impl Worker {
    /// Opens a client on a new thread, within this time.
    pub(super) fn open<C: Client>(
        shown: String,
        open: impl FnOnce() -> Result<C, Refusal> + Send + 'static,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self, Refusal> {
        let (jobs, queue) = channel::<Job>();
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

    pub(super) fn query(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let (sql, texts) = (sql.to_owned(), texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        self.run(move |client| client.query(&sql, &texts))
    }

    pub(super) fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        let sql = sql.to_owned();
        self.run(move |client| client.execute(&sql))
    }

    /// Whether the connection is gone, or was given up.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut dyn Client) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, answer) = channel();
        let job: Job = Box::new(move |client| {
            let result = job(client);
            let _ = tell.send((result, client.is_lost()));
        });
        if self.lost || self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            self.lost = true;
            return Err(Refusal::Broken(anyhow!("the connection to the database ({}) is lost", self.shown)));
        }
        let (result, lost) = self.wait(&answer, STATEMENT)?;
        self.lost |= lost;
        result
    }

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
    /// Says goodbye to a server that still listens.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take().filter(|_| !self.lost) {
            let _ = thread.join();
        }
    }
}
