//! Keystone: getting tokens, and judging those of others.
//!
//! `session` logs in and knows the catalogue; `validate` asks Keystone about the tokens of those who call our
//! service; `settings` reads `[keystone_authtoken]` as Glance's deployments write it. All waits are those of
//! `net`: they end in time and soon after a signal. No message and no `Debug` output shows a secret.

pub(crate) mod catalog;
pub(crate) mod error;
#[cfg(test)]
mod fuzz;
mod judged;
pub(crate) mod login;
mod places;
#[cfg(test)]
mod real;
pub(crate) mod refused;
pub(in crate::openstack) mod rules;
pub(crate) mod session;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
mod token;
pub(crate) mod validate;
pub(crate) mod wire;
