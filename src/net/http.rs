//! One GET over HTTP/1.1: what is asked, and the body that comes back, byte for byte.
//!
//! A body that ends before its end is an error, by whichever of the three ways its end is known. Nothing is decompressed: an image is what
//! the server has. Redirects, credentials and broken streams are the caller's. A connection serves one request. Messages show
//! URLs without credentials and queries, and a server's own words escaped and cut.
//!
//! Small enough to be here: an HTTP library would have to let each of its reads be interrupted, and ask proxies for plain http
//! without CONNECT, which they commonly refuse for it.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use super::wire::{Connection, Trust, Waits};

/// A response's head is not longer.
const MAX_HEAD: u64 = 64 * 1024;
const MAX_HEADERS: usize = 128;
/// So much of what a server says about a failure is looked at.
const MAX_WORDS: u64 = 4096;

/// A name and what proves it.
pub(crate) type Credentials = (String, String);

/// How servers are reached.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) trust: Trust,
    /// By the scheme of the URL, or `all`: an http URL of a proxy.
    pub(crate) proxies: Vec<(String, Url)>,
    pub(crate) waits: Waits,
}

/// The start of a server's answer, and its body to be read.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: HttpBody,
}

impl Response {
    /// Returns a header's value; the name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Returns the beginning of a body that is a message to people.
    pub(crate) fn words(mut self) -> String {
        let mut words = Vec::new();
        // What came before it broke is enough.
        let _ = (&mut self.body).take(MAX_WORDS).read_to_end(&mut words);
        String::from_utf8_lossy(&words).into_owned()
    }
}

/// The value of a header for basic authentication; percent codes stand for what a URL cannot hold.
pub(crate) fn basic((user, password): &Credentials) -> String {
    let mut pair = percent_decode_str(user).collect::<Vec<u8>>();
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    format!("Basic {}", STANDARD.encode(pair))
}

/// Host and port as the `Host` header names them.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

impl Client {
    /// Asks for a URL and returns the answer, whatever its status.
    pub(crate) fn get(&self, url: &Url, headers: &[(&str, &str)]) -> Result<Response> {
        let host = url.host_str().context("it has no host")?;
        let port = url.port_or_known_default().context("it has no port")?;
        let secure = url.scheme() == "https";
        let proxy = self.proxies.iter().find(|(scheme, _)| scheme == url.scheme());
        let proxy =
            proxy.or_else(|| self.proxies.iter().find(|(scheme, _)| scheme == "all")).map(|(_, url)| url);
        let mut target = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        let mut proxy_credentials = None;
        let mut connection = match proxy {
            None => Connection::open(host, port, &self.waits)?,
            Some(proxy) => {
                let through = || format!("through the proxy {}", authority(proxy));
                let credentials =
                    Some((proxy.username().to_owned(), proxy.password().unwrap_or_default().to_owned()));
                proxy_credentials = credentials.filter(|(user, _)| !user.is_empty()).map(|pair| basic(&pair));
                let proxy_host = proxy.host_str().unwrap_or_default();
                let mut connection =
                    Connection::open(proxy_host, proxy.port_or_known_default().unwrap_or(80), &self.waits)
                        .with_context(through)?;
                if secure {
                    let credentials = proxy_credentials.take();
                    tunnel(&mut connection, &format!("{host}:{port}"), credentials).with_context(through)?;
                } else {
                    target = format!("http://{}{target}", authority(url));
                }
                connection
            }
        };
        if secure {
            connection = connection.encrypt(host, &self.trust)?;
        }
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: glance-cache\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\
             Connection: close\r\n",
            authority(url)
        );
        let proxy_credentials = proxy_credentials.as_deref().map(|value| ("Proxy-Authorization", value));
        for (name, value) in headers.iter().copied().chain(proxy_credentials) {
            ensure!(!value.contains(char::is_control), "the header {name} would hold control characters");
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        connection.write_all(request.as_bytes()).context("cannot send the request")?;
        connection.flush().context("cannot send the request")?;
        receive(connection)
    }
}

