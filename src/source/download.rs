//! A stream over HTTP that is resumed when it breaks.
//!
//! When it breaks, the rest is asked for with `Range`, and only if a validator proves that the content is
//! still the same: a strong `ETag`, else `Last-Modified` when it is older than the answer. A few tries in a
//! row without progress end it, with growing pauses between them. Without a validator or without ranges, the
//! reader gets the error that broke the stream; likewise when the server is too slow.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::names::escaped;
use crate::net::http::{HttpBody, Response};
use crate::net::wire::{TooSlow, Waits};
use crate::source::opened::{Body, Opened};

/// Tries in a row that bring less than [`PROGRESS`].
const TRIES: u32 = 4;
const PROGRESS: u64 = 1024 * 1024;
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Asks for the whole, or for the rest from a position as long as a validator matches. Answers other than
/// 200, 206 and 416 are errors.
pub(super) type Ask = dyn Fn(Option<(u64, &str)>) -> Result<Response> + Send;

/// Opens an image at its start.
pub(super) fn open(ask: Box<Ask>, waits: Waits) -> Result<Opened> {
    let response = ask(None)?;
    ensure!(response.status == 200, "the server answers {} to a plain request", response.status);
    let size = response.body.length();
    let validator = validator(&response);
    let encoding =
        response.header("content-encoding").filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    let encoding = encoding.map(|encoding| escaped(encoding.as_bytes()));
    let download = Download {
        ask,
        waits,
        size,
        validator,
        body: response.body,
        at: 0,
        resumed_at: 0,
        tries: 0,
        over: false,
    };
    Ok(Opened { size, encoding, body: Body::Stream(Box::new(download)) })
}

/// Returns the header that proves that a later answer is of the same content.
fn validator(response: &Response) -> Option<String> {
    let tag = response.header("etag").filter(|tag| tag.starts_with('"'));
    let date = response.header("date");
    // Content that is as new as the answer may change within the same second.
    let modified =
        response.header("last-modified").filter(|modified| date.is_some_and(|date| date != *modified));
    tag.or(modified).map(str::to_owned)
}

struct Download {
    ask: Box<Ask>,
    waits: Waits,
    /// In bytes, as the server said in its first answer.
    size: Option<u64>,
    validator: Option<String>,
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
                return Err(io::Error::other(format!("{error:#}")));
            }
        }
    }
}

impl Download {
    /// Resumes the stream where it broke. Fails with the reason if it cannot.
    fn resume(&mut self, broken: &io::Error) -> Result<()> {
        let mut why = self.reason(broken);
        let Some(validator) = self.validator.clone() else {
            return Err(
                why.context("not resumed: the server gives no strong ETag and no older Last-Modified")
            );
        };
        if self.at - self.resumed_at >= PROGRESS {
            self.tries = 0;
        }
        self.resumed_at = self.at;
        while self.tries < TRIES {
            let pause = self.waits.pause.saturating_mul(1 << self.tries).min(MAX_PAUSE);
            self.tries += 1;
            self.waits.sleep(pause)?;
            match (self.ask)(Some((self.at, &validator))) {
                Ok(response) => {
                    self.body = self.checked(response)?;
                    return Ok(());
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
    fn checked(&self, response: Response) -> Result<HttpBody> {
        let range = response.header("content-range").and_then(|range| range.strip_prefix("bytes "));
        let (place, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        let total: Option<u64> = total.parse().ok();
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
                let validator = self.validator.as_deref().unwrap_or_default();
                let name = if validator.starts_with('"') { "etag" } else { "last-modified" };
                ensure!(
                    response.header(name).is_none_or(|now| now == validator),
                    "the image changed while it was read"
                );
                Ok(response.body)
            }
            416 => {
                let size = self.size.map_or("more".to_owned(), |size| format!("{size} bytes"));
                let total = total.context("the server refuses to resume where the stream broke")?;
                Err(anyhow!("the server had announced {size}, but it has only {total}"))
            }
            _ => Err(anyhow!(
                "not resumed after {} bytes: the image changed while it was read, or the server does not \
                 support ranges",
                self.at
            )),
        }
    }
}
