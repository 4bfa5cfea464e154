//! All image caches of a host at once: `prune --require`, and `--all-caches` of prune, clean, list and status.
//!
//! Gather all caches, lock them in the order of device and inode, survey them in the order of the list, decide, act, tell. What is
//! wrong with one cache is told with its name and keeps only that one out. Which kinds there are is in [`crate::kinds`].

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rustix::fs::{Mode, OFlags, fstatvfs};
use serde::Serialize;

use super::list::{shows_human, table};
use super::prune::kept_ids;
use super::{Context, Selection, Settings, conclude, mount_of, stopped_by};
use crate::cache::cleanup::{
    self, ImageCache, Part, Pick, Removing, Rules, Space, Stock, Target, View, carry_out, device, enough,
    limits,
};
use crate::cache::dir::{available, capacity};
use crate::cache::entry::{Nanos, SECOND, escaped};
use crate::cache::execute::{EntryError, Outcome};
use crate::cache::index::{Refusal, Wait};
use crate::cache::lock::Held;
use crate::cli::{CacheArgs, ChangeArgs, CleanArgs, HostArgs, PrintArgs, PruneArgs};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::kinds::{Declared, Host, Task, find_all};
use crate::output::Report;
use crate::output::progress::Bar;
use crate::output::report::{count, human, span, when};

/// How long images stay that were just cached or used, unless the command line says otherwise.
const MIN_AGE: Nanos = 600 * SECOND;
/// Names listed one by one; more of a kind are only counted.
const NAMED: usize = 20;

/// An opened cache of the host, looked through.
struct Member<'a> {
    declared: Declared,
    cache: Box<dyn ImageCache + 'a>,
    identity: (u64, u64),
    /// Bytes.
    limit: u64,
    stock: Stock,
}

impl Member<'_> {
    fn view(&self) -> View<'_> {
        View { stock: &self.stock, age: self.declared.age.as_ref().map(|age| age.value) }
    }

    /// How an entry is named in messages.
    fn shown(&self, entry: &str) -> String {
        let directory = self.declared.directory.value.display().to_string();
        if entry.starts_with('/') {
            entry.to_owned()
        } else {
            format!("{}/{entry}", directory.trim_end_matches('/'))
        }
    }
}

/// The caches of a host, in the order of the list, and what is wrong with those that are not among them.
#[derive(Default)]
struct Gathered<'a> {
    members: Vec<Member<'a>>,
    errors: Vec<EntryError>,
    warnings: Vec<String>,
    /// Directories that are configured but not there.
    missing: Vec<Declared>,
}

fn host(
    context: &Context,
    cache: CacheArgs,
    args: HostArgs,
    task: Task,
    wait: Wait,
) -> Result<Host<'_>, Failure> {
    let selection = Selection::from(cache);
    Ok(Host {
        context,
        config: Settings::read(context, selection.sources.clone(), task == Task::Look)?,
        selection,
        ironic_sources: args.ironic.0,
        ironic: OnceCell::new(),
        task,
        wait,
        skip_if_locked: false,
        stall_time: None,
        invalid_grace: 0,
    })
}

/// Opens, locks and looks through all caches, or those on one device. What is to be changed stays locked.
fn gather<'a>(host: &'a Host<'a>, rules: &Rules, on: Option<u64>) -> Gathered<'a> {
    let (declared, errors) = find_all(host);
    let mut gathered = Gathered { errors, ..Gathered::default() };
    for declared in declared {
        gathered.open(host, declared, on);
    }
    gathered.warn_of_nested();
    if rules.changing {
        gathered.lock(host);
    }
    gathered.survey(rules);
    gathered
}

impl<'a> Gathered<'a> {
    fn fail(&mut self, declared: &Declared, action: &'static str, error: &anyhow::Error) {
        let name = format!("{} ({})", declared.name, declared.directory.value.display());
        let message = format!("{error:#} (directory set by {})", declared.directory.origin);
        self.errors.push(EntryError { name, action, message });
    }

