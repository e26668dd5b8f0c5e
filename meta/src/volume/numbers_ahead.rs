//! Numbers of inodes that a session has ahead of their use, so that its mount
//! can make files before meta hears of them. Each is a row of its session until
//! it is used or taken back: a number is used once, by whom it was given to,
//! and counts against the quota meanwhile.

use flexfs_common::ids::Ino;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::reply;

use super::context::Context;
use super::edit::Edit;
use super::outcome::Outcome;
use super::record::Inode;

/// Gives the session as many numbers as it wants and may have.
pub(super) fn mint(ctx: &Context<'_>, edit: &mut Edit<'_>, op: &v1::MintInodes) -> Result<Outcome> {
    ctx.need_writable()?;
    let keys = edit.keys();
    let session = ctx.session.id;
    let returned: Vec<Vec<u8>> = op
        .returned
        .iter()
        .filter_map(|handle| ctx.session.handles.check(handle).ok())
        .map(|ino| keys.ahead(session, ino))
        .collect();
    take_back(edit, &returned)?;
    let has = edit.view().keys_of(&keys.ahead_of_session(session), limits::INODES_AHEAD_MAX)?;
    let mut counters = edit.view().counters()?;
    let mut count = (limits::INODES_AHEAD_MAX - has.len()) as u64;
    count = count.min(op.count.into());
    if ctx.settings.max_inodes > 0 {
        let free = ctx.settings.max_inodes.saturating_sub(counters.inodes_taken());
        let lent = count.min(free / limits::INODES_AHEAD_PART);
        // Inside a scope nothing is told of the volume but that it is full.
        let all_or_none = ctx.session.confined.is_some() && lent < count;
        count = if all_or_none { 0 } else { lent };
    }
    let mut inodes = Vec::new();
    for _ in 0..count {
        let (ino, next) = ctx.identity.numbers.next(counters.next_inode);
        counters.next_inode = next;
        edit.put_raw(&keys.ahead(session, ino), &[]);
        inodes.push(v1::MintedInode { ino: ino.0, handle: ctx.session.handles.make(ino) });
    }
    counters.ahead += count;
    edit.set_counters(counters);
    Ok(reply::Result::MintedInodes(v1::MintedInodes { inodes }).into())
}

/// Makes an inode of a number that the session was given.
///
/// # Errors
/// `FS_STALE` for a handle that is none, `WRITE_LOST` for one that is not of
/// such a number (any more).
pub(super) fn create(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    handle: &[u8],
    inode: &Inode,
) -> Result<Ino> {
    let ino = ctx.session.handles.check(handle)?;
    let key = edit.keys().ahead(ctx.session.id, ino);
    if edit.view().raw(&key)?.is_none() {
        return Err(Error::new(Code::WriteLost, "a number that was used or taken back"));
    }
    edit.delete(&key);
    edit.update_counters(|counters| {
        counters.ahead = counters.ahead.saturating_sub(1);
        counters.inodes += 1;
    })?;
    edit.put_inode(ino, inode);
    Ok(ino)
}

/// Takes numbers back that are given out, by their rows; those that were used
/// meanwhile have none.
pub(super) fn take_back(edit: &mut Edit<'_>, rows: &[Vec<u8>]) -> Result<()> {
    let mut count = 0;
    for key in rows {
        if edit.view().raw(key)?.is_some() {
            edit.delete(key);
            count += 1;
        }
    }
    if count == 0 {
        return Ok(());
    }
    edit.update_counters(|counters| counters.ahead = counters.ahead.saturating_sub(count))
}
