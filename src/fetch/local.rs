//! A stand-in for the stores: plain files.

use std::fs::File;

use anyhow::{Context as _, Result, anyhow};

use super::Candidate;
use crate::source::{Body, Location, Opened, Source};

struct Local(String);

impl Source for Local {
    fn shown(&self) -> &str {
        &self.0
    }

    fn open(&self) -> Result<Opened> {
        let path = self.0.strip_prefix("file://").unwrap_or_default();
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        let size = file.metadata()?.len();
        Ok(Opened { size: Some(size), body: Body::File(file) })
    }
}

pub(crate) fn candidates(locations: &[Location]) -> Vec<Candidate> {
    let candidate = |location: &Location| -> Candidate {
        if location.value.starts_with("file://") {
            Ok(Box::new(Local(location.value.clone())))
        } else {
            Err(anyhow!("this kind of location cannot be read yet"))
        }
    };
    locations.iter().map(candidate).collect()
}
