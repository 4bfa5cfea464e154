//! The rules of the Cache API: Glance's defaults, changed by what was written, checked as a whole.
//!
//! Only the rules that the Cache API asks for, and those that these refer to, can stop the start: a policy
//! file has many more, which are other people's. Mistakes in those are warnings. Pure: reads no files.

use std::collections::{BTreeMap, HashMap};

use super::condition::{Asked, AskedAnything, Judge, PolicyCheck, Target, Truth};
use super::defaults::{DEFAULTS, default_rule};
use super::parse::{DEPTH, parse, parse_list};
use crate::openstack::caller::{Caller, TokenScope};
use crate::spelling::is_close;

/// A rule that the Cache API asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheRule {
    List,
    /// Queueing an image.
    Image,
    Delete,
    Clean,
    Prune,
    Nodes,
}

impl CacheRule {
    pub(super) const ALL: [Self; 6] =
        [Self::List, Self::Image, Self::Delete, Self::Clean, Self::Prune, Self::Nodes];

    /// Returns the name by which policy files and Glance's messages know the rule.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::List => "cache_list",
            Self::Image => "cache_image",
            Self::Delete => "cache_delete",
            Self::Clean => "cache_clean",
            Self::Prune => "cache_prune",
            Self::Nodes => "list_cached_nodes",
        }
    }
}

/// A rule as a file has it.
#[derive(Clone, Debug)]
pub(super) struct WrittenRule {
    /// The file and the line.
    pub(super) place: String,
    pub(super) value: RuleValue,
}

#[derive(Clone, Debug)]
pub(super) enum RuleValue {
    Text(String),
    /// Each item is one check, or checks that must all be true.
    List(Vec<Vec<String>>),
    /// A value that is no rule, with the reason.
    Wrong(&'static str),
}

/// All rules that were written, by their names.
pub(super) type WrittenRules = BTreeMap<String, WrittenRule>;

/// The settings that change the meaning of rules.
#[derive(Clone, Debug)]
pub(super) struct Enforcement {
    /// False if the defaults of earlier releases also allow a request.
    pub(super) new_defaults: bool,
    /// True if only tokens with the scope of a project are accepted.
    pub(super) scope: bool,
    /// The rule that Glance takes in place of one that does not exist. Named in messages.
    pub(super) default_rule: String,
}

/// The rules of the Cache API, all of them understood.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Each rule stands behind those that it refers to.
    rules: Vec<(String, PolicyCheck)>,
    enforces_scope: bool,
}

impl Policy {
    /// Takes the rules apart and returns them with warnings about them.
    ///
    /// Fails with all problems if any rule that the Cache API uses is not understood.
    pub(super) fn new(
        written: &WrittenRules,
        enforcement: &Enforcement,
    ) -> Result<(Self, Vec<String>), Vec<String>> {
        let mut search = Search { written, enforcement, found: Vec::new(), problems: Vec::new() };
        for rule in CacheRule::ALL {
            search.add(rule.name(), &mut Vec::new());
        }
        if !search.problems.is_empty() {
            return Err(search.problems);
        }
        let policy = Self { rules: search.found, enforces_scope: enforcement.scope };
        let warnings = policy.warnings(written);
        Ok((policy, warnings))
    }

    /// True if the caller may do that.
    pub(crate) fn allows(&self, rule: CacheRule, caller: &Caller, target: &Target) -> bool {
        if self.enforces_scope && caller.scope() != TokenScope::Project {
            return false;
        }
        self.answer(rule.name(), &Asked { caller, target }) == Truth::Yes
    }

    /// True if the answer of a rule may depend on the image that a request is about.
    pub(crate) fn reads_target(&self, rule: CacheRule) -> bool {
        let end = self.rules.iter().position(|(name, _)| name == rule.name());
        // Each rule stands behind those that it refers to.
        let before = self.rules.iter().take(end.map_or(usize::MAX, |end| end + 1));
        before.into_iter().any(|(_, condition)| condition.reads_target())
    }

    /// Returns the answer of a rule.
    fn answer(&self, name: &str, judge: &impl Judge) -> Truth {
        let mut answers: HashMap<&str, Truth> = HashMap::with_capacity(self.rules.len());
        for (rule, condition) in &self.rules {
            let answer = condition.answer(judge, &answers);
            if rule == name {
                return answer;
            }
            answers.insert(rule, answer);
        }
        Truth::No
    }

