//! The network: waits that end in time, TLS as the settings ask for it, and one HTTP client.
//!
//! Nothing here knows stores, databases or caches: hosts, URLs and credentials are handed in.

pub(crate) mod authorities;
#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod fuzz;
pub(crate) mod http;
mod pinned;
mod retry_after;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
pub(crate) mod wire;
