//! Operations that are answered later: when a lock is free, when nobody keeps
//! anything old any more, or when what others have written has arrived.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;

use super::answered::Answered;
use super::{error_reply, reply};
use crate::volume::edit::{Effects, Extent};
use crate::volume::keys::Tag;
use crate::volume::ops::open::opened_for_writing;
use crate::volume::recalls::{self, Ticket};
use crate::volume::rights::{Blocked, Wish};
use crate::volume::session::Session;
use crate::volume::session_end::session_of;
use crate::volume::types::Execution;
use crate::volume::view::View;
use crate::volume::{Volume, lock_wait, numbers_ahead};

/// How long an operation waits for what others have written: far longer than
/// any honest mount makes others wait.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Numbers taken back at once when the quota is reached.
const NUMBERS_STEP: usize = 1024;

/// A lock that is answered when it is there.
pub(super) fn waiting(request_id: u64, ticket: lock_wait::Ticket) -> Execution {
    Execution::Pending(Box::pin(async move {
        match ticket.wait().await {
            Ok(()) => reply(request_id, v1::reply::Result::Empty(v1::Empty {})),
            Err(error) => error_reply(request_id, &error),
        }
    }))
}

/// An answer that is given when nobody keeps anything older any more.
pub(super) fn after_recalls(recalls: Vec<Arc<Ticket>>, execution: Execution) -> Execution {
    Execution::Pending(Box::pin(async move {
        recalls::settled(recalls).await;
        match execution {
            Execution::Done(reply) => reply,
            Execution::Pending(later) => later.await,
        }
    }))
}

/// An operation was answered, or has to wait and was not carried out.
pub(super) enum Carried {
    Out(Execution),
    Blocked(Blocked),
}

/// What one operation has changed.
#[derive(Debug, Default)]
pub(super) struct Changes<'e> {
    changed: &'e [Ino],
    left_scopes: &'e [Ino],
}

impl<'e> Changes<'e> {
    pub(super) fn since(effects: &'e Effects, from: Extent) -> Changes<'e> {
        Changes {
            changed: effects.changed.get(from.changed..).unwrap_or_default(),
            left_scopes: effects.left_scopes.get(from.left_scopes..).unwrap_or_default(),
        }
    }
}

impl From<Execution> for Carried {
    fn from(execution: Execution) -> Carried {
        Carried::Out(execution)
    }
}

/// What meta does not read is not kept while an operation waits.
fn without_ballast(op: &v1::Op) -> v1::Op {
    let mut op = op.clone();
    match &mut op.body {
        Some(v1::op::Body::CommitData(commit)) => {
            commit.extents.iter_mut().for_each(|extent| extent.url = String::new());
        }
        Some(v1::op::Body::Make(make)) if make.kind != v1::FileKind::Symlink as i32 => {
            make.symlink_target = Vec::new();
        }
        _ => {}
    }
    op
}

impl Volume {
    /// The operation once more, when nobody has anything any more that it has
    /// to see.
    pub(super) fn again(
        self: &Arc<Self>,
        session: SessionId,
        generation: u64,
        op: &v1::Op,
        mut blocked: Blocked,
    ) -> Execution {
        let (volume, op) = (Arc::clone(self), [without_ballast(op)]);
        let [v1::Op { request_id, .. }] = op;
        Execution::Pending(Box::pin(async move {
            let began = BootTime::now();
            while BootTime::now().since(began) < WAIT_MAX {
                blocked.over().await;
                {
                    // Commits of whoever lost a right are before this or refused.
                    let _writer = volume.writer.lock();
                    volume.rights.pass_on(session, &blocked);
                }
                if let Err(error) = volume.take_numbers_back(&mut blocked) {
                    return error_reply(request_id, &error);
                }
                let carried = volume.carry_out(session, generation, &op).pop();
                match carried {
                    Some(Carried::Out(Execution::Done(reply))) => return reply,
                    Some(Carried::Out(Execution::Pending(later))) => return later.await,
                    Some(Carried::Blocked(next)) => blocked = next,
                    None => break,
                }
            }
            let error = Error::new(Code::DeadlineExceeded, "others write this file all the time");
            error_reply(request_id, &error)
        }))
    }

