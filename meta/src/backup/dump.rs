//! Making a backup.

use std::io::Write;
use std::ops::ControlFlow;

use flexfs_common::Result;

use super::Summary;
use super::format::{Chunk, Header, VolumeHead, Writer};
use crate::engine::Engine;
use crate::grants;
use crate::service::placed::{self, settings_of};
use crate::volume::restored::kept_ranges;

/// Ids of revoked tokens in one chunk.
const REVOKED_PER_CHUNK: usize = 4096;

/// Writes a backup of everything that `engine` holds, as it is at one point
/// of the commit order. Others go on meanwhile. Memory does not grow with
/// what there is. Blocks.
///
/// # Errors
/// `ENGINE_FAILED`, `BACKUP_FAILED`.
pub fn dump(engine: &dyn Engine, out: &mut dyn Write) -> Result<Summary> {
    let snapshot = engine.snapshot()?;
    // After the snapshot: nothing in it has a later time, whatever the clock
    // has done since.
    let mut made_at = 0;
    engine.transact(&mut |txn| {
        made_at = txn.commit_time();
        Ok(())
    })?;
    let mut writer = Writer::new(out)?;
    let program = env!("CARGO_PKG_VERSION").to_owned();
    writer.chunk(&Chunk::Header(Header { made_at, program }))?;
    let revoked = grants::revoked_in(&*snapshot)?;
    for part in revoked.chunks(REVOKED_PER_CHUNK) {
        let ids: Vec<u8> = part.iter().flat_map(|id| *id.as_bytes()).collect();
        writer.chunk(&Chunk::Revoked(ids))?;
    }
    let mut summary = Summary { made_at, ..Summary::default() };
    for placed in placed::kept_in(&*snapshot)? {
        let volume = settings_of(&placed)?.id;
        writer.chunk(&Chunk::Volume(Box::new(VolumeHead { placed: Some(placed) })))?;
        summary.volumes += 1;
        for (from, to) in kept_ranges(volume) {
            snapshot.scan(&from, &to, &mut |key, value| {
                summary.rows += 1;
                writer.row(key, value)?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
    }
    writer.end(summary.volumes, summary.rows)?;
    Ok(summary)
}
