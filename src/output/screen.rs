//! The terminal that text is shown on: its width, and if it takes colours.
//!
//! Only the words `error:`, `warning:`, `hint:` and `attention`, and limits that are exceeded, are coloured,
//! in the colours of clap's own usage errors. `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and a dumb `TERM` are
//! respected, and `--color` decides before them. Colours carry no information: the words say the same.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use rustix::termios::tcgetwinsize;

/// The width of a terminal that does not tell its own.
const USUAL_WIDTH: usize = 80;

/// Units of sizes, which are never on another line than their number.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "%"];

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Green.on_default();

/// Words that are coloured at the start of a line, and the same for phrases anywhere.
const LABELS: &[(&str, Style)] =
    &[("error:", ERROR), ("warning:", WARNING), ("hint:", HINT), ("attention", WARNING)];
const PHRASES: &[(&str, Style)] = &[("over its limit", ERROR)];

/// When to use colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal that has colours
    Auto,
    Always,
    Never,
}

impl ColorWhen {
    /// Returns the choice that a command line makes, before it is parsed: usage errors are coloured, too.
    pub(crate) fn on(line: &[OsString]) -> Option<Self> {
        let mut words = line.iter().map(|word| word.to_str().unwrap_or_default());
        let mut chosen = None;
        while let Some(word) = words.next() {
            let when = match word.strip_prefix("--color") {
                _ if word == "--" => break,
                Some("") => words.next(),
                Some(rest) => rest.strip_prefix('='),
                None => None,
            };
            chosen = when.and_then(|when| ColorWhen::from_str(when, false).ok()).or(chosen);
        }
        chosen
    }

    /// Decides for the whole program.
    pub(crate) fn decide(self) {
        let choice = match self {
            ColorWhen::Auto => ColorChoice::Auto,
            ColorWhen::Always => ColorChoice::Always,
            ColorWhen::Never => ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// A place for text: a terminal, or anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Screen {
    /// Columns; `None` if the text goes elsewhere, and its lines may have any length.
    pub(crate) width: Option<usize>,
    has_colour: bool,
}

impl Screen {
    /// Text that goes to a file or a pipe.
    #[cfg(test)]
    pub(super) const PLAIN: Screen = Screen { width: None, has_colour: false };

    /// Returns a terminal without colours.
    #[cfg(test)]
    pub(crate) fn of_width(width: usize) -> Self {
        Screen { width: Some(width), has_colour: false }
    }

    /// Returns the screen behind stdout or stderr.
    pub(super) fn of<S: RawStream + std::os::fd::AsFd>(stream: &S) -> Self {
        let width = stream.is_terminal().then(|| match tcgetwinsize(stream) {
            Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
            _ => USUAL_WIDTH,
        });
        Screen { width, has_colour: AutoStream::choice(stream) != ColorChoice::Never }
    }

    /// Returns a text in which the words that need attention are coloured, if the screen has colours.
    pub(super) fn emphasized(&self, text: &str) -> String {
        if !self.has_colour {
            return text.to_owned();
        }
        let mut shown = String::with_capacity(text.len() + 64);
        for line in text.split_inclusive('\n') {
            let label = LABELS.iter().find(|(label, _)| line.starts_with(label));
            let rest = label.map_or(line, |(label, style)| {
                let _ = write!(shown, "{style}{label}{style:#}");
                &line[label.len()..]
            });
            match PHRASES.iter().find_map(|(phrase, style)| Some((rest.split_once(phrase)?, phrase, style))) {
                Some(((before, after), phrase, style)) => {
                    let _ = write!(shown, "{before}{style}{phrase}{style:#}{after}");
                }
                None => shown.push_str(rest),
            }
        }
        shown
    }

    /// Returns a text whose lines are broken at blanks to fit the screen. Further lines of a paragraph are
    /// indented.
    pub(super) fn wrapped(&self, text: &str) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let mut shown = String::with_capacity(text.len());
        for line in text.lines() {
            for (number, part) in wrap(line, width.saturating_sub(2)).iter().enumerate() {
                shown.push_str(if number == 0 { "" } else { "  " });
                shown.push_str(part);
                shown.push('\n');
            }
        }
        shown
    }
}

/// Breaks a line at blanks into parts of at most this many characters. A longer word stays whole, and a unit
/// stays with its number.
pub(super) fn wrap(line: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let is_unit = UNITS.contains(&word.trim_end_matches([',', ';', ':', '.', ')']));
        match words.last_mut() {
            Some(number) if is_unit => {
                number.push(' ');
                number.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut parts: Vec<String> = Vec::new();
    let mut used = 0;
    for word in words {
        let length = word.chars().count();
        match parts.last_mut() {
            Some(part) if used + 1 + length <= width => {
                part.push(' ');
                part.push_str(&word);
                used += 1 + length;
            }
            _ => {
                parts.push(word);
                used = length;
            }
        }
    }
    parts
}

/// True if the locale encodes text as UTF-8. As in the C library, the first variable that is not empty
/// counts.
pub(super) fn is_utf8<'a>(variable: impl Fn(&'static str) -> Option<&'a OsStr>) -> bool {
    let named = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|name| !name.is_empty());
    let name = named.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_need_attention_are_coloured() {
        let screen = Screen { width: Some(80), has_colour: true };
        assert_eq!(screen.emphasized("tracked  5\nno attention\n"), "tracked  5\nno attention\n");
        assert_eq!(
            screen.emphasized("attention  the cache is over its limit: run prune\n"),
            "\u{1b}[1m\u{1b}[33mattention\u{1b}[0m  the cache is \u{1b}[1m\u{1b}[31mover its limit\u{1b}[0m: \
             run prune\n"
        );
        assert_eq!(Screen::PLAIN.emphasized("error: no\n"), "error: no\n");
    }

    #[test]
    fn lines_are_broken_at_blanks_and_words_stay_whole() {
        let screen = Screen { width: Some(14), has_colour: false };
        assert_eq!(screen.wrapped("one two three four\nend\n"), "one two\n  three four\nend\n");
        assert_eq!(screen.wrapped("a-word-that-is-too-long is\n"), "a-word-that-is-too-long\n  is\n");
        assert_eq!(screen.wrapped("holds 3 of 4 GiB; no\n"), "holds 3 of\n  4 GiB; no\n");
        assert_eq!(Screen::PLAIN.wrapped("one two three four\n"), "one two three four\n");
    }

    #[test]
    fn the_first_variable_with_a_value_names_the_locale() {
        let locale = |all: &'static str, ctype: &'static str, lang: &'static str| {
            is_utf8(move |name| {
                Some(OsStr::new(match name {
                    "LC_ALL" => all,
                    "LC_CTYPE" => ctype,
                    _ => lang,
                }))
            })
        };
        assert!(
            locale("", "", "C.UTF-8") && locale("", "en_US.utf8", "C") && locale("de_DE.UTF-8", "C", "C")
        );
        assert!(
            !locale("C", "en_US.UTF-8", "en_US.UTF-8") && !locale("", "", "") && !locale("", "", "POSIX")
        );
    }

    #[test]
    fn colours_are_chosen_before_the_line_is_parsed() {
        let on = |line: &str| ColorWhen::on(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(on("list --color never"), Some(ColorWhen::Never));
        assert_eq!(on("--color=always list --nonsense"), Some(ColorWhen::Always));
        assert_eq!(on("list --color sometimes"), None);
        assert_eq!(on("list -- --color=never"), None);
        assert_eq!(on("list"), None);
    }
}
