//! The gate of a connection: only well-framed requests reach the HTTP parser, and no wait is without end.
//!
//! Hyper parses requests, but it is lenient: it accepts lines that end with a bare LF, and drops a second
//! `Content-Length`, or one beside `Transfer-Encoding`, before anybody can see it. Front ends and servers
//! that read such a request differently can be made to see different requests. So the gate reads each head as
//! a whole, judges it ([`judge`]), and only then hands it over, with exactly as many bytes of body as the
//! head announces.
//!
//! A head that is refused never reaches the parser. In its place the gate hands over a harmless one and notes
//! the [`HeadRefusal`], so that hyper writes the answer; after it the connection is closed.
//!
//! A head has to be complete within [`ConnectionLimits::head`] of its first byte. A connection on which
//! nothing moves for [`ConnectionLimits::silence`] is closed, unless an answer is still being made.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// The largest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The largest number of headers.
pub(super) const MAX_HEADERS: usize = 128;
/// The largest body, in bytes.
const MAX_BODY: u64 = 64 * 1024;
/// Bytes read at a time.
const PIECE: usize = 4096;

/// A head that the parser gets in place of one that is refused.
const HARMLESS: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// For a head, from its first byte to its last.
    pub(super) head: Duration,
    /// For a connection on which nothing moves.
    pub(super) silence: Duration,
    /// The longest line of a head, in bytes.
    pub(super) line: usize,
}

/// The answer to a request that did not come through the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeadRefusal {
    pub(super) status: u16,
    pub(super) explanation: &'static str,
}

const fn refusal(status: u16, explanation: &'static str) -> HeadRefusal {
    HeadRefusal { status, explanation }
}

/// The state of a connection that the gate shares with the service behind it.
#[derive(Debug)]
pub(super) struct Shared {
    /// The number of heads that were handed over.
    heads: Cell<u64>,
    /// The number of requests that the service has begun with.
    begun: Cell<u64>,
    /// The number of requests that the service has answered.
    answered: Cell<u64>,
    /// The refusal, which answers the last head.
    refusal: Cell<Option<HeadRefusal>>,
    /// The time of the last byte in either direction.
    moved: Cell<Instant>,
    /// True while bytes of a body are to come from the client.
    awaits_body: Cell<bool>,
    /// True while the client takes no bytes of an answer.
    is_stuck: Cell<bool>,
    /// True once requests are read, after the handshake of TLS.
    pub(super) is_served: Cell<bool>,
    /// Wakes the task of a connection that has lost its place.
    pub(super) leave: Notify,
}

impl Shared {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Shared {
            heads: Cell::new(0),
            begun: Cell::new(0),
            answered: Cell::new(0),
            refusal: Cell::new(None),
            moved: Cell::new(Instant::now()),
            awaits_body: Cell::new(false),
            is_stuck: Cell::new(false),
            is_served: Cell::new(false),
            leave: Notify::new(),
        })
    }

    /// True while a whole request is being answered, or its answer is being written.
    pub(super) fn is_busy(&self) -> bool {
        self.is_working() || self.is_stuck.get()
    }

    /// True while a whole request is being answered. At all other times it is the client that is waited for:
    /// also if it sends its next request, and does not take the answer to the last one.
    pub(super) fn is_working(&self) -> bool {
        let is_begun = self.heads.get() > self.answered.get();
        is_begun && !self.awaits_body.get() && !self.is_stuck.get()
    }

    /// True if no request has been read yet, and one could be.
    pub(super) fn is_untouched(&self) -> bool {
        self.is_served.get() && self.heads.get() == 0
    }

    /// Returns the time of the last byte in either direction.
    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// True if a head was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    /// Begins with a request. Returns the refusal if this is the one that was refused.
    pub(super) fn begin(&self) -> Option<HeadRefusal> {
        self.begun.set(self.begun.get() + 1);
        self.refusal.get().filter(|_| self.begun.get() == self.heads.get())
    }

    /// Notes that a request was answered.
    pub(super) fn end(&self) {
        self.answered.set(self.answered.get() + 1);
        self.moved.set(Instant::now());
    }
}

