//! The reasons why Keystone did not help, in sentences without secrets.

use std::fmt;

/// Keystone, or the way to it, did not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeystoneError {
    pub(crate) kind: Unhelpful,
    message: String,
}

/// The kinds of reasons, for who has to react to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unhelpful {
    /// No connection, no answer in time, or an answer that says to come back later.
    Unreachable,
    /// Keystone does not accept the credentials, or does not allow them to do this.
    Refused,
    /// The settings are wrong: no Keystone at this address, nothing of that kind in the catalogue.
    Misconfigured,
}

impl KeystoneError {
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        KeystoneError { kind: Unhelpful::Unreachable, message: message.into() }
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        KeystoneError { kind: Unhelpful::Refused, message: message.into() }
    }

    pub(super) fn misconfigured(message: impl Into<String>) -> Self {
        KeystoneError { kind: Unhelpful::Misconfigured, message: message.into() }
    }
}

impl fmt::Display for KeystoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KeystoneError {}
