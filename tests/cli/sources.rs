//! `prefetch` from real stores: nginx, radosgw's S3 and Ceph's rbd, each a store of one Glance's configuration.

use serde_json::{Value, json};

use crate::env::*;
use crate::peer::Peer;
use crate::prefetch::{Prefetch, content};
use crate::stores::{ACCESS_KEY, Ceph, Nginx, SECRET_KEY};

const SIZE: usize = 3_000_001;

/// A cache, Glance's database, and a store of each type.
struct Stores {
    prefetch: Prefetch,
    nginx: Nginx,
    ceph: &'static Ceph,
}

impl Stores {
    fn new(driver: Driver) -> Self {
        Stores { prefetch: Prefetch::new(driver), nginx: Nginx::start(), ceph: Ceph::shared() }
    }

    /// All of the stores, with more in their sections.
    fn conf(&self, more: &str) -> String {
        let (env, db) = (&self.prefetch.env, &self.prefetch.db);
        let base = env.conf_text("enabled_backends = disk:file, web:http, ceph:rbd, objects:s3, old:swift");
        let text = format!(
            "{base}\n[database]\nconnection = {}\n\
             [disk]\nfilesystem_store_datadir = {}\n\
             [web]\nhttps_ca_certificates_file = {}\n\
             [ceph]\nrbd_store_ceph_conf = {}\nrbd_store_user = glance\n\
             [objects]\ns3_store_host = http://{}\ns3_store_bucket = glance\ns3_store_access_key = {ACCESS_KEY}\n\
             s3_store_secret_key = {SECRET_KEY}\n{more}\n",
            db.url,
            env.outside("store").display(),
            self.nginx.ca().display(),
            self.ceph.conf().display(),
            self.ceph.s3(),
        );
        env.write("stores.conf", text)
    }

    fn run(&self, more: &str, arguments: &[&str]) -> Run {
        let conf = self.conf(more);
        self.prefetch.env.raw(&[&["prefetch", "--config-file", &conf], arguments].concat())
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let (env, conf) = (&self.prefetch.env, self.conf(""));
        Running::start(
            env.command(BINARY).args(["prefetch", "--config-file", &conf]).args(arguments),
            &env.outside(""),
        )
    }

    /// The record of an image, at locations of these stores.
    fn record(&self, letter: char, size: usize, locations: &[(&str, &str)]) {
        self.prefetch.record(letter, &content(letter, size), &[]);
        for (location, store) in locations {
            self.prefetch.locate(letter, location, &json!({ "store": store }).to_string());
        }
    }
}

/// What a report says of an image, all of it as one text.
fn said(report: &Value, letter: char) -> String {
    let images = report["images"].as_array().unwrap();
    images.iter().find(|image| image["image_id"] == id(letter)).unwrap_or(&Value::Null).to_string()
}

macro_rules! tests {
    ($($name:ident $body:block)*) => {
        $(#[test]
        #[ignore = "needs the real Glance, nginx and Ceph: run tests/run"]
        fn $name() $body)*
    };
}

