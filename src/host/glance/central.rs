//! The central database that the settings name: connects to it, and finds the node of this host in it.
//!
//! No node is ever registered here. If the database does not know the node of the settings, the error lists
//! the nodes that it knows, and suggests the one with a similar URL.

use anyhow::anyhow;

use crate::cache::index::Driver;
use crate::cache::index::central::Central;
use crate::cache::inventory::Tracking;
use crate::config::Setting;
use crate::database::Database;
use crate::database::opening::{Opening, Purpose};
use crate::database::refusal::{Refusal, is_missing_table};
use crate::exit::Failure;
use crate::host::glance::index::{DatabasePlace, IndexPlace, OpenIndex};
use crate::host::glance::settings::DatabaseSettings;
use crate::interrupt::Wait;
use crate::openstack::cache_api::shown_url;

/// At most this many node URLs are listed in a message.
const NAMED: usize = 20;

/// Connects to the database that holds the index.
pub(crate) fn connect(
    settings: &DatabaseSettings<'_>,
    purpose: Purpose,
    wait: &Wait,
) -> Result<Opening<Database>, Failure> {
    let (address, patience) = (settings.index_address()?, settings.patience()?);
    Database::open(address, patience, purpose, wait).map_err(cannot_start)
}

/// Connects to the database with Glance's records of the images, to read them.
pub(crate) fn open_records(settings: &DatabaseSettings<'_>, wait: &Wait) -> Result<Database, Failure> {
    let (address, mut patience) = (settings.records_address()?, settings.patience()?);
    patience.limit = patience.limit.min(wait.limit);
    let opened = Database::open(address, patience, Purpose::Look, wait).map_err(cannot_start)?;
    let mut database = existing(opened)?;
    let hint = "check that this is Glance's database and that glance-manage db_sync was run";
    database.check_records().map_err(|refusal| hinting_at_tables(refusal, hint))?;
    Ok(database)
}

/// Fails if the settings do not name the database with Glance's records. This does not connect to it.
pub(crate) fn check_records(settings: &DatabaseSettings<'_>) -> Result<(), Failure> {
    settings.patience()?;
    settings.records_address().map(drop)
}

/// Returns the database. Fails if it does not exist or cannot be read.
pub(crate) fn existing(opened: Opening<Database>) -> Result<Database, Failure> {
    match opened {
        Opening::Open(database) => Ok(database),
        Opening::Unreadable(why) => Err(Failure::cannot_start(why)),
        Opening::Nothing(path) => {
            Err(Failure::cannot_start(anyhow!("the database {} does not exist or is empty", path.display()))
                .hint("glance-manage db_sync creates it"))
        }
    }
}

/// Opens this node's part of the central index.
pub(super) fn open(
    settings: &DatabaseSettings<'_>,
    purpose: Purpose,
    wait: &Wait,
    why: String,
) -> Result<OpenIndex, Failure> {
    let mut database = match connect(settings, purpose, wait)? {
        Opening::Unreadable(reason) => return Ok(unreadable(reason, why)),
        opened => existing(opened)?,
    };
    let Some(node) = settings.node()? else {
        let known = database.nodes().map_err(no_tables)?;
        let error = anyhow!(
            "worker_self_reference_url is not set, so this host's node in the database is not known; {}",
            listed(&known)
        );
        return Err(Failure::usage(error)
            .hint("set it to the same value as for glance-api on this host, or give --node URL"));
    };
    match database.node(&node.value).map_err(no_tables)? {
        Some(key) => Ok(known(database, key, &node, why)),
        None => Err(unknown(&node, &database.nodes().map_err(cannot_start)?)),
    }
}

/// The answer of the database to the question if it has the index of this cache.
pub(super) enum Detected {
    Index(OpenIndex),
    /// The settings name a database and a node, but there is no such database, or it does not know the node.
    Doubt(Failure),
    /// The settings name no database or no node, or the database is older than the central index.
    Nothing,
}

/// Opens the central index if no setting names a driver, but the settings name a database and a node, and
/// this database knows this node.
pub(super) fn detect(
    settings: &DatabaseSettings<'_>,
    purpose: Purpose,
    wait: &Wait,
) -> Result<Detected, Failure> {
    let (Some(node), Some(connection)) = (settings.node()?, settings.index()?) else {
        return Ok(Detected::Nothing);
    };
    let unsure = |failure: Failure| {
        failure.hint(
            "image_cache_driver is not set, so the database is needed to find out which index this cache has",
        )
    };
    match connect(settings, purpose, wait) {
        Ok(Opening::Open(mut database)) => match database.node(&node.value) {
            Ok(Some(key)) => {
                let why = "found this node in the database".to_owned();
                Ok(Detected::Index(known(database, key, &node, why)))
            }
            Ok(None) => match database.nodes() {
                Ok(nodes) => Ok(Detected::Doubt(unknown(&node, &nodes))),
                Err(refusal) => Err(unsure(cannot_start(refusal))),
            },
            Err(refusal) if is_missing_table(&refusal) => Ok(Detected::Nothing),
            Err(refusal) => Err(unsure(cannot_start(refusal))),
        },
        Ok(Opening::Nothing(path)) => {
            let error = anyhow!(
                "the database {} (set by {}) does not exist or is empty",
                path.display(),
                connection.origin
            );
            Ok(Detected::Doubt(Failure::usage(error).hint("glance-manage db_sync creates it")))
        }
        Ok(Opening::Unreadable(reason)) => Err(unsure(Failure::cannot_start(reason))),
        Err(failure) => Err(unsure(failure)),
    }
}

