//! The service on a cache whose file system is unmounted and mounted again while it runs.

mod as_root {
    use std::thread::sleep;
    use std::time::Duration;

    use crate::support::env::*;
    use crate::support::mounts::Mount;
    use crate::support::service::Service;

    const FAILED: &str = "glance-cache maintenance failed: ";

    #[test]
    fn a_cache_that_is_unmounted_is_not_an_empty_one() {
        // The cache directory is the mount point itself, with which an unmounted one is there and empty.
        let env = TestEnv::empty(Xattr);
        let point = env.dir().to_owned();
        let mount = Mount::of("tmpfs", &point);
        for image in FIVE {
            env.image(*image);
        }
        let settings = Service::settings(&env, "prune_interval = 1s\npoll_interval = 1s");
        let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
        let service = Service::at(&env, &conf, &[]);
        until("a prune", || env.images() == "cde");
        // Another mount keeps the file system.
        let aside = env.outside("aside");
        std::fs::create_dir(&aside).unwrap();
        system(&["mount", "--bind", point.to_str().unwrap(), aside.to_str().unwrap()]);
        let aside = Mount { point: aside };
        drop(mount);
        assert_eq!(env.images(), "");
        until("failures", || {
            service.stderr().contains("failed: 3 consecutive, cache at unknown of 3 KiB (prune: the")
        });
        service.ask("POST /v2/cache/prune", "").is(500);
        service.ask("POST /v2/cache/clean", "").is(500);
        assert!(!service.stderr().contains("recovered"), "{}", service.stderr());
        println!("{}", service.stderr().lines().find(|line| line.contains(FAILED)).unwrap());
        system(&["mount", "--bind", aside.point.to_str().unwrap(), point.to_str().unwrap()]);
        let mount = Mount { point };
        until("the recovery", || service.stderr().contains("maintenance recovered: after "));
        let before = service.stderr().matches(FAILED).count();
        sleep(Duration::from_millis(2500));
        assert_eq!(service.stderr().matches(FAILED).count(), before);
        assert_eq!(env.images(), "cde");
        drop((service, mount, aside));
    }

    #[test]
    fn an_empty_file_system_that_is_mounted_in_place_of_the_old_one_is_the_cache() {
        for below in ["", "glance/cache"] {
            let env = TestEnv::empty(Xattr);
            let point = env.dir().to_owned();
            let conf = env.conf(&Service::settings(&env, ""));
            let conf_text = std::fs::read_to_string(&conf).unwrap();
            let directory = point.join(below);
            let shown = |path: &std::path::Path| path.to_str().unwrap().to_owned();
            std::fs::write(&conf, conf_text.replace(&shown(&point), shown(&directory).trim_end_matches('/')))
                .unwrap();
            // The bare mount point has the directories as well.
            std::fs::create_dir_all(&directory).unwrap();
            let made = |mount: Mount| {
                std::fs::create_dir_all(&directory).unwrap();
                mount
            };
            let mount = made(Mount::of("tmpfs", &point));
            std::fs::write(directory.join(id('a')), "x").unwrap();
            let service = Service::at(&env, &conf, &[]);
            service.ask("DELETE /v2/cache", "").is(204);
            drop(mount);
            service.ask("POST /v2/cache/prune", "").is(500);
            assert!(!service.stderr().contains("is the cache now"), "{}", service.stderr());
            // Another tmpfs has another device, as a disk of another number.
            let other = Mount::of("tmpfs", &env.outside("other"));
            let mount = made(Mount::of("tmpfs", &point));
            service.ask("POST /v2/cache/prune", "").is(200);
            let line = "is on another file system than before, which is the cache now\n";
            assert_eq!(service.stderr().matches(line).count(), 1, "{below}: {}", service.stderr());
            service.ask("POST /v2/cache/prune", "").is(200);
            assert_eq!(service.stderr().matches(line).count(), 1, "{below}: {}", service.stderr());
            drop(mount);
            service.ask("POST /v2/cache/prune", "").is(500);
            drop((service, other));
        }
    }
}
