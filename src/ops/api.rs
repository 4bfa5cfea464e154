//! Answers to the questions of the service: each is asked in a process of its own.
//!
//! Nothing is changed and no lock is taken. Unlike `list`, an index that cannot be read is a failure: the
//! API has no way to say that hits are unknown.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::list::{ListReport, ListRequest, Order, SortKey, list};
use crate::database::images::ImageDescription;
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::host::glance::central::{connect, existing, open_records};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::{DatabaseSettings, Selection};
use crate::names::ImageId;
use crate::openstack::cache_api::shown_url;
use crate::ops::fleet::is_named;
use crate::ops::status::{StatusRequest, status};
use crate::output::python::python;
use crate::run::Run;

/// Returns the answer of `GET /v2/cache`, behind a line that names the file of the index, or null.
pub(crate) fn cached(run: &Run, selection: Selection) -> Result<String, Failure> {
    let request = ListRequest {
        images: Vec::new(),
        states: Vec::new(),
        used_before: None,
        larger_than: None,
        limit: None,
        // Glance's own order with the sqlite index.
        order: Order { by: SortKey::Image, reverse: false },
        needs_index: true,
        asks_records: false,
    };
    let report: ListReport = list(run, selection, &request)?;
    let index = report.index_file.as_ref().and_then(|path| path.to_str());
    Ok(format!("{}\n{}", json!({ "index": index }), python(&report.answer())))
}

/// Returns the size of the cache and its limit as JSON, with the reason if the size is not known.
pub(crate) fn fill_level(run: &Run, selection: Selection) -> Result<String, Failure> {
    let request = StatusRequest {
        max_size: None,
        stall_time: None,
        max_invalid: Vec::new(),
        max_stalled: Vec::new(),
        human: false,
        check: false,
        asks_records: false,
        verify: None,
    };
    Ok(python(&status(run, selection, &request)?.fill_level()))
}

/// An image in Glance's database.
#[derive(Debug, Serialize)]
struct KnownImage {
    id: String,
    name: String,
    status: String,
    owner: String,
    visibility: String,
    properties: Map<String, Value>,
}

impl KnownImage {
    fn new(id: ImageId, image: ImageDescription) -> Self {
        let ImageDescription { name, status, owner, visibility, properties } = image;
        let properties = properties.into_iter().map(|(name, value)| (name, Value::String(value)));
        KnownImage { id: id.to_string(), name, status, owner, visibility, properties: properties.collect() }
    }
}

/// Returns an image of Glance's database as JSON, or null if there is none.
pub(crate) fn image(run: &Run, selection: &Selection, id: ImageId) -> Result<String, Failure> {
    let config = selection.read_to_look(run)?;
    let settings = DatabaseSettings::new(&config, selection);
    let mut database = open_records(&settings, &run.wait(GLANCE_PATIENCE))?;
    let image = database.description(id).map_err(|refusal| Failure::cannot_start(refusal.into_error()))?;
    Ok(python(&image.map(|image| KnownImage::new(id, image))))
}

/// Returns the URLs of the nodes that have an image, or null without a central database.
pub(crate) fn nodes(run: &Run, selection: &Selection, id: ImageId) -> Result<String, Failure> {
    if !is_named(run, selection)? {
        return Ok(python(&Value::Null));
    }
    let config = selection.read_to_look(run)?;
    let settings = DatabaseSettings::new(&config, selection);
    let mut database = existing(connect(&settings, Purpose::Look, &run.wait(GLANCE_PATIENCE))?)?;
    let found = database.placements(Some(id.as_str()));
    let found = found.map_err(|refusal| Failure::cannot_start(refusal.into_error()))?;
    let mut nodes: Vec<String> = found.iter().map(|line| shown_url(&line.node)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    Ok(python(&nodes))
}
