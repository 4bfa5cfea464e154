//! OpenStack's own languages and services: who may log in where, who calls, what a policy allows, and the
//! Cache API itself.
//!
//! Nothing here opens a cache or prints. The service, the client and the stores use it.

pub(crate) mod cache_api;
pub(crate) mod caller;
pub(crate) mod clouds;
#[cfg(test)]
mod fuzz;
pub(crate) mod keystone;
#[cfg(test)]
mod peer;
pub(crate) mod policy;
pub(crate) mod secret;
mod yaml;
