//! Renders the man pages from the parser and from the hand-written templates in `man/templates`. This is part
//! of the tests.
//!
//! A template is a page in man(7) with directives: `@header`, `@synopsis`, `@description`, `@options` and
//! `@exit` are replaced by text from the parser, `@commands` by the list of subcommands, and `@include FILE`
//! by a section that several pages share. The pages of the old names have the options of their own `--help`.

use std::fmt::Write as _;
use std::fs::read_to_string;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::Cli;
use crate::legacy::{Invocation, Tool, parse};

/// The names of the tools that this program replaces.
pub(super) const OLD_NAMES: [&str; 3] =
    ["glance-cache-cleaner", "glance-cache-pruner", "glance-cache-prefetcher"];

/// The day on which the pages were last reworked.
const REVISED: &str = "2026-11-28";

/// An option of an old name, as its help shows it.
#[derive(Debug)]
pub(super) struct OldOption {
    pub(super) names: Vec<String>,
    pub(super) value: Option<String>,
    pub(super) help: String,
}

impl OldOption {
    /// True if only older releases of the real tools had it.
    pub(super) fn is_obsolete(&self) -> bool {
        self.help.contains("old callers")
    }
}

/// Reads the options of the old names from their help. They are the same for all old names.
pub(super) fn old_options() -> Vec<OldOption> {
    let Invocation::Print(help) = parse(Tool::Pruner, &["--help".into()]).unwrap() else {
        panic!("--help prints the help")
    };
    let mut lines = help.lines().skip_while(|line| *line != "options:").skip(1);
    let mut options = Vec::new();
    while let Some(line) = lines.next() {
        let (usage, help) = match line.trim().split_once("  ") {
            Some((usage, help)) => (usage, help),
            None => (line.trim(), lines.next().unwrap()),
        };
        let (usage, value) = match usage.rsplit_once(' ') {
            Some((usage, value)) if !value.starts_with('-') => (usage, Some(value.to_owned())),
            _ => (usage, None),
        };
        let names = usage.split(", ").map(str::to_owned).collect();
        options.push(OldOption { names, value, help: help.trim().to_owned() });
    }
    options
}

/// Escapes text for a page, so that hyphens can be copied and nothing is read as a macro.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Returns the description of a command. The first line, which is the name of the page, and the paragraph
/// that refers to this page are left out.
fn description(command: &Command, name: &str) -> String {
    let text = command.get_long_about().expect("every command has a description").to_string();
    let paragraphs =
        text.split("\n\n").skip(1).filter(|paragraph| !paragraph.contains(&format!("{name}(8)")));
    let paragraphs: Vec<_> = paragraphs.map(|paragraph| roff(&paragraph.replace('\n', " "))).collect();
    paragraphs.join("\n.PP\n")
}

/// Returns the names of an option, and its value.
fn usage(arg: &Arg) -> String {
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|short| format!("\\fB\\-{short}\\fR")));
    names.extend(arg.get_long().map(|long| format!("\\fB{}\\fR", roff(&format!("--{long}")))));
    let value = arg.get_value_names().and_then(|names| names.first());
    let value = value.map(|value| format!("\\fI{}\\fR", roff(value)));
    match (arg.get_action().takes_values(), value) {
        _ if arg.is_positional() => format!("\\fI{}\\fR", roff(arg.get_value_names().unwrap()[0].as_str())),
        (true, Some(value)) => format!("{} {value}", names.join(", ")),
        _ => names.join(", "),
    }
}