    fn open(&mut self, host: &'a Host<'a>, declared: Declared, on: Option<u64>) {
        let opened = declared.kind.open(host, &declared).and_then(|cache| {
            let Some(cache) = cache else { return Ok(None) };
            let identity = cleanup::identity(cache.fd())?;
            let figures = fstatvfs(cache.fd()).context("cannot ask for the size of the file system")?;
            Ok(Some((declared.size.value.of(capacity(&figures)), identity, cache)))
        });
        match opened {
            Err(e) => self.fail(&declared, "open", &e),
            Ok(None) if declared.is_configured() => self.missing.push(declared),
            Ok(None) => {}
            Ok(Some((_, identity, _))) if on.is_some_and(|device| device != identity.0) => {}
            Ok(Some((limit, identity, cache))) => {
                match self.members.iter().find(|m| m.identity == identity) {
                    Some(other) => self.warnings.push(format!(
                        "{} and {} are the same directory, {}: it is taken once, as {}",
                        other.declared.name,
                        declared.name,
                        declared.directory.value.display(),
                        other.declared.name
                    )),
                    None => self.members.push(Member {
                        declared,
                        cache,
                        identity,
                        limit,
                        stock: Stock::default(),
                    }),
                }
            }
        }
    }

    fn warn_of_nested(&mut self) {
        for inner in &self.members {
            let parents = cleanup::parents(inner.cache.fd());
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

    /// Locks all in one order, so that two runs can never wait for each other.
    fn lock(&mut self, host: &Host<'_>) {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|position| self.members[*position].identity);
        let mut refused = Vec::new();
        for position in order {
            if let Err(e) = self.members[position].cache.lock(&host.wait) {
                refused.push((position, e));
            }
        }
        let skip = |error: &anyhow::Error| host.skip_if_locked && error.is::<Held>();
        let (skipped, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(|(_, error)| skip(error));
        let held: Vec<(u64, u64)> = skipped.iter().map(|(at, _)| self.members[*at].identity).collect();
        for (position, error) in &skipped {
            self.warnings
                .push(format!("{} is passed over: {error:#}", self.members[*position].declared.name));
        }
        self.leave_out("lock", refused);
        self.members.retain(|member| !held.contains(&member.identity));
    }

    fn survey(&mut self, rules: &Rules) {
        let mut refused = Vec::new();
        for (position, member) in self.members.iter_mut().enumerate() {
            match member.cache.survey(rules) {
                Ok(stock) => member.stock = stock,
                Err(e) => refused.push((position, e)),
            }
        }
        self.leave_out("look through", refused);
        for member in &mut self.members {
            let errors = std::mem::take(&mut member.stock.errors);
            let named =
                errors.into_iter().map(|error| EntryError { name: member.shown(&error.name), ..error });
            self.errors.extend(named);
        }
    }

    fn leave_out(&mut self, action: &'static str, mut refused: Vec<(usize, anyhow::Error)>) {
        refused.sort_by_key(|(position, _)| std::cmp::Reverse(*position));
        for (position, error) in refused {
            let member = self.members.remove(position);
            self.fail(&member.declared, action, &error);
        }
    }

    /// What should be known besides the result.
    fn tell(&mut self, context: &Context) {
        for declared in &self.missing {
            self.warnings.push(format!(
                "{}: directory {} (set by {}) does not exist",
                declared.name,
                declared.directory.value.display(),
                declared.directory.origin
            ));
        }
        for member in &self.members {
            for note in &member.stock.notes {
                self.warnings.push(format!("{}: {note}", member.declared.name));
            }
        }
        for warning in &self.warnings {
            context.output.warning(warning);
        }
    }
}

fn wait(context: &Context, change: &ChangeArgs) -> Wait {
    let limit = if change.skip_if_locked { std::time::Duration::ZERO } else { change.lock_timeout.as_std() };
    Wait { limit, interrupt: context.interrupt.clone() }
}

/// `prune --require` and `prune --all-caches`.
pub(crate) fn prune(context: &Context, args: PruneArgs) -> Result<Exit, Failure> {
    let PruneArgs {
        cache,
        change,
        limit,
        min_age,
        keep,
        keep_from,
        forget_all,
        stall_time,
        room,
        host: all,
        ..
    } = args;
    if limit.max_size.is_some() {
        return Err(Failure::usage(anyhow!(
            "--max-size is of one cache: every cache is held to its own limit here"
        )));
    }
    let rules = Rules {
        now: context.now,
        min_age: min_age.map_or(MIN_AGE, |age| age.0),
        grace: all.temp_grace.0,
        keep: kept_ids(&keep, &keep_from)?,
        changing: !change.dry_run,
        forget_all,
    };
    context.start()?;
    let mut host = host(context, cache, all, Task::Prune, wait(context, &change))?;
    host.stall_time = stall_time;
    host.skip_if_locked = change.skip_if_locked;
    match room.require {
        Some(amount) => {
            let path = match room.on {
                Some(path) => path,
                None => glance_directory(&host)?,
            };
            require(context, &host, &rules, amount, &path, room.best_effort)
        }
        None => Ok(hold_limits(context, &host, &rules)),
    }
}

/// Where `--require` looks when it is not told.
fn glance_directory(host: &Host<'_>) -> Result<PathBuf, Failure> {
    let configured = host.config.optional(&config::IMAGE_CACHE_DIR).map_err(Failure::usage)?;
    let given = host.selection.cache_dir.clone();
    given.or_else(|| configured.map(|setting| PathBuf::from(setting.value))).ok_or_else(|| {
        Failure::usage(anyhow!(
            "image_cache_dir is not set, so --require does not know which file system is meant"
        ))
        .hint("name a directory on it with --on PATH")
    })
}

fn require(
    context: &Context,
    host: &Host<'_>,
    rules: &Rules,
    amount: crate::cli::Amount,
    path: &Path,
    best_effort: bool,
) -> Result<Exit, Failure> {
    let cannot = |e: rustix::io::Errno| {
        Failure::usage(anyhow!("cannot tell the file system of {}: {e}", path.display()))
    };
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    let whole = capacity(&fstatvfs(&fd).map_err(cannot)?);
    let required = amount.of(whole);
    if required > whole {
        return Err(Failure::usage(anyhow!(
            "--require is {}, but the whole file system of {} has {}",
            human(required),
            path.display(),
            human(whole)
        )));
    }
    let on = device(path).map_err(cannot)?;
    let mut space = Space::new(std::os::fd::AsFd::as_fd(&fd), required).map_err(Failure::cannot_start)?;
    let before = space.base;
    let mut report = RoomReport {
        path: path.display().to_string(),
        required,
        available_before: before,
        available_after: before,
        dry_run: !rules.changing,
        ..RoomReport::default()
    };
    // Enough is there already: nobody is kept waiting for a lock.
    if before >= required {
        report.plan = report.dry_run.then(Vec::new);
        context.output.summary(&report);
        return Ok(Exit::Done);
    }
    let mut gathered = gather(host, rules, Some(on));
    gathered.tell(context);
    space.measure();
    let views: Vec<View<'_>> = gathered.members.iter().map(Member::view).collect();
    let order = cleanup::room(&views, rules.now);
    let reclaimable: u64 = views.iter().map(|view| view.stock.reclaimable()).sum();
    report.missing = space.missing().saturating_sub(reclaimable);
    report.reclaimable = reclaimable;
    let planned = enough(&order, &views, space.missing()).to_vec();
    drop(views);
    report.caches = gathered.members.iter().map(CacheLine::of).collect();
    report.warnings.clone_from(&gathered.warnings);
    report.errors.clone_from(&gathered.errors);
    let refused = report.missing > 0 && !best_effort;
    if refused || report.dry_run {
        report.refused = refused;
        if report.dry_run {
            let planned = if refused { &[][..] } else { &planned };
            let entries = planned.iter().map(|pick| told(&gathered.members, pick, rules.now));
            let entries: Vec<HostPlanEntry> = entries.collect();
            report.total_files_pruned = entries.len() as u64;
            report.total_bytes_pruned = entries.iter().map(|entry| entry.bytes).sum();
            report.plan = Some(entries);
        }
        let short = report.missing > 0;
        context.output.summary(&report);
        if short {
            context.output.error(&report.shortage());
        }
        return Ok(end(context, &Outcome::default(), &report.errors, short));
    }

    let bar = Bar::new(&context.output, "pruning", planned.len() as u64, Some(space.missing()));
    let new = || Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
    let mut runs: Vec<Removing<'_>> = gathered.members.iter().map(|_| new()).collect();
    let mut caches: Vec<&mut dyn ImageCache> =
        gathered.members.iter_mut().map(|member| &mut *member.cache as &mut dyn ImageCache).collect();
    carry_out(&mut caches, &order, &mut space, &mut runs);
    let outcomes: Vec<Outcome> = runs.into_iter().map(|run| run.outcome).collect();
    drop(bar);
    match space.figures() {
        Ok(fs) => report.available_after = available(&fs),
        Err(e) => {
            let message = format!("cannot ask for the free space: {e}");
            report.errors.push(EntryError { name: path.display().to_string(), action: "measure", message });
        }
    }
    report.missing = required.saturating_sub(report.available_after);
    let total = account(context, &gathered.members, outcomes, &mut report.caches, &mut report.errors);
    report.total_files_pruned = total.files;
    report.total_bytes_pruned = total.bytes;
    report.total_files_cleaned = total.invalid_files + total.stalled_files;
    report.total_bytes_cleaned = total.bytes_cleaned;
    report.left_alone = total.left_alone;
    report.signal = stopped_by(context, &total);
    context.output.summary(&report);
    let is_short = report.missing > 0;
    if is_short && report.signal.is_none() {
        context.output.error(&report.shortage());
    }
    Ok(end(context, &total, &report.errors, is_short))
}

/// One line of a plan.
fn told(members: &[Member<'_>], pick: &Pick, now: Nanos) -> HostPlanEntry {
    let member = &members[pick.cache];
    let item = member.stock.items[pick.item as usize];
    let unused = span(now.saturating_sub(item.last_use).max(0));
    let reason = match (pick.expired, &member.declared.age) {
        (true, Some(age)) => format!("expired: not used for {unused}, and {} are allowed", span(age.value)),
        _ => format!(
            "least recently used of priority {}: last use {}",
            member.declared.priority,
            when(item.last_use)
        ),
    };
    HostPlanEntry {
        cache: member.declared.name.clone(),
        image_id: member.cache.name(pick.item),
        action: "remove",
        reason,
        bytes: item.size,
    }
}

/// Tells the errors of a run, and how it ended. `is_short`: something that was asked for could not be had.
fn end(context: &Context, outcome: &Outcome, errors: &[EntryError], is_short: bool) -> Exit {
    match conclude(context, outcome, errors) {
        Exit::Done if is_short || context.output.has_failed() => Exit::Incomplete,
        exit => exit,
    }
}

/// Adds what was done up, for each cache and in all.
fn account(
    context: &Context,
    members: &[Member<'_>],
    outcomes: Vec<Outcome>,
    lines: &mut [CacheLine],
    errors: &mut Vec<EntryError>,
) -> Outcome {
    let mut total = Outcome::default();
    for ((member, outcome), line) in members.iter().zip(outcomes).zip(lines) {
        line.files_pruned = outcome.files;
        line.bytes_pruned = outcome.bytes;
        line.files_cleaned = outcome.invalid_files + outcome.stalled_files;
        line.bytes_cleaned = outcome.bytes_cleaned;
        line.ghosts_forgotten = outcome.ghosts_forgotten;
        line.size = line.size.saturating_sub(outcome.bytes + outcome.bytes_gone);
        total.files += outcome.files;
        total.bytes += outcome.bytes;
        total.left_alone += outcome.left_alone;
        total.invalid_files += outcome.invalid_files;
        total.stalled_files += outcome.stalled_files;
        total.bytes_cleaned += outcome.bytes_cleaned;
        let named = outcome.errors.into_iter();
        errors.extend(named.map(|error| EntryError { name: member.shown(&error.name), ..error }));
    }
    // It may have come while locks were waited for.
    if context.interrupt.raised() {
        total.stopped = Some(Refusal::Interrupted);
    }
    total
}

/// Holds every cache to its own age and size.
fn hold_limits(context: &Context, host: &Host<'_>, rules: &Rules) -> Exit {
    let mut gathered = gather(host, rules, None);
    gathered.tell(context);
    let mut report = HostReport {
        what: "prune",
        dry_run: !rules.changing,
        caches: gathered.members.iter().map(CacheLine::of).collect(),
        warnings: gathered.warnings.clone(),
        errors: gathered.errors.clone(),
        ..HostReport::default()
    };
    let mut outcomes = Vec::new();
    let mut plan = Vec::new();
    for (position, member) in gathered.members.iter_mut().enumerate() {
        let (expired, over) = limits(member.view(), member.limit, rules.now);
        let (expired, rest): (Vec<u32>, Vec<u32>) =
            (0..member.stock.items.len() as u32).partition(|item| (*item as usize) < expired);
        if report.dry_run {
            let mut over = over;
            let rest = rest.into_iter().take_while(|item| {
                let goes = over > 0;
                over = over.saturating_sub(member.stock.items[*item as usize].size);
                goes
            });
            let old = expired.iter().map(|item| (*item, true));
            plan.extend(old.chain(rest.map(|item| (item, false))).map(|(item, expired)| Pick {
                cache: position,
                item,
                expired,
            }));
            continue;
        }
        let bytes = over + expired.iter().map(|item| member.stock.items[*item as usize].size).sum::<u64>();
        let bar = Bar::new(&context.output, "pruning", bytes, Some(bytes));
        let mut run = Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
        // One run for each cache even when nothing is over: rows without a file are forgotten all the same.
        if !expired.is_empty() {
            member.cache.remove(&expired, &mut Target::All, "expired", &mut run);
        }
        let before = run.outcome.bytes + run.outcome.bytes_gone;
        // What of the expired ones stayed counts towards the size.
        let over = member.stock.size.saturating_sub(before).saturating_sub(member.limit);
        member.cache.remove(&rest, &mut Target::Size(over), "least recently used", &mut run);
        outcomes.push(run.outcome);
        if context.interrupt.raised() {
            break;
        }
    }
    let mut total = Outcome::default();
    if report.dry_run {
        let entries: Vec<HostPlanEntry> =
            plan.iter().map(|pick| told(&gathered.members, pick, rules.now)).collect();
        report.total_files_pruned = Some(entries.len() as u64);
        report.total_bytes_pruned = Some(entries.iter().map(|entry| entry.bytes).sum());
        for pick in &plan {
            let size = gathered.members[pick.cache].stock.items[pick.item as usize].size;
            let line = &mut report.caches[pick.cache];
            line.files_pruned += 1;
            line.bytes_pruned += size;
            line.size -= size;
        }
        report.plan = Some(entries);
    } else {
        total = account(context, &gathered.members, outcomes, &mut report.caches, &mut report.errors);
        report.total_files_pruned = Some(total.files);
        report.total_bytes_pruned = Some(total.bytes);
        report.left_alone = total.left_alone;
        report.signal = stopped_by(context, &total);
    }
    context.output.summary(&report);
    let over: Vec<&CacheLine> = report.caches.iter().filter(|line| line.size > line.limit).collect();
    for line in over.iter().filter(|_| report.signal.is_none()) {
        context.output.error(&format!(
            "{} ({}) is still over its limit: {} of {}; what is left is in use, too young, listed to be kept, or could not be \
             removed",
            line.name,
            line.directory,
            human(line.size),
            human(line.limit)
        ));
    }
    end(context, &total, &report.errors, !over.is_empty())
}

/// `clean --all-caches`.
pub(crate) fn clean(context: &Context, args: CleanArgs) -> Result<Exit, Failure> {
    let CleanArgs { cache, change, stall_time, invalid_grace, host: all, .. } = args;
    let rules = Rules {
        now: context.now,
        min_age: 0,
        grace: all.temp_grace.0,
        keep: std::collections::HashSet::default(),
        changing: !change.dry_run,
        forget_all: false,
    };
    context.start()?;
    let mut host = host(context, cache, all, Task::Clean, wait(context, &change))?;
    host.stall_time = stall_time;
    host.skip_if_locked = change.skip_if_locked;
    host.invalid_grace = invalid_grace.0;
    let mut gathered = gather(&host, &rules, None);
    gathered.tell(context);
    let mut report = HostReport {
        what: "clean",
        dry_run: change.dry_run,
        caches: gathered.members.iter().map(CacheLine::of).collect(),
        warnings: gathered.warnings.clone(),
        errors: gathered.errors.clone(),
        ..HostReport::default()
    };
    let mut total = Outcome::default();
    if change.dry_run {
        let mut plan = Vec::new();
        for (member, line) in gathered.members.iter().zip(&mut report.caches) {
            for told in member.cache.leftovers() {
                line.files_cleaned += told.files;
                line.bytes_cleaned += told.bytes;
                plan.push(HostPlanEntry {
                    cache: member.declared.name.clone(),
                    image_id: told.name,
                    action: "remove",
                    reason: told.reason,
                    bytes: told.bytes,
                });
            }
        }
        report.total_files_cleaned = Some(report.caches.iter().map(|line| line.files_cleaned).sum());
        report.total_bytes_cleaned = Some(plan.iter().map(|entry| entry.bytes).sum());
        report.plan = Some(plan);
    } else {
        let bar = Bar::new(&context.output, "cleaning", 0, None);
        let mut outcomes = Vec::new();
        for member in &mut gathered.members {
            let mut run = Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
            if !context.interrupt.raised() {
                member.cache.clean(&mut run);
            }
            outcomes.push(run.outcome);
        }
        drop(bar);
        total = account(context, &gathered.members, outcomes, &mut report.caches, &mut report.errors);
        report.total_files_cleaned = Some(total.invalid_files + total.stalled_files);
        report.total_bytes_cleaned = Some(total.bytes_cleaned);
        report.left_alone = total.left_alone;
        report.signal = stopped_by(context, &total);
    }
    context.output.summary(&report);
    Ok(end(context, &total, &report.errors, false))
}

/// Which of the commands that only look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    List,
    Status { check: bool },
}

/// `list --all-caches` and `status --all-caches`.
pub(crate) fn look(
    context: &Context,
    cache: CacheArgs,
    print: &PrintArgs,
    all: HostArgs,
    look: Look,
) -> Result<Exit, Failure> {
    let rules = Rules {
        now: context.now,
        min_age: MIN_AGE,
        grace: all.temp_grace.0,
        keep: std::collections::HashSet::default(),
        changing: false,
        forget_all: true,
    };
    let wait = Wait { limit: super::GLANCE_PATIENCE, interrupt: context.interrupt.clone() };
    let host = host(context, cache, all, Task::Look, wait)?;
    let mut gathered = gather(&host, &rules, None);
    gathered.tell(context);
    let report = LookReport {
        is_status: look != Look::List,
        files_read: if context.output.is_verbose() { Some(files_read(&host)) } else { None },
        caches: gathered.members.iter().map(CacheLine::of).collect(),
        file_systems: file_systems(&gathered.members),
        missing: gathered.missing.iter().map(Missing::of).collect(),
        warnings: gathered.warnings.clone(),
        errors: gathered.errors.clone(),
        human: shows_human(&context.output, print),
    };
    context.output.result(&report);
    let attention = report.caches.iter().any(|line| line.size > line.limit) || !report.warnings.is_empty();
    Ok(end(context, &Outcome::default(), &report.errors, look == Look::Status { check: true } && attention))
}

fn files_read(host: &Host<'_>) -> Vec<String> {
    let ironic = host.ironic().ok();
    let files = host.config.files_read().chain(ironic.into_iter().flat_map(config::Config::files_read));
    files.map(|path| path.display().to_string()).collect()
}

fn file_systems(members: &[Member<'_>]) -> Vec<FileSystem> {
    let mut found: Vec<FileSystem> = Vec::new();
    let mut seen = Vec::new();
    for member in members {
        if seen.contains(&member.identity.0) {
            continue;
        }
        seen.push(member.identity.0);
        let Ok(figures) = fstatvfs(member.cache.fd()) else { continue };
        let on_it = || members.iter().filter(|other| other.identity.0 == member.identity.0);
        found.push(FileSystem {
            mount_point: mount_point(&member.declared.directory.value),
            size: capacity(&figures),
            available: available(&figures),
            reclaimable: on_it().map(|other| other.stock.reclaimable()).sum(),
            caches: on_it().map(|other| other.declared.name.clone()).collect(),
        });
    }
    found
}

fn mount_point(path: &Path) -> String {
    mount_of(path).map_or_else(|| "unknown".to_owned(), |mount| escaped(mount.point.as_bytes()))
}

/// One cache in a report. Sizes are bytes.
#[derive(Debug, Serialize)]
struct CacheLine {
    name: String,
    kind: &'static str,
    priority: u32,
    directory: String,
    directory_set_by: String,
    /// The mount point.
    file_system: String,
    /// The sizes of all images.
    size: u64,
    limit: u64,
    limit_set_by: String,
    /// Seconds, or null when its images do not expire.
    age_limit: Option<i64>,
    /// With the bytes of disk they hold, as the following.
    in_use: Part,
    /// Images that may go now.
    reclaimable: Part,
    /// Images too young to go, or listed to be kept.
    kept: Part,
    leftovers: Part,
    foreign: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    ghosts_forgotten: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl CacheLine {
    fn of(member: &Member<'_>) -> Self {
        let Declared { name, kind, priority, directory, size, age } = &member.declared;
        let stock = &member.stock;
        CacheLine {
            name: name.clone(),
            kind: kind.name(),
            priority: *priority,
            directory: directory.value.display().to_string(),
            directory_set_by: directory.origin.to_string(),
            file_system: mount_point(&directory.value),
            size: stock.size,
            limit: member.limit,
            limit_set_by: size.origin.to_string(),
            age_limit: age.as_ref().map(|age| age.value / SECOND),
            in_use: stock.in_use,
            reclaimable: Part { count: stock.items.len() as u64, bytes: stock.reclaimable() },
            kept: stock.kept,
            leftovers: stock.leftovers,
            foreign: stock.foreign.clone(),
            files_pruned: 0,
            bytes_pruned: 0,
            files_cleaned: 0,
            bytes_cleaned: 0,
            ghosts_forgotten: 0,
        }
    }

    fn age(&self) -> String {
        self.age_limit.map_or_else(|| "-".to_owned(), |seconds| span(seconds.saturating_mul(SECOND)))
    }
}

/// One step of a plan, with the cache it is in.
#[derive(Debug, Serialize)]
struct HostPlanEntry {
    cache: String,
    /// The image's name, or for what is no image the entry's.
    image_id: String,
    action: &'static str,
    reason: String,
    bytes: u64,
}

fn plan_text(plan: Option<&Vec<HostPlanEntry>>) -> String {
    let mut text = String::new();
    for entry in plan.into_iter().flatten() {
        let HostPlanEntry { cache, image_id, action, reason, bytes } = entry;
        let _ = writeln!(text, "would {action} {cache} {image_id} ({}): {reason}", human(*bytes));
    }
    text
}

/// What `prune --require` did, or would do.
#[derive(Debug, Default, Serialize)]
struct RoomReport {
    total_files_pruned: u64,
    total_bytes_pruned: u64,
    path: String,
    required: u64,
    available_before: u64,
    available_after: u64,
    /// Bytes of disk that all images that may go would have freed.
    reclaimable: u64,
    /// Bytes that are missing even so.
    missing: u64,
    /// Whether nothing was removed because it could not have been enough.
    refused: bool,
    left_alone: u64,
    /// Invalid and stalled files that went first because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_bytes_cleaned: u64,
    caches: Vec<CacheLine>,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<HostPlanEntry>>,
    warnings: Vec<String>,
    errors: Vec<EntryError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'static str>,
}

impl RoomReport {
    fn shortage(&self) -> String {
        if self.total_files_pruned > 0 && !self.dry_run {
            return format!(
                "{} has {} free, not {}: {} are missing; no image is left that may be removed and would free space",
                self.path,
                human(self.available_after),
                human(self.required),
                human(self.missing)
            );
        }
        format!(
            "{} cannot have {} free: {} are free, the images that may go would free {}, {} are missing; nothing was removed",
            self.path,
            human(self.required),
            human(self.available_before),
            human(self.reclaimable),
            human(self.missing)
        )
    }

    /// Who holds what, a line for each cache.
    fn holders(&self) -> String {
        let mut text = String::new();
        for line in &self.caches {
            let _ = write!(
                text,
                "{} ({}): {} could free {}",
                line.name,
                line.directory,
                count(line.reclaimable.count, "image"),
                human(line.reclaimable.bytes)
            );
            for (part, what) in [
                (line.in_use, "in use"),
                (line.kept, "too young or to be kept"),
                (line.leftovers, "left by crashed downloads (clean --all-caches removes that)"),
            ] {
                if part.count > 0 {
                    let _ = write!(text, "; {} held by {} {what}", human(part.bytes), part.count);
                }
            }
            text.push('\n');
        }
        text
    }
}

impl Report for RoomReport {
    fn text(&self) -> String {
        let mut text = plan_text(self.plan.as_ref());
        if self.missing > 0 {
            text.push_str(&self.holders());
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let _ = write!(
            text,
            "prune: {verb} {}, {}; {} has {} free",
            count(self.total_files_pruned, "image"),
            human(self.total_bytes_pruned),
            self.path,
            human(self.available_after),
        );
        let _ = writeln!(text, ", {} required", human(self.required));
        text
    }
}

/// What `prune --all-caches` or `clean --all-caches` did, or would do.
#[derive(Debug, Default, Serialize)]
struct HostReport {
    #[serde(skip)]
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_files_pruned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes_pruned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_files_cleaned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes_cleaned: Option<u64>,
    left_alone: u64,
    caches: Vec<CacheLine>,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<HostPlanEntry>>,
    warnings: Vec<String>,
    errors: Vec<EntryError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'static str>,
}

impl Report for HostReport {
    fn text(&self) -> String {
        let mut text = plan_text(self.plan.as_ref());
        let verb = if self.dry_run { "would remove" } else { "removed" };
        for line in &self.caches {
            let (files, bytes) = match self.what {
                "prune" => (count(line.files_pruned, "image"), line.bytes_pruned),
                _ => (count(line.files_cleaned, "file"), line.bytes_cleaned),
            };
            let _ = write!(text, "{}: {}: {verb} {files}, {}", self.what, line.name, human(bytes));
            if self.what == "prune" {
                let _ = write!(text, "; it holds {} of {}", human(line.size), human(line.limit));
            }
            text.push('\n');
        }
        text
    }
}

/// A file system with caches on it.
#[derive(Debug, Serialize)]
struct FileSystem {
    mount_point: String,
    size: u64,
    available: u64,
    /// Bytes that images which may go would free.
    reclaimable: u64,
    caches: Vec<String>,
}

/// A cache that is configured but not there.
#[derive(Debug, Serialize)]
struct Missing {
    name: String,
    kind: &'static str,
    priority: u32,
    directory: String,
    directory_set_by: String,
}

impl Missing {
    fn of(declared: &Declared) -> Self {
        Missing {
            name: declared.name.clone(),
            kind: declared.kind.name(),
            priority: declared.priority,
            directory: declared.directory.value.display().to_string(),
            directory_set_by: declared.directory.origin.to_string(),
        }
    }
}

/// All caches of a host.
#[derive(Debug, Serialize)]
struct LookReport {
    #[serde(skip)]
    is_status: bool,
    caches: Vec<CacheLine>,
    file_systems: Vec<FileSystem>,
    missing: Vec<Missing>,
    warnings: Vec<String>,
    errors: Vec<EntryError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files_read: Option<Vec<String>>,
    #[serde(skip)]
    human: bool,
}

impl LookReport {
    fn size(&self, bytes: u64) -> String {
        if self.human { human(bytes) } else { bytes.to_string() }
    }

    fn part(&self, part: Part) -> String {
        format!("{}, {}", part.count, self.size(part.bytes))
    }
}

impl Report for LookReport {
    fn text(&self) -> String {
        let header = [
            "CACHE",
            "KIND",
            "PRIORITY",
            "DIRECTORY",
            "FILE SYSTEM",
            "SIZE",
            "LIMIT",
            "AGE LIMIT",
            "IN USE",
            "RECLAIMABLE",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.caches.iter().map(|line| {
            [
                line.name.clone(),
                line.kind.to_owned(),
                line.priority.to_string(),
                line.directory.clone(),
                line.file_system.clone(),
                self.size(line.size),
                self.size(line.limit),
                line.age(),
                self.part(line.in_use),
                self.part(line.reclaimable),
            ]
        }));
        let mut text = table(&rows);
        if !self.is_status {
            return text;
        }
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<17}{value}");
        };
        for fs in &self.file_systems {
            line(
                "file system",
                format!(
                    "{}: {} of {} free; {} could free {}",
                    fs.mount_point,
                    self.size(fs.available),
                    self.size(fs.size),
                    fs.caches.join(", "),
                    self.size(fs.reclaimable)
                ),
            );
        }
        for cache in &self.caches {
            let origins =
                format!("directory set by {}, limit by {}", cache.directory_set_by, cache.limit_set_by);
            line(&cache.name, origins);
            for (part, what) in [
                (cache.kept, "used too recently to go"),
                (cache.leftovers, "left by crashed downloads, or invalid"),
            ] {
                if part.count > 0 {
                    line("", format!("{} {what}", self.part(part)));
                }
            }
            if cache.size > cache.limit {
                line("attention", format!("{} is over its limit", cache.name));
            }
            for foreign in cache.foreign.iter().take(NAMED) {
                line("foreign", format!("{}/{foreign}", cache.directory.trim_end_matches('/')));
            }
            if cache.foreign.len() > NAMED {
                line("foreign", format!("... and {} more", cache.foreign.len() - NAMED));
            }
        }
        for missing in &self.missing {
            line(
                "not there",
                format!("{} ({}, set by {})", missing.name, missing.directory, missing.directory_set_by),
            );
        }
        for path in self.files_read.iter().flatten() {
            line("read", path.clone());
        }
        text
    }
}
