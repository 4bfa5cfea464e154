//! Opens, locks and surveys the caches of an operation.
//!
//! Caches are opened and surveyed by priority. They are locked in the order of device and inode, so that two
//! runs can never wait for each other. With [`Scope::One`], the first failure ends the run. With
//! [`Scope::All`], it becomes an error that names the cache, and only this cache is left out.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use rustix::fs::fstatvfs;

use crate::cache::outcome::{Action, EntryError};
use crate::exit::Failure;
use crate::host::cache::{ImageCache, Limits, Rules, Stock, Unlocked};
use crate::host::kinds::{find_all, the_one};
use crate::host::{Declared, Host, Scope, Task};
use crate::os::mounts::{identity, parents};
use crate::os::space::capacity;
use crate::run::Run;

/// An opened cache and its contents.
pub(crate) struct Member<'a> {
    pub(crate) declared: Declared,
    pub(crate) cache: Box<dyn ImageCache + 'a>,
    /// Device and inode of the directory.
    pub(crate) identity: (u64, u64),
    /// Size of the whole file system, in bytes.
    pub(crate) capacity: u64,
    pub(crate) stock: Stock,
}

impl<'a> Member<'a> {
    /// Opens a cache. Returns `None` if its directory does not exist.
    fn open(host: &'a Host<'a>, declared: &Declared) -> Result<Option<Self>, Failure> {
        let Some(cache) = declared.kind.open(host, declared)? else { return Ok(None) };
        let identity = identity(cache.fd()).map_err(Failure::cannot_start)?;
        // A clean of one cache has no limit that could be a part of it.
        let has_limits = host.scope == Scope::All || host.task == Task::Prune;
        let capacity = if has_limits { Self::whole(&*cache, declared)? } else { 0 };
        let (declared, stock) = (declared.clone(), Stock::default());
        Ok(Some(Member { declared, cache, identity, capacity, stock }))
    }

    /// Returns the bytes of the whole file system that a cache is on.
    fn whole(cache: &dyn ImageCache, declared: &Declared) -> Result<u64, Failure> {
        let path = declared.directory.value.display();
        let figures = fstatvfs(cache.fd())
            .with_context(|| format!("cannot get the size of the file system of {path}"))
            .map_err(Failure::cannot_start)?;
        Ok(capacity(&figures))
    }

    /// Returns the limit in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.declared.size.value.of(self.capacity)
    }

    /// Returns the limits that its declaration sets.
    pub(crate) fn limits(&self) -> Limits {
        let age = self.declared.age.as_ref().map(|age| age.value);
        Limits { size: self.limit(), target: self.limit(), min_free: None, age }
    }

    /// Puts the whole path of an entry into an error about it.
    pub(crate) fn located(&self, error: EntryError) -> EntryError {
        if error.name.starts_with('/') {
            return error;
        }
        let directory = self.declared.directory.value.display().to_string();
        EntryError { name: format!("{}/{}", directory.trim_end_matches('/'), error.name), ..error }
    }
}

/// The caches of an operation, by priority, and the reasons why others are not among them.
pub(crate) struct Gathered<'a> {
    host: &'a Host<'a>,
    pub(crate) members: Vec<Member<'a>>,
    pub(crate) errors: Vec<EntryError>,
    pub(crate) warnings: Vec<String>,
    /// Caches whose directories are configured but do not exist.
    pub(crate) missing: Vec<Declared>,
    /// The sentence that there is no cache, if only one was to be opened.
    pub(crate) absent: Option<String>,
    /// The reason for skipping the one cache: another process holds its lock.
    pub(crate) skipped: Option<String>,
    /// Device and inode of all opened caches, even of those that could not be locked.
    identities: Vec<(u64, u64)>,
}

impl<'a> Gathered<'a> {
    /// Opens the caches, or only those on one device.
    pub(crate) fn open(host: &'a Host<'a>, device: Option<u64>) -> Result<Self, Failure> {
        let (declared, errors) = match host.scope {
            Scope::One => (vec![the_one(host)?], Vec::new()),
            Scope::All => find_all(host),
        };
        let mut gathered = Gathered {
            host,
            members: Vec::new(),
            errors,
            warnings: Vec::new(),
            missing: Vec::new(),
            absent: None,
            skipped: None,
            identities: Vec::new(),
        };
        for declared in declared {
            match Member::open(host, &declared) {
                Err(failure) => gathered.fail(&declared, Action::Open, failure)?,
                Ok(None) if host.scope == Scope::One => {
                    let (directory, origin) = (&declared.directory.value, &declared.directory.origin);
                    let path = directory.display();
                    let absent = format!("cache directory {path} (set by {origin}) does not exist");
                    host.run.output.note(&absent);
                    gathered.absent = Some(absent);
                    gathered.missing.push(declared);
                }
                Ok(None) if declared.is_configured() => gathered.missing.push(declared),
                Ok(None) => {}
                Ok(Some(member)) if device.is_some_and(|device| device != member.identity.0) => {}
                Ok(Some(member)) => gathered.add(member),
            }
        }
        gathered.warn_of_nested();
        gathered.identities = gathered.members.iter().map(|member| member.identity).collect();
        Ok(gathered)
    }