/// Appends an option with its help.
fn option(arg: &Arg, page: &mut String) {
    let _ = writeln!(page, ".TP\n{}", usage(arg));
    let help = arg.get_long_help().or(arg.get_help()).cloned().unwrap_or_default();
    let mut text: Vec<String> =
        help.to_string().split("\n\n").map(|text| roff(&text.replace('\n', " "))).collect();
    let words: Vec<_> = arg.get_possible_values().into_iter().filter(|word| !word.is_hide_set()).collect();
    if arg.get_action().takes_values() && !words.is_empty() {
        let word = |word: &clap::builder::PossibleValue| match word.get_help() {
            Some(help) => format!(".TP\n\\fB{}\\fR\n{}", roff(word.get_name()), roff(&help.to_string())),
            None => format!(".TP\n\\fB{}\\fR", roff(word.get_name())),
        };
        if words.iter().any(|word| word.get_help().is_some()) {
            let list: Vec<_> = words.iter().map(word).collect();
            text.push(format!("One of:\n.RS\n{}\n.RE", list.join("\n")));
        } else {
            let list: Vec<_> =
                words.iter().map(|word| format!("\\fB{}\\fR", roff(word.get_name()))).collect();
            text.push(format!("One of: {}", list.join(", ")));
        }
    }
    if arg.get_action().takes_values() && !arg.get_default_values().is_empty() {
        let default = arg.get_default_values()[0].to_string_lossy().into_owned();
        text.push(format!("[default: {}]", roff(&default)));
    }
    let _ = writeln!(page, "{}", text.join("\n.sp\n"));
}

/// Returns all options of a command, below the headings of the help.
fn options(command: &Command) -> String {
    let mut page = String::new();
    command.get_positionals().for_each(|arg| option(arg, &mut page));
    let named: Vec<&Arg> =
        command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()).collect();
    let mut headings: Vec<Option<&str>> = vec![None];
    for arg in &named {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = writeln!(page, ".SS {heading}");
        }
        named.iter().filter(|arg| arg.get_help_heading() == heading).for_each(|arg| option(arg, &mut page));
    }
    page
}

/// Returns the line that shows how a command is called.
fn synopsis(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut line = format!("\\fB{}\\fR", roff(name));
    if command.get_subcommands().next().is_some() {
        line.push_str(" \\fICOMMAND\\fR [\\fIOPTION\\fR]...");
        return line;
    }
    if command.get_opts().next().is_some() {
        line.push_str(" [\\fIOPTION\\fR]...");
    }
    for arg in command.get_positionals() {
        let name = roff(arg.get_value_names().unwrap()[0].as_str());
        let many = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
        let shown = format!("\\fI{name}\\fR");
        let (left, right) = if arg.is_required_set() { ("", "") } else { ("[", "]") };
        let _ = write!(line, " {left}{shown}{right}{many}");
    }
    line
}

/// Returns the exit codes of the help as a list.
fn exit(command: &Command) -> String {
    let text = command.get_after_long_help().or(command.get_after_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let mut page = String::new();
    for line in text.lines().skip(1) {
        match line.trim().split_once("  ") {
            Some((code, meaning)) => {
                let _ = write!(page, "\n.TP\n\\fB{code}\\fR\n{}", roff(meaning.trim()));
            }
            None => {
                let _ = write!(page, "\n{}", roff(line.trim()));
            }
        }
    }
    format!("{}\n", page.trim_start())
}

/// Returns the list of subcommands.
fn commands(root: &Command) -> String {
    let mut page = String::new();
    for sub in root.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, ".TP\n\\fBglance\\-cache\\-{}\\fR(8)\n{}", sub.get_name(), roff(&about));
    }
    page
}

/// Returns the options of the old names, in the order of their help.
fn options_of_old_names() -> String {
    let mut page = String::new();
    for OldOption { names, value, help } in old_options() {
        let names: Vec<_> = names.iter().map(|name| roff(name)).collect();
        let value = value.map(|value| format!(" \" \\fI{value}\\fR\"")).unwrap_or_default();
        let _ = writeln!(page, ".TP\n.BR {}{value}\n{}", names.join(" \", \" "), roff(&help));
    }
    page
}

