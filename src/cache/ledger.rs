//! The index of a cache as the rest of the program changes it: one transaction at a time, each with an end.
//!
//! A [`Transaction`] that is dropped without [`Transaction::commit`] is rolled back, so that no early return
//! leaves the index locked. Between transactions the ledger takes breaks: Glance asks for a locked index
//! every 50 ms, for two seconds, and has to get in meanwhile.
//!
//! **Files are not touched here.** A caller that removes files does so between [`Transaction::forget`] and
//! [`Transaction::commit`]. Killed in between, the rows come back without their files: ghosts, which the next
//! run forgets.

use std::ops::Range;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Result, anyhow};

use super::entry::{BadRow, Image};
use super::index::{Deletion, Index};
use super::inventory::Joiner;
use crate::database::refusal::Refusal;
use crate::interrupt::{Interrupt, Wait};

/// The first pause before a change of rows is repeated. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The number of rows in succession that may be refused, each of them alone, before it counts as a fault of
/// the whole index.
const ALONE: usize = 16;

/// The index of one cache, with the time to wait for it and the breaks for Glance.
pub(crate) struct Ledger {
    /// `None` where there are no rows: with xattr the files are the index, and a sqlite index may not exist
    /// yet.
    index: Option<Box<dyn Index>>,
    wait: Wait,
    turns: Turns,
    limit: RowLimit,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("has_rows", &self.has_rows()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Makes a ledger of an open index, which is waited for as long as `wait` says.
    ///
    /// Without an index there are no rows: every change succeeds and changes nothing.
    pub(crate) fn new(index: Option<Box<dyn Index>>, wait: Wait) -> Self {
        Ledger { index, wait, turns: Turns::default(), limit: RowLimit::default() }
    }

    /// True if there is an index with rows: a crash before a commit then brings back rows whose files are
    /// gone.
    pub(crate) fn has_rows(&self) -> bool {
        self.index.is_some()
    }

    /// Returns what ends each wait early.
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.wait.interrupt
    }

    /// Reads all rows.
    pub(crate) fn read(&mut self, joiner: &mut Joiner<'_>) -> Result<()> {
        self.index.as_mut().map_or(Ok(()), |index| index.read(&self.wait, joiner))
    }

    /// Makes sure that the index answers, which can take a server its time: to be asked before a lock is
    /// taken that others wait for.
    pub(crate) fn reach(&mut self) -> Result<(), Refusal> {
        self.index.as_mut().map_or(Ok(()), |index| index.reach(&self.wait))
    }

    /// Makes sure that rows can be written, and writes none. An index that is only busy is not refused.
    pub(crate) fn check_writable(&mut self) -> Result<(), Refusal> {
        let checked = self.index.as_mut().map_or(Ok(()), |index| index.check_writable(&self.wait));
        match checked {
            Err(Refusal::Busy(_)) => Ok(()),
            checked => checked,
        }
    }

    /// Takes the break that is due before the next transaction, if one is.
    ///
    /// [`Ledger::begin`] does so, too. A caller that takes a lock before it rests first, because others wait
    /// for that lock.
    pub(crate) fn rest(&mut self) {
        if self.has_rows() {
            self.turns.rest();
        }
    }

