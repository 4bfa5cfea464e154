//! `glance-cache serve` on a cache, and a client that sends exactly the bytes that a test wants.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::env::*;

/// The line that a service prints when it is ready.
const READY: &str = "glance-cache serve is ready: ";

/// A service that runs until it is dropped.
pub(crate) struct Service {
    running: Option<Running>,
    pub(crate) socket: PathBuf,
    pub(crate) address: Option<String>,
}

impl Service {
    /// Starts a service on a cache, at a Unix socket, with these settings more in `[cache_api]`. Nobody is
    /// asked who may call.
    pub(crate) fn start(env: &TestEnv, settings: &str) -> Self {
        Self::at(env, &env.conf(&Self::settings(env, settings)), &[])
    }

    /// Returns the section of such a service.
    pub(crate) fn settings(env: &TestEnv, settings: &str) -> String {
        let socket = env.outside("api.sock");
        format!("[cache_api]\nauth_strategy = none\nbind_socket = {}\n{settings}\n", socket.display())
    }

    /// Starts a service with this configuration file, and more arguments.
    pub(crate) fn at(env: &TestEnv, conf: &str, arguments: &[&str]) -> Self {
        let mut command = env.command(BINARY);
        command.args(["serve", "--allow-root", "--config-file", conf]).args(arguments);
        Self::of(env, command)
    }

    fn of(env: &TestEnv, mut command: std::process::Command) -> Self {
        let running = Running::start(&mut command, &env.outside(""));
        let mut service = Service { running: Some(running), socket: env.outside("api.sock"), address: None };
        until("the service to be ready", || {
            let text = service.stderr();
            if let Some((_, rest)) = text.split_once(READY)
                && let Some((places, _)) = rest.split_once('\n')
            {
                let tcp = places.split(", ").find(|place| place.starts_with(|c: char| c.is_ascii_digit()));
                service.address = tcp.map(str::to_owned);
                return true;
            }
            let child = &mut service.running.as_mut().unwrap().child;
            assert!(child.try_wait().unwrap().is_none(), "the service has ended: {text}");
            false
        });
        service
    }

    /// Returns what the service has printed so far.
    pub(crate) fn stderr(&self) -> String {
        self.running.as_ref().unwrap().read("stderr")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().unwrap().signal(signal);
    }

    /// Waits for the end of the service.
    pub(crate) fn wait(mut self) -> Run {
        self.running.take().unwrap().wait()
    }

    /// Opens a connection.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes, and returns everything that comes until the connection ends.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        // The service may answer and close before it has read all.
        let _ = stream.write_all(bytes.as_ref());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// Sends a request with these lines of headers, and returns the answer.
    pub(crate) fn ask(&self, request: &str, headers: &str) -> Reply {
        Reply::new(&self.raw(Self::request(request, headers)))
    }

    /// Returns the bytes of a request such as `GET /v2/cache`, after which the connection ends.
    pub(crate) fn request(request: &str, headers: &str) -> String {
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    }

    /// Begins a request, and returns its connection.
    pub(crate) fn begin(&self, request: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(Self::request(request, "").as_bytes()).unwrap();
        stream
    }

    /// Opens a connection on TCP.
    pub(crate) fn connect_tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address.as_ref().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let stderr = running.read("stderr");
            let _ = running.child.kill();
            let _ = running.child.wait();
            assert!(std::thread::panicking() || !stderr.contains("panicked"), "{stderr}");
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// Takes an answer apart.
    #[track_caller]
    pub(crate) fn new(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {answer:?}"));
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Waits for the answer of a connection.
    #[track_caller]
    pub(crate) fn of(mut stream: UnixStream) -> Self {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Self::new(&answer)
    }

    /// Returns a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}
