//! Advice on wrong command lines: how an option of the old tools is written now, and which option was
//! probably meant.
//!
//! The parser suggests any option whose letters are similar, such as `--min-age` for `--image`. Only
//! suggestions that are probably meant are kept.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::spelling::is_close;

/// Options of the old tools that have another name or place now, each with what to write instead.
#[rustfmt::skip]
const OLD_OPTIONS: &[(&[&str], &str)] = &[
    (&["--debug", "-d"], "use --verbose, which prints what is done and why"),
    (&["--nodebug", "--noverbose"], "leave it out: details are printed only with --verbose"),
    (&["--nouse-syslog", "--nouse-journal", "--nouse-json", "--use-stderr", "--nouse-stderr",
       "--watch-log-file", "--nowatch-log-file", "--log-format", "--log-config",
       "--log-config-append", "--log_config"],
     "leave it out: it has no equivalent here"),
    (&["--use-json", "--log-date-format", "--syslog-log-facility"],
     "set the option of that name in glance-cache.conf"),
    (&["--shell_completion", "--shell-completion"], "use glance-cache completion SHELL"),
];

/// The options of the old tools that say where the log goes.
const LOG_OPTIONS: &[(&[&str], &str)] = &[
    (&["--logfile", "--log_file", "--log-file"], "use --log-file FILE"),
    (&["--log-dir", "--logdir", "--log_dir"], "use --log-file FILE, with the whole path"),
    (&["--use-syslog", "--use_syslog", "--syslog"], "use --syslog"),
    (&["--use-journal", "--use_journal", "--journal"], "use --journal"),
];

/// Improves the error of a command line.
///
/// `writes_log` is false for a subcommand that has no options for a log, because it changes nothing.
pub(super) fn advise(error: &mut clap::Error, writes_log: bool) {
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return };
    let word = word.clone();
    let name = |option: &str| option.trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
    let is_meant = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(meant)) => is_close(&name(&word), &name(meant)),
        _ => false,
    };
    let of_log = advice_in(LOG_OPTIONS, &word);
    let tip = match of_log {
        Some(_) if !writes_log => Some("status and list change nothing, so they write no log".to_owned()),
        _ => of_log
            .or_else(|| advice_in(OLD_OPTIONS, &word))
            .map(|advice| format!("{word} is an option of the old tools: {advice}")),
    };
    if !is_meant || tip.is_some() {
        error.remove(ContextKind::SuggestedArg);
    }
    // No value of these commands begins with a dash.
    error.remove(ContextKind::Suggested);
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
}

/// Returns what a table says about an option.
fn advice_in(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    let word = word.split('=').next().unwrap_or_default();
    table.iter().find(|(names, _)| names.contains(&word)).map(|(_, advice)| *advice)
}
