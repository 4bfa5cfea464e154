//! Keystone's answers about tokens, kept for a short time under the hashes of the tokens.
//!
//! The tokens themselves are not kept. A full memory forgets the answer that would end first.

use std::collections::HashMap;
use std::hash::RandomState;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// Limit of the answers that are kept.
const MAX_KEPT: usize = 1024;

/// The hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        TokenHash(Sha256::digest(token).into())
    }
}

/// Answers of one kind.
pub(super) struct Judged<T> {
    answers: HashMap<TokenHash, (Instant, T), RandomState>,
}

impl<T: Clone> Judged<T> {
    pub(super) fn new() -> Self {
        Judged { answers: HashMap::default() }
    }

    /// Returns the answer about a token, if it is still good.
    pub(super) fn get(&self, token: TokenHash) -> Option<T> {
        let (end, answer) = self.answers.get(&token)?;
        (Instant::now() < *end).then(|| answer.clone())
    }

    /// Keeps an answer for a time.
    pub(super) fn keep(&mut self, token: TokenHash, answer: T, time: Duration) {
        let now = Instant::now();
        if self.answers.len() >= MAX_KEPT && !self.answers.contains_key(&token) {
            self.answers.retain(|_, (end, _)| now < *end);
        }
        if self.answers.len() >= MAX_KEPT && !self.answers.contains_key(&token) {
            let first = self.answers.iter().min_by_key(|(_, (end, _))| *end).map(|(token, _)| *token);
            first.map(|first| self.answers.remove(&first));
        }
        if !time.is_zero() {
            self.answers.insert(token, (now + time, answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_answers_for_their_time_and_not_too_many() {
        let mut judged = Judged::new();
        let hash = |n: usize| TokenHash::of(&n.to_string());
        judged.keep(hash(0), 0, Duration::ZERO);
        assert_eq!(judged.get(hash(0)), None);
        judged.keep(hash(0), 0, Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(judged.get(hash(0)), None);
        for n in 1..=2000 {
            judged.keep(hash(n), n, Duration::from_secs(60 + n as u64));
            judged.keep(hash(n), n, Duration::from_secs(60 + n as u64));
        }
        assert_eq!(judged.answers.len(), MAX_KEPT);
        assert_eq!(judged.get(hash(2000)), Some(2000));
        assert_eq!(judged.get(hash(977)), Some(977));
        assert_eq!(judged.get(hash(976)), None);
    }
}
