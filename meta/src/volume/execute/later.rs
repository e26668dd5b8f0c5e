//! Operations that are answered later: when a lock is free, when nobody keeps
//! anything old any more, or when what others have written has arrived.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use super::answered::Answered;
use super::{error_reply, reply};
use crate::volume::ops::open::opened_for_writing;
use crate::volume::recalls::{self, Ticket};
use crate::volume::rights::{Blocked, Wish};
use crate::volume::types::Execution;
use crate::volume::view::View;
use crate::volume::{Volume, lock_wait};

/// How long an operation waits for what others have written: far longer than
/// any honest mount makes others wait.
const WAIT_MAX: Duration = Duration::from_secs(120);

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

    /// What has to arrive before this may be told or changed. `stamp` was taken
    /// before the view.
    pub(super) fn blocked(
        &self,
        session: SessionId,
        (view, stamp): (View<'_>, u64),
        answered: &Answered,
        changed: &[Ino],
    ) -> Result<Option<Blocked>> {
        // Who had the right has nobody beside him, also before a restart; and
        // others may be waiting for just this.
        if answered.holds_right {
            return Ok(None);
        }
        let acquires = answered.wish == Wish::Acquire;
        if self.rights.has_no_writers() && !acquires {
            return Ok(None);
        }
        let mut inos = answered.told();
        inos.extend_from_slice(changed);
        inos.sort_unstable();
        inos.dedup();
        let may_write = |session, ino| opened_for_writing(view, ino, session);
        let mut blocked = self.rights.recall_writers(session, (&inos, stamp), &may_write)?;
        if acquires {
            inos.iter().for_each(|ino| self.rights.make_way(session, *ino, &mut blocked));
        }
        Ok((!blocked.is_nothing()).then_some(blocked))
    }
}
