//! The end of fjall's journal after a loss of power.
//!
//! Of what was not synced the disk may hold any part, also a batch with its
//! beginning and its end and a hole between. fjall ends its replay at an
//! unknown tag, but refuses to open for a batch with a wrong checksum. To us
//! both are the end of what is certain; so the newest journal (the older ones
//! were synced when they were closed) is cut there before fjall sees it.
//!
//! A disk that has altered what was synced looks the same, and then there are
//! acknowledged commits behind the damage. So what is cut is kept in a file
//! beside the journal.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{BufReader, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
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

/// What is appended to the journal's name for what was cut from it, before the
/// place that it was cut at: fjall passes over other names than its own.
const CUT: &str = ".cut-at-";
/// Cuts that are kept; each is as long as a journal at most.
const CUTS_MAX: usize = 4;

/// What fjall's `lock` and `version` files are called, and what the latter
/// holds in the format that is known here.
const LOCK: &str = "lock";
const VERSION: &str = "version";
const KNOWN_VERSION: &[u8] = b"FJL\x03";

/// Cuts the newest journal in `dir` behind its last whole batch, unless it
/// ends there in zeros or at its end anyway, and keeps what it cuts in a file
/// beside. A database of another format, or one that is not complete, is left
/// as it is.
///
/// # Errors
/// `ENGINE_FAILED`, also when a process has the database open (what it is
/// writing at the moment would look torn), and when there is no room to keep
/// what is to be cut: then nothing is.
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
        let kept = keep(&file, &path, end).map_err(|e| {
            let why =
                "what is to be cut from the journal cannot be kept: is there room on the disk?";
            Error::new(Code::EngineFailed, why).caused_by(e)
        })?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)?;
        tracing::warn!(
            journal = %path.display(), end, kept = %kept.display(),
            "the journal is damaged: cut behind its last whole commit, the rest is kept. After a \
             loss of power nothing is lost that was synced; else the disk has damaged what was: run \
             `meta.flexfs verify` and look at the latest backup, and remove the kept file when all \
             is well"
        );
        forget_oldest(dir);
    }
    Ok(())
}

/// Writes what lies behind `end`, without the zeros at its end, into a file
/// that survives a loss of power when this returns.
fn keep(journal: &File, path: &Path, end: u64) -> IoResult<PathBuf> {
    let (kept, out) = create_beside(path, end)?;
    let written = copy_behind(journal, end, &out).and_then(|()| {
        out.sync_all()?;
        kept.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    });
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&kept);
        return Err(error);
    }
    Ok(kept)
}

/// A file for what is cut at this place. One that is there is not replaced: it
/// may be of another damage at the same place.
fn create_beside(path: &Path, end: u64) -> IoResult<(PathBuf, File)> {
    let mut number = 1_u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{CUT}{end}"));
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let kept = PathBuf::from(name);
        match File::options().write(true).create_new(true).mode(0o600).open(&kept) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            opened => return Ok((kept, opened?)),
        }
    }
}

fn copy_behind(mut journal: &File, end: u64, mut out: &File) -> IoResult<()> {
    journal.seek(SeekFrom::Start(end))?;
    let (mut buffer, mut zeros) = ([0; 64 * 1024], 0_u64);
    loop {
        let part = match journal.read(&mut buffer)? {
            0 => return Ok(()),
            len => buffer.get(..len).unwrap_or_default(),
        };
        let used = part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used > 0 {
            // Zeros in between take no room.
            out.seek_relative(i64::try_from(zeros).unwrap_or(i64::MAX))?;
            out.write_all(part.get(..used).unwrap_or_default())?;
            zeros = 0;
        }
        zeros += u64::try_from(part.len() - used).unwrap_or(0);
    }
}

/// Removes the oldest of too many files that were kept. What cannot be removed
/// stays: it is in nobody's way.
fn forget_oldest(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let kept = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.contains(CUT))
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut cuts: Vec<_> = paths
        .filter(kept)
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    cuts.sort();
    for (_, path) in cuts.iter().rev().skip(CUTS_MAX) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "an old cut of a journal stays");
        }
    }
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
    use std::os::unix::fs::{FileExt, PermissionsExt};

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

    /// What was cut, by name.
    fn cuts(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut cuts: Vec<_> =
            entries.filter(|path| path.to_string_lossy().contains(CUT)).collect();
        cuts.sort();
        cuts
    }

    /// A bit of what was synced, in the middle of a journal.
    #[test]
    fn what_is_cut_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let engine = FjallEngine::open(dir.path()).unwrap();
        let put = |number: u8| {
            let change = &mut |txn: &mut dyn crate::engine::Txn| {
                txn.put(&[number], &[number; 100_000]);
                Ok(())
            };
            let version = engine.transact(change).unwrap();
            engine.sync(version).unwrap();
            let path = newest(dir.path()).unwrap().unwrap();
            whole(&File::open(&path).unwrap()).unwrap().0
        };
        let ends = [1, 2, 3].map(put);
        drop(engine);
        let path = newest(dir.path()).unwrap().unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(b"rot", ends[0] + 50_000).unwrap();
        let before = std::fs::read(&path).unwrap();
        let (_, rest) = before.split_at(usize::try_from(ends[0]).unwrap());
        let used = rest.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        assert!(used > 200_000);
        let engine = FjallEngine::open(dir.path()).unwrap();
        let has = |number: u8| engine.snapshot().unwrap().get(&[number]).unwrap().is_some();
        assert!(has(1) && !has(2) && !has(3));
        let kept = cuts(dir.path());
        let name = format!("{}{CUT}{}", path.display(), ends[0]);
        assert_eq!(kept, [PathBuf::from(name)]);
        assert!(std::fs::read(&kept[0]).unwrap() == rest[..used]);
        assert_eq!(kept[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // It is in nobody's way, and not touched.
        drop(engine);
        drop(FjallEngine::open(dir.path()).unwrap());
        assert!(std::fs::read(&kept[0]).unwrap() == rest[..used]);
    }

    #[test]
    fn only_the_latest_cuts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(FjallEngine::open(dir.path()).unwrap());
        let path = newest(dir.path()).unwrap().unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let end = whole(&file).unwrap().0;
        // The same place again, and far behind it.
        for (junk, far) in [(b"ab", 0), (b"cd", 300_000)] {
            file.write_all_at(b"x", end).unwrap();
            file.write_all_at(junk, end + 10 + far).unwrap();
            cut(dir.path()).unwrap();
        }
        let kept = cuts(dir.path());
        let contents = |at: usize| std::fs::read(&kept[at]).unwrap();
        assert!(kept.len() == 2 && contents(0) == b"x\0\0\0\0\0\0\0\0\0ab", "{kept:?}");
        assert!(contents(1).len() == 300_012 && contents(1).ends_with(b"\0cd"));
        let hour = std::time::Duration::from_secs(3600);
        for number in 0..6_u32 {
            let old = File::create(dir.path().join(format!("99.jnl{CUT}{number}"))).unwrap();
            old.set_modified(std::time::SystemTime::now() - hour * (10 - number)).unwrap();
        }
        file.write_all_at(b"ef", end).unwrap();
        cut(dir.path()).unwrap();
        let names = cuts(dir.path());
        assert_eq!(names.len(), CUTS_MAX);
        assert!(names.iter().any(|path| std::fs::read(path).unwrap() == b"ef"));
        assert!(names.contains(&dir.path().join(format!("99.jnl{CUT}5"))), "{names:?}");
    }
}
