//! Where images come from: the stores that Glance's locations name, opened for reading.
//!
//! Promises: nothing here writes; a location's credentials appear in no message; TLS is verified unless a
//! setting says otherwise in so many words; every wait is bounded and ends soon after the run is interrupted.
//! A stream that breaks is resumed where that is safe, that is, where a validator proves that the content is
//! still the same; otherwise its reader gets the error. Whether the bytes are the image is for the caller to
//! check, where it writes them: by size and digest.
//!
//! `stores` says by which stores a location is read; `file`, `web`, `s3`, `swift` and `rbd` are one type of
//! store each: its options, its locations, its images. `glance` is Glance's own API, which reads what nothing
//! here can. `location` and `sealed` are about a location as text, `download` is what all that is read over
//! HTTP has in common, `logged_in` what needs a token of Keystone.

#[cfg(test)]
mod clouds_tests;
mod download;
mod file;
#[cfg(test)]
mod fuzz;
mod glance;
mod location;
mod logged_in;
mod opened;
mod rbd;
mod s3;
mod sealed;
mod store;
mod stores;
mod swift;
mod swift_place;
#[cfg(test)]
mod tests;
mod web;

pub(crate) use self::glance::{ImageApi, ImageOfGlance, Via};
pub(crate) use self::opened::{Body, End, Opened, Refused, Source, WrongData};
pub(crate) use self::stores::Stores;
