//! The JSON Schemas: real results of every command are as they say, and `docs/json.md` has every key.
//!
//! After a change of a schema, `GLANCE_CACHE_UPDATE_DOCS=1 cargo test --test cli -- schemas` writes the tables
//! of the page anew.
//!
//! Every other test that reads a result checks it against its schema, too: see `support/schemas.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::double::{Double, database, ok};
use crate::support::env::*;
use crate::support::host::*;
use crate::support::prefetch::Prefetch;
use crate::support::schemas::{mistake, schema_of};

/// Returns all schemas, also the one with the common parts, by name.
fn schemas() -> BTreeMap<String, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

/// Makes a cache with something of everything.
fn cache_of_everything() -> TestEnv {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 70, 25);
    env.ghost('9', 60);
    env.row("../x", 1);
    env.file(format!("invalid/{}", id('1')), 5, 300);
    env.file(format!("incomplete/{}", id('2')), 8, 30);
    env.file(format!("incomplete/{}", id('3')), 8, 0);
    env.file(format!("queue/{}", id('4')), 0, 2);
    env.file("README", 2000, 100);
    env.link("link", "/etc/passwd");
    env
}

/// Returns results of `prune`, `clean`, `list` and `status` on one cache.
fn of_one_cache() -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = |env: &TestEnv, arguments: &[&str]| runs.push(env.run(arguments[0], &arguments[1..]));
    let env = cache_of_everything();
    for command in ["list", "status"] {
        run(&env, &[command, "--format", "json"]);
    }
    run(&env, &["status", "-v", "--format", "json", "--max-size", "10B"]);
    for command in [&["prune"][..], &["clean"], &["clean", "--repair"]] {
        run(&env, &[command, &["--dry-run"]].concat());
    }
    run(&env, &["prune", "--max-size", "2KB", "--dry-run", "--keep", &id('a'), "--min-age", "15h"]);
    run(&env, &["prune", "--max-size", "0", "--keep", &id('a')]);
    run(&env, &["clean", "--repair"]);
    run(&env, &["clean"]);
    run(&env, &["prune", "--min-free", "99%"]);
    let xattr = TestEnv::xattr(FIVE);
    run(&xattr, &["list", "--format", "json"]);
    run(&xattr, &["status", "--format", "json"]);
    let broken = cache_of_everything();
    fs::write(broken.path("cache.db"), vec![7; 8192]).unwrap();
    run(&broken, &["list", "--format", "json"]);
    run(&broken, &["status", "--format", "json"]);
    run(&broken, &["prune"]);
    let locked = cache_of_everything();
    let _held = [locked.lock("glance-cache-prune"), locked.lock("glance-cache-clean")];
    for command in [&["prune"][..], &["clean"], &["clean", "--repair"]] {
        run(&locked, &[command, &["--skip-if-locked"]].concat());
    }
    run(&locked, &["prune", "--lock-timeout", "0"]);
    run(&locked, &["status", "--format", "json"]);
    let mut waiting = locked.of_cache("prune");
    let waiting = Running::start(&mut waiting, &locked.outside(""));
    sleep(Duration::from_millis(300));
    waiting.signal(Signal::TERM);
    runs.push(waiting.wait());
    let conf = locked.write("gone.conf", "[DEFAULT]\nimage_cache_dir = /nonexistent/cache\n");
    for command in [
        &["prune", "--dry-run"][..],
        &["prune"],
        &["clean"],
        &["prefetch"],
        &["list", "--format", "json"],
        &["status", "--format", "json"],
    ] {
        runs.push(locked.raw(&[command, &["--config-file", &conf]].concat()));
    }
    runs
}

/// Returns results of `prefetch`, and of a central database.
fn of_prefetch() -> Vec<Run> {
    let p = Prefetch::new(Sqlite);
    let mut runs = vec![p.run(&[]), p.run(&["--dry-run"])];
    p.image('a', 1000);
    p.image('b', 500);
    p.update('b', "status = 'deactivated'");
    p.queue("abc");
    runs.push(p.run(&["--dry-run"]));
    runs.push(p.run(&["--enqueue", &id('d')]));
    runs.push(p.run(&["--enqueue", "--dry-run", &id('e'), &id('d')]));
    runs.push(p.run(&[]));
    runs.push(p.run(&[&id('a'), &id('f')]));
    let conf = p.conf("");
    let verify = |command: &[&str]| p.env.raw(&[command, &["--verify", "--config-file", &conf]].concat());
    runs.push(verify(&["status", "--format", "json"]));
    fs::write(p.env.path(id('a')), "other").unwrap();
    p.env.orphan('d', 5, 1);
    runs.extend([
        verify(&["status", "--format", "json"]),
        verify(&["clean", "--dry-run"]),
        verify(&["clean"]),
    ]);
    runs.push(p.env.raw(&["status", "--format", "json", "--config-file", &conf]));
    let held = p.env.lock("glance-cache-prune");
    runs.push(verify(&["clean", "--skip-if-locked"]));
    drop(held);
    let held = p.env.lock("glance-cache");
    runs.push(p.run(&["--skip-if-locked"]));
    drop(held);
    p.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://one:9292')");
    p.db.sql(&format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
         SELECT '{}', '2026-01-01 00:00:00', '2026-01-01 00:00:00', 10, 3, node_reference_id FROM \
         node_reference",
        id('a')
    ));
    let database = ["--database", &p.db.url];
    for command in [
        &["status", "--all-nodes", "--format", "json"][..],
        &["list", "--all-nodes", "--format", "json"],
        &["list", "--image", &id('a'), "--format", "json"],
        &["clean", "--forget-node", "http://one:9292", "--dry-run"],
        &["clean", "--forget-node", "http://one:9292"],
        &["clean", "--forget-node", "http://one:9292"],
    ] {
        runs.push(p.env.raw(&[command, &database].concat()));
    }
    runs
}

