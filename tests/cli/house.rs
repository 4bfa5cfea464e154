//! The house itself: the floors of src, and the rules that no compiler checks.
//!
//! Each room (a folder or a single file of src) uses only rooms below it. The rules are read from the source
//! text in one pass, which takes a quarter of a second and needs no parser: paths that begin with `crate::`,
//! `super::` or `self::`, the first words of items and comments, and the lengths of lines. Modules named
//! `tests` are left out.
//!
//! Each test prints its number. The bounds are what is left to do; they may only go down.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The rooms from the ground up. Rooms on the same floor do not use one another.
const FLOORS: &[&[&str]] = &[
    &["units", "names", "exit", "interrupt", "spelling"],
    &["os"],
    &["config", "net"],
    &["database"],
    &["openstack"],
    &["cache"],
    &["source"],
    &["fetch"],
    &["output"],
    &["run"],
    &["host"],
    &["ops"],
    &["serve"],
    &["commands"],
    &["legacy"],
    &["cli"],
    &["main"],
];

const ARROWS_UP: usize = 0;
const CIRCLES: usize = 0;
const TYPES_TWICE: usize = 0;
const WIDE_LINES: usize = 0;
const RIDDLES: usize = 0;
const UNUSED_FACES: usize = 0;

/// Visible to all rooms without being used there by name: a constant with `..` needs all fields of a struct.
const FACES_BY_NEED: &[&str] = &["older_names"];

/// The width of a line in src, README.md and docs.
const WIDTH: usize = 110;

/// A file of src that is not a module of tests.
struct SourceFile {
    /// Relative to src.
    path: String,
    room: String,
    /// The module's path, such as `["cache", "index", "sqlite"]`; empty for main.rs.
    module: Vec<String>,
    text: &'static str,
    /// Without modules of tests and without comments, each line in its place.
    code: String,
    /// The paths of modules and items in the code, as segments from the root of the crate.
    paths: Vec<Vec<String>>,
}

static SOURCES: LazyLock<Vec<SourceFile>> = LazyLock::new(|| {
    let of_tests = modules_of_tests();
    let files = FILES.iter().filter(|(path, _)| !of_tests.contains(path));
    files.map(|(path, text)| SourceFile::new(path, text)).collect()
});

/// All files of src with their texts, by their paths relative to src.
static FILES: LazyLock<Vec<(PathBuf, String)>> = LazyLock::new(|| {
    let src = root().join("src");
    let mut paths = Vec::new();
    collect(&src, "rs", &mut paths);
    let read =
        |path: &PathBuf| (path.strip_prefix(&src).unwrap().to_owned(), fs::read_to_string(path).unwrap());
    paths.iter().map(read).collect()
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Collects the files below a directory whose names have this extension.
fn collect(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// Returns the files that are compiled for tests only.
fn modules_of_tests() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for (path, text) in FILES.iter() {
        let lines: Vec<&str> = text.lines().collect();
        let declared = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]");
        let names = declared.filter_map(|pair| module_name(pair[1]));
        found.extend(names.map(|name| path.with_file_name(format!("{name}.rs"))));
    }
    found
}

/// Returns the name in a line such as `pub(crate) mod name;`.
fn module_name(line: &str) -> Option<&str> {
    let rest = line.trim().strip_suffix(';')?;
    let (visibility, name) = rest.rsplit_once("mod ")?;
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name)
}

impl SourceFile {
    fn new(path: &Path, text: &'static str) -> Self {
        let path = path.to_str().unwrap().to_owned();
        let stem = path.strip_suffix(".rs").unwrap();
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let module: Vec<String> =
            if stem == "main" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() };
        let room = module.first().map_or("main", String::as_str).to_owned();
        // By convention, the module of tests ends a file.
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        let code =
            text[..end].lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        let mut file = SourceFile { path, room, module, text, code, paths: Vec::new() };
        file.paths = file.find_paths();
        file
    }

    fn find_paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        let parent = &self.module[..self.module.len().saturating_sub(1)];
        for (start, base) in [("crate::", &[][..]), ("super::", parent), ("self::", &self.module)] {
            for (at, _) in self.code.match_indices(start) {
                if !self.code[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_ascii_alphanumeric()) {
                    expand(&self.code[at + start.len()..], base, &mut found);
                }
            }
        }
        // A module names its children without a prefix.
        for child in self.code.lines().filter_map(module_name) {
            let start = format!("{child}::");
            for (at, _) in self.code.match_indices(&start) {
                if !self.code[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_ascii_alphanumeric()) {
                    expand(&self.code[at..], &self.module, &mut found);
                }
            }
        }
        found
    }
}

