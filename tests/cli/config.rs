//! Configuration as a black box: which value wins, how it is written, and what an error says. A dry prune's
//! `max_size` shows the value; the old names, which print nothing, show it by what is left.

use std::fs;

use crate::support::env::*;

/// Returns the limit that `prune --dry-run` with these arguments works with.
#[track_caller]
fn limit(env: &TestEnv, arguments: &[&str]) -> u64 {
    let mut all = vec!["prune", "--dry-run"];
    all.extend(arguments);
    env.raw(&all).ok().json()["max_size"].as_u64().unwrap()
}

/// Returns the limit that `text` in a file is taken for; `None` if that is an error, which has to say where
/// and what.
#[track_caller]
fn parsed(text: &str) -> Option<u64> {
    let env = TestEnv::xattr(&[]);
    let conf = env.conf(&format!("image_cache_max_size = {text}"));
    let run = env.raw(&["prune", "--dry-run", "--config-file", &conf]);
    match run.code {
        0 => Some(run.json()["max_size"].as_u64().unwrap()),
        2 => {
            assert!(run.stderr.contains(&conf) && run.stderr.contains("image_cache_max_size"), "{run:?}");
            None
        }
        _ => panic!("{text:?}: {run:?}"),
    }
}

#[test]
fn integers_are_pythons() {
    for (text, value) in [
        ("10737418240", Some(10_737_418_240)),
        ("00012", Some(12)),
        ("+5", Some(5)),
        ("1_000", Some(1000)),
        ("\"7\"", Some(7)),
        ("'7'", Some(7)),
        ("٣٤", Some(34)),
        ("  8  ", Some(8)),
        ("$image_cache_stall_time", Some(86400)),
        ("${image_cache_stall_time}", Some(86400)),
        ("10G", None),
        ("10GB", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
        ("7 # comment", None),
        ("-1", None),
        ("", None),
        ("1__0", None),
        ("_1", None),
        ("$$5", None),
        ("$nothing", None),
    ] {
        assert_eq!(parsed(text), value, "{text:?}");
    }
}

#[test]
fn no_upper_bound_on_integers() {
    let env = TestEnv::xattr(FIVE);
    let conf = env.conf("image_cache_max_size = 99999999999999999999999999");
    env.raw(&["prune", "--config-file", &conf]).ok();
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_later_file_wins_and_order_is_that_of_the_command_line() {
    let env = TestEnv::xattr(&[]);
    let one = env.conf("image_cache_max_size = 1");
    let two = env.write("two.conf", "[DEFAULT]\nimage_cache_max_size = 2\n");
    env.write("d/b.conf", "[DEFAULT]\nimage_cache_max_size = 4\n");
    env.write("d/a.conf", "[DEFAULT]\nimage_cache_max_size = 3\n");
    env.write("d/.hidden.conf", "[DEFAULT]\nimage_cache_max_size = 5\n");
    env.write("d/z.txt", "[DEFAULT]\nimage_cache_max_size = 6\n");
    let dir = env.outside("d");
    let dir = dir.to_str().unwrap();
    for (arguments, value) in [
        (vec!["--config-file", &one, "--config-file", &two], 2),
        (vec!["--config-file", &two, "--config-file", &one], 1),
        (vec!["--config-file", &one, "--config-dir", dir], 4),
        (vec!["--config-dir", dir, "--config-file", &one], 1),
        (vec!["--config-dir", dir, "--config-file", &one, "--config-dir", dir], 4),
        (vec!["--config-file", &one, "--max-size", "9B"], 9),
    ] {
        assert_eq!(limit(&env, &arguments), value, "{arguments:?}");
    }
}

#[test]
fn the_environment_beats_files_and_the_command_line_beats_it() {
    let env = TestEnv::xattr(&[]);
    let conf = env.conf("image_cache_max_size = 1");
    let mut command = env.command(BINARY);
    command.env("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "77").args([
        "prune",
        "--dry-run",
        "--config-file",
        &conf,
    ]);
    assert_eq!(env.finish(&mut command).ok().json()["max_size"], 77);
    assert_eq!(env.finish(command.args(["--max-size", "9B"])).ok().json()["max_size"], 9);
    command.env("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "lots");
    let mut bad = env.command(BINARY);
    bad.env("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "lots").args(["prune", "--config-file", &conf]);
    let run = env.finish(&mut bad).code(2);
    assert!(
        run.stderr.contains("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE") && run.stderr.contains("lots"),
        "{run:?}"
    );
}

/// Writes configuration files below HOME with these limits, and returns the limit taken without any option.
fn discovered(tool: &str, files: &[(&str, u64)]) -> String {
    let env = TestEnv::xattr(FIVE);
    for (name, size) in files {
        env.write(&format!("home/{name}"), env.conf_text(&format!("image_cache_max_size = {size}")));
    }
    env.old(tool, &[]).ok().silent();
    env.left()
}

#[test]
fn default_files_in_oslos_order() {
    let pruner = "glance-cache-pruner";
    let cases: &[(&[(&str, u64)], &str)] = &[
        (&[("glance-api.conf", 1000)], "e"),
        (&[("glance-api.conf", 1000), ("glance-cache.conf", 2000)], "de"),
        (&[("glance-cache.conf", 2000), ("glance.conf", 1000)], "de"),
        (&[("glance-api.conf", 1000), ("glance.conf", 3000)], "cde"),
        (&[(".glance/glance-api.conf", 1000), ("glance-api.conf", 2000)], "e"),
        (&[(".glance/glance-api.conf", 1000), ("glance-cache.conf", 2000)], "de"),
        (&[("glance-cache.conf", 1000), ("glance.conf.d/x.conf", 2000)], "de"),
        (&[("glance.conf.d/x.conf", 2000), ("glance-cache-pruner.conf.d/x.conf", 3000)], "cde"),
        (&[("glance-cache.conf", 4000), ("glance-api.conf.d/x.conf", 1000)], "bcde"),
        (&[("glance-cache.conf", 4000), ("glance-cache.conf.d/x.conf", 1000)], "bcde"),
        (&[("glance-cache.conf", 4000), ("glance-cache-cleaner.conf.d/x.conf", 1000)], "bcde"),
    ];
    for (files, left) in cases {
        assert_eq!(discovered(pruner, files), *left, "{files:?}");
    }
}

#[test]
fn default_directories_under_our_own_name() {
    let env = TestEnv::xattr(&[]);
    let mut expected = 1;
    for name in [
        "glance-cache.conf",
        "glance.conf.d/x.conf",
        "glance-api.conf.d/x.conf",
        "glance-cache.conf.d/x.conf",
    ] {
        env.write(&format!("home/{name}"), env.conf_text(&format!("image_cache_max_size = {expected}")));
        assert_eq!(limit(&env, &[]), expected, "{name}");
        expected += 1;
    }
    env.write("home/glance-cache-pruner.conf.d/x.conf", "[DEFAULT]\nimage_cache_max_size = 99\n");
    assert_eq!(limit(&env, &[]), expected - 1);
}

#[test]
fn a_named_file_replaces_the_default_files_but_not_the_default_directories() {
    let env = TestEnv::xattr(FIVE);
    env.write("home/glance-cache.conf", "[DEFAULT]\nimage_cache_max_size = 1000\n");
    let conf = env.conf("");
    env.old("glance-cache-pruner", &["--config-file", &conf]).ok();
    assert_eq!(env.left(), "abcde"); // the default limit
    env.write("home/glance.conf.d/x.conf", "[DEFAULT]\nimage_cache_max_size = 2000\n");
    env.old("glance-cache-pruner", &["--config-file", &conf]).ok();
    assert_eq!(env.left(), "de");
    let conf = env.conf("image_cache_max_size = 5000");
    env.write("home/glance.conf.d/x.conf", "[DEFAULT]\nimage_cache_max_size = 0\n");
    env.old("glance-cache-pruner", &["--config-file", &conf]).ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn a_named_directory_keeps_the_default_files_and_replaces_the_default_directories() {
    let env = TestEnv::xattr(FIVE);
    env.write("home/glance-cache.conf", env.conf_text("image_cache_max_size = 2000"));
    env.write("home/glance.conf.d/x.conf", "[DEFAULT]\nimage_cache_max_size = 0\n");
    env.write("d/x.conf", "[DEFAULT]\nimage_cache_stall_time = 5\n");
    env.old("glance-cache-pruner", &["--config-dir", env.outside("d").to_str().unwrap()]).ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn syntax_that_oslo_takes() {
    for text in [
        "[DEFAULT]\nimage_cache_max_size: 7\n",
        "[DEFAULT]\nimage_cache_max_size=7\n",
        "[DEFAULT]\nimage_cache_max_size = 1\nimage_cache_max_size = 7\n",
        "[DEFAULT]\nimage_cache_max_size = 1\n[x]\ny = z\n[DEFAULT]\nimage_cache_max_size = 7\n",
        "# comment\n; comment\n\n[DEFAULT]\r\nimage_cache_max_size = 7\r\n",
        "[DEFAULT]\nunknown = 5\nimage_cache_max_size = 7\nIMAGE_CACHE_MAX_SIZE = 8\nimage-cache-max-size = \
         9\n[default]\nimage_cache_max_size = 10\n",
        "[filter:cache]\npaste.filter_factory = a:b\n[DEFAULT]\nimage_cache_max_size = 7",
    ] {
        let env = TestEnv::xattr(&[]);
        let conf = env.write("x.conf", text);
        assert_eq!(
            limit(&env, &["--config-file", &conf, "--cache-dir", env.dir().to_str().unwrap()]),
            7,
            "{text:?}"
        );
    }
}

#[test]
fn syntax_that_oslo_refuses_is_refused_with_its_place() {
    for (text, line) in [
        ("[DEFAULT\na = b\n", ":1"),
        ("a = b\n", ":1"),
        ("[DEFAULT]\na = b\nnonsense\n", ":3"),
        ("\u{feff}[DEFAULT]\na = b\n", ":1"),
        (" [DEFAULT]\n", ":1"),
        ("[]\na = b\n", ":1"),
        ("[DEFAULT]\n = b\n", ":2"),
        ("[DEFAULT]\n  leading\n", ":2"),
    ] {
        let env = TestEnv::xattr(FIVE);
        let conf = env.write("x.conf", text);
        let run =
            env.raw(&["prune", "--config-file", &conf, "--cache-dir", env.dir().to_str().unwrap()]).code(2);
        assert!(run.stderr.contains(&format!("{conf}{line}")), "{text:?}: {}", run.stderr);
    }
}

#[test]
fn files_that_cannot_be_read_are_errors() {
    let env = TestEnv::xattr(FIVE);
    let bytes = env.write("bytes.conf", b"[DEFAULT]\nx = \xff\xfe\n");
    let dir = env.outside("home");
    for path in ["/nowhere/x.conf", &bytes, dir.to_str().unwrap()] {
        env.raw(&["prune", "--config-file", path]).fails(2, &[path]);
    }
    env.raw(&["prune", "--config-dir", "/nowhere/d"]).fails(2, &["/nowhere/d"]);
}

#[test]
fn values_join_over_lines_and_lose_their_quotes() {
    let env = TestEnv::xattr(FIVE);
    let dir = env.dir().display();
    for text in [
        format!("image_cache_dir = \"{dir}\""),
        format!("image_cache_dir = '{dir}'"),
        format!("image_cache_dir : {dir}/"),
        format!("image_cache_dir =\n  {dir}"),
    ] {
        let conf = env.write(
            "x.conf",
            format!("[DEFAULT]\nimage_cache_driver = xattr\n{text}\nimage_cache_max_size = 4999\n"),
        );
        let run = env.raw(&["prune", "--dry-run", "--config-file", &conf]);
        // A value that only starts on the next line begins with a newline in oslo: no such directory, nothing
        // to do.
        let expected = if text.contains('\n') { 0 } else { 5000 };
        assert_eq!(run.ok().json()["cache_size_before"].as_u64().unwrap_or(0), expected, "{text:?}");
    }
}

#[test]
fn the_driver_is_taken_in_any_case() {
    for env in TestEnv::both(FIVE) {
        let (upper, dir) = (env.driver.name().to_uppercase(), env.dir().display());
        let conf = env.write(
            "x.conf",
            format!(
                "[DEFAULT]\nimage_cache_dir = {dir}\nimage_cache_driver = \
                                                {upper}\nimage_cache_max_size = 3000\n"
            ),
        );
        env.raw(&["prune", "--config-file", &conf]).ok();
        assert_eq!(env.left(), "cde");
        assert!(env.driver == Sqlite || !env.path("cache.db").exists());
    }
}

#[test]
fn an_unset_or_empty_cache_directory_is_an_error_and_makes_nothing() {
    for text in [
        "[DEFAULT]\nimage_cache_driver = sqlite\n",
        "[DEFAULT]\nimage_cache_driver = sqlite\nimage_cache_dir =\n",
    ] {
        let env = TestEnv::xattr(&[]);
        let conf = env.write("x.conf", text);
        let before = tree(&env.outside(""));
        for command in ["prune", "clean", "list"] {
            env.raw(&[command, "--config-file", &conf]).fails(2, &["image_cache_dir"]);
        }
        let names =
            |tree: &std::collections::BTreeMap<String, String>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&tree(&env.outside(""))), names(&before));
    }
}

#[test]
fn a_relative_cache_directory_is_relative_to_the_current_one() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.write(
        "x.conf",
        "[DEFAULT]\nimage_cache_dir = cache\nimage_cache_driver = sqlite\nimage_cache_max_size = 3000\n",
    );
    env.raw(&["prune", "--config-file", &conf]).ok();
    assert_eq!(env.left(), "cde");
}

#[test]
fn an_index_elsewhere_and_an_index_in_a_missing_directory() {
    let env = TestEnv::sqlite(FIVE);
    fs::rename(env.path("cache.db"), env.outside("index.db")).unwrap();
    let conf = env.conf(&format!(
        "image_cache_sqlite_db = {}\nimage_cache_max_size = 3000",
        env.outside("index.db").display()
    ));
    env.raw(&["prune", "--config-file", &conf]).ok();
    assert_eq!(env.images(), "cde");
    let db = rusqlite::Connection::open(env.outside("index.db")).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM cached_images", [], |r| r.get::<_, i64>(0)).unwrap(), 3);
    let conf = env.conf("image_cache_sqlite_db = missing/index.db\nimage_cache_max_size = 0");
    let run = env.raw(&["prune", "--config-file", &conf]);
    assert!([2, 3].contains(&run.code) && run.stderr.contains("missing/index.db"), "{run:?}");
    assert_eq!(env.images(), "cde");
}

#[test]
fn bad_values_fail_what_uses_them_only() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 10G");
    env.raw(&["clean", "--config-file", &conf]).ok();
    env.raw(&["prune", "--config-file", &conf]).fails(2, &[&format!("{conf}:4"), "10G"]);
    env.raw(&["prune", "--config-file", &conf, "--max-size", "10GiB"]).ok();
    let conf = env.conf("image_cache_stall_time = soon");
    env.raw(&["prune", "--config-file", &conf]).ok();
    env.raw(&["clean", "--config-file", &conf]).fails(2, &[&format!("{conf}:4"), "soon"]);
    let conf = env.write(
        "x.conf",
        format!("[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = memcache\n", env.dir().display()),
    );
    env.raw(&["prune", "--config-file", &conf]).fails(2, &["memcache", &conf]);
}
