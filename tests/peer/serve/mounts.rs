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
}
