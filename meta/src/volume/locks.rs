//! Locks held: POSIX byte ranges (fcntl(2)) and flock(2), all of an inode in
//! one row. An owner is a session and the kernel's lock owner in it.

use bytes::Bytes;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;
use flexfs_proto::v1::LockKind;

use super::edit::Edit;
use super::record::{Lock, LockRow};
use super::view::View;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// The lock, as it would be held.
    pub(super) lock: Lock,
    /// Release instead of acquire.
    pub(super) unlock: bool,
}

/// # Errors
/// `FS_INVALID` for an unknown kind or a range that ends before it starts.
pub(super) fn parse(session: SessionId, state: &v1::LockState) -> Result<Request> {
    let kind = LockKind::try_from(state.kind).map_err(|_| Code::FsInvalid)?;
    let (start, end) = if state.flock { (0, u64::MAX) } else { (state.start, state.end) };
    if start > end {
        return Err(Code::FsInvalid.into());
    }
    let lock = Lock {
        session: Bytes::copy_from_slice(session.as_bytes()),
        owner: state.owner,
        flock: state.flock,
        write: kind == LockKind::Write,
        start,
        end,
        pid: state.pid,
    };
    Ok(Request { lock, unlock: kind == LockKind::Unlock })
}

pub(super) fn same_owner(a: &Lock, b: &Lock) -> bool {
    a.session == b.session && a.owner == b.owner
}

/// Does the first keep the second from being acquired?
pub(super) fn conflicts(held: &Lock, wanted: &Lock) -> bool {
    held.flock == wanted.flock
        && !same_owner(held, wanted)
        && (held.write || wanted.write)
        && held.start <= wanted.end
        && wanted.start <= held.end
}

/// All locks of an inode.
pub(super) fn row(view: View<'_>, ino: Ino) -> Result<LockRow> {
    Ok(view.record("lock", &view.keys.locks(ino))?.unwrap_or_default())
}

/// What the owner holds after a request: the range takes the new kind, what
/// surrounds it stays, neighbours of one kind become one (POSIX fcntl).
fn apply(row: &mut LockRow, request: &Request) {
    let wanted = &request.lock;
    let mut next = Vec::with_capacity(row.locks.len() + 2);
    let mut merged = wanted.clone();
    for lock in row.locks.drain(..) {
        if lock.flock != wanted.flock || !same_owner(&lock, wanted) {
            next.push(lock);
            continue;
        }
        let touches = lock.start <= wanted.end.saturating_add(1)
            && wanted.start <= lock.end.saturating_add(1);
        if !request.unlock && lock.write == wanted.write && touches {
            merged.start = merged.start.min(lock.start);
            merged.end = merged.end.max(lock.end);
            continue;
        }
        if lock.end < wanted.start || lock.start > wanted.end {
            next.push(lock);
            continue;
        }
        if lock.start < wanted.start {
            next.push(Lock { end: wanted.start - 1, ..lock.clone() });
        }
        if lock.end > wanted.end {
            next.push(Lock { start: wanted.end + 1, ..lock });
        }
    }
    if !request.unlock {
        next.push(merged);
    }
    row.locks = next;
}

/// Carries a request out.
///
/// # Errors
/// `FS_WOULD_BLOCK` when another holds what conflicts, `FS_NO_LOCKS` at the
/// inode's limit.
pub(super) fn request(edit: &mut Edit<'_>, ino: Ino, request: &Request) -> Result<()> {
    let mut row = row(edit.view(), ino)?;
    if !request.unlock && row.locks.iter().any(|held| conflicts(held, &request.lock)) {
        return Err(Code::FsWouldBlock.into());
    }
    let before = row.locks.clone();
    apply(&mut row, request);
    if row.locks.len() > limits::LOCKS_PER_INODE_MAX && row.locks.len() > before.len() {
        return Err(Code::FsNoLocks.into());
    }
    if row.locks == before {
        return Ok(());
    }
    let session = SessionId::from_bytes(session_of(&request.lock));
    write(edit, ino, &row, session);
    // A release or a downgrade may let others in.
    edit.effects.unlocked.push(ino);
    Ok(())
}

fn session_of(lock: &Lock) -> [u8; 16] {
    <[u8; 16]>::try_from(&lock.session[..]).unwrap_or_default()
}