/// Makes the failure of a run that a database refused.
pub(crate) fn cannot_start(refusal: Refusal) -> Failure {
    Failure::cannot_start(refusal.into_error())
}

fn no_tables(refusal: Refusal) -> Failure {
    let hint =
        "check that this is Glance's database of 2024.1 or later and that glance-manage db_sync was run";
    hinting_at_tables(refusal, hint)
}

/// Makes the failure of a run, with this hint if a table is missing.
fn hinting_at_tables(refusal: Refusal, hint: &str) -> Failure {
    let missing = is_missing_table(&refusal);
    let failure = cannot_start(refusal);
    if missing { failure.hint(hint) } else { failure }
}

fn known(database: Database, key: i64, node: &Setting<String>, why: String) -> OpenIndex {
    let place = DatabasePlace { database: database.shown(), node: shown_url(&node.value) };
    OpenIndex {
        index: Some(Box::new(Central::new(database, key))),
        driver: Some(Driver::CentralizedDb),
        tracking: Tracking::ByRow,
        why,
        place: IndexPlace::Database(place),
        warning: None,
        unreadable: None,
    }
}

fn unreadable(reason: anyhow::Error, why: String) -> OpenIndex {
    OpenIndex {
        index: None,
        driver: Some(Driver::CentralizedDb),
        tracking: Tracking::Unknown(reason.to_string()),
        why,
        place: IndexPlace::Files,
        warning: None,
        unreadable: Some(reason),
    }
}

/// Returns the error for a node that the database does not know. It lists the known nodes and suggests a
/// similar one.
pub(crate) fn unknown(node: &Setting<String>, known: &[String]) -> Failure {
    let error = anyhow!(
        "the database does not know the node {} (set by {}); {}",
        shown_url(&node.value),
        node.origin,
        listed(known)
    );
    if known.iter().any(|known| *known != node.value && shown_url(known) == shown_url(&node.value)) {
        return Failure::usage(error)
            .hint("give the URL as the database has it, with the credentials that are not shown here");
    }
    match closest(&node.value, known) {
        Some(close) => Failure::usage(error).hint(format!("did you mean {}?", shown_url(close))),
        None => Failure::usage(error).hint("a node is registered when glance-api is started with its URL"),
    }
}

fn listed(known: &[String]) -> String {
    let mut urls: Vec<String> = known.iter().take(NAMED).map(|url| shown_url(url)).collect();
    if known.len() > NAMED {
        urls.push(format!("and {} more", known.len() - NAMED));
    }
    if urls.is_empty() {
        "it knows no nodes at all".to_owned()
    } else {
        format!("it knows these nodes: {}", urls.join(", "))
    }
}

/// Returns the known URL that differs least: only in case or slashes, else only in scheme or port, else in
/// the path.
fn closest<'a>(url: &str, known: &'a [String]) -> Option<&'a String> {
    let keys = |url: &str| {
        let folded = url.trim().trim_end_matches('/').to_ascii_lowercase();
        let rest = folded.split_once("://").map_or(folded.clone(), |(_, rest)| rest.to_owned());
        let (authority, path) = rest.split_once('/').unwrap_or((&rest, ""));
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        [folded.clone(), rest.clone(), format!("{host}/{path}"), host.to_owned()]
    };
    let wanted = keys(url);
    (0..wanted.len()).find_map(|level| known.iter().find(|url| keys(url)[level] == wanted[level]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_url_that_is_close() {
        let known =
            ["http://a:9292", "http://b:9292/image", "https://[fd00::1]:9292", "http://c"].map(str::to_owned);
        for (url, close) in [
            ("http://a:9292/", Some("http://a:9292")),
            ("HTTP://A:9292", Some("http://a:9292")),
            ("https://a:9292", Some("http://a:9292")),
            ("http://a:9293", Some("http://a:9292")),
            ("https://a", Some("http://a:9292")),
            ("http://b:9292", Some("http://b:9292/image")),
            ("http://[fd00::1]:80/", Some("https://[fd00::1]:9292")),
            ("c:80", Some("http://c")),
            ("http://d:9292", None),
            ("", None),
        ] {
            assert_eq!(closest(url, &known).map(String::as_str), close, "{url}");
        }
    }
}
