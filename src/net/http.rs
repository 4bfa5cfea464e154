//! An HTTP/1.1 client with a blocking face: a request, the head of the answer, and its body to be read byte
//! for byte.
//!
//! Hyper speaks the protocol; each connection has a small runtime of its own, which runs only while something
//! is waited for. Every wait ends in time and soon after a signal ([`super::wire`]).
//!
//! Promises: a body that ends before its announced end is an error. Nothing is decompressed, because an image
//! is what the server has. Plain http is asked of a proxy by the absolute URL, https through CONNECT. A
//! server cannot hold the caller for ever: heads, interim answers and trailers are bounded, and a body that
//! comes too slowly is given up.
//!
//! It does not follow redirects, answer challenges, keep cookies, resume broken bodies or keep connections
//! for later requests. Credentials are sent only where the caller puts them into a header.

use std::error::Error as _;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
pub(crate) use hyper::Method;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use super::retry_after;
use super::tls::{self, Trust};
use super::wire::{Pace, Waits, unfinished};

/// Limit of the head of an answer, in bytes; also the most that is read at once.
const MAX_HEAD: usize = 256 * 1024;
const MAX_HEADERS: usize = 128;
/// Limit of answers like `100 Continue` before the one that counts.
const MAX_INTERIM: usize = 100;
/// Limit of a server's message about a failure, in bytes; the rest is not read.
const MAX_MESSAGE: u64 = 4096;

/// A name and its password or key.
pub(crate) type Credentials = (String, String);

/// The way to servers: whom to trust, which proxies to ask, how long to wait.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) trust: Trust,
    /// By the scheme of the URL, or `all`: the http URL of a proxy.
    pub(crate) proxies: Vec<(String, Url)>,
    pub(crate) waits: Waits,
}

/// A request to a server.
pub(crate) struct Request<'a> {
    method: Method,
    url: &'a Url,
    headers: Vec<(&'a str, &'a str)>,
    body: Vec<u8>,
    certificate: Option<&'a (PathBuf, PathBuf)>,
}

impl<'a> Request<'a> {
    /// Returns a request without headers of its own. Credentials in the URL are not sent.
    pub(crate) fn new(method: Method, url: &'a Url) -> Self {
        Request { method, url, headers: Vec::new(), body: Vec::new(), certificate: None }
    }

    /// Returns a request for the content of a URL.
    pub(crate) fn get(url: &'a Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets the certificate and the key (PEM) that this client shows to a server of https that asks for one.
    pub(crate) fn certificate(mut self, identity: Option<&'a (PathBuf, PathBuf)>) -> Self {
        self.certificate = identity;
        self
    }

    /// Sets the body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// The head of an answer, and its body to be read.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: HttpBody,
}

impl Response {
    /// Returns the first value of a header, if it is UTF-8.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| str::from_utf8(value.as_bytes()).ok())
    }

    /// Returns the time after which the server wants to be asked again, if it says one.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after::pause(self.header("retry-after")?, self.header("date"), Timestamp::now())
    }

    /// Returns the beginning of a body that is a message to people.
    pub(crate) fn message(mut self) -> String {
        let mut message = Vec::new();
        // The part before an error is enough.
        let _ = (&mut self.body).take(MAX_MESSAGE).read_to_end(&mut message);
        String::from_utf8_lossy(&message).into_owned()
    }
}

/// Returns the value of a header for basic authentication. Percent codes stand for what a URL cannot hold.
pub(crate) fn basic((user, password): &Credentials) -> String {
    let mut pair = percent_decode_str(user).collect::<Vec<u8>>();
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    format!("Basic {}", STANDARD.encode(pair))
}

