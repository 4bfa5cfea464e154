//! The names and the command line of Glance's own cache tools.
//!
//! Under the name `glance-cache-cleaner`, `glance-cache-pruner` or `glance-cache-prefetcher`, this binary
//! accepts the command line of that tool: the options of oslo.config and oslo.log, parsed as Python's
//! argparse does (`--option value` and `--option=value`, unambiguous prefixes, clustered short options, no
//! positional arguments). The parser is our own because clap has no `--nouse-syslog` and no `--log_config`,
//! and accepts other abbreviations.
//!
//! Promises: every command line that the real tool accepts is accepted and has the same values. Any other is
//! an error, and every error from here is a usage error (exit 2). Options of older releases are accepted when
//! they are spelled out, because crontabs still contain them.
//!
//! Does not read configuration, expand `$name` in values, or print.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use crate::config::ConfigSource;

/// One of Glance's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Cleaner,
    Pruner,
    Prefetcher,
}

const TOOLS: [Tool; 3] = [Tool::Cleaner, Tool::Pruner, Tool::Prefetcher];

impl Tool {
    /// Returns the tool whose name the last component of `argv0` is.
    pub(crate) fn from_argv0(argv0: &OsStr) -> Option<Tool> {
        let name = Path::new(argv0).file_name()?;
        TOOLS.into_iter().find(|tool| name == tool.name())
    }

    /// Returns the tool's name, which is also the name of its configuration directory and log file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Cleaner => "glance-cache-cleaner",
            Tool::Pruner => "glance-cache-pruner",
            Tool::Prefetcher => "glance-cache-prefetcher",
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Tool::Cleaner => "Remove invalid and stalled files from Glance's image cache.",
            Tool::Pruner => "Prune Glance's image cache to its configured size.",
            Tool::Prefetcher => "Fetch queued images into Glance's image cache.",
        }
    }
}

/// The meaning of a whole command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// Do the tool's work.
    Run(LegacyOptions),
    /// Print this text on stdout and exit with 0.
    Print(String),
}

/// The options given on the command line of one of Glance's tools.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LegacyOptions {
    /// `--config-file` and `--config-dir` in the order given; later ones win.
    pub(super) sources: Vec<ConfigSource>,
    /// Other options in the order given; later ones win.
    settings: Vec<GivenOption>,
}

/// An option of the `[DEFAULT]` section that was given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenOption {
    /// The option's name in configuration files, such as `log_file`.
    option: &'static str,
    /// The text that a configuration file would contain: `true` and `false` for switches, `$name` not
    /// expanded.
    value: String,
}

impl LegacyOptions {
    /// Returns the value that the command line gives to `option`, if any.
    pub(super) fn get(&self, option: &str) -> Option<&str> {
        self.settings
            .iter()
            .rev()
            .find(|setting| setting.option == option)
            .map(|setting| setting.value.as_str())
    }

    fn set(&mut self, option: &'static str, value: &str) {
        self.settings.push(GivenOption { option, value: value.to_owned() });
    }
}

/// A row in the table of options.
#[derive(Debug)]
struct Flag {
    /// All spellings; messages use the first.
    names: &'static [&'static str],
    effect: Effect,
    help: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Help,
    Version,
    /// Sets the option of this name to `true` or `false`.
    Switch(&'static str, &'static str),
    /// Takes a value, which the help text calls by this name.
    Value(&'static str, Destination),
}

/// The use of a value.
#[derive(Clone, Copy, Debug)]
enum Destination {
    File,
    Dir,
    Completion,
    Option(&'static str),
}

use Effect::{Switch, Value};

const fn flag(names: &'static [&'static str], effect: Effect, help: &'static str) -> Flag {
    Flag { names, effect, help }
}

