//! Which caches a host has: Ironic's configuration, declarations of further caches, bad values, bad
//! directories, usage.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::env::*;
use crate::support::host::*;

#[test]
fn the_list_is_sorted_by_priority() {
    let env = HostEnv::new();
    assert_eq!(caches(&env.status()), ["ironic-iso", "ironic-instance", "ironic-tftp"]);
    fs::create_dir_all(env.dir("glance/queue")).unwrap();
    let glance = format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display());
    env.conf(&glance);
    assert_eq!(caches(&env.status()), ["ironic-iso", "glance", "ironic-instance", "ironic-tftp"]);
    env.conf(&format!(
        "{glance}[image_cache:ironic-tftp]\npriority = 60\n[image_cache:ironic-iso]\npriority = 1\n"
    ));
    // Among equals the one that was registered first.
    assert_eq!(caches(&env.status()), ["glance", "ironic-tftp", "ironic-instance", "ironic-iso"]);
}

#[test]
fn a_further_cache_is_declared_without_code() {
    let env = HostEnv::new();
    fs::create_dir(env.dir("kernels")).unwrap();
    env.conf(&format!(
        "[image_cache:kernels]\nkind = ironic-tftp\ndirectory = {}\nsize = 3MiB\nage = 2d\npriority = 99\n",
        env.dir("kernels").display()
    ));
    for n in 1..=5 {
        env.image("kernels", &master(n), MIB);
    }
    let status = env.status();
    assert_eq!(caches(&status), ["kernels", "ironic-iso", "ironic-instance", "ironic-tftp"]);
    let kernels = cache(&status, "kernels");
    assert_eq!(kernels["limit"], 3 * MIB);
    assert_eq!(kernels["age_limit"], 172_800);
    assert_eq!(kernels["priority"], 99);
    env.run("prune", &["--all-caches", "--min-age", "0"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.names("kernels"), [master(3), master(4), master(5)]);
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 3}));
}

