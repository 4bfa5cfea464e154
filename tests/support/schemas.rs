//! The JSON Schemas of `schemas/`. Every result that a test reads is compared with the one of its command, so
//! that a key that is not described there fails a test.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

/// For each schema a key that only its results have, and one that they do not have. The first that fits counts.
const BY_KEY: &[(&str, &str, &str)] = &[
    ("error", "error", "dry_run"),
    ("nodes", "nodes_asked", ""),
    ("status-node", "api_version", ""),
    ("prefetch", "total_files_prefetched", ""),
    ("list-images", "images", ""),
    ("prune-require", "required", ""),
    ("prune-all-caches", "total_files_pruned", "cache_size_before"),
    ("prune", "total_files_pruned", ""),
    ("clean", "invalid_files", ""),
    ("clean-verify", "total_files_moved", ""),
    ("clean-all-caches", "total_files_cleaned", ""),
    ("clean-forget-node", "rows_forgotten", ""),
    ("list-all-nodes", "nodes", "total"),
    ("status-all-nodes", "nodes", ""),
    ("list-node", "node", "cache_dir"),
    ("list", "cached_images", ""),
    ("all-caches", "file_systems", ""),
    ("status", "cache_dir", ""),
];

thread_local! {
    /// The schemas that this thread has compiled.
    static COMPILED: RefCell<(Schemas, HashMap<&'static str, SchemaIndex>)> =
        RefCell::new((Schemas::new(), HashMap::new()));
}

/// Returns the name of the schema of a result.
pub(crate) fn schema_of(result: &Value) -> Option<&'static str> {
    let has = |key: &str| result.get(key).is_some();
    BY_KEY.iter().find(|(_, key, without)| has(key) && !has(without)).map(|(name, ..)| *name)
}

/// Returns what is wrong with a result by its schema.
pub(crate) fn mistake(result: &Value) -> Option<String> {
    let Some(name) = schema_of(result) else { return Some("no schema fits".to_owned()) };
    COMPILED.with_borrow_mut(|(schemas, compiled)| {
        let index = *compiled.entry(name).or_insert_with(|| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.json"));
            let mut compiler = Compiler::new();
            compiler.enable_format_assertions();
            let schema = compiler.compile(path.to_str().unwrap(), schemas);
            schema.unwrap_or_else(|error| panic!("schemas/{name}.json: {error:#}"))
        });
        schemas.validate(result, index).err().map(|error| format!("{error}"))
    })
}

/// Asserts that a result is as its schema says.
#[track_caller]
pub(crate) fn check(result: &Value, command: &str) {
    if let Some(mistake) = mistake(result) {
        panic!("{command}: {mistake}\n{result}");
    }
}
