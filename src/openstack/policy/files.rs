//! The policy files: where they are, what they say, and when they have changed.
//!
//! As in Glance, `policy_file` and `policy_dirs` are looked for in the directories of the configuration, a
//! file that does not exist changes nothing, and of a directory all files count whose names do not begin with
//! a dot, in the order of their names; later ones win. JSON is YAML.
//!
//! **A file that is wrong never takes effect.** At the start it is an error; later the rules that were read
//! before go on, and the error is returned once. Unlike in Glance, a rule that is removed from a file is back
//! at its default: a reload and a restart give the same rules.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::rules::{Enforcement, Policy, RuleValue, WrittenRule, WrittenRules};
use crate::config::{
    Config, OSLO_POLICY_DEFAULT_RULE, OSLO_POLICY_DIRS, OSLO_POLICY_ENFORCE_NEW_DEFAULTS,
    OSLO_POLICY_ENFORCE_SCOPE, OSLO_POLICY_FILE, Setting,
};
use crate::openstack::yaml::{self, Yaml};

/// The policy that is in force, and the files that it came from.
#[derive(Debug)]
pub(crate) struct PolicyFiles {
    places: PolicyPlaces,
    enforcement: Enforcement,
    policy: Policy,
    /// The main file of the policy that is in force.
    main_file: Option<PathBuf>,
    /// The files that were looked at last, whether or not they could be used. `None` if they could not even
    /// be looked at.
    stamps: Option<Vec<Stamp>>,
    is_outdated: bool,
}

/// The outcome of looking for changes.
#[derive(Debug)]
pub(crate) enum PolicyChange {
    /// Nothing has changed since the files were looked at last.
    None,
    /// The new rules are in force. They may come with warnings.
    Applied(Vec<String>),
    /// The files are wrong, so the rules that were read before go on.
    Refused(anyhow::Error),
}

/// The settings that say where the files are.
#[derive(Debug)]
struct PolicyPlaces {
    /// The directories of the configuration.
    search: Vec<PathBuf>,
    file: Setting<String>,
    dirs: Vec<Setting<String>>,
}

/// A file that was found, and its state. One that is replaced or written to has another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Device, inode, size, and the time of the last change in seconds and nanoseconds.
    state: (u64, u64, u64, i64, i64),
    is_main: bool,
}

/// The rules of all files, and warnings about them.
type ReadRules = (Policy, Vec<String>);

impl PolicyFiles {
    /// Reads the settings and the files. Returns the policy with warnings about it.
    ///
    /// Fails if a setting or a rule that the Cache API needs is not understood.
    pub(crate) fn load(config: &Config) -> Result<(Self, Vec<String>)> {
        let places = PolicyPlaces {
            search: config.search_path().to_owned(),
            file: config.text(&OSLO_POLICY_FILE)?,
            dirs: config.every(&OSLO_POLICY_DIRS)?,
        };
        let enforcement = Enforcement {
            new_defaults: config.boolean(&OSLO_POLICY_ENFORCE_NEW_DEFAULTS)?.value,
            scope: config.boolean(&OSLO_POLICY_ENFORCE_SCOPE)?.value,
            default_rule: config.text(&OSLO_POLICY_DEFAULT_RULE)?.value,
        };
        let stamps = places.stamps()?;
        let (policy, mut warnings) = read(&stamps, &enforcement)?;
        if config.is_set(&OSLO_POLICY_FILE) && main_file(&stamps).is_none() {
            let Setting { value, origin } = &places.file;
            warnings.push(format!("{origin}: there is no policy file {value}, so Glance's defaults apply"));
        }
        let main_file = main_file(&stamps);
        let stamps = Some(stamps);
        Ok((Self { places, enforcement, policy, main_file, stamps, is_outdated: false }, warnings))
    }

    /// Returns the rules that are in force.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the files that the rules were read from, lowest layer first.
    #[cfg(test)]
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.stamps.iter().flatten().map(|stamp| stamp.path.as_path())
    }

    /// True if the files have changed and could not be used, so that older rules go on.
    pub(crate) fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    /// Looks for changes, and reads the files again if there are any.
    pub(crate) fn refresh(&mut self) -> PolicyChange {
        let stamps = match self.places.stamps() {
            Ok(stamps) => stamps,
            Err(_) if self.stamps.is_none() => return PolicyChange::None,
            Err(error) => {
                self.stamps = None;
                self.is_outdated = true;
                return PolicyChange::Refused(error);
            }
        };
        if self.stamps.as_ref() == Some(&stamps) {
            return PolicyChange::None;
        }
        let read = self.main_file_is_there(&stamps).and_then(|()| read(&stamps, &self.enforcement));
        let main_file = main_file(&stamps);
        self.stamps = Some(stamps);
        self.is_outdated = read.is_err();
        match read {
            Ok((policy, warnings)) => {
                self.policy = policy;
                self.main_file = main_file;
                PolicyChange::Applied(warnings)
            }
            Err(error) => PolicyChange::Refused(error),
        }
    }

    /// Fails if the main file has vanished: an editor may be about to write it again.
    fn main_file_is_there(&self, stamps: &[Stamp]) -> Result<()> {
        match &self.main_file {
            Some(path) if main_file(stamps).is_none() => {
                bail!("the policy file {} is not there any more", path.display())
            }
            _ => Ok(()),
        }
    }
}

