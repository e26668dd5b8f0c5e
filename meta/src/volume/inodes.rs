//! The life of an inode: made, linked, unlinked, kept for those who hold it
//! open, reclaimed.

use std::time::Duration;

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result, limits};

use super::contents;
use super::context::Context;
use super::edit::Edit;
use super::random;
use super::record::{Inode, OpenRow};

/// Extents that are removed together with the last link; a bigger file is
/// left to collection.
const AT_ONCE: usize = 64;

/// Gives a new inode its number and counts it.
///
/// # Errors
/// `FS_QUOTA`.
pub(super) fn create(ctx: &Context<'_>, edit: &mut Edit<'_>, inode: &Inode) -> Result<Ino> {
    let mut counters = edit.view().counters()?;
    let max = ctx.settings.max_inodes;
    if max > 0 && counters.inodes_taken() >= max {
        // Numbers that nobody has used yet first.
        ctx.short_of_inodes.set(counters.inodes < max);
        return Err(Code::FsQuota.into());
    }
    let (ino, next) = ctx.identity.numbers.next(counters.next_inode);
    counters.next_inode = next;
    counters.inodes += 1;
    edit.set_counters(counters);
    edit.put_inode(ino, inode);
    Ok(ino)
}

/// One link less: after the last one the inode is reclaimed, or kept for
/// whoever holds it open. A directory has one link that counts.
pub(super) fn drop_link(ctx: &Context<'_>, edit: &mut Edit<'_>, ino: Ino) -> Result<()> {
    let inode = edit.update_inode(ino, |inode| {
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
    })?;
    if inode.nlink > 0 {
        return Ok(());
    }
    orphan(edit, ino);
    let held = edit.view().any(&edit.keys().opens_of_inode(ino))?;
    if !held {
        // What is not done at once is left to collection.
        reclaim_step(edit, ino, ctx.settings.retention, AT_ONCE)?;
    }
    Ok(())
}

/// An inode without links: its last open ends it.
pub(super) fn orphan(edit: &mut Edit<'_>, ino: Ino) {
    let key = edit.keys().orphan(ino);
    edit.put_raw(&key, &[]);
}

/// It has a link (again).
pub(super) fn no_orphan(edit: &mut Edit<'_>, ino: Ino) {
    let key = edit.keys().orphan(ino);
    edit.delete(&key);
}

/// Removes an orphan that nobody holds open, at most `extents` of it; true
/// when it is gone.
pub(super) fn reclaim_step(
    edit: &mut Edit<'_>,
    ino: Ino,
    retention: Duration,
    extents: usize,
) -> Result<bool> {
    let keys = edit.keys();
    let orphan = keys.orphan(ino);
    let Some(mut inode) = edit.view().inode(ino)? else {
        edit.delete(&orphan);
        return Ok(true);
    };
    if inode.nlink > 0 || edit.view().any(&keys.opens_of_inode(ino))? {
        return Ok(true);
    }
    if inode.is_regular() {
        contents::set_inline(edit, (ino, &mut inode), None)?;
        if !contents::carve(edit, (ino, &mut inode), (0, u64::MAX), retention, extents)? {
            edit.put_inode(ino, &inode);
            return Ok(false);
        }
        if inode.trimming {
            edit.delete(&keys.intent(ino));
        }
    } else if inode.is_symlink() {
        edit.delete(&keys.target(ino));
    }
    if inode.xattrs > 0 {
        for key in edit.view().keys_of(&keys.xattrs(ino), usize::MAX)? {
            edit.delete(&key);
        }
    }
    // Locks ended with the opens; a lock without an open ends here.
    edit.delete(&keys.locks(ino));
    edit.delete(&keys.inode(ino));
    edit.delete(&orphan);
    edit.update_counters(|counters| counters.inodes = counters.inodes.saturating_sub(1))?;
    Ok(true)
}

/// Records an open of the session.
///
/// # Errors
/// `RATE_LIMITED` at the session's limit.
pub(super) fn add_open(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    ino: Ino,
    flags: u32,
) -> Result<u64> {
    // Random: a late Release of an ended open never meets another one.
    let open = u64::from_be_bytes(random::fill()?) | 1;
    add_open_as(ctx, edit, (ino, flags), open)?;
    Ok(open)
}

/// Records an open of the session under an id of its own choice.
///
/// # Errors
/// `RATE_LIMITED` at the session's limit, `PROTOCOL_INVALID` for an id that is
/// in use.
pub(super) fn add_open_as(
    ctx: &Context<'_>,
    edit: &mut Edit<'_>,
    (ino, flags): (Ino, u32),
    open: u64,
) -> Result<()> {
    let session = ctx.session;
    let opens = session.opens.load(std::sync::atomic::Ordering::Acquire);
    if usize::try_from(opens).unwrap_or(0) >= limits::OPENS_PER_SESSION_MAX {
        return Err(Code::RateLimited.into());
    }
    if edit.view().open_row(session.id, open)?.is_some() {
        return Err(Error::new(Code::ProtocolInvalid, "the id of another open"));
    }
    let keys = edit.keys();
    edit.put(&keys.open_of_session(session.id, open), &OpenRow { ino: ino.0, flags });
    edit.put_raw(&keys.open_of_inode(ino, session.id, open), &[]);
    edit.effects.opens.push((session.id, 1));
    Ok(())
}

/// Ends an open; an orphan that nobody holds any more is reclaimed.
pub(super) fn end_open(
    edit: &mut Edit<'_>,
    session: SessionId,
    open: u64,
    ino: Ino,
    retention: Duration,
) -> Result<()> {
    let keys = edit.keys();
    edit.delete(&keys.open_of_session(session, open));
    edit.delete(&keys.open_of_inode(ino, session, open));
    edit.effects.opens.push((session, -1));
    if edit.view().raw(&keys.orphan(ino))?.is_some() {
        reclaim_step(edit, ino, retention, AT_ONCE)?;
    }
    Ok(())
}
