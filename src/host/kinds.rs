//! The table of the kinds of caches, and the list of the caches that the configuration of a host has.
//!
//! **A new kind is a file in this room and a line in [`KINDS`].** In sections `[image_cache:NAME]` of our own
//! configuration an operator sets priority, size and age of a cache that a kind found (NAME is the kind's),
//! or declares a further cache. Nothing here opens, makes or changes anything in a cache.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use super::glance::settings::{Settings, max_size};
use super::{glance, ironic};
use crate::cache::outcome::{Action, EntryError};
use crate::config::{self, Opt, Origin, Setting};
use crate::exit::Failure;
use crate::host::order::List;
use crate::host::{CacheKind, ConfiguredCache, Declared, Host, Task};
use crate::units::{Amount, Nanos, TimeSpan};

/// All kinds, in order of registration.
static KINDS: &[&dyn CacheKind] = &[&glance::GLANCE, &ironic::ISO, &ironic::INSTANCE, &ironic::TFTP];

/// The beginning of the names of these sections.
const SECTION: &str = "image_cache:";

/// Returns all caches of the host, sorted by priority.
///
/// If the configuration of one cache is wrong, an error names this cache, and only this one is left out.
pub(super) fn find_all(host: &Host<'_>) -> (Vec<Declared>, Vec<EntryError>) {
    let mut list = List::new();
    let mut errors: Vec<EntryError> = Vec::new();
    let mut add = |name: &str, declared: Result<Option<Declared>>| match declared {
        Ok(Some(declared)) => list.add(declared.priority, declared),
        Ok(None) => {}
        Err(e) => {
            let message = format!("{e:#}");
            // A file that cannot be read is reported once, even if several kinds are configured in it.
            if !errors.iter().any(|error| error.message == message) {
                errors.push(EntryError { name: name.to_owned(), action: Action::Find, message });
            }
        }
    };
    for kind in KINDS.iter().copied() {
        add(kind.name(), found(host, kind).and_then(placed));
    }
    for section in host.config.sections() {
        if let Some(name) = section.strip_prefix(SECTION).filter(|name| kind_of(name).is_none()) {
            add(name, declared(host, section, name).map(Some).and_then(placed));
        }
    }
    (list.into_vec(), errors)
}

/// Refuses a relative path, because the service and a cron job have different working directories.
fn placed(found: Option<Declared>) -> Result<Option<Declared>> {
    if let Some(Declared { directory: Setting { value, origin }, .. }) = &found
        && !matches!(origin, Origin::Flag(_))
        && value.is_relative()
    {
        bail!("{origin}: the directory \"{}\" is not an absolute path", value.display());
    }
    Ok(found)
}

fn kind_of(name: &str) -> Option<&'static dyn CacheKind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// Returns the cache that a kind finds, with the values that the operator's section sets.
fn found(host: &Host<'_>, kind: &'static dyn CacheKind) -> Result<Option<Declared>> {
    let Some(ConfiguredCache { directory, size, age }) = kind.find(host)? else { return Ok(None) };
    let section = format!("{SECTION}{}", kind.name());
    for name in ["directory", "kind"] {
        if let Some(set) = host.config.optional(&text(&section, name))? {
            bail!(
                "{}: {name} cannot be set for {}: the service's own configuration sets it",
                set.origin,
                kind.name()
            );
        }
    }
    Ok(Some(Declared {
        name: kind.name().to_owned(),
        kind,
        priority: priority(host, &section, kind)?,
        directory,
        size: size_of(host, &section)?.unwrap_or(size),
        age: age_of(host, &section)?.or(age),
    }))
}

/// Returns a further cache, which only the operator's section declares.
fn declared(host: &Host<'_>, section: &str, name: &str) -> Result<Declared> {
    if name.trim().is_empty() {
        bail!("section [{section}] has no name after the colon: write [{SECTION}NAME]");
    }
    let missing = |option: &str| {
        anyhow!("section [{section}] does not set {option}; it must set directory, kind and size")
    };
    let required = |option: &str, set: Option<_>| set.ok_or_else(|| missing(option));
    let kind: Setting<String> = required("kind", host.config.optional(&text(section, "kind"))?)?;
    let Some(found) = kind_of(&kind.value) else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
        bail!("{}: kind {:?} does not exist; the kinds are {}", kind.origin, kind.value, names.join(", "));
    };
    let directory = required("directory", host.config.optional(&text(section, "directory"))?)?;
    let Some(size) = size_of(host, section)? else {
        return Err(missing("size"));
    };
    Ok(Declared {
        name: name.to_owned(),
        kind: found,
        priority: priority(host, section, found)?,
        directory: directory.map(PathBuf::from),
        size,
        age: age_of(host, section)?,
    })
}

fn text<'a>(section: &'a str, name: &'a str) -> Opt<'a> {
    Opt::new(section, name, config::ValueKind::Text)
}

fn priority(host: &Host<'_>, section: &str, kind: &dyn CacheKind) -> Result<u32> {
    let opt = Opt::new(section, "priority", config::ValueKind::Integer { min: 1 });
    if host.config.optional(&text(section, "priority"))?.is_none() {
        return Ok(kind.priority());
    }
    let priority = host.config.integer(&opt)?.value;
    Ok(u32::try_from(priority).unwrap_or(u32::MAX))
}

fn size_of(host: &Host<'_>, section: &str) -> Result<Option<Setting<Amount>>> {
    parsed(host, section, "size")
}

fn age_of(host: &Host<'_>, section: &str) -> Result<Option<Setting<Nanos>>> {
    Ok(parsed::<TimeSpan>(host, section, "age")?.map(|age| age.map(|age| age.0)))
}

/// Returns a value that is written as on our command line, such as `20GiB` or `7d`.
fn parsed<T: std::str::FromStr<Err = String>>(
    host: &Host<'_>,
    section: &str,
    name: &str,
) -> Result<Option<Setting<T>>> {
    let Some(Setting { value, origin }) = host.config.optional(&text(section, name))? else {
        return Ok(None);
    };
    let value = value.parse().map_err(|e: String| anyhow!("{origin}: [{section}] {name}: {e}"))?;
    Ok(Some(Setting { value, origin }))
}

/// Returns the Glance cache that the settings name. Its limit is read only for a prune.
pub(super) fn the_one(host: &Host<'_>) -> Result<Declared, Failure> {
    let kind: &'static dyn CacheKind = &glance::GLANCE;
    let size = match host.task {
        Task::Prune => max_size(&host.config, host.max_size)?,
        _ => Setting { value: Amount::Bytes(0), origin: Origin::Default },
    };
    Ok(Declared {
        name: kind.name().to_owned(),
        kind,
        priority: kind.priority(),
        directory: Settings::new(&host.config, host.selection.clone())?.cache_dir,
        size,
        age: None,
    })
}
