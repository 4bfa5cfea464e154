//! Images from a real web server, over http and https.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::*;
use crate::support::stores::Nginx;

const SIZE: usize = 5_000_000;

/// Prefetches an image of nginx's, with these lines in `[glance_store]`.
fn fetch(nginx: &Nginx, settings: &str, url: &str) -> (Prefetch, Run) {
    let (p, bytes) = (Prefetch::new(Xattr), content('a', SIZE));
    nginx.put("x", &bytes);
    p.record('a', &bytes, &[url]);
    p.queue("a");
    let conf = p.conf(&format!("[glance_store]\n{settings}\n"));
    let run = p.env.raw(&["prefetch", "--config-file", &conf]);
    assert!(!run.stdout.contains("s3cret") && !run.stderr.contains("s3cret"), "{run:?}");
    (p, run)
}

#[track_caller]
fn gives_its_image(nginx: &Nginx, settings: &str, url: &str) {
    let (p, run) = fetch(nginx, settings, url);
    run.ok();
    p.holds(&[('a', SIZE)]);
}

#[track_caller]
fn is_refused(nginx: &Nginx, settings: &str, url: &str, why: &str) {
    let (p, run) = fetch(nginx, settings, url);
    let report = run.fails(1, &[why]).json();
    assert!(said(&report, 'a').contains(why), "{report}");
    p.holds(&[]);
    assert_eq!(p.queued(), "a");
}

/// Returns the setting that trusts nginx's authority.
fn trusted(nginx: &Nginx) -> String {
    format!("https_ca_certificates_file = {}", nginx.ca().display())
}

fn port(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

#[test]
fn over_http() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "", &nginx.url("/x"));
}

#[test]
fn over_https_with_its_authority() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, &trusted(&nginx), &nginx.https_url("/x"));
}

#[test]
fn over_https_by_an_address_of_its_certificate() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, &trusted(&nginx), &nginx.https_url("/x").replace("localhost", "127.0.0.1"));
}

#[test]
fn an_address_that_nobody_listens_at() {
    let nginx = Nginx::start();
    let url = nginx.https_url("/x").replace("localhost", "127.0.0.2");
    is_refused(&nginx, &trusted(&nginx), &url, "cannot connect to 127.0.0.2");
}

#[test]
fn an_unknown_authority() {
    let nginx = Nginx::start();
    let why = "cannot establish TLS with localhost: its certificate is of an authority that is not trusted";
    is_refused(&nginx, "", &nginx.https_url("/x"), why);
}

#[test]
fn an_unknown_authority_that_the_configuration_accepts() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "https_insecure = True", &nginx.https_url("/x"));
}

#[test]
fn http_at_the_port_of_https() {
    let nginx = Nginx::start();
    let url = nginx.https_url("/x").replace("https", "http");
    is_refused(&nginx, "", &url, &format!("{url} answers 400"));
}

#[test]
fn a_password_in_the_location() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "", &nginx.url("/auth/x").replace("http://", "http://u:p%40w@"));
}

#[test]
fn a_wrong_password_in_the_location() {
    let nginx = Nginx::start();
    let why = format!("{} answers 401 (it requires credentials", nginx.url("/auth/x"));
    is_refused(&nginx, "", &nginx.url("/auth/x").replace("http://", "http://u:s3cret@"), &why);
}

#[test]
fn a_password_that_is_missing() {
    let nginx = Nginx::start();
    let url = nginx.url("/auth/x");
    is_refused(&nginx, "", &url, &format!("{url} answers 401 (it requires credentials"));
}

#[test]
fn a_redirect() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "", &nginx.url("/redir/?to=/x"));
}

#[test]
fn a_redirect_to_a_redirect() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "", &nginx.url("/redir/?to=/redir/?to=/x"));
}

#[test]
fn a_redirect_from_https_to_http() {
    let nginx = Nginx::start();
    let url = nginx.https_url(&format!("/redir/?to={}", nginx.url("/x")));
    is_refused(&nginx, &trusted(&nginx), &url, "it redirects from https to http://127.0.0.1:");
}

#[test]
fn an_image_that_is_not_there() {
    let nginx = Nginx::start();
    let url = nginx.url("/none");
    is_refused(&nginx, "", &url, &format!("{url} answers 404 (it is not there)"));
}

#[test]
fn a_server_that_is_busy() {
    let nginx = Nginx::start();
    let url = nginx.url("/503/");
    is_refused(&nginx, "", &url, &format!("{url} answers 503 (it is busy: try again later)"));
}

#[test]
fn a_server_without_ranges() {
    let nginx = Nginx::start();
    gives_its_image(&nginx, "", &nginx.url("/norange/x"));
}

#[test]
fn a_server_that_dies_half_way_is_waited_for() {
    let (nginx, p) = (Nginx::start(), Prefetch::new(Sqlite));
    nginx.put("a", &content('a', 6_000_000));
    p.record('a', &content('a', 6_000_000), &[&nginx.url("/slow/a")]);
    let running = p.start(&[&id('a')]);
    until("the request", || nginx.is_connected());
    sleep(Duration::from_millis(500));
    nginx.kill();
    nginx.start_again();
    running.wait().ok();
    p.holds(&[('a', 6_000_000)]);
    let resumed = |line: &String| line.contains("/slow/a 206") && line.contains("bytes=");
    assert!(nginx.requests().iter().any(resumed), "{:?}", nginx.requests());
}

#[test]
fn a_server_that_dies_half_way_leaves_nothing_and_is_asked_again() {
    let nginx = Nginx::start();
    let p = Prefetch::new(Sqlite);
    let size = 6 << 20;
    nginx.put("a", &content('a', size));
    p.record('a', &content('a', size), &[&nginx.url("/slow/a")]);
    p.queue("a");
    let ours = p.start(&[]);
    until("the first bytes", || !nginx.requests().is_empty() || p.env.names("incomplete") == [id('a')]);
    sleep(Duration::from_millis(700));
    nginx.kill();
    let run = ours.wait().fails(1, &[&id('a'), "stays in the queue"]);
    println!("{}", run.stderr);
    assert_eq!((p.env.left().as_str(), p.env.names("incomplete").len(), p.queued().as_str()), ("", 0, "a"));
    nginx.start_again();
    let address = format!("127.0.0.1:{}", port(&nginx.url("/")));
    until("nginx", || std::net::TcpStream::connect(&address).is_ok());
    p.run(&[]).ok();
    p.holds(&[('a', size)]);
}

#[test]
fn a_signal_leaves_nothing_staged_while_a_server_sends() {
    let (nginx, p) = (Nginx::start(), Prefetch::new(Sqlite));
    nginx.put("a", &content('a', 20_000_000));
    p.record('a', &content('a', 20_000_000), &[&nginx.url("/slow/a")]);
    p.queue("a");
    let running = p.start(&[]);
    until("the request", || nginx.is_connected());
    running.signal(Signal::TERM);
    let _ = running.wait().code(143);
    p.holds(&[]);
    assert_eq!(p.queued(), "a");
}
