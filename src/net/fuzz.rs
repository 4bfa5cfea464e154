//! Answers of web servers with any bytes: heads, interim answers, chunks, trailers.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use url::Url;

use super::double::{Double, impatient};
use super::http::{Client, Request};
use super::tls::Trust;
use crate::fuzzing::{fuzz, kind};

#[test]
fn answers_of_any_bytes() {
    let says = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&says);
    let server = Double::new(move |_, _, stream| {
        let _ = stream.write_all(&said.lock().unwrap());
    });
    let url = Url::parse(&server.url("/image")).unwrap();
    let client = Client { trust: Trust::System, proxies: Vec::new(), waits: impatient() };
    fuzz("http", |bytes| {
        *says.lock().unwrap() = bytes.to_vec();
        match client.send(&Request::get(&url)) {
            Err(error) => format!("{error:#}"),
            Ok(response) => {
                let _ = response.header("location");
                let length = response.body.length();
                let mut body = Vec::new();
                let read = response.body.take(1 << 20).read_to_end(&mut body);
                format!("{} {} {}", response.status, length.is_some(), kind(&read))
            }
        }
    });
}
