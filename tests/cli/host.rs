//! All image caches of a host: `prune --require`, `--all-caches`, what is declared in configuration, bad input, leftovers.
//!
//! Times cannot be set back far enough (the change time is part of an image's last use), so the clock is set forward: `--now`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::env::{BINARY, Run, chmod, names, now, run, tree};

pub(crate) const MIB: usize = 1 << 20;

/// A host with Ironic's three caches, below a directory of its own.
pub(crate) struct HostEnv {
    root: TempDir,
    /// Where the caches are.
    pub(crate) base: PathBuf,
}

/// A directory as Python's mkdtemp makes it, and so Ironic for a download.
pub(crate) fn mkdtemp(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// The master image number `n`.
pub(crate) fn master(n: usize) -> String {
    format!("{n:08x}-00ab-4000-8000-000000000000")
}

impl HostEnv {
    /// The caches are in a directory of the test.
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
        let base = root.path().join("host");
        Self::at(root, base)
    }

    /// The caches are in `base`, which may be a file system of its own.
    pub(crate) fn at(root: TempDir, base: PathBuf) -> Self {
        let env = Self { root, base };
        for name in ["iso", "instance", "tftp"] {
            fs::create_dir_all(env.dir(name)).unwrap();
        }
        fs::create_dir_all(env.path("home")).unwrap();
        env.limits(1000, 1_000_000);
        env.conf("");
        env
    }

    /// A path in the test's directory, outside the caches.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The directory of a cache, or another path beside it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Writes `ironic.conf` with the same size (MiB) and age (minutes) for all three.
    pub(crate) fn limits(&self, size: u64, minutes: u64) {
        self.ironic_conf(&format!(
            "[deploy]\niso_master_path = {0}/iso\niso_cache_size = {size}\niso_cache_ttl = {minutes}\n\
             [pxe]\ninstance_master_path = {0}/instance\ntftp_master_path = {0}/tftp\nimage_cache_size = {size}\n\
             image_cache_ttl = {minutes}\n",
            self.base.display()
        ));
    }

    pub(crate) fn ironic_conf(&self, text: &str) {
        fs::write(self.path("ironic.conf"), text).unwrap();
    }

    /// Writes our own configuration.
    pub(crate) fn conf(&self, text: &str) {
        fs::write(self.path("glance-cache.conf"), text).unwrap();
    }

    /// An image of so many bytes, all of them on disk.
    pub(crate) fn image(&self, cache: &str, name: &str, bytes: usize) {
        fs::write(self.dir(cache).join(name), vec![7; bytes]).unwrap();
    }

    /// An instance's link to an image.
    pub(crate) fn use_image(&self, cache: &str, name: &str) {
        fs::hard_link(self.dir(cache).join(name), self.dir(&format!("used-{cache}-{name}"))).unwrap();
    }

    /// What a download left that was killed.
    pub(crate) fn leftover(&self, cache: &str, name: &str, bytes: usize) -> PathBuf {
        let directory = self.dir(cache).join("tmpabcd_123");
        mkdtemp(&directory);
        fs::write(directory.join(name), vec![7; bytes]).unwrap();
        directory
    }

    pub(crate) fn names(&self, cache: &str) -> Vec<String> {
        names(&self.dir(cache))
    }

    /// `glance-cache COMMAND` with this host's configuration, not run yet.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut ours = Command::new(BINARY);
        ours.env_clear().env("HOME", self.path("home")).current_dir(self.root.path()).stdin(Stdio::null());
        ours.arg(command).arg("--config-file").arg(self.path("glance-cache.conf"));
        ours.arg("--ironic-config-file").arg(self.path("ironic.conf"));
        ours
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        self.finish(self.command(command).args(arguments))
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn finish(&self, command: &mut Command) -> Run {
        run(command, self.root.path())
    }

    /// The same ten days later.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn later(&self, command: &str, arguments: &[&str]) -> Run {
        self.finish(self.command(command).args(["--now", &in_ten_days()]).args(arguments))
    }

    /// `prune --require BYTES --on` the caches' file system, ten days later.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn require(&self, bytes: u64, arguments: &[&str]) -> Run {
        let on = self.base.to_str().unwrap().to_owned();
        self.finish(
            self.command("prune")
                .args(["--now", &in_ten_days(), "--require", &bytes.to_string(), "--on", &on])
                .args(arguments),
        )
    }

    /// Bytes free on the caches' file system.
    pub(crate) fn available(&self) -> u64 {
        let fs = rustix::fs::statvfs(&self.base).unwrap();
        fs.f_bavail * fs.f_frsize
    }

    /// `status --all-caches`, as JSON.
    pub(crate) fn status(&self) -> Value {
        self.run("status", &["--all-caches", "--format", "json"]).ok().json()
    }
}