/// Returns results of commands that ask nodes.
fn of_nodes() -> Vec<Run> {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 10);
    let database = database(&env, &[&node.url(), "http://127.0.0.1:1", "file:///dev/null"]);
    let run = |arguments: &[&str]| env.finish(env.command(BINARY).args(arguments).env("OS_TOKEN", "t"));
    let list = Double::says(ok(r#"{"cached_images": [], "queued_images": []}"#));
    vec![
        run(&["list", "--os-image-url", &list.url(), "--format", "json"]),
        run(&["status", "--os-image-url", &list.url(), "--format", "json"]),
        run(&["prune", "--os-image-url", &node.url()]),
        run(&["prune", "--all-nodes", &database]),
        run(&["clean", "--all-nodes", &database]),
        run(&["prefetch", "--all-nodes", &database, &id('a')]),
    ]
}

/// Returns results of all caches of a host.
fn of_a_host() -> Vec<Run> {
    let env = HostEnv::new();
    env.limits(2, 1_000_000);
    for (cache, images) in [("iso", 1..=3), ("instance", 4..=5), ("tftp", 6..=6)] {
        for n in images {
            env.image(cache, &master(n), MIB);
        }
    }
    env.use_image("instance", &master(4));
    env.leftover("iso", &master(8), 1000);
    let gone = env.path("gone");
    env.conf(&format!(
        "[DEFAULT]\nimage_cache_dir = {}\n[image_cache:more]\ndirectory = {}\n\
                       [image_cache:broken]\ndirectory = {}\nsize = much\n",
        env.dir("glance").display(),
        gone.display(),
        gone.display()
    ));
    let _index = glance(&env, &[(7, 500.0)]);
    let free = env.available();
    let mut runs = Vec::new();
    for command in ["list", "status"] {
        runs.push(env.later(command, &["--all-caches", "--format", "json"]));
        runs.push(env.later(command, &["-v", "--all-caches", "--format", "json"]));
    }
    runs.push(env.later("list", &["--all-caches", "--images", "--format", "json"]));
    for command in ["clean", "prune"] {
        runs.push(env.later(command, &["--all-caches", "--dry-run"]));
    }
    runs.push(env.require(1 << 20, &[]));
    runs.push(env.require(1 << 20, &["--dry-run"]));
    runs.push(env.require(free + (3 << 19), &["--dry-run"]));
    runs.push(env.require(free + (1 << 40), &[]));
    runs.push(env.require(free + (100 << 20), &[]));
    runs.push(env.require(free + (100 << 20), &["--best-effort"]));
    for command in ["clean", "prune"] {
        runs.push(env.run(command, &["--all-caches"]));
    }
    runs
}

#[test]
fn real_results_of_every_command_are_as_the_schemas_say() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for run in of_one_cache().into_iter().chain(of_prefetch()).chain(of_a_host()).chain(of_nodes()) {
        // `json` compares it with its schema.
        *found.entry(schema_of(&run.json()).unwrap()).or_default() += 1;
    }
    println!("real results by schema: {found:?}");
    let all = schemas().into_keys().filter(|name| name != "common");
    let all: BTreeSet<String> = all.collect();
    let tried: BTreeSet<String> = found.keys().map(ToString::to_string).collect();
    assert_eq!(tried, all);
}

