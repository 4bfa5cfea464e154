//! All types of stores in one configuration: nginx, radosgw's S3, Ceph's rbd and a directory; with Glance
//! reading the result.

use std::fs;

use serde_json::json;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::peer::Peer;
use crate::support::prefetch::*;
use crate::support::stores::{ACCESS_KEY, Ceph, Nginx, SECRET_KEY};

const SIZE: usize = 3_000_001;

#[test]
fn every_store_fills_the_cache_and_glance_serves_it() {
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
        assert!(
            !run.stdout.contains(secret) && !run.stderr.contains(secret),
            "{secret}: {}{}",
            run.stdout,
            run.stderr
        );
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

#[test]
fn the_next_location_is_tried_by_weight() {
    let s = Stores::new(Xattr);
    let bare = format!("s3://{}/glance/nothing", s.ceph.s3());
    s.nginx.put("a", &content('a', SIZE));
    s.record(
        'a',
        SIZE,
        &[
            (&s.nginx.url("/a"), "web"),
            (&bare, "objects"),
            (&format!("rbd://{}/images/none/snap", s.ceph.fsid()), "ceph"),
            ("swift+https://t:u:s3cret@h/v1/c/o", "old"),
            ("file:///etc/shadow", "disk"),
        ],
    );
    let run =
        s.run("weight = 3\n[ceph]\nweight = 2\n[old]\nweight = 9\n[disk]\nweight = 5\n", &[&id('a'), "-v"]);
    assert_eq!(s.prefetch.env.left(), "a", "{}{}", run.stdout, run.stderr);
    let order = ["swift+https://h/v1/c/o", "file:///etc/shadow", &bare, "images/none/snap"];
    let places: Vec<_> = order.iter().map(|text| run.stderr.find(text)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?} {}", run.stderr);
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    s.prefetch.holds(&[('a', SIZE)]);
}

#[test]
fn what_fails_is_said_and_stays_queued() {
    let s = Stores::new(Sqlite);
    s.nginx.put("b", &content('b', 100));
    s.record('a', SIZE, &[(&s.nginx.url("/none").replace("://", "://u:s3cret@"), "web")]);
    s.record('b', SIZE, &[(&s.nginx.url("/b"), "web")]);
    s.record('c', SIZE, &[(&s.nginx.https_url("/b").replace("localhost", "127.0.0.2"), "web")]);
    s.record(
        'd',
        SIZE,
        &[
            ("s3://127.0.0.1:1/glance/x", "objects"),
            (&format!("rbd://{}/nopool/x/snap", s.ceph.fsid()), "ceph"),
        ],
    );
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

#[test]
fn every_store_gives_its_images() {
    let (nginx, ceph) = (Nginx::start(), Ceph::shared());
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        let size = 3_000_001;
        let images: Vec<_> = "abcdef".chars().map(|letter| (letter, size)).collect();
        let name = |letter: char| format!("{}-{}", id(letter), driver.name());
        nginx.put(&name('b'), &content('b', size));
        nginx.put(&name('c'), &content('c', size));
        ceph.put("glance", &name('d'), &content('d', size));
        ceph.put("glance", &name('e'), &content('e', size));
        p.image('a', size);
        for (letter, location) in [
            ('b', nginx.url(&format!("/redir/?to=/{}", name('b')))),
            ('c', nginx.https_url(&format!("/{}", name('c')))),
            ('d', format!("s3://{ACCESS_KEY}:{SECRET_KEY}@{}/glance/{}", ceph.s3(), name('d'))),
            ('e', format!("s3+http://{}/glance/{}", ceph.s3(), name('e'))),
            ('f', ceph.import(&name('f'), &content('f', size))),
        ] {
            p.record(letter, &content(letter, size), &[&location]);
        }
        p.queue("fedcba");
        let conf = p.conf("").replace("glance-api.conf", "stores.conf");
        let text = p.env.conf_text(&format!(
            "[glance_store]\nstores = file,http,s3,rbd\nfilesystem_store_datadir = \
             {}\nhttps_ca_certificates_file = {}\n\
             s3_store_host = http://{}\ns3_store_access_key = {ACCESS_KEY}\ns3_store_secret_key = \
             {SECRET_KEY}\n\
             s3_store_bucket = glance\nrbd_store_ceph_conf = {}\nrbd_store_user = glance\nrbd_store_pool = \
             images\n\
             [database]\nconnection = {}",
            p.env.outside("store").display(),
            nginx.ca().display(),
            ceph.s3(),
            ceph.conf().display(),
            p.db.url
        ));
        fs::write(&conf, text).unwrap();
        let mut command = p.env.command(BINARY);
        command.env("PATH", "/usr/bin:/bin").args(["prefetch", "--config-file", &conf, "-v", "-j", "3"]);
        let run = p.env.finish(&mut command).ok();
        println!("{}", run.stderr);
        assert!(
            !run.stderr.contains("s3cret") && !run.stdout.contains("s3cret"),
            "{}{}",
            run.stderr,
            run.stdout
        );
        p.holds(&images);
        p.glance_serves(&images);
    }
}
