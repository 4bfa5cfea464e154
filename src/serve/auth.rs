//! Makes out the caller of a request, and asks if it may do what it asks for. This is the only place in the
//! service that knows Keystone and the policy.
//!
//! With `auth_strategy = none` nobody is asked: on a Unix socket root and the owner of the cache may do
//! everything and others nothing, by the kernel's word about who connected; on the loopback interface
//! everybody may do everything, because the settings say so.

use hyper::HeaderMap;

use super::answer::Problem;
use super::listen::Peer;

/// A caller who was made out.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The id of the user, for the log.
    pub(super) user: String,
    /// The id of the project, for the log.
    pub(super) project: String,
}

/// The facts of a request that decide who the caller is.
#[expect(dead_code, reason = "Keystone is asked later")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) peer: Peer,
    pub(super) headers: &'a HeaderMap,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
}

/// Makes out callers, and knows what they may do.
#[derive(Debug)]
pub(super) enum Auth {
    /// The socket decides. The owner of the cache may connect to a Unix socket.
    Socket { owner: Option<u32> },
}

impl Auth {
    /// Returns the caller, or the problem with which the request is answered.
    #[expect(clippy::unused_async, reason = "Keystone is asked later")]
    pub(super) async fn caller(&self, asked: Asked<'_>) -> Result<Known, Problem> {
        match self {
            Auth::Socket { owner } => by_socket(asked.peer, *owner),
        }
    }

    /// Fails if the caller must not do what this rule is about.
    #[expect(clippy::unnecessary_wraps, reason = "the policy is asked later")]
    pub(super) fn check(&self, _caller: &Known, _rule: &'static str) -> Result<(), Problem> {
        match self {
            Auth::Socket { .. } => Ok(()),
        }
    }
}

fn by_socket(peer: Peer, owner: Option<u32>) -> Result<Known, Problem> {
    let known = |user: String| Known { user, project: "-".to_owned() };
    match peer {
        Peer::Tcp => Ok(known("local".to_owned())),
        Peer::Unix { uid } if uid == 0 || Some(uid) == owner => Ok(known(format!("uid:{uid}"))),
        Peer::Unix { .. } => Err(Problem::new(
            hyper::StatusCode::FORBIDDEN,
            "Only root and the owner of the cache may use this socket.",
        )),
    }
}