    /// Begins a transaction that no other process can make fail later: all locks are held when this returns.
    pub(crate) fn begin(&mut self) -> Result<Transaction<'_>, Refusal> {
        self.begin_within(self.wait.limit)
    }

    /// As [`Ledger::begin`], but waits no longer than `limit`.
    pub(crate) fn begin_within(&mut self, limit: Duration) -> Result<Transaction<'_>, Refusal> {
        self.rest();
        if let Some(index) = &mut self.index {
            let wait = Wait { limit: limit.min(self.wait.limit), ..self.wait.clone() };
            let others_wrote = index.begin(&wait).inspect_err(|_| index.abandon())?;
            self.turns.began(others_wrote);
        }
        Ok(Transaction { ledger: self, began: Instant::now(), is_open: true, follows_unknown: false })
    }

    /// Runs one transaction in which no file is touched. A commit that meets a conflict costs nothing: after
    /// a pause `change` runs again, as long as the wait allows. (A Galera cluster finds conflicts only
    /// there.)
    pub(crate) fn rows_only<T>(
        &mut self,
        mut change: impl FnMut(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let result = self.repeatedly(false, &mut change);
        self.wait_for_rows(false);
        result
    }

    /// As [`Ledger::rows_only`], but a conflict or a lost connection is no reason to give up before the wait
    /// is over, wherever in the transaction it comes. After a lost connection rows are waited for, as
    /// [`Ledger::wait_for_rows`] does it.
    pub(super) fn rows_repeatedly<T>(
        &mut self,
        mut change: impl FnMut(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let result = self.repeatedly(true, &mut change);
        self.wait_for_rows(false);
        result
    }

    /// As [`Ledger::rows_repeatedly`], for a change that returns how many rows it changes.
    ///
    /// If a commit got no answer and its repetition finds less to change, the commit took effect, and what it
    /// changed counts.
    pub(super) fn rows_counted(
        &mut self,
        mut change: impl FnMut(&mut Transaction<'_>) -> Result<u64, Refusal>,
    ) -> Result<u64, Refusal> {
        let mut count = 0;
        self.rows_repeatedly(|transaction| {
            let now = change(transaction)?;
            let took_effect = transaction.follows_unknown && now < count;
            count = if took_effect { count + now } else { now };
            Ok(count)
        })
    }

    /// Sets if rows that another session has locked are waited for, or left out. After a lost connection that
    /// session may be our own: the server may not know yet that it has ended.
    pub(super) fn wait_for_rows(&mut self, waits: bool) {
        if let Some(index) = &mut self.index {
            index.wait_for_rows(waits);
        }
    }

    /// Runs a transaction until it is committed. Once a commit was refused, or from the start if `insists`,
    /// it is repeated after conflicts and lost connections until the wait is over or a signal comes.
    fn repeatedly<T>(
        &mut self,
        mut insists: bool,
        change: &mut dyn FnMut(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut repeats = self.repeats();
        let mut is_unknown = false;
        loop {
            let begun = self.begin_after(is_unknown);
            let refusal = match begun.and_then(|mut open| change(&mut open).map(|done| (open, done))) {
                Err(refusal) => refusal,
                Ok((transaction, done)) => match transaction.commit(None) {
                    Ok(()) => return Ok(done),
                    Err(refusal) => {
                        insists = true;
                        refusal
                    }
                },
            };
            is_unknown |= matches!(refusal, Refusal::Unknown(_));
            if insists && matches!(refusal, Refusal::Lost(_) | Refusal::Unknown(_)) {
                self.wait_for_rows(true);
            }
            let passes = matches!(refusal, Refusal::Busy(_) | Refusal::Lost(_) | Refusal::Unknown(_));
            if !insists || !passes || !self.pauses(&mut repeats) {
                let is_said = matches!(refusal, Refusal::Unknown(_));
                return Err(if is_unknown && !is_said { refusal.after_unknown() } else { refusal });
            }
        }
    }

    /// Begins a transaction that follows one of which it is not known if it took effect, or not.
    fn begin_after(&mut self, follows_unknown: bool) -> Result<Transaction<'_>, Refusal> {
        let mut transaction = self.begin()?;
        transaction.follows_unknown = follows_unknown;
        Ok(transaction)
    }

    /// Returns the repetitions for which there is time from now on.
    pub(super) fn repeats(&self) -> Repeats {
        Repeats { deadline: self.wait.deadline(), pause: FIRST_PAUSE }
    }

    /// Returns the time that is left for repetitions.
    pub(super) fn left(repeats: &Repeats) -> Duration {
        repeats.deadline.saturating_duration_since(Instant::now())
    }

    /// Pauses before a repetition. Returns false if there is no time for another one, or a signal comes.
    pub(super) fn pauses(&self, repeats: &mut Repeats) -> bool {
        let Repeats { deadline, pause } = *repeats;
        repeats.pause = (pause * 2).min(LONGEST_PAUSE);
        Instant::now() + pause <= deadline && self.pause(pause)
    }

    /// Returns the number of rows that a transaction may delete; `None` without rows.
    pub(super) fn most_rows(&self) -> Option<usize> {
        self.has_rows().then_some(self.limit.most)
    }

    /// Changes so many rows in parts, at most `most` of them in a transaction. Returns its progress.
    ///
    /// A server can limit the size of a transaction. So what it refuses is tried again in halves, and what it
    /// takes is remembered for the transactions that follow. A row that is refused alone is passed over.
    pub(super) fn in_parts(
        &mut self,
        count: usize,
        most: usize,
        mut change: impl FnMut(&mut Ledger, Range<usize>) -> Result<(), Refusal>,
    ) -> Parts {
        let mut parts = Parts { reached: 0, refused: Vec::new(), result: Ok(()) };
        while parts.reached < count {
            let at = parts.reached;
            let part = (count - at).min(most).min(self.limit.most);
            match change(self, at..at + part) {
                Ok(()) => {
                    parts.reached += part;
                    self.took(part);
                }
                Err(Refusal::Broken(why)) => match self.refused(part, &why) {
                    Retry::Fewer => {}
                    Retry::Others => {
                        parts.refused.push((at, why));
                        parts.reached += 1;
                    }
                    Retry::No => {
                        parts.result = Err(Refusal::Broken(why));
                        return parts;
                    }
                },
                Err(refusal) => {
                    self.limit.unsuspect();
                    parts.result = Err(refusal);
                    return parts;
                }
            }
        }
        parts
    }

    /// Notes that a transaction with so many rows was refused, and says what to try next.
    pub(super) fn refused(&mut self, count: usize, why: &anyhow::Error) -> Retry {
        if count > 1 {
            self.limit.refused(count, why);
            return Retry::Fewer;
        }
        if self.limit.refused_alone(why) { Retry::Others } else { Retry::No }
    }

    /// Returns the refusal of an index that took no row at all, and refused each that it was asked for.
    pub(super) fn refuses_all(&self) -> Option<Refusal> {
        let RowLimit { has_taken, alone, why, .. } = &self.limit;
        (!has_taken && *alone > 0).then(|| Refusal::Broken(anyhow!("{why}")))
    }

    /// Notes that a transaction with so many rows was taken.
    pub(super) fn took(&mut self, count: usize) {
        self.limit.taken(count);
    }

    /// Returns a warning, once, if the server has turned out to limit the size of a transaction.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.limit.warning.take()
    }

    /// Sleeps. Returns false if a signal comes.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.wait.interrupt.raised() {
            thread::sleep(FIRST_PAUSE.min(until.saturating_duration_since(Instant::now())));
        }
        !self.wait.interrupt.raised()
    }
}

