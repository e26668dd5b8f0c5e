//! An engine in memory, another implementation of the trait. It keeps
//! nothing over a restart; differential tests and benchmarks use it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use parking_lot::{Mutex, RwLock};

use super::overlay::{Head, Overlay};
use super::{CommitVersion, Engine, Pair, Reader, Savepoint, Txn, Visit};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// Everything committed, and the head that belongs to it.
#[derive(Debug, Default)]
struct Committed {
    map: Arc<Map>,
    head: Head,
}

/// An engine in memory. Lock order: `writer`, then `committed`.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    writer: Mutex<()>,
    committed: RwLock<Committed>,
}

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// A copy of everything committed: what a crash at this moment leaves.
    #[must_use]
    pub fn fork(&self) -> MemoryEngine {
        let committed = self.committed.read();
        let map = Arc::new(Map::clone(&committed.map));
        let copy = Committed { map, head: committed.head };
        MemoryEngine { writer: Mutex::new(()), committed: RwLock::new(copy) }
    }
}

fn range<'a>(
    map: &'a Map,
    from: &[u8],
    to: &[u8],
) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Bytes)> + use<'a> {
    // BTreeMap panics on a range whose end lies before its start.
    let to = to.max(from);
    map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
}

#[derive(Debug)]
struct MemorySnapshot {
    map: Arc<Map>,
}

impl Reader for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        for (key, value) in range(&self.map, from, to) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        Ok(range(&self.map, from, to)
            .next_back()
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())))
    }
}

struct MemoryTxn {
    base: Arc<Map>,
    overlay: Overlay,
    time: i64,
}

impl Reader for MemoryTxn {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(match self.overlay.get(key) {
            Some(written) => written.clone(),
            None => self.base.get(key).cloned(),
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.overlay.scan(from, to, range(&self.base, from, to).map(Ok), visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>> {
        self.overlay.last(from, to, range(&self.base, from, to).rev().map(Ok))
    }
}

impl Txn for MemoryTxn {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.overlay.write(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.overlay.write(key, None);
    }

    fn savepoint(&mut self) -> Savepoint {
        self.overlay.savepoint()
    }

    fn rollback(&mut self, to: Savepoint) {
        self.overlay.rollback(to);
    }

    fn commit_time(&self) -> i64 {
        self.time
    }

    fn advance(&mut self, to: i64) {
        self.time = self.time.max(to);
    }
}

impl Engine for MemoryEngine {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        Ok(Box::new(MemorySnapshot { map: Arc::clone(&self.committed.read().map) }))
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        let _one_writer = self.writer.lock();
        let (base, head) = {
            let committed = self.committed.read();
            (Arc::clone(&committed.map), committed.head)
        };
        let mut next = head.next();
        let mut txn = MemoryTxn { base, overlay: Overlay::default(), time: next.time };
        body(&mut txn)?;
        let MemoryTxn { base, overlay, time } = txn;
        next.time = time;
        let writes = overlay.finish()?;
        if writes.is_empty() {
            return Ok(head.version);
        }
        // Without a snapshot alive the map is then changed in place.
        drop(base);
        let mut committed = self.committed.write();
        let map = Arc::make_mut(&mut committed.map);
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        committed.head = next;
        Ok(next.version)
    }

    fn head(&self) -> CommitVersion {
        self.committed.read().head.version
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        if version > self.head() {
            return Err(Error::new(Code::EngineFailed, "sync of a version not yet committed"));
        }
        Ok(())
    }
}
