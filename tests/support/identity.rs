//! A server that answers as Keystone does, with tokens that are words. The real one is for `tests/peer`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A server of this process. It ends with the process.
pub(crate) struct Identity {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The number of tokens that were validated.
    validated: usize,
    mode: Mode,
}

/// The behaviour of the server.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Well,
    /// The password of the service user is wrong.
    Refusing,
    /// Nothing comes.
    Silent,
}

impl Identity {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || answer(&stream, &shared, port));
            }
        });
        Identity { port, state }
    }

    pub(crate) fn behave(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// Returns how many tokens were validated so far.
    pub(crate) fn validated(&self) -> usize {
        self.state.lock().unwrap().validated
    }

    /// Returns the section of the configuration with which a service asks this server.
    pub(crate) fn settings(&self) -> String {
        format!(
            "[keystone_authtoken]\nauth_type = password\nauth_url = http://127.0.0.1:{}\nusername = glance\n\
             password = secret\nproject_name = service\nuser_domain_name = Default\n\
             project_domain_name = Default\nwww_authenticate_uri = http://keystone.example:5000\n",
            self.port
        )
    }
}

/// Reads a request, and answers it.
fn answer(mut stream: &TcpStream, state: &Mutex<State>, port: u16) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let lines = head.iter().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    std::io::Read::read_exact(&mut reader, &mut vec![0; length]).unwrap_or_default();
    let mode = state.lock().unwrap().mode;
    if mode == Mode::Silent {
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let (status, extra, body) = if head[0].starts_with("POST ") {
        let status = if mode == Mode::Refusing { "401 Unauthorized" } else { "201 Created" };
        (status, "X-Subject-Token: own\r\n", token("service", port))
    } else if head[0].contains("/auth/tokens") {
        state.lock().unwrap().validated += 1;
        match header("x-subject-token").as_deref() {
            Some(name @ ("admin" | "member" | "system" | "reader")) => ("200 OK", "", token(name, port)),
            _ => ("404 Not Found", "", "{}".to_owned()),
        }
    } else {
        let version = format!(
            "{{\"version\": {{\"id\": \"v3.14\", \"status\": \"stable\", \"links\": [{{\"rel\": \"self\", \
             \"href\": \"http://127.0.0.1:{port}/v3/\"}}]}}}}"
        );
        ("200 OK", "", version)
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n{extra}");
    let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
}

/// Returns the description of a token whose owner has the role of its name.
fn token(name: &str, port: u16) -> String {
    let role = if name == "system" { "admin" } else { name };
    let scope = match name {
        "system" => r#""system": {"all": true}"#.to_owned(),
        _ => format!(
            r#""project": {{"id": "p-{name}", "name": "p", "domain": {{"id": "default", "name": "D"}}}}"#
        ),
    };
    format!(
        r#"{{"token": {{"methods": ["password"], "user": {{"id": "u-{name}", "name": "{name}", "domain":
        {{"id": "default", "name": "Default"}}}}, "roles": [{{"id": "r", "name": "{role}"}}], {scope},
        "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z",
        "catalog": [{{"type": "identity", "name": "keystone", "id": "k", "endpoints": [{{"id": "e",
        "interface": "internal", "region": "R", "region_id": "R", "url": "http://127.0.0.1:{port}/v3"}}]}}]}}}}"#
    )
}
