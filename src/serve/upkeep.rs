//! The words about passes of the clock that failed. They are stable, so that logs can be searched for them.

use serde_json::Value;

use super::verdict::Failed;

/// Returns the line about a pass that failed, with the size and the limit of the cache. `failures` is the
/// number of passes that failed one after the other.
pub(super) fn failure_line(
    pass: &str,
    failures: u64,
    failed: &Failed,
    level: &Result<Value, String>,
) -> String {
    let message = &failed.message;
    let kib = |key: &str| {
        let bytes = level.as_ref().ok().and_then(|level| level[key].as_u64());
        bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.div_ceil(1024).to_string())
    };
    let unknown = match level {
        Ok(level) => level["unknown"].as_str(),
        Err(why) => Some(why.as_str()),
    };
    let why = match unknown {
        None => String::new(),
        Some(why) if message.contains(why) => "; so the size is unknown".to_owned(),
        Some(why) => format!("; the size is unknown: {why}"),
    };
    let (size, limit) = (kib("cache_size"), kib("max_size"));
    format!(
        "glance-cache maintenance failed: {failures} consecutive, cache at {size} of {limit} KiB ({pass}: \
         {message}{why})"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::serve::answer::Problem;

    #[test]
    fn a_size_that_is_unknown_has_its_reason() {
        let line = |message: &str, level: Result<Value, &str>| {
            let failed = Failed::because(Problem::failed(""), message.to_owned());
            let line = failure_line("prune", 2, &failed, &level.map_err(str::to_owned));
            let line = line.strip_prefix("glance-cache maintenance failed: 2 consecutive, cache at ");
            line.unwrap().to_owned()
        };
        let known = json!({"cache_size": 3000, "max_size": 2048, "unknown": null});
        assert_eq!(line("locked", Ok(known)), "3 of 2 KiB (prune: locked)");
        let away = json!({"cache_size": null, "max_size": 2048, "unknown": "no /c"});
        assert_eq!(
            line("no /c: EACCES", Ok(away.clone())),
            "unknown of 2 KiB (prune: no /c: EACCES; so the size is unknown)"
        );
        assert_eq!(line("locked", Ok(away)), "unknown of 2 KiB (prune: locked; the size is unknown: no /c)");
        assert_eq!(line("bad", Err("bad")), "unknown of unknown KiB (prune: bad; so the size is unknown)");
    }
}
