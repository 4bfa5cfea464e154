//! Decides to which logs a run writes: the options of oslo.log, and those of our own command line.
//!
//! An old tool logs where any file of Glance's configuration says, as Glance's tool does. Under its own name,
//! this program counts only its own files, `glance-cache.conf` and those in `glance-cache.conf.d`, and the
//! variables of its process: a `log_file` in `glance-api.conf` or `glance.conf` is the log of glance-api,
//! which expects no other writer and rotates it as it likes.
//!
//! A wrong value of one of these options never fails a run. Nothing is opened here.

use std::path::PathBuf;

use super::log::{Log, LogSettings};
use super::oslo::{Encoding, Level};
use crate::config::{self, Config, Opt};

/// The log options of the command line under our own name.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogOptions {
    pub(crate) file: Option<PathBuf>,
    pub(crate) syslog: bool,
    pub(crate) journal: bool,
}

/// Returns the logs of a run under our own name, and a warning for each that cannot be used.
pub(crate) fn own_log(config: &Config, options: LogOptions) -> (Log, Vec<String>) {
    let text = |opt: &Opt<'static>| Some(config.own_text(opt).ok()??.value);
    let switch = |opt: &Opt<'static>| config.own_boolean(opt).is_ok_and(|setting| setting.value);
    let mut settings = settings(&text, &switch);
    settings.stderr = false;
    settings.syslog |= options.syslog;
    settings.journal |= options.journal;
    if options.file.is_some() {
        // A path on the command line is relative to where the user is, not to `log_dir`.
        (settings.log_file, settings.log_dir) = (options.file, None);
    }
    Log::open(&settings, "glance-cache")
}

/// Returns the logs of an old tool, and a warning for each that cannot be used. `given` returns the value of
/// an option on the tool's command line, which wins over the configuration.
pub(crate) fn log_of_old_tool(
    program: &str,
    config: &Config,
    given: &dyn Fn(&str) -> Option<String>,
) -> (Log, Vec<String>) {
    let text = |opt: &Opt<'static>| given(opt.name).or_else(|| Some(config.optional(opt).ok()??.value));
    let switch = |opt: &Opt<'static>| match given(opt.name) {
        Some(given) => given == "true",
        None => config.boolean(opt).is_ok_and(|setting| setting.value),
    };
    let mut settings = settings(&text, &switch);
    let is_elsewhere =
        settings.log_file.is_some() || settings.log_dir.is_some() || settings.syslog || settings.journal;
    // Stderr must stay empty without errors, so debug records go there only if there is no other log.
    settings.stderr = !is_elsewhere && switch(&config::USE_STDERR);
    Log::open(&settings, program)
}

/// Returns oslo.log's options, except for stderr. An invalid boolean counts as false.
fn settings(
    text: &dyn Fn(&Opt<'static>) -> Option<String>,
    switch: &dyn Fn(&Opt<'static>) -> bool,
) -> LogSettings {
    let text = |opt| text(opt).filter(|text| !text.is_empty());
    let defaults = LogSettings::default();
    LogSettings {
        log_file: text(&config::LOG_FILE).map(PathBuf::from),
        log_dir: text(&config::LOG_DIR).map(PathBuf::from),
        syslog: switch(&config::USE_SYSLOG),
        journal: switch(&config::USE_JOURNAL),
        facility: text(&config::SYSLOG_LOG_FACILITY).unwrap_or(defaults.facility),
        level: if switch(&config::DEBUG) { Level::Debug } else { Level::Info },
        encoding: if switch(&config::USE_JSON) { Encoding::Json } else { Encoding::Text },
        date_format: text(&config::LOG_DATE_FORMAT).unwrap_or(defaults.date_format),
        format: text(&config::LOGGING_DEFAULT_FORMAT_STRING).unwrap_or(defaults.format),
        debug_suffix: text(&config::LOGGING_DEBUG_FORMAT_SUFFIX).unwrap_or(defaults.debug_suffix),
        ..defaults
    }
}
