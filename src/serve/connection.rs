//! Connections: as many as the settings allow, each behind its [`Gate`].
//!
//! When all places are taken, the connection whose client has been waited for longest gives up its place: a
//! client that says nothing, or sends half a request, or does not read its answer, keeps nobody out. If all
//! are being answered, a few more are accepted in reserve: there, probes are answered, and all others are
//! told to come back. So are those who lose their place before their first request was read. Each connection
//! is a task on one thread; a task is dropped with its socket.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::{ApiAnswer, Problem};
use super::gate::{ConnectionLimits, Gate, MAX_HEAD, MAX_HEADERS, Shared};
use super::health::is_probe;
use super::listen::{Accepted, Listener, Peer};

/// The time for which bytes of a refused request are read after its answer. The answer would be lost if the
/// connection was reset.
const LINGER: Duration = Duration::from_secs(1);
/// The most that is read in that time, in bytes.
const MOST_LEFT: usize = 1 << 20;
/// So many connections are accepted in reserve.
const RESERVE: usize = 8;
/// So many clients at a time are told that there is no place. Their requests are read, because the answer
/// would be lost if the connection was reset.
const MOST_TURNED_AWAY: usize = 64;
/// The pause after a connection could not be accepted, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Said to a client that finds no place, not even in reserve.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=UTF-8\r\n\
    Content-Length: 73\r\nRetry-After: 5\r\nConnection: close\r\n\r\n\
    503 Service Unavailable\n\nAll connections of this service are in use.\n\n   ";
/// Said to a client in reserve.
const NO_SEAT: &str = "All connections of this service are in use.";

/// An answer, and the id of its request.
pub(super) type Answered = (ApiAnswer, Option<String>);
/// Something that is being made.
type Coming<T> = Pin<Box<dyn Future<Output = T>>>;
/// Makes answers.
pub(super) type Handler = Rc<dyn Fn(Peer, Request<Incoming>) -> Coming<Answered>>;

/// A stream of bytes from a client and to it.
trait ClientStream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// True if the client expects a farewell. Elsewhere, to close a socket is to end the stream.
    const HAS_FAREWELL: bool = false;
}

impl ClientStream for TcpStream {}

impl ClientStream for UnixStream {}

/// TLS ends with a message; without it, an answer might have been cut off.
impl ClientStream for TlsStream<TcpStream> {
    const HAS_FAREWELL: bool = true;
}

/// The place of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    Usual,
    /// Only probes are answered.
    Reserve,
}

/// An open connection.
struct Open {
    seat: Seat,
    shared: Rc<Shared>,
    task: AbortHandle,
}

/// The open connections of a service.
pub(super) struct Connections {
    most: usize,
    limits: ConnectionLimits,
    next: Cell<u64>,
    open: RefCell<BTreeMap<u64, Open>>,
    turned_away: Cell<usize>,
    is_closing: Cell<bool>,
}

impl Connections {
    pub(super) fn new(most: usize, limits: ConnectionLimits) -> Rc<Self> {
        let (next, turned_away, is_closing) = (Cell::new(0), Cell::new(0), Cell::new(false));
        Rc::new(Connections { most, limits, next, open: RefCell::default(), turned_away, is_closing })
    }

    /// Accepts connections until the task ends.
    pub(super) async fn accept(self: Rc<Self>, listener: Listener, tls: Rc<SharedTls>, handler: Handler) {
        loop {
            let Ok(accepted) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let Some(seat) = self.seat() else {
                self.turn_away(accepted);
                continue;
            };
            let (connections, handler) = (Rc::clone(&self), Rc::clone(&handler));
            match (accepted, tls.0.borrow().clone()) {
                (Accepted::Tcp(stream, peer), None) => {
                    self.start(seat, |shared| {
                        shared.is_served.set(true);
                        connections.serve(stream, (peer, seat), shared, handler)
                    });
                }
                (Accepted::Tcp(stream, peer), Some(acceptor)) => self.start(seat, |shared| async move {
                    let encrypted = timeout(connections.limits.head, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = encrypted {
                        shared.is_served.set(true);
                        connections.serve(stream, (peer, seat), shared, handler).await;
                    }
                }),
                (Accepted::Unix(stream, peer), _) => self.start(seat, |shared| {
                    shared.is_served.set(true);
                    connections.serve(stream, (peer, seat), shared, handler)
                }),
            }
        }
    }

    /// Returns a place for a connection; `None` if there is none, and no other can give up its own.
    fn seat(&self) -> Option<Seat> {
        let mut open = self.open.borrow_mut();
        [(Seat::Usual, self.most), (Seat::Reserve, RESERVE)].into_iter().find_map(|(seat, most)| {
            let taken = || open.iter().filter(|(_, open)| open.seat == seat);
            if taken().count() < most {
                return Some(seat);
            }
            let waiting = taken().filter(|(_, open)| !open.shared.is_working());
            let longest = waiting.min_by_key(|(_, open)| open.shared.moved()).map(|(id, _)| *id)?;
            self.evict(&open.remove(&longest)?);
            Some(seat)
        })
    }

    /// Starts the task of a connection.
    fn start<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        seat: Seat,
        serve: impl FnOnce(Rc<Shared>) -> F,
    ) {
        let id = self.next.get();
        self.next.set(id + 1);
        let shared = Shared::new();
        let serving = serve(Rc::clone(&shared));
        let connections = Rc::clone(self);
        let task = spawn_local(async move {
            serving.await;
            connections.open.borrow_mut().remove(&id);
        });
        self.open.borrow_mut().insert(id, Open { seat, shared, task: task.abort_handle() });
    }