/// Takes a path, or a tree of paths in braces, apart.
fn expand(text: &str, base: &[String], found: &mut Vec<Vec<String>>) {
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut from) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    expand(group[from..at].trim(), base, found);
                    from = at + 1;
                }
                _ => {}
            }
            if c == '}' && depth == 0 && from == at + 1 {
                return;
            }
        }
        return;
    }
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    if name == "super" {
        path.pop();
    } else if name != "self" && !name.is_empty() {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c == '{' || c == '_' || c.is_ascii_alphabetic()) => {
            expand(rest, &path, found);
        }
        _ => found.push(path),
    }
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&room));
    floor.unwrap_or_else(|| panic!("src/{room} has no floor: give it one in tests/cli/house.rs"))
}

/// Prints a finding with its details, and fails if there are more than the bound.
fn report(name: &str, details: &[String], bound: usize) {
    println!("{name}: {} (bound {bound})", details.len());
    let list = details.iter().fold(String::new(), |mut list, detail| {
        let _ = writeln!(list, "  {detail}");
        list
    });
    print!("{list}");
    assert!(details.len() <= bound, "{name}: {} instead of at most {bound}\n{list}", details.len());
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rooms: BTreeSet<&str> = SOURCES.iter().map(|file| file.room.as_str()).collect();
    let mut arrows = BTreeSet::new();
    for file in SOURCES.iter() {
        for path in &file.paths {
            let Some(used) = path.first().filter(|used| rooms.contains(used.as_str())) else { continue };
            if *used != file.room && floor(used) >= floor(&file.room) {
                arrows.insert(format!("{} -> {}", file.path, path.join("::")));
            }
        }
    }
    println!("floors: {}", FLOORS.len());
    report("arrows up", &arrows.into_iter().collect::<Vec<_>>(), ARROWS_UP);
}

/// The files that each file uses, by their places in [`SOURCES`].
fn uses() -> Vec<BTreeSet<usize>> {
    let by_module: BTreeMap<&[String], usize> =
        SOURCES.iter().enumerate().map(|(n, file)| (file.module.as_slice(), n)).collect();
    let used = |path: &[String]| (1..=path.len()).rev().find_map(|n| by_module.get(&path[..n]).copied());
    let of = |(n, file): (usize, &SourceFile)| {
        file.paths.iter().filter_map(|path| used(path)).filter(|used| *used != n).collect()
    };
    SOURCES.iter().enumerate().map(of).collect()
}

#[test]
fn no_files_form_a_circle() {
    let uses = uses();
    let reached = |from: usize| {
        let (mut found, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(uses[file].iter().filter(|used| found.insert(**used)));
        }
        found
    };
    let reached: Vec<_> = (0..SOURCES.len()).map(reached).collect();
    let circle = |n: usize| {
        let others = reached[n].iter().filter(|other| **other != n && reached[**other].contains(&n));
        others.copied().chain([n]).collect::<BTreeSet<_>>()
    };
    let circles: BTreeSet<_> = (0..SOURCES.len()).map(circle).filter(|circle| circle.len() > 1).collect();
    let shown = |circle: &BTreeSet<usize>| {
        circle.iter().map(|n| SOURCES[*n].path.as_str()).collect::<Vec<_>>().join(", ")
    };
    report("circles", &circles.iter().map(shown).collect::<Vec<_>>(), CIRCLES);
}

/// Returns the rest of a line after its visibility and after one of these words.
fn item<'a>(line: &'a str, words: &[&str]) -> Option<&'a str> {
    let line = line.trim_start();
    let line =
        if line.starts_with("pub(") { line.split_once(") ")?.1 } else { line.trim_start_matches("pub ") };
    words.iter().find_map(|word| line.strip_prefix(word)?.strip_prefix(' '))
}

fn name(text: &str) -> &str {
    text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap()
}

#[test]
fn no_type_name_is_declared_twice() {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in SOURCES.iter() {
        for (n, line) in file.code.lines().enumerate() {
            // An indented `type` belongs to an implementation of a trait.
            let words = if line.starts_with(' ') { &TYPES[..3] } else { TYPES };
            if let Some(rest) = item(line, words) {
                places.entry(name(rest)).or_default().push(format!("{}:{}", file.path, n + 1));
            }
        }
    }
    let twice = places.iter().filter(|(_, places)| places.len() > 1);
    let twice: Vec<_> = twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    report("type names declared twice", &twice, TYPES_TWICE);
}

const TYPES: &[&str] = &["struct", "enum", "trait", "type"];

const ITEMS: &[&str] =
    &["const fn", "async fn", "fn", "const", "static", "struct", "enum", "trait", "type", "mod"];

