//! Objects in the block store: minted for a session, committed to an inode
//! for ever, condemned when no extent lies in them any more.

use std::time::Duration;

use bytes::Bytes;
use flexfs_common::ids::{Ino, ObjectId, SessionId};
use flexfs_common::{Code, Error, Result, limits};

use super::edit::Edit;
use super::record::{Committed, Condemned, Minted, Object, ObjectState};

/// From the last moment a commit may name an object to its collection: a PUT
/// that began in time has ended by then, or was cut.
const MINTED_MARGIN: Duration = Duration::from_secs(600);

/// A span in nanoseconds.
pub(super) fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Makes the key known as one of this session's.
pub(super) fn mint(edit: &mut Edit<'_>, session: SessionId, object: ObjectId, size_limit: u32) {
    let deadline = edit.now().saturating_add(nanos(limits::OBJECT_COMMIT));
    let due = deadline.saturating_add(nanos(MINTED_MARGIN));
    let session = Bytes::copy_from_slice(session.as_bytes());
    let minted = Minted { session, deadline, size_limit, due };
    put(edit, object, ObjectState::Minted(minted));
    let keys = edit.keys();
    edit.put_raw(&keys.queue(due, object), &[]);
}

fn put(edit: &mut Edit<'_>, object: ObjectId, state: ObjectState) {
    let keys = edit.keys();
    edit.put(&keys.object(object), &Object { state: Some(state) });
}

/// The state of an object; `None` when it is not known.
pub(super) fn state(edit: &Edit<'_>, object: ObjectId) -> Result<Option<ObjectState>> {
    let record: Option<Object> = edit.view().record("object", &edit.keys().object(object))?;
    Ok(record.and_then(|record| record.state))
}

/// An object named by a commit: of this session, unused, in time, in size.
///
/// # Errors
/// `BLOCK_REFUSED`, whichever of these it is not.
pub(super) fn commit(
    edit: &mut Edit<'_>,
    session: SessionId,
    object: ObjectId,
    committed: Committed,
) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Code::BlockRefused, why));
    let Some(ObjectState::Minted(minted)) = state(edit, object)? else {
        return refuse("an object key that is unknown or was used");
    };
    if minted.session != session.as_bytes()[..] {
        return refuse("an object key that is unknown or was used");
    }
    if minted.deadline < edit.now() {
        return refuse("an object key past its deadline");
    }
    if committed.stored == 0 || committed.stored > u64::from(minted.size_limit) {
        return refuse("an object of another size than its key allows");
    }
    let keys = edit.keys();
    edit.delete(&keys.queue(minted.due, object));
    put(edit, object, ObjectState::Committed(committed));
    edit.effects.minted.push((session, -1));
    Ok(())
}

/// Extents of an object came or went; without any it is condemned. Returns
/// the stored bytes that are free then.
///
/// # Errors
/// `ENGINE_FAILED` when it is not an object of this inode.
pub(super) fn adjust(
    edit: &mut Edit<'_>,
    ino: Ino,
    object: ObjectId,
    extents: i32,
    retention: Duration,
) -> Result<u64> {
    if extents == 0 {
        return Ok(0);
    }
    let damaged =
        || Error::new(Code::EngineFailed, format!("object {object} is not what {ino} has"));
    let Some(ObjectState::Committed(mut committed)) = state(edit, object)? else {
        return Err(damaged());
    };
    committed.extents = committed.extents.checked_add_signed(extents).ok_or_else(damaged)?;
    if committed.ino != ino.0 {
        return Err(damaged());
    }
    if committed.extents > 0 {
        put(edit, object, ObjectState::Committed(committed));
        return Ok(0);
    }
    let due = edit.now().saturating_add(nanos(retention));
    put(edit, object, ObjectState::Condemned(Condemned { due }));
    let keys = edit.keys();
    edit.put_raw(&keys.queue(due, object), &[]);
    Ok(committed.stored)
}