    /// Answers the requests of a connection, one after the other.
    async fn serve<S>(
        self: Rc<Self>,
        stream: S,
        (peer, seat): (Peer, Seat),
        shared: Rc<Shared>,
        handler: Handler,
    ) where
        S: ClientStream,
    {
        let gate = Gate::new(stream, self.limits, Rc::clone(&shared));
        let service = service_fn(|request| {
            let (shared, connections) = (Rc::clone(&shared), Rc::clone(&self));
            let refusal = shared.begin();
            let answer: Coming<Answered> = match refusal {
                Some(refusal) => {
                    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
                    let answer = Problem::new(status, refusal.explanation).answer(&HeaderMap::new());
                    Box::pin(async { (answer, None) })
                }
                None if seat == Seat::Reserve && !is_probe(&request) => {
                    let answer = Problem::busy(NO_SEAT).answer(request.headers());
                    Box::pin(async { (answer, None) })
                }
                None => handler(peer, request),
            };
            let response: Coming<io::Result<Response<Full<Bytes>>>> = Box::pin(async move {
                let (answer, id) = answer.await;
                shared.end();
                let closes = refusal.is_some() || seat == Seat::Reserve || connections.is_closing.get();
                Ok(answer.into_response(id.as_deref(), closes))
            });
            response
        });
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_HEADERS).max_buf_size(2 * MAX_HEAD).header_read_timeout(None);
        let mut connection = builder.serve_connection(TokioIo::new(gate), service);
        let mut leave = pin!(shared.leave.notified());
        let ended = poll_fn(|context| match leave.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => connection.poll_without_shutdown(context).map(Some),
        });
        let ended = ended.await;
        let mut stream = connection.into_parts().io.into_inner().into_stream();
        let Some(ended) = ended else {
            return self.refuse_seat(stream).await;
        };
        if ended.is_err() {
            // The client is gone, or did not read its answer in time.
            return;
        }
        if S::HAS_FAREWELL || shared.is_refused() {
            let _ = timeout(LINGER, stream.shutdown()).await;
        }
        if shared.is_refused() {
            let _ = timeout(LINGER, swallow(&mut stream)).await;
        }
    }

    /// Takes the place of a connection away. Its client is told so, unless it has sent a request before: on a
    /// kept connection, an answer that nobody asked for would be taken for that to the next request.
    fn evict(&self, open: &Open) {
        if self.turned_away.get() < MOST_TURNED_AWAY && open.shared.is_untouched() {
            open.shared.leave.notify_one();
        } else {
            open.task.abort();
        }
    }

    /// Tells a client that there is no place. Behind TLS this is noise, which ends the handshake as well.
    fn turn_away(self: &Rc<Self>, accepted: Accepted) {
        let connections = Rc::clone(self);
        spawn_local(async move {
            match accepted {
                Accepted::Tcp(stream, _) => connections.refuse_seat(stream).await,
                Accepted::Unix(stream, _) => connections.refuse_seat(stream).await,
            }
        });
    }

    /// Tells a client that there is no place, and reads what it sends meanwhile.
    async fn refuse_seat(&self, mut stream: impl ClientStream) {
        if self.turned_away.get() >= MOST_TURNED_AWAY {
            return;
        }
        self.turned_away.set(self.turned_away.get() + 1);
        let told = async {
            stream.write_all(FULL).await?;
            stream.shutdown().await?;
            swallow(&mut stream).await;
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, told).await;
        self.turned_away.set(self.turned_away.get() - 1);
    }

    /// Closes all connections whose clients are waited for. The others are closed with their answers.
    pub(super) fn close(&self) {
        self.is_closing.set(true);
        self.open.borrow_mut().retain(|_, open| {
            let is_busy = open.shared.is_busy();
            if !is_busy {
                open.task.abort();
            }
            is_busy
        });
    }

    /// True if a request is being answered.
    pub(super) fn are_busy(&self) -> bool {
        !self.open.borrow().is_empty()
    }
}

/// The TLS of a listener, which is replaced when the certificates are read again.
pub(super) struct SharedTls(RefCell<Option<TlsAcceptor>>);

impl SharedTls {
    pub(super) fn new(acceptor: Option<TlsAcceptor>) -> Rc<Self> {
        Rc::new(SharedTls(RefCell::new(acceptor)))
    }

    pub(super) fn replace(&self, acceptor: TlsAcceptor) {
        *self.0.borrow_mut() = Some(acceptor);
    }
}

/// Reads what is left of a request, up to a limit.
async fn swallow(stream: &mut (impl AsyncRead + Unpin)) {
    let mut piece = [0; 4096];
    let mut left = MOST_LEFT;
    while let Ok(read @ 1..) = pin!(stream.read(&mut piece)).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_without_a_place_is_whole() {
        let text = str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text:?}");
    }
}