/// Fills in a template.
fn page(name: &str, root: &Command, templates: &Path) -> String {
    let old = OLD_NAMES.contains(&name);
    let command = name
        .strip_prefix("glance-cache-")
        .filter(|_| !old)
        .map_or(root, |sub| root.find_subcommand(sub).expect("a subcommand has this name"));
    let read = |file: &str| read_to_string(templates.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let version = env!("CARGO_PKG_VERSION");
    let mut page =
        format!(".\\\" Rendered from man/templates/{name}.8 and the parser by a test: change those.\n");
    for line in read(&format!("{name}.8")).lines() {
        let (directive, rest) = line.split_once(' ').unwrap_or((line, ""));
        let text = match directive {
            "@header" => format!(
                ".TH {} 8 {REVISED} \"glance\\-cache {version}\" \"System Manager's Manual\"\n",
                roff(&name.to_uppercase())
            ),
            "@synopsis" if old => format!("\\fB{}\\fR [\\fIOPTION\\fR]...\n", roff(name)),
            "@synopsis" => format!("{}\n", synopsis(command)),
            "@description" => format!("{}\n", description(command, name)),
            "@options" if old => options_of_old_names(),
            "@options" => options(command),
            "@exit" => exit(command),
            "@commands" => commands(root),
            "@include" => read(rest),
            directive => {
                assert!(!directive.starts_with('@'), "{name}: {directive} is not known");
                format!("{line}\n")
            }
        };
        page.push_str(&text);
    }
    wrapped(&page)
}

/// Puts each sentence on lines of its own, none wider than 80 columns, as `mandoc -T lint` asks for.
fn wrapped(page: &str) -> String {
    let mut text = String::new();
    let mut is_example = false;
    for line in page.lines() {
        is_example = (is_example || line == ".EX") && line != ".EE";
        // Macros and examples stay as they are.
        let keep = is_example || line.starts_with('.');
        let words: Vec<&str> = if keep { vec![line] } else { line.split(' ').collect() };
        let mut width = 0;
        for word in words {
            if width > 0 && (text.ends_with('.') || width + 1 + word.len() > 80) {
                text.push('\n');
                width = 0;
            } else if width > 0 {
                text.push(' ');
                width += 1;
            }
            text.push_str(word);
            width += word.len();
        }
        text.push('\n');
    }
    text
}

#[test]
fn rendered_man_pages_are_current() {
    let mut root = Cli::command();
    root.build();
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/templates");
    let mut names = vec!["glance-cache".to_owned()];
    let subs = root.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    names.extend(subs.map(|sub| format!("glance-cache-{}", sub.get_name())));
    names.extend(OLD_NAMES.map(str::to_owned));
    let pages = names.iter().map(|name| (format!("man/{name}.8").into(), page(name, &root, &templates)));
    super::tests::compare(pages.collect());

    // Every page belongs to a command that still exists.
    let man = std::fs::read_dir(templates.parent().unwrap()).unwrap();
    for file in
        man.map(|file| file.unwrap().file_name().into_string().unwrap()).filter(|file| file != "templates")
    {
        let name = file.strip_suffix(".8").unwrap_or_else(|| panic!("man/{file} is not a page of section 8"));
        assert!(names.iter().any(|known| known == name), "man/{file} belongs to no command");
    }
}

/// `.BR name (8)` refers to a page. The pages of this program must exist.
#[test]
fn pages_refer_to_pages_that_exist() {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut references = 0;
    for file in std::fs::read_dir(man.join("templates")).unwrap() {
        for line in read_to_string(file.unwrap().path()).unwrap().lines() {
            let Some(name) = line.strip_prefix(".BR ").and_then(|line| line.split_once(" (8)")) else {
                continue;
            };
            let page = man.join(format!("{}.8", name.0.replace('\\', "")));
            assert!(page.is_file() || name.0 == "rbd", "{line}");
            references += 1;
        }
    }
    assert!(references > 30, "only {references} references were found");
}
