//! The end of fjall's journal after a loss of power.
//!
//! Of what was not synced the disk may hold any part, also a batch with its
//! beginning and its end and a hole between. fjall ends its replay at an
//! unknown tag, but refuses to open for a batch with a wrong checksum. To us
//! both are the end of what is certain; so the newest journal (the older ones
//! were synced when they were closed) is cut there before fjall sees it.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{BufReader, ErrorKind, Read, Result as IoResult};
use std::path::{Path, PathBuf};

use flexfs_common::{Code, Error, Result};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
/// Behind the tag of a start: number of items, sequence number.
const START_LEN: usize = 4 + 8;
/// Behind the tag of an item: type, compression, keyspace, length of the key,
/// length of the value, its length as it is stored.
const ITEM_LEN: usize = 1 + 1 + 8 + 2 + 4 + 4;
/// Behind the tag of an end: checksum of the items, a magic.
const END_LEN: usize = 8 + 4;

/// What fjall's `lock` and `version` files are called, and what the latter
/// holds in the format that is known here.
const LOCK: &str = "lock";
const VERSION: &str = "version";
const KNOWN_VERSION: &[u8] = b"FJL\x03";

/// Cuts the newest journal in `dir` behind its last whole batch, unless it
/// ends there in zeros or at its end anyway. A database of another format, or
/// one that is not complete, is left as it is.
///
/// # Errors
/// `ENGINE_FAILED`, also when a process has the database open: what it is
/// writing at the moment would look torn.
pub(super) fn cut(dir: &Path) -> Result<()> {
    let failed = |e| Error::new(Code::EngineFailed, "reading the journal failed").caused_by(e);
    if std::fs::read(dir.join(VERSION)).is_ok_and(|version| version != KNOWN_VERSION) {
        return Ok(());
    }
    let lock = match File::options().read(true).write(true).open(dir.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // Until the end of this; fjall then takes it anew, or is refused.
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let why = "the metadata database is in use by another process";
            return Err(Error::new(Code::EngineFailed, why));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let Some(path) = newest(dir).map_err(failed)? else { return Ok(()) };
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    let (end, torn) = whole(&file).map_err(failed)?;
    if torn {
        tracing::warn!(journal = %path.display(), end, "cut behind the last whole commit");
        file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(())
}

fn newest(dir: &Path) -> IoResult<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest = None;
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|n| n.parse::<u64>().ok());
        if path.extension() == Some(OsStr::new("jnl")) {
            newest = newest.max(number.map(|number| (number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The end of the last whole batch, and whether more than zeros begin there.
fn whole(file: &File) -> IoResult<(u64, bool)> {
    let len = file.metadata()?.len();
    let mut reader = Batches { reader: BufReader::new(file), at: 0, len };
    loop {
        let end = reader.at;
        match reader.batch() {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok((end, true)),
            Ok(None) => return Ok((end, false)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((end, end < len)),
            Err(error) => return Err(error),
        }
    }
}

struct Batches<'f> {
    reader: BufReader<&'f File>,
    at: u64,
    len: u64,
}

impl Batches<'_> {
    fn take<const N: usize>(&mut self) -> IoResult<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Whether the next batch is whole; `None` when there is none.
    fn batch(&mut self) -> IoResult<Option<bool>> {
        match self.take()? {
            [START] => {}
            [0] => return Ok(None),
            [_] => return Ok(Some(false)),
        }
        let [a, b, c, d, ..] = self.take::<START_LEN>()?;
        let items = u32::from_le_bytes([a, b, c, d]);
        let mut checksum = Xxh3::new();
        for _ in 0..items {
            if self.take()? != [ITEM] || !self.item(&mut checksum)? {
                return Ok(Some(false));
            }
        }
        if self.take()? != [END] {
            return Ok(Some(false));
        }
        let [a, b, c, d, e, f, g, h, ..] = self.take::<END_LEN>()?;
        Ok(Some(checksum.digest() == u64::from_le_bytes([a, b, c, d, e, f, g, h])))
    }

    /// False when it cannot be one.
    fn item(&mut self, checksum: &mut Xxh3) -> IoResult<bool> {
        let head = self.take::<ITEM_LEN>()?;
        let [_, _, _, _, _, _, _, _, _, _, k0, k1, v0, v1, v2, v3, s0, s1, s2, s3] = head;
        let key_len = u16::from_le_bytes([k0, k1]);
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]);
        // Nothing is compressed: fjall is built without.
        if value_len != u32::from_le_bytes([s0, s1, s2, s3]) {
            return Ok(false);
        }
        let rest = u64::from(key_len) + u64::from(value_len);
        if rest > self.len - self.at {
            return Ok(false);
        }
        checksum.update(&[ITEM]);
        checksum.update(&head);
        let mut left = rest;
        let mut buffer = [0; 4096];
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (part, _) = buffer.split_at_mut(part);
            self.reader.read_exact(part)?;
            checksum.update(part);
            left -= part.len() as u64;
        }
        self.at += rest;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::engine::Engine;
    use crate::engine::fjall::FjallEngine;

    /// What a server is writing at the moment looks like a torn batch to
    /// another process.
    #[test]
    fn the_journal_of_a_database_in_use_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let engine = FjallEngine::open(dir.path()).unwrap();
        let put = |txn: &mut dyn crate::engine::Txn| {
            txn.put(b"a", b"1");
            Ok(())
        };
        engine.transact(&mut { put }).unwrap();
        let path = newest(dir.path()).unwrap().unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let looked_through = || whole(&File::open(&path).unwrap()).unwrap();
        let (end, torn) = looked_through();
        assert!(!torn && end > 0);
        file.write_all_at(&[START, 7], end).unwrap();
        let before = file.metadata().unwrap().len();
        assert_eq!(looked_through(), (end, true));
        assert_eq!(cut(dir.path()).unwrap_err().code(), Code::EngineFailed);
        assert_eq!(FjallEngine::open(dir.path()).unwrap_err().code(), Code::EngineFailed);
        assert_eq!(file.metadata().unwrap().len(), before);
        drop(engine);
        std::fs::write(dir.path().join(VERSION), b"FJL\x09").unwrap();
        cut(dir.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), before, "another format");
        std::fs::write(dir.path().join(VERSION), KNOWN_VERSION).unwrap();
        cut(dir.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), end);
    }
}