/// The options that oslo.config 10 and oslo.log add to these tools.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag(&["--help", "-h"], Effect::Help, "show this help and exit"),
    flag(&["--version"], Effect::Version, "show the version and exit"),
    flag(&["--config-file"], Value("PATH", Destination::File),
         "read this file instead of the default files"),
    flag(&["--config-dir"], Value("DIR", Destination::Dir),
         "read the *.conf files in this directory"),
    flag(&["--debug", "-d"], Switch("debug", "true"), "also log debug messages"),
    flag(&["--nodebug"], Switch("debug", "false"), "the opposite of --debug"),
    flag(&["--log-config-append", "--log-config", "--log_config"],
         Value("PATH", Destination::Option("log_config_append")),
         "ignored: a Python logging configuration"),
    flag(&["--log-date-format"], Value("FORMAT", Destination::Option("log_date_format")),
         "format of the time in log lines"),
    flag(&["--log-dir", "--logdir"], Value("DIR", Destination::Option("log_dir")),
         "directory of log files with a relative path"),
    flag(&["--log-file", "--logfile"], Value("PATH", Destination::Option("log_file")), "log to this file"),
    flag(&["--syslog-log-facility"], Value("NAME", Destination::Option("syslog_log_facility")),
         "facility of syslog messages, such as LOG_USER"),
    flag(&["--use-journal"], Switch("use_journal", "true"), "log to the systemd journal"),
    flag(&["--nouse-journal"], Switch("use_journal", "false"), "the opposite of --use-journal"),
    flag(&["--use-json"], Switch("use_json", "true"), "write log lines as JSON"),
    flag(&["--nouse-json"], Switch("use_json", "false"), "the opposite of --use-json"),
    flag(&["--use-syslog"], Switch("use_syslog", "true"), "log to syslog"),
    flag(&["--nouse-syslog"], Switch("use_syslog", "false"), "the opposite of --use-syslog"),
    flag(&["--shell_completion"], Value("SHELL", Destination::Completion),
         "print a completion script for bash or zsh"),
];

/// Options that only older releases have. Abbreviations of them are not accepted, because they would make
/// abbreviations of current options ambiguous.
#[rustfmt::skip]
const OLD_FLAGS: &[Flag] = &[
    flag(&["--verbose", "-v"], Switch("verbose", "true"), "accepted for old callers, without effect"),
    flag(&["--noverbose"], Switch("verbose", "false"), "accepted for old callers, without effect"),
    flag(&["--log-format"], Value("FORMAT", Destination::Option("log_format")),
         "accepted for old callers, without effect"),
    flag(&["--watch-log-file"], Switch("watch_log_file", "true"), "accepted for old callers, without effect"),
    flag(&["--nowatch-log-file"], Switch("watch_log_file", "false"),
         "accepted for old callers, without effect"),
];

/// Parses `args`, the command line without the program's name, as `tool` would.
///
/// Every error is a usage error.
pub(crate) fn parse(tool: Tool, args: &[OsString]) -> Result<Invocation> {
    let mut options = LegacyOptions::default();
    let mut shell = None;
    let mut unknown = Vec::new();

    let mut words = classify(args)?.into_iter().peekable();
    while let Some(word) = words.next() {
        let (flag, attached) = match word {
            Word::Flag(flag, attached) => (flag, attached),
            Word::Plain(text) | Word::Unknown(text) => {
                unknown.push(readable(text));
                continue;
            }
            Word::Refused(message) => bail!(message),
        };
        match flag.effect {
            Effect::Help => return Ok(Invocation::Print(help(tool))),
            Effect::Version => return Ok(Invocation::Print(format!("{}\n", env!("CARGO_PKG_VERSION")))),
            Switch(option, value) => options.set(option, value),
            Value(_, destination) => {
                let is_plain = |word: &Word<'_>| matches!(word, Word::Plain(_));
                let Some(value) = attached.or_else(|| words.next_if(is_plain)?.into_plain()) else {
                    bail!("argument {}: expected one argument", flag.names[0]);
                };
                match destination {
                    Destination::File => options.sources.push(ConfigSource::File(path(value))),
                    Destination::Dir => options.sources.push(ConfigSource::Dir(path(value))),
                    Destination::Completion => shell = Some(text(flag, value)?),
                    Destination::Option(option) => options.set(option, text(flag, value)?),
                }
            }
        }
    }
    if !unknown.is_empty() {
        bail!("unrecognized arguments: {} (see {} --help)", unknown.join(" "), tool.name());
    }
    shell.map_or(Ok(Invocation::Run(options)), |shell| completion_for(shell, tool).map(Invocation::Print))
}

