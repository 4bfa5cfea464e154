//! TLS of the listeners: the certificate, its key and the authorities of clients, from files that can be
//! replaced while the service runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::fs::{AtFlags, CWD, FileType, statat};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::settings::TlsFiles;
use crate::net::tls::plain;

/// Reads the files.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities)? {
                roots.add(authority).with_context(|| unusable(authorities))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.with_context(|| unusable(authorities))?)
        }
    };
    let chain = certificates(&files.certificate)?;
    let key = require_regular(&files.key).and_then(|()| Ok(PrivateKeyDer::from_pem_file(&files.key)?));
    let key = key.with_context(|| format!("cannot read a private key from {}", files.key.display()))?;
    let config = builder.with_single_cert(chain, key).map_err(|e| anyhow!(plain(&e))).with_context(|| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!("cannot use the certificate {certificate} with the key {key}")
    })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Result<Vec<_>> = require_regular(file).and_then(|()| Ok(read()?));
    let found = found.with_context(|| format!("cannot read certificates from {}", file.display()))?;
    ensure!(!found.is_empty(), "{} has no certificate", file.display());
    Ok(found)
}

/// Fails for a FIFO or a device, which would keep the whole service waiting. A link may lead to the file.
fn require_regular(file: &Path) -> Result<()> {
    let is_regular = FileType::from_raw_mode(statat(CWD, file, AtFlags::empty())?.st_mode).is_file();
    ensure!(is_regular, "it is not a regular file");
    Ok(())
}

fn unusable(file: &Path) -> String {
    format!("cannot use the certificate authorities in {}", file.display())
}
