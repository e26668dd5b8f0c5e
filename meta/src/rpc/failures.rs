//! Refusals of a few seconds ago: a client that repeats a bad token costs admin
//! one question in that time. The key is a hash of the whole token, the address
//! and the volume, so that no other token is refused for it.
//!
//! Kept is only what rows about the token itself undo, for those are what is
//! heard of it: whose account or volume it is, a refusal does not say.

use std::sync::Arc;

use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, limits};

use super::verdict::VerdictKey;
use crate::service::changes::Heard;

/// What admin refused with.
#[derive(Debug)]
struct Failure {
    code: Code,
    message: String,
    at: BootTime,
    /// What had been heard of the token when admin was asked.
    heard: Heard,
}

/// Is this a refusal for what the token is? One for its account or volume
/// ends with a row that does not name the token.
fn is_of_token(code: Code) -> bool {
    matches!(
        code,
        Code::TokenUnknown
            | Code::TokenRevoked
            | Code::TokenDisabled
            | Code::TokenExpired
            | Code::TokenRotated
            | Code::TokenNotYetValid
            | Code::TokenSourceDenied
    )
}

/// Refusals in memory.
pub struct Failures(quick_cache::sync::Cache<(VerdictKey, String), Arc<Failure>>);

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Failures({})", self.0.len())
    }
}

impl Default for Failures {
    fn default() -> Failures {
        Failures(quick_cache::sync::Cache::new(limits::FAILURE_CACHE))
    }
}

impl Failures {
    /// The refusal of this question, while it is young and nothing was heard
    /// of the token since.
    #[must_use]
    pub fn find(&self, question: &(VerdictKey, String), heard: Heard) -> Option<Error> {
        let failure = self.0.get(question)?;
        let over = failure.at.after(limits::FAILURE_CACHE_AGE).passed();
        if over || failure.heard != heard {
            self.0.remove(question);
            return None;
        }
        Some(Error::new(failure.code, failure.message.clone()))
    }

    /// Keeps a refusal, if it is one that is kept; `heard` was taken before
    /// admin was asked.
    pub fn keep(&self, question: (VerdictKey, String), error: &Error, heard: Heard) {
        let (code, message) = (error.code(), error.message().to_owned());
        if !is_of_token(code) {
            return;
        }
        self.0.insert(question, Arc::new(Failure { code, message, at: BootTime::now(), heard }));
    }
}

#[cfg(test)]
mod tests {
    use flexfs_common::ids::TokenId;

    use super::*;
    use crate::service::changes::Changes;

    #[test]
    fn a_refusal_holds_for_its_question_until_something_is_heard_of_the_token() {
        let (failures, changes) = (Failures::default(), Changes::default());
        let token = TokenId::random();
        let question = |volume: &str| ([1; 32], volume.to_owned());
        let heard = changes.heard_of(token);
        failures.keep(question("v"), &Error::bare(Code::TokenDisabled), heard);
        let find = |volume: &str| {
            failures.find(&question(volume), changes.heard_of(token)).map(|e| e.code())
        };
        assert_eq!(find("v"), Some(Code::TokenDisabled));
        assert_eq!(find("w"), None);
        changes.note_token(TokenId::random(), 5);
        assert_eq!(find("v"), Some(Code::TokenDisabled));
        changes.note_token(token, 6);
        assert_eq!(find("v"), None);
        failures.keep(question("v"), &Error::bare(Code::TokenDisabled), changes.heard_of(token));
        changes.resynchronise();
        assert_eq!(find("v"), None);
    }
    #[test]
    fn what_rows_about_other_things_undo_is_not_kept() {
        let (failures, changes) = (Failures::default(), Changes::default());
        let heard = changes.heard_of(TokenId::random());
        let question = || ([1; 32], "v".to_owned());
        for code in [Code::AccountSuspended, Code::VolumeRetired, Code::CredsMismatch] {
            failures.keep(question(), &Error::bare(code), heard);
            assert!(failures.find(&question(), heard).is_none(), "{code}");
        }
    }
}