/// The repetitions of something that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeats {
    deadline: Instant,
    /// The pause before the next one.
    pause: Duration,
}

/// The next thing to try after a transaction that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    /// Fewer rows at a time.
    Fewer,
    /// The rows behind this one.
    Others,
    /// Nothing: it is not for the rows.
    No,
}

/// The progress of a change of many rows.
#[derive(Debug)]
pub(super) struct Parts {
    /// The number of rows that were changed or passed over, from the first one on.
    pub(super) reached: usize,
    /// The rows that were passed over, and why they were refused.
    pub(super) refused: Vec<(usize, anyhow::Error)>,
    /// The reason for not going on.
    pub(super) result: Result<(), Refusal>,
}

/// The number of rows that the server takes in one transaction, as far as it is known.
#[derive(Debug)]
struct RowLimit {
    most: usize,
    /// The size to which `most` grows again as rows are taken: it is small for a while behind a row that was
    /// refused alone, because there may be more of them.
    up_to: usize,
    suspect: Option<Suspect>,
    is_known: bool,
    warning: Option<String>,
    /// The number of rows that were refused alone since others were taken.
    alone: usize,
    /// True once rows were taken.
    has_taken: bool,
    /// The reason why a row was refused alone, the last time.
    why: String,
}

/// A refusal that may have been for the number of rows.
#[derive(Debug)]
struct Suspect {
    count: usize,
    why: String,
    /// The number of these rows that were not taken yet.
    left: usize,
}

impl Default for RowLimit {
    fn default() -> Self {
        RowLimit {
            most: usize::MAX,
            up_to: usize::MAX,
            suspect: None,
            is_known: false,
            warning: None,
            alone: 0,
            has_taken: false,
            why: String::new(),
        }
    }
}

impl RowLimit {
    /// Notes that so many rows were refused.
    fn refused(&mut self, count: usize, why: &anyhow::Error) {
        self.suspect.get_or_insert_with(|| Suspect { count, why: format!("{why:#}"), left: count });
        self.most = count.div_ceil(2);
    }

