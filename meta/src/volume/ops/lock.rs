//! fcntl(2) locks and flock(2).

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use crate::volume::confine::Reached;
use crate::volume::context::Context;
use crate::volume::edit::Edit;
use crate::volume::lock_wait::{self, Wanted};
use crate::volume::locks;
use crate::volume::outcome::{Outcome, empty};
use crate::volume::view::View;

fn state_of(lock: Option<&v1::LockState>) -> Result<&v1::LockState> {
    lock.ok_or_else(|| Code::FsInvalid.into())
}

/// The first lock that keeps the one asked for from being acquired, or
/// "unlocked". The owner of another session's lock is its own business.
pub(in crate::volume) fn get(
    ctx: &Context<'_>,
    view: View<'_>,
    target: &Reached,
    op: &v1::GetLock,
) -> Result<Outcome> {
    let request = locks::parse(ctx.session.id, state_of(op.lock.as_ref())?)?;
    let row = locks::row(view, target.ino())?;
    let held = row.locks.iter().find(|held| locks::conflicts(held, &request.lock));
    let state = match held {
        None => v1::LockState { kind: v1::LockKind::Unlock as i32, ..v1::LockState::default() },
        Some(held) => {
            let kind = if held.write { v1::LockKind::Write } else { v1::LockKind::Read };
            let mine = held.session == ctx.session.id.as_bytes()[..];
            v1::LockState {
                kind: kind as i32,
                flock: held.flock,
                start: held.start,
                end: held.end,
                owner: if mine { held.owner } else { 0 },
                pid: held.pid,
            }
        }
    };
    Ok(reply::Result::Lock(state).into())
}

pub(in crate::volume) fn set(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    ino: Ino,
    op: &v1::SetLock,
    slot: (u32, u64),
) -> Result<Outcome> {
    let request = locks::parse(ctx.session.id, state_of(op.lock.as_ref())?)?;
    match locks::request(edit, ino, &request) {
        Ok(()) => Ok(empty()),
        Err(error) if error.code() == Code::FsWouldBlock && op.wait => {
            let session = ctx.session.id;
            let wanted = Wanted { session, ino, request, slot };
            if lock_wait::would_deadlock(edit, ctx.waiters, &wanted)? {
                return Err(Code::FsDeadlock.into());
            }
            ctx.waiters.need_room(session, edit.effects.waits.len())?;
            edit.effects.waits.push(wanted.clone());
            Ok(Outcome::Wait(wanted))
        }
        Err(error) => Err(error),
    }
}
