//! The old names: every command line found in the field works unchanged, silently, in an empty environment.

use std::fs;
use std::os::unix::process::CommandExt as _;

use crate::support::deployed::*;
use crate::support::env::*;

#[test]
fn every_command_line_of_the_field_is_silent_and_succeeds() {
    for driver in [Sqlite, Xattr] {
        for (who, line) in FIELD {
            let env = deployed(driver, "home/.glance");
            let etc = env.outside("home/.glance");
            let bin = env.outside("bin");
            let line = line.replace("ETC", etc.to_str().unwrap()).replace("BIN", bin.to_str().unwrap());
            let mut shell = env.command("/bin/bash");
            shell.args(["-c", &line]).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
            let run = env.finish(&mut shell).ok().silent();
            assert_done(&env, &line);
            println!(
                "{who} ({}): exit {}, stdout {}, stderr {}",
                driver.name(),
                run.code,
                run.stdout.len(),
                run.stderr.len()
            );
        }
    }
}

#[test]
fn the_prefetcher_fails_when_an_image_does() {
    for driver in [Sqlite, Xattr] {
        let env = deployed(driver, "home");
        fs::write(env.outside("store").join(id('f')), "other").unwrap();
        let run = env.old(PREFETCHER, &[]).fails(1, &["error: image ffffffff", "stays in the queue"]);
        assert_eq!((run.stdout.as_str(), env.left().as_str()), ("", "abcde"));
        assert_eq!(env.names("queue"), [id('f')]);
    }
}

#[test]
fn a_hint_does_not_name_an_option_of_another_name() {
    let env = TestEnv::empty(Xattr);
    env.orphan('a', 1000, 5);
    env.file(format!("queue/{}", id('b')), 0, 1);
    let conf = env.write("no-cache.conf", "[DEFAULT]\n");
    let run = env.old(PREFETCHER, &["--config-file", &conf]).code(1);
    let hint =
        run.stderr.lines().find(|line| line.contains("--cache-dir")).unwrap_or_else(|| panic!("{run:?}"));
    assert!(hint.ends_with("(an option of glance-cache prefetch, not of this name)"), "{hint}");
    let run = env.raw(&["prefetch", "--config-file", &conf]).code(2);
    assert!(!run.stderr.contains("not of this name"), "{run:?}");
}

#[test]
fn a_hard_link_and_any_directory_will_do() {
    let env = deployed(Sqlite, "home");
    let tool = env.outside("some where").join(PRUNER);
    fs::create_dir_all(tool.parent().unwrap()).unwrap();
    system(&["sh", "-c", "ln \"$0\" \"$1\" || cp \"$0\" \"$1\"", BINARY, tool.to_str().unwrap()]);
    env.finish(&mut env.command(&tool)).ok().silent();
    assert_eq!(env.left(), "cde");
}

#[test]
fn every_option_of_oslo_is_taken() {
    let options = [
        "--debug",
        "-d",
        "--nodebug",
        "--verbose",
        "-v",
        "--log-file=LOG",
        "--logfile LOG",
        "--log-dir=DIR",
        "--logdir DIR",
        "--log-date-format %Y",
        "--log-date-format=%Y",
        "--log-format %(message)s",
        "--use-syslog",
        "--nouse-syslog",
        "--syslog-log-facility LOG_LOCAL0",
        "--use-journal",
        "--nouse-journal",
        "--use-json",
        "--nouse-json",
        "--watch-log-file",
        "--nowatch-log-file",
        "--config-file=CONF",
        "--config-dir=DIR",
    ];
    for option in options {
        let env = deployed(Xattr, "home");
        let conf = env.outside("home/glance-api.conf");
        let text = option
            .replace("LOG_LOCAL0", "\0")
            .replace("LOG", env.outside("tool.log").to_str().unwrap())
            .replace("DIR", env.outside("home").to_str().unwrap())
            .replace("CONF", conf.to_str().unwrap())
            .replace('\0', "LOG_LOCAL0");
        let run = env.old(PRUNER, &text.split(' ').collect::<Vec<_>>()).ok();
        assert_eq!(run.stdout, "", "{option}");
        assert_eq!(env.left(), "cde", "{option}");
    }
}

#[test]
fn usage_errors_exit_2_and_change_nothing() {
    for tool in [CLEANER, PRUNER] {
        for arguments in [["--bogus"], ["positional"], ["--config-file"], ["--max-size=1"], ["--dry-run"]] {
            let env = deployed(Sqlite, "home");
            let run = env.old(tool, &arguments).code(2);
            assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{run:?}");
            assert_eq!((env.left().as_str(), env.names("invalid").len()), ("abcde", 1));
        }
    }
}