/// The part of a request that is being read.
#[derive(Clone, Copy, Debug)]
enum Reading {
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    /// A head was refused: nothing more is read.
    Refused,
}

/// A stream of bytes from a client, of which the parser sees only what is judged.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: S,
    limits: ConnectionLimits,
    shared: Rc<Shared>,
    reading: Reading,
    /// Bytes that were read and not handed over.
    input: Vec<u8>,
    /// The number of bytes of `input` that may be handed over.
    admitted: usize,
    /// The number of bytes of `input` in which the end of a head was looked for.
    searched: usize,
    /// The time of the first byte of a head that is not complete.
    head_since: Option<Instant>,
    /// Ends a wait for bytes to read, and one for bytes to be written.
    timers: [Option<Pin<Box<Sleep>>>; 2],
    /// Since when the client takes no bytes.
    stuck_since: Option<Instant>,
}

/// Waits for a timer that ends at this time, and keeps it for the next wait.
fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, end: Instant, context: &mut Context<'_>) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
    if timer.deadline() != end {
        timer.as_mut().reset(end);
    }
    timer.as_mut().poll(context)
}

impl<S> Gate<S> {
    pub(super) fn new(stream: S, limits: ConnectionLimits, shared: Rc<Shared>) -> Self {
        Gate {
            stream,
            limits,
            shared,
            reading: Reading::Head,
            input: Vec::new(),
            admitted: 0,
            searched: 0,
            head_since: None,
            timers: [None, None],
            stuck_since: None,
        }
    }

    /// Returns the stream itself.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Hands over a harmless head in place of the one that is refused.
    fn refuse(&mut self, why: HeadRefusal) {
        self.shared.refusal.set(Some(why));
        self.shared.heads.set(self.shared.heads.get() + 1);
        self.reading = Reading::Refused;
        HARMLESS.clone_into(&mut self.input);
        self.admitted = self.input.len();
    }

    /// Looks at the bytes of a head. Returns false if more are needed.
    fn look_at_head(&mut self) -> bool {
        let from = self.searched.saturating_sub(3);
        let end = self.input[from..].windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.map(|position| from + position + 4);
        // A client whose lines end with LF alone would wait for an answer until the time is up.
        let seen = end.unwrap_or(self.input.len());
        let is_bare = |at: usize| self.input[at] == b'\n' && (at == 0 || self.input[at - 1] != b'\r');
        if (self.searched..seen).any(is_bare) {
            self.refuse(refusal(400, "A line of the head ends with a bare LF."));
            return true;
        }
        self.searched = self.input.len();
        match end {
            Some(end) if end <= MAX_HEAD => match judge(&self.input[..end], self.limits.line) {
                Ok(body) => {
                    self.shared.heads.set(self.shared.heads.get() + 1);
                    self.reading = Reading::Body(body);
                    self.shared.awaits_body.set(body > 0);
                    self.admitted = end;
                    self.searched = 0;
                    self.head_since = None;
                }
                Err(why) => self.refuse(why),
            },
            None if self.input.len() < MAX_HEAD => return false,
            _ => self.refuse(refusal(431, "The head of the request is larger than 64 KiB.")),
        }
        true
    }

