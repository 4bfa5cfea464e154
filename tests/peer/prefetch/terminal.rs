//! A prefetch that somebody watches on a terminal.

use std::io::Write as _;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::support::env::*;
use crate::support::needs;
use crate::support::prefetch::*;

#[test]
fn an_interrupt_typed_at_the_terminal_is_not_shown_among_the_bars() {
    needs::script();
    let p = Prefetch::new(Xattr);
    p.image('a', 9_000_000);
    p.queue("a");
    let line = format!("{BINARY} prefetch --config-file {} --rate-limit 1MB", p.conf(""));
    let mut command = p.env.command("/usr/bin/script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped());
    let mut terminal = Running::start(&mut command, &p.env.outside(""));
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    sleep(Duration::from_secs(1));
    terminal.child.stdin.take().unwrap().write_all(b"\x03").unwrap();
    let run = terminal.wait().code(130);
    assert!(run.stdout.contains("total") && !run.stdout.contains("^C"), "{:?}", run.stdout);
    assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
}
