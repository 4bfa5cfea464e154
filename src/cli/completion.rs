//! Renders the completion scripts of bash, zsh and fish from the parser. This is part of the tests: the
//! program itself only contains the committed scripts.
//!
//! Each script has a fixed frame, which finds the subcommand and the option under the cursor, and tables,
//! which are rendered here. If an option is the same in several commands, the tables have it once, with the
//! names of these commands. The old names are commands like the others. The scripts get the ids of images
//! from the program itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _, ValueHint};

use super::Cli;
use super::manual::{OLD_NAMES, OldOption, old_options};

const NAME: &str = "glance-cache";

/// An option, as the shells need it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShellOption {
    /// The names with their dashes, the long one first.
    names: Vec<String>,
    help: String,
    value: Option<OptionValue>,
    repeats: bool,
}

/// The value of an option, or an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OptionValue {
    /// One of these words, each with its meaning.
    Words(Vec<(String, String)>),
    /// Several of these words, separated by commas.
    List(Vec<(String, String)>),
    File,
    Directory,
    /// The id of an image, `cached` or `queued`.
    Id(&'static str),
    /// A value that no shell can complete, such as a size.
    Free(String),
}

/// A subcommand, or an old name.
#[derive(Debug)]
struct ShellCommand {
    name: String,
    help: String,
    flags: Vec<ShellOption>,
    argument: Option<OptionValue>,
}

/// Returns the subcommands, in the order of the help.
fn subcommands() -> Vec<ShellCommand> {
    let mut command = Cli::command();
    command.build();
    let parts = command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| {
        let argument = sub.get_positionals().next().map(|arg| value(sub, arg));
        let flags = if sub.get_name() == "help" { Vec::new() } else { flags(sub) };
        let help = sub.get_about().map(ToString::to_string).unwrap_or_default();
        ShellCommand { name: sub.get_name().to_owned(), help, flags, argument }
    });
    parts.collect()
}

/// Returns the old names, without the options that only older releases of the real tools had.
fn old_names() -> Vec<ShellCommand> {
    let part = |name: &&str| {
        let flags = old_options().into_iter().filter(|option| !option.is_obsolete()).map(|option| {
            let value = option.value.as_deref().map(|value| match value {
                "PATH" => OptionValue::File,
                "DIR" => OptionValue::Directory,
                "SHELL" => {
                    OptionValue::Words(["bash", "zsh"].map(|name| (name.into(), String::new())).into())
                }
                other => OptionValue::Free(other.to_owned()),
            });
            let OldOption { names, help, .. } = option;
            let names = names.into_iter().filter(|name| !name.starts_with("--log_")).collect();
            ShellOption { names, help, value, repeats: true }
        });
        ShellCommand { name: (*name).to_owned(), help: String::new(), flags: flags.collect(), argument: None }
    };
    OLD_NAMES.iter().map(part).collect()
}

fn flags(command: &Command) -> Vec<ShellOption> {
    let options = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let flag = |arg: &Arg| ShellOption {
        names: arg
            .get_long()
            .map(|long| format!("--{long}"))
            .into_iter()
            .chain(arg.get_short().map(|short| format!("-{short}")))
            .collect(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        value: arg.get_action().takes_values().then(|| value(command, arg)),
        repeats: matches!(arg.get_action(), clap::ArgAction::Append),
    };
    options.map(flag).collect()
}

fn value(command: &Command, arg: &Arg) -> OptionValue {
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let name = name.unwrap_or_default();
    let words: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|word| !word.is_hide_set())
        .map(|word| {
            let help = word.get_help().map(ToString::to_string).unwrap_or_default();
            (word.get_name().to_owned(), help)
        })
        .collect();
    match arg.get_value_hint() {
        _ if name == "ID" => {
            OptionValue::Id(if command.get_name() == "prefetch" { "queued" } else { "cached" })
        }
        _ if !words.is_empty() && arg.get_value_delimiter().is_some() => OptionValue::List(words),
        _ if !words.is_empty() => OptionValue::Words(words),
        ValueHint::DirPath => OptionValue::Directory,
        ValueHint::AnyPath | ValueHint::FilePath => OptionValue::File,
        _ => OptionValue::Free(name),
    }
}

