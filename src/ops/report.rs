//! Parts that the reports of several operations share.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cache::outcome::EntryError;
use crate::units::{count, human};

/// One step of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct PlanEntry {
    /// The image's id, or for what is no image the entry's name.
    pub(crate) image_id: String,
    /// `remove`, `forget`, `adopt`, `drop` or `keep`.
    pub(crate) action: &'static str,
    pub(crate) reason: String,
    pub(crate) bytes: u64,
}

/// What clean and prune have in common.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Run {
    pub(crate) dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<PlanEntry>>,
    pub(crate) errors: Vec<EntryError>,
    /// Why nothing was done, when that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    /// The signal that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<&'static str>,
}

impl Run {
    /// The lines before the summary: the plan of a dry run, or why nothing was done.
    pub(crate) fn preamble(&self) -> String {
        let mut text = String::new();
        for entry in self.plan.iter().flatten() {
            let _ = writeln!(
                text,
                "would {} {} ({}): {}",
                entry.action,
                entry.image_id,
                human(entry.bytes),
                entry.reason
            );
        }
        if let Some(why) = &self.skipped {
            let _ = writeln!(text, "nothing was done: {why}");
        }
        text
    }

    pub(crate) fn verb<'a>(&self, did: &'a str, would: &'a str) -> &'a str {
        if self.dry_run { would } else { did }
    }

    pub(crate) fn trailer(&self) -> String {
        let failed = match self.errors.len() {
            0 => String::new(),
            number => format!("; {} failed", count(number as u64, "entry")),
        };
        failed + &self.end()
    }

    /// What ended the run, and the end of the line.
    pub(crate) fn end(&self) -> String {
        let mut text = String::new();
        if let Some(signal) = self.signal {
            let _ = write!(text, "; stopped by {signal}");
        }
        text.push('\n');
        text
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}