#[test]
fn a_bad_declaration_is_named_and_the_others_are_served() {
    let env = HostEnv::new();
    fs::create_dir(env.dir("x")).unwrap();
    let x = env.dir("x").display().to_string();
    for (section, says) in [
        (
            "[image_cache:ironic-iso]\npriority = 0\n",
            "glance-cache.conf:2: [image_cache:ironic-iso] priority is \"0\"",
        ),
        ("[image_cache:ironic-iso]\npriority = high\n", "must be a whole number of 1 or more"),
        ("[image_cache:ironic-iso]\npriority = -5\n", "priority is \"-5\""),
        ("[image_cache:ironic-iso]\nsize = many\n", "'many' is not a size"),
        ("[image_cache:ironic-iso]\nage = -1\n", "'-1' is not a duration"),
        ("[image_cache:ironic-iso]\ndirectory = /x\n", "directory cannot be set for ironic-iso"),
        ("[image_cache:x]\nkind = ironic-iso\nsize = 1\n", "[image_cache:x] does not set directory"),
        (&format!("[image_cache:x]\ndirectory = {x}\nsize = 1\n"), "[image_cache:x] does not set kind"),
        (
            &format!("[image_cache:x]\nkind = ironic-iso\ndirectory = {x}\n"),
            "[image_cache:x] does not set size",
        ),
        (
            &format!("[image_cache:x]\nkind = tape\ndirectory = {x}\nsize = 1\n"),
            "kind \"tape\" does not exist; the kinds are glance, ironic-iso, ironic-instance, ironic-tftp",
        ),
    ] {
        env.conf(section);
        let run = env.run("status", &["--all-caches", "--format", "json"]).code(1).says(&[says]);
        assert!(
            caches(&run.json()).ends_with(&["ironic-instance".to_owned(), "ironic-tftp".to_owned()]),
            "{section}"
        );
        let message = run.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn all_that_needs_attention_has_a_code() {
    let env = HostEnv::new();
    let check = env.run("status", &["--all-caches", "--check"]).ok().stdout;
    assert!(check.starts_with("GLANCE-CACHE OK - 3 caches, 0 B | size=0B"), "{check}");
    env.limits(0, 1000);
    env.image("iso", &master(1), 10);
    env.run("status", &["--all-caches", "--check"]).code(1);
    fs::remove_dir(env.dir("tftp")).unwrap();
    fs::create_dir(env.dir("instance/inner")).unwrap();
    env.conf(&format!(
        "[image_cache:inner]\nkind = ironic-iso\ndirectory = {}\nsize = 1\n[image_cache:x]\nkind = tape\n",
        env.dir("instance/inner").display()
    ));
    let run = env.run("status", &["--all-caches", "--format", "json"]).code(1).json();
    let attention = run["attention"].as_array().unwrap().iter();
    let codes: Vec<_> = attention.map(|entry| entry["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["over_limit", "warning", "no_cache", "unreadable"], "{run}");
    let check = env.run("status", &["--all-caches", "--check"]).code(1).stdout;
    env.run("list", &["--all-caches", "--images"]).fails(1, &["cannot use cache x: "]);
    assert!(
        check.starts_with("GLANCE-CACHE WARNING - over the limit, warnings, no cache directory"),
        "{check}"
    );
}

#[test]
fn a_file_system_has_the_sums_of_its_caches() {
    let env = HostEnv::new();
    for (cache, bytes) in [("iso", 4096), ("instance", 8192)] {
        env.image(cache, &master(1), bytes);
    }
    let run = |arguments: &[&str]| env.later("status", &[&["--all-caches"], arguments].concat()).ok();
    let verbose = run(&["-v", "--format", "json"]).json();
    let systems = verbose["file_systems"].as_array().unwrap();
    assert_eq!(systems.len(), 1, "{verbose}");
    assert_eq!(systems[0]["caches"], json!(["ironic-iso", "ironic-instance", "ironic-tftp"]));
    let bytes = |cache: &serde_json::Value| cache["reclaimable"]["bytes"].as_u64().unwrap();
    let sum: u64 = verbose["caches"].as_array().unwrap().iter().map(bytes).sum();
    assert_eq!((systems[0]["reclaimable"].as_u64(), sum >= 12_288), (Some(sum), true), "{verbose}");
    let files = json!([env.path("glance-cache.conf"), env.path("ironic.conf")]);
    assert_eq!(verbose["files_read"], files);
    let text = run(&[]).stdout;
    assert!(text.contains("; ironic-iso, ironic-instance, ironic-tftp could free "), "{text}");
}

#[test]
fn entries_that_are_no_images_are_named_up_to_a_number() {
    let env = HostEnv::new();
    env.image("iso", &master(1), 10);
    for (count, is_cut) in [(20, false), (21, true)] {
        (0..count).for_each(|n| env.image("iso", &format!("file-{n:02}"), 1));
        let text = env.run("status", &["--all-caches"]).ok().stdout;
        assert_eq!(text.matches("iso/file-").count(), 20, "{text}");
        assert_eq!(text.contains("... and "), is_cut, "{text}");
        assert!(text.contains(" used too recently to be removed"), "{text}");
        assert!(!text.contains("left by crashed downloads"), "{text}");
    }
}

#[test]
fn declarations_that_name_nothing_or_no_place_are_refused() {
    let env = HostEnv::new();
    for (section, says) in [
        ("[image_cache:]\nkind = ironic-iso\ndirectory = /x\nsize = 1\n", "[image_cache:] has no name"),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = images\nsize = 1\n",
            "glance-cache.conf:3: the directory \"images\" is not an absolute path",
        ),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory =\nsize = 1\n",
            "[image_cache:x] does not set directory",
        ),
        (
            "[image_cache:x]\nkind = IRONIC-ISO\ndirectory = /x\nsize = 1\n",
            "kind \"IRONIC-ISO\" does not exist",
        ),
        ("[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = -1\n", "'-1' is not a size"),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = 99999999999999999999999\n",
            "is too large",
        ),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = 1\npriority = 1.5\n",
            "priority is \"1.5\"",
        ),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = 1\nage = forever\n",
            "'forever' is not a duration",
        ),
    ] {
        env.conf(section);
        let run = env.run("prune", &["--all-caches"]).fails(1, &[says]);
        assert_eq!(run.json()["caches"].as_array().unwrap().len(), 3, "{section}");
    }
}