impl Client {
    /// Sends a request and returns the answer, whatever its status.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Response> {
        self.open(request)?.exchange()
    }

    /// Connects to the server of a request, and sends nothing of the request yet.
    pub(crate) fn open(&self, request: &Request<'_>) -> Result<OpenConnection> {
        let url = request.url;
        let host = url.host_str().context("the URL has no host")?;
        let port = url.port_or_known_default().context("the URL has no port")?;
        let is_encrypted = url.scheme() == "https";
        // Where the files of certificates are wrong, no connection is needed to know it.
        let connector = is_encrypted.then(|| tls::connector(&self.trust, request.certificate)).transpose()?;
        let session = Session::new(&self.waits)?;
        let mut target = url[Position::BeforePath..Position::AfterQuery].to_owned();
        let mut proxy_credentials = None;
        let mut stream = match self.proxy(url) {
            None => session.connect(host, port)?,
            Some(proxy) => {
                let through = || format!("through the proxy {}", authority(proxy));
                let stream = session
                    .connect(
                        proxy.host_str().unwrap_or_default(),
                        proxy.port_or_known_default().unwrap_or(80),
                    )
                    .with_context(through)?;
                if is_encrypted {
                    let place = format!("{host}:{port}");
                    session.tunnel(stream, &place, credentials(proxy).as_deref()).with_context(through)?
                } else {
                    proxy_credentials = credentials(proxy);
                    target = format!("http://{}{target}", authority(url));
                    stream
                }
            }
        };
        if let Some(connector) = &connector {
            stream = session.encrypt(stream, host, connector)?;
        }
        let proxy_credentials = proxy_credentials.as_deref().map(|value| ("proxy-authorization", value));
        let standard = [
            ("host", &*authority(url)),
            ("user-agent", "glance-cache"),
            ("accept", "*/*"),
            ("accept-encoding", "identity"),
            ("connection", "close"),
        ];
        let headers = standard.into_iter().chain(request.headers.iter().copied()).chain(proxy_credentials);
        let message = compose(&request.method, &target, headers, request.body.clone())?;
        Ok(OpenConnection { session, stream, is_encrypted, message })
    }

    /// Fails if the files of certificates cannot be used: those to trust, and the one (with its key) that
    /// this client shows.
    pub(crate) fn check_certificates(&self, identity: Option<&(PathBuf, PathBuf)>) -> Result<()> {
        tls::connector(&self.trust, identity).map(drop)
    }

    /// Returns the proxy through which a URL is asked for.
    fn proxy(&self, url: &Url) -> Option<&Url> {
        let of = |wanted: &str| self.proxies.iter().find(|(scheme, _)| scheme == wanted);
        of(url.scheme()).or_else(|| of("all")).map(|(_, proxy)| proxy)
    }
}

/// A connection to a server, with the request that is to be sent on it.
pub(crate) struct OpenConnection {
    session: Session,
    stream: Box<dyn Stream>,
    is_encrypted: bool,
    message: Message,
}

