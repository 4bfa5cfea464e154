//! Doubles of web servers for tests: a few lines on a socket of this process that break off, lie and keep
//! silent at will.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::wire::{Least, Waits};
use crate::interrupt::Interrupt;

/// A server of this process that answers the n-th request as told. It ends with the process.
pub(crate) struct Double {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Double {
    pub(crate) fn new(answer: impl Fn(usize, &str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let request = request(&stream);
                seen.lock().unwrap().push(request.clone());
                answer(n, &request, &mut stream);
            }
        });
        Double { port, heads }
    }

    /// Returns one that says the same each time and hangs up.
    pub(crate) fn says(text: &'static str) -> Self {
        Self::new(move |_, _, stream| stream.write_all(text.as_bytes()).unwrap_or_default())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the requests so far: the lines of the head, and the body.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Reads a request: its head, line by line, and as much of a body as it says.
fn request(stream: &TcpStream) -> String {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    for line in input.by_ref().lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        request += &(line + "\n");
    }
    let length = request.split_once("\nContent-Length: ").and_then(|(_, rest)| rest.lines().next());
    let length = length.map_or(0, |length| length.parse().unwrap());
    let _ = input.take(length).read_to_string(&mut request);
    request
}

/// Returns waits that suit a test.
pub(crate) fn impatient() -> Waits {
    Waits {
        connect: Duration::from_secs(1),
        silence: Duration::from_millis(500),
        pause: Duration::from_millis(1),
        least: Least { bytes: 0, within: Duration::from_secs(60) },
        interrupt: Interrupt::default(),
    }
}
