//! The real Glance 33.0.0 beside ours: the same caches, pruned and cleaned by both; Glance's driver on what
//! we left; its locks and ours; its listing and ours; its reading of a configuration and ours.

mod shapes;

use std::fs::{self, File};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::peer::{Peer, script};
use shapes::{Shape, shapes};

/// Makes the shape's cache with Glance's driver, and a copy of it that keeps every time.
fn make(peer: &mut Peer, env: &TestEnv, driver: Driver, shape: &Shape) -> (String, String) {
    let (theirs, ours) =
        (path(env, &format!("{}-theirs", shape.name)), path(env, &format!("{}-ours", shape.name)));
    peer.call("make", shape.request(&theirs, driver, env.now));
    peer.call("copy", json!({"source": theirs, "target": ours}));
    (theirs, ours)
}

fn path(env: &TestEnv, name: &str) -> String {
    env.outside(name).to_str().unwrap().into()
}

/// Writes a configuration file as Glance and we read it, and returns its path.
fn conf(env: &TestEnv, dir: &str, driver: Driver, limit: u64, stall: u64) -> String {
    let driver = driver.name();
    env.write(
        "glance-api.conf",
        format!(
            "[DEFAULT]\nimage_cache_dir = {dir}\nimage_cache_driver = {driver}\nimage_cache_max_size = \
             {limit}\n\
             image_cache_stall_time = {stall}\n"
        ),
    )
}

/// Returns the names and rows that are left in a cache, as Glance's helper sees them.
fn dump(peer: &mut Peer, dir: &str, driver: Driver) -> Value {
    peer.call("dump", json!({"dir": dir, "driver": driver.name()}))
}

/// Prunes and cleans copies of every shape with both tools; returns how many caches were compared and how
/// many differ.
fn side_by_side(driver: Driver) -> (usize, Vec<String>) {
    let (env, mut peer) = (TestEnv::empty(Xattr), Peer::start());
    let mut differing = Vec::new();
    let shapes = shapes();
    for shape in &shapes {
        let (theirs, ours) = make(&mut peer, &env, driver, shape);
        assert_eq!(
            dump(&mut peer, &theirs, driver),
            dump(&mut peer, &ours, driver),
            "the copy of {}",
            shape.name
        );
        let pruned =
            peer.call("prune", json!({"dir": theirs, "driver": driver.name(), "max_size": shape.limit}));
        let after_prune = dump(&mut peer, &theirs, driver);
        peer.call("clean", json!({"dir": theirs, "driver": driver.name(), "stall_time": shape.stall}));
        let after_clean = dump(&mut peer, &theirs, driver);

        let conf = conf(&env, &ours, driver, shape.limit, shape.stall);
        let report = env.raw(&["prune", "--config-file", &conf]).ok().json();
        let our_prune = dump(&mut peer, &ours, driver);
        env.raw(&["clean", "--config-file", &conf]).ok();
        let our_clean = dump(&mut peer, &ours, driver);
        let totals = json!([report["total_files_pruned"], report["total_bytes_pruned"]]);
        for (what, their, our) in [
            ("totals", &pruned, &totals),
            ("prune", &after_prune, &our_prune),
            ("clean", &after_clean, &our_clean),
        ] {
            if their != our {
                differing.push(format!(
                    "{} {} {what}:\n  theirs {their}\n  ours   {our}",
                    driver.name(),
                    shape.name
                ));
            }
        }
    }
    (shapes.len(), differing)
}

fn assert_same(driver: Driver) {
    let (count, differing) = side_by_side(driver);
    println!("{}: {count} caches compared, {} differ", driver.name(), differing.len());
    assert!(count >= 60 && differing.is_empty(), "of {count}:\n{}", differing.join("\n"));
}

#[test]
fn prune_and_clean_leave_the_same_as_glance_sqlite() {
    assert_same(Sqlite);
}

