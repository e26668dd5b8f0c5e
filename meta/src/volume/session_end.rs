//! The end of a session in the engine: its row goes, what it was cut with
//! stays, and what it held is let go of afterwards in steps.

use std::time::Duration;

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Result};

use super::context::Context;
use super::edit::Edit;
use super::keys::{id_at, u64_at};
use super::record::Tombstone;
use super::{inodes, locks, numbers_ahead};

/// Rows of an ended session removed in one transaction.
const ROWS_PER_STEP: usize = 512;
/// What stands in the row of leftovers of a session whose mount may answer
/// from what it keeps until its lease ends.
const UNHEARD: &[u8] = b"unheard";

/// Ends a session. Its code is kept only when somebody may come back to hear
/// it.
pub(super) fn end(edit: &mut Edit<'_>, session: SessionId, code: Code) {
    let keys = edit.keys();
    edit.delete(&keys.session(session));
    edit.put_raw(&keys.leftover(session), &[]);
    if code != Code::SessionUnknown {
        let tombstone = Tombstone { code: code.name().to_owned(), at: edit.now() };
        edit.put(&keys.tombstone(session), &tombstone);
    }
    edit.effects.ended.push((session, code));
}

/// Ends a session that cannot be told: what it held stays until its lease is
/// over. Written, because the next start must wait as well.
pub(super) fn end_unheard(edit: &mut Edit<'_>, session: SessionId, code: Code) {
    end(edit, session, code);
    let key = edit.keys().leftover(session);
    edit.put_raw(&key, UNHEARD);
}

/// Was it ended by [`end_unheard`]? By the value of its row of leftovers.
pub(super) fn is_unheard(leftover: &[u8]) -> bool {
    leftover == UNHEARD
}

/// A directory moved or went: sessions whose scope's path led through it
/// have lost their place.
pub(super) fn path_broken(ctx: &Context<'_>, edit: &mut Edit<'_>, dir: Ino) -> Result<()> {
    for session in ctx.scopes.through(dir) {
        if !edit.effects.ended.iter().any(|(ended, _)| *ended == session) {
            end(edit, session, Code::FsStale);
        }
    }
    Ok(())
}

/// Lets go of the locks of a session, at most a step of them; true when none
/// is left.
pub(super) fn release_locks(edit: &mut Edit<'_>, session: SessionId) -> Result<bool> {
    let found = edit.view().keys_of(&edit.keys().locks_of_session(session), ROWS_PER_STEP)?;
    for key in &found {
        if let Some(ino) = u64_at(key, 16) {
            locks::release_session(edit, Ino(ino), session)?;
        }
    }
    Ok(found.len() < ROWS_PER_STEP)
}

/// Removes what an ended session left, at most a step of it; true when
/// nothing is left. Locks first: others wait for them.
pub(super) fn reap(edit: &mut Edit<'_>, session: SessionId, retention: Duration) -> Result<bool> {
    let keys = edit.keys();
    if !release_locks(edit, session)? {
        return Ok(false);
    }
    let opens = edit.view().keys_of(&keys.opens_of_session(session), ROWS_PER_STEP)?;
    for key in &opens {
        let open = u64_at(key, 16).unwrap_or(0);
        match edit.view().open_row(session, open)? {
            Some(row) => inodes::end_open(edit, session, open, Ino(row.ino), retention)?,
            None => edit.delete(key),
        }
    }
    if opens.len() == ROWS_PER_STEP {
        return Ok(false);
    }
    for key in edit.view().keys_of(&keys.slots(session), ROWS_PER_STEP)? {
        edit.delete(&key);
    }
    let ahead = edit.view().keys_of(&keys.ahead_of_session(session), ROWS_PER_STEP)?;
    numbers_ahead::take_back(edit, &ahead)?;
    if ahead.len() == ROWS_PER_STEP {
        return Ok(false);
    }
    edit.delete(&keys.leftover(session));
    Ok(true)
}

/// The session of a row whose key begins with one.
pub(super) fn session_of(key: &[u8]) -> Option<SessionId> {
    id_at(key, 0).map(SessionId::from_bytes)
}