    /// Notes that so many rows were taken. If all that were refused together are taken in parts, they were
    /// refused for their number.
    fn taken(&mut self, count: usize) {
        self.alone = 0;
        self.has_taken |= count > 0;
        let Some(suspect) = &mut self.suspect else {
            self.most = self.most.saturating_mul(2).min(self.up_to);
            return;
        };
        suspect.left = suspect.left.saturating_sub(count);
        if suspect.left > 0 {
            return;
        }
        let (count, why) = (suspect.count, std::mem::take(&mut suspect.why));
        self.suspect = None;
        self.up_to = self.most;
        if !std::mem::replace(&mut self.is_known, true) {
            self.warning = Some(format!(
                "{why}; these {count} rows were changed in smaller transactions, and so are all that follow"
            ));
        }
    }

    /// Notes that a row was refused alone: whatever was refused together with it was not for the number of
    /// rows. Returns false if so many rows in succession were refused that it is not for a row either.
    fn refused_alone(&mut self, why: &anyhow::Error) -> bool {
        self.why = format!("{why:#}");
        self.suspect = None;
        self.most = 1;
        self.alone += 1;
        self.alone < ALONE
    }

    /// Gives up a suspicion after another refusal. If nothing was taken since, there may be no limit.
    fn unsuspect(&mut self) {
        if self.suspect.take().is_some_and(|suspect| suspect.left == suspect.count) {
            self.most = self.up_to;
        }
    }
}

/// An open transaction of a ledger. Dropped, it is rolled back.
#[must_use = "a transaction that is dropped is rolled back"]
pub(crate) struct Transaction<'a> {
    ledger: &'a mut Ledger,
    began: Instant,
    /// False once it was committed.
    is_open: bool,
    /// True if it repeats one of which it is not known if it took effect.
    follows_unknown: bool,
}

impl Transaction<'_> {
    /// Returns how long the transaction should take, so that others are not kept waiting.
    pub(super) fn turn(&self) -> Duration {
        self.ledger.turns.length()
    }

    /// Looks at the condition of each victim again and deletes the rows of those whose condition holds.
    /// Returns one answer for each victim: true if its condition holds.
    ///
    /// When it returns, whatever the commit needs of the disk is already there.
    pub(crate) fn forget(&mut self, victims: &[Deletion]) -> Result<Vec<bool>, Refusal> {
        self.forget_due(victims, &|_| true)
    }

    /// As [`Transaction::forget`], but only those for which `is_due` is true, which is asked when nobody else
    /// can find or insert the row until the end of the transaction.
    pub(super) fn forget_due(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        self.on_index(vec![true; victims.len()], |index| index.forget(victims, is_due))
    }

    /// Looks at the condition of one victim, and changes nothing.
    pub(crate) fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal> {
        self.on_index(true, |index| index.holds(victim))
    }

    /// Gives rows to orphans: the file's size and times, no hits. An orphan that has a row by now is skipped.
    /// Returns how many rows were added.
    pub(crate) fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.on_index(0, |index| index.adopt(orphans))
    }

    /// Gives an image that is being published its row, in place of whatever row it has: that one was left
    /// without a file.
    pub(crate) fn record(&mut self, image: &Image) -> Result<(), Refusal> {
        self.on_index((), |index| index.record(image))
    }

    /// Deletes rows whose id is no UUID, and returns how many were still there.
    pub(super) fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        self.on_index(0, |index| index.drop_bad_rows(rows))
    }

    /// Commits. Of what was forgotten in this transaction, only `gone` stays forgotten; `None` means all of
    /// it.
    ///
    /// On an error nothing is forgotten.
    pub(crate) fn commit(mut self, gone: Option<&[Deletion]>) -> Result<(), Refusal> {
        self.on_index((), |index| index.commit(gone))?;
        self.is_open = false;
        Ok(())
    }

    /// Runs something on the index. Without rows the result is given.
    fn on_index<T>(
        &mut self,
        without_rows: T,
        run: impl FnOnce(&mut dyn Index) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        match &mut self.ledger.index {
            Some(index) => run(index.as_mut()),
            None => Ok(without_rows),
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.ledger.index.as_mut().filter(|_| self.is_open) {
            index.abandon();
        }
        self.ledger.turns.ended(self.began);
    }
}

/// The breaks between transactions, and the length of a transaction.
///
/// It is not known if others wait for the index, but if they wrote in the last break. While they do, the
/// index is held for shorter and left alone for longer. Otherwise a break now and then is enough to let the
/// first of them in.
#[derive(Debug, Default)]
struct Turns {
    /// The time for which the index was held since the last break.
    held: Duration,
    /// The number of transactions that are still kept short for the sake of others.
    shared: u32,
}

