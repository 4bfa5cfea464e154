//! `prefetch` under hostile conditions: odd records, hostile entries in the queue, and failures at the worst moment.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::env::*;
use crate::prefetch::{Prefetch, content, tests};
use crate::servers::{Database, KINDS, Kind, SERVERS, Server, Session};
use crate::stores::{ACCESS_KEY, Ceph, SECRET_KEY};

tests! {
    an_image_that_cannot_be_published_leaves_no_row {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1000);
        p.queue("a");
        p.run(&["--dry-run"]).ok();
        let mut command = p.env.command("/usr/bin/strace");
        let log = p.env.outside("strace");
        command.args(["-f", "-o", log.to_str().unwrap(), "-e", "inject=linkat:error=ENOSPC", BINARY]);
        command.args(["prefetch", "--config-file", &p.conf("")]);
        p.env.finish(&mut command).fails(1, &["cannot be published", "No space left"]);
        assert_eq!((p.env.images().as_str(), p.env.rows().as_str(), p.queued().as_str()), ("", "", "a"));
        p.run(&[]).ok();
        p.holds(&[('a', 1000)]);
    }

    an_id_in_capitals_is_another_image {
        for kind in [Kind::SqliteFile, Kind::MariaDb, Kind::PostgreSql] {
            let p = Prefetch::on(Sqlite, kind);
            p.image('a', 1000);
            let capitals = id('a').to_uppercase();
            p.queue("a");
            p.env.file(Path::new("queue").join(&capitals), 0, 1);
            let run = p.run(&[]).code(1);
            println!("{kind:?} {}", run.stderr);
            assert!(!p.env.path(&capitals).exists(), "{kind:?}");
            p.holds(&[('a', 1000)]);
        }
    }

    a_long_reason_is_remembered_too {
        let p = Prefetch::new(Sqlite);
        let wrong = p.env.outside(format!("store/{}", vec!["d".repeat(200); 15].join("/")));
        fs::create_dir_all(wrong.parent().unwrap()).unwrap();
        fs::write(&wrong, content('b', 1000)).unwrap();
        p.record('a', &content('a', 1000), &[&format!("file://{}", wrong.display())]);
        let long = format!("http://127.0.0.1:1/{}", "x".repeat(5000));
        p.locate('a', &long, "{}");
        p.queue("a");
        p.run(&[]).code(1);
        p.run(&[]).fails(1, &["in an earlier run"]);
    }

    an_encoded_answer_needs_something_to_compare_it_with {
        let p = Prefetch::new(Sqlite);
        for (letter, forgotten) in [('a', ""), ('b', ", size = NULL")] {
            let encoded = answering("HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n", content(letter, 1000));
            p.record(letter, &content(letter, 1000), &[&encoded]);
            p.update(letter, &format!("os_hash_algo = NULL, os_hash_value = NULL, checksum = NULL{forgotten}"));
        }
        p.queue("ab");
        p.run(&[]).fails(1, &["encoded (gzip)", "neither the size nor the hash"]);
        p.holds(&[('a', 1000)]);
        assert_eq!(p.queued(), "b");
    }

    a_memory_is_not_written_through_a_hard_link {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1000);
        p.update('a', "os_hash_value = 'ffff'");
        let precious = p.env.outside("precious");
        fs::write(&precious, "precious").unwrap();
        fs::hard_link(&precious, p.env.path("queue").join(id('a'))).unwrap();
        p.run(&[]).code(1);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }

    what_only_the_configuration_refuses_is_tried_once_it_is_mended {
        let p = Prefetch::new(Sqlite);
        let bytes = content('a', 1000);
        fs::write(p.stored('a'), &bytes).unwrap();
        p.record('a', &bytes, &[&p.location('a')]);
        p.queue("a");
        let conf = p.env.conf(&format!("[glance_store]\nstores = rbd\n[database]\nconnection = {}", p.db.url));
        p.env.raw(&["prefetch", "--config-file", &conf]).fails(1, &["not enabled"]);
        p.run(&[]).ok();
        p.holds(&[('a', 1000)]);
    }

    odd_records {
        // What is told, exit code, whether it is cached then.
        let cases: &[(&str, &str, i32, bool)] = &[
            ("size = NULL", "", 0, true),
            ("size = 0", "but 0 in Glance's record", 1, false),
            ("size = -1", "but 0 in Glance's record", 1, false),
            ("size = 9223372036854775807", "", 1, false),
            ("checksum = UPPER(checksum), os_hash_algo = NULL", "md5", 0, true),
            ("os_hash_value = UPPER(os_hash_value), os_hash_algo = 'SHA512'", "SHA512", 0, true),
            ("os_hash_algo = '', os_hash_value = ''", "md5", 0, true),
            ("os_hash_algo = 'shake_256'", "md5", 0, true),
            ("os_hash_algo = '', os_hash_value = '', checksum = ''", "size", 0, true),
            ("status = 'ACTIVE'", "status", 1, false),
            ("os_hidden = 1", "", 0, true),
            ("visibility = 'private'", "", 0, true),
            ("checksum = 'ffff'", "", 0, true),
            ("os_hash_value = 'ffff'", "instead of ffff", 1, false),
        ];
        for (change, word, code, cached) in cases {
            for kind in [Kind::SqliteFile, Kind::MariaDb, Kind::PostgreSql] {
                let p = Prefetch::on(Xattr, kind);
                p.image('a', 1000);
                let change = if kind == Kind::PostgreSql { change.replace("os_hidden = 1", "os_hidden = true") } else { (*change).to_owned() };
                p.update('a', &change);
                p.queue("a");
                let run = p.run(&["-v"]);
                println!("{kind:?} {change}: {} {}", run.code, run.stderr);
                assert_eq!(run.code, *code, "{change}");
                assert!(run.stderr.contains(word), "{change}");
                assert_eq!(p.env.left() == "a", *cached, "{change}");
            }
        }
    }

    hostile_entries_of_the_queue_are_survived {
        let p = Prefetch::new(Sqlite);
        for letter in "abcd".chars() {
            p.image(letter, 100);
        }
        p.queue("abcd");
        let entry = |letter: char| p.env.path("queue").join(id(letter));
        fs::write(entry('a'), vec![0xff; 5000]).unwrap();
        fs::write(entry('b'), "{\"glance-cache\":".repeat(200)).unwrap();
        fs::File::create(entry('c')).unwrap().set_len(1 << 40).unwrap();
        fs::write(entry('d'), "[".repeat(4000)).unwrap();
        p.env.fifo(Path::new("queue").join(id('e')));
        p.env.link(Path::new("queue").join(id('f')), "/etc/passwd");
        fs::create_dir(entry('9')).unwrap();
        let run = p.run(&[]).ok();
        println!("{}", run.stderr);
        p.holds(&[('a', 100), ('b', 100), ('c', 100), ('d', 100)]);
        assert_eq!(p.env.names("queue").len(), 3);
    }

    a_link_to_the_stores_file_is_never_what_is_published {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 1000);
            p.queue("a");
            p.run(&[]).ok();
            let (ours, theirs) = (fs::metadata(p.env.path(id('a'))).unwrap(), fs::metadata(p.stored('a')).unwrap());
            assert_ne!(ours.ino(), theirs.ino());
            assert_eq!((ours.nlink(), theirs.nlink()), (1, 1));
            assert_eq!(ours.mode() & 0o7777, 0o644);
        }
    }

    a_dry_run_that_makes_room_says_what_would_go {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.env.image(('b', 600, 3, 1));
            p.env.image(('c', 300, 2, 1));
            p.image('a', 500);
            p.queue("a");
            let before = p.env.snapshot();
            let run = p.run(&["--dry-run", "--make-room", "--max-size", "1000"]).ok();
            println!("{}", run.stdout);
            assert_eq!(p.env.snapshot(), before);
            let wet = p.run(&["--make-room", "--max-size", "1000"]).ok();
            println!("{}", wet.stdout);
            for key in ["cache_size_after", "over_limit", "total_files_prefetched", "total_files_pruned", "total_bytes_pruned"] {
                assert_eq!(run.json()[key], wet.json()[key], "{key}");
            }
            assert_eq!(p.env.left(), "ac");
        }
    }

    a_row_without_a_file_that_comes_up_meanwhile_is_replaced {
        let p = Prefetch::new(Sqlite);
        p.image('a', 3_000_000);
        p.image('b', 100);
        p.run(&[&id('b')]).ok();
        p.queue("a");
        let ours = p.start(&["--rate-limit", "2MB"]);
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        p.env.ghost('a', 1);
        p.env.sql("UPDATE cached_images SET hits = 7 WHERE size = 1000");
        ours.wait().ok();
        p.holds(&[('a', 3_000_000), ('b', 100)]);
        p.glance_serves(&[('a', 3_000_000), ('b', 100)]);
    }

    a_central_row_without_a_file_that_comes_up_meanwhile_is_replaced {
        for kind in KINDS {
            let p = Prefetch::on(Xattr, kind);
            p.image('a', 600_000);
            p.queue("a");
            let mut command = on_central(&p, "http://n1.example:9292", &["--rate-limit", "1MB"]);
            p.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://n2.example:9292')");
            let ours = Running::start(&mut command, &p.env.outside(""));
            until("the claim", || p.env.path("incomplete").join(id('a')).exists());
            p.db.sql(&format!(
                "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
                 SELECT '{}', '2024-01-01 00:00:00', '2024-01-01 00:00:00', 1000, 7, node_reference_id FROM node_reference",
                id('a')
            ));
            ours.wait().ok();
            let rows = p.db.rows("SELECT size, hits FROM cached_images ORDER BY node_reference_id");
            assert_eq!(rows, [["600000", "0"], ["1000", "7"]], "{kind:?}: only this node's");
            assert_eq!(p.env.images(), "a");
        }
    }

    what_took_long_to_fetch_waits_as_long_for_a_prune {
        for signal in [None, Some(Signal::INT)] {
            let p = Prefetch::new(Sqlite);
            p.image('a', 1_500_000);
            p.queue("a");
            let held = p.env.lock("glance-cache-prune");
            let ours = p.start(&["--rate-limit", "1MB", "--lock-timeout", "100ms"]);
            until("the claim", || p.env.path("incomplete").join(id('a')).exists());
            sleep(Duration::from_millis(2200));
            if let Some(signal) = signal {
                ours.signal(signal);
                ours.wait().code(130).has(&json!({"still_queued": 1}));
                assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
            } else {
                drop(held);
                ours.wait().ok();
                p.holds(&[('a', 1_500_000)]);
            }
        }
    }

    what_was_fetched_waits_for_a_busy_index_too {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1_500_000);
        p.image('b', 1000);
        p.run(&[&id('b')]).ok();
        p.queue("a");
        let ours = p.start(&["--rate-limit", "1MB", "--lock-timeout", "100ms"]);
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        let glance = p.env.db();
        glance.execute_batch("BEGIN EXCLUSIVE").unwrap();
        sleep(Duration::from_millis(2200));
        glance.execute_batch("COMMIT").unwrap();
        ours.wait().ok();
        p.holds(&[('a', 1_500_000), ('b', 1000)]);
    }

    while_one_waits_for_a_prune_the_others_are_fetched {
        let p = Prefetch::new(Xattr);
        p.image('a', 1000);
        p.image('b', 1_000_000);
        p.image('c', 1000);
        p.queue("abc");
        let held = p.env.lock("glance-cache-prune");
        let ours = p.start(&["--rate-limit", "1MB", "-j", "2", "--lock-timeout", "5s", "-v"]);
        // Both are ready, and so the third is not begun.
        sleep(Duration::from_secs(2));
        assert_eq!((p.env.images().as_str(), p.env.names("incomplete").iter().filter(|name| name.len() == 36).count()), ("", 2));
        drop(held);
        let run = ours.wait().ok();
        assert!(run.stderr.contains("waits to be published: "), "{}", run.stderr);
        p.holds(&[('a', 1000), ('b', 1_000_000), ('c', 1000)]);
    }

    what_is_deleted_while_it_waits_is_not_published {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1000);
        p.queue("a");
        let held = p.env.lock("glance-cache-prune");
        let ours = p.start(&[]);
        sleep(Duration::from_secs(1));
        p.db.sql("UPDATE images SET deleted = 1, status = 'deleted'");
        drop(held);
        ours.wait().fails(1, &["it is deleted by now"]);
        assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "", 0));
    }

    a_database_that_hangs_keeps_nobody_from_the_lock {
        let server = Server::private(Kind::MariaDb);
        let p = Prefetch { db: Database::on(&server, "glance"), ..Prefetch::new(Sqlite) };
        p.image('a', 600_000);
        p.queue("a");
        let held = p.env.lock("glance-cache-prune");
        let ours = p.start(&["--rate-limit", "1MB"]);
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        sleep(Duration::from_secs(2));
        // While somebody else has the lock, the database is left alone.
        let asked = || p.db.rows("SHOW GLOBAL STATUS LIKE 'Com_select'")[0][1].parse::<u64>().unwrap();
        let before = asked();
        sleep(Duration::from_secs(2));
        let more = asked() - before;
        println!("{more} queries in two seconds, those of the test among them");
        assert!(more < 10, "{more}");
        server.signal("-STOP");
        drop(held);
        for _ in 0..10 {
            sleep(Duration::from_millis(500));
            drop(p.env.lock("glance-cache-prune"));
        }
        server.signal("-CONT");
        ours.wait().ok();
        p.holds(&[('a', 600_000)]);
    }

    a_server_that_is_lost_while_an_image_is_published_costs_no_download {
        for kind in SERVERS {
            let mut server = Server::private(kind);
            for (letter, way) in "abcd".chars().zip(["stopped", "killed", "cut", "hung"]) {
                // PostgreSQL serves a connection with a process of its own, which a hung parent does not keep from working.
                if (kind, way) == (Kind::PostgreSql, "hung") {
                    continue;
                }
                let p = Prefetch { db: Database::on(&server, "glance"), ..Prefetch::new(Xattr) };
                p.image(letter, 600_000);
                p.queue(&letter.to_string());
                let mut command = on_central(&p, &format!("http://{way}.example:9292"), &["-v", "--rate-limit", "1MB"]);
                let ours = Running::start(&mut command, &p.env.outside(""));
                until("the claim", || p.env.path("incomplete").join(id(letter)).exists());
                // It cannot be recorded for now, and so is in the middle of it.
                let mut glance = Session::open(&p.db);
                glance.sql(if kind == Kind::MariaDb { "LOCK TABLES cached_images WRITE" } else { "BEGIN; LOCK TABLE cached_images" });
                sleep(Duration::from_secs(2));
                match way {
                    "stopped" => server.signal(if kind == Kind::MariaDb { "-TERM" } else { "-INT" }),
                    "killed" => server.crash(),
                    "cut" => p.db.cut_others(),
                    _ => server.signal("-STOP"),
                }
                sleep(Duration::from_secs(if way == "hung" { 13 } else { 1 }));
                match way {
                    "hung" => server.signal("-CONT"),
                    "cut" => {}
                    _ => server.restart(),
                }
                drop(glance);
                let run = ours.wait().ok();
                println!("{kind:?} {way}: {:.1} s; {}", run.took.as_secs_f64(), run.stderr);
                let rows = p.db.rows(&format!("SELECT size, hits FROM cached_images WHERE image_id = '{}'", id(letter)));
                assert_eq!(rows, [["600000", "0"]], "{kind:?} {way}");
                assert_eq!((p.env.images(), p.env.names("incomplete").len()), (letter.to_string(), 0), "{kind:?} {way}");
            }
        }
    }

    a_row_that_a_server_refuses_is_told {
        for kind in SERVERS {
            for (change, word) in [
                ("ALTER TABLE cached_images ADD CONSTRAINT small CHECK (size < 1000)", "small"),
                ("DELETE FROM node_reference", "foreign key"),
                (
                    "CREATE UNIQUE INDEX sizes ON cached_images (size); \
                     INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
                     SELECT 'b', '2024-01-01 00:00:00', '2024-01-01 00:00:00', 600000, 0, node_reference_id FROM node_reference",
                    "uplicate",
                ),
            ] {
                let p = Prefetch::on(Xattr, kind);
                p.image('a', 600_000);
                p.queue("a");
                let arguments = ["--rate-limit", "1MB", "--lock-timeout", "1s"];
                let mut command = on_central(&p, "http://n1.example:9292", &arguments);
                let ours = Running::start(&mut command, &p.env.outside(""));
                until("the claim", || p.env.path("incomplete").join(id('a')).exists());
                p.db.sql(change);
                let run = ours.wait().fails(1, &["cannot be published", "cannot insert a row", word]);
                println!("{kind:?}: {}", run.stderr);
                assert_eq!((p.env.images().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
            }
        }
    }

    what_glance_adds_meanwhile_counts_towards_the_limit {
        for driver in [Sqlite, Xattr] {
            for (limit, code, left) in [("--within-limit", 1, "ac"), ("--make-room", 0, "ab")] {
                let p = Prefetch::new(driver);
                p.image('a', 600_000);
                p.image('b', 300_000);
                p.queue("ab");
                let ours = p.start(&[limit, "--max-size", "1000000", "-j", "1", "--rate-limit", "1MB"]);
                until("the claim", || p.env.path("incomplete").join(id('a')).exists());
                p.env.image(('c', 200_000, 5, 0));
                let run = ours.wait().code(code);
                println!("{}", run.stderr);
                assert_eq!(p.env.left(), left, "{limit}");
                let size = if left == "ac" { 800_000 } else { 900_000 };
                assert_eq!((&run.json()["cache_size_after"], &run.json()["over_limit"]), (&json!(size), &json!(false)));
            }
        }
    }

    the_child_that_reads_rbd_takes_little_memory {
        let ceph = Ceph::shared();
        let p = Prefetch::new(Xattr);
        let size = 128 << 20;
        let bytes = content('a', size);
        p.record('a', &bytes, &[&ceph.import("large", &bytes)]);
        p.queue("a");
        let ours = Running::start(&mut on_ceph(&p, ceph, &["--rate-limit", "64MB"]), &p.env.outside(""));
        let mut most = 0;
        until("the end", || {
            most = children(ours.child.id()).into_iter().filter_map(peak).max().unwrap_or(0).max(most);
            !p.env.images().is_empty()
        });
        ours.wait().ok();
        println!("{most} KiB");
        assert!((10_000..80_000).contains(&most), "{most} KiB");
    }

    a_store_that_breaks_off_half_way_is_followed_by_the_next {
        let ceph = Ceph::shared();
        let size = 24 << 20;
        for store in ["rbd", "s3"] {
            let p = Prefetch::new(Sqlite);
            let cut = Cut::start(&ceph.s3(), 2, 5 << 20);
            for letter in "ab".chars() {
                let (bytes, name) = (content(letter, size), format!("{store}-breaks-{letter}"));
                let location = if store == "rbd" {
                    ceph.import(&name, &bytes)
                } else {
                    ceph.put("glance", &name, &bytes);
                    format!("s3://{}/glance/{name}", cut.address)
                };
                p.record(letter, &bytes, &[&location]);
            }
            fs::write(p.stored('b'), content('b', size)).unwrap();
            p.locate('b', &p.location('b'), "{}");
            p.queue("ab");
            let mut command = on_ceph(&p, ceph, &["--rate-limit", "16MB"]);
            if store == "s3" {
                command.env("OS_GLANCE_STORE__S3_STORE_HOST", format!("http://{}", cut.address));
            }
            let ours = Running::start(&mut command, &p.env.outside(""));
            if store == "rbd" {
                until("both children", || children(ours.child.id()).len() == 2);
                sleep(Duration::from_millis(700));
                for child in children(ours.child.id()) {
                    system(&["kill", "-KILL", &child.to_string()]);
                }
            }
            let word = if store == "rbd" { "ended by signal 9" } else { "given up after" };
            let run = ours.wait().fails(1, &[word, "the next location is tried", "stays in the queue"]);
            println!("{}", run.stderr);
            assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
            assert_eq!(Prefetch::told(&run, 'a')["outcome"], "failed", "{store}");
            assert_eq!(Prefetch::told(&run, 'b')["location"], p.location('b'), "{store}");
            p.holds(&[('b', size)]);
            assert_eq!((p.queued().as_str(), p.env.names("invalid").len()), ("a", 0), "{store}");
            p.env.finish(&mut on_ceph(&p, ceph, &[])).fails(1, &["in an earlier run", word]);
            p.env.finish(&mut on_ceph(&p, ceph, &["--retry"])).ok();
            p.holds(&[('a', size), ('b', size)]);
        }
    }

    an_interrupt_typed_at_the_terminal_is_not_shown_among_the_bars {
        let p = Prefetch::new(Xattr);
        p.image('a', 9_000_000);
        p.queue("a");
        let line = format!("{BINARY} prefetch --config-file {} --rate-limit 1MB", p.conf(""));
        let mut command = p.env.command("/usr/bin/script");
        command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped());
        let mut terminal = Running::start(&mut command, &p.env.outside(""));
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        sleep(Duration::from_secs(1));
        terminal.child.stdin.take().unwrap().write_all(b"\x03").unwrap();
        let run = terminal.wait().code(130);
        assert!(run.stdout.contains("total") && !run.stdout.contains("^C"), "{:?}", run.stdout);
        assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
    }

    an_image_that_is_wanted_does_not_go_for_another {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.env.image(('b', 600, 3, 1));
            p.env.image(('c', 300, 2, 1));
            p.image('a', 500);
            let run = p.run(&["--make-room", "--max-size", "1200", &id('b'), &id('a')]).ok();
            println!("{}", run.stdout);
            assert_eq!(p.env.left(), "ab");
        }
    }

    credentials_stay_out_of_the_childs_environment {
        let p = Prefetch::new(Sqlite);
        p.record('a', &content('a', 10), &["rbd://image-a"]);
        p.queue("a");
        let rbd = p.env.outside("bin/rbd");
        fs::create_dir(p.env.outside("bin")).unwrap();
        fs::write(&rbd, format!("#!/bin/sh\nenv > {}\ncat /proc/$PPID/cmdline >> {0}; exit 1\n", p.env.outside("seen").display())).unwrap();
        chmod(&rbd, 0o755);
        let conf = p.env.conf("[glance_store]\nstores = rbd");
        let mut command = p.env.command(BINARY);
        command.args(["prefetch", "--config-file", &conf]);
        command.env("OS_DATABASE__CONNECTION", format!("{}?secret=s3cret", p.db.url)).env("OS_GLANCE_STORE__S3_STORE_SECRET_KEY", "s3cret");
        command.env("PATH", format!("{}:/usr/bin:/bin", p.env.outside("bin").display()));
        let run = p.env.finish(&mut command);
        println!("{} {}", run.code, run.stderr);
        let seen = fs::read_to_string(p.env.outside("seen")).unwrap();
        assert!(!seen.contains("s3cret"), "{seen}");
    }

    without_a_size_nothing_fits_into_a_limit {
        let p = Prefetch::new(Xattr);
        p.image('a', 1000);
        p.update('a', "size = NULL");
        p.queue("a");
        for limit in ["--within-limit", "--make-room"] {
            p.run(&[limit, "--max-size", "500"]).fails(1, &["no size", "stays in the queue"]);
        }
        assert_eq!(p.env.images(), "");
        p.run(&["--max-size", "500"]).ok();
    }

    what_the_readme_grants_for_prefetch_is_enough {
        let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        for kind in SERVERS {
            let p = Prefetch::on(Xattr, kind);
            p.image('a', 1000);
            p.queue("a");
            let (name, is_maria) = (&p.db.name, kind == Kind::MariaDb);
            let user = if is_maria { format!("{name}@'127.0.0.1'") } else { name.clone() };
            let login = if is_maria { "IDENTIFIED BY" } else { "LOGIN PASSWORD" };
            p.db.sql(&format!("CREATE {} {user} {login} 'pr1vate'", if is_maria { "USER" } else { "ROLE" }));
            let grants = readme.lines().filter(|line| line.contains("only for prefetch") && line.contains(" glance.") == is_maria);
            for (n, grant) in grants.enumerate() {
                let grant = grant.trim().split(';').next().unwrap().replace("glance.", &format!("{name}."));
                let grant = grant.replace("'glance_cache'@'%'", &user).replace("glance_cache", &user);
                let conf = p.conf("");
                let text = fs::read_to_string(&conf).unwrap().replace("g:s3cret", &format!("{name}:pr1vate"));
                let conf = p.env.write("granted.conf", text);
                let run = p.env.raw(&["prefetch", "--config-file", &conf]);
                assert!(run.code > 0 && !run.stderr.contains("pr1vate"), "{n}: {}", run.stderr);
                p.db.sql(&grant);
            }
            p.env.raw(&["prefetch", "--config-file", p.env.outside("granted.conf").to_str().unwrap()]).ok();
            p.holds(&[('a', 1000)]);
        }
    }

    what_changes_in_glance_while_it_is_fetched_is_not_published {
        // What changes, what is told, the outcome, whether it is still in the queue.
        let cases: &[(&str, &str, &str, bool)] = &[
            ("UPDATE images SET deleted = 1, status = 'deleted'", "it is deleted by now", "gone", false),
            ("DELETE FROM image_locations; DELETE FROM images", "has no such image by now", "gone", false),
            ("UPDATE images SET status = 'deactivated'", "deactivated, not active by now", "not_ready", true),
            ("UPDATE images SET size = 7", "another size or hash by now", "not_ready", true),
            ("UPDATE images SET checksum = 'ffff'", "another size or hash by now", "not_ready", true),
            ("UPDATE images SET os_hash_value = 'ffff'", "another size or hash by now", "not_ready", true),
            ("UPDATE image_locations SET value = value || '/elsewhere'", "fetched", "fetched", false),
        ];
        for driver in [Sqlite, Xattr] {
            for (change, word, outcome, stays) in cases {
                let p = Prefetch::new(driver);
                p.image('a', 600_000);
                p.queue("a");
                let ours = p.start(&["-v", "--rate-limit", "1MB"]);
                until("the claim", || p.env.path("incomplete").join(id('a')).exists());
                p.db.sql(change);
                let run = ours.wait().code(i32::from(*outcome != "fetched")).says(&[word]);
                println!("{}", run.stderr);
                assert_eq!(Prefetch::told(&run, 'a')["outcome"], *outcome, "{change}");
                assert_eq!((p.env.left() == "a", p.queued() == "a"), (*outcome == "fetched", *stays), "{change}");
                assert_eq!((p.env.names("incomplete").len(), p.env.names("invalid").len()), (0, 0), "{change}");
            }
        }
    }

    a_database_that_is_gone_by_the_end_costs_no_download {
        let p = Prefetch::new(Xattr);
        p.image('a', 600_000);
        p.queue("a");
        let ours = p.start(&["--rate-limit", "1MB"]);
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        p.db.sql("ALTER TABLE images RENAME TO gone");
        ours.wait().ok().says(&["what its record said before the fetch has to do", "images"]);
        p.holds(&[('a', 600_000)]);
    }

    a_database_older_than_the_central_index_has_the_records {
        for kind in KINDS {
            for driver in [Sqlite, Xattr] {
                let p = Prefetch::on(driver, kind);
                p.image('a', 1000);
                p.db.sql("DROP TABLE cached_images");
                p.db.sql("DROP TABLE node_reference");
                p.queue("a");
                p.run(&["--dry-run"]).ok();
                p.run(&[]).ok();
                p.holds(&[('a', 1000)]);
            }
        }
    }

    without_a_database_or_its_tables_nothing_is_made {
        for kind in KINDS {
            let p = Prefetch::on(Sqlite, kind);
            p.image('a', 1000);
            p.image('b', 1000);
            p.queue("ab");
            fs::remove_file(p.env.path("cache.db")).unwrap();
            let before = p.env.snapshot();
            let conf = p.env.write("bare.conf", p.env.conf_text(""));
            for images in [&[][..], &[id('a')]] {
                let arguments = [&["prefetch".to_owned(), "--config-file".to_owned(), conf.clone()], images].concat();
                p.env.raw(&arguments).fails(2, &["[database] connection is not set"]);
            }
            assert_eq!(p.env.snapshot(), before);
            p.db.sql("ALTER TABLE images RENAME TO elsewhere");
            let run = p.run(&[]).fails(3, &["images", "glance-manage db_sync"]);
            assert!(!run.stderr.contains(&id('a')) && run.json()["error"].is_string(), "once for all: {}", run.stderr);
            let mut after = p.env.snapshot();
            after.retain(|path, _| !path.contains("glance-cache"));
            let keys = |map: &std::collections::BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&after), keys(&before), "{kind:?}");
            // What a dead run left goes all the same: nothing else is to be done.
            for letter in "ab".chars() {
                fs::remove_file(p.env.path("queue").join(id(letter))).unwrap();
            }
            fs::write(p.env.path("incomplete").join(id('c') + ".prefetch"), "half").unwrap();
            p.env.raw(&["prefetch", "--config-file", &conf]).ok();
            assert_eq!(p.env.names("incomplete"), [""; 0]);
        }
    }
}

