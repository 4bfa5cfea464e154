//! The comparison with what Python's libraries make of the same texts: `PyYAML` of documents, and
//! keystonemiddleware of access rules.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::keystone::rules::path_matches;
use super::yaml::{self, Yaml};

/// The Python that has Glance, and with it the libraries.
struct Python {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Python {
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    fn start() -> Self {
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/openstack_texts.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Python { child, questions, answers }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }

    fn end(mut self) {
        drop(self.questions);
        self.child.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
fn cases() -> u32 {
    std::env::var("GLANCE_CACHE_TEST_CASES").map_or(6000, |text| text.parse().unwrap())
}

fn run<T: std::fmt::Debug>(
    cases: u32,
    texts: impl Strategy<Value = T>,
    mut check: impl FnMut(T) -> Result<(), String>,
) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let check = std::cell::RefCell::new(&mut check);
    let outcome = TestRunner::new_with_rng(config, rng)
        .run(&texts, |text| (check.borrow_mut())(text).map_err(TestCaseError::fail));
    outcome.unwrap();
}

/// True if a document of ours has the meaning that Python's nodes have.
fn same(ours: &Yaml, theirs: &Value) -> bool {
    if let Some(items) = theirs["list"].as_array() {
        let Yaml::List(ours) = ours else { return false };
        return ours.len() == items.len() && ours.iter().zip(items).all(|(ours, theirs)| same(ours, theirs));
    }
    if let Some(pairs) = theirs["mapping"].as_array() {
        let Yaml::Mapping(members) = ours else { return false };
        let is_same = |(member, pair): (&yaml::YamlMember, &Value)| {
            pair[0][1] == *member.key && same(&member.value, &pair[1])
        };
        return members.len() == pairs.len() && members.iter().zip(pairs).all(is_same);
    }
    let (tag, text) = (theirs[0].as_str().unwrap(), theirs[1].as_str().unwrap());
    match ours {
        Yaml::Null => tag == "null",
        Yaml::Boolean(value) => {
            tag == "bool" && *value == ["yes", "true", "on"].contains(&text.to_lowercase().as_str())
        }
        Yaml::Number(ours) => ["int", "float", "timestamp"].contains(&tag) && ours == text,
        Yaml::Text(ours) => tag == "str" && ours == text,
        Yaml::List(_) | Yaml::Mapping(_) => false,
    }
}

/// Parts of documents that have a meaning somewhere.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "a", "b", "key", ": ", ":", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ", "'", "\"", "''",
    "#", " # c", "!", "!!str ", "|", ">", "|-\n  ", ">\n  ", "? ", "~", "null", "yes", "off", "True",
    "1", "-7", "0x1f", "017", "1.5", "1e3", ".5", "2026-11-29", "12:30", "role:admin", "rule:x or ",
    "not ", "%(p)s", "@", "\t", " ", "--- ", "\\n", "é", "&x ", "*x", "<<: ", "=", "...\n", "\r\n", "(",
    ")",
];

/// A document that both accept means the same to both. What only one of them accepts is counted.
#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
fn documents_mean_what_they_mean_to_pyyaml() {
    let line = (
        prop::sample::select(vec!["a", "b", "c: d", "\"k\"", "'q'", "1"]),
        prop::collection::vec(prop::sample::select(PIECES), 0..6),
    );
    let line = line.prop_map(|(key, pieces)| format!("{key}: {}\n", pieces.concat()));
    let document = prop_oneof![
        4 => prop::collection::vec(line, 0..4).prop_map(|lines| lines.concat()),
        1 => "[-a:{}\\[\\], '\"#\n|>!?]{0,24}",
    ];
    let mut python = Python::start();
    let (mut both, mut neither, mut stricter) = (0, 0, 0);
    let (mut laxer, mut different) = (Vec::new(), Vec::new());
    run(cases(), document, |text| {
        let theirs = python.ask(&json!({"yaml": text}));
        match (yaml::parse(&text), theirs["error"].is_string()) {
            (Ok(ours), false) if same(&ours, &theirs) => both += 1,
            (Ok(ours), false) => different.push(format!("{text:?}: {ours:?}, PyYAML {theirs}")),
            (Ok(_), true) => laxer.push(text),
            (Err(_), true) => neither += 1,
            (Err(_), false) => stricter += 1,
        }
        Ok(())
    });
    python.end();
    println!(
        "{both} the same, {neither} refused by both, {stricter} refused by us, {} by PyYAML:",
        laxer.len()
    );
    laxer.iter().take(40).for_each(|text| println!("  {text:?}"));
    different.sort_by_key(String::len);
    different.iter().take(60).for_each(|text| println!("  {text}"));
    assert!(both > 1000 && different.is_empty(), "{} different", different.len());
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
fn access_rules_mean_what_they_mean_to_keystonemiddleware() {
    let piece = || prop::sample::select(vec!["/", "/v2", "cache", "a", "b", "-", "_", "%"]);
    let wild = prop::sample::select(vec!["*", "**", "***", "{", "}", "{id}", "{}", "{a/b}"]);
    let pattern = prop::collection::vec(prop_oneof![3 => piece(), 2 => wild], 0..7);
    let path = prop::collection::vec(piece(), 0..7);
    let mut python = Python::start();
    let mut allowed = 0;
    run(6000, (pattern, path), |(pattern, path)| {
        let (pattern, path) = (pattern.concat(), path.concat());
        let theirs = python.ask(&json!({"pattern": pattern, "path": path}));
        let ours = path_matches(&pattern, &path);
        allowed += usize::from(ours);
        if theirs == ours {
            Ok(())
        } else {
            Err(format!("{pattern} {path}: {ours}, keystonemiddleware {theirs}"))
        }
    });
    python.end();
    println!("{allowed} of 6000 requests allowed by both");
    assert!(allowed > 100);
}
