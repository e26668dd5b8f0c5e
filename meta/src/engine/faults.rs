//! Disks that fail, for tests: what was written and not synced is kept apart,
//! and a power loss keeps any part of it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redb::StorageBackend;
use flexfs_common::Result;
use parking_lot::Mutex;

use super::fjall::FjallEngine;
use super::redb::{RedbEngine, Tuning};
use super::{CommitVersion, Engine, Reader, Txn};

/// What a disk writes as a whole, or not.
const SECTOR_LEN: usize = 512;
/// No sync but those the test asks for.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Numbers from a seed (xorshift).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// True in so many of 16 cases.
    fn chance(&mut self, of_16: u64) -> bool {
        self.roll() % 16 < of_16
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, new) => {
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes[*at..at + new.len()].copy_from_slice(new);
        }
        Change::SetLen(len) => bytes.resize(*len, 0),
    }
}

#[derive(Debug, Default)]
struct Bytes {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Bytes that can still be written.
    space: Option<usize>,
    sync_fails: bool,
}

/// A file on such a disk; a clone is the same file.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<Bytes>>);

impl FaultyDisk {
    /// From now on a sync is an error, and nothing is synced.
    pub(super) fn fail_syncs(&self) {
        self.0.lock().sync_fails = true;
    }

    /// So many bytes can still be written.
    pub(super) fn leave_space(&self, space: usize) {
        self.0.lock().space = Some(space);
    }

    /// The file as a power loss at this moment leaves it.
    pub(super) fn after_power_loss(&self, dice: &mut Dice) -> FaultyDisk {
        let bytes = self.0.lock();
        let mut left = bytes.durable.clone();
        let kept_of_16 = [0, 4, 8, 15, 16][(dice.roll() % 5) as usize];
        for pending in &bytes.pending {
            match pending {
                Change::SetLen(_) if dice.chance(kept_of_16) => change(&mut left, pending),
                Change::SetLen(_) => {}
                Change::Write(at, new) => {
                    for (i, sector) in new.chunks(SECTOR_LEN).enumerate() {
                        if dice.chance(kept_of_16) {
                            let at = at + i * SECTOR_LEN;
                            change(&mut left, &Change::Write(at, sector.to_vec()));
                        }
                    }
                }
            }
        }
        let left = Bytes { live: left.clone(), durable: left, ..Bytes::default() };
        FaultyDisk(Arc::new(Mutex::new(left)))
    }