#[test]
fn prune_and_clean_leave_the_same_as_glance_xattr() {
    assert_same(Xattr);
}

#[test]
fn old_names_leave_the_same_as_the_console_scripts() {
    let (env, mut peer) = (TestEnv::empty(Xattr), Peer::start());
    for driver in [Sqlite, Xattr] {
        let shape = &shapes()[10];
        let (theirs, ours) = make(&mut peer, &env, driver, shape);
        for tool in ["glance-cache-pruner", "glance-cache-cleaner"] {
            let config = conf(&env, &theirs, driver, shape.limit, shape.stall);
            env.finish(env.command(script(tool)).args(["--config-file", &config])).ok();
            let config = conf(&env, &ours, driver, shape.limit, shape.stall);
            env.old(tool, &["--config-file", &config]).ok().silent();
            assert_eq!(
                dump(&mut peer, &ours, driver),
                dump(&mut peer, &theirs, driver),
                "{tool}, {}",
                driver.name()
            );
        }
        system(&["rm", "-r", &theirs, &ours]);
    }
}

#[test]
fn glance_goes_on_using_what_we_left() {
    let (env, mut peer) = (TestEnv::empty(Xattr), Peer::start());
    let mut used = 0;
    for driver in [Sqlite, Xattr] {
        for shape in shapes().iter().filter(|shape| !shape.images.is_empty() && shape.limit > 0).step_by(4) {
            let (theirs, ours) = make(&mut peer, &env, driver, shape);
            let conf = conf(&env, &ours, driver, shape.limit, 0);
            env.raw(&["prune", "--config-file", &conf]).ok();
            env.raw(&["clean", "--config-file", &conf]).ok();
            if driver == Sqlite {
                env.raw(&["clean", "--repair", "--config-file", &conf]).ok();
            }
            // Our lock files count for Glance's xattr driver as images: an operator's `lock_path` keeps them
            // out.
            for lock in ["glance-cache-clean", "glance-cache-prune"] {
                if driver == Xattr {
                    let _ = fs::remove_file(env.outside(&ours).join(lock));
                }
            }
            let left = dump(&mut peer, &ours, driver);
            let gone: Vec<&String> =
                shape.images.iter().map(|image| &image.0).filter(|id| left["files"][id].is_null()).collect();
            peer.call("use", json!({"dir": ours, "driver": driver.name(), "gone": gone, "fresh": id('f')}));
            used += 1;
            system(&["rm", "-r", &theirs, &ours]);
        }
    }
    println!("{used} caches used on by Glance");
    assert!(used >= 20);
}

/// Removes the image of each even letter, with Glance's driver from one copy of a cache and with `--image` from the
/// other. Glance then goes on with ours.
#[test]
fn named_images_go_as_glances_driver_deletes_them() {
    let (env, mut peer) = (TestEnv::empty(Xattr), Peer::start());
    let mut compared = 0;
    for driver in [Sqlite, Xattr] {
        // An image without a row is nothing that Glance can delete.
        for shape in shapes().iter().filter(|shape| shape.images.len() > 2 && shape.limit > 0).step_by(3) {
            let (theirs, ours) = make(&mut peer, &env, driver, shape);
            let named: Vec<&String> = shape.images.iter().map(|image| &image.0).step_by(2).collect();
            for id in &named {
                let request =
                    json!({"dir": theirs, "driver": driver.name(), "action": "delete", "image_id": id});
                peer.call("one", request);
            }
            let conf = conf(&env, &ours, driver, u64::MAX >> 1, 0);
            let mut arguments = vec!["prune", "--config-file", &conf, "--image"];
            arguments.extend(named.iter().map(|id| id.as_str()));
            env.raw(&arguments).ok();
            let _ = fs::remove_file(env.outside(&ours).join("glance-cache-prune"));
            let (their, our) = (dump(&mut peer, &theirs, driver), dump(&mut peer, &ours, driver));
            for id in &named {
                assert!(our["files"][id].is_null(), "{id} is still there: {our}");
            }
            assert_eq!(their["files"], our["files"], "{}, {}", shape.name, driver.name());
            let rest = json!({"dir": ours, "driver": driver.name(), "gone": named, "fresh": id('f')});
            peer.call("use", rest);
            compared += 1;
            system(&["rm", "-r", &theirs, &ours]);
        }
    }
    println!("{compared} caches compared");
    assert!(compared >= 20);
}

