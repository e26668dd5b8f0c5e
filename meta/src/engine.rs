//! The one narrow transactional trait between the namespace and whatever
//! keeps its bytes: ordered keys, serialisable transactions, durability on
//! request. The namespace is written once, above it.

mod background;
mod durability;
pub mod fjall;
pub mod memory;
mod overlay;
pub mod redb;
mod space;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod differential;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod power_loss;

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use flexfs_common::Result;

pub use space::{Room, Space};

/// Longest key in bytes: the least of all engines that are to follow.
pub const KEY_MAX_LEN: usize = 480;
/// Longest value in bytes: an xattr of 64 KiB and its envelope.
pub const VALUE_MAX_LEN: usize = 128 * 1024;

/// Position of a transaction in the engine's commit order: dense, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitVersion(pub u64);

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// What a scan calls for each key and its value, until it breaks or fails.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'v;

/// One consistent view.
pub trait Reader {
    /// The value of a key.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits the keys of `from..to` in order until `visit` breaks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`, or what `visit` returned.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()>;

    /// The greatest key of `from..to` and its value.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>>;
}

/// A mark in a transaction, see [`Txn::savepoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint(usize);

impl Savepoint {
    /// Writes of the transaction before the mark.
    #[must_use]
    pub fn writes(self) -> usize {
        self.0
    }
}

/// A transaction: reads see its own writes.
pub trait Txn: Reader {
    /// Sets a key.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes a key.
    fn delete(&mut self, key: &[u8]);
    /// Marks this point, so that what follows can be taken back alone: many
    /// logical transactions share one physical commit.
    fn savepoint(&mut self) -> Savepoint;
    /// Takes back every write since the mark.
    fn rollback(&mut self, to: Savepoint);
    /// The commit time of this transaction, in nanoseconds since 1970: wall
    /// time, but never before that of an earlier transaction.
    fn commit_time(&self) -> i64;
    /// The commit time is no earlier than this, and with it, once something
    /// was written here, that of every later transaction. A rollback does not
    /// take it back.
    fn advance(&mut self, to: i64);
}

/// A store of ordered bytes.
pub trait Engine: Send + Sync + fmt::Debug {
    /// A consistent view that sees every transaction committed before.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>>;

    /// Runs `body` as one atomic transaction. `body` may run more than once
    /// (conflicts) and must have no effect outside `txn`; when it fails,
    /// nothing is written. On return the transaction has been handed to the
    /// operating system (it survives kill -9), not yet to the disk. A body
    /// that wrote nothing commits nothing: the version is the latest one.
    ///
    /// # Errors
    /// What `body` returned, or `ENGINE_FAILED`.
    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion>;

    /// The version of the latest committed transaction.
    fn head(&self) -> CommitVersion;

    /// Blocks until every transaction up to `version` survives power loss.
    /// Calls from many threads share one sync.
    ///
    /// # Errors
    /// `ENGINE_FAILED`; the engine refuses everything afterwards.
    fn sync(&self, version: CommitVersion) -> Result<()>;

    /// The disk below, as it was a moment ago; `None` when there is none to
    /// watch. The engine refuses nothing for it: the caller knows what takes
    /// space and what has to go on.
    fn space(&self) -> Option<Space> {
        None
    }

    /// What the disk below still takes.
    fn room(&self) -> Room {
        self.space().map_or(Room::Ample, |space| space.room)
    }
}