    /// Waits as long as the client may be silent now.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.is_busy() && matches!(self.reading, Reading::Head) {
            // The client waits for its answer.
            return Poll::Pending;
        }
        loop {
            let end = match self.head_since {
                Some(since) => since + self.limits.head,
                None => self.shared.moved() + self.limits.silence,
            };
            ready!(poll_timer(&mut self.timers[0], end, context));
            // Bytes may have moved in the other direction meanwhile.
            if self.head_since.is_some() || Instant::now() >= self.shared.moved() + self.limits.silence {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads some more bytes into `input`. Returns how many; 0 is the end.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [0_u8; PIECE];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let read = buffer.filled();
        self.input.extend_from_slice(read);
        if !read.is_empty() {
            let now = Instant::now();
            self.shared.moved.set(now);
            if matches!(self.reading, Reading::Head) && !self.shared.is_busy() {
                self.head_since.get_or_insert(now);
            }
        }
        Poll::Ready(Ok(read.len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.admitted > 0 {
                let count = gate.admitted.min(buffer.remaining());
                buffer.put_slice(&gate.input[..count]);
                gate.input.drain(..count);
                gate.admitted -= count;
                return Poll::Ready(Ok(()));
            }
            match gate.reading {
                // The connection ends with the answer.
                Reading::Refused => return Poll::Pending,
                Reading::Body(0) => {
                    gate.reading = Reading::Head;
                    continue;
                }
                Reading::Body(left) if !gate.input.is_empty() => {
                    gate.admitted = gate.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - gate.admitted as u64;
                    gate.reading = Reading::Body(left);
                    gate.shared.awaits_body.set(left > 0);
                    continue;
                }
                Reading::Head if gate.input.len() > gate.searched => {
                    if gate.look_at_head() {
                        continue;
                    }
                }
                Reading::Head | Reading::Body(_) => {}
            }
            match gate.poll_more(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    ready!(gate.poll_silence(context));
                    match gate.reading {
                        Reading::Head if gate.input.is_empty() => return Poll::Ready(Ok(())),
                        Reading::Head => {
                            gate.refuse(refusal(408, "The head of the request did not come in time."));
                        }
                        _ => return Poll::Ready(Err(ErrorKind::TimedOut.into())),
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Ends a write that the client does not take for too long.
    fn poll_written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(done) => {
                self.stuck_since = None;
                self.shared.is_stuck.set(false);
                self.shared.moved.set(Instant::now());
                Poll::Ready(done)
            }
            Poll::Pending => {
                self.shared.is_stuck.set(true);
                let since = *self.stuck_since.get_or_insert_with(Instant::now);
                ready!(poll_timer(&mut self.timers[1], since + self.limits.silence, context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.poll_written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.poll_written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.poll_written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.poll_written(ended, context)
    }
}

/// Judges the head of a request. Returns the length of the body that follows it.
fn judge(head: &[u8], longest: usize) -> Result<u64, HeadRefusal> {
    if head.split(|byte| *byte == b'\n').any(|line| line.len() > longest) {
        return Err(refusal(431, "A line of the head is longer than max_header_line."));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refusal(431, "The request has more than 128 headers."));
        }
        Err(httparse::Error::Version) => {
            return Err(refusal(505, "This service speaks HTTP/1.0 and HTTP/1.1."));
        }
        _ => return Err(refusal(400, "The head of the request is malformed.")),
    }
    if request.method == Some("CONNECT") {
        return Err(refusal(400, "This service is no proxy."));
    }
    // Hyper refuses most of them as well, but without a word. A host alone has no path, and a fragment is not
    // for servers: it would be dropped.
    let has_path = |target: &str| {
        !target.contains('#') && Uri::try_from(target).is_ok_and(|uri| uri.path_and_query().is_some())
    };
    if !request.path.is_some_and(has_path) {
        return Err(refusal(400, "The target of the request is malformed."));
    }
    let named = |name: &'static str| {
        let of_name = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        request.headers.iter().filter(of_name).map(|header| header.value)
    };
    if named("transfer-encoding").next().is_some() {
        return Err(refusal(400, "A body is taken with a Content-Length, not with a Transfer-Encoding."));
    }
    match (named("host").count(), request.version) {
        (1, _) | (0, Some(0)) => {}
        _ => return Err(refusal(400, "The request must have one Host.")),
    }
    let mut lengths = named("content-length");
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => return Ok(0),
        (Some(length), None) => length,
        _ => return Err(refusal(400, "The request has more than one Content-Length.")),
    };
    let is_number = !length.is_empty() && length.len() < 19 && length.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(length).ok().filter(|_| is_number).and_then(|length| length.parse().ok());
    match number {
        None => Err(refusal(400, "The Content-Length is not a number.")),
        Some(length) if length > MAX_BODY => Err(refusal(413, "The body is larger than 64 KiB.")),
        Some(length) => Ok(length),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { head: Duration::from_millis(50), silence: Duration::from_millis(50), line: 200 };

    #[test]
    fn only_heads_that_can_be_read_in_one_way_come_through() {
        let post = |lines: &str| format!("POST /v2/cache/prune HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Ok(0)),
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), Ok(0)),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), Err(505)),
            ("GET /\r\n\r\n".to_owned(), Err(400)),
            ("\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n".to_owned(), Err(400)),
            ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Err(400)),
            ("GET /x<y>\"z HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Err(400)),
            ("GET x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Err(400)),
            ("GET /x#y HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Err(400)),
            ("GET /x?y#z HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Err(400)),
            (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(300)), Err(431)),
            (post(&"X: y\r\n".repeat(127)), Ok(0)),
            (post(&"X: y\r\n".repeat(128)), Err(431)),
            (post("Content-Length: 5\r\n"), Ok(5)),
            (post("content-length: 0\r\n"), Ok(0)),
            (post("Content-Length: 65536\r\n"), Ok(65536)),
            (post("Content-Length: 65537\r\n"), Err(413)),
            (post("Content-Length: 99999999999999999999\r\n"), Err(400)),
            (post("Content-Length: -1\r\n"), Err(400)),
            (post("Content-Length: +1\r\n"), Err(400)),
            (post("Content-Length: 1, 1\r\n"), Err(400)),
            (post("Content-Length: \r\n"), Err(400)),
            (post("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400)),
            (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Err(400)),
            (post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Err(400)),
            (post("Transfer-Encoding: chunked\r\n"), Err(400)),
            (post("Transfer-Encoding: identity\r\n"), Err(400)),
        ] {
            let judged = judge(head.as_bytes(), LIMITS.line);
            assert_eq!(judged.map_err(|refusal| refusal.status), expected, "{head:?}");
        }
    }

    /// Returns what comes through the gate, and the status of a refusal.
    fn through(pieces: &[&[u8]]) -> (String, Option<u16>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let shared = Shared::new();
            let mut gate = Gate::new(server, LIMITS, Rc::clone(&shared));
            for piece in pieces {
                client.write_all(piece).await.unwrap();
            }
            let mut seen = Vec::new();
            let reading = async {
                while gate.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
                    // Each request is answered at once.
                    while shared.heads.get() > shared.answered.get() {
                        shared.begin();
                        shared.end();
                    }
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(300), reading).await;
            let status = shared.refusal.get().map(|refusal| refusal.status);
            (String::from_utf8(seen).unwrap(), status)
        })
    }

    #[test]
    fn requests_come_through_one_by_one_and_nothing_after_one_that_is_refused() {
        let good = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";
        let twice = good.repeat(2);
        assert_eq!(through(&[twice.as_bytes()]), (twice.clone(), None));
        let (a, b) = good.as_bytes().split_at(20);
        assert_eq!(through(&[a, b]), (good.to_owned(), None));
        let harmless = str::from_utf8(HARMLESS).unwrap();
        let bad = "GET / HTTP/1.1\nHost: h\n\n";
        assert_eq!(through(&[bad.as_bytes()]), (harmless.to_owned(), Some(400)));
        let mixed = [good, bad, good].concat();
        assert_eq!(through(&[mixed.as_bytes()]), ([good, harmless].concat(), Some(400)));
        let unfinished = "GET / HTTP/1.1\r\nHost: h\r\n";
        assert_eq!(through(&[unfinished.as_bytes()]), (harmless.to_owned(), Some(408)));
        let endless = "x".repeat(MAX_HEAD + 1);
        assert_eq!(through(&[endless.as_bytes()]), (harmless.to_owned(), Some(431)));
        // A body that does not come ends the connection.
        let short = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{}";
        assert_eq!(through(&[short.as_bytes()]), (short.to_owned(), None));
    }
}
