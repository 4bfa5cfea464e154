//! TLS as the settings ask for it, for the databases and for the stores: rustls, with the system's authorities unless a file is named.
//!
//! Whatever is not verified, somebody has asked for in so many words, or could have had no encryption at all.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

/// How the connection is encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) mode: TlsMode,
    /// The only authorities to trust (PEM); without it, the system's.
    pub(crate) ca: Option<PathBuf>,
    /// This client's certificate and key (PEM).
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// How much of it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum TlsMode {
    /// Not asked for.
    #[default]
    Off,
    /// Where the server offers it, unverified: libpq's way when nothing is said.
    Offered,
    /// Encrypted, and the settings say in so many words that it is not to be verified.
    Unverified,
    /// The certificate must come from an authority, whatever host it names.
    Authority,
    /// The certificate must come from an authority and name the host.
    Full,
}

/// The authorities the system trusts, where distributions keep them.
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

/// Reads the authorities to trust: those of the file that the settings name, or else the system's.
pub(super) fn authorities(tls: &Tls) -> Result<RootCertStore> {
    let file =
        tls.ca.clone().or_else(system_authorities).context("no certificate authorities are installed")?;
    let shown = || format!("cannot read certificate authorities from {}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&file).with_context(shown)? {
        roots.add(certificate.with_context(shown)?).with_context(shown)?;
    }
    Ok(roots)
}

/// What TLS takes to be as asked for.
pub(crate) fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(tls)?));
    Ok(match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let shown = || format!("cannot use the certificate {} or its key", certificate.display());
            let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
            let key = PrivateKeyDer::from_pem_file(key).with_context(shown)?;
            builder.with_client_auth_cert(chain.with_context(shown)?, key).with_context(shown)?
        }
    })
}

/// Verifies a server's certificate as far as the settings ask for it.
#[derive(Debug)]
struct Verifier {
    /// `None` where nothing is to be verified.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    whatever_host: bool,
}

impl Verifier {
    fn new(tls: &Tls) -> Result<Self> {
        let whatever_host = tls.mode == TlsMode::Authority;
        if matches!(tls.mode, TlsMode::Unverified | TlsMode::Offered) {
            return Ok(Verifier { authorities: None, whatever_host });
        }
        let roots = authorities(tls)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Verifier {
            authorities: Some(verifier.context("cannot use the certificate authorities")?),
            whatever_host,
        })
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
            )) if self.whatever_host => Ok(ServerCertVerified::assertion()),
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
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
