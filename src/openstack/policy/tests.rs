//! The rule language as a table of rows, the files and their changes, and both beside the real oslo.policy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::condition::{Pattern, PatternPiece, PolicyCheck, Target};
use super::defaults::DEFAULTS;
use super::files::{PolicyChange, PolicyFiles};
use super::parse::{DEPTH, parse};
use super::rules::CacheRule;
use crate::config::{Config, ConfigSearch, ConfigSource, GLANCE};
use crate::openstack::caller::Caller;

/// A directory with a configuration and policy files.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("glance-api.conf"), format!("[oslo_policy]\n{options}")).unwrap();
        Site { dir }
    }

    /// Returns one whose policy.yaml has this text.
    fn with_policy(text: &str) -> Self {
        let site = Self::new("");
        site.write("policy.yaml", text);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn load(&self) -> anyhow::Result<(PolicyFiles, Vec<String>)> {
        let config = Config::load(&ConfigSearch {
            project: &GLANCE,
            program: "glance-cache".to_owned(),
            sources: vec![ConfigSource::File(self.path("glance-api.conf"))],
            environment: BTreeMap::new(),
            root: self.path("root"),
            pass_over_unreadable: false,
        });
        PolicyFiles::load(&config.unwrap())
    }

    /// Returns the policy and its warnings, or the message, with the directory left out.
    fn told(&self) -> Result<(PolicyFiles, Vec<String>), String> {
        let without = |text: &str| text.replace(&format!("{}/", self.dir.path().display()), "");
        match self.load() {
            Ok((files, warnings)) => Ok((files, warnings.iter().map(|warning| without(warning)).collect())),
            Err(error) => Err(without(&format!("{error:#}"))),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.told().unwrap().1
    }

    fn error(&self) -> String {
        self.told().map(|_| ()).unwrap_err()
    }
}

/// The callers that every row is asked about: a name, and the credentials as oslo.context calls them.
fn callers() -> Vec<(&'static str, Value)> {
    let of = |roles: &[&str], project: &str| {
        json!({"user_id": format!("u-{}", roles[0].to_lowercase()), "user_domain_id": "default",
               "project_id": project, "project_domain_id": "default", "roles": roles})
    };
    let mut system = of(&["Admin"], "p1");
    system["system_scope"] = json!("all");
    let mut domain = of(&["admin"], "p1");
    domain["domain_id"] = json!("d1");
    let mut with_service = of(&["member"], "p2");
    for (key, value) in [
        ("service_user_id", json!("u-nova")),
        ("service_project_id", json!("p-service")),
        ("service_roles", json!(["service"])),
    ] {
        with_service[key] = value;
    }
    let mut elsewhere = of(&["Admin", "other"], "p2");
    elsewhere["is_admin_project"] = json!(false);
    vec![
        ("admin", of(&["Admin", "member", "reader"], "p1")),
        ("member", of(&["member", "reader"], "p1")),
        ("operator", of(&["Cache Operator", "cache-op"], "p1")),
        ("service", of(&["service"], "p-service")),
        ("nova", with_service),
        ("elsewhere", elsewhere),
        ("system", system),
        ("domain", domain),
        ("unscoped", json!({"user_id": "u-nobody"})),
    ]
}

fn caller(values: &Value) -> Caller {
    let text = |key: &str| values[key].as_str().map(str::to_owned);
    let list = |key: &str| -> Vec<String> {
        values[key].as_array().into_iter().flatten().map(|role| role.as_str().unwrap().to_owned()).collect()
    };
    let caller = Caller {
        user_id: text("user_id"),
        user_domain_id: text("user_domain_id"),
        system_scope: text("system_scope"),
        domain_id: text("domain_id"),
        project_id: text("project_id"),
        project_domain_id: text("project_domain_id"),
        is_admin_project: values["is_admin_project"] != false,
        service_user_id: text("service_user_id"),
        service_project_id: text("service_project_id"),
        service_roles: list("service_roles"),
        ..Caller::default()
    };
    caller.with_roles(&list("roles"))
}

/// An image as Glance has it.
fn image() -> Value {
    json!({"image_id": "1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10", "status": "active", "owner": "p1",
           "visibility": "public", "name": "Debian (12)", "min_disk": 0, "size": 7, "protected": true,
           "os_hidden": false, "checksum": null, "extra_properties": {"colour": "Red", "role": "member"}})
}

/// The same image as our policy sees it.
fn image_target() -> Target {
    let image = image();
    let attributes = image.as_object().unwrap().iter().filter(|(key, _)| *key != "extra_properties");
    let properties = image["extra_properties"].as_object().unwrap().iter();
    Target::image(attributes.chain(properties).map(|(key, value)| {
        let value = match value {
            Value::Null => None,
            Value::Bool(is_so) => Some(if *is_so { "True" } else { "False" }.to_owned()),
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        (key.clone(), value)
    }))
}

/// Our answers about a rule for all callers, or the message of a policy that is refused.
fn ours(site: &Site, rule: CacheRule) -> Result<Vec<bool>, String> {
    let (files, _) = site.told()?;
    let target = if rule == CacheRule::Image { image_target() } else { Target::cache() };
    Ok(callers().iter().map(|(_, values)| files.policy().allows(rule, &caller(values), &target)).collect())
}

/// Returns the names of those who are allowed, or `error: ` and the message.
fn shown(answers: &Result<Vec<bool>, String>) -> String {
    match answers {
        Err(message) => format!("error: {message}"),
        Ok(answers) if answers.iter().all(|is_allowed| !is_allowed) => "nobody".to_owned(),
        Ok(answers) => {
            let allowed = callers().into_iter().zip(answers).filter(|(_, is_allowed)| **is_allowed);
            let names: Vec<&str> = allowed.map(|((name, _), _)| name).collect();
            if names == IN_PROJECTS { "everybody".to_owned() } else { names.join(" ") }
        }
    }
}

/// The callers whose scope policies accept.
const IN_PROJECTS: &[&str] = &["admin", "member", "operator", "service", "nova", "elsewhere", "unscoped"];

/// Values of `cache_prune` as policy.yaml has them, and who is allowed, or a part of the message.
const VALUES: &[(&str, &str)] = &[
    // Everybody and nobody.
    ("\"\"", "everybody"),
    ("''", "everybody"),
    ("[]", "everybody"),
    ("\"@\"", "everybody"),
    ("\"!\"", "nobody"),
    ("[[]]", "nobody"),
    ("[\"\"]", "nobody"),
    ("[[], []]", "nobody"),
    ("null", "error: it has no value, which Glance takes for everybody"),
    ("~", "error: it has no value"),
    ("", "error: it has no value"),
    ("!", "error: it has no value"),
    ("! ''", "everybody"),
    ("\"  \"", "error: it has only blanks"),
    ("\"\\t\\n\"", "error: it has only blanks"),
    // Values that are no rules.
    ("0", "error: it is neither a text nor a list"),
    ("17", "error: it is neither a text nor a list"),
    ("1.5", "error: it is neither a text nor a list"),
    ("12:30", "error: it is neither a text nor a list"),
    ("true", "error: it is neither a text nor a list"),
    ("yes", "error: it is neither a text nor a list"),
    ("2026-11-29", "error: it is neither a text nor a list"),
    ("{role: admin}", "error: it is neither a text nor a list"),
    ("[7]", "error: an item of its list"),
    ("[null]", "error: an item of its list"),
    ("[[null]]", "error: an item of its list"),
    ("[[[\"role:admin\"]]]", "error: an item of its list"),
    ("[{a: b}]", "error: an item of its list"),
    // Roles.
    ("role:admin", "admin elsewhere"),
    ("\"role:admin\"", "admin elsewhere"),
    ("role:ADMIN", "admin elsewhere"),
    ("role:member", "admin member nova"),
    ("role:cache-op", "operator"),
    ("role:nobody", "nobody"),
    ("\"role:\"", "nobody"),
    ("\"role:%(x)s\"", "nobody"),
    ("\"not role:%(x)s\"", "everybody"),
    ("Role:admin", "nobody"),
    ("\"role:100%\"", "error: has a \"%\""),
    ("\"role:100%%\"", "nobody"),
    ("\"role:%(x)d\"", "error: has a \"%\""),
    ("\"role:%s\"", "error: has a \"%\""),
    ("\"role:%(x)\"", "error: has a \"%\""),
    ("\"role:%()s\"", "error: has a \"%\""),
    ("\"role:%(a(b)c)s\"", "error: has a \"%\""),
    ("\"role:%(x)10s\"", "error: has a \"%\""),
    ("\"role:a%\"", "error: has a \"%\""),
    // Other rules.
    ("rule:context_is_admin", "admin elsewhere"),
    ("rule:default", "everybody"),
    ("rule:metadef_default", "everybody"),
    ("rule:manage_image_cache", "admin elsewhere"),
    ("rule:service_api", "admin service elsewhere"),
    ("rule:get_images", "admin elsewhere"),
    ("rule:typo", "error: there is no rule typo (Glance would let its rule \"default\" decide)"),
    ("\"rule:\"", "error: there is no rule "),
    ("rule:cache_lisst", "error: did you mean rule:cache_list?"),
    ("rule:cache_prune", "error: it leads back to itself: cache_prune -> cache_prune"),
    ("\"rule:context_is_admin and not rule:typo\"", "error: there is no rule typo"),
    ("\"rule:%(x)s\"", "error: there is no rule %(x)s"),
    // Credentials.
    ("is_admin:True", "nobody"),
    ("\"not is_admin:True\"", "everybody"),
    ("is_admin_project:True", "admin member operator service nova unscoped"),
    ("is_admin_project:true", "nobody"),
    ("roles:admin", "admin elsewhere"),
    ("roles:Admin", "nobody"),
    ("service_roles:service", "nova"),
    ("service_user_id:u-nova", "nova"),
    ("service_project_id:p-service", "nova"),
    ("service_project_id:None", "admin member operator service elsewhere unscoped"),
    ("project_id:p1", "admin member operator"),
    ("\"project_id:%(project_id)s\"", "nobody"),
    ("user_id:u-member", "member nova"),
    ("user_domain_id:default", "admin member operator service nova elsewhere"),
    ("project_domain_id:None", "unscoped"),
    ("domain_id:None", "everybody"),
    ("system_scope:all", "nobody"),
    ("system_scope:None", "everybody"),
    ("system:all", "nobody"),
    ("\"not system:all\"", "everybody"),
    ("tenant:p1", "nobody"),
    ("user:u-member", "nobody"),
    ("target.role:admin", "nobody"),
    ("user_id.name:x", "error: but that credential has no parts"),
    ("roles.0:admin", "error: which is neither a credential nor a text in quotes"),
    ("roles.name:admin", "error: but that credential has no parts"),
    ("\"user-id:x\"", "error: which is neither a credential nor a text in quotes"),
    ("\":x\"", "error: which is neither a credential nor a text in quotes"),
    ("\"a.:x\"", "error: which is neither a credential nor a text in quotes"),
    ("\"if:x\"", "error: which is neither a credential nor a text in quotes"),
    ("\"if.x:x\"", "error: which is neither a credential nor a text in quotes"),
    ("\"r\u{f6}le:x\"", "error: which is neither a credential nor a text in quotes"),
    // Literals.
    ("\"True:True\"", "everybody"),
    ("\"True:true\"", "nobody"),
    ("\"None:None\"", "everybody"),
    ("\"'a':a\"", "everybody"),
    ("\"'a':b\"", "nobody"),
    ("\"'':\"", "everybody"),
    ("\"'public':%(visibility)s\"", "nobody"),
    ("\"7:7\"", "everybody"),
    ("'7:7'", "everybody"),
    ("\"-7:-7\"", "everybody"),
    ("\"07:07\"", "error: which is neither a credential nor a text in quotes"),
    ("\"1.0:1.0\"", "error: which is neither a credential nor a text in quotes"),
    ("\"0x10:16\"", "error: which is neither a credential nor a text in quotes"),
    ("\"[1]:[1]\"", "error: which is neither a credential nor a text in quotes"),
    ("\"b'a':a\"", "error: which is neither a credential nor a text in quotes"),
    ("\"'a:b':c\"", "error: which is neither a credential nor a text in quotes"),
    ("\"'a''b':ab\"", "error: which is neither a credential nor a text in quotes"),
    ("'\"a\":a'", "everybody"),
    ("\"'a':'a'\"", "error: begins and ends with a quote"),
    ("\"('a':'a')\"", "error: begins and ends with a quote"),
    // Words between checks.
    ("\"role:admin or role:service\"", "admin service elsewhere"),
    ("\"role:admin and role:other\"", "elsewhere"),
    ("\"role:admin AND NOT role:other\"", "admin"),
    ("\"not role:admin\"", "member operator service nova unscoped"),
    ("\"not not role:admin\"", "admin elsewhere"),
    ("\"not (role:admin)\"", "member operator service nova unscoped"),
    ("\"not (role:admin or role:member)\"", "operator service unscoped"),
    ("\"not role:admin or role:other\"", "member operator service nova elsewhere unscoped"),
    ("\"not role:admin and role:member\"", "member nova"),
    ("\"role:other or role:admin and role:member\"", "admin elsewhere"),
    ("\"(role:other or role:admin) and role:member\"", "admin"),
    ("\"role:admin and role:member or role:service and project_id:p-service\"", "admin service"),
    ("\"role:admin and role:member or role:other and role:admin and project_id:p2\"", "admin elsewhere"),
    ("\"((role:admin))\"", "admin elsewhere"),
    ("\"( role:admin )\"", "admin elsewhere"),
    ("\"(role:admin and (role:other or role:member))\"", "admin elsewhere"),
    ("\"role:admin\\tor\\nrole:service\"", "admin service elsewhere"),
    ("\"role:admin\u{a0}or\u{2003}role:service\"", "admin service elsewhere"),
    ("\"! or role:admin\"", "admin elsewhere"),
    ("\"@ and role:admin\"", "admin elsewhere"),
    ("\"not @\"", "nobody"),
    ("\"not !\"", "everybody"),
    ("\"role:a)b\"", "nobody"),
    ("\"role:admin(\"", "nobody"),
    // Mistakes.
    ("admin", "error: \"admin\" is not a check"),
    ("\"not admin\"", "error: \"admin\" is not a check"),
    ("\"role: admin\"", "error: \"admin\" is not a check"),
    ("\"role:admin role:member\"", "error: there is no \"and\" or \"or\" before \"role:member\""),
    ("\"role:admin or\"", "error: a check is missing at its end"),
    ("\"or role:admin\"", "error: there is no check before \"or\""),
    ("\"role:admin and or role:member\"", "error: there is no check before \"or\""),
    ("\"not\"", "error: a check is missing at its end"),
    ("\"(role:admin\"", "error: it opens a parenthesis that it does not close"),
    ("\"role:admin)\"", "error: it closes a parenthesis that is not open"),
    ("\"()\"", "error: there is no check before \")\""),
    ("\"(role:admin role:member)\"", "error: there is no \"and\" or \"or\" before \"role:member\""),
    ("\")(\"", "error: \")(\" is not a check"),
    ("\"'role:admin'\"", "error: begins and ends with a quote"),
    ("\"role:admin, role:member\"", "error: there is no \"and\" or \"or\" before \"role:member\""),
    ("\"role:admin || role:member\"", "error: \"||\" is not a check"),
    ("http://127.0.0.1:1/policy", "error: it asks a remote server"),
    ("\"role:admin or https://127.0.0.1:1/\"", "error: it asks a remote server"),
    // Lists.
    ("[\"role:admin\"]", "admin elsewhere"),
    ("[[\"role:admin\"]]", "admin elsewhere"),
    ("[\"role:admin\", \"role:service\"]", "admin service elsewhere"),
    ("[[\"role:admin\", \"role:other\"], [\"role:service\"]]", "service elsewhere"),
    ("[\"role:service\", [\"role:admin\", \"role:member\"]]", "admin service"),
    ("[[], \"role:admin\"]", "admin elsewhere"),
    ("[\"role:cache operator\"]", "operator"),
    ("[\"@\"]", "everybody"),
    ("[\"!\"]", "nobody"),
    ("[\"admin\"]", "error: \"admin\" is not a check"),
    ("[[\"role:admin\", \"\"]]", "error: \"\" is not a check"),
    ("[\"role:admin or role:member\"]", "error: is an item of a list"),
    ("[\"not role:admin\"]", "error: is an item of a list"),
    ("[\"(role:admin)\"]", "error: which is neither a credential nor a text in quotes"),
    ("\n- role:admin\n- - role:service\n  - project_id:p-service", "admin service elsewhere"),
];

/// Whole policy files, the rule that is asked for, and who is allowed, or a part of the message.
const FILES: &[(&str, CacheRule, &str)] = &[
    ("", CacheRule::Prune, "admin elsewhere"),
    ("# nothing\n", CacheRule::Clean, "admin elsewhere"),
    ("{}", CacheRule::List, "admin elsewhere"),
    ("other: role:member", CacheRule::Image, "admin elsewhere"),
    ("cache_list: role:member", CacheRule::List, "admin member nova"),
    ("cache_list: role:member", CacheRule::Prune, "admin elsewhere"),
    ("cache_clean: role:member", CacheRule::Clean, "admin member nova"),
    ("cache_delete: role:member", CacheRule::Delete, "admin member nova"),
    ("list_cached_nodes: role:member", CacheRule::Nodes, "admin member nova"),
    ("context_is_admin: role:cache-op", CacheRule::Prune, "operator"),
    ("default: role:service\ncache_prune: rule:default", CacheRule::Prune, "service"),
    ("default: role:service", CacheRule::Prune, "admin elsewhere"),
    ("manage_image_cache: role:member", CacheRule::List, "admin elsewhere"),
    ("cache_prune: role:member\ncache_prune: role:service", CacheRule::Prune, "service"),
    (
        "op: role:cache-op\ncache_prune: rule:op or rule:context_is_admin",
        CacheRule::Prune,
        "admin operator elsewhere",
    ),
    (
        "cache_prune: not rule:a\na: rule:b\nb: role:admin",
        CacheRule::Prune,
        "member operator service nova unscoped",
    ),
    (
        "cache_prune: rule:a\na: rule:b\nb: rule:a",
        CacheRule::Prune,
        "error: leads back to itself: a -> b -> a",
    ),
    ("a: rule:a", CacheRule::Prune, "admin elsewhere"),
    ("modify_image: http://127.0.0.1:1/", CacheRule::Prune, "admin elsewhere"),
    (
        "{\"cache_prune\": \"role:member\",\n \"cache_list\": [[\"role:admin\"]]\n}\n",
        CacheRule::Prune,
        "admin member nova",
    ),
    ("- cache_prune: role:member", CacheRule::Prune, "error: not a list"),
    ("cache_prune", CacheRule::Prune, "error: not a text"),
    ("cache_prune: role:admin\n---\ncache_prune: role:member", CacheRule::Prune, "error: second document"),
    ("cache_prune: [\"role:admin\"", CacheRule::Prune, "error: not YAML"),
    ("cache_prune: @", CacheRule::Prune, "error: not YAML"),
    ("a: &x role:admin\ncache_prune: *x", CacheRule::Prune, "error: aliases are not supported"),
    ("cache_prune: !!python/name:os.system x", CacheRule::Prune, "error: tags are not supported"),
    ("<<: {cache_prune: role:member}", CacheRule::Prune, "error: merge keys are not supported"),
    // An image is the target.
    ("cache_image: \"project_id:%(project_id)s\"", CacheRule::Image, "admin member operator"),
    ("cache_image: \"project_id:%(owner)s\"", CacheRule::Image, "admin member operator"),
    ("cache_image: \"'public':%(visibility)s and role:reader\"", CacheRule::Image, "admin member"),
    ("cache_image: \"'active':%(status)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"not 'active':%(status)s\"", CacheRule::Image, "nobody"),
    ("cache_image: \"'Red':%(colour)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"'red':%(colour)s\"", CacheRule::Image, "nobody"),
    ("cache_image: \"role:%(role)s\"", CacheRule::Image, "admin member nova"),
    ("cache_image: \"'x':%(nothing)s\"", CacheRule::Image, "nobody"),
    ("cache_image: \"not 'x':%(nothing)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"True:%(protected)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"False:%(os_hidden)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"None:%(checksum)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"7:%(size)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"'1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10':%(id)s\"", CacheRule::Image, "everybody"),
    ("cache_image: \"'a7b':a%(size)sb\"", CacheRule::Image, "everybody"),
    ("cache_image: \"'7%':%(size)s%%\"", CacheRule::Image, "everybody"),
    ("cache_image: \"not 'x':%(%(colour)s)s\"", CacheRule::Image, "error: has a \"%\""),
    ("cache_image: rule:get_image", CacheRule::Image, "admin member elsewhere"),
    ("cache_prune: rule:get_image", CacheRule::Prune, "admin elsewhere"),
];

/// Ours are the stricter answers: an attribute that we do not know decides nothing.
const UNKNOWN: &[(&str, &str)] = &[
    ("cache_image: \"'x':%(created_at)s\"", "nobody"),
    ("cache_image: \"not 'x':%(created_at)s\"", "nobody"),
    ("cache_image: \"role:admin or not 'x':%(tags)s\"", "admin elsewhere"),
    ("cache_image: \"not (role:admin and 'x':%(tags)s)\"", "member operator service nova unscoped"),
    ("cache_image: \"not 'x':%(__class__)s\"", "nobody"),
    ("cache_image: \"not 'x':%(member_id)s\"", "nobody"),
];

/// Options in `[oslo_policy]`, a policy file, the rule that is asked for, and who is allowed.
const OPTIONS: &[(&str, &str, CacheRule, &str)] = &[
    ("enforce_new_defaults = false", "", CacheRule::List, "admin elsewhere"),
    (
        "enforce_new_defaults = false",
        "manage_image_cache: role:member",
        CacheRule::List,
        "admin member nova elsewhere",
    ),
    ("enforce_new_defaults = false", "manage_image_cache: role:member", CacheRule::Prune, "admin elsewhere"),
    (
        "enforce_new_defaults = false",
        "manage_image_cache: role:member\ncache_list: role:service",
        CacheRule::List,
        "service",
    ),
    (
        "enforce_new_defaults = false",
        "default: role:service\ncache_prune: rule:get_images",
        CacheRule::Prune,
        "admin service elsewhere",
    ),
    ("enforce_new_defaults = true", "manage_image_cache: role:member", CacheRule::List, "admin elsewhere"),
    (
        "policy_default_rule = context_is_admin",
        "cache_prune: rule:typo",
        CacheRule::Prune,
        "error: \"context_is_admin\" decide",
    ),
    ("policy_file = missing.yaml", "cache_prune: role:member", CacheRule::Prune, "admin elsewhere"),
];

/// Rows of which the real one allows more, or fails while ours does not start. Each value is in the tables.
fn check(text: &str, row: &str, expected: &str, answers: &Result<Vec<bool>, String>) -> Vec<String> {
    let shown = shown(answers);
    let is_same = match expected.strip_prefix("error: ") {
        Some(part) => shown.starts_with("error: ") && shown.contains(part),
        None => shown == expected,
    };
    if is_same { Vec::new() } else { vec![format!("{row} {text:?}: {shown}, expected {expected}")] }
}

/// All rows of the tables: the site, the rule, and who is expected.
fn rows() -> Vec<(Site, CacheRule, &'static str)> {
    let mut rows = Vec::new();
    for (value, expected) in VALUES {
        rows.push((Site::with_policy(&format!("cache_prune: {value}\n")), CacheRule::Prune, *expected));
    }
    for (text, rule, expected) in FILES {
        rows.push((Site::with_policy(text), *rule, *expected));
    }
    for (options, text, rule, expected) in OPTIONS {
        let site = Site::new(options);
        site.write("policy.yaml", text);
        rows.push((site, *rule, *expected));
    }
    rows
}

#[test]
fn answers_as_the_tables_say() {
    let mut wrong = Vec::new();
    let rows = rows();
    for (site, rule, expected) in &rows {
        let text = fs::read_to_string(site.path("policy.yaml")).unwrap();
        wrong.extend(check(&text, rule.name(), expected, &ours(site, *rule)));
    }
    for (text, expected) in UNKNOWN {
        let site = Site::with_policy(text);
        wrong.extend(check(text, "cache_image", expected, &ours(&site, CacheRule::Image)));
    }
    println!("{} rows", rows.len() + UNKNOWN.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn scope_counts_unless_it_is_switched_off() {
    let site = Site::new("enforce_scope = false");
    assert_eq!(shown(&ours(&site, CacheRule::Prune)), "admin elsewhere system domain");
}

#[test]
fn warns_of_rules_that_surprise() {
    for (text, expected) in [
        ("cache_prune: ''", "policy.yaml:1: cache_prune allows everybody who has a token"),
        ("cache_prune: []", "policy.yaml:1: cache_prune allows everybody who has a token"),
        ("a: b:c\ncache_prune: rule:default", "policy.yaml:2: cache_prune allows everybody who has a token"),
        ("context_is_admin: '@'", "Glance's default: cache_list allows everybody who has a token"),
        ("cache_prune: not is_admin:True", "policy.yaml:1: cache_prune allows everybody who has a token"),
        (
            "cache_prune: is_admin:True",
            "policy.yaml:1: cache_prune compares is_admin, which is no credential: it is never equal",
        ),
        ("cache_prun: role:member", "policy.yaml:1: there is no rule cache_prun; did you mean cache_prune?"),
        (
            "cache_prune: role:a\n\ncache_prune: role:b",
            "policy.yaml:3: cache_prune is there twice; policy.yaml:1 does not count",
        ),
        (
            "add_image: admin",
            "policy.yaml:1: add_image is not understood: \"admin\" is not a check; one is, for example, \
             \"role:admin\"; the Cache API does not need it",
        ),
    ] {
        let warnings = Site::with_policy(text).warnings();
        let warnings: Vec<String> = warnings
            .iter()
            .map(|warning| {
                let dir = warning.find("/policy.yaml").map_or(0, |_| 0);
                warning[dir..].to_owned()
            })
            .collect();
        assert!(warnings.iter().any(|warning| warning == expected), "{text:?}: {warnings:?}");
    }
    for text in ["", "cache_prune: role:member", "cache_prune: 'not role:%(x)s'", "get_image: role:reader"] {
        assert_eq!(Site::with_policy(text).warnings(), [""; 0], "{text:?}");
    }
    let site = Site::new("policy_file = other.yaml");
    let expected = "glance-api.conf:2: there is no policy file other.yaml, so Glance's defaults apply";
    assert_eq!(site.warnings(), [expected]);
}

#[test]
fn names_every_mistake_with_its_place() {
    let site = Site::with_policy("cache_list: rule:helper\nhelper: admin\n\ncache_prune: rule:typo\n");
    assert_eq!(
        site.error(),
        "policy.yaml:2: helper is not understood: \"admin\" is not a check; one is, for example, \
         \"role:admin\"\npolicy.yaml:4: cache_prune is not understood: there is no rule typo (Glance \
         would let its rule \"default\" decide)"
    );
}

#[test]
fn later_files_win_and_hidden_ones_do_not_count() {
    let site = Site::with_policy("cache_prune: role:admin\ncache_clean: role:admin");
    site.write("policy.d/20.yaml", "cache_prune: role:service");
    site.write("policy.d/10.yaml", "cache_prune: role:member\ncache_clean: role:member");
    site.write("policy.d/.30.yaml", "cache_prune: '@'");
    site.write("policy.d/40/50.yaml", "cache_prune: '@'");
    assert_eq!(shown(&ours(&site, CacheRule::Prune)), "service");
    assert_eq!(shown(&ours(&site, CacheRule::Clean)), "admin member nova");
    let (files, _) = site.load().unwrap();
    let names: Vec<_> = files.files().map(|path| path.strip_prefix(site.dir.path()).unwrap()).collect();
    assert_eq!(names, ["policy.yaml", "policy.d/10.yaml", "policy.d/20.yaml"].map(std::path::Path::new));
}

#[test]
fn files_are_where_the_settings_say() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("rules.json"), r#"{"cache_prune": "role:member"}"#).unwrap();
    let site = Site::new(&format!(
        "policy_file = {0}/rules.json\npolicy_dirs = one\npolicy_dirs = missing\npolicy_dirs = two\n",
        elsewhere.path().display()
    ));
    site.write("policy.yaml", "cache_prune: '@'");
    site.write("policy.d/a", "cache_prune: '@'");
    assert_eq!(shown(&ours(&site, CacheRule::Prune)), "admin member nova");
    site.write("two/a", "cache_prune: role:service");
    site.write("one/z", "cache_prune: role:cache-op");
    assert_eq!(shown(&ours(&site, CacheRule::Prune)), "service");
    site.write("three", "");
    fs::write(site.path("glance-api.conf"), "[oslo_policy]\npolicy_dirs = three").unwrap();
    assert!(
        site.error().starts_with("glance-api.conf:2: cannot read the policy directory three: "),
        "{}",
        site.error()
    );
}

#[test]
fn files_that_cannot_be_read_stop_the_start() {
    let site = Site::with_policy(&"# 64 KiB of comments\n".repeat(4000));
    assert!(site.error().ends_with("policy.yaml: it is longer than 64 KiB"), "{}", site.error());
    fs::write(site.path("policy.yaml"), b"cache_prune: role:\xff").unwrap();
    assert!(site.error().ends_with("policy.yaml: it is not UTF-8"), "{}", site.error());
    fs::remove_file(site.path("policy.yaml")).unwrap();
    fs::create_dir(site.path("policy.yaml")).unwrap();
    assert!(site.error().ends_with("policy.yaml: it is not a regular file"), "{}", site.error());
    fs::create_dir(site.path("policy.d")).unwrap();
    fs::remove_dir(site.path("policy.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", site.path("policy.d/link")).unwrap();
    assert!(site.error().contains("policy.d/link: No such file"), "{}", site.error());
}

/// Returns the outcome of a refresh in a word, and who may prune.
fn refreshed(files: &mut PolicyFiles) -> (String, String) {
    let change = match files.refresh() {
        PolicyChange::None => "none".to_owned(),
        PolicyChange::Applied(warnings) => format!("applied {}", warnings.len()),
        PolicyChange::Refused(error) => {
            let text = format!("{error:#}");
            format!("refused {}", text.rsplit_once('/').map_or(text.as_str(), |(_, end)| end))
        }
    };
    let answers = callers();
    let answers = answers
        .iter()
        .map(|(_, values)| files.policy().allows(CacheRule::Prune, &caller(values), &Target::cache()));
    (change, shown(&Ok(answers.collect())))
}

#[test]
fn changes_are_taken_and_mistakes_are_not() {
    let site = Site::with_policy("cache_prune: role:member\n");
    let (mut files, _) = site.load().unwrap();
    let mut expect = |change: &str, who: &str, is_outdated: bool| {
        assert_eq!(refreshed(&mut files), (change.to_owned(), who.to_owned()));
        assert_eq!(files.is_outdated(), is_outdated);
        assert_eq!(refreshed(&mut files), ("none".to_owned(), who.to_owned()), "a change is told once");
        assert_eq!(files.is_outdated(), is_outdated);
    };
    expect("none", "admin member nova", false);
    site.write("policy.yaml", "cache_prune: role:service\n");
    expect("applied 0", "service", false);
    site.write("policy.yaml", "cache_prune: typo\n");
    expect(
        "refused policy.yaml:1: cache_prune is not understood: \"typo\" is not a check; one is, for example, \
         \"role:admin\"",
        "service",
        true,
    );
    site.write("policy.yaml", "cache_prune: ''\n");
    expect("applied 1", "everybody", false);
    // A rule that is not there any more is back at its default.
    site.write("policy.yaml", "cache_clean: role:member\n");
    expect("applied 0", "admin elsewhere", false);
    site.write("policy.d/a.yaml", "cache_prune: role:cache-op\n");
    expect("applied 0", "operator", false);
    fs::remove_file(site.path("policy.yaml")).unwrap();
    expect("refused policy.yaml is not there any more", "operator", true);
    site.write("policy.d/a.yaml", "cache_prune: role:nobody\n");
    expect("refused policy.yaml is not there any more", "operator", true);
    site.write("policy.yaml", "- a list\n");
    expect("refused policy.yaml: a policy is a mapping of names to rules, not a list", "operator", true);
    site.write("policy.yaml", "");
    expect("applied 0", "nobody", false);
    fs::remove_dir_all(site.path("policy.d")).unwrap();
    expect("applied 0", "admin elsewhere", false);
    site.write("policy.d", "a file");
    expect("refused policy.d: Not a directory (os error 20)", "admin elsewhere", true);
    fs::remove_file(site.path("policy.d")).unwrap();
    expect("applied 0", "admin elsewhere", false);
}

#[test]
fn a_policy_that_appears_is_taken() {
    let site = Site::new("");
    let (mut files, _) = site.load().unwrap();
    assert_eq!(refreshed(&mut files), ("none".to_owned(), "admin elsewhere".to_owned()));
    site.write("policy.yaml", "cache_prune: role:member");
    assert_eq!(refreshed(&mut files), ("applied 0".to_owned(), "admin member nova".to_owned()));
}

#[test]
fn nesting_and_references_have_bounds() {
    let deep = |n: usize| format!("{}role:admin{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&deep(DEPTH - 1)).is_ok());
    assert_eq!(parse(&deep(DEPTH)), Err(format!("it is nested more than {DEPTH} deep")));
    assert!(parse(&deep(30_000)).is_err());
    assert!(parse(&format!("{}role:admin", "not ".repeat(15_000))).is_err());
    let chain = |n: usize| {
        let rules: Vec<String> = (0..n).map(|i| format!("r{i}: rule:r{}\n", i + 1)).collect();
        let rules = rules.concat();
        Site::with_policy(&format!("cache_prune: rule:r0\n{rules}r{n}: role:member\n"))
    };
    assert_eq!(shown(&ours(&chain(40), CacheRule::Prune)), "admin member nova");
    assert!(chain(100).error().contains("refer to one another more than 64 deep"));
    // Each rule asks the next one four times; every answer is computed once.
    let rules = (0..60).map(|i| format!("r{i}: {0} or {0} and {0} or {0}\n", format!("rule:r{}", i + 1)));
    let site =
        Site::with_policy(&format!("cache_prune: rule:r0\n{}r60: role:member\n", rules.collect::<String>()));
    assert_eq!(shown(&ours(&site, CacheRule::Prune)), "admin member nova");
}

/// Generates a condition that a text can have.
fn any_condition() -> impl Strategy<Value = PolicyCheck> {
    let text = "[a-zA-Z0-9_.:%@!'-]{1,6}";
    let piece =
        prop_oneof![text.prop_map(PatternPiece::Text), "[a-z_.]{1,6}".prop_map(PatternPiece::Attribute),];
    // Two texts in a row are one.
    let pattern = prop::collection::vec(piece, 0..4).prop_map(|mut pieces| {
        pieces.dedup_by(|a, b| matches!((a, b), (PatternPiece::Text(_), PatternPiece::Text(_))));
        Pattern(pieces)
    });
    let literal = prop_oneof![
        Just(("True".to_owned(), "True".to_owned())),
        Just(("-7".to_owned(), "-7".to_owned())),
        "[a-z/-]{0,5}".prop_map(|text| (format!("'{text}'"), text)),
    ];
    let leaf = prop_oneof![
        Just(PolicyCheck::Everybody),
        Just(PolicyCheck::Nobody),
        "[a-z_:]{0,6}".prop_map(PolicyCheck::Rule),
        pattern.clone().prop_map(PolicyCheck::Role),
        (literal, pattern.clone())
            .prop_filter("a text in quotes", |((source, _), pattern)| {
                !(source.starts_with('\'') && pattern.to_string().ends_with('\''))
            })
            .prop_map(|((source, value), pattern)| PolicyCheck::Literal { source, value, pattern }),
        ("(user_id|roles|is_admin|target\\.[a-z]{1,3}x)", pattern)
            .prop_map(|(name, pattern)| PolicyCheck::Credential { name, pattern }),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| PolicyCheck::Not(Box::new(inner))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(PolicyCheck::And),
            prop::collection::vec(inner, 2..4).prop_map(PolicyCheck::Or),
        ]
    })
}

/// Checks that have different answers for the callers and the image.
const CHECKS: &[&str] = &[
    "role:admin",
    "role:member",
    "Role:admin",
    "role:OTHER",
    "rule:default",
    "rule:context_is_admin",
    "rule:service_api",
    "rule:get_image",
    "is_admin:True",
    "roles:reader",
    "project_id:p1",
    "project_id:%(project_id)s",
    "'public':%(visibility)s",
    "True:%(protected)s",
    "role:%(role)s",
    "@",
    "!",
    "None:None",
    "system:all",
    "service_roles:service",
    "'Red':%(colour)s",
    "user_id:u-member",
    "'x':%(nope)s",
    "7:%(size)s",
    "None:%(checksum)s",
    "domain_id:None",
    "is_admin_project:False",
];

const MISTAKES: &[&str] = &["rule:typo", "not", "role:100%", "a", "'a':'a'"];
const WORDS: &[&str] = &[" and ", " or ", " not ", " AND ", " OR not ", "not "];
const SIGNS: &[&str] = &["(", ")", " (", ") ", "((", "))", " ", "%", ":", "'", "\""];

/// Generates well-formed texts.
fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(CHECKS).prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not {inner}")),
            inner.clone().prop_map(|inner| format!("not ({inner})")),
            inner.prop_map(|inner| format!("( {inner})")),
            two.clone().prop_map(|(a, b)| format!("{a} and {b}")),
            two.clone().prop_map(|(a, b)| format!("{a} OR {b}")),
            two.prop_map(|(a, b)| format!("({a} or {b}) and not {a}")),
        ]
    })
}