fn main_file(stamps: &[Stamp]) -> Option<PathBuf> {
    stamps.iter().find(|stamp| stamp.is_main).map(|stamp| stamp.path.clone())
}

impl PolicyPlaces {
    /// Finds all files, lowest layer first.
    fn stamps(&self) -> Result<Vec<Stamp>> {
        let mut stamps = Vec::new();
        if let Some(path) = self.find(&self.file.value) {
            stamps.push(Stamp::of(path, true)?);
        }
        for Setting { value, origin } in &self.dirs {
            let Some(dir) = self.find(value) else { continue };
            let paths = files_in(&dir)
                .map_err(|e| anyhow!("{origin}: cannot read the policy directory {}: {e}", dir.display()))?;
            for path in paths {
                stamps.push(Stamp::of(path, false)?);
            }
        }
        Ok(stamps)
    }

    /// Returns the first of the configuration's directories that has something of that name. A name that is
    /// an absolute path is taken as it is.
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.search.iter().map(|dir| dir.join(name)).find(|path| metadata(path).is_ok())
    }
}

impl Stamp {
    fn of(path: PathBuf, is_main: bool) -> Result<Self> {
        let found =
            metadata(&path).map_err(|e| anyhow!("cannot read the policy file {}: {e}", path.display()))?;
        let state = (found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec());
        Ok(Self { path, state, is_main })
    }
}

#[expect(clippy::disallowed_methods, reason = "a policy file is given by its path")]
fn metadata(path: &Path) -> std::io::Result<std::fs::Metadata> {
    std::fs::metadata(path)
}

/// Returns the files of a directory in the order of their names; hidden ones and directories do not count.
fn files_in(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // A link counts as what it leads to, and one that leads nowhere as a file that cannot be read.
        if !is_hidden && !metadata(&path).is_ok_and(|found| found.is_dir()) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Reads all files.
fn read(stamps: &[Stamp], enforcement: &Enforcement) -> Result<ReadRules> {
    let mut written = WrittenRules::new();
    let mut warnings = Vec::new();
    for Stamp { path, .. } in stamps {
        let document = yaml::read(path)?.unwrap_or(Yaml::Null);
        add_rules(document, path, &mut written, &mut warnings)?;
    }
    let (policy, more) =
        Policy::new(&written, enforcement).map_err(|problems| anyhow!(problems.join("\n")))?;
    warnings.extend(more);
    Ok((policy, warnings))
}

/// Adds the rules of a file to those of lower layers, which they replace.
fn add_rules(
    document: Yaml,
    path: &Path,
    written: &mut WrittenRules,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let members = match document {
        Yaml::Mapping(members) => members,
        Yaml::Null => return Ok(()),
        other => bail!("{}: a policy is a mapping of names to rules, not {}", path.display(), other.kind()),
    };
    let mut in_this_file: WrittenRules = WrittenRules::new();
    for member in members {
        let place = format!("{}:{}", path.display(), member.line);
        if let Some(before) = in_this_file.get(&member.key) {
            warnings.push(format!("{place}: {} is there twice; {} does not count", member.key, before.place));
        }
        in_this_file.insert(member.key, WrittenRule { place, value: value(member.value) });
    }
    written.append(&mut in_this_file);
    Ok(())
}

/// Returns a rule as it was written.
fn value(value: Yaml) -> RuleValue {
    const NO_ITEM: RuleValue = RuleValue::Wrong("an item of its list is neither a text nor a list of texts");
    let items = match value {
        Yaml::Text(text) => return RuleValue::Text(text),
        Yaml::List(items) => items,
        Yaml::Null => {
            return RuleValue::Wrong(
                "it has no value, which Glance takes for everybody; write \"!\" or \"@\"",
            );
        }
        Yaml::Boolean(_) | Yaml::Number(_) | Yaml::Mapping(_) => {
            return RuleValue::Wrong("it is neither a text nor a list; put it in quotes");
        }
    };
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        list.push(match item {
            // An empty text is left out, as an empty list is.
            Yaml::Text(text) if text.is_empty() => Vec::new(),
            Yaml::Text(text) => vec![text],
            Yaml::List(checks) => {
                let texts = checks.into_iter().map(|check| match check {
                    Yaml::Text(text) => Some(text),
                    _ => None,
                });
                match texts.collect() {
                    Some(texts) => texts,
                    None => return NO_ITEM,
                }
            }
            _ => return NO_ITEM,
        });
    }
    RuleValue::List(list)
}