pub(crate) fn in_ten_days() -> String {
    (now() + 864_000.0).to_string()
}

/// The names of the caches in a report, in its order.
fn caches(report: &Value) -> Vec<String> {
    let caches = report["caches"].as_array().unwrap();
    caches.iter().map(|cache| cache["name"].as_str().unwrap().to_owned()).collect()
}

fn cache<'a>(report: &'a Value, name: &str) -> &'a Value {
    let caches = report["caches"].as_array().unwrap();
    caches.iter().find(|cache| cache["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

// -- The list --

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
        ("[image_cache:ironic-iso]\ndirectory = /x\n", "directory of ironic-iso cannot be set"),
        ("[image_cache:x]\nkind = ironic-iso\nsize = 1\n", "[image_cache:x] sets no directory"),
        (&format!("[image_cache:x]\ndirectory = {x}\nsize = 1\n"), "[image_cache:x] sets no kind"),
        (&format!("[image_cache:x]\nkind = ironic-iso\ndirectory = {x}\n"), "[image_cache:x] sets no size"),
        (
            &format!("[image_cache:x]\nkind = tape\ndirectory = {x}\nsize = 1\n"),
            "kind is \"tape\", but must be one of glance, ironic-iso, ironic-instance, ironic-tftp",
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

#[test]
fn directories_that_are_not_there_or_not_directories_are_named_and_not_made() {
    type Case<'a> = (&'a str, i32, &'a [&'a str], &'a dyn Fn());
    let env = HostEnv::new();
    env.image("tftp", &master(1), MIB);
    let dir = env.dir("iso");
    let cases: [Case<'_>; 4] = [
        ("missing", 0, &["iso", "does not exist"], &|| {}),
        ("a file", 1, &["iso", "ot a directory"], &|| fs::write(&dir, "").unwrap()),
        ("a link that leads nowhere", 1, &["iso", "leads nowhere"], &|| symlink("nowhere", &dir).unwrap()),
        ("below a file", 1, &["ironic.conf:2"], &|| {
            env.ironic_conf(&format!(
                "[deploy]\niso_master_path = /dev/null/iso\n[pxe]\ninstance_master_path =\n\
                 tftp_master_path = {}\n",
                env.dir("tftp").display()
            ));
        }),
    ];
    for (what, code, says, make) in cases {
        let _ = fs::remove_dir(&dir).or_else(|_| fs::remove_file(&dir));
        make();
        let before = tree(&env.base);
        let run = env.later("prune", &["--all-caches", "--dry-run"]).code(code).says(says);
        assert!(caches(&run.json()).contains(&"ironic-tftp".to_owned()), "{what}");
        assert_eq!(tree(&env.base), before, "{what}: nothing is made");
    }
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

// -- What may go --

#[test]
fn only_images_nobody_uses_under_names_that_ironic_makes_go() {
    let env = HostEnv::new();
    env.limits(0, 0);
    let iso = env.dir("iso");
    for name in [
        "README.txt",
        ".hidden",
        "x.part",
        "pxelinux.0",
        "00000001-0000-4000-8000-00000000000g",
        "00000001-0000-4000-8000-000000000000.converte",
        "00000001-0000-4000-8000-000000000000.converted2",
        "{00000001-0000-4000-8000-000000000000}",
        "00000001000040008000000000000000",
    ] {
        env.image("iso", name, 10);
    }
    let foreign = env.names("iso");
    env.image("iso", &master(1), 10);
    env.image("iso", &master(1).to_uppercase(), 10);
    env.image("iso", &format!("{}.converted", master(2)), 10);
    env.image("iso", &master(3), 10);
    env.use_image("iso", &master(3));
    fs::create_dir(iso.join(master(4))).unwrap();
    fs::write(iso.join(master(4)).join(master(5)), "inside").unwrap();
    fs::write(env.dir("target"), "outside").unwrap();
    symlink(env.dir("target"), iso.join(master(6))).unwrap();
    symlink("nowhere", iso.join(master(7))).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, iso.join(master(8)), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();

    // What is in use is more than the limit.
    env.later("prune", &["--all-caches"])
        .code(1)
        .has(&json!({"total_files_pruned": 3, "total_bytes_pruned": 30}));
    let mut left = foreign.clone();
    left.extend([3, 4, 6, 7, 8].map(master));
    left.sort();
    assert_eq!(env.names("iso"), left);
    let status = env.status();
    let named = cache(&status, "ironic-iso")["foreign"].as_array().unwrap().len();
    assert_eq!(named, foreign.len() + 4, "the others are named: {status}");
    assert_eq!(fs::read_to_string(env.dir("target")).unwrap(), "outside");
}

#[test]
fn young_and_listed_images_stay() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for n in 1..=3 {
        env.image("iso", &master(n), 10);
    }
    env.run("prune", &["--all-caches"]).code(1).says(&["still over its limit"]);
    assert_eq!(env.names("iso").len(), 3, "all are younger than ten minutes");
    env.later("prune", &["--all-caches", "--keep", &master(2).to_uppercase()]).code(1);
    assert_eq!(env.names("iso"), [master(2)]);
    env.run("prune", &["--all-caches", "--min-age", "0", "--now", &(now() + 1.0).to_string()]).ok();
    assert_eq!(env.names("iso"), [""; 0]);
}

#[test]
fn a_cache_is_held_to_its_age_and_then_its_size() {
    let env = HostEnv::new();
    env.limits(3, 1440);
    for n in 1..=5 {
        env.image("iso", &master(n), MIB);
        std::thread::sleep(std::time::Duration::from_millis(12));
    }
    env.use_image("iso", &master(1));
    let before = tree(&env.base);
    let plan = env.run("prune", &["--all-caches", "--min-age", "0", "--dry-run"]).ok().json();
    assert_eq!(tree(&env.base), before, "a dry run changes nothing");
    let planned: Vec<&str> =
        plan["plan"].as_array().unwrap().iter().map(|e| e["image_id"].as_str().unwrap()).collect();
    assert_eq!(planned, [master(2), master(3)], "what is in use counts, and stays");
    env.run("prune", &["--all-caches", "--min-age", "0"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.names("iso"), [1, 4, 5].map(master));
    let again = env.run("prune", &["--all-caches", "--min-age", "0"]).ok().json();
    assert_eq!(again["total_files_pruned"], 0);
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.names("iso"), [master(1)], "expired ones go although the cache is small");
}

#[test]
fn what_was_used_at_the_same_time_goes_by_name() {
    let env = HostEnv::new();
    env.limits(0, 1_000_000);
    for n in (0..200).rev() {
        env.image("iso", &master(n), 10);
    }
    let plan = env.later("prune", &["--all-caches", "--dry-run"]).ok().json();
    let planned: Vec<String> =
        plan["plan"].as_array().unwrap().iter().map(|e| e["image_id"].as_str().unwrap().to_owned()).collect();
    let used = |name: &String| {
        let file = fs::metadata(env.dir("iso").join(name)).unwrap();
        (file.ctime(), file.ctime_nsec(), name.clone())
    };
    let mut expected = planned.clone();
    expected.sort_by_key(used);
    assert_eq!(planned, expected);
    let times: std::collections::HashSet<_> = planned.iter().map(|name| used(name).1).collect();
    assert!(times.len() < planned.len(), "some were made in the same tick");
}

#[test]
fn one_caches_trouble_does_not_stop_the_next() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for cache in ["iso", "instance", "tftp"] {
        env.image(cache, &master(1), 10);
    }
    fs::create_dir(env.dir("glance")).unwrap();
    fs::write(env.dir("glance/notes"), "no cache").unwrap();
    env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display()));
    // Where images are put aside stands something else.
    fs::write(env.dir("iso/.glance-cache-aside"), "in the way").unwrap();
    env.later("prune", &["--all-caches"])
        .fails(1, &["glance", "does not look like an image cache", "ironic-iso"]);
    assert_eq!(env.names("iso"), [".glance-cache-aside".to_owned(), master(1)]);
    assert_eq!(env.names("instance"), [""; 0]);
    assert_eq!(env.names("tftp"), [""; 0]);
    assert_eq!(env.names("glance"), ["notes"]);
}

