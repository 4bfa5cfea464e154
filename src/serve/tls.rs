//! TLS of the listeners: the certificate, its key and the authorities of clients, from files that can be
//! replaced while the service runs.

use std::path::{Path, PathBuf};
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
use crate::config::Setting;
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
            let unusable = || format!("{}: cannot use the authorities", named("ca_file", authorities));
            for authority in certificates("ca_file", authorities)? {
                roots.add(authority).with_context(unusable)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.with_context(unusable)?)
        }
    };
    let chain = certificates("cert_file", &files.certificate)?;
    let file = &files.key.value;
    let key = require_regular(file).and_then(|()| Ok(PrivateKeyDer::from_pem_file(file)?));
    let key = key.with_context(|| format!("{}: cannot read a key", named("key_file", &files.key)))?;
    let config = builder.with_single_cert(chain, key).map_err(|e| anyhow!(plain(&e))).with_context(|| {
        format!("{} and key_file is {:?}", named("cert_file", &files.certificate), file.display().to_string())
    })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Returns an option with its value, and the place where it is set.
fn named(option: &str, set: &Setting<PathBuf>) -> String {
    format!("{}: [cache_api] {option} is {:?}", set.origin, set.value.display().to_string())
}

fn certificates(option: &str, set: &Setting<PathBuf>) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(&set.value).and_then(Iterator::collect);
    let found: Result<Vec<_>> = require_regular(&set.value).and_then(|()| Ok(read()?));
    let found = found.with_context(|| format!("{}: cannot read certificates", named(option, set)))?;
    ensure!(!found.is_empty(), "{}, which has no certificate", named(option, set));
    Ok(found)
}

/// Fails for a FIFO or a device, which would keep the whole service waiting. A link may lead to the file.
fn require_regular(file: &Path) -> Result<()> {
    let is_regular = FileType::from_raw_mode(statat(CWD, file, AtFlags::empty())?.st_mode).is_file();
    ensure!(is_regular, "it is not a regular file");
    Ok(())
}