/// Generates texts from parts that have a meaning in rules.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(CHECKS).prop_map(str::to_owned),
        1 => prop::sample::select(MISTAKES).prop_map(str::to_owned),
        4 => prop::sample::select(WORDS).prop_map(str::to_owned),
        2 => prop::sample::select(SIGNS).prop_map(str::to_owned),
        1 => "[a-z()%:'@! ]{1,4}",
    ];
    prop::collection::vec(part, 1..9).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn every_condition_is_read_back(condition in any_condition()) {
        prop_assert_eq!(parse(&condition.to_string()), Ok(condition));
    }

    #[test]
    fn no_text_panics(text in prop_oneof![any_text(), any::<String>(), "[()%:'\"@!a ]{0,40}"]) {
        if let Ok(condition) = parse(&text) && !text.is_empty() {
            prop_assert_eq!(parse(&condition.to_string()), Ok(condition));
        }
    }
}

/// The real oslo.policy, in the Python named by `GLANCE_CACHE_TEST_PYTHON`.
struct Peer {
    python: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    fn start() -> Self {
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let mut python = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/policy_answers.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let questions = python.stdin.take().unwrap();
        let answers = BufReader::new(python.stdout.take().unwrap()).lines();
        Peer { python, questions, answers }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }

    /// Returns the real answers: `None` is an internal error.
    fn answers(&mut self, site: &Site, rule: CacheRule) -> Vec<Option<bool>> {
        let callers: Vec<Value> = callers().into_iter().map(|(_, values)| values).collect();
        let image = if rule == CacheRule::Image { image() } else { Value::Null };
        let answers = self.ask(&json!({
            "config": site.path("glance-api.conf"), "rule": rule.name(), "callers": callers, "image": image,
        }));
        answers["answers"].as_array().unwrap().iter().map(Value::as_bool).collect()
    }

