//! TLS of the service, with a client that fails if an answer may have been cut off.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::env::*;
use crate::support::service::{Reply, Service};

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

/// Sends a request, and reads until the server says that its answer is whole.
fn ask(address: &str, request: &str) -> std::io::Result<Reply> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(certificate("ca.pem")).unwrap() {
        roots.add(authority.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(Service::request(request, "").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(Reply::new(&answer))
}

#[test]
fn answers_end_with_a_farewell_and_certificates_are_read_again() {
    let env = TestEnv::sqlite(FIVE);
    let install = |name: &str| {
        for end in ["pem", "key"] {
            env.write(&format!("tls.{end}"), fs::read(certificate(&format!("{name}.{end}"))).unwrap());
        }
    };
    install("server");
    let (pem, key) = (env.outside("tls.pem"), env.outside("tls.key"));
    let conf = env.conf(&format!(
        "[cache_api]\nauth_strategy = none\ncert_file = {}\nkey_file = {}\n",
        pem.display(),
        key.display()
    ));
    let service = Service::at(&env, &conf, &["--bind", "127.0.0.1:0"]);
    let address = service.address.clone().unwrap();
    assert_eq!(ask(&address, "GET /healthcheck").unwrap().is(200).body, "OK");
    ask(&address, "GET /v2/cache").unwrap().is(200);
    // A certificate without names is refused by the client; the service has to read it for that.
    install("nameless");
    service.signal(Signal::HUP);
    until("the certificate", || service.stderr().contains("SIGHUP: read the certificates again"));
    let refused = ask(&address, "GET /healthcheck").unwrap_err();
    println!("a certificate without names: {refused}");
    fs::write(&pem, "nothing").unwrap();
    service.signal(Signal::HUP);
    until("the error", || service.stderr().contains("SIGHUP: the old certificate stays in use: "));
    // Reading a FIFO would keep everybody waiting.
    fs::remove_file(&key).unwrap();
    system(&["mkfifo", key.to_str().unwrap()]);
    env.write("tls.pem", fs::read(certificate("server.pem")).unwrap());
    service.signal(Signal::HUP);
    until("the error", || service.stderr().contains("it is not a regular file"));
    fs::remove_file(&key).unwrap();
    install("server");
    service.signal(Signal::HUP);
    until("the certificate", || ask(&address, "GET /healthcheck").is_ok_and(|reply| reply.status == 200));
}
