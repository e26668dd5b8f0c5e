//! `--sync`: every commit is on stable storage before it is answered.

use std::sync::Arc;

use flexfs_common::Result;

use crate::engine::{CommitVersion, Engine, Reader, Space, Txn};

/// An engine that syncs after every transaction.
#[derive(Debug)]
pub struct SyncedEngine(Arc<dyn Engine>);

impl SyncedEngine {
    /// Around another engine.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> SyncedEngine {
        SyncedEngine(inner)
    }
}

impl Engine for SyncedEngine {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        self.0.snapshot()
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        let version = self.0.transact(body)?;
        self.0.sync(version)?;
        Ok(version)
    }

    fn head(&self) -> CommitVersion {
        self.0.head()
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.0.sync(version)
    }

    fn space(&self) -> Option<Space> {
        self.0.space()
    }
}