/// Returns the completion script for a shell that the real tool knows.
fn completion_for(shell: &str, tool: Tool) -> Result<String> {
    match shell {
        "bash" => Ok(completion(tool)),
        "zsh" => Ok(format!("autoload -U bashcompinit && bashcompinit\n{}", completion(tool))),
        other => bail!("argument --shell_completion: '{}' is neither bash nor zsh", other.escape_debug()),
    }
}

fn path(value: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(value))
}

/// One argument, classified before it is known if the option before it takes it as its value.
#[derive(Debug)]
enum Word<'a> {
    /// A value, or a positional argument.
    Plain(&'a [u8]),
    /// An option, and the value attached to it by `=`.
    Flag(&'static Flag, Option<&'a [u8]>),
    /// Looks like an option but is not one, and cannot be a value either.
    Unknown(&'a [u8]),
    /// An error, which is reported only if no earlier argument ends the parsing.
    Refused(String),
}

impl<'a> Word<'a> {
    fn into_plain(self) -> Option<&'a [u8]> {
        if let Word::Plain(text) = self { Some(text) } else { None }
    }
}

/// Classifies each argument; clustered short options become one word each.
///
/// Like argparse, this examines all arguments before any of them takes effect: an ambiguous abbreviation is
/// an error even after `--help` or in the place of a value.
fn classify(args: &[OsString]) -> Result<Vec<Word<'_>>> {
    let mut words = Vec::new();
    let mut options_ended = false;
    for arg in args.iter().map(|arg| arg.as_bytes()) {
        if options_ended {
            words.push(Word::Plain(arg));
        } else if arg == b"--" {
            options_ended = true;
            words.push(Word::Unknown(arg));
        } else if arg.len() < 2 || arg[0] != b'-' {
            words.push(Word::Plain(arg));
        } else if arg[1] == b'-' {
            words.push(long(arg)?);
        } else {
            short(arg, &mut words);
        }
    }
    Ok(words)
}

/// Classifies an argument that begins with two dashes.
fn long(arg: &[u8]) -> Result<Word<'_>> {
    let (name, attached) = match arg.iter().position(|&byte| byte == b'=') {
        Some(at) => (&arg[..at], Some(&arg[at + 1..])),
        None => (arg, None),
    };
    let Some(flag) = find(name).map_or_else(|| abbreviated(name), |flag| Ok(Some(flag)))? else {
        return Ok(no_option(arg));
    };
    Ok(match (flag.effect, attached) {
        (Value(..), _) | (_, None) => Word::Flag(flag, attached),
        (_, Some(value)) => refused(flag, value),
    })
}

/// Classifies an argument that begins with one dash: options of one letter, none of which takes a value.
fn short<'a>(arg: &'a [u8], words: &mut Vec<Word<'a>>) {
    let Some(first) = find(&arg[..2]) else {
        return words.push(no_option(arg));
    };
    let flags: Option<Vec<_>> = arg[1..].iter().map(|&letter| find(&[b'-', letter])).collect();
    match flags {
        Some(flags) => words.extend(flags.into_iter().map(|flag| Word::Flag(flag, None))),
        None => words.push(refused(first, &arg[2..])),
    }
}

/// Classifies an argument that looks like an option but is not one.
///
/// Like argparse, treats negative numbers and text with blanks as values.
fn no_option(arg: &[u8]) -> Word<'_> {
    let number = &arg[1..];
    let (whole, fraction) = match number.iter().position(|&byte| byte == b'.') {
        Some(point) => (&number[..point], &number[point + 1..]),
        None => (&number[..0], number),
    };
    let is_number = !fraction.is_empty() && [whole, fraction].concat().iter().all(u8::is_ascii_digit);
    if is_number || arg.contains(&b' ') { Word::Plain(arg) } else { Word::Unknown(arg) }
}

