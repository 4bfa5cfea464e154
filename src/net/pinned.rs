//! Certificates that a file of authorities holds themselves: trusted as they are, without an authority.
//!
//! Self-signed certificates of servers are commonly pinned so (`openssl req -x509`, and its file as the
//! authority), and webpki, which rustls verifies with, refuses them: they are authorities, or of X.509
//! version 1. Of a certificate that is the pinned one to the last byte, only two things are left to check:
//! that it is valid now, and that it names the host. As OpenSSL does, a common name counts where there are no
//! alternative names.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError};
use x509_cert::Certificate;
use x509_cert::der::oid::db::{rfc4519, rfc5280};
use x509_cert::der::{Decode as _, Tag, Tagged as _};

/// Returns a certificate's parts, or `None` if it is malformed.
fn parsed(certificate: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::from_der(certificate).ok()
}

/// True if a certificate is of X.509 version 1.
pub(super) fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    parsed(certificate).is_some_and(|parts| parts.tbs_certificate.version == x509_cert::Version::V1)
}

/// Returns the error for a certificate of version 1 that is not pinned: what to do about it.
pub(super) fn unsupported(error: &Error) -> Error {
    Error::General(format!(
        "{error}: the server's certificate is of X.509 version 1, which is not supported: issue one of \
         version 3"
    ))
}

/// True if a certificate names itself as the one that has issued it.
pub(super) fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    parsed(certificate).is_some_and(|parts| parts.tbs_certificate.issuer == parts.tbs_certificate.subject)
}

/// A certificate is its own authority, and no file of trusted ones has it.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl SelfSigned {
    pub(super) fn error() -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(SelfSigned))))
    }
}

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// Verifies a certificate that is pinned: its time, and its name where one is wanted.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    name: Option<&ServerName<'_>>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let parts = parsed(certificate).ok_or(CertificateError::BadEncoding)?;
    let (from, until) = (parts.tbs_certificate.validity.not_before, parts.tbs_certificate.validity.not_after);
    if now.as_secs() < from.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > until.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    let Some(name) = name else { return Ok(ServerCertVerified::assertion()) };
    let extensions = parts.tbs_certificate.extensions.as_deref().unwrap_or_default();
    if extensions.iter().any(|extension| extension.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME) {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    } else if !is_common_name(&parts, &name.to_str()) {
        return Err(CertificateError::NotValidForName.into());
    }
    Ok(ServerCertVerified::assertion())
}

/// True if the subject's common name is this host, letter for letter.
fn is_common_name(parts: &Certificate, host: &str) -> bool {
    let attributes = parts.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid == rfc4519::COMMON_NAME);
    names.any(|name| {
        matches!(
            name.value.tag(),
            Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString
        ) && name.value.value().eq_ignore_ascii_case(host.as_bytes())
    })
}

/// Verifies what the holder of a certificate has signed, without webpki, which reads no certificates of
/// version 1.
pub(super) fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let parts = parsed(certificate).ok_or(CertificateError::BadEncoding)?;
    let key = parts.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    let mapping = ring::default_provider().signature_verification_algorithms.mapping;
    let algorithms = mapping.iter().find(|(scheme, _)| *scheme == signature.scheme).map(|(_, all)| *all);
    // The scheme is one of those that were offered; of its curves, the key has one.
    let valid = algorithms
        .unwrap_or_default()
        .iter()
        .any(|algorithm| algorithm.verify_signature(key, message, signature.signature()).is_ok());
    if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}
