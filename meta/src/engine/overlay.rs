//! The uncommitted writes of one transaction over what is committed, shared
//! by all single-writer engines: reads merge both, savepoints take back.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flexfs_common::{Code, Error, Result, clock};

use super::{CommitVersion, KEY_MAX_LEN, Pair, Savepoint, VALUE_MAX_LEN, Visit};

/// Prefix of the engine's own keys: the nil UUID, which no volume has.
const OWN_PREFIX: [u8; 16] = [0; 16];

/// Key of the engine's head record.
pub(super) fn head_key() -> Vec<u8> {
    [&OWN_PREFIX[..], b"head"].concat()
}

/// Version and time of the latest commit, stored with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) version: CommitVersion,
    pub(super) time: i64,
}

impl Head {
    /// 8 bytes version, 8 bytes time, big-endian; later formats are longer.
    pub(super) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        let (version, time) = out.split_at_mut(8);
        version.copy_from_slice(&self.version.0.to_be_bytes());
        time.copy_from_slice(&self.time.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Head> {
        let bad = || Error::new(Code::EngineFailed, "the engine's head record is damaged");
        let (version, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let time: [u8; 8] = rest.try_into().map_err(|_| bad())?;
        Ok(Head {
            version: CommitVersion(u64::from_be_bytes(*version)),
            time: i64::from_be_bytes(time),
        })
    }

    /// The head of the transaction that follows this one.
    pub(super) fn next(self) -> Head {
        let now = i64::try_from(clock::wall_now().as_nanosecond()).unwrap_or(i64::MAX);
        Head { version: CommitVersion(self.version.0 + 1), time: now.max(self.time) }
    }
}

/// What a transaction wrote: `None` is a deletion.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// The writes of one transaction, and how to take them back.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    writes: Writes,
    /// Keys written, each with what the overlay held for it before.
    undo: Vec<(Vec<u8>, Option<Option<Bytes>>)>,
    oversize: bool,
}

impl Overlay {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.writes.get(key)
    }

    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let too_long = value.is_some_and(|value| value.len() > VALUE_MAX_LEN);
        self.oversize |= key.len() > KEY_MAX_LEN || too_long;
        let value = value.map(Bytes::copy_from_slice);
        let before = self.writes.insert(key.to_vec(), value);
        self.undo.push((key.to_vec(), before));
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint(self.undo.len())
    }

    pub(super) fn rollback(&mut self, to: Savepoint) {
        while self.undo.len() > to.0 {
            match self.undo.pop() {
                Some((key, Some(before))) => {
                    self.writes.insert(key, before);
                }
                Some((key, None)) => {
                    self.writes.remove(&key);
                }
                None => break,
            }
        }
    }

    /// The writes to be committed; empty when there is nothing to do.
    pub(super) fn finish(self) -> Result<Writes> {
        if self.oversize {
            return Err(Error::new(Code::EngineFailed, "a key or value is too long"));
        }
        Ok(self.writes)
    }

    /// Visits `base` (in order, within the range) merged with the writes.
    pub(super) fn scan<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        from: &[u8],
        to: &[u8],
        base: impl Iterator<Item = Result<(K, V)>>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let mut writes = self.range(from, to).peekable();
        for pair in base {
            let (key, value) = pair?;
            let key = key.as_ref();
            while let Some((written, new)) = writes.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(new) = new
                    && visit(written, new)?.is_break()
                {
                    return Ok(());
                }
            }
            let replaced = writes.next_if(|(k, _)| k.as_slice() == key);
            let shown = match replaced {
                Some((_, None)) => continue,
                Some((_, Some(new))) => visit(key, new)?,
                None => visit(key, value.as_ref())?,
            };
            if shown.is_break() {
                return Ok(());
            }
        }
        for (written, new) in writes {
            if let Some(new) = new
                && visit(written, new)?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The greatest pair of `base` (in descending order, within the range)
    /// merged with the writes.
    pub(super) fn last<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        from: &[u8],
        to: &[u8],
        base_descending: impl Iterator<Item = Result<(K, V)>>,
    ) -> Result<Option<Pair>> {
        let own = self.range(from, to).rev().find_map(|(key, new)| Some((key, new.as_ref()?)));
        for pair in base_descending {
            let (key, value) = pair?;
            let key = key.as_ref();
            if own.is_some_and(|(written, _)| written.as_slice() >= key) {
                break;
            }
            if !self.writes.contains_key(key) {
                let value = Bytes::copy_from_slice(value.as_ref());
                return Ok(Some((Bytes::copy_from_slice(key), value)));
            }
        }
        Ok(own.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())))
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Option<Bytes>)> {
        // BTreeMap panics on a range whose end lies before its start.
        let to = to.max(from);
        self.writes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }
}
