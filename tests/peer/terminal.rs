//! What a person sees on a real terminal of a certain width, dark or dumb.

use std::thread::sleep;
use std::time::Duration;

use crate::support::double::{Double, ok, send};
use crate::support::env::*;
use crate::support::needs;

/// A terminal, and the environment of the commands that run on it.
struct Terminal {
    columns: u16,
    variables: &'static [(&'static str, &'static str)],
}

const NARROW: Terminal = Terminal { columns: 80, variables: &[("TERM", "xterm")] };

impl Terminal {
    /// Runs a command of the cache, and returns what the terminal shows, without the colours, and with them.
    fn shows(&self, env: &TestEnv, arguments: &[&str], code: i32) -> (String, String) {
        needs::script();
        let words: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "stty cols {} rows 50; '{BINARY}' {} --cache-dir '{}'",
            self.columns,
            words.join(" "),
            env.dir().display()
        );
        let mut command = env.command("/usr/bin/script");
        command.args(["-qec", &line, "/dev/null"]).env("PATH", "/usr/bin:/bin");
        command.envs(self.variables.iter().copied());
        let run = env.finish(&mut command).code(code);
        let shown = run.stdout.replace('\r', "");
        let mut plain = String::new();
        let mut rest = shown.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain.push_str(before);
            rest = after.split_once('m').map_or("", |(_, after)| after);
        }
        (plain + rest, shown)
    }
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn a_list_fits_the_terminal_and_ids_are_whole() {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 600, 5);
    env.file(format!("incomplete/{}", id('3')), 30, 1);
    for (columns, most) in [(80, 80), (100, 100), (120, 120), (60, 78)] {
        let terminal = Terminal { columns, ..NARROW };
        let (shown, _) = terminal.shows(&env, &["list"], 0);
        assert!(widest(&shown) <= most, "{columns}:\n{shown}");
        for letter in ['a', 'b', 'c', 'd', 'e', 'f', '3'] {
            assert!(shown.contains(&id(letter)), "{columns}:\n{shown}");
        }
        assert_eq!(shown.contains("MODIFIED"), columns >= 100, "{columns}:\n{shown}");
    }
    let (shown, _) = NARROW.shows(&env, &["list", "--wide"], 0);
    assert!(shown.contains("MODIFIED") && widest(&shown) > 80, "{shown}");
}

#[test]
fn a_change_prints_text_once() {
    let env = TestEnv::sqlite(FIVE);
    let (shown, _) = NARROW.shows(&env, &["prune", "--max-size", "3000B"], 0);
    assert_eq!(shown.matches("prune: removed").count(), 1, "{shown}");
    assert!(!shown.contains('{'), "{shown}");
    let (shown, _) = NARROW.shows(&env, &["clean"], 0);
    assert_eq!((shown.matches("clean: removed").count(), shown.contains('{')), (1, false), "{shown}");
    let (shown, _) = NARROW.shows(&env, &["prune", "--max-size", "3000B", "--format", "json"], 0);
    assert!(shown.contains("{\"total_files_pruned\":0"), "{shown}");
}

#[test]
fn a_plan_is_a_table_that_fits() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('1', 3);
    let (shown, _) = NARROW.shows(&env, &["prune", "-n", "--max-size", "3000B", "--keep", &id('a')], 0);
    assert!(shown.starts_with("ACTION") && widest(&shown) <= 80, "{shown}");
    let line = shown.lines().find(|line| line.contains(&id('b'))).unwrap();
    assert!(line.starts_with("remove") && line.contains("last use 20"), "{shown}");
    assert!(shown.contains("prune: would remove"), "{shown}");
}

#[test]
fn a_long_plan_is_not_printed_whole_unless_it_is_asked_for() {
    let env = TestEnv::large(crate::support::env::Xattr, 300);
    let (shown, _) = NARROW.shows(&env, &["prune", "-n", "--max-size", "0"], 0);
    assert!(shown.lines().count() < 110 && shown.contains("... and 200 more"), "{shown}");
    let (shown, _) = NARROW.shows(&env, &["prune", "-n", "-v", "--max-size", "0"], 0);
    assert!(shown.lines().count() > 300 && !shown.contains(" more; "), "{shown}");
}

#[test]
fn colours_only_where_the_terminal_has_them_and_nobody_objects() {
    let env = TestEnv::sqlite(FIVE);
    let wrong = ["prune", "--driver", "sqlite", "--max-size", "3000B", "--target-size", "4000B"];
    let has_colour = |variables, more: &[&str]| {
        let terminal = Terminal { columns: 80, variables };
        let (plain, shown) = terminal.shows(&env, &[&wrong[..], more].concat(), 2);
        assert!(plain.contains("error: --target-size"), "{plain}");
        shown.contains("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m")
    };
    assert!(has_colour(&[("TERM", "xterm")], &[]));
    assert!(!has_colour(&[("TERM", "dumb")], &[]));
    assert!(!has_colour(&[("TERM", "xterm"), ("NO_COLOR", "1")], &[]));
    assert!(!has_colour(&[("TERM", "xterm")], &["--color", "never"]));
    assert!(has_colour(&[("TERM", "xterm"), ("NO_COLOR", "1")], &["--color=always"]));
    let (_, shown) = NARROW.shows(&env, &["status", "--max-size", "3000B"], 0);
    assert!(shown.contains("\u{1b}[33mattention\u{1b}[0m"), "{shown}");
    let (_, shown) = NARROW.shows(&env, &["list", "--nonsense", "--color", "never"], 2);
    assert!(!shown.contains('\u{1b}'), "usage errors, too: {shown}");
}

#[test]
fn a_bar_runs_over_the_nodes() {
    let env = TestEnv::sqlite(&[]);
    let slow = || {
        Double::new(|_, stream| {
            sleep(Duration::from_millis(300));
            send(stream, &ok(r#"{"total_files_pruned": 1, "total_bytes_pruned": 10}"#));
        })
    };
    let nodes: Vec<Double> = (0..6).map(|_| slow()).collect();
    let mut line = vec!["prune".to_owned(), "--jobs".to_owned(), "1".to_owned()];
    line.extend(nodes.iter().flat_map(|node| ["--os-image-url".to_owned(), node.url()]));
    let words: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let script = format!("stty cols 100 rows 50; '{BINARY}' {}", words.join(" "));
    needs::script();
    let mut command = env.command("/usr/bin/script");
    command.args(["-qec", &script, "/dev/null"]).env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
    let shown = env.finish(command.env("OS_TOKEN", "a-token")).ok().stdout;
    assert!(shown.contains("pruning") && shown.contains("3 of 6"), "{shown:?}");
    assert!(shown.contains("pruned 6 files (60 B); 6 of 6 nodes done"), "{shown:?}");
    // Nothing of the bar stays above the table.
    let after = shown.rsplit("\u{1b}[2K").next().unwrap();
    assert!(!after.contains("of 6,") && after.contains("NODE"), "{shown:?}");
}
