//! What the feed said last about each token, volume and account: a verdict
//! read at an earlier revision is stale. Asked at every use of a verdict, so
//! nothing needs to be dropped from the cache when a row comes.

use std::collections::HashMap;

use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use parking_lot::Mutex;

/// Changes remembered one by one; beyond that all older verdicts are stale.
const CHANGES_MAX: usize = 100_000;

/// A point in the feed as a verdict knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedPoint {
    /// Raised by every resynchronisation.
    pub epoch: u64,
    /// The feed's head when the rows were read.
    pub revision: u64,
}

/// How much was heard of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    epoch: u64,
    floor: u64,
    token: Option<u64>,
}

/// Whom a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The token.
    pub token: TokenId,
    /// Its volume.
    pub volume: VolumeId,
    /// The volume's account.
    pub account: AccountId,
}

#[derive(Debug, Default)]
struct Inner {
    epoch: u64,
    /// Verdicts below this are stale, whatever they are about.
    floor: u64,
    tokens: HashMap<TokenId, u64>,
    volumes: HashMap<VolumeId, u64>,
    accounts: HashMap<AccountId, u64>,
}

impl Inner {
    fn bound(&mut self, revision: u64) {
        if self.tokens.len() + self.volumes.len() + self.accounts.len() > CHANGES_MAX {
            self.floor = self.floor.max(revision);
            self.tokens.clear();
            self.volumes.clear();
            self.accounts.clear();
        }
    }
}

/// The last change of everything.
#[derive(Debug, Default)]
pub struct Changes(Mutex<Inner>);

impl Changes {
    /// A row about a token was seen.
    pub fn note_token(&self, token: TokenId, revision: u64) {
        let mut inner = self.0.lock();
        inner.tokens.insert(token, revision);
        inner.bound(revision);
    }

    /// A row about a volume was seen.
    pub fn note_volume(&self, volume: VolumeId, revision: u64) {
        let mut inner = self.0.lock();
        inner.volumes.insert(volume, revision);
        inner.bound(revision);
    }

    /// A row about an account was seen.
    pub fn note_account(&self, account: AccountId, revision: u64) {
        let mut inner = self.0.lock();
        inner.accounts.insert(account, revision);
        inner.bound(revision);
    }

    /// Every verdict is stale from now on.
    pub fn resynchronise(&self) {
        let mut inner = self.0.lock();
        *inner = Inner { epoch: inner.epoch.saturating_add(1), ..Inner::default() };
    }

    /// To be noted before admin is asked.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// What was heard of a token so far. When it is the same later, nothing
    /// was heard in between.
    #[must_use]
    pub fn heard_of(&self, token: TokenId) -> Heard {
        let inner = self.0.lock();
        Heard { epoch: inner.epoch, floor: inner.floor, token: inner.tokens.get(&token).copied() }
    }

    /// Does a verdict read at `point` still hold?
    #[must_use]
    pub fn is_current(&self, subject: Subject, point: FeedPoint) -> bool {
        let inner = self.0.lock();
        let later = |seen: Option<&u64>| seen.is_some_and(|at| *at > point.revision);
        point.epoch == inner.epoch
            && point.revision >= inner.floor
            && !later(inner.tokens.get(&subject.token))
            && !later(inner.volumes.get(&subject.volume))
            && !later(inner.accounts.get(&subject.account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_row_about_any_of_the_three_makes_a_verdict_stale() {
        let subject = Subject {
            token: TokenId::random(),
            volume: VolumeId::random(),
            account: AccountId::random(),
        };
        let changes = Changes::default();
        let at = |revision| FeedPoint { epoch: changes.epoch(), revision };
        assert!(changes.is_current(subject, at(5)));
        changes.note_token(TokenId::random(), 9);
        assert!(changes.is_current(subject, at(5)));
        changes.note_token(subject.token, 6);
        assert!(!changes.is_current(subject, at(5)));
        assert!(changes.is_current(subject, at(6)));
        changes.note_volume(subject.volume, 7);
        assert!(!changes.is_current(subject, at(6)));
        changes.note_account(subject.account, 8);
        assert!(!changes.is_current(subject, at(7)));
        assert!(changes.is_current(subject, at(8)));
        let before = at(100);
        changes.resynchronise();
        assert!(!changes.is_current(subject, before));
        // A new feed may begin below the old one.
        assert!(changes.is_current(subject, at(1)));
    }

    #[test]
    fn what_is_forgotten_counts_as_changed() {
        let subject = Subject {
            token: TokenId::random(),
            volume: VolumeId::random(),
            account: AccountId::random(),
        };
        let changes = Changes::default();
        changes.note_token(subject.token, 1);
        for revision in 2..=u64::try_from(CHANGES_MAX).unwrap() + 1 {
            changes.note_token(TokenId::random(), revision);
        }
        let last = u64::try_from(CHANGES_MAX).unwrap() + 1;
        let at = |revision| FeedPoint { epoch: changes.epoch(), revision };
        assert!(!changes.is_current(subject, at(last - 1)));
        assert!(changes.is_current(subject, at(last)));
    }
}