fn write(edit: &mut Edit<'_>, ino: Ino, row: &LockRow, session: SessionId) {
    let keys = edit.keys();
    let (key, index) = (keys.locks(ino), keys.lock_index(session, ino));
    if row.locks.is_empty() {
        edit.delete(&key);
    } else {
        edit.put(&key, row);
    }
    if row.locks.iter().any(|lock| lock.session == session.as_bytes()[..]) {
        edit.put_raw(&index, &[]);
    } else {
        edit.delete(&index);
    }
}

/// Releases what `gone` says of one session's locks on an inode.
fn release(
    edit: &mut Edit<'_>,
    ino: Ino,
    session: SessionId,
    gone: impl Fn(&Lock) -> bool,
) -> Result<()> {
    let mut row = row(edit.view(), ino)?;
    let before = row.locks.len();
    row.locks.retain(|lock| lock.session != session.as_bytes()[..] || !gone(lock));
    if row.locks.len() != before {
        write(edit, ino, &row, session);
        edit.effects.unlocked.push(ino);
    }
    Ok(())
}

/// An owner closes a descriptor: its POSIX locks end; with the last one its
/// flock does too.
pub(super) fn release_owner(
    edit: &mut Edit<'_>,
    ino: Ino,
    session: SessionId,
    owner: u64,
    last_close: bool,
) -> Result<()> {
    release(edit, ino, session, |lock| lock.owner == owner && (last_close || !lock.flock))
}

/// All locks of a session on an inode end.
pub(super) fn release_session(edit: &mut Edit<'_>, ino: Ino, session: SessionId) -> Result<()> {
    release(edit, ino, session, |_| true)?;
    let index = edit.keys().lock_index(session, ino);
    edit.delete(&index);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lock(owner: u64, write: bool, start: u64, end: u64) -> Lock {
        let session = Bytes::from_static(&[1; 16]);
        Lock { session, owner, flock: false, write, start, end, pid: 1 }
    }

    fn held(row: &LockRow, owner: u64, at: u64) -> Option<bool> {
        let mut found = row
            .locks
            .iter()
            .filter(|lock| lock.owner == owner && lock.start <= at && at <= lock.end);
        let write = found.next().map(|lock| lock.write);
        assert!(found.next().is_none(), "two locks of one owner on one byte");
        write
    }

    proptest! {
        #[test]
        fn ranges_split_and_merge_like_bytes(
            requests in prop::collection::vec((0..2_u64, 0..3_u8, 0..20_u64, 0..20_u64), 1..40),
        ) {
            let mut row = LockRow::default();
            let mut model = [[None; 21]; 2];
            for (owner, kind, a, b) in requests {
                let (start, end) = (a.min(b), a.max(b));
                let wanted = lock(owner, kind == 2, start, end);
                let unlock = kind == 0;
                let blocked = row.locks.iter().any(|held| conflicts(held, &wanted));
                let model_blocked = (start..=end).any(|at| {
                    model[1 - owner as usize][at as usize].is_some_and(|w| w || wanted.write)
                });
                if !unlock {
                    prop_assert_eq!(blocked, model_blocked);
                }
                if unlock || !blocked {
                    apply(&mut row, &Request { lock: wanted, unlock });
                    for at in start..=end {
                        model[owner as usize][at as usize] =
                            if unlock { None } else { Some(kind == 2) };
                    }
                }
                for at in 0..21 {
                    for owner in 0..2 {
                        prop_assert_eq!(held(&row, owner, at), model[owner as usize][at as usize]);
                    }
                }
            }
            for a in &row.locks {
                for b in &row.locks {
                    let mergeable = a != b && same_owner(a, b) && a.write == b.write
                        && a.end.checked_add(1) == Some(b.start);
                    prop_assert!(!mergeable, "neighbours were not merged: {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn the_end_of_the_file_is_the_largest_offset() {
        let mut row = LockRow::default();
        apply(&mut row, &Request { lock: lock(1, true, 0, u64::MAX), unlock: false });
        apply(&mut row, &Request { lock: lock(1, true, 10, u64::MAX), unlock: true });
        assert_eq!(row.locks, [lock(1, true, 0, 9)]);
    }
}