#[test]
fn no_line_is_wider_than_a_screen() {
    let mut files = vec![root().join("README.md")];
    collect(&root().join("src"), "rs", &mut files);
    collect(&root().join("docs"), "md", &mut files);
    let (mut wide, mut widest) = (Vec::new(), 0);
    for path in files {
        let mut is_console = false;
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            is_console ^= line.starts_with("```");
            // A row of a Markdown table cannot be broken, and a console shows what the program prints.
            let is_bound = path.extension().is_some_and(|extension| extension == "md")
                && (is_console || line.starts_with('|'));
            let width = if is_bound { 0 } else { line.chars().count() };
            widest = widest.max(width);
            if width > WIDTH {
                wide.push(format!("{}:{}: {width}", path.strip_prefix(root()).unwrap().display(), n + 1));
            }
        }
    }
    println!("widest line: {widest}");
    report("wide lines", &wide, WIDE_LINES);
}

#[test]
fn comments_begin_with_a_subject_or_a_verb() {
    let is_riddle =
        |text: &str| ["What", "Whether", "Who", "Whoever", "How"].contains(&name(text.trim_start()));
    let mut riddles = Vec::new();
    for file in SOURCES.iter() {
        let mut continues = false;
        for (n, line) in file.text.lines().enumerate() {
            let comment =
                line.split_once("//").map(|(code, text)| (code, text.trim_start_matches(['/', '!'])));
            let opens = comment.is_some_and(|(code, text)| {
                (!continues || !code.trim().is_empty()) && is_riddle(text) && !code.ends_with(':')
            });
            if opens {
                riddles.push(format!("{}:{}: {}", file.path, n + 1, line.trim()));
            }
            continues = comment.is_some_and(|(code, text)| code.trim().is_empty() && !text.trim().is_empty());
        }
    }
    report("comments that open with What, Whether, Who or How", &riddles, RIDDLES);
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric())
}

#[test]
fn a_room_shows_only_what_other_rooms_use() {
    let mut by_room: BTreeMap<String, HashSet<&str>> = BTreeMap::new();
    for (path, text) in FILES.iter() {
        let room = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        by_room.entry(room.to_owned()).or_default().extend(words(text));
    }
    let mut shown: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for file in SOURCES.iter() {
        shown.entry(&file.room).or_default().extend(signatures(file));
    }
    let mut unused = Vec::new();
    for file in SOURCES.iter() {
        for (n, line) in file.code.lines().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("pub(crate) ") else { continue };
            let name = name(item(rest, ITEMS).unwrap_or(rest));
            let is_used = || by_room.iter().any(|(room, words)| *room != file.room && words.contains(name));
            let is_needed = || item(rest, TYPES).is_some() && shown[file.room.as_str()].contains(name);
            if !rest.starts_with("use ") && !FACES_BY_NEED.contains(&name) && !is_used() && !is_needed() {
                unused.push(format!("{}:{}: {}", file.path, n + 1, line.trim()));
            }
        }
    }
    report("pub(crate) that no other room uses", &unused, UNUSED_FACES);
}

/// Returns the words in the signatures and fields that a file shows to other rooms, each without its own
/// name: the compiler wants the types in them to be as visible.
fn signatures(file: &SourceFile) -> HashSet<&str> {
    let mut found = HashSet::new();
    let mut lines = file.code.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix("pub(crate) ") else { continue };
        let own = item(rest, ITEMS).unwrap_or(rest);
        found.extend(words(&own[name(own).len()..]));
        let indent = line.len() - line.trim_start().len();
        let is_block = ["enum ", "trait "].iter().any(|word| rest.starts_with(word));
        let is_open =
            if is_block { rest.ends_with('{') } else { rest.contains("fn ") && !rest.contains(['{', ';']) };
        let end = format!("{:indent$}}}", "");
        for line in lines.by_ref().take(if is_open { usize::MAX } else { 0 }) {
            found.extend(words(line));
            if line.starts_with(&end) || (!is_block && line.ends_with(['{', ';'])) {
                break;
            }
        }
    }
    found
}

#[test]
fn clippy_limits_functions() {
    let limits = fs::read_to_string(root().join("clippy.toml")).unwrap();
    for limit in ["too-many-arguments-threshold = 5", "too-many-lines-threshold = 60"] {
        assert!(limits.lines().any(|line| line == limit), "clippy.toml lacks {limit}");
    }
    let lints = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(
        lints.contains("pedantic = { level = \"warn\""),
        "Cargo.toml lacks pedantic, with too_many_lines"
    );
}
