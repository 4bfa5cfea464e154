//! The HTTP client against doubles that hold, hang up and lie; TLS against one that has each kind of
//! certificate.
//!
//! The tests of `source` show an image's stream over the same client.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use url::Url;

use super::double::{Double, impatient};
use super::http::{Client, Method, Request};
use super::tls::{Tls, TlsMode, Trust, client_config};

fn client(trust: Trust) -> Client {
    Client { trust, proxies: Vec::new(), waits: impatient() }
}

/// The status and the body, or all that is said about the failure.
fn ask(client: &Client, request: &Request<'_>) -> Result<(u16, String), String> {
    let mut response = client.send(request).map_err(|error| format!("{error:#}"))?;
    let mut text = String::new();
    response.body.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok((response.status, text))
}

fn get(client: &Client, url: &str) -> Result<(u16, String), String> {
    ask(client, &Request::get(&Url::parse(url).unwrap()))
}

#[test]
fn sends_the_method_headers_and_body_it_is_given() {
    let double =
        Double::says("HTTP/1.1 201 Created\r\nX-Subject-Token: t0ken\r\nContent-Length: 2\r\n\r\n{}");
    let url = Url::parse(&double.url("/v3/auth/tokens?nocatalog")).unwrap();
    let request =
        Request::new(Method::POST, &url).header("content-type", "application/json").body("{\"auth\": 1}");
    let response = client(Trust::System).send(&request).unwrap();
    assert_eq!((response.status, response.header("x-subject-token")), (201, Some("t0ken")));
    assert_eq!(response.message(), "{}");
    let port = double.port;
    assert_eq!(
        double.heads(),
        [format!(
            "POST /v3/auth/tokens?nocatalog HTTP/1.1\nHost: 127.0.0.1:{port}\nUser-Agent: glance-cache\n\
             Accept: */*\nAccept-Encoding: identity\nConnection: close\nContent-Type: application/json\n\
             Content-Length: 11\n{{\"auth\": 1}}"
        )]
    );
    let url = Url::parse("http://127.0.0.1:1/").unwrap();
    let why = ask(&client(Trust::System), &Request::get(&url).header("x-auth-token", "a\r\nb: c"));
    assert!(why.is_err());
    let double = Double::says("HTTP/1.1 204 No Content\r\n\r\n");
    let url = Url::parse(&double.url("/")).unwrap();
    let why = ask(&client(Trust::System), &Request::get(&url).header("x-auth-token", "a\r\nb: c"));
    assert_eq!(why, Err("the header x-auth-token would hold control characters".into()));
    assert_eq!(ask(&client(Trust::System), &Request::new(Method::DELETE, &url)), Ok((204, String::new())));
}

