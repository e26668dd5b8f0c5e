//! Reading a backup: to check it, and to restore it.

use std::io::Read;

use bytes::Bytes;
use flexfs_common::ids::{TokenId, VolumeId};
use flexfs_common::{Code, Error, Result, clock};

use super::format::{Chunk, Reader, Rows, VolumeHead};
use super::{Summary, invalid};
use crate::engine::Engine;
use crate::grants;
use crate::service::placed::{self, settings_of};
use crate::volume::restored::Restored;

/// Where rows go, with the time of the backup.
type Put<'p> = dyn FnMut(i64, &[(Vec<u8>, Bytes)]) -> Result<()> + 'p;

/// Checks a backup from its first to its last byte.
///
/// # Errors
/// `BACKUP_INVALID`, `BACKUP_FAILED`, `FORMAT_UNSUPPORTED`.
pub fn check(from: &mut dyn Read) -> Result<Summary> {
    read(from, &mut |_, _| Ok(()))
}

/// Fills an empty engine. Each volume has a new incarnation afterwards, and
/// nothing of it is collected until that is confirmed. Grants and sessions
/// are not in a backup: admin has to confirm every token anew.
///
/// When it fails, what it wrote is of no use. Blocks.
///
/// # Errors
/// `STORE_NOT_EMPTY`, those of [`check`], `ENGINE_FAILED`.
pub fn restore(engine: &dyn Engine, from: &mut dyn Read) -> Result<Summary> {
    if engine.head().0 > 0 {
        return Err(Error::bare(Code::StoreNotEmpty));
    }
    let summary = read(from, &mut |made_at, rows| {
        engine.transact(&mut |txn| {
            // Times of a volume never go back, also when this clock is behind.
            txn.advance(made_at);
            rows.iter().for_each(|(key, value)| txn.put(key, value));
            Ok(())
        })?;
        Ok(())
    })?;
    engine.sync(engine.head())?;
    Ok(summary)
}

/// What has been read so far.
struct State {
    summary: Summary,
    now: i64,
    volume: Option<Restored>,
    seen: Vec<VolumeId>,
}

fn read(from: &mut dyn Read, put: &mut Put<'_>) -> Result<Summary> {
    let mut reader = Reader::new(from)?;
    let Some(Chunk::Header(header)) = reader.next()? else {
        return Err(invalid("the backup does not begin with its header"));
    };
    let now = i64::try_from(clock::wall_now().as_nanosecond()).unwrap_or(0);
    let summary = Summary { made_at: header.made_at, ..Summary::default() };
    let mut state = State { summary, now, volume: None, seen: Vec::new() };
    while let Some(chunk) = reader.next()? {
        state.take(chunk, put)?;
    }
    Ok(state.summary)
}

impl State {
    fn take(&mut self, chunk: Chunk, put: &mut Put<'_>) -> Result<()> {
        match chunk {
            Chunk::Header(_) => Err(invalid("the backup has two headers")),
            Chunk::Revoked(ids) => put(self.summary.made_at, &revoked(&ids)?),
            Chunk::Volume(head) => self.begin(*head, put),
            Chunk::Rows(rows) => self.rows(&rows, put),
            Chunk::End(end) => {
                self.finish_volume()?;
                if (end.volumes, end.rows) == (self.summary.volumes, self.summary.rows) {
                    return Ok(());
                }
                Err(invalid("parts of the backup are missing"))
            }
        }
    }

    fn finish_volume(&mut self) -> Result<()> {
        self.volume.take().map_or(Ok(()), |volume| volume.finish())
    }

    fn begin(&mut self, head: VolumeHead, put: &mut Put<'_>) -> Result<()> {
        self.finish_volume()?;
        let placed =
            head.placed.ok_or_else(|| invalid("the backup has a volume without a name"))?;
        let id = settings_of(&placed).map_err(|e| invalid("a volume's settings").caused_by(e))?.id;
        if self.seen.contains(&id) {
            return Err(invalid("the backup has a volume twice"));
        }
        self.seen.push(id);
        self.summary.volumes += 1;
        self.volume = Some(Restored::new(id, self.now));
        let (key, value) = placed::row(id, &placed);
        put(self.summary.made_at, &[(key, value.into())])
    }

    fn rows(&mut self, rows: &[u8], put: &mut Put<'_>) -> Result<()> {
        let orphaned = || invalid("the backup has rows of no volume");
        let volume = self.volume.as_mut().ok_or_else(orphaned)?;
        let mut rows = Rows(rows);
        let mut made = Vec::new();
        while let Some((key, value)) = rows.next()? {
            made.push((key.to_vec(), volume.row(key, value)?));
        }
        self.summary.rows += made.len() as u64;
        put(self.summary.made_at, &made)
    }
}

fn revoked(ids: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
    let (ids, rest) = ids.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(invalid("a list of revoked tokens is damaged"));
    }
    let row = |id: &[u8; 16]| (grants::revoked_key(TokenId::from_bytes(*id)), Bytes::new());
    Ok(ids.iter().map(row).collect())
}
