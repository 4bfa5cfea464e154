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
    (&["--logfile", "--log_file", "--log-file"], "use --log-file FILE"),
    (&["--log-dir", "--logdir", "--log_dir"], "use --log-file FILE, with the whole path"),
    (&["--use-syslog", "--use_syslog"], "use --syslog"),
    (&["--use-journal", "--use_journal"], "use --journal"),
    (&["--nouse-syslog", "--nouse-journal", "--nouse-json", "--use-stderr", "--nouse-stderr",
       "--watch-log-file", "--nowatch-log-file", "--log-format", "--log-config",
       "--log-config-append", "--log_config"],
     "leave it out: it has no equivalent here"),
    (&["--use-json", "--log-date-format", "--syslog-log-facility"],
     "set the option of that name in glance-cache.conf"),
    (&["--shell_completion", "--shell-completion"], "use glance-cache completion SHELL"),
];

/// Improves the error of a command line.
pub(super) fn advise(error: &mut clap::Error) {
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
    let old = old_option(&word);
    if !is_meant || old.is_some() {
        error.remove(ContextKind::SuggestedArg);
    }
    // No value of these commands begins with a dash.
    error.remove(ContextKind::Suggested);
    if let Some(advice) = old {
        let tip = StyledStr::from(format!("{word} is an option of the old tools: {advice}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

/// Returns what to write instead of an option of the old tools.
fn old_option(word: &str) -> Option<&'static str> {
    let word = word.split('=').next().unwrap_or_default();
    OLD_OPTIONS.iter().find(|(names, _)| names.contains(&word)).map(|(_, advice)| *advice)
}