mod as_root {
    use super::*;
    use crate::root::{Mounted, bindfs};

    #[test]
    #[ignore = "needs root and the real Glance: run tests/run"]
    fn the_reserve_holds_where_nobody_says_a_size() {
        for driver in [Sqlite, Xattr] {
            let Mounted { mount, env } = Mounted::ext4(driver, 24, "rw");
            let p = Prefetch::of(env, Kind::SqliteFile);
            let size = 11 << 20;
            p.record('a', &content('a', size), &[&sizeless(content('a', size))]);
            p.update('a', "size = NULL");
            p.queue("a");
            let run = p
                .run(&["--reserve", "14MiB"])
                .fails(1, &["nobody says how large it is", "stays in the queue"]);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("", "a", 0)
            );
            p.run(&["--reserve", "2MiB"]).ok();
            p.holds(&[('a', size)]);
            drop((p, mount));
        }
    }

    #[test]
    #[ignore = "needs root, FUSE and the real Glance: run tests/run"]
    fn a_file_system_without_nameless_files_does() {
        for driver in [Sqlite, Xattr] {
            let Mounted { mount, env } = bindfs(driver);
            let p = Prefetch::of(env, Kind::SqliteFile);
            for letter in "abc".chars() {
                p.image(letter, 900_000);
            }
            p.update('c', "os_hash_value = 'ffff'");
            p.queue("abc");
            let staged = p.env.path("incomplete").join(id('a') + ".prefetch");
            for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
                let look = || fs::metadata(&staged).ok().filter(|found| found.len() > 0)?.modified().ok();
                let left = look();
                let ours = p.start(&["--rate-limit", "1MB"]);
                until("the staged file", || look().is_some_and(|now| Some(now) != left));
                ours.signal(signal);
                let _ = ours.wait();
                assert_eq!(staged.exists(), signal == Signal::KILL);
                assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "abc"));
            }
            // What is left is no image's: clean takes it once it has stalled.
            p.env.clean(&["--stall-time", "0"]).ok();
            assert_eq!(p.env.names("incomplete"), [""; 0]);
            p.run(&[]).fails(1, &["instead of ffff"]);
            assert_eq!((p.queued(), p.env.names("invalid")), ("c".to_owned(), vec![id('c')]));
            p.holds(&[('a', 900_000), ('b', 900_000)]);
            p.glance_serves(&[('a', 900_000), ('b', 900_000)]);
            drop((p, mount));
        }
    }

    #[test]
    #[ignore = "needs root and the real Glance: run tests/run"]
    fn a_file_system_that_counts_no_blocks_is_not_full() {
        let Mounted { mount, env } = Mounted::of("ramfs", Sqlite);
        let p = Prefetch::of(env, Kind::SqliteFile);
        p.image('a', 3_000_000);
        p.queue("a");
        p.run(&[]).ok();
        p.holds(&[('a', 3_000_000)]);
        let run = p.env.prune(&["--min-free", "0"]).ok();
        println!("{}", run.stdout);
        assert_eq!(p.env.left(), "a");
        drop((p, mount));
    }
}

