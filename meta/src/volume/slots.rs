//! Slots: the latest mutation of each, with its result, so that a repeat is
//! answered and not carried out again. Only successes are kept: a mutation
//! that failed changed nothing and may be carried out anew.

use bytes::Bytes;
use flexfs_common::ids::SessionId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use prost::Message;

use super::edit::Edit;
use super::record::SlotRow;
use super::view::View;

/// What a mutation with this slot and sequence is.
#[derive(Debug)]
pub(super) enum Turn {
    /// To be carried out.
    New,
    /// Carried out before; this was the answer.
    Repeat(Box<v1::Reply>),
}

/// # Errors
/// `PROTOCOL_INVALID` without a slot, or for a sequence that is over.
pub(super) fn turn(view: View<'_>, session: SessionId, op: &v1::Op) -> Result<Turn> {
    let bad = |why: &'static str| Err(Error::new(Code::ProtocolInvalid, why));
    if op.sequence == 0 || op.slot >= limits::SLOT_COUNT {
        return bad("a mutation without a slot and sequence");
    }
    let key = view.keys.slot(session, op.slot);
    let row: SlotRow = view.record("slot", &key)?.unwrap_or_default();
    if op.sequence > row.sequence {
        return Ok(Turn::New);
    }
    if op.sequence < row.sequence {
        return bad("a mutation whose slot has gone on");
    }
    if row.reply.is_empty() {
        return Ok(Turn::New);
    }
    let reply = v1::Reply::decode(row.reply)
        .map_err(|e| Error::new(Code::EngineFailed, "a damaged slot record").caused_by(e))?;
    Ok(Turn::Repeat(Box::new(reply)))
}

/// Keeps the answer of a mutation. Without one a repeat is carried out again.
pub(super) fn keep(
    edit: &mut Edit<'_>,
    session: SessionId,
    (slot, sequence): (u32, u64),
    result: Option<&v1::reply::Result>,
) {
    let reply = result.map_or_else(Bytes::new, |result| {
        let reply = v1::Reply { request_id: 0, result: Some(result.clone()) };
        Bytes::from(reply.encode_to_vec())
    });
    let key = edit.keys().slot(session, slot);
    edit.put(&key, &SlotRow { sequence, reply });
}

/// The highest sequence per slot.
///
/// # Errors
/// `ENGINE_FAILED`.
pub(super) fn sequences(view: View<'_>, session: SessionId) -> Result<Vec<u64>> {
    (0..limits::SLOT_COUNT)
        .map(|slot| {
            let row: Option<SlotRow> = view.record("slot", &view.keys.slot(session, slot))?;
            Ok(row.map_or(0, |row| row.sequence))
        })
        .collect()
}
