//! The documents: what their console blocks show is what the program prints, their links lead somewhere, they
//! fit a screen.
//!
//! Each `console` block of README and docs is run line by line, a page from top to bottom, and what is
//! printed on stdout and stderr is compared with the text below the command. A command has to succeed; where
//! a failure is shown, the line ends in `; echo $?`, so that the reader sees the exit code, too. After a
//! change of a message:
//!
//! ```text
//! GLANCE_CACHE_UPDATE_DOCS=1 cargo test documents
//! ```
//!
//! writes the pages anew; the difference is then there to be read. Comments in a page tell the test what the
//! reader need not know: `<!-- host: NAME -->` makes a fresh host of that name, `<!-- hold: NAME -->` holds a
//! lock or a file there, and `<!-- run: COMMAND -->` runs a command before the next block.

mod host;
mod shown;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::host::Host;

/// Free space is steady if it changed by less: sizes are shown in hundredths of a GiB.
const STEADY: u64 = 4 << 20;

/// Pages with nothing to run: `docs/performance.md` is written by `benches/run --markdown`.
const NOTHING_TO_RUN: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/SUMMARY.md",
    "docs/api.md",
    "docs/house.md",
    "docs/introduction.md",
    "docs/performance.md",
    "docs/releasing.md",
    "docs/containers.md",
    "docs/credentials.md",
    "docs/safety.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents, by their path in the repository.
fn pages() -> BTreeMap<String, String> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    top.into_iter()
        .chain(docs)
        .map(|path: PathBuf| {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The lines of a page, and for each whether it is in a code block: the language of the block, or `None` in
/// prose.
fn lines(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut language = None;
    text.lines()
        .map(|line| {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, language) {
                (Some(name), None) => {
                    language = Some(name.trim());
                    (line, None)
                }
                (Some(_), Some(_)) => {
                    language = None;
                    (line, None)
                }
                (None, language) => (line, language),
            }
        })
        .collect()
}

// -- Console blocks --

/// What a run of a page found.
#[derive(Default)]
struct Played {
    blocks: usize,
    commands: usize,
    /// The page as it should be.
    text: String,
    differences: Vec<String>,
}

/// One command of a block.
#[derive(Default)]
struct Step {
    /// The first line without its prompt, and continuation lines.
    command: Vec<String>,
    output: Vec<String>,
}

impl Step {
    fn line(&self) -> String {
        self.command.join("\n")
    }
}

/// Runs the console blocks of a page.
fn play(page: &str, text: &str) -> Played {
    let mut played = Played::default();
    let mut host = Host::new("empty");
    let mut block: Option<(usize, Vec<String>)> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some((first, lines)) = &mut block {
            if line == "```" {
                played.blocks += 1;
                let first = *first;
                let lines = std::mem::take(lines);
                run_block(&mut played, &host, &format!("{page}:{first}"), &lines);
                block = None;
            } else {
                lines.push(line.to_owned());
                continue;
            }
        } else if line == "```console" {
            block = Some((number + 2, Vec::new()));
        } else if let Some((key, value)) = directive(line) {
            match key {
                "host" => host = Host::new(value),
                "hold" => host.hold(value),
                "run" => {
                    let (output, code) = host.run(&shown::real(value, &host));
                    assert_eq!(code, 0, "{page}:{}: {output}", number + 1);
                }
                _ => {}
            }
        }
        played.text += line;
        played.text.push('\n');
    }
    assert!(block.is_none(), "{page}: a console block does not end");
    played
}

/// A comment for this test.
fn directive(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("<!-- ")?.strip_suffix(" -->")?.split_once(": ")
}

/// The commands of a block.
fn steps(lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut continues = false;
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (_, Some(step)) if continues => step.command.push(line.clone()),
            (Some(command), _) => {
                steps.push(Step { command: vec![command.to_owned()], output: Vec::new() });
            }
            (None, Some(step)) => step.output.push(line.clone()),
            (None, None) => panic!("a console block starts with a command, not with '{line}'"),
        }
        continues = line.ends_with('\\') && steps.last().unwrap().output.is_empty();
    }
    steps
}

fn run_block(played: &mut Played, host: &Host, place: &str, lines: &[String]) {
    for step in steps(lines) {
        played.commands += 1;
        let (mut actual, code) = run(&step, host);
        if code != 0 {
            let line = step.line();
            played.differences.push(format!("{place}: exit code {code} of: {line}\n{}", actual.join("\n")));
        }
        let blanks = step.output.iter().rev().take_while(|line| line.is_empty()).count();
        let expected = &step.output[..step.output.len() - blanks];
        if !same(expected, &actual) {
            let mut text = format!("{place}: $ {}\n", step.line());
            for (sign, lines) in [('-', expected), ('+', actual.as_slice())] {
                for line in lines {
                    let _ = writeln!(text, "{sign} {line}");
                }
            }
            played.differences.push(text);
        }
        actual.extend(std::iter::repeat_n(String::new(), blanks));
        for line in std::iter::once(format!("$ {}", step.line())).chain(actual) {
            played.text += &line;
            played.text.push('\n');
        }
    }
}