#[test]
fn a_relative_path_of_ironics_is_no_place() {
    let env = HostEnv::new();
    env.ironic_conf("[deploy]\niso_master_path = iso\n[pxe]\ninstance_master_path =\ntftp_master_path =\n");
    env.image("iso", &master(1), 10);
    env.later("prune", &["--all-caches"]).fails(1, &["ironic.conf:2: the directory \"iso\"", "absolute"]);
}

#[test]
fn the_root_directory_is_inside_nothing() {
    let env = HostEnv::new();
    env.ironic_conf("[deploy]\niso_master_path = /\n[pxe]\ninstance_master_path =\ntftp_master_path =\n");
    let run = env.run("list", &["--all-caches"]).ok();
    assert!(!run.stderr.contains("is inside"), "{}", run.stderr);
}

#[test]
fn a_bad_value_of_ironics_keeps_only_its_cache_out() {
    let env = HostEnv::new();
    for (line, left) in [
        ("iso_cache_size = -1", &["ironic-instance", "ironic-tftp"][..]),
        ("iso_cache_size = many", &["ironic-instance", "ironic-tftp"]),
        ("iso_cache_ttl = 1.5", &["ironic-instance", "ironic-tftp"]),
        ("iso_master_path = ", &["ironic-instance", "ironic-tftp"]),
    ] {
        env.limits(1, 1);
        let text = fs::read_to_string(env.path("ironic.conf")).unwrap();
        env.ironic_conf(&format!("{text}[deploy]\n{line}\n"));
        let expected = i32::from(!line.ends_with(' '));
        let run = env.run("prune", &["--all-caches"]).code(expected);
        assert_eq!(caches(&run.json()), left, "{line}");
    }
    env.ironic_conf("nonsense");
    let run = env.run("prune", &["--all-caches"]).fails(1, &["ironic.conf:1:"]);
    assert_eq!(run.json()["errors"].as_array().unwrap().len(), 1, "one file is one error");
}

/// Plans a prune where the directory of the ISO images is as `make` makes it: it is named, nothing is made in
/// its place, and the other caches are served.
#[track_caller]
fn is_named_and_not_made(code: i32, says: &[&str], make: fn(&HostEnv)) {
    let env = HostEnv::new();
    env.image("tftp", &master(1), MIB);
    fs::remove_dir(env.dir("iso")).unwrap();
    make(&env);
    let before = tree(&env.base);
    let run = env.later("prune", &["--all-caches", "--dry-run"]).code(code).says(says);
    assert!(caches(&run.json()).contains(&"ironic-tftp".to_owned()));
    assert_eq!(tree(&env.base), before, "nothing is made");
}

#[test]
fn a_directory_that_is_missing() {
    is_named_and_not_made(0, &["iso", "does not exist"], |_| {});
}

#[test]
fn a_directory_that_is_a_file() {
    is_named_and_not_made(1, &["iso", "ot a directory"], |env| fs::write(env.dir("iso"), "").unwrap());
}

#[test]
fn a_directory_that_is_a_dangling_link() {
    is_named_and_not_made(1, &["iso", "does not exist"], |env| symlink("nowhere", env.dir("iso")).unwrap());
}

#[test]
fn a_directory_below_a_file() {
    is_named_and_not_made(1, &["ironic.conf:2"], |env| {
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path = /dev/null/iso\n[pxe]\ninstance_master_path =\ntftp_master_path = \
             {}\n",
            env.dir("tftp").display()
        ));
    });
}

#[test]
fn the_same_directory_is_taken_once_and_one_inside_another_is_named() {
    let env = HostEnv::new();
    symlink("tftp", env.dir("link")).unwrap();
    fs::create_dir(env.dir("tftp/inner")).unwrap();
    env.ironic_conf(&format!(
        "[deploy]\niso_master_path = {0}/link\n[pxe]\ninstance_master_path = {0}/tftp/inner\n\
         tftp_master_path = {0}/tftp/\nimage_cache_size = 0\n",
        env.base.display()
    ));
    env.image("tftp", &master(1), MIB);
    env.image("tftp/inner", &master(2), MIB);
    let run = env.later("prune", &["--all-caches"]).ok().says(&[
        "ironic-iso and ironic-tftp are the same directory",
        "the directory of ironic-instance",
        "is inside that of ironic-iso",
    ]);
    assert_eq!(caches(&run.json()), ["ironic-iso", "ironic-instance"]);
    assert_eq!(run.json()["total_files_pruned"], 2);
}