fn refused(flag: &Flag, value: &[u8]) -> Word<'static> {
    Word::Refused(format!("argument {}: ignored explicit argument '{}'", flag.names[0], readable(value)))
}

fn find(name: &[u8]) -> Option<&'static Flag> {
    FLAGS.iter().chain(OLD_FLAGS).find(|flag| flag.names.iter().any(|full| full.as_bytes() == name))
}

/// Returns the option that `prefix` abbreviates, if any. Two spellings of one option are ambiguous as well.
fn abbreviated(prefix: &[u8]) -> Result<Option<&'static Flag>> {
    let matches = |name: &&&str| name.as_bytes().starts_with(prefix);
    let names: Vec<&str> = FLAGS.iter().flat_map(|flag| flag.names).filter(matches).copied().collect();
    match names[..] {
        [] => Ok(None),
        [name] => Ok(find(name.as_bytes())),
        _ => bail!("ambiguous option: {} could match {}", readable(prefix), names.join(", ")),
    }
}

/// Returns a value as text; only the values of path options need not be UTF-8.
fn text<'a>(flag: &Flag, value: &'a [u8]) -> Result<&'a str> {
    str::from_utf8(value)
        .map_err(|_| anyhow!("argument {}: '{}' is not UTF-8", flag.names[0], value.escape_ascii()))
}

/// Returns an argument in a form that is safe to show on a terminal.
fn readable(arg: &[u8]) -> String {
    match str::from_utf8(arg) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => arg.escape_ascii().to_string(),
    }
}

/// Returns the text of `--help`.
fn help(tool: Tool) -> String {
    let mut text = format!("usage: {} [options]\n\n{}\n\noptions:\n", tool.name(), tool.summary());
    for flag in FLAGS.iter().chain(OLD_FLAGS) {
        let metavar = if let Value(metavar, _) = flag.effect { format!(" {metavar}") } else { String::new() };
        let names = format!("{}{metavar}", flag.names.join(", "));
        let gap = if names.len() < 28 { "" } else { "\n" };
        let column = if gap.is_empty() { 28 - names.len() } else { 30 };
        let _ = writeln!(text, "  {names}{gap}{:column$}{}", "", flag.help);
    }
    text
}

