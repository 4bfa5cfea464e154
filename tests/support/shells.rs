//! The shells in which command lines are typed, and the completions that they offer.
//!
//! bash and zsh run on a terminal, because only their line editors call a completion as they do in life: keys
//! are sent once the prompt is there, the key that inserts every completion leaves them on the line, and the
//! line becomes the arguments of a function that writes them to a file. fish has a command that prints the
//! completions of a line.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::env::*;
use super::needs;

const OLD_NAMES: [&str; 3] = ["glance-cache-cleaner", "glance-cache-pruner", "glance-cache-prefetcher"];

/// What a shell shows when it waits for a line.
const PROMPT: &str = "READY> ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

/// A shell of a user whose host has a cache with two images, `a` and `b`, and the image `c` in its queue.
///
/// The working directory holds `some.conf`, which names that cache, and the directories `store` and `some
/// dir`.
pub(crate) struct Shell {
    pub(crate) env: TestEnv,
    kind: Kind,
    /// True if the user reads the script in, as opposed to finding it installed.
    sourced: bool,
}

impl Shell {
    /// Debian's bash with bash-completion.
    #[track_caller]
    pub(crate) fn bash() -> Self {
        needs::script();
        needs::bash_completion();
        Self::new(Kind::Bash, false)
    }

    /// A bash without bash-completion.
    #[track_caller]
    pub(crate) fn bash_alone() -> Self {
        needs::script();
        Self::new(Kind::Bash, true)
    }

    #[track_caller]
    pub(crate) fn zsh() -> Self {
        needs::script();
        needs::zsh();
        Self::new(Kind::Zsh, false)
    }

    /// A zsh that reads the script in.
    #[track_caller]
    pub(crate) fn zsh_sourced() -> Self {
        Self { sourced: true, ..Self::zsh() }
    }

    #[track_caller]
    pub(crate) fn fish() -> Self {
        needs::fish();
        Self::new(Kind::Fish, false)
    }

    /// A fish that reads the script in.
    #[track_caller]
    pub(crate) fn fish_sourced() -> Self {
        needs::fish();
        Self::new(Kind::Fish, true)
    }

