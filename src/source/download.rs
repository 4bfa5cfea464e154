//! A stream over HTTP that is resumed when it breaks.
//!
//! When it breaks, the rest is asked for with `Range`, and only if a validator proves that the content is
//! still the same; each kind of server has its own ([`Proving`]). A few tries in a row without progress end
//! it, with growing pauses between them. Without a validator or without ranges, the reader gets the error
//! that broke the stream; likewise when the server is too slow, or says that another try is useless
//! ([`Hopeless`]).
//!
//! A server that is busy may say when to come back; [`patiently`] does so a few times for each request, if
//! that is soon. One that is still busy then ends the stream, too, and is not waited for by the images that
//! come next ([`BusyServers`]).

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use url::{Origin, Url};

use crate::names::escaped;
use crate::net::http::{HttpBody, Response};
use crate::net::wire::{TooSlow, Waits};
use crate::source::opened::{Body, End, Opened, WrongData};

/// Tries in a row that bring less than [`PROGRESS`].
const TRIES: u32 = 4;
const PROGRESS: u64 = 1024 * 1024;
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// Times that a busy server is asked again.
const RETURNS: u32 = 3;
/// A server that wants to be left alone for longer than this is not waited for.
const MAX_RETURN: Duration = Duration::from_secs(60);

/// Asks for the whole, or for the rest from a position as long as a validator matches. Answers other than
/// 200, 206 and 416 are errors.
pub(super) type Ask = dyn Fn(Option<(u64, &str)>) -> Result<Response> + Send;

/// The way in which a kind of server proves that a later answer is of the same content.
#[derive(Clone, Copy)]
pub(super) struct Proving {
    /// Returns the header of an answer that proves it, if there is one.
    pub(super) find: fn(&Response) -> Option<Proof>,
    /// The part that an answer without proof lacks, in words.
    pub(super) lacking: &'static str,
    /// True if each later answer has to have the header again. Otherwise the server itself compares it.
    pub(super) is_repeated: bool,
}

/// A header, and the value that it has as long as the content is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) header: &'static str,
    pub(super) value: String,
}

/// Servers that honour `If-Range`: a strong `ETag`, else `Last-Modified` when it is older than the answer.
pub(super) const BY_IF_RANGE: Proving = Proving {
    find: of_web,
    lacking: "the server gives no strong ETag and no older Last-Modified",
    is_repeated: false,
};

/// A refusal that the same request will get again, or got again as often as it helps.
#[derive(Debug)]
pub(super) struct Hopeless(pub(super) String);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Servers that were busy through all the patience of one image. A run asks for many images, and would wait
/// as long for each of them.
#[derive(Clone, Debug, Default)]
pub(super) struct BusyServers(Arc<Mutex<Vec<Origin>>>);

impl BusyServers {
    fn has(&self, url: &Url) -> bool {
        self.locked().contains(&url.origin())
    }

