//! The accounts of a Swift store: those of `swift_store_config_file`, or the one of the store's own section.
//!
//! The file is read as Python's configparser does it, for Glance: a line that is indented goes on with the
//! value above it, `%(name)s` stands for another option and `%%` for a percent sign, `[DEFAULT]` has what a
//! section leaves out, and a value may be in quotes. A section that is incomplete is an error when an image
//! needs it. Messages never repeat a line of the file, because it may contain a key.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::account::SwiftAccount;
use crate::config::{
    Config, DEFAULT_SWIFT_REFERENCE, SWIFT_STORE_APPLICATION_CREDENTIAL_ID,
    SWIFT_STORE_APPLICATION_CREDENTIAL_SECRET, SWIFT_STORE_AUTH_ADDRESS, SWIFT_STORE_CONFIG_FILE,
    SWIFT_STORE_KEY, SWIFT_STORE_USER,
};
use crate::names::escaped;
use crate::os::text::read_text;
use crate::source::store::Options;

/// The depth to which options may refer to others.
const MAX_DEPTH: usize = 10;
/// Limit of the file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The accounts that a store knows by names.
pub(super) struct References {
    /// The file or the section that has them, as messages name it.
    place: String,
    /// The name of the account that new images are put into.
    default: String,
    /// True if they are of a file, whose names stand in locations.
    are_named: bool,
    accounts: Vec<NamedAccount>,
}

/// An account, or the reason why it cannot be used.
type NamedAccount = (String, Result<SwiftAccount, String>);

impl References {
    /// Reads the accounts of a store. An account that cannot be used is no error yet.
    pub(super) fn read(options: &Options<'_>) -> Result<Self> {
        let default = options.config.text(&options.of(DEFAULT_SWIFT_REFERENCE))?.value;
        let Some(file) = options.optional(SWIFT_STORE_CONFIG_FILE)? else {
            return Self::of_section(options, default);
        };
        let (path, text) = find(options.config, &file.value)
            .with_context(|| format!("{}: cannot read swift_store_config_file", file.origin))?;
        let place = path.display().to_string();
        Self::of_file(&place, &default, &text).with_context(|| format!("cannot understand {place}"))
    }

    /// Takes the text of a file apart.
    pub(super) fn of_file(place: &str, default: &str, text: &str) -> Result<Self> {
        let sections = parse(text)?;
        let names = sections.iter().filter(|section| section.name != DEFAULT);
        let account = |section: &AccountSection| {
            let look_up = |name: &str| value(&sections, &section.name, name);
            let account = SwiftAccount::of_section(&format!("[{}] of {place}", section.name), &look_up);
            (section.name.clone(), account.map_err(|error| format!("{error:#}")))
        };
        let accounts = names.map(account).collect();
        Ok(References { place: place.to_owned(), default: default.to_owned(), are_named: true, accounts })
    }

    /// Reads the account of the store's own section.
    fn of_section(options: &Options<'_>, default: String) -> Result<Self> {
        let place = format!("[{}]", options.groups.first().copied().unwrap_or("glance_store"));
        let known = [
            ("auth_address", SWIFT_STORE_AUTH_ADDRESS),
            ("user", SWIFT_STORE_USER),
            ("key", SWIFT_STORE_KEY),
            ("application_credential_id", SWIFT_STORE_APPLICATION_CREDENTIAL_ID),
            ("application_credential_secret", SWIFT_STORE_APPLICATION_CREDENTIAL_SECRET),
        ];
        let mut values = Vec::new();
        for (name, option) in known {
            values.push((name, options.value(option)?));
        }
        let look_up = |name: &str| {
            let found = values.iter().find(|(known, _)| *known == name);
            Ok(found.and_then(|(_, value)| value.clone()))
        };
        let mut accounts = Vec::new();
        if values.iter().any(|(_, value)| value.is_some()) {
            let account = SwiftAccount::of_section(&place, &look_up);
            accounts.push((default.clone(), account.map_err(|error| format!("{error:#}"))));
        }
        Ok(References { place, default, are_named: false, accounts })
    }

    /// Returns an account by its name.
    pub(super) fn get(&self, name: &str) -> Result<&SwiftAccount> {
        let Some((_, account)) = self.accounts.iter().find(|(known, _)| known == name) else {
            let name = escaped(name.as_bytes());
            let names: Vec<_> = self.accounts.iter().map(|(name, _)| escaped(name.as_bytes())).collect();
            ensure!(
                !names.is_empty(),
                "{} has no account {name}: set swift_store_config_file for its store, or \
                 swift_store_auth_address, swift_store_user and swift_store_key",
                self.place
            );
            bail!("the account {name} is not in {}, which has: {}", self.place, names.join(", "));
        };
        account.as_ref().map_err(|why| anyhow::anyhow!("{why}"))
    }

    /// Returns the account that new images are put into, if it can be used.
    pub(super) fn default(&self) -> Option<&SwiftAccount> {
        self.get(&self.default).ok()
    }