#[test]
fn every_other_failure_exits_1() {
    let env = deployed(Sqlite, "home");
    let bad = env.conf("image_cache_max_size = 10G\nimage_cache_stall_time = soon");
    for arguments in
        [["--config-file", "/nowhere/x.conf"], ["--config-dir", "/nowhere"], ["--config-file", &bad]]
    {
        for tool in [CLEANER, PRUNER] {
            let run = env.old(tool, &arguments).code(1);
            assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{run:?}");
        }
    }
    assert_eq!((env.left().as_str(), env.names("invalid").len()), ("abcde", 1));
}

#[test]
fn a_busy_index_is_a_failure_too() {
    let env = deployed(Sqlite, "home");
    let _held = env.lock("glance-cache-prune");
    let conf = env.outside("home/glance-api.conf");
    let mut command = env.command(env.old_name(PRUNER));
    let running = Running::start(command.args(["--config-file", conf.to_str().unwrap()]), &env.outside(""));
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal(rustix::process::Signal::TERM);
    let run = running.wait();
    assert_ne!(run.code, 0);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_bad_value_fails_the_tool_that_uses_it_only() {
    for (line, cleaner, pruner) in [
        ("image_cache_max_size = 10G", 0, 1),
        ("image_cache_stall_time = soon", 1, 0),
        ("image_cache_driver = memcache", 0, 1),
    ] {
        let env = deployed(Sqlite, "home");
        let conf = env.conf(line);
        env.old(CLEANER, &["--config-file", &conf]).code(cleaner);
        env.old(PRUNER, &["--config-file", &conf]).code(pruner);
    }
}

#[test]
fn help_and_version_work() {
    for tool in [CLEANER, PRUNER] {
        let env = TestEnv::empty(Xattr);
        for option in ["--help", "-h"] {
            assert!(env.old(tool, &[option]).ok().stdout.contains("--config-file"));
        }
        assert_eq!(env.old(tool, &["--version"]).ok().stdout.lines().count(), 1);
    }
}

#[test]
fn nothing_to_do_is_silent_success() {
    let env = TestEnv::empty(Xattr);
    let conf =
        env.write("g.conf", format!("[DEFAULT]\nimage_cache_dir = {}/\n", env.outside("missing").display()));
    for tool in [CLEANER, PRUNER] {
        env.old(tool, &["--config-file", &conf]).ok().silent();
    }
    assert!(!env.outside("missing").exists());
}

#[test]
fn no_cache_directory_configured_is_an_error() {
    let env = TestEnv::empty(Xattr);
    for tool in [CLEANER, PRUNER] {
        env.old(tool, &[]).fails(1, &["image_cache_dir"]);
    }
}

#[test]
fn a_log_file_gets_oslos_lines_and_stderr_stays_empty() {
    let env = deployed(Sqlite, "home");
    let log = env.outside("tool.log");
    env.old(PRUNER, &["--log-file", log.to_str().unwrap()]).ok().silent();
    let text = fs::read_to_string(&log).unwrap();
    let line = text.lines().next().expect("a line in the log");
    let words: Vec<&str> = line.split(' ').collect();
    // 2024-01-12 17:58:48.055 4711 LEVEL logger [-] message
    assert!(words[0].len() == 10 && words[1].len() == 12 && words[2].parse::<u32>().is_ok(), "{line}");
    assert!(["DEBUG", "INFO", "WARNING"].contains(&words[3]), "{line}");
    assert!(text.contains(&id('a')), "nothing about what went: {text}");
}

#[test]
fn the_json_log_is_json() {
    let env = deployed(Sqlite, "home");
    let log = env.outside("tool.log");
    env.old(PRUNER, &["--log-file", log.to_str().unwrap(), "--use-json"]).ok().silent();
    for line in fs::read_to_string(&log).unwrap().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["levelname"].is_string() && entry["message"].is_string(), "{entry}");
    }
}

#[test]
fn an_unwritable_log_file_is_one_warning_and_no_failure() {
    for option in ["--log-file=/nowhere/dir/x.log", "--log-dir=/nowhere/dir"] {
        let env = deployed(Sqlite, "home");
        let run = env.old(PRUNER, &[option]).ok();
        assert_eq!((run.stderr.lines().count(), run.stdout.len()), (1, 0), "{run:?}");
        assert!(run.stderr.contains("/nowhere/dir"), "{run:?}");
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn another_argv_0_is_just_our_name() {
    let env = deployed(Sqlite, "home");
    let mut command = env.of_cache("prune");
    env.finish(command.arg0("/usr/bin/glance-cache-prunerx").args(["--max-size", "2000B"])).ok();
    assert_eq!(env.left(), "de");
}