#[test]
fn reads_ironics_configuration_from_the_places_a_conductor_does() {
    let env = HostEnv::new();
    let size = |run: Run| cache(&run.ok().json(), "ironic-tftp")["limit"].as_u64().unwrap() >> 20;
    let conf = |path: &str, mib: u64| {
        let path = env.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tftp = env.dir("tftp");
        fs::write(&path, format!("[pxe]\ntftp_master_path = {}\nimage_cache_size = {mib}\n", tftp.display()))
            .unwrap();
        path.display().to_string()
    };
    let status = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(BINARY);
        command.env_clear().env("HOME", env.path("home")).current_dir(&env.base).stdin(Stdio::null());
        command
            .args(["status", "--all-caches", "--format", "json"])
            .args(arguments)
            .envs(variables.iter().copied());
        size(env.finish(&mut command))
    };
    conf("home/ironic.conf", 1);
    assert_eq!(status(&[], &[]), 1);
    conf("home/.ironic/ironic.conf", 2);
    assert_eq!(status(&[], &[]), 2, "the first place that has one");
    conf("home/ironic.conf.d/a.conf", 3);
    assert_eq!(status(&[], &[]), 3, "directories after files");
    conf("home/ironic-conductor.conf.d/a.conf", 4);
    assert_eq!(status(&[], &[]), 4);
    let file = conf("elsewhere.conf", 5);
    assert_eq!(status(&["--ironic-config-file", &file], &[]), 5);
    conf("other.d/b.conf", 6);
    let dir = env.path("other.d").display().to_string();
    assert_eq!(status(&["--ironic-config-dir", &dir], &[]), 6);
    assert_eq!(
        status(&["--ironic-config-dir", &dir, "--ironic-config-file", &file], &[]),
        5,
        "from left to right"
    );
    assert_eq!(status(&[], &[("OS_PXE__IMAGE_CACHE_SIZE", "7")]), 7);
    let _ = fs::remove_dir_all(env.path("home/ironic.conf.d"));
    let _ = fs::remove_dir_all(env.path("home/ironic-conductor.conf.d"));
    assert_eq!(status(&[], &[("IRONIC_CONFIG_FILE", &file)]), 5);
    assert_eq!(status(&[], &[("IRONIC_CONFIG_DIR", &dir)]), 6);
}

#[test]
fn wrong_usage_is_refused() {
    let env = HostEnv::new();
    for (arguments, says) in [
        (&["--require", "1G"][..], "image_cache_dir is not set"),
        (&["--require", "1G", "--on", "/nonexistent/x"], "cannot get the file system of /nonexistent/x"),
        (&["--require=-1", "--on", "/"], "'-1' is not a size"),
        (&["--require", "many", "--on", "/"], "'many' is not a size"),
        (&["--require", "1P", "--on", "/"], "is more than the whole file system of /"),
        (&["--on", "/"], "--require"),
        (&["--best-effort"], "--require"),
        (&["--all-caches", "--require", "1B"], "cannot be used with"),
        (&["--all-caches", "--min-free", "1B"], "cannot be used with"),
        (&["--all-caches", "--max-size", "1B"], "each cache has its own limit"),
        (&["--all-caches", "--now", "yesterday"], "'yesterday' is not a time"),
    ] {
        let run = env.run("prune", arguments).code(2);
        assert!(run.stderr.contains(says), "{arguments:?}: {}", run.stderr);
    }
    let _ = env.run("clean", &["--all-caches", "--repair"]).code(2);
}

#[test]
fn an_unreadable_configuration_of_ironic_is_told() {
    let env = HostEnv::new();
    fs::remove_file(env.path("ironic.conf")).unwrap();
    let run = env
        .run("status", &["--all-caches", "--format", "json"])
        .fails(1, &["cannot read configuration file"]);
    assert_eq!(caches(&run.json()), [""; 0]);
}
