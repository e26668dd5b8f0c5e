//! Sessions of before a start: those that go on, and those that are lost,
//! because their record cannot be opened or their flags conflict now.
//!
//! The mount of a lost session hears of it when it comes back, and until its
//! lease ends it may answer from what it keeps. So nothing that it may keep
//! or have locked passes on before then.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flexfs_common::ids::SessionId;
use flexfs_common::name::SubtreePath;
use flexfs_common::{Code, Error, Result};

use super::Volume;
use super::keys::{Tag, id_at};
use super::lifecycle::Arrived;
use super::record::{SessionRow, Tombstone, decode};
use super::session::Session;
use super::session_end::{self, is_unheard, session_of};

/// What the engine says of the sessions of before.
#[derive(Default)]
struct Found {
    rows: Vec<(SessionId, Bytes)>,
    opens: HashMap<SessionId, i64>,
    /// Some were lost at an earlier start, and were not let go of since: how
    /// long ago that was, nobody knows.
    unheard: bool,
}

impl Volume {
    /// Sessions go on over a restart; their leases begin anew.
    pub(super) fn recover_sessions(&self) -> Result<()> {
        let Found { rows, opens, unheard } = self.find_sessions()?;
        let mut lost = unheard;
        for (id, row) in rows {
            // A cut is final, whatever else is written.
            if self.sessions.is_remembered(id) {
                continue;
            }
            match self.revive(id, &row) {
                Ok(session) => {
                    let count = opens.get(&id).copied().unwrap_or(0);
                    session.opens.store(count, Ordering::Release);
                    self.rights.recovered(&session);
                }
                // Everybody else's go on.
                Err(error) => {
                    self.lose(id, &error)?;
                    lost = true;
                }
            }
        }
        if lost {
            self.rights.lost(&self.lost);
        }
        Ok(())
    }

    fn find_sessions(&self) -> Result<Found> {
        let mut found = Found::default();
        self.with_view(|view| {
            view.scan(&self.keys.all(Tag::Session), &mut |key, value| {
                if let Some(id) = session_of(key) {
                    found.rows.push((id, Bytes::copy_from_slice(value)));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            view.scan(&self.keys.all(Tag::Leftover), &mut |_, value| {
                found.unheard |= is_unheard(value);
                Ok(ControlFlow::Continue(()))
            })?;
            view.scan(&self.keys.all(Tag::Tombstone), &mut |key, value| {
                let tombstone: Tombstone = decode("tombstone", value)?;
                let code = Code::from_name(&tombstone.code).unwrap_or(Code::SessionUnknown);
                if let Some(id) = session_of(key) {
                    self.sessions.remember(id, code, tombstone.at);
                }
                Ok(ControlFlow::Continue(()))
            })?;
            view.scan(&self.keys.all(Tag::OpenOfSession), &mut |key, _| {
                if let Some(id) = id_at(key, 0) {
                    *found.opens.entry(SessionId::from_bytes(id)).or_default() += 1;
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(found)
    }

    /// Ends a session that cannot go on.
    fn lose(&self, id: SessionId, error: &Error) -> Result<()> {
        let code = match error.code() {
            Code::FlagConflict => Code::FlagConflict,
            _ => Code::SessionUnknown,
        };
        let error = error.with_causes();
        tracing::warn!(session = %id, error, "a session is lost, it cannot go on");
        self.change_alone(&mut |edit| {
            session_end::end_unheard(edit, id, code);
            Ok(())
        })
        .map(|_| ())
    }

    /// A session of before a restart.
    fn revive(&self, id: SessionId, row: &[u8]) -> Result<Arc<Session>> {
        let row: SessionRow = decode("session", row)?;
        let scope: SubtreePath = row.scope.parse()?;
        // Without its directories it would be confined to nothing.
        if scope.components().count() != row.scope_inos.len() {
            return Err(Error::new(Code::EngineFailed, "a damaged session record"));
        }
        let key = self.seal.open(&self.key_owner(id), &row.sealed_key)?;
        self.adopt(row, Arrived { id, key, recovered: true })
    }
}
