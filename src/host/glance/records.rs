//! Asks Glance's database which cached images it still serves.
//!
//! The answer is never needed: without a database, or with one that does not answer soon, no image counts as
//! unusable.

use crate::cache::entry::Image;
use crate::cache::usable::UnusableImages;
use crate::exit::Failure;
use crate::host::glance::central::open_records;
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::DatabaseSettings;
use crate::names::ImageId;
use crate::run::Run;

/// The number of images that are asked for at a time.
const PORTION: usize = 5_000;

/// The answer of the database.
#[derive(Debug)]
pub(crate) enum Usability {
    /// No setting names a database.
    NotAsked,
    Known(UnusableImages),
    /// The reason for which it is not known.
    Unknown(String),
}

/// Asks which of these images Glance does not serve.
pub(crate) fn unusable(run: &Run, settings: &DatabaseSettings<'_>, images: &[Image]) -> Usability {
    if images.is_empty() || !settings.name_records() {
        return Usability::NotAsked;
    }
    match ask(run, settings, images) {
        Ok(mut found) => match found.doubt() {
            Some(doubt) => Usability::Unknown(doubt),
            None => Usability::Known(found),
        },
        Err(failure) => Usability::Unknown(format!("{:#}", failure.error)),
    }
}

fn ask(run: &Run, settings: &DatabaseSettings<'_>, images: &[Image]) -> Result<UnusableImages, Failure> {
    let mut records = open_records(settings, &run.wait(GLANCE_PATIENCE))?;
    let mut found = UnusableImages::default();
    for portion in images.chunks(PORTION) {
        let ids: Vec<ImageId> = portion.iter().map(|image| image.id).collect();
        let read = records.records(&ids).map_err(|refusal| Failure::cannot_start(refusal.into_error()))?;
        for (id, record) in ids.into_iter().zip(&read) {
            found.add(id, record.as_ref());
        }
    }
    Ok(found)
}
