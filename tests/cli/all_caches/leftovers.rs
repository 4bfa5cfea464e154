//! What crashed downloads and killed runs leave in Ironic's caches, and what only looks like it.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::env::*;
use crate::support::host::*;

#[test]
fn clean_removes_what_crashed_downloads_left_and_nothing_else() {
    let env = HostEnv::new();
    let stale = env.leftover("iso", &format!("{}.part", master(1)), MIB);
    fs::write(stale.join(format!("{}.converted.converted", master(1))), "x").unwrap();
    env.image("iso", &format!("{}.part", master(2)), 10);
    let strange = env.dir("iso/tmpzzzzzzzz");
    mkdtemp(&strange);
    fs::create_dir(strange.join("a directory")).unwrap();
    for other in ["tmp", "tmpABCDEFGH", "tmpabcdefghi", "tmpabcdefg", "backup"] {
        fs::create_dir(env.dir("iso").join(other)).unwrap();
        fs::write(env.dir("iso").join(other).join("file"), "kept").unwrap();
    }
    symlink(env.dir("instance"), env.dir("iso/tmplinklink")).unwrap();
    env.image("instance", &master(9), 10);
    let before = tree(&env.base);

    env.run("clean", &["--all-caches"]).ok().has(&json!({"total_files_cleaned": 0}));
    assert_eq!(tree(&env.base), before, "younger than a day");
    let plan = env.later("clean", &["--all-caches", "--dry-run"]).ok().json();
    assert_eq!(tree(&env.base), before, "a dry run changes nothing");
    assert_eq!(plan["plan"].as_array().unwrap().len(), 2, "{plan}");
    assert_eq!((&plan["total_files_cleaned"], &plan["dry_run"]), (&json!(3), &json!(true)));
    assert_eq!(cache(&plan, "ironic-iso")["bytes_cleaned"], plan["total_bytes_cleaned"]);
    assert!(plan["total_bytes_cleaned"].as_u64().unwrap() >= MIB as u64, "{plan}");
    assert!(plan["plan"].as_array().unwrap().iter().all(|step| step["cache"] == "ironic-iso"), "{plan}");
    env.later("clean", &["--all-caches", "--temp-grace", "11d"]).ok().has(&json!({"total_files_cleaned": 0}));

    let open = fs::File::open(stale.join(format!("{}.part", master(1)))).unwrap();
    env.later("clean", &["--all-caches"]).ok().says(&["tmpabcd_123/ is old, but stays: process"]);
    assert!(stale.exists());
    drop(open);
    env.later("clean", &["--all-caches"])
        .ok()
        .says(&["tmpzzzzzzzz/ is old, but also holds files that are not a download's"]);
    assert!(!stale.exists());
    assert_eq!(
        env.names("iso"),
        ["backup", "tmp", "tmpABCDEFGH", "tmpabcdefg", "tmpabcdefghi", "tmplinklink", "tmpzzzzzzzz"]
    );
    assert_eq!(env.names("instance"), [master(9)]);
}

#[test]
fn links_of_crashed_downloads_do_not_count() {
    let env = HostEnv::new();
    env.limits(0, 0);
    env.image("iso", &master(1), MIB);
    let stale = env.dir("iso/tmpabcd_123");
    mkdtemp(&stale);
    fs::hard_link(env.dir("iso").join(master(1)), stale.join(master(1))).unwrap();
    env.run("prune", &["--all-caches", "--min-age", "0"]).code(1);
    assert_eq!(env.names("iso").len(), 2, "the download may still be alive");
    env.use_image("iso", &master(1));
    env.later("prune", &["--all-caches"]).code(1).has(&json!({"total_files_pruned": 0}));
    assert_eq!(env.names("iso").len(), 2, "an instance uses it");
    fs::remove_file(env.dir(&format!("used-iso-{}", master(1)))).unwrap();
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 1}));
    assert_eq!(env.names("iso"), ["tmpabcd_123"]);
    assert_eq!(names(&stale), [""; 0], "or its blocks would stay");
    env.later("clean", &["--all-caches"]).ok();
    assert_eq!(env.names("iso"), [""; 0]);
}

#[test]
fn a_cache_inside_another_is_no_leftover_of_it() {
    let env = HostEnv::new();
    let inner = env.dir("iso/tmpinstance");
    mkdtemp(&inner);
    let text = fs::read_to_string(env.path("ironic.conf")).unwrap();
    env.ironic_conf(&format!("{text}[pxe]\ninstance_master_path = {}\n", inner.display()));
    for n in [1, 2] {
        env.image("iso/tmpinstance", &master(n), 10);
    }
    fs::hard_link(inner.join(master(1)), env.dir("used")).unwrap();
    env.later("clean", &["--all-caches"]).ok().has(&json!({"total_files_cleaned": 0}));
    assert_eq!(names(&inner), [1, 2].map(master));
}