    /// Returns the account of locations without a login at this address: the application credential of the
    /// store's section. Otherwise, Glance writes a user and its key, or the name of an account in a file.
    pub(super) fn unwritten_at(&self, url: &str) -> Option<&SwiftAccount> {
        let is_here = |account: &&SwiftAccount| {
            account.has_application_credential()
                && account.auth_url().trim_end_matches('/') == url.trim_end_matches('/')
        };
        self.default().filter(|_| !self.are_named).filter(is_here)
    }

    /// True if there is an account with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.accounts.iter().any(|(known, _)| known == name)
    }
}

/// Returns the accounts of a file.
#[cfg(test)]
pub(super) fn accounts_of(text: &str) -> Result<Vec<NamedAccount>> {
    Ok(References::of_file("FILE", "ref1", text)?.accounts)
}

/// Returns the file that a setting names, which may be in a directory of the configuration, and its text.
fn find(config: &Config, name: &str) -> Result<(PathBuf, String)> {
    let mut places: Vec<_> = config.search_path().iter().map(|directory| directory.join(name)).collect();
    if Path::new(name).is_absolute() {
        places = vec![PathBuf::from(name)];
    }
    for path in places {
        match read_text(&path, MAX_FILE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => bail!("{}: {e}", path.display()),
            Ok(text) => return Ok((path, text)),
        }
    }
    bail!("there is no {name}")
}

/// The section whose options all others have.
const DEFAULT: &str = "DEFAULT";

/// A section with its options, the names in lower case.
#[derive(Debug, Default)]
struct AccountSection {
    name: String,
    options: Vec<(String, Vec<String>)>,
}

/// Parses a file. The message of an error has the line, counted from 1, and nothing of its text.
fn parse(text: &str) -> Result<Vec<AccountSection>> {
    let mut sections: Vec<AccountSection> = Vec::new();
    // The indentation of the option that an indented line goes on with; `None` before any.
    let mut indent = None;
    for (number, line) in (1..).zip(text.lines()) {
        let place = || format!("line {number}");
        let value = line.trim();
        let last = sections.last_mut().and_then(|section| section.options.last_mut());
        if value.is_empty() || value.starts_with(['#', ';']) {
            if let Some((_, lines)) = last.filter(|_| value.is_empty() && indent.is_some()) {
                lines.push(String::new());
            }
            continue;
        }
        let depth = line.chars().take_while(|c| c.is_whitespace()).count();
        if let (Some((_, lines)), Some(indent)) = (last, indent)
            && depth > indent
        {
            lines.push(value.to_owned());
            continue;
        }
        indent = None;
        let header = value.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        if let Some((name, _)) = header.filter(|(name, _)| !name.is_empty()) {
            let is_new = !sections.iter().any(|section| section.name == name);
            ensure!(is_new, "{}: a section of this name is there already", place());
            sections.push(AccountSection { name: name.to_owned(), options: Vec::new() });
            continue;
        }
        let (name, value) = value
            .split_once(['=', ':'])
            .with_context(|| format!("{}: expected name = value, [section] or a comment", place()))?;
        let name = name.trim_end().to_lowercase();
        ensure!(!name.is_empty(), "{}: a value needs a name before the =", place());
        let section = sections.last_mut();
        let section = section.with_context(|| format!("{}: a value needs a [section] above it", place()))?;
        let is_new = !section.options.iter().any(|(known, _)| *known == name);
        ensure!(is_new, "{}: the section has this option already", place());
        section.options.push((name, vec![value.trim().to_owned()]));
        indent = Some(depth);
    }
    Ok(sections)
}

/// Returns the value of an option in a section, without its quotes.
fn value(sections: &[AccountSection], section: &str, name: &str) -> Result<Option<String>> {
    let Some(raw) = raw(sections, section, name) else { return Ok(None) };
    let text =
        interpolated(sections, section, &raw, MAX_DEPTH).with_context(|| format!("[{section}] {name}"))?;
    let Some(quote) = text.chars().next().filter(|quote| ['"', '\''].contains(quote)) else {
        return Ok(Some(text));
    };
    let inner = text[1..].strip_suffix(quote);
    Ok(Some(inner.with_context(|| format!("[{section}] {name}: a quote is not closed"))?.to_owned()))
}

/// Returns a value as it is written.
fn raw(sections: &[AccountSection], section: &str, name: &str) -> Option<String> {
    let of = |wanted: &str| {
        let section = sections.iter().find(|section| section.name == wanted)?;
        let (_, lines) = section.options.iter().find(|(known, _)| known == name)?;
        Some(lines.join("\n").trim_end().to_owned())
    };
    of(section).or_else(|| of(DEFAULT))
}

/// Returns a value with the options that it refers to in their places.
fn interpolated(sections: &[AccountSection], section: &str, text: &str, depth: usize) -> Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        result += before;
        if let Some(after) = after.strip_prefix('%') {
            result.push('%');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
        let (name, after) = named
            .filter(|(name, _)| !name.contains(')'))
            .context("a % has to be doubled, or to begin %(name)s")?;
        ensure!(depth > 0, "options refer to one another in a circle");
        let raw = raw(sections, section, &name.to_lowercase());
        let raw = raw.context("it refers to an option that is not there")?;
        result += &interpolated(sections, section, &raw, depth - 1)?;
        rest = after;
    }
    Ok(result + rest)
}
