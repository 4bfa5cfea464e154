//! All image caches of a host, attacked: what lies in the way, what is no leftover, races, signals, wrong declarations, odd files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::env::{Running, chmod, names, now, until};
use crate::host::{HostEnv, MIB, in_ten_days, master, mkdtemp};

/// Glance's cache with its sqlite index, and images by the seconds since their last use.
fn glance(env: &HostEnv, images: &[(usize, f64)]) -> rusqlite::Connection {
    for sub in ["incomplete", "invalid", "queue"] {
        fs::create_dir_all(env.dir("glance").join(sub)).unwrap();
    }
    let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL, last_modified REAL, size INTEGER, \
         hits INTEGER, checksum TEXT)",
    )
    .unwrap();
    for (n, ago) in images {
        env.image("glance", &master(*n), 4096);
        let row = (master(*n), now() - ago);
        db.execute("INSERT INTO cached_images VALUES (?1, ?2, ?2, 4096, 0, NULL)", row).unwrap();
    }
    db
}

fn planned(run: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    run["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (text(&step["cache"]), text(&step["image_id"])))
        .collect()
}

// -- What is no leftover --

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
        .says(&["tmpprivate1/ is old, but holds what no download makes"])
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

// -- Wrong declarations --

#[test]
fn declarations_that_name_nothing_or_no_place_are_refused() {
    let env = HostEnv::new();
    for (section, says) in [
        ("[image_cache:]\nkind = ironic-iso\ndirectory = /x\nsize = 1\n", "[image_cache:] names no cache"),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = images\nsize = 1\n",
            "glance-cache.conf:3: directory is \"images\"",
        ),
        ("[image_cache:x]\nkind = ironic-iso\ndirectory =\nsize = 1\n", "[image_cache:x] sets no directory"),
        ("[image_cache:x]\nkind = IRONIC-ISO\ndirectory = /x\nsize = 1\n", "kind is \"IRONIC-ISO\""),
        ("[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = -1\n", "'-1' is not a size"),
        (
            "[image_cache:x]\nkind = ironic-iso\ndirectory = /x\nsize = 99999999999999999999999\n",
            "is not a size",
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
    env.later("prune", &["--all-caches"]).fails(1, &["ironic.conf:2: directory is \"iso\"", "absolute"]);
}

#[test]
fn the_root_directory_is_inside_nothing() {
    let env = HostEnv::new();
    env.ironic_conf("[deploy]\niso_master_path = /\n[pxe]\ninstance_master_path =\ntftp_master_path =\n");
    let run = env.run("list", &["--all-caches"]).ok();
    assert!(!run.stderr.contains("is inside"), "{}", run.stderr);
}

// -- Glance's cache among others --

#[test]
fn glances_images_expire_when_an_age_is_set() {
    let env = HostEnv::new();
    env.limits(1000, 1440);
    let db = glance(&env, &[(1, 100.0), (2, 20.0 * 86_400.0), (3, 2.0 * 86_400.0), (4, 30.0 * 86_400.0)]);
    env.image("iso", &master(9), 10);
    env.conf(&format!(
        "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n[image_cache:glance]\nage = 15d\n",
        env.dir("glance").display()
    ));
    let pick = |cache: &str, n: usize| (cache.to_owned(), master(n));
    let plan = env.run("prune", &["--all-caches", "--min-age", "0", "--dry-run"]).ok().json();
    assert_eq!(planned(&plan), [pick("glance", 4), pick("glance", 2)]);
    // Ten days later the ISO is older than a day, and nothing else of Glance's than fifteen.
    let plan = env.later("prune", &["--all-caches", "--dry-run"]).ok().json();
    assert_eq!(planned(&plan), [pick("ironic-iso", 9), pick("glance", 4), pick("glance", 2)]);
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 3}));
    let rows: i64 = db.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
    assert!(env.dir("glance").join(master(1)).exists() && env.dir("glance").join(master(3)).exists());
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 0}));
}

// -- Signals --