    fn warnings(&self, written: &WrittenRules) -> Vec<String> {
        let mut warnings = Vec::new();
        for rule in CacheRule::ALL.map(CacheRule::name) {
            if self.answer(rule, &AskedAnything) == Truth::Yes {
                warnings.push(format!("{}: {rule} allows everybody who has a token", place(written, rule)));
            }
        }
        for (name, condition) in &self.rules {
            condition.each_credential(&mut |credential| {
                if !Caller::is_credential(credential) {
                    warnings.push(format!(
                        "{}: {name} compares {credential}, which is no credential: it is never equal",
                        place(written, name)
                    ));
                }
            });
        }
        let is_used = |name: &str| self.rules.iter().any(|(used, _)| used == name);
        for (name, rule) in written.iter().filter(|(name, _)| !is_used(name)) {
            warnings.extend(warning_about_unused(name, rule));
        }
        warnings
    }
}

/// Returns the place of a rule, as messages name it.
fn place(written: &WrittenRules, name: &str) -> String {
    written.get(name).map_or_else(|| "Glance's default".to_owned(), |rule| rule.place.clone())
}

/// Returns a warning if a rule that the Cache API does not use is wrong, or was probably meant to be used.
fn warning_about_unused(name: &str, rule: &WrittenRule) -> Option<String> {
    let place = &rule.place;
    let meant = CacheRule::ALL.map(CacheRule::name).into_iter().find(|known| is_close(name, known));
    if let Some(meant) = meant.filter(|_| default_rule(name).is_none()) {
        return Some(format!("{place}: there is no rule {name}; did you mean {meant}?"));
    }
    let reason = rule.value.condition().err()?;
    Some(format!("{place}: {name} is not understood: {reason}; the Cache API does not need it"))
}

impl RuleValue {
    fn condition(&self) -> Result<PolicyCheck, String> {
        match self {
            Self::Text(text) => parse(text),
            Self::List(items) => parse_list(items),
            Self::Wrong(reason) => Err((*reason).to_owned()),
        }
    }
}

/// The search for all rules that the Cache API needs.
struct Search<'a> {
    written: &'a WrittenRules,
    enforcement: &'a Enforcement,
    found: Vec<(String, PolicyCheck)>,
    problems: Vec<String>,
}

impl Search<'_> {
    /// Adds a rule behind those that it refers to. `path` has the rules that led here.
    fn add(&mut self, name: &str, path: &mut Vec<String>) {
        if self.found.iter().any(|(found, _)| found == name) {
            return;
        }
        let condition = match self.condition(name) {
            Ok(condition) => condition,
            Err(problem) => return self.note(problem),
        };
        path.push(name.to_owned());
        let mut referred = Vec::new();
        condition.each_rule(&mut |rule| referred.push(rule.to_owned()));
        for rule in referred {
            if let Err(reason) = self.check_reference(&rule, path) {
                self.note(format!("{}: {name} is not understood: {reason}", place(self.written, name)));
            } else {
                self.add(&rule, path);
            }
        }
        path.pop();
        self.found.push((name.to_owned(), condition));
    }

    fn note(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Returns the condition of a rule: the written one, else Glance's default.
    fn condition(&self, name: &str) -> Result<PolicyCheck, String> {
        if let Some(rule) = self.written.get(name) {
            let told = |reason| format!("{}: {name} is not understood: {reason}", rule.place);
            return rule.value.condition().map_err(told);
        }
        let rule = default_rule(name).ok_or_else(|| format!("there is no rule {name}"))?;
        let condition = parse(rule.check)?;
        match rule.older_check.filter(|_| !self.enforcement.new_defaults) {
            Some(older) => Ok(PolicyCheck::Or(vec![condition, parse(older)?])),
            None => Ok(condition),
        }
    }

    fn check_reference(&self, rule: &str, path: &[String]) -> Result<(), String> {
        if let Some(start) = path.iter().position(|name| name == rule) {
            return Err(format!("it leads back to itself: {} -> {rule}", path[start..].join(" -> ")));
        }
        if path.len() == DEPTH {
            return Err(format!("its rules refer to one another more than {DEPTH} deep"));
        }
        if self.written.contains_key(rule) || default_rule(rule).is_some() {
            return Ok(());
        }
        let mut known = self.written.keys().map(String::as_str).chain(DEFAULTS.iter().map(|rule| rule.name));
        Err(match known.find(|known| is_close(rule, known)) {
            Some(close) => format!("there is no rule {rule}; did you mean rule:{close}?"),
            None => format!(
                "there is no rule {rule} (Glance would let its rule {:?} decide)",
                self.enforcement.default_rule
            ),
        })
    }
}
