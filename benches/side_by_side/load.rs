//! A client that sends one request after the other on several connections, and measures each answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

/// The number of connections.
pub(super) const CONNECTIONS: usize = 8;

/// The use of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reuse {
    /// A new connection for each request, as most clients of the API do.
    New,
    /// Connections are kept, as front ends do.
    Kept,
}

/// The answers of some time.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Answers in a second.
    pub(super) rate: f64,
    /// Seconds: the median, and the time within which 99 of 100 answers came.
    pub(super) median: f64,
    pub(super) most: f64,
    /// The number of other answers than 200, which the figures leave out.
    pub(super) failed: usize,
}

/// Sends a request for some time.
pub(super) fn load(address: &str, line: &str, token: &str, reuse: Reuse, time: Duration) -> Result<Load> {
    let length = if line.starts_with("POST") { "Content-Length: 0\r\n" } else { "" };
    let close = if reuse == Reuse::New { "Connection: close\r\n" } else { "" };
    let request =
        format!("{line} HTTP/1.1\r\nHost: {address}\r\nX-Auth-Token: {token}\r\n{length}{close}\r\n");
    let start = Instant::now();
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (address, request) = (address.to_owned(), request.clone());
            thread::spawn(move || client(&address, &request, reuse, start + time))
        })
        .collect();
    let (mut answers, mut failed) = (Vec::new(), 0);
    for thread in threads {
        let of_client = thread.join().map_err(|_| anyhow!("a client failed"))??;
        failed += of_client.iter().filter(|answer| answer.is_none()).count();
        answers.extend(of_client.into_iter().flatten());
    }
    let took = start.elapsed().as_secs_f64();
    ensure!(!answers.is_empty(), "{line}: no answer came");
    answers.sort_by(f64::total_cmp);
    let rate = answers.len() as f64 / took;
    Ok(Load { rate, median: answers[answers.len() / 2], most: answers[answers.len() * 99 / 100], failed })
}

/// One connection. Returns how long each answer took, in seconds, and `None` for another one than 200.
fn client(address: &str, request: &str, reuse: Reuse, end: Instant) -> Result<Vec<Option<f64>>> {
    let mut answers = Vec::new();
    let mut kept: Option<TcpStream> = None;
    let mut buffer = Vec::with_capacity(1 << 18);
    while Instant::now() < end {
        let start = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(address)?,
        };
        stream.write_all(request.as_bytes())?;
        let is_good = answer(&mut stream, &mut buffer).with_context(|| format!("cannot use {address}"))?;
        answers.push(is_good.then(|| start.elapsed().as_secs_f64()));
        kept = (reuse == Reuse::Kept).then_some(stream);
    }
    Ok(answers)
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Reads an answer to the end of its body, and returns if it is a 200.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<bool> {
    buffer.clear();
    let mut piece = vec![0; 65536];
    let (mut whole, mut is_good) = (None, false);
    while whole.is_none_or(|whole| buffer.len() < whole) {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the connection ended after {} bytes", buffer.len());
        buffer.extend_from_slice(&piece[..read]);
        if whole.is_none()
            && let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            is_good = head.split(' ').nth(1) == Some("200");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            whole = Some(end + 4 + length.context("an answer without a length")?.trim().parse::<usize>()?);
        }
    }
    Ok(is_good)
}