#[test]
fn glance_goes_on_after_a_choice_by_age_and_after_everything() {
    for driver in [Sqlite, Xattr] {
        for (choice, left) in [(&["--older-than", "35h"][..], "cde"), (&["--everything"], "")] {
            let (env, mut peer) = (TestEnv::new(driver, FIVE), Peer::start());
            env.prune(choice).ok();
            assert_eq!(env.images(), left, "{}, {choice:?}", driver.name());
            let _ = fs::remove_file(env.path("glance-cache-prune"));
            let gone: Vec<String> =
                "abcde".chars().filter(|letter| !left.contains(*letter)).map(id).collect();
            let request =
                json!({"dir": path(&env, "cache"), "driver": driver.name(), "gone": gone, "fresh": id('f')});
            peer.call("use", request);
        }
    }
}

#[test]
fn glance_lists_an_xattr_cache_with_our_lock_files_in_it() {
    let (env, mut peer) = (TestEnv::xattr(FIVE), Peer::start());
    env.prune(&["--max-size", "3000B"]).ok();
    env.clean(&[]).ok();
    let listing = peer.call("listing", json!({"dir": env.dir(), "driver": "xattr"}));
    // To that driver every file is an image.
    assert_eq!(listing["cached_images"].as_array().unwrap().len(), 3 + 2);
}

#[test]
fn glance_accepts_what_a_killed_prune_left() {
    let mut peer = Peer::start();
    for round in 0..5 {
        let env = TestEnv::large(Sqlite, 2000);
        let mut command = env.of_cache("prune");
        let mut running = Running::start(command.args(["--max-size", "100B"]), &env.outside(""));
        until("some images to go", || !env.path(nth_id(round * 300)).exists());
        running.child.kill().unwrap();
        let _ = running.wait();
        let ids: Vec<String> = (0..20).map(nth_id).collect();
        let did = peer.call(
            "traffic",
            json!({"dir": path(&env, "cache"), "driver": "sqlite", "ids": ids, "seconds": 0.3, "size": 1}),
        );
        // Caching anew over a ghost trips over its row, which Glance logs and survives.
        let strange: Vec<&Value> = did["errors"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| !e.as_str().unwrap().contains("UNIQUE"))
            .collect();
        assert!(strange.is_empty(), "{strange:?}");
        env.prune(&["--max-size", "100B", "--forget-all"]).ok();
        let files: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
        let ghosts = env.ids().iter().filter(|id| !files.contains(id)).count();
        assert_eq!(ghosts, 0);
    }
}

#[test]
fn glances_locks_are_seen_by_ours() {
    let mut peer = Peer::start();
    for (command, name) in [("prune", "glance-cache-prune"), ("clean", "glance-cache-clean")] {
        let env = TestEnv::sqlite(FIVE);
        peer.call("lock", json!({"name": name, "path": path(&env, "cache")}));
        let run = env.run(command, &["--lock-timeout", "300ms"]).fails(3, &[name]);
        assert!(run.stderr.contains(&peer.id().to_string()), "{run:?}");
        env.run(command, &["--skip-if-locked"]).ok();
        peer.call("unlock", json!({"name": name}));
        env.run(command, &["--lock-timeout", "300ms"]).ok();
    }
}

