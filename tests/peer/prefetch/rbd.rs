//! Images from a real Ceph, by rbd.

use std::fs;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::*;
use crate::support::running::signal;
use crate::support::stores::Ceph;

const SIZE: usize = 9_000_000;

/// Prefetches an image of Ceph's, with these lines in `[glance_store]`.
fn fetch(settings: &str, location: &str) -> (Prefetch, Run) {
    let p = Prefetch::new(Xattr);
    p.record('a', &content('a', SIZE), &[location]);
    p.queue("a");
    let conf = p.conf(&format!("[glance_store]\nstores = file,rbd\n{settings}"));
    let mut command = p.env.command(BINARY);
    command.env("PATH", "/usr/bin:/bin").args(["prefetch", "--config-file", &conf]);
    let run = p.env.finish(&mut command);
    (p, run)
}

#[track_caller]
fn is_given(settings: &str, location: &str) {
    let (p, run) = fetch(settings, location);
    run.ok();
    p.holds(&[('a', SIZE)]);
}

#[track_caller]
fn is_refused(settings: &str, location: &str, why: &str) {
    let (p, run) = fetch(settings, location);
    let report = run.fails(1, &[why]).json();
    assert!(said(&report, 'a').contains(why), "{report}");
    p.holds(&[]);
}

/// Returns the settings of the tests' Ceph, with more of them.
fn of(ceph: &Ceph, more: &str) -> String {
    format!("rbd_store_ceph_conf = {}\n{more}", ceph.conf().display())
}

/// Returns the settings of the user `glance`.
fn glances(ceph: &Ceph) -> String {
    of(ceph, "rbd_store_user = glance\n")
}

#[test]
fn the_snapshot_of_an_image() {
    let ceph = Ceph::shared();
    let location = ceph.import("plain", &content('a', SIZE));
    is_given(&glances(ceph), &location);
}

#[test]
fn a_limit_for_connecting() {
    let ceph = Ceph::shared();
    let location = ceph.import("limited", &content('a', SIZE));
    is_given(&of(ceph, "rbd_store_user = glance\nrados_connect_timeout = 5\n"), &location);
}

#[test]
fn the_user_that_ceph_takes_by_itself() {
    let ceph = Ceph::shared();
    let location = ceph.import("by-default", &content('a', SIZE));
    is_given(&of(ceph, ""), &location);
}

#[test]
fn a_location_that_is_a_name_in_the_pool() {
    let ceph = Ceph::shared();
    ceph.import("short", &content('a', SIZE));
    is_given(&of(ceph, "rbd_store_user = glance\nrbd_store_pool = images\n"), "rbd://short");
}

#[test]
fn an_image_that_is_not_there() {
    let ceph = Ceph::shared();
    let why = "rbd export ended with 2: rbd: error opening image none: (2) No such file or directory";
    is_refused(&glances(ceph), &format!("rbd://{}/images/none/snap", ceph.fsid()), why);
}

#[test]
fn a_snapshot_that_is_not_there() {
    let ceph = Ceph::shared();
    let location = ceph.import("without", &content('a', SIZE));
    is_refused(&glances(ceph), &location.replace("/snap", "/none"), "rbd export ended with 2");
}

#[test]
fn a_pool_that_is_not_there() {
    let ceph = Ceph::shared();
    let why = "rbd export ended with 2: rbd: error opening pool 'nopool'";
    is_refused(&glances(ceph), &format!("rbd://{}/nopool/one/snap", ceph.fsid()), why);
}

#[test]
fn a_name_that_looks_like_an_option() {
    let ceph = Ceph::shared();
    let why = "rbd export ended with 2: rbd: error opening image --help";
    is_refused(&glances(ceph), &format!("rbd://{}/images/--help/snap", ceph.fsid()), why);
}

#[test]
fn a_user_that_is_unknown() {
    let ceph = Ceph::shared();
    let location = ceph.import("unknown-user", &content('a', SIZE));
    is_refused(&of(ceph, "rbd_store_user = nobody\n"), &location, "rbd export ended with");
}

#[test]
fn a_cluster_that_does_not_answer() {
    let ceph = Ceph::shared();
    // Nothing is there to answer, and nothing to refuse.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let conf = tempfile::NamedTempFile::new().unwrap();
    let monitor = hole.local_addr().unwrap();
    let text = format!("[global]\nmon host = v2:{monitor}\nauth client required = none\n");
    fs::write(conf.path(), text).unwrap();
    let location = ceph.import("unreachable", &content('a', SIZE));
    let settings = format!("rbd_store_ceph_conf = {}\n", conf.path().display());
    is_refused(
        &settings,
        &location,
        "rbd export is silent, nothing came for 60 s (is the cluster reachable?)",
    );
}

/// Returns how many processes export this image.
fn exports(image: &str) -> usize {
    let command = |pid: fs::DirEntry| fs::read_to_string(pid.path().join("cmdline")).unwrap_or_default();
    let commands = fs::read_dir("/proc").unwrap().map(|pid| command(pid.unwrap()));
    let option = format!("--image={image}\0");
    commands.filter(|command| command.starts_with("rbd\0export") && command.contains(&option)).count()
}

#[test]
fn a_signal_ends_the_child_as_well() {
    let (p, ceph) = (Prefetch::new(Xattr), Ceph::shared());
    let bytes = content('a', 64_000_000);
    p.record('a', &bytes, &[&ceph.import("interrupted", &bytes)]);
    p.queue("a");
    let ours = Running::start(&mut on_ceph(&p, ceph, &["--rate-limit", "4MB"]), &p.env.outside(""));
    until("the child", || exports("interrupted") == 1);
    let start = Instant::now();
    ours.signal(Signal::INT);
    ours.wait().code(130);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(exports("interrupted"), 0);
    p.holds(&[]);
}

#[test]
fn the_child_takes_little_memory() {
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

#[test]
fn a_child_that_is_killed_is_followed_by_the_next_location() {
    let ceph = Ceph::shared();
    let (p, size) = (Prefetch::new(Sqlite), 24 << 20);
    for letter in ['a', 'b'] {
        let bytes = content(letter, size);
        p.record(letter, &bytes, &[&ceph.import(&format!("breaks-{letter}"), &bytes)]);
    }
    fs::write(p.stored('b'), content('b', size)).unwrap();
    p.locate('b', &p.location('b'), "{}");
    p.queue("ab");
    let ours = Running::start(&mut on_ceph(&p, ceph, &["--rate-limit", "16MB"]), &p.env.outside(""));
    until("both children", || children(ours.child.id()).len() == 2);
    sleep(Duration::from_millis(700));
    for child in children(ours.child.id()) {
        signal(Signal::KILL, &child.to_string());
    }
    p.goes_on_after_a_broken_store(&ours.wait(), "ended by signal 9", size, || on_ceph(&p, ceph, &[]));
}
