//! Typed writes of a volume's records in one transaction, and what has to
//! happen in memory once it is committed.

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Result, wire};
use flexfs_proto::v1::Timestamp;
use prost::Message;

use super::keys::Keys;
use super::lock_wait::Wanted;
use super::record::{Counters, Inode};
use super::view::View;
use crate::engine::{Savepoint, Txn};

/// What a committed transaction changes in memory. The transaction itself
/// has no effect outside, because it may be taken back.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Locks on these were released or narrowed: waiters look again.
    pub(super) unlocked: Vec<Ino>,
    /// Scope roots that a directory was moved out of.
    pub(super) left_scopes: Vec<Ino>,
    /// Sessions that ended, and why.
    pub(super) ended: Vec<(SessionId, Code)>,
    /// Object keys given out less those used or lapsed, per session.
    pub(super) minted: Vec<(SessionId, i64)>,
    /// Opens begun less those ended, per session.
    pub(super) opens: Vec<(SessionId, i64)>,
    /// Locks to be waited for.
    pub(super) waits: Vec<Wanted>,
    /// Inodes whose attributes or contents changed.
    pub(super) changed: Vec<Ino>,
    /// Directories in which a name changed, or whose names not every kernel
    /// may answer any more.
    pub(super) renamed: Vec<Ino>,
    /// Sessions whose last open of an inode ended.
    pub(super) closed: Vec<(SessionId, Ino)>,
}

impl Effects {
    /// How much has changed so far.
    pub(super) fn extent(&self) -> Extent {
        Extent {
            changed: self.changed.len(),
            renamed: self.renamed.len(),
            left_scopes: self.left_scopes.len(),
            ended: self.ended.len(),
        }
    }
}

/// A point between two operations of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    pub(super) changed: usize,
    pub(super) renamed: usize,
    pub(super) left_scopes: usize,
    pub(super) ended: usize,
}

/// Where to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    savepoint: Savepoint,
    lengths: [usize; 9],
}

/// One transaction on a volume.
pub(super) struct Edit<'a> {
    txn: &'a mut dyn Txn,
    keys: &'a Keys,
    stamp: Timestamp,
    /// What had changed at the latest mark.
    marked: usize,
    pub(super) effects: Effects,
}

impl Mark {
    /// Writes of the transaction before the mark.
    pub(super) fn writes(self) -> usize {
        self.savepoint.writes()
    }
}

impl<'a> Edit<'a> {
    pub(super) fn new(txn: &'a mut dyn Txn, keys: &'a Keys) -> Edit<'a> {
        let nanos = i128::from(txn.commit_time());
        let at = jiff::Timestamp::from_nanosecond(nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let stamp = wire::timestamp_to_wire(at);
        Edit { txn, keys, stamp, marked: 0, effects: Effects::default() }
    }

    pub(super) fn keys(&self) -> &'a Keys {
        self.keys
    }

    /// What is true now, with the writes of this transaction.
    pub(super) fn view(&self) -> View<'_> {
        View::new(&*self.txn, self.keys)
    }

    /// The commit time as files show it.
    pub(super) fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// The commit time in nanoseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.txn.commit_time()
    }

    pub(super) fn mark(&mut self) -> Mark {
        let effects = &self.effects;
        let lengths = [
            effects.unlocked.len(),
            effects.left_scopes.len(),
            effects.ended.len(),
            effects.minted.len(),
            effects.opens.len(),
            effects.waits.len(),
            effects.changed.len(),
            effects.renamed.len(),
            effects.closed.len(),
        ];
        self.marked = effects.changed.len();
        Mark { savepoint: self.txn.savepoint(), lengths }
    }

    /// Takes back everything since the mark.
    pub(super) fn rollback(&mut self, to: Mark) {
        self.txn.rollback(to.savepoint);
        self.marked = 0;
        let [unlocked, left_scopes, ended, minted, opens, waits, changed, renamed, closed] =
            to.lengths;
        self.effects.unlocked.truncate(unlocked);
        self.effects.left_scopes.truncate(left_scopes);
        self.effects.ended.truncate(ended);
        self.effects.minted.truncate(minted);
        self.effects.opens.truncate(opens);
        self.effects.waits.truncate(waits);
        self.effects.changed.truncate(changed);
        self.effects.renamed.truncate(renamed);
        self.effects.closed.truncate(closed);
    }

    pub(super) fn put_raw(&mut self, key: &[u8], value: &[u8]) {
        self.txn.put(key, value);
    }

    pub(super) fn put(&mut self, key: &[u8], record: &impl Message) {
        self.txn.put(key, &record.encode_to_vec());
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.txn.delete(key);
    }

    /// Writes an inode; whoever may keep its attributes is to be told.
    pub(super) fn put_inode(&mut self, ino: Ino, inode: &Inode) {
        // Of this operation alone: each waits for its own recalls.
        let own = self.effects.changed.get(self.marked..).unwrap_or_default();
        if own.last() != Some(&ino) {
            self.effects.changed.push(ino);
        }
        self.put(&self.keys.inode(ino), inode);
    }

    /// Writes an inode of which only the access time is another. Who keeps its
    /// attributes is not told (docs/adr/0025-access-times.md).
    pub(super) fn put_accessed(&mut self, ino: Ino, inode: &Inode) {
        self.put(&self.keys.inode(ino), inode);
    }

    /// Changes an inode that exists. Its change counter rises and its ctime
    /// is now, whatever `change` does.
    pub(super) fn update_inode(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Inode),
    ) -> Result<Inode> {
        let mut inode = self.view().inode_named(ino)?;
        inode.ctime = Some(self.stamp);
        inode.change += 1;
        change(&mut inode);
        self.put_inode(ino, &inode);
        Ok(inode)
    }

    pub(super) fn set_counters(&mut self, counters: Counters) {
        self.put(&self.keys.counters(), &counters);
    }

    pub(super) fn update_counters(&mut self, change: impl FnOnce(&mut Counters)) -> Result<()> {
        let mut counters = self.view().counters()?;
        change(&mut counters);
        self.set_counters(counters);
        Ok(())
    }
}
