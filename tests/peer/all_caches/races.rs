//! Others link, replace and remove images while a prune looks at them, renames them and looks again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::env::*;
use crate::support::host::*;
use crate::support::mounts::MountedHost;
use crate::support::strace::traced;

mod as_root {
    use super::*;

    /// Instances link to images while these are looked at, renamed and looked at again.
    #[test]
    fn images_linked_while_we_look_stay() {
        let host = MountedHost::ext4(50);
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
            // The kernel may have found an image for the link before it was renamed, and make the link after the
            // second look: then the instance has the data, and the cache has them no more.
            let gone: Vec<&&String> = linked.iter().filter(|image| !left.contains(image)).collect();
            for image in &gone {
                assert_eq!(fs::metadata(env.dir("instances").join(image)).unwrap().len(), 10, "{image}");
            }
            assert!(gone.len() <= 2, "{call}: {gone:?} have instances and are lost");
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
    fn what_takes_an_images_name_meanwhile_stays() {
        let host = MountedHost::ext4(50);
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
}