impl OpenConnection {
    /// Sends the request and returns the answer, whatever its status.
    pub(crate) fn exchange(self) -> Result<Response> {
        let OpenConnection { session, stream, is_encrypted, message } = self;
        let (head, body) = session.exchange((stream, is_encrypted), message)?.into_parts();
        let coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"chunked");
        ensure!(
            !head.headers.get_all(TRANSFER_ENCODING).iter().any(coded),
            "the server sends in an encoding that was not asked for"
        );
        let in_chunks = head.headers.contains_key(TRANSFER_ENCODING);
        let body =
            HttpBody { body, session, in_chunks, chunk: Bytes::new(), pace: Pace::default(), broken: false };
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// Returns host and port as the `Host` header names them.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns the credentials in the URL of a proxy, as a header's value.
fn credentials(proxy: &Url) -> Option<String> {
    let pair = (proxy.username().to_owned(), proxy.password().unwrap_or_default().to_owned());
    (!pair.0.is_empty()).then(|| basic(&pair))
}

type Message = hyper::Request<Full<Bytes>>;

/// Builds a request as hyper sends it.
fn compose<'a>(
    method: &Method,
    target: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Vec<u8>,
) -> Result<Message> {
    // Its own message could repeat what is secret in the URL.
    let target = target.parse().ok().context("the URL cannot stand in a request")?;
    let mut message = hyper::Request::new(Full::from(body));
    *message.method_mut() = method.clone();
    *message.uri_mut() = target;
    for (name, value) in headers {
        let wrong = || format!("the header {name} would hold control characters");
        let value = HeaderValue::from_str(value).ok().with_context(wrong)?;
        message.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    Ok(message)
}

/// A stream of bytes to a server, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that notes that something came from the server.
struct NotedStream {
    stream: Box<dyn Stream>,
    came: Arc<AtomicBool>,
}

impl NotedStream {
    fn new(stream: Box<dyn Stream>) -> (Self, Arc<AtomicBool>) {
        let came = Arc::default();
        (NotedStream { stream, came: Arc::clone(&came) }, came)
    }
}

impl AsyncRead for NotedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.came.fetch_or(buffer.filled().len() > before, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for NotedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The runtime of one connection: it works while something is waited for, and all ends with it.
struct Session {
    runtime: Runtime,
    waits: Waits,
}

impl Session {
    fn new(waits: &Waits) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Session { runtime: runtime.context("cannot prepare a connection")?, waits: waits.clone() })
    }

    /// Waits for a future, in time and until a signal.
    fn wait<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        self.runtime.block_on(self.waits.within_silence(work))
    }

    /// Waits for an answer. A server that sends something in time, but not all, is not called silent.
    fn wait_for<T>(&self, came: &AtomicBool, answer: impl Future<Output = T>) -> io::Result<T> {
        self.wait(answer).map_err(|e| {
            let is_begun = e.kind() == ErrorKind::TimedOut && came.load(Ordering::Relaxed);
            if is_begun { unfinished(self.waits.silence) } else { e }
        })
    }

    fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Stream>> {
        let socket = self.waits.connect(host, port)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let _runtime = self.runtime.enter();
        Ok(Box::new(TcpStream::from_std(socket)?))
    }

    /// Encrypts a stream. A server that cannot prove to be the one asked for is an error.
    fn encrypt(
        &self,
        stream: Box<dyn Stream>,
        host: &str,
        connector: &TlsConnector,
    ) -> Result<Box<dyn Stream>> {
        let name = tls::server_name(host)?;
        let (stream, came) = NotedStream::new(stream);
        let encrypted = self.wait_for(&came, connector.connect(name, stream)).and_then(|result| result);
        let encrypted = encrypted.map_err(plain);
        Ok(Box::new(encrypted.with_context(|| format!("cannot establish TLS with {host}"))?))
    }

    /// Has a proxy connect to a host and port.
    fn tunnel(
        &self,
        stream: Box<dyn Stream>,
        place: &str,
        credentials: Option<&str>,
    ) -> Result<Box<dyn Stream>> {
        let credentials = credentials.map(|value| ("proxy-authorization", value));
        let headers = [("host", place)].into_iter().chain(credentials);
        let response =
            self.exchange((stream, false), compose(&Method::CONNECT, place, headers, Vec::new())?)?;
        let status = response.status();
        ensure!(status.is_success(), "it answers {} to CONNECT", status.as_u16());
        let upgraded = self.wait(hyper::upgrade::on(response))?.map_err(|e| failure(&e, false))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    /// Sends a request on a new connection and waits for the head of the answer.
    fn exchange(
        &self,
        (stream, is_encrypted): (Box<dyn Stream>, bool),
        mut message: Message,
    ) -> Result<hyper::Response<Incoming>> {
        let interim = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&interim);
        hyper::ext::on_informational(&mut message, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut builder = http1::Builder::new();
        // Some servers know headers only as they are usually written.
        builder.title_case_headers(true).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
        let (stream, came) = NotedStream::new(stream);
        let answer = async {
            let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
            // Its error is also that of the request or of the body.
            drop(self.runtime.spawn(connection.with_upgrades()));
            let mut answer = pin!(sender.send_request(message));
            poll_fn(|context| match answer.as_mut().poll(context) {
                Poll::Pending if interim.load(Ordering::Relaxed) > MAX_INTERIM => Poll::Ready(Ok(None)),
                answer => answer.map_ok(Some),
            })
            .await
        };
        let waited = self.wait_for(&came, answer);
        let silent = if came.load(Ordering::Relaxed) { "no whole answer" } else { "no answer" };
        match waited.context(silent)? {
            Ok(Some(response)) => Ok(response),
            Ok(None) => bail!("the server sends interim answers without end"),
            Err(e) => Err(failure(&e, is_encrypted)),
        }
    }
}

