//! What cannot be read, written or removed in the caches of a host: it is reported, and the others are
//! served.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::env::*;
use crate::support::host::*;
use crate::support::mounts::MountedHost;
use crate::support::rights::{Immutable, give_to_nobody};
use crate::support::strace::traced;

mod as_root {
    use super::*;

    #[test]
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
    fn what_root_makes_belongs_to_the_caches_owner() {
        let host = MountedHost::ext4(20);
        let env = &host.env;
        give_to_nobody(&env.base);
        env.limits(0, 0);
        for n in 0..200 {
            env.image("iso", &master(n), 10);
        }
        let mut slow = traced(env, "renameat:delay_enter=20000", &["prune", "--all-caches"]);
        let running = Running::start(&mut slow, env.path("").as_path());
        let aside = env.dir("iso/.glance-cache-aside");
        until("the private directory", || aside.exists());
        assert_eq!(fs::metadata(&aside).map_or(65534, |m| m.uid()), 65534);
        running.wait().ok();
        assert_eq!(env.names("iso"), [""; 0]);
    }

    #[test]
    fn an_unreadable_cache_is_named_and_the_others_are_served() {
        let env = HostEnv::new();
        env.limits(0, 0);
        env.image("tftp", &master(1), 10);
        give_to_nobody(&env.base);
        chmod(&env.path(""), 0o755);
        chmod(&env.dir("iso"), 0o000);
        let copy = env.path("glance-cache");
        fs::copy(BINARY, &copy).unwrap();
        let ours = env.command("prune");
        let mut command = Command::new(&copy);
        command.env_clear().env(CLOCK, in_ten_days()).args(ours.get_args()).arg("--all-caches");
        let run = env.finish(command.uid(65534).gid(65534).stdin(Stdio::null()));
        run.fails(1, &["ironic-iso", "ermission denied"]).has(&json!({"total_files_pruned": 1}));
    }

    #[test]
    fn one_file_that_stays_keeps_no_other_of_a_leftover_from_going() {
        let host = MountedHost::ext4(20);
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

    /// Without a right to link other people's files they are renamed back.
    #[test]
    fn an_ordinary_user_puts_back_what_belongs_to_others() {
        use std::os::unix::process::CommandExt as _;
        let env = HostEnv::new();
        let aside = env.dir("iso/.glance-cache-aside");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join(master(1)), "old").unwrap();
        give_to_nobody(&env.base);
        std::os::unix::fs::chown(aside.join(master(1)), Some(0), Some(0)).unwrap();
        fs::set_permissions(aside.join(master(1)), fs::Permissions::from_mode(0o600)).unwrap();
        chmod(&env.path(""), 0o755);
        let copy = env.path("glance-cache");
        fs::copy(BINARY, &copy).unwrap();
        let ours = env.command("clean");
        let mut command = Command::new(&copy);
        command.env_clear().args(ours.get_args()).arg("--all-caches").stdin(Stdio::null());
        env.finish(command.uid(65534).gid(65534)).ok().says(&["put back 1 image, which"]);
        assert_eq!(env.names("iso"), [master(1)]);
    }

    #[test]
    fn a_read_only_file_system_is_told_and_the_others_are_served() {
        let (host, other) = (MountedHost::ext4(20), MountedHost::tmpfs(16));
        let env = &host.env;
        env.image("iso", &master(1), MIB);
        other.env.image("tftp", &master(2), MIB);
        env.ironic_conf(&format!(
            "[deploy]\niso_master_path = {}\niso_cache_size = 0\n[pxe]\ninstance_master_path \
             =\ntftp_master_path = {}\n\
             image_cache_size = 0\n",
            env.dir("iso").display(),
            other.env.dir("tftp").display()
        ));
        system(&["mount", "-o", "remount,ro", env.base.to_str().unwrap()]);
        env.later("prune", &["--all-caches"])
            .fails(1, &["Read-only file system"])
            .has(&json!({"total_files_pruned": 1}));
        env.require(env.available() + 1, &[]).fails(1, &["Read-only file system"]);
        env.later("clean", &["--all-caches"]).ok();
        assert_eq!(env.names("iso"), [master(1)]);
    }
}
