//! Rules of policies with any bytes.

use super::parse::{parse, parse_list};
use crate::fuzzing::{fuzz, kind};

#[test]
fn policy_rules_of_any_bytes() {
    fuzz("policy-rule", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let rule = parse(&text);
        if let Ok(rule) = &rule {
            // A rule that is shown can be read again.
            assert!(parse(&rule.to_string()).is_ok(), "{text:?} is shown as {rule}");
        }
        let list: Vec<Vec<String>> =
            text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
        format!("{} {}", kind(&rule), kind(&parse_list(&list)))
    });
}
