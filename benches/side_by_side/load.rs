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
}

/// Sends a request for some time, and fails if any answer is another one than 200.
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
    let mut answers: Vec<f64> = Vec::new();
    for thread in threads {
        answers.extend(thread.join().map_err(|_| anyhow!("a client failed"))??);
    }
    let took = start.elapsed().as_secs_f64();
    ensure!(!answers.is_empty(), "{line}: no answer came");
    answers.sort_by(f64::total_cmp);
    let rate = answers.len() as f64 / took;
    Ok(Load { rate, median: answers[answers.len() / 2], most: answers[answers.len() * 99 / 100] })
}

/// One connection. Returns how long each answer took, in seconds.
fn client(address: &str, request: &str, reuse: Reuse, end: Instant) -> Result<Vec<f64>> {
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
        answer(&mut stream, &mut buffer)?;
        answers.push(start.elapsed().as_secs_f64());
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

/// Reads an answer to the end of its body.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    let mut piece = vec![0; 65536];
    let mut whole = None;
    while whole.is_none_or(|whole| buffer.len() < whole) {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the connection ended after {} bytes", buffer.len());
        buffer.extend_from_slice(&piece[..read]);
        if whole.is_none()
            && let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            ensure!(
                head.split(' ').nth(1) == Some("200"),
                "the answer is {}",
                head.lines().next().unwrap_or("")
            );
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            whole = Some(end + 4 + length.context("an answer without a length")?.trim().parse::<usize>()?);
        }
    }
    Ok(())
}