tests! {
    every_store_fills_the_cache_and_glance_serves_it {
        let s = Stores::new(Sqlite);
        let (p, object) = (&s.prefetch, format!("{}/glance", s.ceph.s3()));
        for letter in ['a', 'b'] {
            s.ceph.put("glance", &id(letter), &content(letter, SIZE));
        }
        let ceph = s.ceph.import("prefetched", &content('c', SIZE));
        for letter in ['d', 'e', 'f'] {
            s.nginx.put(&letter.to_string(), &content(letter, SIZE));
        }
        s.record('a', SIZE, &[(&format!("s3://{object}/{}", id('a')), "objects")]);
        s.record('b', SIZE, &[(&format!("s3+http://OLD:s3cret@{object}/{}", id('b')), "objects")]);
        s.record('c', SIZE, &[(&ceph, "ceph")]);
        s.record('d', SIZE, &[(&s.nginx.https_url("/d"), "web")]);
        s.record('e', SIZE, &[(&s.nginx.url("/auth/e").replace("://", "://u:p%40w@"), "web")]);
        s.record('f', SIZE, &[(&s.nginx.url("/redir/?to=/f"), "web")]);
        p.queue("abcdef");
        let run = s.run("", &["-v"]).ok();
        assert_eq!(run.json()["total_files_prefetched"], 6, "{}", run.stderr);
        p.holds(&['a', 'b', 'c', 'd', 'e', 'f'].map(|letter| (letter, SIZE)));
        assert_eq!(p.queued(), "");
        for secret in ["s3cret", "p%40w", "p@w", "Signature", SECRET_KEY] {
            assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret}: {}{}", run.stdout, run.stderr);
        }
        let mut glance = Peer::start();
        let cache = json!({ "dir": p.env.dir(), "driver": "sqlite" });
        for letter in ['a', 'b', 'c', 'd', 'e', 'f'] {
            let mut read = cache.clone();
            (read["action"], read["image_id"]) = (json!("read"), json!(id(letter)));
            assert_eq!(glance.call("one", read), SIZE, "{letter}");
        }
        for image in glance.call("listing", cache)["cached_images"].as_array().unwrap() {
            assert_eq!((&image["hits"], &image["size"]), (&json!(1), &json!(SIZE)), "{image}");
        }
    }

    the_next_location_is_tried_by_weight {
        let s = Stores::new(Xattr);
        let bare = format!("s3://{}/glance/nothing", s.ceph.s3());
        s.nginx.put("a", &content('a', SIZE));
        s.record('a', SIZE, &[
            (&s.nginx.url("/a"), "web"),
            (&bare, "objects"),
            (&format!("rbd://{}/images/none/snap", s.ceph.fsid()), "ceph"),
            ("swift+https://t:u:s3cret@h/v1/c/o", "old"),
            ("file:///etc/shadow", "disk"),
        ]);
        let run = s.run("weight = 3\n[ceph]\nweight = 2\n[old]\nweight = 9\n[disk]\nweight = 5\n", &[&id('a'), "-v"]);
        assert_eq!(s.prefetch.env.left(), "a", "{}{}", run.stdout, run.stderr);
        let order = ["swift+https://h/v1/c/o", "file:///etc/shadow", &bare, "images/none/snap"];
        let places: Vec<_> = order.iter().map(|text| run.stderr.find(text)).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?} {}", run.stderr);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
        s.prefetch.holds(&[('a', SIZE)]);
    }

    a_server_that_dies_half_way_is_waited_for {
        let s = Stores::new(Sqlite);
        s.nginx.put("a", &content('a', 6_000_000));
        s.record('a', 6_000_000, &[(&s.nginx.url("/slow/a"), "web")]);
        let running = s.start(&[&id('a')]);
        until("the request", || s.nginx.is_connected());
        std::thread::sleep(std::time::Duration::from_millis(500));
        s.nginx.kill();
        s.nginx.start_again();
        let _ = running.wait().ok();
        s.prefetch.holds(&[('a', 6_000_000)]);
        assert!(s.nginx.requests().iter().any(|line| line.contains("/slow/a 206")), "{:?}", s.nginx.requests());
    }

    a_signal_leaves_nothing_staged_while_a_store_sends {
        let s = Stores::new(Sqlite);
        s.nginx.put("a", &content('a', 20_000_000));
        s.record('a', 20_000_000, &[(&s.nginx.url("/slow/a"), "web")]);
        s.prefetch.queue("a");
        let running = s.start(&[]);
        until("the request", || s.nginx.is_connected());
        running.signal(rustix::process::Signal::TERM);
        let _ = running.wait().code(143);
        s.prefetch.holds(&[]);
        assert_eq!(s.prefetch.queued(), "a");
    }

    what_fails_is_said_and_stays_queued {
        let s = Stores::new(Sqlite);
        s.nginx.put("b", &content('b', 100));
        s.record('a', SIZE, &[(&s.nginx.url("/none").replace("://", "://u:s3cret@"), "web")]);
        s.record('b', SIZE, &[(&s.nginx.url("/b"), "web")]);
        s.record('c', SIZE, &[(&s.nginx.https_url("/b").replace("localhost", "127.0.0.2"), "web")]);
        s.record('d', SIZE, &[("s3://127.0.0.1:1/glance/x", "objects"), (&format!("rbd://{}/nopool/x/snap", s.ceph.fsid()), "ceph")]);
        s.prefetch.queue("abcd");
        let run = s.run("", &[]).code(1);
        let report = run.json();
        for (letter, expected) in [
            ('a', "answers 404 (it is not there)"),
            ('b', "100"),
            ('c', "cannot connect to 127.0.0.2"),
            ('d', "rbd: error opening pool 'nopool'"),
        ] {
            assert!(said(&report, letter).contains(expected), "{letter}: {report}");
        }
        assert!(!run.stdout.contains("s3cret") && !run.stderr.contains("s3cret"), "{}{}", run.stdout, run.stderr);
        s.prefetch.holds(&[]);
        assert_eq!(s.prefetch.queued(), "abcd");
    }
}