    fn note(&self, url: &Url, is_busy: bool) {
        let mut servers = self.locked();
        servers.retain(|origin| *origin != url.origin());
        if is_busy {
            servers.push(url.origin());
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is repeated while its server is busy.
pub(super) struct Patient<'a> {
    pub(super) url: &'a Url,
    pub(super) waits: &'a Waits,
    pub(super) busy: &'a BusyServers,
    /// True for the start of an image, which nothing else repeats.
    pub(super) is_start: bool,
}

/// Asks, and asks again while the server says that it is busy. Returns the last answer, busy or not.
///
/// At the start of an image, a server that is out of order is busy, too, and one that another image found
/// busy to the end is asked once. An image of which a part was read is not given up for that.
pub(super) fn patiently(request: &Patient<'_>, ask: impl Fn() -> Result<Response>) -> Result<Response> {
    let is_unready =
        |response: &Response| is_busy(response.status) || (request.is_start && is_broken(response.status));
    let returns = if request.is_start && request.busy.has(request.url) { 0 } else { RETURNS };
    for again in 0..returns {
        let response = ask()?;
        let doubled = request.waits.pause.saturating_mul(1 << again);
        match response.retry_after() {
            _ if !is_unready(&response) => {
                request.busy.note(request.url, false);
                return Ok(response);
            }
            Some(pause) if pause > MAX_RETURN => return Ok(response),
            pause => request.waits.sleep(pause.unwrap_or(doubled))?,
        }
    }
    let response = ask()?;
    request.busy.note(request.url, is_unready(&response));
    Ok(response)
}

/// True if a server, or what it depends on, fails for now.
fn is_broken(status: u16) -> bool {
    matches!(status, 500 | 502 | 504)
}

/// True if a server will probably answer another time. 498 is what Swift's own limit of requests says.
pub(super) fn is_busy(status: u16) -> bool {
    matches!(status, 429 | 498 | 503)
}

/// Returns the error for an answer that is no success. A busy server was asked several times already
/// ([`patiently`]).
pub(super) fn refused(status: u16, message: String) -> Error {
    if is_busy(status) || (400..500).contains(&status) { Hopeless(message).into() } else { anyhow!(message) }
}

/// Returns what a busy server says, in words.
pub(super) fn busy(response: &Response) -> String {
    match response.retry_after() {
        None => "it is busy: try again later".to_owned(),
        Some(pause) => format!("it is busy, and wants to be asked again in {} s", pause.as_secs()),
    }
}

/// Opens an image at its start. `expected` is its size in bytes, for servers that do not say it.
pub(super) fn open(ask: Box<Ask>, waits: Waits, proving: Proving, expected: Option<u64>) -> Result<Opened> {
    let response = ask(None)?;
    ensure!(response.status == 200, "the server answers {} to a plain request", response.status);
    let size = response.body.length();
    let end = if response.body.is_end_announced() { End::Announced } else { End::Unproven };
    let validator = (proving.find)(&response);
    let encoding =
        response.header("content-encoding").filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    let encoding = encoding.map(|encoding| escaped(encoding.as_bytes()));
    let download = Download {
        ask,
        waits,
        size: size.or(expected),
        is_announced: size.is_some(),
        proving,
        validator,
        body: response.body,
        at: 0,
        resumed_at: 0,
        tries: 0,
        over: false,
    };
    Ok(Opened { size, encoding, end, warning: None, body: Body::Stream(Box::new(download)) })
}

/// Returns the header that proves that a later answer is of the same content.
fn of_web(response: &Response) -> Option<Proof> {
    let tag = response.header("etag").filter(|tag| tag.starts_with('"'));
    let date = response.header("date");
    // Content that is as new as the answer may change within the same second.
    let modified =
        response.header("last-modified").filter(|modified| date.is_some_and(|date| date != *modified));
    let of = |header, value: &str| Proof { header, value: value.to_owned() };
    tag.map(|tag| of("etag", tag)).or(modified.map(|modified| of("last-modified", modified)))
}

struct Download {
    ask: Box<Ask>,
    waits: Waits,
    /// In bytes.
    size: Option<u64>,
    /// True if the server said the size in its first answer.
    is_announced: bool,
    proving: Proving,
    validator: Option<Proof>,
    body: HttpBody,
    /// Position up to which it was read, in bytes.
    at: u64,
    /// Position at which the last try began.
    resumed_at: u64,
    tries: u32,
    /// True once it failed for good.
    over: bool,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.over {
            return Err(io::Error::other("the stream has failed before"));
        }
        loop {
            let error = match self.body.read(buffer) {
                // A later answer need not have said its length again.
                Ok(0) if !buffer.is_empty() && self.size.is_some_and(|size| self.at < size) => {
                    ErrorKind::UnexpectedEof.into()
                }
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(read);
                }
                Err(error) => error,
            };
            self.waits.go_on()?;
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooSlow>) {
                self.over = true;
                return Err(error);
            }
            if let Err(error) = self.resume(&error) {
                self.over = true;
                let message = format!("{error:#}");
                let error = if error.is::<WrongData>() {
                    io::Error::other(WrongData(message))
                } else {
                    io::Error::other(message)
                };
                return Err(error);
            }
        }
    }
}