    /// Locks the caches, in the order of device and inode.
    pub(crate) fn lock(&mut self) -> Result<(), Failure> {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|position| self.members[*position].identity);
        let mut unlocked = Vec::new();
        for position in order {
            let Err(why) = self.members[position].cache.lock(&self.host.lock_wait) else { continue };
            unlocked.push(position);
            let declared = self.members[position].declared.clone();
            match why {
                // A run that a signal ends reports no error about the lock it was waiting for.
                Unlocked::Interrupted => {}
                Unlocked::Busy(who) if self.host.scope == Scope::One => self.skipped = Some(who),
                Unlocked::Busy(who) => {
                    self.warnings.push(format!("cache {} is skipped: {who}", declared.name));
                }
                Unlocked::Failed(failure) => self.fail(&declared, Action::Lock, failure)?,
            }
        }
        self.leave_out(&unlocked);
        Ok(())
    }

    /// Scans the caches.
    pub(crate) fn survey(&mut self, rules: &Rules) -> Result<(), Failure> {
        let mut refused = Vec::new();
        for (position, member) in self.members.iter_mut().enumerate() {
            match member.cache.survey(rules, &self.identities) {
                Ok(stock) => member.stock = stock,
                Err(failure) => refused.push((position, failure)),
            }
        }
        let positions: Vec<usize> = refused.iter().map(|(position, _)| *position).collect();
        for (position, failure) in refused {
            let declared = self.members[position].declared.clone();
            if self.host.scope == Scope::All && self.host.lock_wait.skips(&failure.error) {
                self.warnings.push(format!("cache {} is skipped: {:#}", declared.name, failure.error));
                continue;
            }
            self.fail(&declared, Action::LookThrough, failure)?;
        }
        self.leave_out(&positions);
        for member in &mut self.members {
            let errors = std::mem::take(&mut member.stock.errors);
            let name = &member.declared.name;
            match self.host.scope {
                Scope::One => {
                    self.errors.extend(errors);
                    self.warnings.append(&mut member.stock.notes);
                }
                Scope::All => {
                    self.errors.extend(errors.into_iter().map(|error| member.located(error)));
                    self.warnings.extend(member.stock.notes.iter().map(|note| format!("{name}: {note}")));
                }
            }
        }
        if self.host.scope == Scope::All {
            self.warnings.extend(self.missing.iter().map(|declared| {
                format!(
                    "{}: directory {} (set by {}) does not exist",
                    declared.name,
                    declared.directory.value.display(),
                    declared.directory.origin
                )
            }));
        }
        Ok(())
    }

    /// Prints the warnings.
    pub(crate) fn report_warnings(&self, run: &Run) {
        for warning in &self.warnings {
            run.output.warning(warning);
        }
    }

    /// Ends the run, or notes the failure as an error if the run covers all caches.
    fn fail(&mut self, declared: &Declared, action: Action, failure: Failure) -> Result<(), Failure> {
        if self.host.scope == Scope::One {
            return Err(failure);
        }
        let name = format!("{} ({})", declared.name, declared.directory.value.display());
        let mut message = format!("{:#} (", failure.error);
        for hint in failure.hints {
            let _ = write!(message, "{hint}; ");
        }
        let _ = write!(message, "directory set by {})", declared.directory.origin);
        self.errors.push(EntryError { name, action, message });
        Ok(())
    }

    /// Adds a cache, unless its directory has been added already under another name.
    fn add(&mut self, member: Member<'a>) {
        let Some(other) = self.members.iter().find(|other| other.identity == member.identity) else {
            self.members.push(member);
            return;
        };
        self.warnings.push(format!(
            "{} and {} are the same directory, {}: it is used once, as {}",
            other.declared.name,
            member.declared.name,
            member.declared.directory.value.display(),
            other.declared.name
        ));
    }

    fn warn_of_nested(&mut self) {
        for inner in &self.members {
            let parents = parents(inner.cache.fd());
            for outer in self.members.iter().filter(|outer| parents.contains(&outer.identity)) {
                self.warnings.push(format!(
                    "the directory of {} ({}) is inside that of {} ({}): both are treated as separate caches",
                    inner.declared.name,
                    inner.declared.directory.value.display(),
                    outer.declared.name,
                    outer.declared.directory.value.display()
                ));
            }
        }
    }

    /// Removes the caches at these positions from the list.
    fn leave_out(&mut self, positions: &[usize]) {
        let mut position = 0;
        self.members.retain(|_| {
            position += 1;
            !positions.contains(&(position - 1))
        });
    }
}