/// Runs a command. One that depends on free space is run again if that changed meanwhile: other programs use
/// the same disk.
fn run(step: &Step, host: &Host) -> (Vec<String>, i32) {
    let line = step.line();
    for _ in 0..500 {
        let before = shown::available(host);
        let (output, code) = host.run(&shown::real(&line, host));
        let changed = shown::available(host).abs_diff(before);
        if changed < STEADY || !line.contains("--require") {
            return (shown::shown(&line, &output, host), code);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the file system of {} is too busy for: {line}", host.root());
}

/// True if the lines are the same, or differ only in how the machine's file system treats access times.
fn same(expected: &[String], actual: &[String]) -> bool {
    let access_times =
        |line: &String| line.starts_with("access times ") || line.trim().starts_with("\"access_times\": ");
    expected.len() == actual.len()
        && expected.iter().zip(actual).all(|(e, a)| e == a || (access_times(e) && access_times(a)))
}

#[test]
fn console_blocks_show_what_the_commands_print() {
    let update = std::env::var_os("GLANCE_CACHE_UPDATE_DOCS").is_some();
    let (mut blocks, mut commands, mut differences) = (0, 0, Vec::new());
    for (page, text) in pages() {
        let played = play(&page, &text);
        println!("{page}: {} console blocks, {} commands", played.blocks, played.commands);
        let expects_none = NOTHING_TO_RUN.contains(&page.as_str());
        assert!(played.blocks > 0 || expects_none, "{page}: no console block, and none was run");
        (blocks, commands) = (blocks + played.blocks, commands + played.commands);
        if update && played.text != text {
            fs::write(root().join(&page), &played.text).unwrap();
        }
        differences.extend(played.differences);
    }
    println!("documents: ran {blocks} console blocks with {commands} commands");
    assert!(
        differences.is_empty(),
        "{} differences{}\n\n{}",
        differences.len(),
        if update {
            ", written to the pages: read them"
        } else {
            "; GLANCE_CACHE_UPDATE_DOCS=1 writes the pages anew"
        },
        differences.join("\n")
    );
}

#[test]
fn sessions_stand_in_console_blocks() {
    for (page, text) in pages() {
        for (n, (line, language)) in lines(&text).into_iter().enumerate() {
            let is_session = line.trim_start().starts_with("$ ") && language != Some("console");
            assert!(!is_session, "{page}:{}: this session is not run: put it into a console block", n + 1);
        }
    }
}

// -- Links --

/// The anchors that a page's headings have.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen = HashMap::new();
    let headings =
        lines(text).into_iter().filter(|(line, language)| language.is_none() && line.starts_with('#'));
    headings
        .map(|(line, _)| {
            let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            let anchor: String =
                heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            let count = seen.entry(anchor.clone()).or_insert(0);
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// The targets of a page's links, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (n, (line, language)) in lines(text).into_iter().enumerate() {
        // Code is not searched: `a](b)` there is no link.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = prose.split("](").skip(1).filter(|_| language.is_none());
        links.extend(targets.map(|rest| (n + 1, rest.split([')', ' ']).next().unwrap().to_owned())));
    }
    links
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut count = 0;
    for (page, text) in &pages {
        for (line, target) in links(text) {
            count += 1;
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                page.clone()
            } else {
                let directory = Path::new(page).parent().unwrap();
                directory.join(file).to_str().unwrap().to_owned()
            };
            assert!(!path.contains(".."), "{page}:{line}: {target} is not in the book");
            assert!(root().join(&path).exists(), "{page}:{line}: there is no {target}");
            let is_there = || pages.get(&path).is_some_and(|text| anchors(text).contains(anchor));
            assert!(anchor.is_empty() || is_there(), "{page}:{line}: there is no heading {target}");
        }
    }
    assert!(count > 50, "only {count} links were found");
}

#[test]
fn the_book_has_every_page() {
    let pages = pages();
    let contents: HashSet<String> =
        links(&pages["docs/SUMMARY.md"]).into_iter().map(|(_, page)| page).collect();
    for page in pages.keys().filter_map(|page| page.strip_prefix("docs/")) {
        assert!(page == "SUMMARY.md" || contents.contains(page), "docs/SUMMARY.md does not list {page}");
    }
}

/// The words in single backquotes outside of code blocks.
fn code_words(text: &str) -> Vec<(usize, &str)> {
    let prose = lines(text).into_iter().enumerate().filter(|(_, (_, language))| language.is_none());
    prose
        .flat_map(|(n, (line, _))| line.split('`').skip(1).step_by(2).map(move |word| (n + 1, word)))
        .collect()
}

#[test]
fn files_and_tests_that_are_named_exist() {
    let tests: Vec<PathBuf> = walkdir::WalkDir::new(root().join("tests"))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .collect();
    let mut missing = Vec::new();
    for (page, text) in pages() {
        for (line, word) in code_words(&text) {
            let is_path =
                ["src/", "tests/", "benches/", "docs/", ".ci/"].iter().any(|top| word.starts_with(top));
            let path = word.split(' ').next().unwrap();
            let module = word.strip_suffix("::").filter(|module| *module != "crate");
            let is_test = |module: &str| {
                tests.iter().any(|path| path.ends_with(module) || path.ends_with(format!("{module}.rs")))
            };
            if (is_path && !root().join(path).exists()) || module.is_some_and(|module| !is_test(module)) {
                missing.push(format!("{page}:{line}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
}

// -- Size --

#[test]
fn readme_is_short() {
    let lines = pages()["README.md"].lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: what is not for the first visit belongs into docs/");
    assert!(pages()["CONTRIBUTING.md"].lines().count() <= 120);
}

#[test]
fn pages_are_no_wider_than_a_screen() {
    let mut wide = Vec::new();
    for (page, text) in pages() {
        for (n, (line, language)) in lines(&text).into_iter().enumerate() {
            let width = line.chars().count();
            let is_table = (language.is_none() && line.starts_with('|'))
                || (language == Some("console") && line.matches("  ").count() > 6);
            if width > 110 && !is_table {
                wide.push(format!("{page}:{}: {width} columns", n + 1));
            }
        }
    }
    assert!(wide.is_empty(), "wider than 110 columns:\n{}", wide.join("\n"));
}
