//! OpenStack's own languages: who calls, what a policy allows, and the Cache API itself.
//!
//! Nothing here opens a cache or prints. The service, the client and the stores use it.

pub(crate) mod cache_api;
pub(crate) mod caller;
pub(crate) mod policy;
mod yaml;
