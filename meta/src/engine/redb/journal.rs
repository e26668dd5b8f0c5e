//! The journal before redb: a file of records, one per commit.
//!
//! It ends at the first record that is torn, whatever lies behind: power loss
//! may keep any part of what was not synced.

use std::collections::BTreeMap;

use ::redb::StorageBackend;
use bytes::{Buf, BufMut, Bytes};
use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;

use super::super::overlay::{Head, Writes};

/// What the file begins with: a name and a version of the format.
const MAGIC: [u8; 8] = *b"flexjnl\x01";
/// Before each record: 4 bytes length of the body, 4 bytes CRC-32C of it.
const RECORD_HEAD_LEN: usize = 8;
/// In place of a value's length: the key is removed.
const REMOVED: u32 = u32::MAX;

/// One commit.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) writes: Writes,
}

impl Record {
    /// Length and checksum; then 16 bytes head, and for each write 2 bytes
    /// length of the key, 4 bytes length of the value, both; big-endian.
    fn encode(&self) -> Result<Vec<u8>> {
        let too_long = |e| Error::new(Code::EngineFailed, "a record is too long").caused_by(e);
        let mut body = self.head.encode().to_vec();
        for (key, value) in &self.writes {
            body.put_u16(u16::try_from(key.len()).map_err(too_long)?);
            let value_len = value.as_ref().map(|value| u32::try_from(value.len()));
            body.put_u32(value_len.transpose().map_err(too_long)?.unwrap_or(REMOVED));
            body.put_slice(key);
            body.put_slice(value.as_deref().unwrap_or_default());
        }
        let mut out = Vec::with_capacity(RECORD_HEAD_LEN + body.len());
        out.put_u32(u32::try_from(body.len()).map_err(too_long)?);
        out.put_u32(crc32c::crc32c(&body));
        out.put_slice(&body);
        Ok(out)
    }

    /// `None` when it is not one; its checksum was right.
    fn decode(mut body: Bytes) -> Option<Record> {
        let head = Head::decode(body.get(..16)?).ok()?;
        body.advance(16);
        let mut writes = BTreeMap::new();
        while body.has_remaining() {
            let (key_len, value_len) = (body.try_get_u16().ok()?, body.try_get_u32().ok()?);
            let take =
                |body: &mut Bytes, len: usize| (len <= body.len()).then(|| body.split_to(len));
            let key = take(&mut body, usize::from(key_len))?.to_vec();
            let value = match value_len {
                REMOVED => None,
                len => Some(take(&mut body, usize::try_from(len).ok()?)?),
            };
            writes.insert(key, value);
        }
        Some(Record { head, writes })
    }
}

/// The file, and where the next record goes.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Box<dyn StorageBackend>,
    end: Mutex<u64>,
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::new(Code::EngineFailed, what).caused_by(e)
}

impl Journal {
    /// # Errors
    /// `ENGINE_FAILED`, also for a file of another format.
    pub(super) fn open(disk: Box<dyn StorageBackend>) -> Result<Journal> {
        let mut magic = [0; MAGIC.len()];
        if disk.len().map_err(failed("reading the journal failed"))? >= MAGIC.len() as u64 {
            disk.read(0, &mut magic).map_err(failed("reading the journal failed"))?;
        }
        if magic == [0; MAGIC.len()] {
            disk.set_len(0).map_err(failed("writing the journal failed"))?;
            disk.set_len(MAGIC.len() as u64).map_err(failed("writing the journal failed"))?;
            disk.write(0, &MAGIC).map_err(failed("writing the journal failed"))?;
        } else if magic != MAGIC {
            let text = "the engine's journal is of a format that this version does not know";
            return Err(Error::new(Code::EngineFailed, text));
        }
        Ok(Journal { disk, end: Mutex::new(MAGIC.len() as u64) })
    }

    /// Gives every whole record to `apply`, in order, until it says false;
    /// the next record goes behind the last one it took.
    ///
    /// # Errors
    /// `ENGINE_FAILED`, or what `apply` returned.
    pub(super) fn replay(&self, apply: &mut dyn FnMut(Record) -> Result<bool>) -> Result<()> {
        let mut end = self.end.lock();
        while let Some((record, next)) = self.record(*end)? {
            if !apply(record)? {
                break;
            }
            *end = next;
        }
        Ok(())
    }

    /// The record at this place and the place behind it; `None` at the end.
    fn record(&self, at: u64) -> Result<Option<(Record, u64)>> {
        let len = self.disk.len().map_err(failed("reading the journal failed"))?;
        let body_at = at + RECORD_HEAD_LEN as u64;
        if body_at > len {
            return Ok(None);
        }
        let mut head = [0; RECORD_HEAD_LEN];
        self.disk.read(at, &mut head).map_err(failed("reading the journal failed"))?;
        let mut head = &head[..];
        let (body_len, checksum) = (head.get_u32(), head.get_u32());
        let next = body_at + u64::from(body_len);
        if body_len == 0 || next > len {
            return Ok(None);
        }
        let mut body = vec![0; body_len as usize];
        self.disk.read(body_at, &mut body).map_err(failed("reading the journal failed"))?;
        if crc32c::crc32c(&body) != checksum {
            return Ok(None);
        }
        Ok(Record::decode(Bytes::from(body)).map(|record| (record, next)))
    }

    /// Hands a record to the operating system.
    ///
    /// # Errors
    /// `ENGINE_FAILED`: part of it may be there.
    pub(super) fn append(&self, record: &Record) -> Result<()> {
        let bytes = record.encode()?;
        let mut end = self.end.lock();
        let next = *end + bytes.len() as u64;
        if self.disk.len().map_err(failed("writing the journal failed"))? < next {
            self.disk.set_len(next).map_err(failed("writing the journal failed"))?;
        }
        self.disk.write(*end, &bytes).map_err(failed("writing the journal failed"))?;
        *end = next;
        Ok(())
    }

    /// # Errors
    /// `ENGINE_FAILED`: nobody knows what is on disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.disk.sync_data().map_err(failed("syncing the journal failed"))
    }

    /// Begins anew. What was in it is on stable storage elsewhere.
    pub(super) fn clear(&self) -> Result<()> {
        let mut end = self.end.lock();
        self.disk.set_len(MAGIC.len() as u64).map_err(failed("writing the journal failed"))?;
        *end = MAGIC.len() as u64;
        Ok(())
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        *self.end.lock()
    }
}
