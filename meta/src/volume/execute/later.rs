//! Operations that are answered later: when a lock is free, when nobody keeps
//! anything old any more, or when what others have written has arrived.

use std::sync::Arc;

use flexfs_common::ids::{Ino, SessionId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use super::answered::Answered;
use super::{error_reply, reply};
use crate::volume::recalls::{self, Ticket};
use crate::volume::rights::{Blocked, Wish};
use crate::volume::types::Execution;
use crate::volume::view::View;
use crate::volume::{Volume, lock_wait};

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
        let (volume, op) = (Arc::clone(self), op.clone());
        Execution::Pending(Box::pin(async move {
            blocked.over().await;
            {
                // Commits of whoever lost a right are before this or refused.
                let _writer = volume.writer.lock();
                volume.rights.pass_on(&blocked);
            }
            let request_id = op.request_id;
            match volume.carry_out(session, generation, &[op]).pop() {
                Some(Execution::Done(reply)) => reply,
                Some(Execution::Pending(later)) => later.await,
                None => error_reply(request_id, &Error::bare(Code::Internal)),
            }
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
        let acquires = answered.wish == Wish::Acquire;
        if self.rights.has_no_writers() && !acquires {
            return Ok(None);
        }
        let mut inos = answered.told();
        inos.extend_from_slice(changed);
        inos.sort_unstable();
        inos.dedup();
        let may_write = |session, ino| view.held_open_by(ino, session);
        let mut blocked = self.rights.recall_writers(session, (&inos, stamp), &may_write)?;
        if acquires {
            inos.iter().for_each(|ino| self.rights.make_way(session, *ino, &mut blocked));
        }
        Ok((!blocked.is_nothing()).then_some(blocked))
    }
}
