//! Rows of the change feed, and what this process knows of them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::FeedKind;
use tokio::sync::watch;

/// What happened, and to what. Absent = not concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: FeedKind,
    /// Whose it is.
    pub account: Option<AccountId>,
    /// Of which volume.
    pub volume: Option<VolumeId>,
    /// Which token.
    pub token: Option<TokenId>,
    /// Whose metadata servers must hear of it.
    pub meta_store: Option<StoreId>,
    /// Which block store.
    pub block_store: Option<StoreId>,
}

impl Change {
    /// A change that concerns nothing yet.
    #[must_use]
    pub const fn of(kind: FeedKind) -> Change {
        Change {
            kind,
            account: None,
            volume: None,
            token: None,
            meta_store: None,
            block_store: None,
        }
    }
}

/// A change with its place in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRow {
    /// Dense, in commit order.
    pub revision: u64,
    /// What happened.
    pub change: Change,
}

/// The word of a kind in the database.
#[must_use]
pub const fn kind_word(kind: FeedKind) -> &'static str {
    match kind {
        FeedKind::Unspecified => "unspecified",
        FeedKind::TokenChanged => "tokenChanged",
        FeedKind::TokenRevoked => "tokenRevoked",
        FeedKind::VolumeChanged => "volumeChanged",
        FeedKind::VolumeRetired => "volumeRetired",
        FeedKind::AccountChanged => "accountChanged",
        FeedKind::AccountSuspended => "accountSuspended",
        FeedKind::MetaStoreChanged => "metaStoreChanged",
        FeedKind::BlockStoreChanged => "blockStoreChanged",
    }
}

/// The reverse of [`kind_word`].
///
/// # Errors
/// `DATABASE_FAILED` for a word of another version.
pub fn kind_from_word(word: &str) -> Result<FeedKind> {
    (0..=8)
        .filter_map(|number| FeedKind::try_from(number).ok())
        .find(|kind| kind_word(*kind) == word)
        .ok_or_else(|| Error::new(Code::DatabaseFailed, "a feed row of an unknown kind"))
}

/// Slots of the table of last changes. Ids that share a slot only cost each
/// other one more look into the database.
const SLOTS: usize = 1 << 16;

/// What this process knows of committed changes: for each id (by hash, so
/// that the table is bounded) the revision of its last change, and a bell for
/// those who wait for any.
///
/// Rule for caches: take [`Applied::latest`] *before* reading a row; what was
/// made of that row may be used while [`Applied::changed_since`] is false.
/// A commit enters here before its caller is answered, so nothing is used
/// after its revocation was answered. Changes of other processes enter by
/// polling: with Postgres, where that is the normal case, nothing is used
/// without a lease (`store::lease`).
#[derive(Debug)]
pub struct Applied {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    latest: watch::Sender<u64>,
    // Up to here, changes of other processes were entered.
    seen: AtomicU64,
}

impl Default for Applied {
    fn default() -> Applied {
        Applied::new()
    }
}

impl Applied {
    /// Nothing known.
    #[must_use]
    pub fn new() -> Applied {
        Applied {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            latest: watch::Sender::new(0),
            seen: AtomicU64::new(u64::MAX),
        }
    }

    fn slot(&self, id: &impl Hash) -> Option<&AtomicU64> {
        let hash = self.hasher.hash_one(id);
        self.slots.get(usize::try_from(hash).unwrap_or(usize::MAX) % SLOTS)
    }

    fn touch(&self, id: &impl Hash, revision: u64) {
        if let Some(slot) = self.slot(id) {
            slot.fetch_max(revision, Ordering::SeqCst);
        }
    }

    /// The newest revision known here.
    #[must_use]
    pub fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Rings whenever a newer revision is known.
    #[must_use]
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Has this id changed after `revision`?
    #[must_use]
    pub fn changed_since(&self, id: &impl Hash, revision: u64) -> bool {
        self.slot(id).is_none_or(|slot| slot.load(Ordering::SeqCst) > revision)
    }

    /// Enters committed rows.
    pub fn apply(&self, rows: &[FeedRow]) {
        for row in rows {
            if let Some(id) = row.change.token {
                self.touch(&id, row.revision);
            }
            if let Some(id) = row.change.volume {
                self.touch(&id, row.revision);
            }
            if let Some(id) = row.change.account {
                self.touch(&id, row.revision);
            }
            if let Some(id) = &row.change.block_store {
                self.touch(id, row.revision);
            }
        }
        if let Some(last) = rows.last() {
            self.latest.send_if_modified(|latest| {
                let newer = last.revision > *latest;
                *latest = last.revision.max(*latest);
                newer
            });
        }
    }

    /// Changes up to a revision were missed: everything has changed.
    pub fn missed(&self, revision: u64) {
        for slot in &self.slots {
            slot.fetch_max(revision, Ordering::SeqCst);
        }
        self.latest.send_modify(|latest| *latest = (*latest).max(revision));
    }

    /// Where polling goes on.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// The first poll: what came before was in no cache.
    pub(super) fn begin_at(&self, revision: u64) {
        let first =
            self.seen.compare_exchange(u64::MAX, revision, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_ok() {
            self.latest.send_modify(|latest| *latest = (*latest).max(revision));
        }
    }

    pub(super) fn advance(&self, revision: u64) {
        self.seen.fetch_max(revision, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_what_was_read_before_it() {
        let applied = Applied::new();
        applied.begin_at(5);
        let token = TokenId::random();
        let before = applied.latest();
        assert_eq!(before, 5);
        assert!(!applied.changed_since(&token, before));
        let change = Change { token: Some(token), ..Change::of(FeedKind::TokenRevoked) };
        applied.apply(&[FeedRow { revision: 6, change }]);
        assert!(applied.changed_since(&token, before));
        assert!(!applied.changed_since(&token, applied.latest()));
    }

    #[test]
    fn every_kind_has_a_word() {
        for number in 0..=8 {
            let kind = FeedKind::try_from(number).unwrap();
            assert_eq!(kind_from_word(kind_word(kind)).unwrap(), kind);
        }
        assert!(FeedKind::try_from(9).is_err(), "a new kind needs a word");
        assert!(kind_from_word("x").is_err());
    }
}
