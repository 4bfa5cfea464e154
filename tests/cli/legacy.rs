//! The old names: every command line found in the field works unchanged, silently, in an empty environment.

use std::fs;
use std::os::unix::process::CommandExt as _;

use crate::env::*;

const CLEANER: &str = "glance-cache-cleaner";
const PRUNER: &str = "glance-cache-pruner";
const PREFETCHER: &str = "glance-cache-prefetcher";

/// Every command line of the field for the three tools, as they stand in crontabs and job templates (user needs, section
/// 2). `BIN` is the directory with the tools, `ETC` stands for `/etc/glance`.
const FIELD: &[(&str, &str)] = &[
    ("puppet-glance, cleaner", "glance-cache-cleaner "),
    ("puppet-glance, pruner", "glance-cache-pruner "),
    ("puppet-glance, with options", "sleep `expr ${RANDOM} % 1`; glance-cache-pruner --config-dir ETC/"),
    ("openstack-ansible, pruner", "BIN/glance-cache-pruner"),
    ("openstack-ansible, cleaner", "BIN/glance-cache-cleaner"),
    ("RHOSO, cleaner", "/bin/bash -c \"BIN/glance-cache-cleaner --config-dir ETC/glance.conf.d\""),
    ("RHOSO, pruner", "/bin/bash -c \"BIN/glance-cache-pruner --config-dir ETC/glance.conf.d\""),
    (
        "CobaltCore",
        "set -eu; rc=0; glance-cache-pruner --config-dir ETC/glance-api.conf.d/ || rc=1; \
         glance-cache-cleaner --config-dir ETC/glance-api.conf.d/ || rc=1; exit $rc",
    ),
    ("StarlingX", "BIN/glance-cache-pruner --config-file ETC/glance-api.conf"),
    ("Chef, pruner", "BIN/glance-cache-pruner > /dev/null 2>&1"),
    ("Chef, cleaner", "BIN/glance-cache-cleaner > /dev/null 2>&1"),
    ("older puppet, pruner", "BIN/glance-cache-pruner"),
    ("older puppet, cleaner", "BIN/glance-cache-cleaner"),
    ("crowbar, pruner", "BIN/glance-cache-pruner"),
    ("source install, cleaner", "BIN/glance-cache-cleaner"),
    ("functional tests' shape", "glance-cache-cleaner --config-file ETC/glance-api.conf"),
    ("crowbar, prefetcher", "BIN/glance-cache-prefetcher"),
    ("functional tests, prefetcher", "glance-cache-prefetcher --config-file ETC/glance-api.conf"),
];

/// A cache with something to do for both, limit 3000, configured in the places that all these deployers use.
fn deployed(driver: Driver, etc: &str) -> TestEnv {
    let env = TestEnv::new(driver, FIVE);
    env.file("invalid/x", 1, 1);
    let connection = format!("[database]\nconnection = {}", crate::prefetch::small_database(&env, 'f', 500));
    env.file(format!("queue/{}", id('f')), 0, 1);
    let text = env.conf_text(&format!(
        "image_cache_max_size = 3000\n{connection}\n[glance_store]\nfilesystem_store_datadir = {}\n[keystone_authtoken]\n\
         admin_password = secret",
        env.outside("store").display()
    ));
    for name in ["glance-api.conf", "glance.conf.d/00-config.conf", "glance-api.conf.d/10-cache.conf"] {
        env.write(&format!("{etc}/{name}"), &text);
    }
    for name in [CLEANER, PRUNER, PREFETCHER] {
        env.old_name(name);
    }
    env
}

fn assert_done(env: &TestEnv, line: &str) {
    if line.contains("pruner") {
        assert_eq!(env.left(), "cde", "{line}");
    }
    if line.contains("cleaner") {
        assert_eq!(env.names("invalid"), [""; 0], "{line}");
    }
    if line.contains("prefetcher") {
        assert_eq!(env.left(), "abcdef", "{line}");
        assert_eq!(env.names("queue"), [""; 0], "{line}");
    }
}

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
    env.finish(command.arg0("/usr/bin/glance-cache-prunerx").args(["--max-size", "2000"])).ok();
    assert_eq!(env.left(), "de");
}

/// The very lines, with the very paths, in a mount name space of their own.
mod as_root {
    use super::*;

    #[test]
    #[ignore = "needs root (a mount name space): run tests/run as root"]
    fn every_command_line_of_the_field_verbatim() {
        let mut run_lines = 0;
        for (who, line) in FIELD {
            let env = deployed(Sqlite, "etc/glance");
            let line = line.replace("ETC", "/etc/glance").replace("BIN", "/usr/bin");
            let script = format!(
                "mount -t overlay none -o lowerdir={root}/etc:/etc /etc && mount -t overlay none -o lowerdir={root}/bin:/usr/bin /usr/bin \
                 && exec env -i PATH=/usr/bin:/bin:/usr/sbin /bin/bash -c {line}",
                root = env.outside("").display().to_string().trim_end_matches('/'),
                line = quoted(&line)
            );
            let mut command = env.command("/usr/bin/unshare");
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args([
                "--mount",
                "/bin/bash",
                "-c",
                &script,
            ]);
            env.finish(&mut command).ok().silent();
            assert_done(&env, &line);
            println!("{who}: exit 0, silent: {line}");
            run_lines += 1;
        }
        println!("{run_lines} command lines, verbatim");
    }

    fn quoted(line: &str) -> String {
        format!("'{}'", line.replace('\'', "'\\''"))
    }
}
