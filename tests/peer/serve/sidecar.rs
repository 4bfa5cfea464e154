//! The service as a container runs it beside Glance: no listener, no Keystone, no network, another user than
//! root, a root that cannot be written, little memory. A pass that fails never ends it.

mod as_root {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::fs::{FlockOperation, fcntl_lock};
    use rustix::process::Signal;

    use crate::support::env::*;
    use crate::support::http;
    use crate::support::needs;
    use crate::support::openstack::{GlanceApi, Keystone};

    /// The user of Glance in kolla's containers.
    const USER: u32 = 42424;
    /// The memory of the container.
    const MEMORY: u64 = 64 << 20;

    /// A group of processes that may use only so much memory; removed when dropped.
    struct MemoryGroup(PathBuf);

    impl MemoryGroup {
        fn new(bytes: u64) -> Self {
            static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("glance-cache-test-{}-{number}", std::process::id());
            let (first, second) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
            let (group, limit) = if Path::new(first).is_dir() {
                (Path::new(first).join(name), "memory.limit_in_bytes")
            } else {
                let _ = fs::write(Path::new(second).join("cgroup.subtree_control"), "+memory");
                (Path::new(second).join(name), "memory.max")
            };
            fs::create_dir(&group)
                .unwrap_or_else(|e| panic!("{}: {e}: this test needs cgroups", group.display()));
            fs::write(group.join(limit), bytes.to_string()).unwrap();
            MemoryGroup(group)
        }

        /// Returns the most memory that was ever used, in KiB.
        fn peak(&self) -> u64 {
            let names = ["memory.max_usage_in_bytes", "memory.peak"];
            let text = names.iter().find_map(|name| fs::read_to_string(self.0.join(name)).ok());
            text.map_or(0, |text| text.trim().parse::<u64>().unwrap() / 1024)
        }
    }

    impl Drop for MemoryGroup {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// A sidecar of a cache.
    struct Sidecar {
        running: Option<Running>,
        memory: MemoryGroup,
        /// For its output.
        _env: TestEnv,
    }

    impl Sidecar {
        /// Starts one. Only `volume`, in which the cache is, can be written.
        fn start(volume: &Path, cache: &Path, lines: &str, settings: &str) -> Self {
            needs::root();
            let env = TestEnv::empty(Sqlite);
            let memory = MemoryGroup::new(MEMORY);
            let conf = format!(
                "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n{lines}\n[cache_api]\n{settings}\n",
                cache.display()
            );
            let conf = env.write("sidecar.conf", conf);
            fs::set_permissions(env.outside(""), fs::Permissions::from_mode(0o755)).unwrap();
            let script = "echo $$ >$1/cgroup.procs && mount --make-rprivate / && mount --bind $2 $2 && \
                          mount -o remount,bind,ro / && exec setpriv --reuid 42424 --regid 42424 --clear-groups \
                          --no-new-privs --bounding-set=-all --inh-caps=-all $3 serve --bind none --config-file $4";
            let mut command = env.command("unshare");
            command.args(["-m", "-n", "sh", "-c", script, "sh"]);
            command
                .args([&memory.0, volume])
                .args([BINARY, &conf])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            let running = Running::start(&mut command, &env.outside(""));
            let sidecar = Sidecar { running: Some(running), memory, _env: env };
            until("the sidecar to be ready", || {
                sidecar.is_alive() && sidecar.log().contains("is ready: no listener")
            });
            sidecar
        }

        fn log(&self) -> String {
            self.running.as_ref().unwrap().read("stderr")
        }

        /// Fails if the sidecar has ended.
        fn is_alive(&self) -> bool {
            let pid = self.pid();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let is_alive = !stat.is_empty() && !stat.contains(") Z ");
            assert!(is_alive, "the sidecar has ended: {}", self.log());
            true
        }

        fn pid(&self) -> u32 {
            self.running.as_ref().unwrap().child.id()
        }

        /// Returns how often a text is in the log.
        fn said(&self, text: &str) -> usize {
            self.log().matches(text).count()
        }

        /// Stops it as a container is stopped.
        fn stop(&mut self) -> Run {
            let running = self.running.take().unwrap();
            running.signal(Signal::TERM);
            running.wait()
        }
    }

    impl Drop for Sidecar {
        fn drop(&mut self) {
            if let Some(running) = &mut self.running {
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
        }
    }

    const FAILED: &str = "glance-cache maintenance failed: ";
    const RECOVERED: &str = "glance-cache maintenance recovered: after ";

