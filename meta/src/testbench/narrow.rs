//! A disk below the engine that fills when the test says so.

use flexfs_common::Result;
use parking_lot::Mutex;

use crate::engine::memory::MemoryEngine;
use crate::engine::{CommitVersion, Engine, Reader, Room, Space, Txn};

/// An engine on a disk with as much room as the test says.
#[derive(Debug)]
pub(crate) struct Narrow(MemoryEngine, Mutex<Room>);

impl Default for Narrow {
    fn default() -> Narrow {
        Narrow(MemoryEngine::new(), Mutex::new(Room::Ample))
    }
}

impl Narrow {
    /// So much is left from now on.
    pub(crate) fn leave(&self, room: Room) {
        *self.1.lock() = room;
    }
}

impl Engine for Narrow {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        self.0.snapshot()
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        self.0.transact(body)
    }

    fn head(&self) -> CommitVersion {
        self.0.head()
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.0.sync(version)
    }

    fn space(&self) -> Option<Space> {
        Some(Space { room: *self.1.lock(), free: 0, reserve: 0 })
    }
}
