//! Doubles of nodes and of Keystone: small servers of the tests' own that answer as they are told.
//!
//! They show which requests were sent and what the program makes of answers that no real server gives. That
//! real ones answer in this way is for `tests/peer`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::env::TestEnv;
use crate::support::servers::SqliteFile;

/// A server on a port of its own, as long as the process lives. Each connection is for one request.
pub(crate) struct Double {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Double {
    /// Starts one that answers with this function. It gets the request: head and body as they came.
    pub(crate) fn new(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || {
                    let request = read(&stream);
                    seen.lock().unwrap().push(request.clone());
                    answer(&request, &mut stream);
                });
            }
        });
        Double { port, requests }
    }

    /// Starts one that always gives this answer, as bytes on the wire.
    pub(crate) fn says(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::new(move |_, stream| send(stream, &answer))
    }

    /// Starts a node whose prunes remove this much.
    pub(crate) fn prunes(files: u64, bytes: u64) -> Self {
        Self::says(ok(&json!({"total_files_pruned": files, "total_bytes_pruned": bytes}).to_string()))
    }

    /// Starts one that takes a request and never answers.
    pub(crate) fn is_silent() -> Self {
        Self::new(|_, _| thread::sleep(Duration::from_secs(120)))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the first lines of all requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.lines().next().unwrap_or_default().to_owned()).collect()
    }
}

/// Starts a Keystone that gives the tokens `token-1`, `token-2` and so on, with the image service at this URL.
pub(crate) fn keystone(image: &str) -> Double {
    let count = Mutex::new(0);
    let image = image.to_owned();
    Double::new(move |_, stream| {
        let number = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count
        };
        let endpoints: Vec<_> = ["public", "internal", "admin"]
            .iter()
            .map(|interface| json!({"interface": interface, "region_id": "R", "url": image}))
            .collect();
        let body = json!({"token": {
            "issued_at": "2026-11-29T00:00:00.000000Z", "expires_at": "2026-11-29T01:00:00.000000Z",
            "catalog": [{"type": "image", "endpoints": endpoints}],
        }});
        send(
            stream,
            &answer("201 Created", &format!("X-Subject-Token: token-{number}\r\n"), &body.to_string()),
        );
    })
}

/// Returns an answer as it is on the wire; `headers` are lines that end with a line break.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn ok(body: &str) -> String {
    answer("200 OK", "Content-Type: application/json\r\n", body)
}

/// Sends an answer. A client that has left does not miss it.
pub(crate) fn send(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

fn read(stream: &TcpStream) -> String {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    for line in input.by_ref().lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        request += &(line + "\n");
    }
    let length = request.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    let _ = input.take(length.unwrap_or(0)).read_to_string(&mut request);
    request
}

/// Makes a central database that knows these nodes, and returns the option that names it.
pub(crate) fn database(env: &TestEnv, nodes: &[&str]) -> String {
    let path = env.outside("central.sqlite");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(SqliteFile.schema()).unwrap();
    for node in nodes {
        db.execute("INSERT INTO node_reference (node_reference_url) VALUES (?1)", [node]).unwrap();
    }
    format!("--database=sqlite:///{}", path.display())
}