    #[test]
    fn a_hundred_passes_may_fail() {
        let env = TestEnv::sqlite(FIVE);
        give(&env.outside(""));
        fs::set_permissions(env.outside(""), fs::Permissions::from_mode(0o755)).unwrap();
        // Once in the time of this test.
        // A pass each second, and a look at the size each second, which is a pass as well.
        let settings = "prune_interval = 1s\npoll_interval = 1s\nlock_timeout = 5ms";
        let held = env.lock("glance-cache-prune");
        std::os::unix::fs::chown(env.path("glance-cache-prune"), Some(USER), Some(USER)).unwrap();
        let volume = env.outside("");
        let mut sidecar = Sidecar::start(&volume, env.dir(), "image_cache_max_size = 3000", settings);
        until("the first failure", || sidecar.is_alive() && sidecar.said(FAILED) >= 1);
        let before = resident(sidecar.pid());
        for failures in [50, 100] {
            let line = format!("failed: {failures} consecutive, cache at 5 of 3 KiB");
            until("a hundred failures", || sidecar.is_alive() && sidecar.log().contains(&line));
        }
        let after = resident(sidecar.pid());
        assert_eq!(env.images(), "abcde");
        drop(held);
        until("the recovery", || sidecar.is_alive() && sidecar.said(RECOVERED) == 1);
        assert_eq!(env.images(), "cde");
        println!(
            "memory: {before} KiB after one failure, {after} after a hundred; all processes {} at most",
            sidecar.memory.peak()
        );
        assert!(after < before + (2 << 10), "{before}, {after}");
        assert!(sidecar.stop().code == 0);
    }

    /// Gives a directory and all in it to the user.
    fn give(dir: &Path) {
        for entry in walkdir::WalkDir::new(dir) {
            std::os::unix::fs::chown(entry.unwrap().path(), Some(USER), Some(USER)).unwrap();
        }
    }