/// Returns the places of all objects in a value, as JSON pointers.
fn objects(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let inner = members.iter().flat_map(|(key, value)| objects(value, &format!("{at}/{key}")));
            std::iter::once(at.to_owned()).chain(inner).collect()
        }
        Value::Array(values) => {
            values.iter().enumerate().flat_map(|(n, value)| objects(value, &format!("{at}/{n}"))).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_key_that_no_schema_has_is_a_mistake_and_so_is_one_that_is_missing() {
    let env = cache_of_everything();
    let results = [
        env.status(),
        env.list(),
        env.clean(&["--repair", "--dry-run"]).json(),
        env.prune(&["--dry-run", "--max-size", "10B"]).json(),
        HostEnv::new().status(),
    ];
    for result in results {
        assert_eq!(mistake(&result), None);
        for place in objects(&result, "") {
            let mut more = result.clone();
            more.pointer_mut(&place).unwrap()["unheard of"] = json!(1);
            assert!(mistake(&more).is_some(), "{place} takes any key in {result}");
        }
        for key in result.as_object().unwrap().keys() {
            let mut less = result.clone();
            less.as_object_mut().unwrap().remove(key);
            let optional = key == "plan";
            assert!(mistake(&less).is_some() || optional, "{key} may be left out of {result}");
        }
    }
}

// -- The page --

/// Returns the type of a property in words.
fn type_of(property: &Value) -> String {
    let plural = |name: String| match name.as_str() {
        "entries" => name,
        name => format!("{name}s"),
    };
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        if let Some(command) = name.strip_suffix(".json") {
            return format!("result of `{command}`");
        }
        return if ["schema_version", "signal"].contains(&name) { "string" } else { name }.to_owned();
    }
    if let Some(any) = property["anyOf"].as_array() {
        return any.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    let values = property["enum"].as_array();
    if let Some(values) = values {
        return if values.contains(&Value::Null) { "string or null" } else { "string" }.to_owned();
    }
    let names = match &property["type"] {
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap()).collect(),
        name => vec![name.as_str().unwrap()],
    };
    let name = |name: &str| match name {
        "array" => format!("list of {}", plural(type_of(&property["items"]))),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        name => name.to_owned(),
    };
    names.into_iter().map(name).collect::<Vec<_>>().join(" or ")
}

/// Adds a row for each property of an object, and asserts that each has a description.
fn rows(schema: &Value, prefix: &str, found: &mut Vec<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        let text = property["description"].as_str();
        let text = text
            .or_else(|| property["$ref"].as_str().map(|_| "See below."))
            .or_else(|| property.get("properties").map(|_| "An object with the following keys."));
        let text = text.unwrap_or_else(|| panic!("{path} has no description"));
        let values: Vec<String> = property["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| format!("`{}`", v.as_str().unwrap_or("null")))
            .collect();
        let values = if values.is_empty() { String::new() } else { format!(" {}.", values.join(", ")) };
        found.push(format!("| `{path}` | {} | {text}{values} |", type_of(property)));
        let nullable = property["anyOf"].as_array().into_iter().flatten();
        for inner in nullable.chain([property]) {
            rows(inner, &format!("{path}."), found);
            rows(&inner["items"], &format!("{path}[]."), found);
        }
    }
}

/// Returns the table of a schema, or of a part of the common one (`common/NAME`).
fn table(schemas: &BTreeMap<String, Value>, name: &str) -> Vec<String> {
    let schema = match name.strip_prefix("common/") {
        Some(part) => &schemas["common"]["$defs"][part],
        None => schemas.get(name).unwrap_or_else(|| panic!("there is no schemas/{name}.json")),
    };
    let mut found = vec!["| key | type | meaning |".to_owned(), "|---|---|---|".to_owned()];
    rows(schema, "", &mut found);
    found
}

/// The tables of the page are those of the schemas: `<!-- keys: NAME -->` stands before each.
#[test]
fn the_page_has_every_key_with_its_type_and_unit() {
    let schemas = schemas();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let page = fs::read_to_string(&path).unwrap();
    let (mut written, mut named) = (Vec::new(), BTreeSet::new());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        written.push(line.to_owned());
        let Some(name) = line.strip_prefix("<!-- keys: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        while lines.next_if(|line| line.starts_with('|')).is_some() {}
        written.extend(table(&schemas, name));
        named.insert(name.to_owned());
    }
    let parts = schemas["common"]["$defs"].as_object().unwrap();
    let parts = parts.iter().filter(|(_, part)| part.get("properties").is_some());
    let parts = parts.map(|(name, _)| format!("common/{name}"));
    let all: BTreeSet<String> =
        schemas.keys().filter(|name| *name != "common").cloned().chain(parts).collect();
    assert_eq!(named, all, "the tables of docs/json.md");
    let written = written.join("\n") + "\n";
    if std::env::var_os("GLANCE_CACHE_UPDATE_DOCS").is_some() {
        fs::write(&path, &written).unwrap();
    }
    assert!(
        written == page,
        "docs/json.md differs from the schemas: GLANCE_CACHE_UPDATE_DOCS=1 writes it anew"
    );
}