// -- Crashed downloads --

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
    assert_eq!(plan["total_files_cleaned"], 3);
    env.later("clean", &["--all-caches", "--temp-grace", "11d"]).ok().has(&json!({"total_files_cleaned": 0}));

    let open = fs::File::open(stale.join(format!("{}.part", master(1)))).unwrap();
    env.later("clean", &["--all-caches"]).ok().says(&["tmpabcd_123/ is old, but process"]);
    assert!(stale.exists());
    drop(open);
    env.later("clean", &["--all-caches"])
        .ok()
        .says(&["tmpzzzzzzzz/ is old, but holds what no download makes"]);
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

// -- Runs that die, runs that meet --

#[test]
fn what_a_killed_run_left_aside_is_put_back() {
    let env = HostEnv::new();
    env.image("iso", &master(2), 20);
    fs::create_dir(env.dir("iso/.glance-cache-aside")).unwrap();
    env.image("iso/.glance-cache-aside", &master(1), 10);
    env.image("iso/.glance-cache-aside", &master(2), 10);
    env.run("status", &["--all-caches"]).ok().says(&["a killed run has left images aside"]);
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
    env.later("prune", &["--all-caches"]).fails(1, &["notes is no image"]);
    assert_eq!(env.names("iso").len(), 2);
}

