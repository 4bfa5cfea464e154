//! Stands in the place of the crate of this name, which holds the authorities that browsers trust.
//!
//! The MySQL client always trusts those, beside the file it is given. A database is to be verified against the `ssl_ca` that is
//! set for it and nothing else: otherwise, where the host name is not checked, anybody's public certificate would do.

use rustls_pki_types::TrustAnchor;

/// None.
pub const TLS_SERVER_ROOTS: &[TrustAnchor<'static>] = &[];
