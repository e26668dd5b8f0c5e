//! The one narrow transactional trait between the namespace and whatever
//! keeps its bytes: ordered keys, serialisable transactions, durability on
//! request. The namespace is written once, above it.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use flexfs_common::Result;

/// Position of a transaction in the engine's commit order: dense, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitVersion(pub u64);

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
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()>;
}

/// A transaction: reads see its own writes.
pub trait Txn: Reader {
    /// Sets a key.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes a key.
    fn delete(&mut self, key: &[u8]);
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
    /// operating system (it survives kill -9), not yet to the disk.
    ///
    /// # Errors
    /// What `body` returned, or `ENGINE_FAILED`.
    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion>;

    /// Blocks until every transaction up to `version` survives power loss.
    /// Calls from many threads share one sync.
    ///
    /// # Errors
    /// `ENGINE_FAILED`; the engine refuses everything afterwards.
    fn sync(&self, version: CommitVersion) -> Result<()>;
}