    /// Numbers that were waited for, and that nobody has used.
    fn take_numbers_back(&self, blocked: &mut Blocked) -> Result<()> {
        let rows = blocked.take_numbers();
        if rows.is_empty() {
            return Ok(());
        }
        self.change_alone(&mut |edit| numbers_ahead::take_back(edit, &rows)).map(drop)
    }

    /// What has to arrive before this may be told or changed. `stamp` was taken
    /// before the view.
    pub(super) fn blocked(
        &self,
        session: &Session,
        (view, stamp): (View<'_>, u64),
        answered: &Answered,
        changes: &Changes<'_>,
    ) -> Result<Option<Blocked>> {
        // Who had the right has nobody beside him, also before a restart; and
        // others may be waiting for just this.
        if answered.holds_right {
            return Ok(None);
        }
        let acquires = answered.wish == Wish::Acquire;
        if self.rights.has_no_writers() && !acquires && !answered.short_of_inodes {
            return Ok(None);
        }
        let mut inos = answered.told();
        inos.extend_from_slice(changes.changed);
        let confined = self.confined_to(changes.left_scopes, session.id);
        inos.extend(self.rights.written_by(&confined));
        inos.sort_unstable();
        inos.dedup();
        let may_write = |session, ino| self.may_have_held(view, ino, session);
        let mut blocked = self.rights.recall_writers(session.id, (&inos, stamp), &may_write)?;
        self.rights.wait_for_recovered(&confined, &mut blocked);
        if acquires {
            inos.iter().for_each(|ino| self.rights.make_way(session.id, *ino, &mut blocked));
        }
        if answered.short_of_inodes {
            self.recall_numbers(view, &mut blocked)?;
        }
        Ok((!blocked.is_nothing()).then_some(blocked))
    }

    /// A directory leaves these scopes: what others have made and written that
    /// are confined to them arrives before.
    fn confined_to(&self, scopes: &[Ino], by: SessionId) -> Vec<SessionId> {
        if scopes.is_empty() {
            return Vec::new();
        }
        let is_there = |session: &Arc<Session>| {
            session.confined.as_ref().is_some_and(|scope| scopes.contains(&scope.ino))
        };
        let sessions = self.sessions.all();
        let theirs = sessions.iter().filter(|session| session.id != by && is_there(session));
        theirs.map(|session| session.id).collect()
    }

    /// The quota is reached, and sessions have numbers that they may not need:
    /// they make what they have begun to make, and give up the others.
    fn recall_numbers(&self, view: View<'_>, blocked: &mut Blocked) -> Result<()> {
        let rows = view.keys_of(&view.keys.all(Tag::Ahead), NUMBERS_STEP)?;
        let mut sessions: Vec<SessionId> = rows.iter().filter_map(|key| session_of(key)).collect();
        sessions.dedup();
        for session in sessions.iter().filter_map(|id| self.sessions.live(*id).ok()) {
            if let Some(ticket) = self.rights.recall_numbers(&session) {
                blocked.wait_for(&ticket);
            }
        }
        blocked.takes_back(rows);
        Ok(())
    }

    /// May a session of before a restart have written to this file, or made
    /// files in this directory?
    fn may_have_held(&self, view: View<'_>, ino: Ino, session: SessionId) -> Result<bool> {
        let Some(inode) = view.inode(ino)? else { return Ok(false) };
        if !inode.is_dir() {
            return opened_for_writing(view, ino, session);
        }
        let makes = self.sessions.live(session).is_ok_and(|session| {
            session.recalls.as_ref().is_some_and(|recalls| recalls.knows().making)
        });
        if !makes || ino == self.identity.root {
            return Ok(false);
        }
        let held = limits::MAKE_RIGHT + limits::MAKE_RIGHT_MARGIN;
        let held = i64::try_from(held.as_secs()).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::now().as_second();
        Ok(inode.btime.is_none_or(|made| now.saturating_sub(made.seconds) <= held))
    }
}