#[test]
fn a_signal_while_a_lock_is_waited_for_ends_the_run_as_one() {
    let env = HostEnv::new();
    env.image("iso", &master(1), 10);
    let held = fs::File::open(env.dir("iso")).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let on = env.base.to_str().unwrap();
    // All that there could be and cannot be had is for somebody who waits, not for somebody who was told to stop.
    for arguments in [
        &["prune", "--require", "90%", "--on", on][..],
        &["prune", "--all-caches"],
        &["clean", "--all-caches"],
    ] {
        let mut command = env.command(arguments[0]);
        command.args(&arguments[1..]);
        let running = Running::start(&mut command, &env.path(""));
        let pid = running.child.id();
        until("it waits for the lock", || {
            fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| !text.starts_with("running"))
                && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
                        .any(|path| path == env.dir("tftp"))
                })
        });
        std::thread::sleep(Duration::from_millis(100));
        running.signal(Signal::TERM);
        let run = running.wait().code(143);
        assert_eq!(run.json()["signal"], "SIGTERM", "{}", run.stdout);
        assert!(!run.stderr.contains("cannot"), "{}", run.stderr);
    }
    assert_eq!(env.names("iso"), [master(1)]);
}

/// What only root can arrange.
mod as_root {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::root::{Ext4, Immutable, Mount};

    struct Mounted {
        env: HostEnv,
        _mount: Mount,
    }

    fn tmpfs(megabytes: u64) -> Mounted {
        let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
        let base = root.path().join("mnt");
        let mount = Mount::of("tmpfs", &base);
        crate::env::system(&["mount", "-o", &format!("remount,size={megabytes}m"), base.to_str().unwrap()]);
        Mounted { env: HostEnv::at(root, base), _mount: mount }
    }

    fn ext4(megabytes: u64) -> Mounted {
        let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
        let ext4 = Ext4::make(root.path(), megabytes);
        let base = root.path().join("mnt");
        let mount = Mount::ext4(&ext4, &base, "relatime");
        Mounted { env: HostEnv::at(root, base), _mount: mount }
    }