/// Returns an error of a connection, in plain words if it is one of TLS. Its kind stays.
fn plain(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(cause) => io::Error::new(error.kind(), tls::plain(cause)),
        None => error,
    }
}

/// Returns what went wrong before there was an answer.
fn failure(error: &hyper::Error, is_encrypted: bool) -> Error {
    let is_of_another_protocol = error.to_string() == "invalid HTTP version parsed";
    // Hyper has a question for that with its server only.
    if error.to_string() == "message head is too large" {
        return anyhow!("the head of the answer is too long");
    }
    if error.is_incomplete_message() {
        return anyhow!("the server ended the connection without an answer");
    }
    let cause = error.source().map(|cause| {
        let of_tls = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let of_tls = of_tls.and_then(|cause| cause.downcast_ref::<rustls::Error>());
        of_tls.map_or_else(|| tls::without_manual(cause.to_string()), tls::plain)
    });
    match (error.is_parse(), cause) {
        (true, _) if is_of_another_protocol && is_encrypted => anyhow!("the answer is not HTTP"),
        (true, _) if is_of_another_protocol => anyhow!("the answer is not HTTP: is it https?"),
        (true, _) => anyhow!("the answer is not HTTP: {error}"),
        (false, None) => anyhow!("{error}"),
        (false, Some(cause)) => anyhow!("{error}: {cause}"),
    }
}

/// The body of an answer.
pub(crate) struct HttpBody {
    body: Incoming,
    session: Session,
    in_chunks: bool,
    /// Bytes that have come and were not read.
    chunk: Bytes,
    pace: Pace,
    /// It broke, and nothing behind that is its end.
    broken: bool,
}

impl HttpBody {
    /// True if the server says where the body ends, by a length or in chunks. Otherwise it ends with the
    /// connection, also where that broke.
    pub(crate) fn is_end_announced(&self) -> bool {
        self.in_chunks || self.length().is_some()
    }

    /// Returns how many bytes the body has, where the server said so. To be asked before it is read.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Waits for the next bytes; none are the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let start = Instant::now();
        let chunk = loop {
            match self.session.wait(self.body.frame())? {
                None => return Ok(Bytes::new()),
                Some(Err(e)) => return Err(broken(&e)),
                // Trailers say nothing that is needed.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if !chunk.is_empty() => break chunk,
                    _ => {}
                },
            }
        };
        self.pace.note(start.elapsed(), chunk.len() as u64, self.session.waits.least)?;
        Ok(chunk)
    }
}

/// Returns what broke a body. Its end before it was complete is `UnexpectedEof`.
fn broken(error: &hyper::Error) -> io::Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        // TLS has such errors as well.
        Some(cause)
            if matches!(cause.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData)
                && !cause
                    .get_ref()
                    .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
        {
            io::Error::new(ErrorKind::InvalidData, format!("the server's chunks are malformed: {cause}"))
        }
        Some(cause) if cause.kind() == ErrorKind::UnexpectedEof => ErrorKind::UnexpectedEof.into(),
        Some(cause) => io::Error::new(cause.kind(), cause.to_string()),
        None if error.is_incomplete_message() || error.is_closed() => ErrorKind::UnexpectedEof.into(),
        None => io::Error::other(error.to_string()),
    }
}

impl Read for HttpBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.broken {
            return Err(io::Error::other("the stream has failed before"));
        }
        if self.chunk.is_empty() {
            self.chunk = self.next().inspect_err(|_| self.broken = true)?;
        }
        let read = self.chunk.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.chunk.split_to(read));
        Ok(read)
    }
}