    fn new(kind: Kind, sourced: bool) -> Self {
        let env = TestEnv::sqlite(&[('a', 1000, 2, 0), ('b', 1000, 1, 0)]);
        env.file(format!("queue/{}", id('c')), 0, 0);
        for dir in ["bin", "zsh", "work/store", "work/some dir"] {
            fs::create_dir_all(env.outside(dir)).unwrap();
        }
        let conf = format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir().display());
        fs::write(env.outside("work/some.conf"), conf).unwrap();
        for name in ["glance-cache"].into_iter().chain(OLD_NAMES) {
            symlink(BINARY, env.outside("bin").join(name)).unwrap();
        }
        let shell = Self { env, kind, sourced };
        if !sourced {
            shell.install();
        }
        shell
    }

    /// Puts the script where the shell finds it by itself, with the links that the old names need.
    fn install(&self) {
        let (from, dir, name) = match self.kind {
            Kind::Bash => ("glance-cache.bash", "home/.local/share/bash-completion/completions", "NAME"),
            Kind::Zsh => ("_glance-cache", "zsh", "_glance-cache"),
            Kind::Fish => ("glance-cache.fish", "home/.config/fish/completions", "NAME.fish"),
        };
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions").join(from);
        let dir = self.env.outside(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::copy(from, dir.join(name.replace("NAME", "glance-cache"))).unwrap();
        for old in OLD_NAMES.iter().filter(|_| name.contains("NAME")) {
            let target = name.replace("NAME", "glance-cache");
            symlink(target, dir.join(name.replace("NAME", old))).unwrap();
        }
    }

    /// Returns what may stand in the place of a line's last word, or after its `=`.
    pub(crate) fn completions(&self, line: &str) -> BTreeSet<String> {
        let (before, last) = line.rsplit_once(' ').unwrap();
        let words = match self.kind {
            Kind::Fish => self.printed(line),
            _ => self.inserted(line).split_off(before.split_whitespace().count()),
        };
        // A line editor that has nothing to offer leaves the word as it is.
        words.iter().filter(|word| *word != last && !word.is_empty()).map(|word| value(word)).collect()
    }

    /// The completions that fish prints.
    fn printed(&self, line: &str) -> Vec<String> {
        let read = if self.sourced { "glance-cache completion fish | source; " } else { "" };
        let mut command = self.command("fish");
        command.args(["-c", &format!("{read}complete -C $argv[1]"), line]);
        let run = self.env.finish(&mut command).ok();
        assert_eq!(run.stderr, "", "{line}");
        run.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    /// The words of the line after every completion was inserted.
    fn inserted(&self, line: &str) -> Vec<String> {
        let out = self.env.outside("words");
        let start = self.start(&out);
        let mut command = self.command("timeout");
        command.args(["60", "script", "-qec", &start, "/dev/null"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shown = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&shown).ends_with(PROMPT) {
            assert_eq!(
                screen.read(&mut byte).unwrap(),
                1,
                "{start} ended: {}",
                String::from_utf8_lossy(&shown)
            );
            shown.push(byte[0]);
        }
        // Escape and a star insert every completion, control and A goes to the beginning of the line.
        keys.write_all(format!("{line}\x1b*\x01show \r").as_bytes()).unwrap();
        screen.read_to_end(&mut shown).unwrap();
        child.wait().unwrap();
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.contains("error:"), "{line}: {shown}");
        let words = fs::read_to_string(&out).unwrap_or_else(|error| panic!("{line}: {error}: {shown}"));
        words.lines().map(str::to_owned).collect()
    }

    /// The command that starts the shell, whose function `show` writes its arguments to a file and ends it.
    fn start(&self, out: &Path) -> String {
        let out = out.display();
        match self.kind {
            Kind::Bash => {
                let complete = if self.sourced {
                    "source <(glance-cache completion bash)"
                } else {
                    "source /usr/share/bash-completion/bash_completion"
                };
                let rc = self.env.write(
                    "bashrc",
                    format!(
                        "{complete}\nbind 'set enable-bracketed-paste off'\n\
                         bind 'set completion-query-items 0'\n\
                         show() {{ printf '%s\\n' \"$@\" > {out}; exit; }}\nPS1='{PROMPT}'\n"
                    ),
                );
                format!("bash --noprofile --rcfile {rc} -i")
            }
            _ => {
                let read = if self.sourced { "source <(glance-cache completion zsh)" } else { "" };
                let rc = format!(
                    "fpath=({dir} $fpath)\nautoload -Uz compinit\ncompinit -u\n{read}\nbindkey -e\n\
                     zle -C all-matches complete-word _generic\nbindkey '\\e*' all-matches\n\
                     zstyle ':completion:all-matches::::' completer _all_matches _complete\n\
                     zstyle ':completion:all-matches:*' insert true\n\
                     show() {{ print -rl -- \"$@\" > {out}; exit }}\nPS1='{PROMPT}'\n",
                    dir = self.env.outside("zsh").display()
                );
                fs::write(self.env.outside("home/.zshrc"), rc).unwrap();
                "zsh -i".to_owned()
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.env.command(PathBuf::from(program));
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.env.outside("bin").display());
        command.env("PATH", path).env("TERM", "vt100").current_dir(self.env.outside("work"));
        command
    }
}

/// The value of an option in a word, or the word if it has none.
fn value(word: &str) -> String {
    // Not every shell shows directories as such when it inserts them.
    let word = word.trim_end_matches('/');
    match word.split_once('=') {
        Some((option, "")) => option.to_owned(),
        Some((option, value)) if option.starts_with("--") => value.to_owned(),
        _ => word.to_owned(),
    }
}