impl Download {
    /// Resumes the stream where it broke. Fails with the reason if it cannot.
    fn resume(&mut self, broken: &io::Error) -> Result<()> {
        let mut why = self.reason(broken);
        let Some(validator) = self.validator.clone() else {
            return Err(why.context(format!("not resumed: {}", self.proving.lacking)));
        };
        if self.at - self.resumed_at >= PROGRESS {
            self.tries = 0;
        }
        self.resumed_at = self.at;
        while self.tries < TRIES {
            let pause = self.waits.pause.saturating_mul(1 << self.tries).min(MAX_PAUSE);
            self.tries += 1;
            self.waits.sleep(pause)?;
            match (self.ask)(Some((self.at, &validator.value))) {
                Ok(response) => {
                    self.body = self.checked(response, &validator)?;
                    return Ok(());
                }
                Err(error) if error.is::<Hopeless>() => {
                    return Err(error.context(format!("not resumed after {} bytes", self.at)));
                }
                Err(error) => {
                    self.waits.go_on()?;
                    why = error;
                }
            }
        }
        Err(why.context(format!("given up after {} bytes and {TRIES} tries to resume", self.at)))
    }

    /// Returns the error for a stream that broke, with how far it came.
    fn reason(&self, broken: &io::Error) -> anyhow::Error {
        match (broken.kind(), self.size) {
            (ErrorKind::UnexpectedEof, Some(size)) if !self.is_announced => {
                anyhow!("the server ended the stream after {} of the image's {size} bytes", self.at)
            }
            (ErrorKind::UnexpectedEof, Some(size)) => {
                anyhow!("the server ended the stream after {} of the {size} bytes it had announced", self.at)
            }
            (ErrorKind::UnexpectedEof, None) => {
                anyhow!("the server ended the stream after {} bytes, before its end", self.at)
            }
            _ => anyhow!("{broken} (after {} bytes)", self.at),
        }
    }

    /// Returns the body, if it goes on exactly where the last one broke.
    fn checked(&self, response: Response, validator: &Proof) -> Result<HttpBody> {
        let range = response.header("content-range").and_then(|range| range.strip_prefix("bytes "));
        let (place, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        let total: Option<u64> = total.parse().ok();
        let now = response.header(validator.header);
        let is_other = now.is_some_and(|now| now != validator.value);
        let is_proven = now.is_some() || !self.proving.is_repeated;
        match response.status {
            206 => {
                let from = place.split_once('-').and_then(|(from, _)| from.parse().ok());
                ensure!(from == Some(self.at), "the server resumes at another place than asked");
                let size = self.size.or(total);
                ensure!(
                    total.is_none_or(|total| Some(total) == size),
                    "the image has another size than before"
                );
                // Not all servers honour If-Range.
                ensure!(is_proven && !is_other, "the image changed while it was read");
                Ok(response.body)
            }
            416 => {
                ensure!(!is_other, "the image changed while it was read");
                let size = self.size.filter(|_| self.is_announced);
                let size = size.map_or("more".to_owned(), |size| format!("{size} bytes"));
                let total = total.context("the server refuses to resume where the stream broke")?;
                let why = format!("the server had announced {size}, but it has only {total}");
                // An object that was replaced by a shorter one looks the same without its tag.
                ensure!(is_proven, "{why}: perhaps the image changed while it was read");
                Err(WrongData(why).into())
            }
            _ => Err(anyhow!(
                "not resumed after {} bytes: the image changed while it was read, or the server does not \
                 support ranges",
                self.at
            )),
        }
    }
}