    fn end(mut self) {
        drop(self.questions);
        self.python.wait().unwrap();
    }
}

/// Returns the differences between our answers and the real ones. An error of the real one is a refusal.
fn differences(ours: &[bool], theirs: &[Option<bool>]) -> Vec<String> {
    let names = callers().into_iter().map(|(name, _)| name);
    let pairs = names.zip(ours.iter().zip(theirs));
    let different = pairs.filter(|(_, (ours, theirs))| **ours != theirs.unwrap_or(false));
    different.map(|(name, (ours, theirs))| format!("{name}: {ours}, oslo.policy {theirs:?}")).collect()
}

/// Every row means the same to this program and to the real oslo.policy, or this program refuses to start.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
fn agrees_with_the_real_oslo_policy() {
    let mut peer = Peer::start();
    let (mut refused, mut they_allow, mut different, mut callers_asked) = (0, 0, 0, 0);
    let rows = rows();
    for (site, rule, _) in &rows {
        let theirs = peer.answers(site, *rule);
        callers_asked += theirs.len();
        let text = fs::read_to_string(site.path("policy.yaml")).unwrap();
        match ours(site, *rule) {
            Err(message) => {
                refused += 1;
                if theirs[..].contains(&Some(true)) {
                    they_allow += 1;
                    println!("{text:?}: {message}\n   oslo.policy: {theirs:?}");
                }
            }
            Ok(ours) => {
                let found = differences(&ours, &theirs);
                different += usize::from(!found.is_empty());
                for found in found {
                    println!("{text:?}: {found}");
                }
            }
        }
    }
    // With unknown attributes ours may only be stricter.
    for (text, _) in UNKNOWN {
        let site = Site::with_policy(text);
        let theirs = peer.answers(&site, CacheRule::Image);
        let ours = ours(&site, CacheRule::Image).unwrap();
        assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| !ours || *theirs == Some(true)), "{text}");
    }
    peer.end();
    println!(
        "{} rows, {callers_asked} answers; {refused} refused by ours, of which oslo.policy allows somebody \
         in {they_allow}; {} stricter for unknown attributes; {different} different",
        rows.len() + UNKNOWN.len(),
        UNKNOWN.len()
    );
    assert_eq!(different, 0);
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
fn the_defaults_are_glances() {
    let mut peer = Peer::start();
    let theirs = peer.ask(&json!({"defaults": true}));
    peer.end();
    let theirs: Vec<_> = theirs["defaults"].as_array().unwrap().iter().collect();
    assert_eq!(theirs.len(), DEFAULTS.len());
    for (ours, theirs) in DEFAULTS.iter().zip(theirs) {
        assert_eq!((ours.name, ours.check), (theirs[0].as_str().unwrap(), theirs[1].as_str().unwrap()));
        let older = &theirs[3];
        assert!(older.is_null() || older[0] == ours.name, "{older}");
        let older = older[1].as_str().filter(|older| *older != ours.check);
        assert_eq!(ours.older_check, older, "{}", ours.name);
    }
    for rule in CacheRule::ALL {
        assert!(DEFAULTS.iter().any(|default| default.name == rule.name()));
    }
}

/// The same for generated texts; prints the smallest one that differs.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
fn agrees_with_the_real_oslo_policy_on_anything() {
    let cases = std::env::var("GLANCE_CACHE_TEST_CASES").map_or(2000, |text| text.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let peer = RefCell::new(Peer::start());
    let asked = RefCell::new((0, 0));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let anything = (prop_oneof![1 => any_text(), 2 => any_expression()], any::<bool>());
    let outcome = TestRunner::new_with_rng(config, rng).run(&anything, |(text, is_image)| {
        let rule = if is_image { CacheRule::Image } else { CacheRule::Prune };
        let site = Site::with_policy(&format!("{}: {}\n", rule.name(), json!(text)));
        match ours(&site, rule) {
            Err(_) => asked.borrow_mut().1 += 1,
            Ok(ours) => {
                let found = differences(&ours, &peer.borrow_mut().answers(&site, rule));
                asked.borrow_mut().0 += 1;
                prop_assert!(found.is_empty(), "{}", found.join("\n"));
            }
        }
        Ok(())
    });
    peer.into_inner().end();
    let (understood, refused) = asked.into_inner();
    println!("{understood} texts understood, {refused} refused");
    outcome.unwrap();
    assert!(understood > cases / 20);
}