#[test]
fn our_locks_are_seen_by_glance() {
    // Ours waits for the index with its lock held; Glance's call then waits for ours.
    let (env, mut peer) = (TestEnv::sqlite(FIVE), Peer::start());
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
    until("our lock", || env.path("glance-cache-prune").exists());
    std::thread::sleep(Duration::from_millis(200));
    peer.ask("lock", json!({"name": "glance-cache-prune", "path": path(&env, "cache")}));
    std::thread::sleep(Duration::from_millis(500));
    let file = File::options().append(true).open(env.path("glance-cache-prune")).unwrap();
    let free = rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(free.is_err(), "nobody holds the lock");
    drop(writer);
    running.wait().ok();
    assert_eq!(peer.answer().unwrap(), peer.id());
}

#[test]
fn a_prune_beside_a_busy_glance_holds_the_limit_and_nobody_waits_long() {
    for driver in [Sqlite, Xattr] {
        let (env, mut peer) = (TestEnv::new(driver, &[]), Peer::start());
        let ids: Vec<String> = (0..200).map(nth_id).collect();
        let request = json!({
            "dir": path(&env, "cache"), "driver": driver.name(), "ids": ids, "seconds": 4, "size": 1000,
        });
        peer.ask("traffic", request);
        let end = std::time::Instant::now() + Duration::from_millis(3800);
        let mut prunes = 0;
        while std::time::Instant::now() < end {
            let report = env.prune(&["--max-size", "50000B"]).ok().json();
            assert!(report["cache_size_after"].as_u64().unwrap() <= 50_000, "{report}");
            prunes += 1;
        }
        let did = peer.answer().unwrap();
        println!("{}: {prunes} prunes beside {did}", driver.name());
        assert_eq!(did["errors"], json!([]), "Glance met errors");
        assert!(did["longest"].as_f64().unwrap() < 2.0 && prunes > 3, "{did}");
        env.prune(&["--max-size", "50000B"]).ok();
        if driver == Sqlite {
            env.left();
            let files: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
            assert_eq!(env.ids(), files);
        }
    }
}

#[test]
fn list_is_what_glances_driver_answers() {
    let (env, mut peer) = (TestEnv::empty(Xattr), Peer::start());
    for driver in [Sqlite, Xattr] {
        for shape in shapes().iter().step_by(5) {
            let (theirs, ours) = make(&mut peer, &env, driver, shape);
            let conf = conf(&env, &ours, driver, shape.limit, shape.stall);
            let our = env.raw(&["list", "--format", "json", "--config-file", &conf]).ok().json();
            let their = peer.call("listing", json!({"dir": theirs, "driver": driver.name()}));
            assert_eq!(our["queued_images"], their["queued_images"], "{}", shape.name);
            let by_id = |list: &Value| {
                let mut images = list["cached_images"].as_array().unwrap().clone();
                images.sort_by_key(|image| image["image_id"].as_str().unwrap().to_string());
                images
            };
            for (our, their) in by_id(&our).iter().zip(by_id(&their)) {
                for (key, value) in their.as_object().unwrap() {
                    assert_eq!(&our[key], value, "{key} in {our}, {} {}", driver.name(), shape.name);
                }
            }
            assert_eq!(by_id(&our).len(), by_id(&their).len());
            system(&["rm", "-r", &theirs, &ours]);
        }
    }
}