#[test]
fn directories_that_no_download_made_are_no_leftovers() {
    let env = HostEnv::new();
    env.limits(0, 0);
    // An operator's, named as mkdtemp could have named them.
    for (name, file) in [("tmpdownload", master(1)), ("tmpkernels1", "vmlinuz".to_owned())] {
        fs::create_dir(env.dir("tftp").join(name)).unwrap();
        fs::write(env.dir("tftp").join(name).join(file), "kept").unwrap();
    }
    mkdtemp(&env.dir("tftp/tmpprivate1"));
    fs::write(env.dir("tftp/tmpprivate1/notes.part"), "kept").unwrap();
    env.image("tftp", &master(2), 10);
    fs::hard_link(env.dir("tftp").join(master(2)), env.dir("tftp/tmpdownload/keep")).unwrap();
    env.later("prune", &["--all-caches"]).code(1).has(&json!({"total_files_pruned": 0}));
    env.later("clean", &["--all-caches"])
        .ok()
        .says(&["tmpprivate1/ is old, but also holds files that are not a download's"])
        .has(&json!({"total_files_cleaned": 0}));
    assert_eq!(env.names("tftp"), [&master(2), "tmpdownload", "tmpkernels1", "tmpprivate1"]);
    assert_eq!(names(&env.dir("tftp/tmpdownload")), [&master(1), "keep"]);
}

#[test]
fn everything_that_a_download_makes_is_a_leftover() {
    let env = HostEnv::new();
    let directory = env.dir("iso/tmp_0abcdef");
    mkdtemp(&directory);
    let name = master(1);
    for suffix in ["", ".part", ".converted", ".converted.part", ".converted.converted"] {
        fs::write(directory.join(format!("{name}{suffix}")), "x").unwrap();
    }
    mkdtemp(&env.dir("iso/tmpempty000"));
    env.later("clean", &["--all-caches"]).ok().has(&json!({"total_files_cleaned": 5}));
    assert_eq!(env.names("iso"), [""; 0]);
}

#[test]
fn what_a_killed_run_left_aside_is_put_back() {
    let env = HostEnv::new();
    env.image("iso", &master(2), 20);
    fs::create_dir(env.dir("iso/.glance-cache-aside")).unwrap();
    env.image("iso/.glance-cache-aside", &master(1), 10);
    env.image("iso/.glance-cache-aside", &master(2), 10);
    env.run("status", &["--all-caches"]).ok().says(&["a killed run has moved images aside"]);
    env.run("prune", &["--all-caches"]).ok().says(&["put back 2 images"]);
    assert_eq!(env.names("iso"), [master(1), master(2)]);
    assert_eq!(
        fs::metadata(env.dir("iso").join(master(2))).unwrap().len(),
        20,
        "a newer one is not replaced"
    );
}

#[test]
fn what_is_strange_in_the_private_directory_keeps_the_cache_as_it_is() {
    let env = HostEnv::new();
    env.limits(0, 0);
    env.image("iso", &master(1), 10);
    let aside = env.dir("iso/.glance-cache-aside");
    symlink(env.dir("tftp"), &aside).unwrap();
    env.image("tftp", &master(2), 10);
    env.later("prune", &["--all-caches"]).fails(1, &["ironic-iso", "cannot put back"]);
    assert_eq!(env.names("iso").len(), 2);
    fs::remove_file(&aside).unwrap();
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("notes"), "").unwrap();
    env.later("prune", &["--all-caches"]).fails(1, &["notes is not an image"]);
    assert_eq!(env.names("iso").len(), 2);
}

#[test]
fn an_image_aside_whose_name_is_taken_gives_way() {
    for kind in ["image", "directory", "link"] {
        let env = HostEnv::new();
        let aside = env.dir("iso/.glance-cache-aside");
        mkdtemp(&aside);
        fs::write(aside.join(master(1)), "old").unwrap();
        let taken = env.dir("iso").join(master(1));
        match kind {
            "image" => fs::write(&taken, "new").unwrap(),
            "directory" => fs::create_dir(&taken).unwrap(),
            _ => symlink("nowhere", &taken).unwrap(),
        }
        env.run("clean", &["--all-caches"]).ok();
        assert_eq!(env.names("iso"), [master(1)], "{kind}");
        assert_ne!(fs::read_to_string(&taken).unwrap_or_default(), "old", "{kind}");
    }
}