/// Has a proxy connect to a host and port.
fn tunnel(connection: &mut Connection, target: &str, credentials: Option<String>) -> Result<()> {
    let credentials = credentials.map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
    connection.write_all(request.as_bytes())?;
    connection.flush()?;
    // Byte by byte: what follows the head is the tunnel's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).context("it ended the connection")?;
        head.push(byte[0]);
        ensure!(head.len() < 8192, "its answer is too long");
    }
    let (status, _) = parse_head(&head)?;
    ensure!((200..300).contains(&status), "it answers {status} to CONNECT");
    Ok(())
}

/// Reads the head of the response; interim ones are passed over.
fn receive(connection: Connection) -> Result<Response> {
    let mut input = BufReader::with_capacity(64 * 1024, connection);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
            let left = MAX_HEAD.saturating_sub(head.len() as u64);
            let read = (&mut input).take(left).read_until(b'\n', &mut head).context("no answer")?;
            ensure!(left > 0, "the head of the answer is too long");
            ensure!(read > 0, "the server ended the connection without an answer");
        }
        let (status, headers) = parse_head(&head)?;
        if status != 101 && (100..200).contains(&status) {
            continue;
        }
        let frame = frame(status, &headers)?;
        return Ok(Response { status, headers, body: HttpBody { input, frame } });
    }
}

fn parse_head(head: &[u8]) -> Result<(u16, Vec<(String, String)>)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(head).map_err(|e| anyhow!("the answer is not HTTP: {e}"))?;
    ensure!(parsed.is_complete(), "the answer is not HTTP: its head is not complete");
    let status = response.code.context("the answer is not HTTP: it has no status")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok((status, response.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect()))
}

/// How the end of a body is known.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes are left of this chunk; `None`: before the first.
    Chunk(Option<u64>),
    /// The connection ends with it.
    Close,
}

fn frame(status: u16, headers: &[(String, String)]) -> Result<Frame> {
    let values =
        |name: &'static str| headers.iter().filter(move |(found, _)| found == name).map(|(_, value)| value);
    if matches!(status, 204 | 304) {
        return Ok(Frame::Length(0));
    }
    if let Some(coding) = values("transfer-encoding").next() {
        ensure!(
            coding.eq_ignore_ascii_case("chunked") && values("transfer-encoding").count() == 1,
            "the server sends in an encoding that was not asked for"
        );
        return Ok(Frame::Chunk(None));
    }
    let Some(length) = values("content-length").next() else { return Ok(Frame::Close) };
    ensure!(values("content-length").all(|other| other == length), "the server states two different lengths");
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse() {
        Ok(length) if digits => Ok(Frame::Length(length)),
        _ => bail!("the server states a length that is no number"),
    }
}

/// The body of a response.
pub(crate) struct HttpBody {
    input: BufReader<Connection>,
    frame: Frame,
}

impl HttpBody {
    /// Returns how many bytes there are to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        if let Frame::Length(length) = self.frame { Some(length) } else { None }
    }

    /// Reads the line before the next chunk, after the last one also what is behind it.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first {
            let end = self.line()?;
            if !end.is_empty() {
                return Err(bad_chunk());
            }
        }
        let line = self.line()?;
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let size = str::from_utf8(size).ok().filter(|size| size.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or_else(bad_chunk)?;
        if size == 0 {
            while !self.line()?.is_empty() {}
        }
        Ok(size)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.input).take(4096).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(line) => Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec()),
            None if line.len() == 4096 => Err(bad_chunk()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn bad_chunk() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the server's chunks are not as HTTP has them")
}

impl Read for HttpBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Frame::Chunk(None | Some(0)) = self.frame {
            let size = self.next_chunk(self.frame == Frame::Chunk(None))?;
            self.frame = if size == 0 { Frame::Length(0) } else { Frame::Chunk(Some(size)) };
        }
        let left = match &mut self.frame {
            Frame::Close => return self.input.read(buffer),
            Frame::Length(0) => return Ok(0),
            Frame::Length(left) | Frame::Chunk(Some(left)) => left,
            Frame::Chunk(None) => return Err(bad_chunk()),
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        match self.input.read(&mut buffer[..most])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                *left -= read as u64;
                Ok(read)
            }
        }
    }
}