    /// The command under strace, which holds it up or kills it where the test says.
    fn traced(env: &HostEnv, inject: &str, arguments: &[&str]) -> Command {
        let mut command = env.command(arguments[0]);
        command.args(&arguments[1..]).args(["--now", &in_ten_days()]);
        let mut strace = Command::new("strace");
        let calls = inject.split([':', '=']).next().unwrap();
        strace.args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={inject}"),
        ]);
        strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        strace.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", env.path("home"));
        strace
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn lengths_that_no_disk_has_are_counted_without_a_panic() {
        let host = tmpfs(16);
        let env = &host.env;
        env.limits(1, 1_000_000);
        for n in 1..=4 {
            env.image("iso", &master(n), 10);
            let file = fs::File::options().write(true).open(env.dir("iso").join(master(n))).unwrap();
            file.set_len(i64::MAX as u64).unwrap();
        }
        env.run("status", &["--all-caches"]).ok();
        // More than can be counted counts as the most that can.
        env.later("prune", &["--all-caches", "--dry-run"]).ok().has(&json!({"total_files_pruned": 2}));
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
        assert_eq!(env.names("iso"), [""; 0]);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn one_file_that_stays_keeps_no_other_of_a_leftover_from_going() {
        let host = ext4(20);
        let env = &host.env;
        let directory = env.dir("iso/tmpabcd_123");
        mkdtemp(&directory);
        for suffix in ["", ".part", ".converted"] {
            fs::write(directory.join(format!("{}{suffix}", master(1))), vec![7; MIB]).unwrap();
        }
        let immutable = Immutable::new(directory.join(format!("{}.part", master(1))));
        let run = env.later("clean", &["--all-caches"]).fails(1, &[".part", "not permitted"]);
        let left = names(&directory);
        drop(immutable);
        assert_eq!(left, [format!("{}.part", master(1))]);
        assert_eq!(run.json()["total_files_cleaned"], 2);
        assert_eq!(run.json()["total_bytes_cleaned"], 2 * MIB);
        env.later("clean", &["--all-caches"]).ok().has(&json!({"total_files_cleaned": 1}));
        assert_eq!(env.names("iso"), [""; 0]);
    }

    /// Instances link to images while these are looked at, renamed and looked at again.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn images_linked_while_we_look_stay() {
        let host = ext4(50);
        let env = &host.env;
        env.limits(0, 0);
        fs::create_dir(env.dir("instances")).unwrap();
        let images: Vec<String> = (0..200).map(master).collect();
        for call in ["renameat:delay_enter=400", "renameat:delay_exit=400", "unlinkat:delay_enter=400"] {
            for image in &images {
                env.image("iso", image, 10);
            }
            let mut command = traced(env, call, &["prune", "--all-caches"]);
            let running = Running::start(&mut command, &env.path(""));
            until("it has begun", || env.dir("iso/.glance-cache-aside").exists());
            let linked: Vec<&String> = images
                .iter()
                .rev()
                .filter(|image| {
                    fs::hard_link(env.dir("iso").join(image), env.dir("instances").join(image)).is_ok()
                })
                .collect();
            let run = running.wait();
            let left = env.names("iso");
            println!(
                "{call}: {} linked meanwhile, {} pruned",
                linked.len(),
                run.json()["total_files_pruned"]
            );
            assert!(!linked.is_empty());
            for image in linked {
                assert!(left.contains(image), "{call}: {image} has an instance and is lost");
            }
            for image in names(&env.dir("instances")) {
                fs::remove_file(env.dir("instances").join(image)).unwrap();
            }
            for image in left {
                fs::remove_file(env.dir("iso").join(image)).unwrap();
            }
        }
    }

    /// New images, directories and links take the names of those that are to go.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn what_takes_an_images_name_meanwhile_stays() {
        let host = ext4(50);
        let env = &host.env;
        env.limits(0, 0);
        for n in 0..200 {
            env.image("iso", &master(n), 10);
        }
        let mut command = traced(env, "renameat:delay_enter=500", &["prune", "--all-caches"]);
        let running = Running::start(&mut command, &env.path(""));
        until("it has begun", || env.dir("iso/.glance-cache-aside").exists());
        let target = env.dir("iso");
        for n in (0..200).rev() {
            let new: PathBuf = env.dir("new");
            match n % 3 {
                0 => fs::write(&new, "new").unwrap(),
                1 => symlink("/etc/passwd", &new).unwrap(),
                _ => fs::write(&new, "newer").unwrap(),
            }
            fs::rename(&new, target.join(master(n))).unwrap();
        }
        let run = running.wait();
        assert_eq!(env.names("iso"), (0..200).map(master).collect::<Vec<_>>(), "{}", run.stdout);
    }

    #[test]
    #[ignore = "needs root: tests/run"]
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

    /// Without a right to link other people's files they are renamed back.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn an_ordinary_user_puts_back_what_belongs_to_others() {
        use std::os::unix::process::CommandExt as _;
        let env = HostEnv::new();
        let aside = env.dir("iso/.glance-cache-aside");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join(master(1)), "old").unwrap();
        crate::env::give_to_nobody(&env.base);
        std::os::unix::fs::chown(aside.join(master(1)), Some(0), Some(0)).unwrap();
        fs::set_permissions(aside.join(master(1)), fs::Permissions::from_mode(0o600)).unwrap();
        chmod(&env.path(""), 0o755);
        let copy = env.path("glance-cache");
        fs::copy(crate::env::BINARY, &copy).unwrap();
        let ours = env.command("clean");
        let mut command = Command::new(&copy);
        command.env_clear().args(ours.get_args()).arg("--all-caches").stdin(Stdio::null());
        env.finish(command.uid(65534).gid(65534)).ok().says(&["put back 1 image that"]);
        assert_eq!(env.names("iso"), [master(1)]);
    }

    /// Inodes can run out as well as blocks.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn works_when_not_an_inode_is_left() {
        let host = tmpfs(16);
        let env = &host.env;
        env.limits(1, 1_000_000);
        for n in 1..=3 {
            env.image("iso", &master(n), MIB);
        }
        let fs = rustix::fs::statvfs(&env.base).unwrap();
        let used = fs.f_files - fs.f_ffree;
        crate::env::system(&[
            "mount",
            "-o",
            &format!("remount,nr_inodes={used}"),
            env.base.to_str().unwrap(),
        ]);
        env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
    }

    #[test]
    #[ignore = "needs root: tests/run"]
    fn a_read_only_file_system_is_told_and_the_others_are_served() {
        let (host, other) = (ext4(20), tmpfs(16));
        let env = &host.env;
        env.image("iso", &master(1), MIB);
        other.env.image("tftp", &master(2), MIB);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path = {}\niso_cache_size = 0\n[pxe]\ninstance_master_path =\ntftp_master_path = {}\n\
             image_cache_size = 0\n",
            env.dir("iso").display(),
            other.env.dir("tftp").display()
        ));
        crate::env::system(&["mount", "-o", "remount,ro", env.base.to_str().unwrap()]);
        env.later("prune", &["--all-caches"])
            .fails(1, &["Read-only file system"])
            .has(&json!({"total_files_pruned": 1}));
        env.require(env.available() + 1, &[]).fails(1, &["Read-only file system"]);
        env.later("clean", &["--all-caches"]).ok();
        assert_eq!(env.names("iso"), [master(1)]);
    }

    /// XFS frees in the background, and can share blocks.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn makes_room_on_xfs_and_not_one_image_further() {
        let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
        let image = root.path().join("xfs");
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let base = root.path().join("mnt");
        let made = Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("NOT TESTED: no mkfs.xfs here (xfsprogs)");
            return;
        }
        fs::create_dir(&base).unwrap();
        if !Command::new("mount").args(["-o", "loop"]).args([&image, &base]).status().unwrap().success() {
            println!("NOT TESTED: this kernel mounts no XFS");
            return;
        }
        let host = Mounted { env: HostEnv::at(root, base.clone()), _mount: Mount { point: base } };
        let env = &host.env;
        for n in 0..20 {
            env.image("iso", &master(n), 4 * MIB);
        }
        crate::env::system(&["sync", "-f", env.base.to_str().unwrap()]);
        env.require(env.available() + 9 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 3}));
        let open = fs::File::open(env.dir("iso").join(master(3))).unwrap();
        env.require(env.available() + 3 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 2}));
        // XFS frees in the background what the last descriptor held.
        let held = env.available();
        drop(open);
        until("the blocks of the image that was open", || env.available() >= held + 4 * MIB as u64);
        // Shared blocks are freed by the last who has them.
        env.image("instance", &master(1), 4 * MIB);
        let (from, to) = (env.dir("instance").join(master(1)), env.dir("instance").join(master(2)));
        crate::env::system(&["cp", "--reflink=always", from.to_str().unwrap(), to.to_str().unwrap()]);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path =\n[pxe]\ntftp_master_path =\ninstance_master_path = {}\n",
            env.dir("instance").display()
        ));
        env.require(env.available() + 3 * MIB as u64, &[]).ok().has(&json!({"total_files_pruned": 2}));
    }

    /// Six at once: each image goes once, and nobody waits for ever.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn runs_at_once_take_turns() {
        let env = HostEnv::new();
        env.limits(0, 0);
        for n in 0..600 {
            env.image(["iso", "instance", "tftp"][n % 3], &master(n), 10);
        }
        let start = |_| {
            let mut command = env.command("prune");
            command.args(["--all-caches", "--now", &in_ten_days()]);
            Running::start(&mut command, &env.path(""))
        };
        let running: Vec<Running> = (0..6).map(start).collect();
        let pruned: u64 = running
            .into_iter()
            .map(|run| run.wait().ok().json()["total_files_pruned"].as_u64().unwrap())
            .sum();
        assert_eq!(pruned, 600);
    }

    /// Somebody else unlinks the same images at the same time, as a conductor's own cleaning does.
    #[test]
    #[ignore = "needs root: tests/run"]
    fn beside_a_conductors_own_cleaning_nothing_is_amiss() {
        let env = HostEnv::new();
        env.limits(0, 0);
        for n in 0..3000 {
            env.image("iso", &master(n), 10);
        }
        let mut command = env.command("prune");
        command.args(["--all-caches", "--now", &in_ten_days()]);
        let running = Running::start(&mut command, &env.path(""));
        let theirs = names(&env.dir("iso"))
            .into_iter()
            .filter(|name| fs::remove_file(env.dir("iso").join(name)).is_ok())
            .count();
        let run = running.wait().ok();
        println!("{theirs} went by the other, {} by ours", run.json()["total_files_pruned"]);
        assert_eq!(run.json()["errors"], json!([]));
        assert_eq!(env.names("iso"), [""; 0]);
    }
}
