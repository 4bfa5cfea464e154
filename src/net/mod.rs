//! The network: connections whose waits end in time, TLS as the settings ask for it, and one HTTP client.
//!
//! Nothing here knows stores, databases or caches: hosts, URLs and credentials are handed in.

pub(crate) mod authorities;
pub(crate) mod http;
pub(crate) mod tls;
pub(crate) mod wire;