    /// The file as it is now, on a disk without faults.
    pub(super) fn after_restart(&self) -> FaultyDisk {
        let live = self.0.lock().live.clone();
        FaultyDisk(Arc::new(Mutex::new(Bytes { durable: live.clone(), live, ..Bytes::default() })))
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock();
        let at = offset as usize;
        let found = bytes.live.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let set = Change::SetLen(len as usize);
        change(&mut bytes.live, &set);
        bytes.pending.push(set);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut bytes = self.0.lock();
        if bytes.sync_fails {
            return Err(io::Error::other("injected: sync"));
        }
        for pending in std::mem::take(&mut bytes.pending) {
            change(&mut bytes.durable, &pending);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let fits = bytes.space.map_or(data.len(), |space| space.min(data.len()));
        bytes.space = bytes.space.map(|space| space - fits);
        let write = Change::Write(offset as usize, data[..fits].to_vec());
        change(&mut bytes.live, &write);
        bytes.pending.push(write);
        if fits < data.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// An engine whose power can be cut.
pub(crate) trait Cuttable: Sized {
    /// An empty one.
    fn start() -> Self;
    /// Its engine; syncs nothing by itself.
    fn engine(&self) -> Arc<dyn Engine>;
    /// Everything committed so far is synced.
    fn sync(&self) {
        let engine = self.engine();
        engine.sync(engine.head()).unwrap();
    }
    /// What a power loss leaves, opened again. `engine` and its users must
    /// not be used any more.
    fn lose_power(self, dice: &mut Dice) -> Self;
}

/// redb on two faulty disks.
#[derive(Debug)]
pub(crate) struct CuttableRedb {
    pub(super) engine: Arc<RedbEngine>,
    pub(super) keys: FaultyDisk,
    pub(super) journal: FaultyDisk,
}

impl CuttableRedb {
    pub(super) fn open(keys: FaultyDisk, journal: FaultyDisk) -> CuttableRedb {
        // Small: checkpoints happen.
        let tuning = Tuning { sync_after: NEVER, journal_max_len: 20_000 };
        let engine = RedbEngine::open_on(keys.clone(), journal.clone(), tuning).unwrap();
        CuttableRedb { engine: Arc::new(engine), keys, journal }
    }
}

impl Cuttable for CuttableRedb {
    fn start() -> CuttableRedb {
        CuttableRedb::open(FaultyDisk::default(), FaultyDisk::default())
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    fn lose_power(self, dice: &mut Dice) -> CuttableRedb {
        // Before it is dropped: that writes.
        let (keys, journal) =
            (self.keys.after_power_loss(dice), self.journal.after_power_loss(dice));
        CuttableRedb::open(keys, journal)
    }
}

/// fjall in a directory, and its journals as they were at the last sync.
/// Everything else fjall syncs when it makes it.
#[derive(Debug)]
pub(crate) struct CuttableFjall(Arc<WatchedFjall>);

/// Notes what the journals are at each sync, whoever asks for it.
#[derive(Debug)]
struct WatchedFjall {
    engine: FjallEngine,
    dir: tempfile::TempDir,
    synced: Mutex<Vec<(String, Image)>>,
}

impl Engine for WatchedFjall {
    fn snapshot(&self) -> Result<Box<dyn Reader + Send + '_>> {
        self.engine.snapshot()
    }

    fn transact(&self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<()>) -> Result<CommitVersion> {
        self.engine.transact(body)
    }

    fn head(&self) -> CommitVersion {
        self.engine.head()
    }

    fn sync(&self, version: CommitVersion) -> Result<()> {
        self.engine.sync(version)?;
        *self.synced.lock() = journals(self.dir.path());
        Ok(())
    }
}

/// A file's length, and its bytes; behind those all are zero.
#[derive(Clone, Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    len: u64,
}

impl Image {
    fn read(path: &Path) -> Image {
        let mut file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        let (mut bytes, mut chunk, mut end) = (Vec::new(), vec![0; 64 * 1024], 0);
        // Chunk by chunk: most of a journal is a hole.
        loop {
            let read = file.read(&mut chunk).unwrap();
            if read == 0 {
                break;
            }
            if chunk[..read] != vec![0; read] {
                bytes.resize(end, 0);
                bytes.extend_from_slice(&chunk[..read]);
            }
            end += read;
        }
        Image { bytes, len }
    }

    fn write(&self, path: &Path) {
        let mut file = File::create(path).unwrap();
        file.write_all(&self.bytes).unwrap();
        file.set_len(self.len).unwrap();
    }

    /// This file when `synced` is what is certain of it.
    fn torn(&self, synced: &Image, dice: &mut Dice) -> Image {
        let kept_of_16 = [0, 4, 8, 15, 16][(dice.roll() % 5) as usize];
        let mut bytes = synced.bytes.clone();
        bytes.resize(self.bytes.len().max(bytes.len()), 0);
        for (i, sector) in self.bytes.chunks(SECTOR_LEN).enumerate() {
            let at = i * SECTOR_LEN;
            if dice.chance(kept_of_16) {
                bytes[at..at + sector.len()].copy_from_slice(sector);
            }
        }
        let (least, most) = (synced.len.min(self.len), synced.len.max(self.len));
        let len = least + dice.roll() % (most - least + 1);
        bytes.truncate(len as usize);
        Image { bytes, len }
    }
}

fn journals(dir: &Path) -> Vec<(String, Image)> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let journals = names.filter(|name| name.ends_with(".jnl"));
    journals.map(|name| (name.clone(), Image::read(&dir.join(name)))).collect()
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            Image::read(&entry.path()).write(&target);
        }
    }
}

impl CuttableFjall {
    fn open(dir: tempfile::TempDir) -> CuttableFjall {
        let engine = FjallEngine::open_with(dir.path(), NEVER, None).unwrap();
        let synced = Mutex::new(journals(dir.path()));
        CuttableFjall(Arc::new(WatchedFjall { engine, dir, synced }))
    }
}

impl Cuttable for CuttableFjall {
    fn start() -> CuttableFjall {
        CuttableFjall::open(tempfile::tempdir().unwrap())
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.0.clone()
    }

    fn lose_power(self, dice: &mut Dice) -> CuttableFjall {
        let left = tempfile::tempdir().unwrap();
        copy_tree(self.0.dir.path(), left.path());
        for (name, now) in journals(self.0.dir.path()) {
            let synced = self.0.synced.lock();
            let synced = synced.iter().find(|(known, _)| *known == name);
            let synced = synced.map(|(_, file)| file.clone()).unwrap_or_default();
            now.torn(&synced, dice).write(&left.path().join(name));
        }
        CuttableFjall::open(left)
    }
}