impl Turns {
    /// The number of transactions that are kept short after others wrote.
    const MEMORY: u32 = 20;

    /// Returns the aim for the length of a transaction.
    fn length(&self) -> Duration {
        Duration::from_millis(if self.shared > 0 { 80 } else { 250 })
    }

    /// Takes the break that is due before a transaction, if one is.
    fn rest(&mut self) {
        let (most, pause) = if self.shared > 0 { (80, 160) } else { (750, 110) };
        if self.held >= Duration::from_millis(most) {
            thread::sleep(Duration::from_millis(pause));
            self.held = Duration::ZERO;
        }
    }

    /// Notes that a transaction has begun.
    fn began(&mut self, others_wrote: bool) {
        self.shared = if others_wrote { Self::MEMORY } else { self.shared.saturating_sub(1) };
    }

    /// Notes that a transaction has ended.
    fn ended(&mut self, began: Instant) {
        self.held += began.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::super::index::double::{IndexDouble, IndexScript};
    use super::*;

    /// An index that writes down what it is asked, and refuses its first commits.
    struct Recorder {
        calls: Rc<RefCell<Vec<&'static str>>>,
        /// The longest wait of the last transaction.
        waited: Rc<Cell<Duration>>,
        refusals: usize,
        refusal: fn() -> Refusal,
    }

    impl Recorder {
        fn call(&self, name: &'static str) {
            self.calls.borrow_mut().push(name);
        }
    }

    impl IndexScript for Recorder {
        fn begin(&mut self, wait: &Wait) -> Result<bool, Refusal> {
            self.call("begin");
            self.waited.set(wait.limit);
            Ok(false)
        }

        fn forget(
            &mut self,
            victims: &[Deletion],
            _: &dyn Fn(&Deletion) -> bool,
        ) -> Result<Vec<bool>, Refusal> {
            self.call("forget");
            Ok(vec![true; victims.len()])
        }

        fn holds(&mut self, _: &Deletion) -> Result<bool, Refusal> {
            Err(Refusal::Broken(anyhow!("cannot look")))
        }

        fn commit(&mut self) -> Result<(), Refusal> {
            self.call("commit");
            if self.refusals == 0 {
                return Ok(());
            }
            self.refusals -= 1;
            Err((self.refusal)())
        }

        fn wait_for_rows(&mut self, waits: bool) {
            if waits {
                self.call("wait for rows");
            }
        }

        fn abandon(&mut self) {
            self.call("abandon");
        }
    }

    fn ledger(refusals: usize) -> (Ledger, Rc<RefCell<Vec<&'static str>>>) {
        ledger_with(refusals, || Refusal::Busy(anyhow!("conflict")))
    }

    fn ledger_with(refusals: usize, refusal: fn() -> Refusal) -> (Ledger, Rc<RefCell<Vec<&'static str>>>) {
        let calls = Rc::new(RefCell::new(Vec::new()));
        let wait = Wait { limit: Duration::from_millis(500), interrupt: Interrupt::default() };
        let index = Recorder { calls: Rc::clone(&calls), waited: Rc::default(), refusals, refusal };
        (Ledger::new(Some(Box::new(IndexDouble(index))), wait), calls)
    }

    #[test]
    fn a_transaction_that_is_dropped_is_abandoned() {
        let (mut ledger, calls) = ledger(0);
        drop(ledger.begin().unwrap());
        assert_eq!(calls.take(), ["begin", "abandon"]);
        ledger.begin().unwrap().commit(None).unwrap();
        assert_eq!(calls.take(), ["begin", "commit"], "what was committed is not");
        let broken = || Refusal::Broken(anyhow!("something on the way"));
        ledger.rows_only(|_| Err::<(), _>(broken())).unwrap_err();
        assert_eq!(calls.take(), ["begin", "abandon"], "an error on the way is");
    }

    #[test]
    fn a_commit_that_is_refused_is_abandoned_and_rows_alone_are_repeated() {
        let (mut ledger, calls) = ledger(1);
        assert!(matches!(ledger.begin().unwrap().commit(None), Err(Refusal::Busy(_))));
        assert_eq!(calls.take(), ["begin", "commit", "abandon"]);
        let (mut ledger, calls) = self::ledger(1);
        ledger.rows_only(|transaction| transaction.forget(&[])).unwrap();
        assert_eq!(
            calls.take(),
            ["begin", "forget", "commit", "abandon", "begin", "forget", "commit"],
            "the change is made again, too"
        );
        let (mut ledger, _) = self::ledger(usize::MAX);
        assert!(matches!(ledger.rows_only(|_| Ok(())), Err(Refusal::Busy(_))), "it ends");
    }

    #[test]
    fn rows_of_a_commit_without_an_answer_count_once() {
        let unknown = || Refusal::Unknown(anyhow!("no answer"));
        let conflict = || Refusal::Busy(anyhow!("conflict"));
        for (refusal, counts, expected) in [
            (unknown as fn() -> Refusal, [5, 0, 0], 5), // the first commit took effect
            (unknown, [5, 5, 0], 5),                    // the second did
            (unknown, [5, 5, 5], 5),                    // the third did
            (unknown, [5, 0, 2], 7),                    // the first did, and then there were two more
            (conflict, [5, 4, 3], 3),                   // the third did, and another process was there before
        ] {
            let (mut ledger, _) = ledger_with(2, refusal);
            let mut counts = counts.into_iter();
            assert_eq!(ledger.rows_counted(|_| Ok(counts.next().unwrap())).unwrap(), expected);
        }
    }

    #[test]
    fn without_rows_every_change_succeeds() {
        let wait = Wait { limit: Duration::ZERO, interrupt: Interrupt::default() };
        let mut ledger = Ledger::new(None, wait);
        let mut transaction = ledger.begin().unwrap();
        assert_eq!(transaction.adopt(&[]).unwrap(), 0);
        assert_eq!(transaction.forget(&[]).unwrap(), Vec::<bool>::new());
        transaction.commit(Some(&[])).unwrap();
        assert!(!ledger.has_rows());
    }

    #[test]
    fn rows_are_waited_for_once_the_connection_was_lost() {
        let lost = || Refusal::Lost(anyhow!("the connection is lost"));
        let (mut ledger, calls) = ledger_with(1, lost);
        ledger.rows_only(|_| Ok(())).unwrap();
        let expected = ["begin", "commit", "abandon", "wait for rows", "begin", "commit"];
        assert_eq!(calls.take(), expected);
        // It was not lost in a commit, and is not made again.
        ledger.rows_only(|_| Err::<(), _>(lost())).unwrap_err();
        assert_eq!(calls.take(), ["begin", "abandon"]);
    }

    #[test]
    fn what_follows_a_commit_without_an_answer_is_unknown_too() {
        let (mut ledger, _) = ledger_with(1, || Refusal::Unknown(anyhow!("no answer")));
        let mut is_first = true;
        let refusal = ledger.rows_only(|_| {
            let broken = Refusal::Broken(anyhow!("the disk is broken"));
            if std::mem::take(&mut is_first) { Ok(()) } else { Err(broken) }
        });
        let Err(Refusal::Unknown(why)) = refusal else { panic!("{refusal:?}") };
        assert!(why.chain().count() == 2 && format!("{why:#}").ends_with("the disk is broken"), "{why:#}");
        // That it is unknown is said once.
        let (mut ledger, _) = ledger_with(usize::MAX, || Refusal::Unknown(anyhow!("no answer")));
        let Err(Refusal::Unknown(why)) = ledger.rows_only(|_| Ok(())) else { panic!("it was committed") };
        assert_eq!(why.chain().count(), 1, "{why:#}");
    }

    #[test]
    fn a_transaction_waits_no_longer_than_asked_for() {
        let (calls, waited) = (Rc::default(), Rc::new(Cell::default()));
        let index = Recorder { calls, waited: Rc::clone(&waited), refusals: 0, refusal: || unreachable!() };
        let wait = Wait { limit: Duration::from_millis(500), interrupt: Interrupt::default() };
        let mut ledger = Ledger::new(Some(Box::new(IndexDouble(index))), wait);
        for (limit, expected) in [(200, 200), (500, 500), (900, 500)] {
            drop(ledger.begin_within(Duration::from_millis(limit)).unwrap());
            assert_eq!(waited.get(), Duration::from_millis(expected));
        }
    }

    #[test]
    fn repetitions_are_made_as_long_as_there_is_time() {
        let limit = Duration::from_secs(60);
        let ledger = Ledger::new(None, Wait { limit, interrupt: Interrupt::default() });
        let mut repeats = ledger.repeats();
        let left = Ledger::left(&repeats);
        assert!(left > limit / 2 && left <= limit, "{left:?}");
        let started = Instant::now();
        assert!(ledger.pauses(&mut repeats));
        assert!(started.elapsed() >= FIRST_PAUSE);
        assert_eq!(repeats.pause, FIRST_PAUSE * 2);
        // This pause would end after the wait.
        let mut repeats = Repeats { pause: limit * 2, ..ledger.repeats() };
        let started = Instant::now();
        assert!(!ledger.pauses(&mut repeats));
        assert!(started.elapsed() < limit);
        assert_eq!(repeats.pause, LONGEST_PAUSE);
        let mut repeats = ledger.repeats();
        ledger.interrupt().raise(signal_hook::consts::SIGTERM);
        assert!(!ledger.pauses(&mut repeats));
    }

    #[test]
    fn an_index_that_has_taken_rows_does_not_refuse_all_of_them() {
        let why = anyhow!("error 1644: poison");
        let (mut ledger, _) = ledger(0);
        assert!(ledger.refuses_all().is_none());
        ledger.took(0);
        assert_eq!(ledger.refused(1, &why), Retry::Others);
        assert!(matches!(ledger.refuses_all(), Some(Refusal::Broken(_))));
        ledger.took(1);
        // It is not for a row if so many in succession are refused.
        for _ in 1..ALONE {
            assert_eq!(ledger.refused(1, &why), Retry::Others);
        }
        assert_eq!(ledger.refused(1, &why), Retry::No);
        assert!(ledger.refuses_all().is_none());
    }

    #[test]
    fn a_limit_is_suspected_until_something_else_is_refused() {
        let why = anyhow!("error 1105: transaction size limit exceeded");
        let (mut ledger, _) = ledger(0);
        assert_eq!(ledger.refused(10, &why), Retry::Fewer);
        assert_eq!(ledger.most_rows(), Some(5));
        ledger.limit.unsuspect();
        assert_eq!(ledger.most_rows(), Some(usize::MAX), "nothing was taken since");
        ledger.refused(10, &why);
        ledger.took(5);
        ledger.limit.unsuspect();
        assert_eq!(ledger.most_rows(), Some(5), "half of them were");
        assert_eq!(ledger.take_warning(), None, "the other half was not");
    }

    #[test]
    fn glance_gets_in_between_transactions_sooner_if_it_has_written() {
        let rest = |turns: &mut Turns, held| {
            turns.held = Duration::from_millis(held);
            let started = Instant::now();
            turns.rest();
            (started.elapsed().as_millis(), turns.held.as_millis() as u64)
        };
        let mut turns = Turns::default();
        assert_eq!(turns.length(), Duration::from_millis(250));
        let (took, held) = rest(&mut turns, 749);
        assert_eq!(held, 749, "{took} ms");
        let (took, held) = rest(&mut turns, 750);
        assert!(took >= 110 && held == 0, "{took} ms, {held}");
        turns.began(true);
        assert_eq!(turns.length(), Duration::from_millis(80));
        let (took, held) = rest(&mut turns, 79);
        assert_eq!(held, 79, "{took} ms");
        let (took, held) = rest(&mut turns, 80);
        assert!(took >= 160 && held == 0, "{took} ms, {held}");
        for _ in 1..Turns::MEMORY {
            turns.began(false);
        }
        assert_eq!(turns.length(), Duration::from_millis(80));
        turns.began(false);
        assert_eq!(turns.length(), Duration::from_millis(250));
        let began = Instant::now();
        thread::sleep(Duration::from_millis(5));
        turns.held = Duration::from_secs(1);
        turns.ended(began);
        assert!(turns.held >= Duration::from_millis(1005), "{:?}", turns.held);
    }

    #[test]
    fn a_ledger_with_rows_takes_its_breaks() {
        let (mut ledger, _) = ledger(0);
        let mut without_rows = Ledger::new(None, ledger.wait.clone());
        for (ledger, rests) in [(&mut ledger, true), (&mut without_rows, false)] {
            ledger.turns.held = Duration::from_secs(1);
            ledger.rest();
            assert_eq!(ledger.turns.held.is_zero(), rests);
        }
    }
}
