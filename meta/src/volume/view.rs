//! Typed reads of a volume's records on one consistent view.

use std::ops::ControlFlow;

use bytes::Bytes;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result};
use prost::Message;

use super::keys::{Keys, Range};
use super::record::{Counters, Inode, OpenRow, decode};
use crate::engine::{Pair, Reader, Visit};

/// A consistent view of one volume.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    reader: &'a dyn Reader,
    pub(super) keys: &'a Keys,
}

impl<'a> View<'a> {
    pub(super) fn new(reader: &'a dyn Reader, keys: &'a Keys) -> View<'a> {
        View { reader, keys }
    }

    pub(super) fn raw(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.reader.get(key)
    }

    pub(super) fn record<M: Message + Default>(
        &self,
        what: &'static str,
        key: &[u8],
    ) -> Result<Option<M>> {
        self.reader.get(key)?.map(|bytes| decode(what, &bytes)).transpose()
    }

    pub(super) fn scan(&self, range: &Range, visit: &mut Visit<'_>) -> Result<()> {
        self.reader.scan(&range.from, &range.to, visit)
    }

    pub(super) fn last(&self, range: &Range) -> Result<Option<Pair>> {
        self.reader.last(&range.from, &range.to)
    }

    /// Does the range hold anything?
    pub(super) fn any(&self, range: &Range) -> Result<bool> {
        let mut found = false;
        self.scan(range, &mut |_, _| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// The first keys of the range, at most `limit`.
    pub(super) fn keys_of(&self, range: &Range, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        if limit == 0 {
            return Ok(keys);
        }
        self.scan(range, &mut |key, _| {
            keys.push(key.to_vec());
            Ok(if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(keys)
    }

    pub(super) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.record("inode", &self.keys.inode(ino))
    }

    /// The inode that some record names.
    ///
    /// # Errors
    /// `ENGINE_FAILED` when it is not there.
    pub(super) fn inode_named(&self, ino: Ino) -> Result<Inode> {
        self.inode(ino)?
            .ok_or_else(|| Error::new(Code::EngineFailed, format!("inode {ino} is missing")))
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        Ok(self.record("counters", &self.keys.counters())?.unwrap_or_default())
    }

    /// Does this session hold the inode open?
    pub(super) fn held_open_by(&self, ino: Ino, session: SessionId) -> Result<bool> {
        self.any(&self.keys.opens_of_inode_by(ino, session))
    }

    /// An open of a session.
    pub(super) fn open_row(&self, session: SessionId, open: u64) -> Result<Option<OpenRow>> {
        self.record("open", &self.keys.open_of_session(session, open))
    }
}