/// Returns a bash script that completes the tool's options.
fn completion(tool: Tool) -> String {
    let names: Vec<&str> = FLAGS.iter().flat_map(|flag| flag.names).copied().collect();
    format!("complete -o default -W '{}' {}\n", names.join(" "), tool.name())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    fn parsed(args: &[&str]) -> Result<Invocation> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        parse(Tool::Pruner, &args)
    }

    #[test]
    fn tool_is_known_by_the_last_part_of_its_name() {
        for (argv0, tool) in [
            ("glance-cache-cleaner", Some(Tool::Cleaner)),
            ("glance-cache-pruner", Some(Tool::Pruner)),
            ("/usr/bin/glance-cache-pruner", Some(Tool::Pruner)),
            ("../x/glance-cache-cleaner", Some(Tool::Cleaner)),
            ("glance-cache", None),
            ("/usr/bin/glance-cache-pruner2", None),
            ("glance-cache-pruner/glance-cache", None),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(Tool::from_argv0(OsStr::new(argv0)), tool, "{argv0}");
        }
    }

    #[test]
    fn sources_keep_their_order() {
        let Ok(Invocation::Run(legacy)) =
            parsed(&["--config-dir", "d", "--config-file=a", "--config-f", "b"])
        else {
            panic!()
        };
        assert_eq!(
            legacy.sources,
            [ConfigSource::Dir("d".into()), ConfigSource::File("a".into()), ConfigSource::File("b".into())]
        );
    }

    #[test]
    fn options_set_by_the_command_line() {
        type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);
        #[rustfmt::skip]
        const CASES: &[Case] = &[
            (&[], &[]),
            (&["-d"], &[("debug", "true")]),
            (&["-dd"], &[("debug", "true")]),
            (&["--debug", "--nodebug"], &[("debug", "false")]),
            (&["-v", "--noverbose", "-dv"], &[("debug", "true"), ("verbose", "true")]),
            (&["--log-format", "%(message)s"], &[("log_format", "%(message)s")]),
            (&["--watch-log-file"], &[("watch_log_file", "true")]),
            (&["--nowatch-log-file"], &[("watch_log_file", "false")]),
            (&["--logfile=a=b", "--logdir", "-1"], &[("log_file", "a=b"), ("log_dir", "-1")]),
        ];
        for (args, settings) in CASES {
            let Ok(Invocation::Run(legacy)) = parsed(args) else { panic!("{args:?}") };
            for (option, value) in *settings {
                assert_eq!(legacy.get(option), Some(*value), "{args:?}");
            }
            assert_eq!(legacy.get("log_config_append"), None);
        }
    }

    #[test]
    fn errors_say_why() {
        for (args, message) in [
            (&["--log-d", "x"][..], "ambiguous option: --log-d could match --log-date-format, --log-dir"),
            (&["--log-file"], "argument --log-file: expected one argument"),
            (&["--use-json=1"], "argument --use-json: ignored explicit argument '1'"),
            (&["-dx"], "argument --debug: ignored explicit argument 'x'"),
            (
                &["a", "--no\x1bpe"],
                "unrecognized arguments: a --no\\u{1b}pe (see glance-cache-pruner --help)",
            ),
            (&["--shell_completion", "fish"], "argument --shell_completion: 'fish' is neither bash nor zsh"),
        ] {
            assert_eq!(parsed(args).unwrap_err().to_string(), message);
        }
        let latin1 = [OsString::from("--log-file"), OsString::from_vec(b"\xe9.log".to_vec())];
        let error = parse(Tool::Pruner, &latin1).unwrap_err().to_string();
        assert_eq!(error, "argument --log-file: '\\xe9.log' is not UTF-8");
    }

    #[test]
    fn paths_need_not_be_text() {
        let path = OsString::from_vec(b"/etc/\xe9".to_vec());
        let Ok(Invocation::Run(legacy)) = parse(Tool::Cleaner, &["--config-dir".into(), path.clone()]) else {
            panic!()
        };
        assert_eq!(legacy.sources, [ConfigSource::Dir(path.into())]);
    }

    #[test]
    fn texts_fit_a_terminal_and_name_every_option() {
        let Ok(Invocation::Print(help)) = parsed(&["--hel"]) else { panic!() };
        assert!(help.lines().all(|line| line.len() <= 79), "{help}");
        for name in FLAGS.iter().chain(OLD_FLAGS).flat_map(|flag| flag.names) {
            assert!(help.contains(name), "{name}");
        }
        assert_eq!(
            parsed(&["--version"]).unwrap(),
            Invocation::Print(format!("{}\n", env!("CARGO_PKG_VERSION")))
        );
        let Ok(Invocation::Print(bash)) = parsed(&["--shell_completion", "bash"]) else { panic!() };
        assert!(bash.starts_with("complete ") && bash.ends_with(" glance-cache-pruner\n"), "{bash}");
    }

    /// Command lines on which the real parser and ours must agree. Blanks separate arguments; `~` stands for
    /// a blank within an argument and `''` for an empty one.
    #[rustfmt::skip]
    const AGREED: &[&str] = &[
        "", "-h", "--help", "--hel", "--h", "--version", "--v", "--ver", "-hd", "-dh", "-hx",
        "--help --nope", "--help --log-d", "--nope --help", "--help=x", "--version=1", "-d", "-dd", "-dx",
        "-d=", "-d=1", "--debug", "--debug=1", "--debug=", "--d", "--nodebug", "--nod", "--no",
        "--debug --nodebug", "--nodebug -d", "-d -- --log-d", "--config-file A", "--config-file=A",
        "--config-f A", "--config-file A --config-file B", "--config A", "--config-file", "--config_file A",
        "--config-dir D", "--config-dir=D", "--config-d D", "--config-dir",
        "--config-dir D --config-file A --config-dir E", "--config-file -d",
        "--config-file A -d --config-file=B", "--log-config-append P", "--log-config P", "--log_config P",
        "--log_ P", "--log-con P", "--log-config-a P", "--log-config=P", "--log_config_append P",
        "--log-date-format F", "--log-date F", "--log-d X", "--log-di X", "--log-date-format=%H:%M~%S",
        "--log-date-format %H~%M", "--log-dir D", "--logdir D", "--logd D", "--log-dir=D", "--log-file F",
        "--logfile F", "--logf=F", "--log-f F", "--log-file=", "--log-file ''", "--log-file -",
        "--log-file -5", "--log-file -.5", "--log-file -5.", "--log-file -5.5.5", "--log-file -d",
        "--log-file --x~y", "--log-file -x~y", "--log-file", "--log-file -- x", "--log-file=x --",
        "--log F", "--log-file a --logfile b", "--logfile b --log-file a", "--log_file F", "--use-syslog",
        "--nouse-syslog", "--use-s", "--use", "--nouse-s", "--nouse", "--use-syslog=true",
        "--use-syslog --nouse-syslog", "--nouse-syslog --use-syslog", "--syslog-log-facility LOG_LOCAL0",
        "--sys user", "--s x", "--syslog-log-facility", "--syslog_log_facility x", "--use-journal",
        "--nouse-journal", "--use-jo", "--use-j", "--nouse-jo", "--use-json", "--nouse-json", "--use-js",
        "--nouse-js", "--nouse-j", "--use_json", "--use-stderr", "--nouse-stderr", "--shell_completion",
        "--shell zsh~x", "--", "-- x", "-d --", "x", "-", "''", "-5", "-x", "x~y", "-x~y", "--=", "--=x",
        "-=", "---", "---debug", "-debug", "--DEBUG", "-D", "--log-file F extra", "extra --log-file F",
        "--log-file a b", "--help --log-file", "--log-file --help",
        "--log-file F --config-file A -d --use-json --log-dir D --nouse-syslog --config-dir E",
    ];

    /// Needs a Python with Glance, whose own parser is asked about the same command lines.
    #[test]
    #[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a python that has glance"]
    fn agrees_with_the_real_parser() {
        #[expect(clippy::disallowed_methods, reason = "the test's own switch")]
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let lines: Vec<Vec<String>> = AGREED.iter().map(|line| words(line)).collect();
        let output = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/legacy_options.py"))
            .arg(serde_json::to_string(&lines).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let real: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(real.len(), lines.len());
        for (args, real) in lines.iter().zip(real) {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(outcome(parse(Tool::Pruner, &args)), real, "{args:?}");
        }
    }

    fn words(line: &str) -> Vec<String> {
        let word = |word: &str| {
            if word == "''" { String::new() } else { word.replace('~', " ") }
        };
        line.split_whitespace().map(word).collect()
    }

    fn outcome(invocation: Result<Invocation>) -> serde_json::Value {
        match invocation {
            Err(_) => "refused".into(),
            Ok(Invocation::Print(_)) => "printed".into(),
            Ok(Invocation::Run(legacy)) => {
                let sources: Vec<_> = legacy
                    .sources
                    .iter()
                    .map(|source| match source {
                        ConfigSource::File(path) => format!("file {}", path.display()),
                        ConfigSource::Dir(path) => format!("dir {}", path.display()),
                    })
                    .collect();
                let values: serde_json::Map<_, _> = legacy
                    .settings
                    .iter()
                    .map(|set| (set.option.to_owned(), set.value.clone().into()))
                    .collect();
                serde_json::json!({ "sources": sources, "values": values })
            }
        }
    }
}