#[test]
fn a_locked_cache_is_named_and_left_out() {
    let env = HostEnv::new();
    env.limits(0, 0);
    env.image("iso", &master(1), 10);
    env.image("tftp", &master(1), 10);
    let other = fs::File::open(env.dir("iso")).unwrap();
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    let me = format!("process {}", std::process::id());
    env.later("prune", &["--all-caches", "--lock-timeout", "0"]).fails(1, &["is locked by", &me]);
    assert_eq!(env.names("iso"), [master(1)]);
    assert_eq!(env.names("tftp"), [""; 0]);
    env.later("prune", &["--all-caches", "--skip-if-locked"]).ok().says(&["ironic-iso is passed over"]);
    env.later("prune", &["--all-caches", "--dry-run"]).ok();
    drop(other);
    env.later("prune", &["--all-caches"]).ok();
    assert_eq!(env.names("iso"), [""; 0], "no lock file, no directory of ours is left");
}

// -- Wrong usage --

#[test]
fn wrong_usage_is_refused() {
    let env = HostEnv::new();
    for (arguments, says) in [
        (&["--require", "1G"][..], "image_cache_dir is not set"),
        (&["--require", "1G", "--on", "/nonexistent/x"], "cannot tell the file system of /nonexistent/x"),
        (&["--require=-1", "--on", "/"], "'-1' is not a size"),
        (&["--require", "many", "--on", "/"], "'many' is not a size"),
        (&["--require", "1P", "--on", "/"], "but the whole file system of / has"),
        (&["--on", "/"], "--require"),
        (&["--best-effort"], "--require"),
        (&["--all-caches", "--require", "1"], "cannot be used with"),
        (&["--all-caches", "--min-free", "1"], "cannot be used with"),
        (&["--all-caches", "--max-size", "1"], "of one cache"),
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

/// Small file systems that root can mount.
mod as_root {
    use std::io::Write as _;
    use std::os::unix::process::CommandExt as _;

    use super::*;
    use crate::env::{Running, until};
    use crate::root::{Ext4, Immutable, Mount};

    pub(crate) struct MountedHost {
        pub(crate) env: HostEnv,
        _mount: Mount,
    }

    impl MountedHost {
        pub(crate) fn ext4(megabytes: u64) -> Self {
            let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
            let ext4 = Ext4::make(root.path(), megabytes);
            let base = root.path().join("mnt");
            let mount = Mount::ext4(&ext4, &base, "relatime");
            Self { env: HostEnv::at(root, base), _mount: mount }
        }
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn frees_what_is_needed_by_priority_and_not_one_image_further() {
        let host = MountedHost::ext4(100);
        let env = &host.env;
        for n in 1..=4 {
            env.image("tftp", &master(n), 2 * MIB);
            env.image("iso", &master(n), 4 * MIB);
            env.image("instance", &master(n), 3 * MIB);
        }
        env.use_image("iso", &master(2));
        let free = env.available();
        // Exactly enough is enough.
        env.require(free, &[]).ok().has(&json!({"total_files_pruned": 0, "missing": 0}));
        env.require(free + 1, &["--dry-run"]).ok().has(&json!({"total_files_pruned": 1}));
        env.require(free + 1, &[]).ok().has(&json!({"total_files_pruned": 1, "total_bytes_pruned": 4 * MIB}));
        assert_eq!(env.names("iso"), [2, 3, 4].map(master));
        let now_free = env.available();
        env.require(now_free, &[]).ok().has(&json!({"total_files_pruned": 0}));
        // The rest of the large ones, then one instance image.
        let wanted = now_free + 9 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 3}));
        assert_eq!(env.names("iso"), [master(2)], "what is in use stays");
        assert_eq!(env.names("instance"), [2, 3, 4].map(master));
        assert_eq!(env.names("tftp").len(), 4);
        assert!(env.available() >= wanted);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn when_it_cannot_be_enough_nothing_goes_and_who_holds_what_is_told() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        env.image("iso", &master(1), 4 * MIB);
        env.image("instance", &master(1), 10 * MIB);
        env.use_image("instance", &master(1));
        let _ = env.leftover("tftp", &format!("{}.part", master(1)), 3 * MIB);
        let before = tree(&env.base);
        let wanted = env.available() + 5 * MIB as u64;
        for arguments in [&["--dry-run"][..], &[], &["--format", "text"]] {
            let run = env.require(wanted, arguments).fails(1, &["cannot have", "nothing was removed"]);
            if arguments == ["--format", "text"] {
                assert!(run.stdout.contains("in use"), "{}", run.stdout);
                assert!(run.stdout.contains("left by crashed downloads"), "{}", run.stdout);
            } else {
                assert_eq!(run.json()["missing"], MIB);
                assert_eq!(run.json()["refused"], true);
            }
        }
        assert_eq!(tree(&env.base), before);
        env.require(wanted, &["--best-effort"])
            .code(1)
            .has(&json!({"total_files_pruned": 1, "refused": false}));
        assert_eq!(env.names("iso"), [""; 0]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn expired_images_of_all_caches_go_before_priority_counts() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        for (n, cache) in ["tftp", "instance", "iso"].into_iter().enumerate() {
            env.image(cache, &master(n), MIB);
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
        let text = fs::read_to_string(env.path("ironic.conf")).unwrap();
        // Only what [pxe] has expires in ten days.
        env.ironic_conf(&text.replace("image_cache_ttl = 1000000", "image_cache_ttl = 1440"));
        env.require(env.available() + 1, &[]).ok();
        assert_eq!([env.names("iso").len(), env.names("instance").len(), env.names("tftp").len()], [1, 1, 0]);
        env.require(env.available() + 1, &[]).ok();
        assert_eq!([env.names("iso").len(), env.names("instance").len()], [1, 0]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn glances_cache_takes_its_turn() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        for sub in ["incomplete", "invalid", "queue"] {
            fs::create_dir_all(env.dir("glance").join(sub)).unwrap();
        }
        let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL, last_modified REAL, size INTEGER, \
             hits INTEGER, checksum TEXT)",
        )
        .unwrap();
        for n in 1..=3 {
            env.image("glance", &master(n), 2 * MIB);
            let row =
                format!("INSERT INTO cached_images VALUES ('{}', {n}, {n}, {}, 0, NULL)", master(n), 2 * MIB);
            db.execute_batch(&row).unwrap();
        }
        drop(db);
        env.conf(&format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n",
            env.dir("glance").display()
        ));
        env.image("iso", &master(1), 2 * MIB);
        env.image("instance", &master(1), 2 * MIB);
        let wanted = env.available() + 5 * MIB as u64;
        let wanted = wanted.to_string();
        // Without --on it is Glance's file system that is meant.
        env.later("prune", &["--require", &wanted]).ok().has(&json!({"total_files_pruned": 3}));
        assert_eq!(env.names("iso").len(), 0);
        assert_eq!(env.names("instance").len(), 1);
        let left: Vec<String> = env.names("glance").into_iter().filter(|name| name.len() == 36).collect();
        assert_eq!(left, [master(3)]);
        let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
        let rows: i64 = db.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1, "its index knows");
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn caches_of_other_file_systems_are_left_alone() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        let elsewhere = HostEnv::new();
        elsewhere.image("iso", &master(1), MIB);
        env.image("tftp", &master(1), MIB);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path = {}\n[pxe]\ninstance_master_path =\ntftp_master_path = {}\n",
            elsewhere.dir("iso").display(),
            env.dir("tftp").display()
        ));
        env.require(env.available() + 1, &[]).ok();
        assert_eq!(elsewhere.names("iso"), [master(1)]);
        assert_eq!(env.names("tftp"), [""; 0]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn measures_what_is_really_free() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        // Held open: its blocks stay, so the next goes, too.
        env.image("iso", &master(1), 4 * MIB);
        env.image("iso", &master(2), 4 * MIB);
        env.image("iso", &master(3), 4 * MIB);
        let open = fs::File::open(env.dir("iso").join(master(1))).unwrap();
        let wanted = env.available() + 3 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 2}));
        assert!(env.available() >= wanted);
        drop(open);
        // Sparse: the length frees nothing.
        let sparse = fs::File::create(env.dir("instance").join(master(1))).unwrap();
        sparse.set_len(50 << 20).unwrap();
        let wanted = env.available() + 3 * MIB as u64;
        env.require(wanted, &[]).ok().has(&json!({"total_files_pruned": 1, "total_bytes_pruned": 4 * MIB}));
        assert_eq!(env.names("instance").len(), 1, "what would free nothing stays");
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn what_cannot_be_removed_is_told_and_the_next_goes() {
        let host = MountedHost::ext4(60);
        let env = &host.env;
        env.image("iso", &master(1), 2 * MIB);
        let immutable = Immutable::new(env.dir("iso").join(master(1)));
        for n in 2..=3 {
            env.image("iso", &master(n), 2 * MIB);
        }
        env.require(env.available() + 1, &[])
            .fails(1, &[&master(1)])
            .has(&json!({"total_files_pruned": 1, "missing": 0}));
        drop(immutable);
        assert_eq!(env.names("iso"), [1, 3].map(master), "and nothing of ours is left");
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn works_when_not_a_byte_is_left() {
        let host = MountedHost::ext4(20);
        let env = &host.env;
        for n in 1..=3 {
            env.image("iso", &master(n), MIB);
        }
        let mut filler = fs::File::create(env.dir("filler")).unwrap();
        for size in [1 << 16, 1024, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
        filler.sync_all().unwrap();
        assert_eq!(env.available(), 0);
        // A directory of ours has no room: the first goes where it stands.
        env.require(1024 * 1024, &[]).ok();
        env.require(2 << 20, &[]).ok();
        assert_eq!(env.names("iso"), [master(3)]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn what_root_makes_belongs_to_the_caches_owner() {
        let host = MountedHost::ext4(20);
        let env = &host.env;
        crate::env::give_to_nobody(&env.base);
        env.limits(0, 0);
        for n in 0..200 {
            env.image("iso", &master(n), 10);
        }
        let mut command = env.command("prune");
        command.args(["--all-caches", "--now", &in_ten_days()]);
        let mut slow = Command::new("strace");
        slow.args([
            "-f",
            "-e",
            "trace=renameat,unlinkat",
            "-e",
            "inject=renameat:delay_enter=20000",
            "-o",
            "/dev/null",
        ]);
        slow.arg(command.get_program()).args(command.get_args());
        slow.env("PATH", "/usr/bin:/bin").env("HOME", env.path("home")).stdin(Stdio::null());
        let running = Running::start(&mut slow, env.path("").as_path());
        let aside = env.dir("iso/.glance-cache-aside");
        until("the private directory", || aside.exists());
        assert_eq!(fs::metadata(&aside).map_or(65534, |m| m.uid()), 65534);
        running.wait().ok();
        assert_eq!(env.names("iso"), [""; 0]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn an_unreadable_cache_is_named_and_the_others_are_served() {
        let env = HostEnv::new();
        env.limits(0, 0);
        env.image("tftp", &master(1), 10);
        crate::env::give_to_nobody(&env.base);
        chmod(&env.path(""), 0o755);
        chmod(&env.dir("iso"), 0o000);
        let copy = env.path("glance-cache");
        fs::copy(BINARY, &copy).unwrap();
        let ours = env.command("prune");
        let mut command = Command::new(&copy);
        command.env_clear().args(ours.get_args()).args(["--all-caches", "--now", &in_ten_days()]);
        let run = env.finish(command.uid(65534).gid(65534).stdin(Stdio::null()));
        run.fails(1, &["ironic-iso", "ermission denied"]).has(&json!({"total_files_pruned": 1}));
    }

    /// Killed by -9 wherever it is: nothing is lost but what was to go, and the next run mends.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn killed_anywhere_the_next_run_mends() {
        for round in 0..12_u64 {
            let env = HostEnv::new();
            env.limits(1, 0);
            for n in 0..100 {
                env.image("iso", &master(n), 10);
            }
            for n in 0..50 {
                env.use_image("iso", &master(2 * n));
            }
            let mut command = env.command("prune");
            command.args(["--all-caches", "--now", &in_ten_days()]);
            let mut slow = Command::new("strace");
            let call = ["renameat", "unlinkat", "newfstatat"][round as usize % 3];
            let kill = format!("inject={call}:signal=KILL:when={}", 10 + 3 * round);
            slow.args(["-f", "-e", &format!("trace={call}"), "-e", &kill, "-o", "/dev/null"]);
            slow.arg(command.get_program()).args(command.get_args());
            slow.env("PATH", "/usr/bin:/bin").env("HOME", env.path("home")).stdin(Stdio::null());
            let killed = Running::start(&mut slow, env.path("").as_path()).wait();
            assert_ne!(killed.code, 0, "{call}: {}", killed.stderr);
            env.run("clean", &["--all-caches"]).ok();
            for n in 0..50 {
                assert!(env.dir("iso").join(master(2 * n)).exists(), "an image in use");
            }
            assert!(env.names("iso").iter().all(|name| name.len() == 36), "{:?}", env.names("iso"));
            env.later("prune", &["--all-caches"]).code(0);
            assert_eq!(env.names("iso").len(), 50);
        }
    }
}
