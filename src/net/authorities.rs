//! Keeps a library from trusting the public authorities that it has built in.
//!
//! The client for MySQL always adds the public authorities of the crate `webpki-roots` to those it is given.
//! A database has to be verified against the file that is set for it (`ssl_ca`) and nothing else: otherwise,
//! where the host name is not checked, anybody's public certificate would do. The client has no option for
//! that and takes no verifier. But it checks every signature of a certificate with the algorithms of rustls'
//! default provider, and those are replaced here: while [`trusting_only`] runs, only an authority that the
//! settings name may sign, or one that was signed by it. Outside of it none may.
//!
//! This tool's own TLS ([`super::tls`]) does not use the default provider and is not affected.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm as Algorithm};

use super::tls::{Tls, TlsMode, authorities};

thread_local! {
    /// The keys of the authorities that may sign for this thread, each at the end of its entry, and all
    /// certificates that have been found to be signed by them.
    static TRUSTED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Opens a connection that trusts no other authorities than the settings name: those of the file, or else the
/// system's.
///
/// `connect` has to verify on the thread that called it, as the client for MySQL does. Fails if the
/// authorities cannot be read.
pub(crate) fn trusting_only<T>(tls: &Tls, connect: impl FnOnce() -> T) -> Result<T> {
    guard()?;
    let verified = matches!(tls.mode, TlsMode::Authority | TlsMode::Full);
    let named = if verified { authorities(tls)?.roots } else { Vec::new() };
    TRUSTED.set(named.into_iter().map(|authority| authority.subject_public_key_info.to_vec()).collect());
    let connected = connect();
    TRUSTED.set(Vec::new());
    Ok(connected)
}

/// Makes the guarded algorithms those of rustls' default provider, once for the process.
fn guard() -> Result<()> {
    let guarded = || {
        let all =
            CryptoProvider::get_default().map(|provider| provider.signature_verification_algorithms.all);
        all.is_some_and(|all| all.iter().all(|algorithm| format!("{algorithm:?}").starts_with("Guarded(")))
    };
    if !guarded() {
        let mut provider = ring::default_provider();
        let WebPkiSupportedAlgorithms { all, mapping } = provider.signature_verification_algorithms;
        let guards = all.iter().map(|&algorithm| &*Box::leak(Box::new(Guarded(algorithm))) as &dyn Algorithm);
        let all = Box::leak(guards.collect::<Box<[_]>>());
        provider.signature_verification_algorithms = WebPkiSupportedAlgorithms { all, mapping };
        // It fails if another thread was quicker, which is as good.
        let _ = provider.install_default();
    }
    ensure!(guarded(), "another part of the program has set up TLS for all connections");
    Ok(())
}

/// An algorithm that finds no signature valid unless its key is trusted.
#[derive(Debug)]
struct Guarded(&'static dyn Algorithm);

impl Algorithm for Guarded {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let holds = |known: &Vec<u8>| known.windows(key.len().max(1)).any(|part| part == key);
        if !TRUSTED.with_borrow(|trusted| trusted.iter().any(holds)) {
            return Err(InvalidSignature);
        }
        self.0.verify_signature(key, message, signature)?;
        // The message is a certificate without its signature; its key may sign the next.
        TRUSTED.with_borrow_mut(|trusted| trusted.push(message.to_vec()));
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::thread;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, Stream};

    use super::*;

    fn certificate(name: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "tests/certificates", name].iter().collect()
    }

    /// A server that speaks MySQL as far as TLS goes, and then refuses the password of anybody. Serves one
    /// client.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        thread::spawn(move || serve(&mut listener.accept().unwrap().0, config));
        port
    }

    fn serve(socket: &mut TcpStream, config: Arc<ServerConfig>) {
        // Protocol 10 with TLS; the eight bytes after the zero are half of the nonce.
        let greeting = b"\x0a8.0.0\0\x01\0\0\0nonce-89\0\x09\xaa\x2d\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0\
                         nonce-abcdef\0mysql_native_password\0";
        let packet = |n: u8, body: &[u8]| [&[body.len() as u8, 0, 0, n], body].concat();
        socket.write_all(&packet(0, greeting)).unwrap();
        socket.read_exact(&mut [0; 36]).unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        let mut stream = Stream::new(&mut tls, socket);
        if stream.read(&mut [0; 512]).is_ok() {
            stream.write_all(&packet(3, b"\xff\x15\x04#28000nobody gets in")).unwrap();
        }
    }

    /// Connects with a client that trusts one file, while the settings name another.
    fn connect(trusted: &str, named: &str, mode: TlsMode) -> String {
        let options = mysql::SslOpts::default().with_root_cert_path(Some(certificate(trusted)));
        let options =
            mysql::OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(server()).ssl_opts(options);
        let tls = Tls { mode, ca: Some(certificate(named)), identity: None };
        trusting_only(&tls, || mysql::Conn::new(options)).unwrap().err().unwrap().to_string()
    }

    #[test]
    fn the_client_trusts_only_the_authorities_that_the_settings_name() {
        for mode in [TlsMode::Authority, TlsMode::Full] {
            let found = connect("ca.pem", "ca.pem", mode);
            assert!(found.contains("nobody gets in"), "{found}");
            // As with the authorities that are built in: the client trusts this one, the settings do not.
            let found = connect("ca.pem", "other.pem", mode);
            assert!(found.contains("BadSignature"), "{found}");
            let found = connect("other.pem", "ca.pem", mode);
            assert!(found.contains("UnknownIssuer"), "{found}");
        }
    }
}
