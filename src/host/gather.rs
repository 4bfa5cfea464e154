//! Opens, locks and looks through the caches of a host.
//!
//! They are opened and looked through in the order of the list, and locked in the order of device and inode, so that two runs can
//! never wait for each other. What is wrong with one cache is told with its name and keeps only that one out.

use anyhow::Context as _;
use rustix::fs::fstatvfs;

use crate::cache::lock::Held;
use crate::cache::outcome::EntryError;
use crate::host::cache::{ImageCache, Rules, Stock};
use crate::host::order::View;
use crate::host::{Declared, Host, find_all};
use crate::os::mounts::{identity, parents};
use crate::os::space::capacity;
use crate::run::Context;

/// An opened cache of the host, looked through.
pub(crate) struct Member<'a> {
    pub(crate) declared: Declared,
    pub(crate) cache: Box<dyn ImageCache + 'a>,
    /// Device and inode of the directory.
    pub(crate) identity: (u64, u64),
    /// Bytes.
    pub(crate) limit: u64,
    pub(crate) stock: Stock,
}

impl<'a> Member<'a> {
    /// `None` when its directory is not there.
    fn open(host: &'a Host<'a>, declared: &Declared) -> anyhow::Result<Option<Self>> {
        let Some(cache) = declared.kind.open(host, declared)? else { return Ok(None) };
        let identity = identity(cache.fd())?;
        let figures = fstatvfs(cache.fd()).context("cannot ask for the size of the file system")?;
        let limit = declared.size.value.of(capacity(&figures));
        Ok(Some(Member { declared: declared.clone(), cache, identity, limit, stock: Stock::default() }))
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { stock: &self.stock, age: self.declared.age.as_ref().map(|age| age.value) }
    }

    /// An error of one of its entries, with the entry's path.
    pub(crate) fn located(&self, error: EntryError) -> EntryError {
        if error.name.starts_with('/') {
            return error;
        }
        let directory = self.declared.directory.value.display().to_string();
        EntryError { name: format!("{}/{}", directory.trim_end_matches('/'), error.name), ..error }
    }
}

/// The caches of a host, in the order of the list, and what is wrong with those that are not among them.
#[derive(Default)]
pub(crate) struct Gathered<'a> {
    pub(crate) members: Vec<Member<'a>>,
    pub(crate) errors: Vec<EntryError>,
    pub(crate) warnings: Vec<String>,
    /// Caches whose directories are configured but not there.
    pub(crate) missing: Vec<Declared>,
}

/// Opens, locks and looks through all caches, or those on one device. What is to be changed stays locked.
pub(crate) fn gather<'a>(host: &'a Host<'a>, rules: &Rules, on: Option<u64>) -> Gathered<'a> {
    let (declared, errors) = find_all(host);
    let mut gathered = Gathered { errors, ..Gathered::default() };
    for declared in declared {
        match Member::open(host, &declared) {
            Err(e) => gathered.fail(&declared, "open", &e),
            Ok(None) if declared.is_configured() => gathered.missing.push(declared),
            Ok(None) => {}
            Ok(Some(member)) if on.is_some_and(|device| device != member.identity.0) => {}
            Ok(Some(member)) => gathered.add(member),
        }
    }
    gathered.warn_of_nested();
    let caches: Vec<(u64, u64)> = gathered.members.iter().map(|member| member.identity).collect();
    if rules.changing {
        gathered.lock(host);
    }
    gathered.survey(rules, &caches);
    gathered.note_missing();
    gathered
}

impl<'a> Gathered<'a> {
    fn fail(&mut self, declared: &Declared, action: &'static str, error: &anyhow::Error) {
        let name = format!("{} ({})", declared.name, declared.directory.value.display());
        let message = format!("{error:#} (directory set by {})", declared.directory.origin);
        self.errors.push(EntryError { name, action, message });
    }

    fn add(&mut self, member: Member<'a>) {
        let Some(other) = self.members.iter().find(|other| other.identity == member.identity) else {
            self.members.push(member);
            return;
        };
        self.warnings.push(format!(
            "{} and {} are the same directory, {}: it is taken once, as {}",
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
                    "the directory of {}, {}, is inside that of {}, {}: each is taken on its own",
                    inner.declared.name,
                    inner.declared.directory.value.display(),
                    outer.declared.name,
                    outer.declared.directory.value.display()
                ));
            }
        }
    }

    fn lock(&mut self, host: &Host<'_>) {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|position| self.members[*position].identity);
        let refused = order.into_iter().filter_map(|position| {
            let error = self.members[position].cache.lock(&host.wait).err()?;
            Some((position, error))
        });
        let (skipped, refused): (Vec<_>, Vec<_>) =
            refused.partition(|(_, error)| host.skip_if_locked && error.is::<Held>());
        for (position, error) in &skipped {
            let name = &self.members[*position].declared.name;
            self.warnings.push(format!("{name} is passed over: {error:#}"));
        }
        // Told to stop: that one was waiting for a lock is no error.
        for (position, error) in refused.iter().filter(|_| !host.wait.interrupt.raised()) {
            self.refuse(*position, "lock", error);
        }
        self.leave_out(&skipped.iter().chain(&refused).map(|(position, _)| *position).collect::<Vec<_>>());
    }

    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) {
        let mut refused = Vec::new();
        for (position, member) in self.members.iter_mut().enumerate() {
            match member.cache.survey(rules, caches) {
                Ok(stock) => member.stock = stock,
                Err(e) => refused.push((position, e)),
            }
        }
        for (position, error) in &refused {
            self.refuse(*position, "look through", error);
        }
        self.leave_out(&refused.iter().map(|(position, _)| *position).collect::<Vec<_>>());
        for member in &mut self.members {
            let errors = std::mem::take(&mut member.stock.errors);
            self.errors.extend(errors.into_iter().map(|error| member.located(error)));
            let name = &member.declared.name;
            self.warnings.extend(member.stock.notes.iter().map(|note| format!("{name}: {note}")));
        }
    }

    fn refuse(&mut self, position: usize, action: &'static str, error: &anyhow::Error) {
        let declared = self.members[position].declared.clone();
        self.fail(&declared, action, error);
    }

    fn leave_out(&mut self, positions: &[usize]) {
        let mut position = 0;
        self.members.retain(|_| {
            position += 1;
            !positions.contains(&(position - 1))
        });
    }

    fn note_missing(&mut self) {
        self.warnings.extend(self.missing.iter().map(|declared| {
            format!(
                "{}: directory {} (set by {}) does not exist",
                declared.name,
                declared.directory.value.display(),
                declared.directory.origin
            )
        }));
    }

    /// Tells what should be known besides the result.
    pub(crate) fn tell(&self, context: &Context) {
        for warning in &self.warnings {
            context.output.warning(warning);
        }
    }
}