    fn resident(pid: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The limit of the cache, in KiB.
    const LIMIT: u64 = 768;
    /// The size of an image, in KiB.
    const IMAGE: u64 = 64;
    /// Twice as many as the limit allows.
    const IMAGES: usize = 24;

    /// A trouble that is made, and mended when it is dropped.
    struct Trouble {
        mend: Box<dyn FnOnce()>,
    }

    const TROUBLES: [&str; 4] =
        ["the lock is held", "mode 000", "the index is locked", "the directory is away"];

    impl Trouble {
        fn make(what: &str, glance: &GlanceApi) -> Self {
            let cache = glance.cache();
            let mend: Box<dyn FnOnce()> = match what {
                "the lock is held" => {
                    let path = cache.join("glance-cache-prune");
                    let lock = File::options().append(true).create(true).open(&path).unwrap();
                    std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
                    until("the lock", || fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
                    Box::new(move || drop(lock))
                }
                "mode 000" => {
                    fs::set_permissions(&cache, fs::Permissions::from_mode(0o000)).unwrap();
                    Box::new(move || fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap())
                }
                "the index is locked" => {
                    let index = rusqlite::Connection::open(cache.join("cache.db")).unwrap();
                    index.busy_timeout(Duration::from_secs(20)).unwrap();
                    index.execute_batch("BEGIN EXCLUSIVE").unwrap();
                    Box::new(move || drop(index))
                }
                _ => {
                    let away = cache.with_file_name("away");
                    fs::rename(&cache, &away).unwrap();
                    Box::new(move || {
                        // Glance may have made another one.
                        let _ = fs::remove_dir_all(&cache);
                        fs::rename(&away, &cache).unwrap();
                    })
                }
            };
            Trouble { mend }
        }
    }

    /// Returns the size of the images in a cache, in KiB; `None` while it is away.
    fn size(cache: &Path) -> Option<u64> {
        let entries = fs::read_dir(cache).ok()?;
        let images = entries.flatten().filter(|entry| entry.file_name().len() == 36);
        Some(images.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum::<u64>() / 1024)
    }

    /// Downloads one image after the other, as hosts that boot them do, whatever becomes of it.
    fn keep_filling(
        glance: &GlanceApi,
        keystone: &Keystone,
        images: &[String],
        is_over: &AtomicBool,
    ) -> usize {
        let (mut token, mut renewed) = (keystone.token("admin", "admin"), Instant::now());
        let mut downloads = 0;
        for image in images.iter().cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            if renewed.elapsed() > Duration::from_secs(600) {
                (token, renewed) = (keystone.token("admin", "admin"), Instant::now());
            }
            let line = format!("GET /v2/images/{image}/file");
            let answer = http::send(&glance.address(), &line, &[("X-Auth-Token", &token)], None);
            downloads += usize::from(answer.status == 200);
            thread::sleep(Duration::from_millis(50));
        }
        downloads
    }

    /// Beside a Glance that keeps filling the cache, with one trouble after the other. The environment says
    /// for how long: `GLANCE_CACHE_TEST_SECONDS=3600` is an hour.
    #[test]
    fn beside_a_glance_that_keeps_filling() {
        let seconds: u64 =
            std::env::var("GLANCE_CACHE_TEST_SECONDS").map_or(16, |seconds| seconds.parse().unwrap());
        let is_long = seconds > 60;
        let (healthy, troubled) = if is_long { (20_000, 10_000) } else { (2000, 2000) };
        let [healthy, troubled] = [healthy, troubled].map(Duration::from_millis);
        let keystone = Keystone::shared();
        let glance = GlanceApi::start(keystone, "sqlite", "");
        let token = keystone.token("admin", "admin");
        let images: Vec<String> =
            (0..IMAGES).map(|_| glance.upload(&token, &vec![7; (IMAGE << 10) as usize])).collect();
        let settings = if is_long {
            "prune_interval = 5s\npoll_interval = 1s\nclean_interval = 60s\nlock_timeout = 500ms"
        } else {
            "prune_interval = 1s\npoll_interval = 1s\nclean_interval = 1s\nlock_timeout = 100ms"
        };
        let lines = format!("image_cache_max_size = {}", LIMIT << 10);
        glance.download(&token, &images[0]);
        until("the first image to be cached", || size(&glance.cache()) == Some(IMAGE));
        // Glance itself runs as root here, and can write everything.
        give(&glance.cache());
        let mut sidecar = Sidecar::start(glance.directory(), &glance.cache(), &lines, settings);
        let is_over = AtomicBool::new(false);
        let end = Instant::now() + Duration::from_secs(seconds);
        // While all is well, and in trouble.
        let mut polls: [Vec<u64>; 2] = Default::default();
        let mut rounds = 0;
        let downloads = thread::scope(|scope| {
            let filling = scope.spawn(|| keep_filling(&glance, keystone, &images, &is_over));
            let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                while Instant::now() < end {
                    polls[0].extend(watch(&glance, &sidecar, healthy));
                    until("a cache within its limit", || {
                        sidecar.is_alive() && size(&glance.cache()).is_some_and(|size| size <= LIMIT)
                    });
                    let trouble = TROUBLES[rounds % TROUBLES.len()];
                    rounds += 1;
                    let (failed, recovered) = (sidecar.said(FAILED), sidecar.said(RECOVERED));
                    let made = Trouble::make(trouble, &glance);
                    polls[1].extend(watch(&glance, &sidecar, troubled));
                    // Before a failure is told, the size of the cache is looked up, which takes its time
                    // while the index is locked.
                    until("a failure", || sidecar.is_alive() && sidecar.said(FAILED) > failed);
                    let now_failed = sidecar.said(FAILED);
                    (made.mend)();
                    until("the recovery", || sidecar.is_alive() && sidecar.said(RECOVERED) > recovered);
                    println!(
                        "{trouble}: {} failures, recovered, cache at {:?} KiB",
                        now_failed - failed,
                        size(&glance.cache())
                    );
                }
            }));
            is_over.store(true, Ordering::Relaxed);
            let downloads = filling.join().unwrap();
            if let Err(panic) = watched {
                std::panic::resume_unwind(panic);
            }
            downloads
        });
        until("a cache within its limit", || size(&glance.cache()).is_some_and(|size| size <= LIMIT));
        println!(
            "{seconds} s: {downloads} downloads of {IMAGE} KiB, {rounds} troubles, {} failures and {} recoveries in \
             the log",
            sidecar.said(FAILED),
            sidecar.said(RECOVERED)
        );
        for (polls, when) in polls.iter_mut().zip(["while all is well", "in trouble"]) {
            polls.sort_unstable();
            let over = polls.iter().filter(|size| **size > LIMIT).count();
            println!(
                "cache of {LIMIT} KiB at {} polls {when}: median {}, most {} KiB, {over} times over the limit",
                polls.len(),
                polls[polls.len() / 2],
                polls.last().unwrap()
            );
        }
        println!(
            "memory: {} KiB now, all its processes {} KiB at most",
            resident(sidecar.pid()),
            sidecar.memory.peak()
        );
        assert!(downloads > 20 && rounds > 0);
        let run = sidecar.stop();
        assert_eq!(run.code, 0, "{}", run.stderr);
        let words: std::collections::BTreeSet<&str> = run
            .stderr
            .lines()
            .map(|line| line.split(" failed: ").next().unwrap().split(" recovered: ").next().unwrap())
            .collect();
        println!("lines of the log begin with {words:?}");
    }

    /// Looks at the size of the cache for some time, while the sidecar lives.
    fn watch(glance: &GlanceApi, sidecar: &Sidecar, time: Duration) -> Vec<u64> {
        let end = Instant::now() + time;
        let mut sizes = Vec::new();
        while Instant::now() < end {
            sidecar.is_alive();
            sizes.extend(size(&glance.cache()));
            thread::sleep(Duration::from_millis(if time > Duration::from_secs(5) { 1000 } else { 100 }));
        }
        sizes
    }
}
