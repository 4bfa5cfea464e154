//! An index for tests: it does what the script of a test says, and all else succeeds and changes nothing.

use anyhow::Result;

use super::{Deletion, Index};
use crate::cache::entry::{BadRow, Image};
use crate::cache::inventory::Joiner;
use crate::database::refusal::Refusal;
use crate::interrupt::Wait;

/// The behaviour of an index in a test.
pub(crate) trait IndexScript {
    fn begin(&mut self, _: &Wait) -> Result<bool, Refusal> {
        Ok(false)
    }

    fn forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal>;

    fn holds(&mut self, _: &Deletion) -> Result<bool, Refusal> {
        Ok(true)
    }

    fn commit(&mut self) -> Result<(), Refusal>;

    fn wait_for_rows(&mut self, _: bool) {}

    fn abandon(&mut self) {}
}

/// The index that follows a script.
pub(crate) struct IndexDouble<S>(pub(crate) S);

impl<S: IndexScript> Index for IndexDouble<S> {
    fn read(&mut self, _: &Wait, _: &mut Joiner<'_>) -> Result<()> {
        Ok(())
    }

    fn reach(&mut self, _: &Wait) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_writable(&mut self, _: &Wait) -> Result<(), Refusal> {
        Ok(())
    }

    fn begin(&mut self, wait: &Wait) -> Result<bool, Refusal> {
        self.0.begin(wait)
    }

    fn forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        self.0.forget(victims, is_due)
    }

    fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal> {
        self.0.holds(victim)
    }

    fn commit(&mut self, _: Option<&[Deletion]>) -> Result<(), Refusal> {
        self.0.commit()
    }

    fn wait_for_rows(&mut self, waits: bool) {
        self.0.wait_for_rows(waits);
    }

    fn abandon(&mut self) {
        self.0.abandon();
    }

    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        Ok(orphans.len() as u64)
    }

    fn record(&mut self, _: &Image) -> Result<(), Refusal> {
        Ok(())
    }

    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        Ok(rows.len() as u64)
    }
}