/// Groups the options by the commands that have them, in the order in which the options first appear.
fn grouped(parts: &[ShellCommand]) -> Vec<(Vec<&str>, Vec<&ShellOption>)> {
    let mut flags: Vec<(&ShellOption, Vec<&str>)> = Vec::new();
    for part in parts {
        for flag in &part.flags {
            match flags.iter_mut().find(|(known, _)| *known == flag) {
                Some((_, names)) => names.push(&part.name),
                None => flags.push((flag, vec![&part.name])),
            }
        }
    }
    let mut groups: Vec<(Vec<&str>, Vec<&ShellOption>)> = Vec::new();
    for (flag, names) in flags {
        match groups.iter_mut().find(|(known, _)| *known == names) {
            Some((_, flags)) => flags.push(flag),
            None => groups.push((names, vec![flag])),
        }
    }
    groups
}

fn words(words: &[(String, String)]) -> String {
    words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ")
}

fn names(parts: &[ShellCommand]) -> String {
    parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn filled(frame: &str, tables: &[(&str, String)]) -> String {
    tables.iter().fold(frame.to_owned(), |text, (name, table)| text.replace(name, table))
}

const BASH: &str = r#"# Completion of glance-cache, and of the tools that it replaces, for bash.
# Rendered from the parser by a test of the program; changes belong there.

_glance_cache() {
    local command=${1##*/} cur=$2 prev rest=$COMP_LINE word before= options= words=
    local -a line=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        # bash also splits words at "=" and ":"; what has no blank in front is part of the word before.
        if [[ ${#line[@]} -gt 0 && $rest != [[:space:]]* ]]; then
            line[-1]+=$word
        else
            line+=("$word")
        fi
        rest=${rest#*"$word"}
    done
    prev=${line[-1]}
    if [[ $rest != [[:space:]]* ]]; then
        prev=${prev%%=*}
        [[ $cur != = ]] || cur=
    fi
    line=("${line[@]//[\"\'\\]/}")

    if [[ $command == glance-cache ]]; then
        command=
        for word in "${line[@]:1}"; do
            [[ $word == -* ]] || { command=$word; break; }
        done
    fi
    if [[ -z $command ]]; then
        words="@commands@"
        [[ $cur != -* ]] || words="--help -h --version -V"
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi

    case $prev in
@values@    esac
    if [[ -n $words ]]; then
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "$words" -- "$cur")
        return
    fi

@options@    if [[ $cur != -* ]]; then
        case $command in
@arguments@        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
}

# The ids that the program finds in the cache of this command line.
_glance_cache_ids() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" __ids "$1" -- "$cur" "${line[@]}" 2>/dev/null)
}

complete -F _glance_cache glance-cache @old@
"#;

fn bash() -> String {
    let mut parts = subcommands();
    let of_new = parts.len();
    parts.extend(old_names());
    let (new, old) = parts.split_at(of_new);
    let mut options = String::new();
    for (commands, flags) in grouped(&parts) {
        let names: Vec<_> = flags.iter().flat_map(|flag| &flag.names).map(String::as_str).collect();
        let _ = writeln!(
            options,
            "    case $command in\n    {})\n        options+=\" {}\"\n        ;;\n    esac",
            commands.join(" | "),
            names.join(" ")
        );
    }
    filled(
        BASH,
        &[
            ("@commands@", names(new)),
            ("@values@", bash_values(&parts)),
            ("@options@", options),
            ("@arguments@", bash_arguments(new)),
            ("@old@", names(old)),
        ],
    )
}

/// The cases of what follows an option. Where commands differ, that of one command comes first, and then that
/// of the others.
fn bash_values(parts: &[ShellCommand]) -> String {
    let mut options: Vec<(&str, Vec<(String, &str)>)> = Vec::new();
    for part in parts {
        for flag in &part.flags {
            let Some(action) = flag.value.as_ref().map(bash_value) else { continue };
            for name in &flag.names {
                match options.iter_mut().find(|(known, _)| known == name) {
                    Some((_, actions)) => actions.push((action.clone(), &part.name)),
                    None => options.push((name, vec![(action.clone(), &part.name)])),
                }
            }
        }
    }
    let mut cases: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, actions) in options {
        let of = |action: &str| actions.iter().filter(|(known, _)| known == action).count();
        let usual = actions.iter().max_by_key(|(action, _)| of(action)).expect("a command has the option");
        let mut action = usual.0.clone();
        for (other, command) in actions.iter().filter(|(known, _)| *known != usual.0) {
            action = format!(
                "case $command in\n        {command}) {other} ;;\n        *) {action} ;;\n        esac"
            );
        }
        match cases.iter_mut().find(|(known, _)| *known == action) {
            Some((_, names)) => names.push(name),
            None => cases.push((action, vec![name])),
        }
    }
    let mut table = String::new();
    for (action, names) in cases {
        let _ = writeln!(table, "    {})\n        {action}\n        ;;", names.join(" | "));
    }
    table
}

/// The cases of what is no option.
fn bash_arguments(parts: &[ShellCommand]) -> String {
    let mut table = String::new();
    for part in parts {
        let action = match &part.argument {
            _ if part.name == "help" => format!("options=\"{}\"", names(parts)),
            Some(OptionValue::Words(list)) => format!("options=\"{}\"", words(list)),
            Some(OptionValue::Id(kind)) => format!("_glance_cache_ids {kind}\n            return"),
            _ => continue,
        };
        let _ = writeln!(table, "        {})\n            {action}\n            ;;", part.name);
    }
    table
}

fn bash_value(value: &OptionValue) -> String {
    match value {
        OptionValue::Words(list) => format!("words=\"{}\"", words(list)),
        // The words before the last comma stay in front of each completion.
        OptionValue::List(list) => {
            format!("words=\"{}\"\n        before=${{cur%\"${{cur##*,}}\"}} cur=${{cur##*,}}", words(list))
        }
        OptionValue::File => "compopt -o default\n        return".to_owned(),
        OptionValue::Directory => "compopt -o dirnames\n        return".to_owned(),
        OptionValue::Id(kind) => format!("_glance_cache_ids {kind}\n        return"),
        OptionValue::Free(_) => "return".to_owned(),
    }
}

const ZSH: &str = r#"#compdef glance-cache @old@
# Completion of glance-cache, and of the tools that it replaces, for zsh.
# Rendered from the parser by a test of the program; changes belong there.

# The ids that the program finds in the cache of this command line. The last
# argument is their kind, those before it are for compadd.
_glance-cache_ids() {
  local -a ids line
  line=(glance-cache ${(Q)words[1,CURRENT-1]})
  ids=(${(f)"$($program __ids $argv[-1] -- "${(Q)PREFIX}" $line 2>/dev/null)"})
  compadd "${(@)argv[1,-2]}" -a ids
}

_glance-cache() {
  local curcontext=$curcontext program=${(Q)words[1]} command=$service state line
  local -a commands options
  typeset -A opt_args
  commands=(
@commands@  )
  if [[ $service == glance-cache ]]; then
    if (( CURRENT == 2 )); then
      if [[ $PREFIX == -* ]]; then
        _arguments '(- *)'{-h,--help}'[Print help]' '(- *)'{-V,--version}'[Print version]'
      else
        _describe -t commands command commands
      fi
      return
    fi
    command=$words[2]
    shift words
    (( CURRENT-- ))
  fi
@options@  case $command in
@arguments@  esac
  (( $#options )) && _arguments -s -S : $options
}

if [[ $funcstack[1] == _glance-cache ]]; then
  _glance-cache "$@"
else
  compdef _glance-cache glance-cache @old@
fi
"#;

fn zsh() -> String {
    let new = subcommands();
    let old = old_names();
    let mut commands = String::new();
    for part in &new {
        let _ = writeln!(commands, "    {}", zsh_quoted(&format!("{}:{}", part.name, part.help)));
    }
    let old_list = names(&old);
    let mut arguments = String::new();
    for part in &new {
        match &part.argument {
            _ if part.name == "help" => {
                arguments.push_str("    help)\n      (( CURRENT == 2 )) && ");
                arguments.push_str("_describe -t commands command commands\n      return\n      ;;\n");
            }
            Some(value) => {
                let many = if matches!(value, OptionValue::Id(_)) { "*" } else { "" };
                let spec = format!("{many}{}", zsh_value(value));
                let _ = writeln!(
                    arguments,
                    "    {})\n      options+=({})\n      ;;",
                    part.name,
                    zsh_quoted(&spec)
                );
            }
            None => {}
        }
    }
    let all: Vec<ShellCommand> = new.into_iter().chain(old).collect();
    let mut options = String::new();
    for (commands, flags) in grouped(&all) {
        let _ = writeln!(options, "  case $command in\n    {})\n      options+=(", commands.join("|"));
        for flag in flags {
            let _ = writeln!(options, "        {}", zsh_flag(flag));
        }
        options.push_str("      )\n      ;;\n  esac\n");
    }
    filled(
        ZSH,
        &[("@commands@", commands), ("@options@", options), ("@arguments@", arguments), ("@old@", old_list)],
    )
}

fn zsh_flag(flag: &ShellOption) -> String {
    let explanation = flag.help.replace('[', "\\[").replace(']', "\\]");
    let value = flag.value.as_ref().map(zsh_value).unwrap_or_default();
    let assigned = |name: &String| match (&flag.value, name.starts_with("--")) {
        (Some(_), true) => format!("{name}="),
        (Some(_), false) => format!("{name}+"),
        (None, _) => name.clone(),
    };
    let forms: Vec<String> = flag.names.iter().map(assigned).collect();
    let rest = zsh_quoted(&format!("[{explanation}]{value}"));
    match (&forms[..], flag.repeats) {
        ([form], true) => format!("'*'{form}{rest}"),
        ([form], false) => format!("{form}{rest}"),
        (_, true) => format!("'*'{{{}}}{rest}", forms.join(",")),
        (_, false) => format!("'({})'{{{}}}{rest}", flag.names.join(" "), forms.join(",")),
    }
}

fn zsh_value(value: &OptionValue) -> String {
    match value {
        OptionValue::Words(list) if list.iter().all(|(_, help)| help.is_empty()) => {
            format!(":value:({})", words(list))
        }
        OptionValue::Words(list) => {
            let words: Vec<_> =
                list.iter().map(|(word, help)| format!("{word}\\:{}", help.replace(' ', "\\ "))).collect();
            format!(":value:(({}))", words.join(" "))
        }
        OptionValue::List(list) => format!(":value:_values -s , value {}", words(list)),
        OptionValue::File => ":file:_files".to_owned(),
        OptionValue::Directory => ":directory:_files -/".to_owned(),
        OptionValue::Id(kind) => format!(":image id:_glance-cache_ids {kind}"),
        OptionValue::Free(name) => format!(":{}: ", name.to_lowercase()),
    }
}

fn zsh_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const FISH: &str = r#"# Completion of glance-cache, and of the tools that it replaces, for fish.
# Rendered from the parser by a test of the program; changes belong there.

# The ids that the program finds in the cache of this command line.
function __glance_cache_ids
    set -l line (commandline -opc)
    set -l word (string replace -r -- '^--[^=]*=' '' (commandline -ct))
    command $line[1] __ids $argv[1] -- "$word" $line 2>/dev/null
end

# The directories for a word, which may be behind the "=" of an option.
function __glance_cache_directories
    __fish_complete_directories (commandline -ct | string replace -r '^--[^=]*=' '')
end

complete -c glance-cache -n __fish_use_subcommand -f
complete -c glance-cache -n __fish_use_subcommand -s h -l help -d 'Print help'
complete -c glance-cache -n __fish_use_subcommand -s V -l version -d 'Print version'
@commands@
@arguments@
@options@
"#;

fn fish() -> String {
    let new = subcommands();
    let mut commands = String::new();
    let mut arguments = String::new();
    for part in &new {
        let help = fish_quoted(&part.help);
        let _ = writeln!(commands, "complete -c {NAME} -n __fish_use_subcommand -a {} -d {help}", part.name);
        let words = match &part.argument {
            _ if part.name == "help" => fish_quoted(&names(&new)),
            Some(value) => fish_value(value).trim_start_matches("-x -a ").to_owned(),
            None => String::new(),
        };
        let words = if words.is_empty() { String::new() } else { format!(" -a {words}") };
        let _ = writeln!(
            arguments,
            "complete -c {NAME} -n '__fish_seen_subcommand_from {}' -f{words}",
            part.name
        );
    }
    let mut options = String::new();
    for (commands, flags) in grouped(&new) {
        let condition = format!("'__fish_seen_subcommand_from {}'", commands.join(" "));
        for flag in flags {
            let _ = writeln!(options, "complete -c {NAME} -n {condition}{}", fish_flag(flag));
        }
    }
    let old = old_names();
    let commands_of_old = OLD_NAMES.map(|name| format!("-c {name}")).join(" ");
    let _ = writeln!(options, "\ncomplete {commands_of_old} -f");
    for flag in &old[0].flags {
        let _ = writeln!(options, "complete {commands_of_old}{}", fish_flag(flag));
    }
    filled(
        FISH,
        &[
            ("@commands@", commands.trim_end().to_owned()),
            ("@arguments@", arguments),
            ("@options@", options.trim_end().to_owned()),
        ],
    )
}

fn fish_flag(flag: &ShellOption) -> String {
    let mut text = String::new();
    for name in &flag.names {
        let form = match name.strip_prefix("--") {
            Some(long) => format!(" -l {long}"),
            None => format!(" -s {}", name.trim_start_matches('-')),
        };
        text.push_str(&form);
    }
    if let Some(value) = &flag.value {
        let _ = write!(text, " {}", fish_value(value));
    }
    let _ = write!(text, " -d {}", fish_quoted(&flag.help));
    text
}

fn fish_value(value: &OptionValue) -> String {
    match value {
        OptionValue::Words(list) => {
            let with_help = |(word, help): &(String, String)| {
                if help.is_empty() { word.clone() } else { format!("{word}\\t{}", fish_quoted(help)) }
            };
            let words: Vec<_> = list.iter().map(with_help).collect();
            format!("-x -a {}", fish_double_quoted(&words.join(" ")))
        }
        OptionValue::List(list) => {
            let lines = list.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join("\\n");
            format!("-x -a '(__fish_complete_list , \"printf {lines}\\n\")'")
        }
        OptionValue::File => "-r -F".to_owned(),
        OptionValue::Directory => "-x -a '(__glance_cache_directories)'".to_owned(),
        OptionValue::Id(kind) => format!("-x -a '(__glance_cache_ids {kind})'"),
        OptionValue::Free(_) => "-x".to_owned(),
    }
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish_double_quoted(text: &str) -> String {
    format!("\"{text}\"")
}

#[test]
fn rendered_completions_are_current() {
    let files = BTreeMap::from([
        ("glance-cache.bash", bash()),
        ("_glance-cache", zsh()),
        ("glance-cache.fish", fish()),
    ]);
    super::tests::compare(
        files.into_iter().map(|(name, text)| (["completions", name].iter().collect(), text)).collect(),
    );
}