/// One way to configure: files below HOME, an environment, a command line (`HOME` in it is replaced).
type Configured<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
#[allow(clippy::too_many_lines)] // a table
fn a_configuration_means_what_it_means_to_glance() {
    let max = |n: &str| format!("[DEFAULT]\nimage_cache_max_size = {n}\n");
    let sizes: Vec<String> = "0 1000 2000 3000 4000".split(' ').map(max).collect();
    let [n0, n1, n2, n3, n4] = &sizes[..] else { unreachable!() };
    let texts: Vec<String> = [
        "image_cache_max_size = 0_2000",
        "image_cache_max_size = 0o777",
        "image_cache_max_size=+3000",
        "image_cache_max_size : 2000",
        "image_cache_max_size = \" 2000 \"",
        "image_cache_max_size = '2000",
        "image_cache_max_size = 2000\"",
        "image_cache_max_size = ''",
        "image_cache_max_size = 2\n  000",
        "image_cache_max_size =\n  2000",
        "image_cache_max_size = 1000\n# x\nimage_cache_max_size = 3000",
        "image_cache_stall_time = 3000\nimage_cache_max_size = $image_cache_stall_time",
        "image_cache_max_size = ${image_cache_stall_time}",
        "image_cache_stall_time = 3000\nimage_cache_max_size = $DEFAULT.image_cache_stall_time",
        "image_cache_stall_time = 30\nimage_cache_max_size = ${image_cache_stall_time}00",
        "image_cache_max_size = \\$5",
        "image_cache_max_size = $$5",
        "image_cache_max_size = $x",
        "image_cache_max_size = ２０００",
        "image_cache_max_size = 2000 ; x",
        "image_cache_max_size = -0",
        "image_cache_max_size = 2000\n[DEFAULT]\nimage_cache_max_size = 1000",
        "image_cache_max_size = 1000\n[other]\nimage_cache_max_size = 4000",
        "Image_Cache_Max_Size = 1000",
        "image-cache-max-size = 1000",
        "image_cache_max_size",
        " image_cache_max_size = 1000",
        "=5",
        "[x",
        "image_cache_max_size = 1000\n\timage_cache_stall_time = 5",
        "[DEFAULT] # x\nimage_cache_max_size = 1000",
        "[ DEFAULT ]\nimage_cache_max_size = 1000",
        "image_cache_max_size = 1000\n[]\n",
        "image_cache_max_size = 1000\n\n  2000",
        "image_cache_max_size = 1000\r",
        "image_cache_max_size = 1000\u{a0}",
        "image_cache_max_size = 1000\n;image_cache_max_size = 2000",
        "image_cache_max_size = 1000\n  # image_cache_max_size = 2000",
        "image_cache_max_size = True",
        "image_cache_max_size = 1 000",
        "image_cache_max_size = 1000=2000",
        "image_cache_max_size = = 1000",
    ]
    .iter()
    .map(|text| format!("[DEFAULT]\n{text}\n"))
    .collect();
    let (single, conf): (Vec<_>, [&str; 2]) =
        (texts.iter().map(|text| [("x.conf", text.as_str())]).collect(), ["--config-file", "HOME/x.conf"]);
    let mut cases: Vec<Configured> = single.iter().map(|files| (&files[..], &[][..], &conf[..])).collect();
    let many: &[Configured] = &[
        (&[("glance.conf", n1), ("glance-api.conf", n2)], &[], &[]),
        (&[("glance-cache.conf", n3), ("glance.conf", n1), ("glance-api.conf", n2)], &[], &[]),
        (&[(".glance/glance-cache.conf", n3), ("glance-cache.conf", n1)], &[], &[]),
        (&[("glance.conf.d/a.conf", n1), ("glance.conf.d/b.conf", n2), ("glance-cache.conf", n4)], &[], &[]),
        (&[("glance-cache-pruner.conf.d/a.conf", n1), ("glance.conf.d/b.conf", n2)], &[], &[]),
        (&[(".glance/glance.conf.d/a.conf", n1), ("glance.conf.d/b.conf", n2)], &[], &[]),
        (
            &[("glance-api.conf.d/a.conf", n1), ("glance-cache.conf.d/b.conf", n2), ("glance-api.conf", n3)],
            &[],
            &[],
        ),
        (&[("x.conf", n1), ("glance-cache.conf", n2)], &[], &["--config-file", "HOME/x.conf"]),
        (&[("x.conf", "[x]\n"), ("glance.conf.d/a.conf", n2)], &[], &["--config-file", "HOME/x.conf"]),
        (&[("x.conf", n1), ("glance.conf.d/a.conf", n2)], &[], &["--config-file=HOME/x.conf"]),
        (&[("d/x.conf", n1), ("d/y.conf", n2), ("glance-cache.conf", n3)], &[], &["--config-dir", "HOME/d"]),
        (&[("d/x.txt", n1), ("d/.y.conf", n2), ("glance-cache.conf", n3)], &[], &["--config-dir", "HOME/d"]),
        (&[("d/x.conf", n1), ("e/y.conf", n2)], &[], &["--config-dir", "HOME/e", "--config-dir", "HOME/d"]),
        (
            &[("d/x.conf", n1), ("f.conf", n2)],
            &[],
            &["--config-dir", "HOME/d", "--config-file", "HOME/f.conf"],
        ),
        (
            &[("d/x.conf", n1), ("f.conf", n2)],
            &[],
            &["--config-file", "HOME/f.conf", "--config-dir", "HOME/d"],
        ),
        (&[("d/x.conf", n1)], &[], &["--config-dir", "HOME/d/"]),
        (
            &[("x.conf", n1)],
            &[("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "3000")],
            &["--config-file", "HOME/x.conf"],
        ),
        (&[("x.conf", n1)], &[("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "x")], &["--config-file", "HOME/x.conf"]),
        (&[("x.conf", n1)], &[("OS_DEFAULT__IMAGE_CACHE_MAX_SIZE", "")], &["--config-file", "HOME/x.conf"]),
        (
            &[("x.conf", n1)],
            &[("OS_DEFAULT__image_cache_max_size", "3000")],
            &["--config-file", "HOME/x.conf"],
        ),
        (
            &[("x.conf", n0)],
            &[("os_default__image_cache_max_size", "3000")],
            &["--config-file", "HOME/x.conf"],
        ),
        (&[("x.conf", n0)], &[], &["--config-file", "~/x.conf"]),
        (&[], &[], &["--config-file", "HOME/missing.conf"]),
        (&[], &[], &["--config-dir", "HOME/missing"]),
        (&[], &[], &[]),
    ];
    cases.extend(many);
    let mut peer = Peer::start();
    let differing: Vec<String> =
        cases.iter().filter_map(|case| means_something_else(&mut peer, case)).collect();
    println!("{} configurations compared, {} differ", cases.len(), differing.len());
    assert!(differing.is_empty(), "of {}:\n{}", cases.len(), differing.join("\n"));
}

/// Returns the difference, if there is one: the limit in force shows in which of five images of 1000 bytes
/// are left.
fn means_something_else(peer: &mut Peer, (files, environment, arguments): &Configured) -> Option<String> {
    let env = TestEnv::xattr(FIVE);
    for (name, text) in *files {
        env.write(&format!("home/{name}"), text);
    }
    let home = path(&env, "home");
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("HOME", &home)).collect();
    let environment: std::collections::BTreeMap<&str, &str> = environment.iter().copied().collect();
    let request = json!({"arguments": arguments, "name": "image_cache_max_size", "home": home,
        "prog": "glance-cache-pruner", "environment": environment});
    let theirs = peer.try_call("parse", request);
    let expected = match &theirs {
        Ok(limit) if !limit.is_null() => {
            Some(FIVE.len().min((limit.as_u64().unwrap_or(u64::MAX) / 1000) as usize))
        }
        _ => None, // an error of oslo's, or a None that Glance then trips over
    };
    let mut command = env.command(env.old_name("glance-cache-pruner"));
    command.args(&arguments).envs(&environment);
    command.env("OS_DEFAULT__IMAGE_CACHE_DIR", env.dir()).env("OS_DEFAULT__IMAGE_CACHE_DRIVER", "xattr");
    let run = env.finish(&mut command);
    let ours = (run.code == 0).then(|| env.images().len());
    (ours != expected).then(|| {
        format!(
            "{files:?} {environment:?} {arguments:?}: theirs {theirs:?}, so {expected:?} left; \
                          ours {ours:?}: {run:?}"
        )
    })
}
