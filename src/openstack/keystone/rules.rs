//! Access rules: the requests that the tokens of an application credential are for.
//!
//! Paths match as in keystonemiddleware: `*` and `{anything}` stand for one segment, `**` for any text. All
//! else stands for itself; there, it would be part of a regular expression, where a dot is any character.

use serde::Deserialize;

/// A kind of request that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct AccessRule {
    service: String,
    method: String,
    path: String,
}

impl AccessRule {
    /// True if the rule allows this request to a service of this type. The path has no query.
    pub(super) fn allows(&self, service_type: &str, method: &str, path: &str) -> bool {
        self.service == service_type && self.method == method && path_matches(&self.path, path)
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathPart {
    /// This character.
    Literal(char),
    /// One character that is no slash.
    NotSlash,
    /// Any number of characters that are no slashes.
    NotSlashes,
    /// Any number of any characters.
    Anything,
}

impl PathPart {
    /// True if the part may stand for nothing.
    fn is_optional(self) -> bool {
        matches!(self, PathPart::NotSlashes | PathPart::Anything)
    }

    fn takes(self, c: char) -> bool {
        match self {
            PathPart::Literal(literal) => literal == c,
            PathPart::NotSlash | PathPart::NotSlashes => c != '/',
            PathPart::Anything => true,
        }
    }
}

fn parts(pattern: &str) -> Vec<PathPart> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let tag = rest.strip_prefix('{').and_then(|text| text.find('}')).map(|end| end + 2);
        let length = match (c, tag) {
            ('{', Some(length)) => {
                parts.extend([PathPart::NotSlash, PathPart::NotSlashes]);
                length
            }
            ('*', _) if rest.starts_with("**") => {
                parts.push(PathPart::Anything);
                2
            }
            ('*', _) => {
                parts.extend([PathPart::NotSlash, PathPart::NotSlashes]);
                1
            }
            // A brace without its other half is left out.
            ('{' | '}', _) => 1,
            _ => {
                parts.push(PathPart::Literal(c));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    parts
}

/// True if a whole path matches a pattern. Takes no longer than the product of their lengths.
fn path_matches(pattern: &str, path: &str) -> bool {
    let parts = parts(pattern);
    // The places in the pattern that can be reached with the characters so far.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    pass_optional(&parts, &mut reached);
    for c in path.chars() {
        let mut next = vec![false; parts.len() + 1];
        for (n, part) in parts.iter().enumerate() {
            if reached[n] && part.takes(c) {
                next[if part.is_optional() { n } else { n + 1 }] = true;
            }
        }
        pass_optional(&parts, &mut next);
        reached = next;
    }
    reached[parts.len()]
}

/// Marks the places behind parts that stand for nothing.
fn pass_optional(parts: &[PathPart], reached: &mut [bool]) {
    for (n, part) in parts.iter().enumerate() {
        if reached[n] && part.is_optional() {
            reached[n + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_as_in_keystonemiddleware() {
        for (pattern, path, matches) in [
            ("/v2/cache/prune", "/v2/cache/prune", true),
            ("/v2/cache/prune", "/v2/cache/prune/", false),
            ("/v2/cache/prune", "/v2/cache/clean", false),
            ("/v2/cache/prune", "/x/v2/cache/prune", false),
            ("/v2/cache/prune", "", false),
            ("", "", true),
            ("/v2/cache/*", "/v2/cache/prune", true),
            ("/v2/cache/*", "/v2/cache/", false),
            ("/v2/cache/*", "/v2/cache/nodes/x", false),
            ("/v2/cache/{id}", "/v2/cache/abc", true),
            ("/v2/{a}/{b}", "/v2/cache/abc", true),
            ("/v2/{a}", "/v2/cache/abc", false),
            ("/v2/**", "/v2/cache/abc", true),
            ("/v2/**", "/v2/", true),
            ("/v2/**", "/v2", false),
            ("/v2/***", "/v2/", false),
            ("/v2/***", "/v2/a/b", true),
            ("**/prune", "/v2/cache/prune", true),
            ("/v*/cache", "/v2/cache", true),
            ("/v2.0", "/v2.0", true),
            ("/v2.0", "/v2x0", false),
            ("/a{b", "/ab", true),
            ("/a}b", "/ab", true),
            ("/schön/*", "/schön/x", true),
        ] {
            assert_eq!(path_matches(pattern, path), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn a_long_pattern_takes_no_long_time() {
        let pattern = "**a".repeat(200);
        assert!(!path_matches(&pattern, &"a".repeat(5000).replace("aaaaa", "aaaab")[..199]));
        assert!(!path_matches(&pattern, &"b".repeat(5000)));
    }

    #[test]
    fn a_rule_is_for_one_service_and_method() {
        let rule: AccessRule = serde_json::from_str(
            r#"{"id": "1", "service": "image", "method": "POST", "path": "/v2/cache/prune"}"#,
        )
        .unwrap();
        for (service, method, path, allowed) in [
            ("image", "POST", "/v2/cache/prune", true),
            ("image", "post", "/v2/cache/prune", false),
            ("image", "GET", "/v2/cache/prune", false),
            ("compute", "POST", "/v2/cache/prune", false),
            ("image", "POST", "/v2/cache/clean", false),
        ] {
            assert_eq!(rule.allows(service, method, path), allowed, "{service} {method} {path}");
        }
    }
}
