//! A Swift and a Glance that lie and break off, behind a Keystone, all of them doubles on a socket of this
//! process: what is said, the exit code, and the queue. Real ones are in `tests/peer/prefetch`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::Prefetch;

const SIZE: usize = 100_000;
/// The part of an image that comes before a break.
const PART: usize = 30_000;

/// Serves the images of the tests: what their letters stand for. Returns host and port.
fn hostile_cloud() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let request = request(&stream);
                // Who has heard enough hangs up.
                let _ = stream.write_all(&answer(&request));
            });
        }
    });
    address
}

/// Reads the head of a request, and the body if there is one.
fn request(stream: &TcpStream) -> String {
    let mut head = String::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        head += &(line + "\n");
    }
    head
}

fn answer(request: &str) -> Vec<u8> {
    let line = request.lines().next().unwrap();
    if line.starts_with("POST /v3/auth/tokens ") {
        let body = r#"{"token": {"catalog": []}}"#;
        let length = body.len();
        return format!("HTTP/1.1 201 X\r\nX-Subject-Token: t0ken\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes();
    }
    let path = line.split(' ').nth(1).unwrap();
    let letter = path.trim_end_matches("/file").rsplit('/').next().unwrap().chars().next().unwrap();
    let from = request.split_once("bytes=").and_then(|(_, rest)| rest.split_once("-\n"));
    let from: Option<usize> = from.map(|(from, _)| from.parse().unwrap());
    let (image, wrong) = (content(letter, SIZE), vec![b'0'; SIZE]);
    let whole = format!("200 X\r\nContent-Length: {SIZE}\r\nETag: v1\r\nContent-MD5: v1");
    let rest = |tag: &str| {
        let from = from.unwrap_or_default();
        format!("206 X\r\nContent-Range: bytes {from}-99999/{SIZE}\r\nETag: {tag}\r\nContent-MD5: {tag}")
    };
    let page = "<html><h1>500 Internal Server Error</h1>The server has erred.</html>";
    let (head, body) = match (letter, from) {
        // What is right, and what is made right by the rest.
        ('a' | '9', None) => (whole, &image[..]),
        ('b', Some(from)) => (rest("v1"), &image[from..]),
        ('b'..='e', None) => (whole, &image[..PART]),
        // It has less than it says, it changes, and a segment of it is missing.
        ('c', Some(_)) => (format!("416 X\r\nContent-Range: bytes */{PART}\r\nETag: v1"), &b""[..]),
        ('d', Some(from)) => (rest("v2"), &image[from..]),
        ('e', Some(_)) => ("409 X\r\nContent-Length: 0".to_owned(), &b""[..]),
        // It breaks off, and offers no way to go on.
        ('4', _) => (format!("200 X\r\nContent-Length: {SIZE}"), &image[..PART]),
        ('f', _) => (format!("200 X\r\nContent-Length: {}", SIZE + 1), &image[..]),
        // Bytes of the right number, and not the image.
        ('0', _) => (whole, &wrong[..]),
        ('1', _) => ("429 X\r\nRetry-After: 7200\r\nContent-Length: 0".to_owned(), &b""[..]),
        ('2', _) => (format!("500 X\r\nContent-Length: {}", page.len()), page.as_bytes()),
        _ => (format!("200 X\r\nContent-Type: text/html\r\nContent-Length: {}", page.len()), page.as_bytes()),
    };
    [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
}

/// Each fault is one line with the image, its location without credentials and what was found; each image
/// stays in the queue, and those that are right are fetched.
fn each_fault_is_a_line_and_the_others_go_on(is_swift: bool, cases: &[(char, &str)]) {
    let (p, address) = (Prefetch::new(Xattr), hostile_cloud());
    let letters: String = cases.iter().map(|(letter, _)| *letter).chain("ab".chars()).collect();
    for letter in letters.chars() {
        let location = if is_swift {
            format!("swift+http://p%3Au:s3cret@{address}/v3/images/{letter}")
        } else {
            format!("cinder://store/{letter}")
        };
        p.record(letter, &content(letter, SIZE), &[&location]);
    }
    p.queue(&letters);
    let mut command = p.command(&[]);
    command.env("OS_GLANCE_STORE__STORES", "file,swift");
    command.env("OS_GLANCE_STORE__SWIFT_STORE_ENDPOINT", format!("http://{address}/v1/KEY_p"));
    if !is_swift {
        command.env("OS_AUTH_URL", format!("http://{address}/v3")).env("OS_USERNAME", "u");
        command.env("OS_PASSWORD", "s3cret").env("OS_PROJECT_NAME", "p");
        command.env("OS_IMAGE_ENDPOINT_OVERRIDE", format!("http://{address}"));
    }
    let run = p.env.finish(&mut command).code(1);
    for secret in ["s3cret", "t0ken"] {
        assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret}: {run:?}");
    }
    println!("{}", run.stderr);
    for (letter, why) in cases {
        let place = if is_swift {
            format!("swift+http://{address}/v3/images/{letter}")
        } else {
            format!("cinder://store/{letter} (through Glance's API)")
        };
        let line = run.stderr.lines().find(|line| line.contains(&id(*letter))).unwrap_or_default();
        for part in [place.as_str(), why, "stays in the queue"] {
            assert!(line.contains(part), "{letter}: {line}, not {part}");
        }
        let told = Prefetch::told(&run, *letter);
        assert_eq!((&told["outcome"], &told["queued"]), (&"failed".into(), &true.into()), "{told}");
        let entry = std::fs::read(p.env.path("queue").join(id(*letter))).unwrap();
        assert_eq!(!entry.is_empty(), "c0".contains(*letter), "{letter}: only wrong data is remembered");
    }
    p.holds(&[('a', SIZE), ('b', SIZE)]);
    let mut queued: Vec<char> = cases.iter().map(|(letter, _)| *letter).collect();
    queued.sort_unstable();
    assert_eq!(p.queued(), queued.into_iter().collect::<String>());
    // What was downloaded and is not the image is kept for inspection.
    assert_eq!(p.env.names("invalid"), [id('0')]);
}

#[test]
fn a_hostile_swift() {
    each_fault_is_a_line_and_the_others_go_on(
        true,
        &[
            ('c', "the server had announced 100000 bytes, but it has only 30000"),
            ('d', "the image changed while it was read"),
            ('e', "answers 409 (a segment of it is missing, or has changed)"),
            ('f', "size mismatch: got 100001 bytes, expected 100000"),
            ('0', "sha512 mismatch: got"),
            ('1', "answers 429 (it is busy, and wants to be asked again in 7200 s)"),
            ('2', "answers 500"),
            ('4', "the server ended the stream after 30000 of the 100000 bytes it had announced"),
        ],
    );
}

#[test]
fn a_hostile_glance() {
    each_fault_is_a_line_and_the_others_go_on(
        false,
        &[
            ('d', "the image changed while it was read"),
            ('f', "size mismatch: got 100001 bytes, expected 100000"),
            ('0', "sha512 mismatch: got"),
            ('1', "answers 429 (it is busy, and wants to be asked again in 7200 s)"),
            ('2', "answers 500 (500 Internal Server Error The server has erred.)"),
            ('4', "the server ended the stream after 30000 of the 100000 bytes it had announced"),
            ('3', "answers with a page (text/html) in place of the image: is Glance's API there?"),
        ],
    );
}
