//! A web server that breaks off in the middle of an image: the next run fetches the image again. Only data
//! that was wrong keeps it waiting.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::Prefetch;

const SIZE: usize = 100_000;

/// The way in which the server fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    /// The connection is reset.
    Reset,
    /// It is closed before the announced length.
    BelowLength,
    /// It is closed in the middle of a chunk.
    InAChunk,
    /// It is closed between two chunks, without the last one.
    BetweenChunks,
    /// It is closed, and nobody had said how long the image is.
    WithoutLength,
    /// The image ends too early, and the server says that this is its end.
    WrongEnd,
    /// It sends more than the image has.
    TooMuch,
}

/// A web server that has one image, as long as the process lives.
struct WebServer {
    location: String,
    /// True as long as it fails.
    is_down: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl WebServer {
    fn new(image: Vec<u8>, how: Break) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let location = format!("http://{}/image", listener.local_addr().unwrap());
        let is_down = Arc::new(AtomicBool::new(true));
        let requests = Arc::new(AtomicUsize::new(0));
        let (down, count) = (Arc::clone(&is_down), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let how = down.load(Ordering::Relaxed).then_some(how);
                serve(stream.unwrap(), &image, how);
            }
        });
        WebServer { location, is_down, requests }
    }
}

fn serve(mut stream: TcpStream, image: &[u8], how: Option<Break>) {
    let half = &image[..SIZE / 2];
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let (header, body) = match how {
        None => (format!("Content-Length: {SIZE}\r\n"), image.to_vec()),
        Some(Break::Reset | Break::BelowLength) => (format!("Content-Length: {SIZE}\r\n"), half.to_vec()),
        Some(Break::InAChunk) => {
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunk(image)[..SIZE / 2].to_vec())
        }
        Some(Break::BetweenChunks) => ("Transfer-Encoding: chunked\r\n".to_owned(), chunk(half)),
        Some(Break::WrongEnd) => {
            ("Transfer-Encoding: chunked\r\n".to_owned(), [chunk(half), chunk(b"")].concat())
        }
        Some(Break::WithoutLength) => (String::new(), half.to_vec()),
        Some(Break::TooMuch) => (String::new(), [image, half].concat()),
    };
    if how == Some(Break::Reset) {
        // What was not read makes the kernel reset the connection when it is closed.
        let _ = stream.write_all(&[format!("HTTP/1.1 200 X\r\n{header}\r\n").as_bytes(), &body].concat());
        thread::sleep(Duration::from_millis(300));
        return;
    }
    for line in BufReader::new(&stream).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
    }
    let _ = stream.write_all(&[format!("HTTP/1.1 200 X\r\n{header}\r\n").as_bytes(), &body].concat());
}

/// Makes a cache with a queued image whose only location breaks in this way.
fn queued(how: Break) -> (Prefetch, WebServer) {
    let (p, server) = (Prefetch::new(Xattr), WebServer::new(content('a', SIZE), how));
    p.record('a', &content('a', SIZE), &[&server.location]);
    p.queue("a");
    (p, server)
}

fn run(p: &Prefetch) -> Run {
    let mut command = p.command(&[]);
    command.env("OS_GLANCE_STORE__STORES", "file,http");
    p.env.finish(&mut command)
}

#[test]
fn after_an_outage_in_mid_stream_the_next_run_fetches_the_image() {
    for (how, words) in [
        (Break::Reset, "after 50000 bytes"),
        (Break::BelowLength, "after 50000 of the 100000 bytes it had announced"),
        (Break::InAChunk, "before its end"),
        (Break::BetweenChunks, "before its end"),
        (Break::WithoutLength, "after 50000 of the image's 100000 bytes"),
    ] {
        let (p, server) = queued(how);
        let first = run(&p).fails(1, &[&id('a'), words, "stays in the queue"]);
        assert_eq!(Prefetch::told(&first, 'a')["outcome"], "failed", "{how:?}");
        assert_eq!(fs::read(p.env.path("queue").join(id('a'))).unwrap(), b"", "{how:?}");
        assert_eq!(p.env.names("invalid"), [""; 0], "{how:?}: half an image is no wrong image");
        server.is_down.store(false, Ordering::Relaxed);
        run(&p).ok();
        p.holds(&[('a', SIZE)]);
    }
}

/// Where nobody knows how long the image is, a break looks like its end.
#[test]
fn a_break_of_an_image_of_unknown_length_is_not_wrong_data() {
    let (p, server) = queued(Break::WithoutLength);
    p.update('a', "size = NULL");
    let words = "the connection ended after 50000 bytes, and neither the server nor Glance's record says how \
                 many the image has: sha512 mismatch";
    run(&p).fails(1, &[&id('a'), words, "stays in the queue"]);
    assert_eq!(fs::read(p.env.path("queue").join(id('a'))).unwrap(), b"");
    assert_eq!(p.env.names("invalid"), [""; 0]);
    server.is_down.store(false, Ordering::Relaxed);
    run(&p).ok();
    p.holds(&[('a', SIZE)]);
}

#[test]
fn data_that_is_wrong_is_not_downloaded_again() {
    for (how, words) in [
        (Break::WrongEnd, "size mismatch: got 50000 bytes, expected 100000"),
        (Break::TooMuch, "size mismatch: got more than the expected 100000 bytes"),
    ] {
        let (p, server) = queued(how);
        run(&p).fails(1, &[&id('a'), words]);
        let before = server.requests.load(Ordering::Relaxed);
        let second = run(&p).fails(1, &["in an earlier run", words, "--retry"]);
        assert_eq!(Prefetch::told(&second, 'a')["outcome"], "skipped", "{how:?}");
        assert_eq!(server.requests.load(Ordering::Relaxed), before, "{how:?}");
    }
}

#[test]
fn wrong_data_of_one_location_does_not_keep_the_other_from_being_asked_again() {
    let p = Prefetch::new(Xattr);
    let server = WebServer::new(content('a', SIZE), Break::BelowLength);
    p.image('b', SIZE);
    p.record('a', &content('a', SIZE), &[&p.location('b'), &server.location]);
    p.queue("a");
    run(&p).fails(1, &["sha512 mismatch", "trying the next location", "50000"]);
    server.is_down.store(false, Ordering::Relaxed);
    run(&p).ok();
    p.holds(&[('a', SIZE)]);
}