/// The location of an image on a server that says of no answer how long it is, for two requests.
fn sizeless(content: Vec<u8>) -> String {
    answering("HTTP/1.0 200 OK\r\n\r\n", content)
}

/// The location of an image on a server that gives this answer to two requests.
fn answering(head: &'static str, content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("http://{}/image", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(head.as_bytes()).unwrap();
            // Who has no room for more hangs up.
            let _ = stream.write_all(&content);
        }
    });
    location
}

/// The command with this node's part of the central index; the database gets to know the node.
fn on_central(p: &Prefetch, node: &str, arguments: &[&str]) -> Command {
    p.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
    let central = format!("image_cache_driver = centralized_db\nworker_self_reference_url = {node}");
    let text = fs::read_to_string(p.conf("")).unwrap().replace("image_cache_driver = xattr", &central);
    let conf = p.env.write("central.conf", text);
    let mut command = p.env.command(BINARY);
    command.args(["prefetch", "--config-file", &conf]).args(arguments);
    command
}

/// A prefetch that knows the Ceph of the tests, not run yet.
fn on_ceph(p: &Prefetch, ceph: &Ceph, arguments: &[&str]) -> Command {
    let text = p.env.conf_text(&format!(
        "[glance_store]\nstores = rbd,s3,file\nfilesystem_store_datadir = {}\nrbd_store_ceph_conf = {}\nrbd_store_user = glance\n\
         rbd_store_pool = images\ns3_store_host = http://{}\ns3_store_access_key = {ACCESS_KEY}\ns3_store_secret_key = {SECRET_KEY}\n\
         s3_store_bucket = glance\n[database]\nconnection = {}",
        p.env.outside("store").display(),
        ceph.conf().display(),
        ceph.s3(),
        p.db.url
    ));
    let mut command = p.env.command(BINARY);
    command.env("PATH", "/usr/bin:/bin");
    command.args(["prefetch", "--config-file", &p.env.write("ceph.conf", text)]).args(arguments);
    command
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    children
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// The most memory that a process ever had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A way to a server that some connections break off on, and after them nobody gets there any more.
struct Cut {
    address: String,
}

impl Cut {
    fn start(server: &str, connections: usize, after: usize) -> Self {
        let (listener, server) = (TcpListener::bind("127.0.0.1:0").unwrap(), server.to_owned());
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for client in listener.incoming().take(connections) {
                let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut asks, &mut asked));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut (&mut server).take(after as u64), &mut client);
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Cut { address }
    }
}
