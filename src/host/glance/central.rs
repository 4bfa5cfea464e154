//! The central database, as the settings name it: which one, which node of it is this one, and what to say when it is not.

use anyhow::anyhow;

use crate::cache::index::central::Central;
use crate::cache::index::{Driver, NoRows};
use crate::cache::inventory::{Inventory, Tracking};
use crate::config::Setting;
use crate::database::{Database, Opening, Purpose, Refusal, is_missing_table};
use crate::exit::Failure;
use crate::host::glance::open::Cache;
use crate::host::glance::settings::{Settings, cannot_start, hinting_at_tables, nothing_at};
use crate::interrupt::Wait;
use crate::names::escaped;

/// Node URLs listed in a message.
const NAMED: usize = 20;

/// Opens this node's part of the central index.
pub(crate) fn stock(
    settings: &Settings,
    purpose: Purpose,
    wait: &Wait,
    why: String,
) -> Result<Cache, Failure> {
    let central = &settings.central;
    let mut database = match central.open(&settings.config, purpose, wait) {
        Ok(Opening::Open(database)) => database,
        Ok(Opening::Unreadable(reason)) => return Ok(unreadable(reason, why)),
        Ok(Opening::Nothing(path)) => {
            return Err(nothing_at(&path));
        }
        Err(failure) => return Err(failure),
    };
    let Some(node) = &central.node else {
        let known = database.nodes().map_err(no_tables)?;
        let error = anyhow!(
            "worker_self_reference_url is not set, so the database cannot tell which of its nodes this is; {}",
            listed(&known)
        );
        return Err(Failure::usage(error).hint("set it as for glance-api on this host, or give --node URL"));
    };
    match database.node(&node.value).map_err(no_tables)? {
        Some(key) => Ok(known(database, key, node, why)),
        None => Err(unknown(node, &database.nodes().map_err(cannot_start)?)),
    }
}

/// No driver is set: opens the central index when the settings name a database and a node, and that database knows that node.
pub(crate) fn detect(settings: &Settings, purpose: Purpose, wait: &Wait) -> Result<Option<Cache>, Failure> {
    settings.central.check()?;
    let (Some(node), Some(_)) = (&settings.central.node, &settings.central.database) else {
        return Ok(None);
    };
    let unsure = |failure: Failure| {
        failure.hint("image_cache_driver is not set, so the database has to tell whether it is the index of this cache")
    };
    match settings.central.open(&settings.config, purpose, wait) {
        Ok(Opening::Open(mut database)) => match database.node(&node.value) {
            Ok(Some(key)) => {
                let why = "found this node in the database".to_owned();
                Ok(Some(known(database, key, node, why)))
            }
            Ok(None) => Ok(None),
            Err(refusal) if is_missing_table(&refusal) => Ok(None),
            Err(refusal) => Err(unsure(cannot_start(refusal))),
        },
        Ok(Opening::Nothing(_)) => Ok(None),
        Ok(Opening::Unreadable(reason)) => Err(unsure(Failure::cannot_start(anyhow!(reason)))),
        Err(failure) => Err(unsure(failure)),
    }
}

fn no_tables(refusal: Refusal) -> Failure {
    hinting_at_tables(refusal, "is it Glance's database, of 2024.1 or later, after glance-manage db_sync?")
}

fn known(database: Database, key: i64, node: &Setting<String>, why: String) -> Cache {
    let place = Place { database: database.shown(), node: escaped(node.value.as_bytes()) };
    Cache {
        inventory: Inventory::default(),
        index: Box::new(Central::new(database, key)),
        driver: Some(Driver::CentralizedDb),
        why,
        index_path: None,
        central: Some(place),
        warnings: Vec::new(),
    }
}

fn unreadable(reason: String, why: String) -> Cache {
    let inventory = Inventory { tracking: Tracking::Unknown(reason), ..Inventory::default() };
    Cache {
        inventory,
        index: Box::new(NoRows),
        driver: Some(Driver::CentralizedDb),
        why,
        index_path: None,
        central: None,
        warnings: Vec::new(),
    }
}

/// Where a central index is, for people.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) database: String,
    pub(crate) node: String,
}

/// The node is not in the database: says which ones are, and which of them may be meant.
pub(crate) fn unknown(node: &Setting<String>, known: &[String]) -> Failure {
    let error = anyhow!(
        "the database knows no node {} (set by {}); {}",
        escaped(node.value.as_bytes()),
        node.origin,
        listed(known)
    );
    match closest(&node.value, known) {
        Some(close) => Failure::usage(error).hint(format!("is {} meant?", escaped(close.as_bytes()))),
        None => Failure::usage(error).hint("a glance-api that is started with this URL registers it"),
    }
}

fn listed(known: &[String]) -> String {
    let mut urls: Vec<String> = known.iter().take(NAMED).map(|url| escaped(url.as_bytes())).collect();
    if known.len() > NAMED {
        urls.push(format!("and {} more", known.len() - NAMED));
    }
    if urls.is_empty() {
        "it knows none at all".to_owned()
    } else {
        format!("the nodes it knows are {}", urls.join(", "))
    }
}

/// The URL that differs least: in case or slashes, then in its scheme or port, then in its path.
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
