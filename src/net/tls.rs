//! TLS as the settings ask for it, for databases and for HTTP: rustls, with the system's authorities unless a
//! file is named.
//!
//! Nothing is left unverified unless a setting says so in so many words, or the setting would have accepted
//! no encryption at all. A certificate that the file holds itself is trusted without an authority, if it has
//! not expired and names the host; that is how self-signed certificates of servers are pinned. X.509 version
//! 1 is supported for pinned certificates only.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError,
    InvalidMessage, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::pinned::{self, SelfSigned};
use crate::os::text::open_regular;

/// The encryption of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) mode: TlsMode,
    /// The only authorities to trust (PEM); without it, the system's.
    pub(crate) ca: Option<PathBuf>,
    /// This client's certificate and key (PEM).
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// The part of TLS that the settings ask for, from none to all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum TlsMode {
    /// Not asked for.
    #[default]
    Off,
    /// Encrypted where the server offers it, unverified: what libpq does when nothing is said.
    Offered,
    /// Encrypted, and the settings say in so many words that it is not to be verified.
    Unverified,
    /// The certificate must come from an authority, whatever host it names.
    Authority,
    /// The certificate must come from an authority and name the host.
    Full,
}

/// The files of certificates that the settings name cannot be used. Another try would not help.
#[derive(Debug)]
pub(crate) struct UnusableCertificates(String);

impl fmt::Display for UnusableCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnusableCertificates {}

/// Which certificates are accepted from a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those of the system's authorities.
    System,
    /// Those of the authorities in a file (PEM), and of no others.
    Only(PathBuf),
    /// Any.
    Anybody,
}

/// Returns the file of the authorities that the system trusts, from where distributions keep it.
#[expect(clippy::disallowed_methods, reason = "the distribution's own files, below directories of root")]
pub(crate) fn system_authorities() -> Option<PathBuf> {
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ]
    .iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
}

/// Reads the certificates to trust: those of the file that the settings name, or else the system's.
fn certificates(tls: &Tls) -> Result<(Vec<CertificateDer<'static>>, RootCertStore)> {
    let file =
        tls.ca.clone().or_else(system_authorities).context("no certificate authorities are installed")?;
    let shown = || format!("cannot read certificate authorities from {}", file.display());
    let (mut all, mut roots) = (Vec::new(), RootCertStore::empty());
    for certificate in CertificateDer::pem_reader_iter(open(&file).with_context(shown)?) {
        let certificate = certificate.with_context(shown)?;
        roots.add(certificate.clone()).with_context(shown)?;
        all.push(certificate);
    }
    Ok((all, roots))
}

/// Opens a file with certificates. Says of a directory what it is: OpenSSL takes one, too.
fn open(file: &Path) -> Result<BufReader<File>> {
    let opened = open_regular(file).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => anyhow!("it is a directory: name a file with the certificates (PEM)"),
        _ => error.into(),
    });
    opened.map(BufReader::new)
}

/// Reads the authorities to trust: those of the file that the settings name, or else the system's.
pub(super) fn authorities(tls: &Tls) -> Result<RootCertStore> {
    Ok(certificates(tls)?.1)
}

/// Returns the configuration of rustls for what the settings ask for.
pub(crate) fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(tls)?));
    Ok(match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let shown = || format!("cannot use the client certificate {} or its key", certificate.display());
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_reader_iter(open(certificate).with_context(shown)?).collect();
            let chain = chain.with_context(shown)?;
            ensure!(
                !chain.first().is_some_and(pinned::is_version_1),
                "the client certificate {} is of X.509 version 1, which is not supported: issue one of \
                 version 3",
                certificate.display()
            );
            let key = PrivateKeyDer::from_pem_reader(open(key).with_context(shown)?).with_context(shown)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| anyhow!(plain(&e))).with_context(shown)?
        }
    })
}

/// Returns what makes TLS connections to web servers, with this client's certificate and key (PEM), if any.
pub(super) fn connector(trust: &Trust, identity: Option<&(PathBuf, PathBuf)>) -> Result<TlsConnector> {
    let (mode, ca) = match trust {
        Trust::System => (TlsMode::Full, None),
        Trust::Only(file) => (TlsMode::Full, Some(file.clone())),
        Trust::Anybody => (TlsMode::Unverified, None),
    };
    let config = client_config(&Tls { mode, ca, identity: identity.cloned() });
    let config = config.map_err(|error| UnusableCertificates(format!("{error:#}")))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Returns the name that a server's certificate has to hold, for a host as URLs have it.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    name.with_context(|| format!("'{host}' is not a valid TLS server name"))
}

/// Returns the text of an error of a connection. Rustls refers to its manual where the other side ends a
/// connection without the message that TLS has for that.
pub(crate) fn without_manual(text: String) -> String {
    if text.contains("close_notify") { "the server closed the connection".to_owned() } else { text }
}

/// Returns an error of TLS in plain words. The library's own are left where they are plain, or too rare.
pub(crate) fn plain(error: &TlsError) -> String {
    let words = match error {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS there: is it http?"
        }
        TlsError::InconsistentKeys(_) => "the key is not that of the certificate",
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of this client: name one, as with cert or OS_CERT"
        }
        TlsError::InvalidCertificate(wrong) => match wrong {
            CertificateError::Other(other) if other.0.is::<SelfSigned>() => {
                "its certificate is self-signed: name it as the authority, as with cacert or OS_CACERT"
            }
            CertificateError::UnknownIssuer => {
                "its certificate is of an authority that is not trusted: name the authority, as with cacert \
                 or OS_CACERT"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::BadSignature => "the server does not have the key of its certificate",
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    words.to_owned()
}

/// Verifies a server's certificate as far as the settings ask for it.
#[derive(Debug)]
struct Verifier {
    /// `None` where nothing is to be verified.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are trusted as they are.
    pinned: Vec<CertificateDer<'static>>,
    any_host: bool,
}

impl Verifier {
    fn new(tls: &Tls) -> Result<Self> {
        let any_host = tls.mode == TlsMode::Authority;
        if matches!(tls.mode, TlsMode::Unverified | TlsMode::Offered) {
            return Ok(Verifier { authorities: None, pinned: Vec::new(), any_host });
        }
        let (pinned, roots) = certificates(tls)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.context("cannot use the certificate authorities")?;
        Ok(Verifier { authorities: Some(verifier), pinned, any_host })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        match authorities.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last, when everything else is found to be in order.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_host => Ok(ServerCertVerified::assertion()),
            Err(_) if self.pinned.iter().any(|pinned| pinned == certificate) => {
                pinned::verify(certificate, Some(name).filter(|_| !self.any_host), now)
            }
            Err(e) if pinned::is_version_1(certificate) => Err(pinned::unsupported(&e)),
            // The library has other words for each kind of them.
            Err(_) if pinned::is_self_signed(certificate) => Err(SelfSigned::error()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        if self.authorities.is_none() {
            // Any certificate is accepted, so that there is nothing to prove.
            return Ok(HandshakeSignatureValid::assertion());
        }
        if pinned::is_version_1(certificate) {
            return pinned::verify_signature(message, certificate, signature);
        }
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        if self.authorities.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        // TLS 1.3 leaves out what was allowed before.
        let old = matches!(
            signature.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        );
        if !old && pinned::is_version_1(certificate) {
            return pinned::verify_signature(message, certificate, signature);
        }
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