#[test]
fn no_server_holds_the_caller_for_ever() {
    let endless = |once: &'static [u8], again: &'static [u8]| {
        Double::new(move |_, _, stream| {
            let _ = stream.write_all(once);
            while stream.write_all(again).is_ok() {}
        })
    };
    let slow_head = Double::new(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(b"y").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    for (double, expected) in [
        (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "the server sends interim answers without end"),
        (
            endless(b"HTTP/1.1 200 OK\r\n", b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
            "the head of the answer is too long",
        ),
        (slow_head, "no whole answer: it was not complete within 0.5 s"),
        (
            endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n"),
            "the server's chunks are malformed",
        ),
        (
            endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", b";x=y"),
            "the server's chunks are malformed",
        ),
    ] {
        let start = Instant::now();
        let why = get(&client(Trust::System), &double.url("/")).unwrap_err();
        assert!(why.starts_with(expected), "{why}");
        assert!(start.elapsed() < Duration::from_secs(2), "{expected}: {:?}", start.elapsed());
    }
}

#[test]
fn asks_through_the_tunnel_of_a_proxy() {
    let tls = Server::start("server", &rustls::version::TLS13);
    let port = tls.port;
    let proxy = Double::new(move |_, _, stream| {
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut server, stream);
    });
    let proxies = vec![("https".to_owned(), Url::parse(&proxy.url("/")).unwrap())];
    let client = Client { proxies, ..client(Trust::Only(certificate("ca.pem"))) };
    assert_eq!(get(&client, &format!("https://localhost:{port}/x")), Ok((200, "image".into())));
    assert_eq!(proxy.heads(), [format!("CONNECT localhost:{port} HTTP/1.1\nHost: localhost:{port}\n")]);
}

fn certificate(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/certificates", name].iter().collect()
}

/// A web server with one of the test certificates. It ends with the process.
struct Server {
    port: u16,
}

/// Shows a certificate whatever rustls thinks of it.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Server {
    fn start(name: &str, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(name, name, version)
    }

    /// Returns one that shows a certificate but has another's key.
    fn stolen(name: &str, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(name, "server", version)
    }

    fn with(name: &str, key: &str, version: &'static SupportedProtocolVersion) -> Self {
        let provider = Arc::new(ring::default_provider());
        let chain = vec![CertificateDer::from_pem_file(certificate(&format!("{name}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate(&format!("{key}.key"))).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let config =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let shows = Arc::new(Always(Arc::new(CertifiedKey::new(chain, key))));
        Self::run(Arc::new(config.with_no_client_auth().with_cert_resolver(shows)))
    }

    fn run(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut stream =
                    StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), socket.unwrap());
                let mut request = [0; 4096];
                // A client that does not trust it ends the handshake.
                if stream.read(&mut request).is_ok() && !request.starts_with(b"GET /cut ") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage");
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        Server { port }
    }

    /// Says what a client finds that trusts only this file.
    fn seen_by(&self, host: &str, trust: Trust) -> String {
        match get(&client(trust), &format!("https://{host}:{}/", self.port)) {
            Ok((_, text)) => text,
            Err(why) => why.replacen(&format!("cannot establish TLS with {host}: "), "", 1),
        }
    }
}

#[test]
fn certificates_are_trusted_from_an_authority_or_as_they_are() {
    const UNKNOWN: &str =
        "its certificate is of an authority that is not trusted: name the authority, as with";
    const OTHER: &str = "its certificate is for another name";
    const SELF: &str =
        "its certificate is self-signed: name it as the authority, as with cacert or OS_CACERT";
    const EXPIRED: &str = "its certificate has expired";
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (name, trusted, host, expected) in [
            ("server", "ca.pem", "localhost", "image"),
            ("server", "ca.pem", "127.0.0.1", "image"),
            ("server", "ca.pem", "127.0.0.2", OTHER),
            ("server", "other.pem", "localhost", UNKNOWN),
            ("server", "pinned.pem", "localhost", UNKNOWN),
            // Its authority is not known, but it is itself.
            ("server", "server.pem", "localhost", "image"),
            ("server", "server.pem", "127.0.0.2", OTHER),
            ("nameless", "ca.pem", "localhost", OTHER),
            ("nameless", "nameless.pem", "localhost", "image"),
            ("pinned", "pinned.pem", "localhost", "image"),
            ("pinned", "pinned.pem", "127.0.0.1", OTHER),
            ("pinned", "ca.pem", "localhost", SELF),
            ("pinned-old", "pinned-old.pem", "localhost", "image"),
            ("pinned-old", "pinned-old.pem", "127.0.0.1", OTHER),
            ("old", "old.pem", "localhost", "image"),
            ("expired", "expired.pem", "localhost", EXPIRED),
            ("expired-old", "expired-old.pem", "localhost", EXPIRED),
        ] {
            let found = Server::start(name, version).seen_by(host, Trust::Only(certificate(trusted)));
            assert!(found.starts_with(expected), "{name}, trusting {trusted}, {host}: {found}");
        }
        let found = Server::start("old", version).seen_by("localhost", Trust::Only(certificate("ca.pem")));
        assert!(
            found.ends_with("of X.509 version 1, which is not supported: issue one of version 3"),
            "{found}"
        );
        for name in ["server", "pinned", "old", "expired"] {
            assert_eq!(Server::start(name, version).seen_by("localhost", Trust::Anybody), "image", "{name}");
        }
    }
}

/// A pinned certificate is public: only who has its key may show it.
#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for name in ["pinned", "pinned-old"] {
            let stolen = Server::stolen(name, version);
            let found = stolen.seen_by("localhost", Trust::Only(certificate(&format!("{name}.pem"))));
            assert_eq!(found, "the server does not have the key of its certificate", "{name}");
        }
    }
}

#[test]
fn a_server_that_asks_for_it_gets_the_certificate_of_the_client() {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("ca.pem")).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier.build().unwrap()).with_single_cert(chain, key);
    let server = Server::run(Arc::new(config.unwrap()));
    let url = Url::parse(&format!("https://localhost:{}/", server.port)).unwrap();
    let client = client(Trust::Only(certificate("ca.pem")));
    let ask_with = |name: &str| {
        let identity = (certificate(&format!("{name}.pem")), certificate(&format!("{name}.key")));
        ask(&client, &Request::get(&url).certificate(Some(&identity)))
    };
    assert_eq!(ask_with("server"), Ok((200, "image".into())));
    assert!(ask_with("pinned").is_err());
    assert!(ask(&client, &Request::get(&url)).is_err());
    let missing = ask_with("missing").unwrap_err();
    assert!(missing.starts_with("cannot use the client certificate "), "{missing}");
}

/// The other protocol is at the other port.
#[test]
fn http_and_https_at_the_wrong_port_are_told() {
    let server = Server::start("server", &rustls::version::TLS13);
    let why = get(&client(Trust::System), &format!("http://localhost:{}/", server.port)).unwrap_err();
    assert_eq!(why, "the answer is not HTTP: is it https?");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in plain.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let why = get(&client(Trust::Anybody), &format!("https://localhost:{port}/")).unwrap_err();
    assert!(why.ends_with(": the server does not speak TLS there: is it http?"), "{why}");
}

#[test]
fn a_server_that_ends_an_encrypted_connection_at_once_is_told_in_plain_words() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = Server::start("server", version);
        let client = client(Trust::Only(certificate("ca.pem")));
        let why = get(&client, &format!("https://localhost:{}/cut", server.port)).unwrap_err();
        assert_eq!(why, "connection error: the server closed the connection");
    }
}

#[test]
fn a_client_certificate_of_version_1_is_named() {
    let identity = Some((certificate("old.pem"), certificate("old.key")));
    let tls = Tls { mode: TlsMode::Full, ca: Some(certificate("ca.pem")), identity };
    let why = client_config(&tls).unwrap_err().to_string();
    assert!(why.starts_with("the client certificate ") && why.contains("X.509 version 1"), "{why}");
}
