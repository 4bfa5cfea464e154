//! The man pages under the programs that check and format them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::needs;

fn pages() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/man");
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|section| section == "8")).collect();
    assert!(pages.len() >= 10, "{pages:?}");
    pages
}

/// Runs a program on a page, and returns all that it prints.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

#[test]
fn mandoc_has_nothing_to_say() {
    needs::mandoc();
    for page in pages() {
        assert_eq!(printed(Command::new("mandoc").args(["-T", "lint", "-W", "all"]).arg(page)), "");
    }
}

#[test]
fn lexgrog_finds_the_name_of_each_page() {
    needs::man_db();
    for page in pages() {
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        let found = printed(Command::new("lexgrog").arg(&page));
        let expected = format!("{}: \"{name} - ", page.display());
        assert!(found.starts_with(&expected) && found.lines().count() == 1, "{found}");
    }
}

#[test]
fn man_formats_each_page_without_a_warning() {
    needs::man_db();
    for page in pages() {
        let mut command = Command::new("man");
        command.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(&page);
        let output =
            command.env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").env("MANWIDTH", "80").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for section in
            ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"]
        {
            assert!(text.lines().any(|line| line == section), "{}: no {section}:\n{text}", page.display());
        }
    }
}
