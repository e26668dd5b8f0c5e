//! What changes on live sessions: the secret they live from, and their flags.
//! Both are points of the commit order, as cuts are.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_common::ids::{SecretId, SessionId, TokenId};
use flexfs_common::{Code, Error, Result, flags};
use flexfs_proto::v1;
use parking_lot::MutexGuard;

use super::session::Session;
use super::types::{Reflagged, SessionInfo, VolumeSettings};
use super::{Volume, session_end};

/// Session rows written in one transaction: some MiB at most.
const ROWS_PER_STEP: usize = 4096;

/// A session whose flags are no longer what they were.
struct Changed {
    session: Arc<Session>,
    token: v1::Flags,
    /// The new merge, or the code it is cut with.
    effective: Result<v1::Flags, Code>,
}

/// Restrictions that only a client's kernel can apply, with their names.
fn kernels(flags: &v1::Flags) -> [(bool, &'static str); 4] {
    [
        (flags.no_exec, "noExec"),
        (flags.no_suid, "noSUID"),
        (flags.no_dev, "noDev"),
        (flags.no_atime, "noATime"),
    ]
}

/// A client must be able to honour what only its kernel can apply.
///
/// # Errors
/// `FLAG_UNSUPPORTED`, naming the restriction.
pub(super) fn need_honoured(flags: &v1::Flags, honours: &v1::Flags) -> Result<()> {
    for ((set, name), (honoured, _)) in kernels(flags).into_iter().zip(kernels(honours)) {
        if set && !honoured {
            let why = format!("the client cannot honour {name}");
            return Err(Error::new(Code::FlagUnsupported, why));
        }
    }
    Ok(())
}

impl Changed {
    /// What these flags of volume and token make of a session; `None` when
    /// nothing changes.
    fn of(session: Arc<Session>, volume: &v1::Flags, token: v1::Flags) -> Option<Changed> {
        let before = session.flags();
        let (requested, honours) = session.client_flags();
        let merged = flags::merge(volume, &token, &requested).and_then(|merged| {
            // Of what is new alone: a session of before may have more.
            let new = v1::Flags {
                no_exec: merged.no_exec && !before.no_exec,
                no_suid: merged.no_suid && !before.no_suid,
                no_dev: merged.no_dev && !before.no_dev,
                no_atime: merged.no_atime && !before.no_atime,
                ..v1::Flags::default()
            };
            need_honoured(&new, &honours).map(|()| merged)
        });
        let same = token == session.token_flags()
            && merged.as_ref().is_ok_and(|merged| *merged == *before);
        let effective = merged.map_err(|error| error.code());
        (!same).then_some(Changed { session, token, effective })
    }

    /// Is there something to write?
    fn is_stored(&self) -> bool {
        self.effective.is_err() || self.token != self.session.token_flags()
    }
}

impl Volume {
    /// Settings changed at admin; live sessions get the new merge (a session
    /// that would be refused now is cut).
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn update_settings(&self, settings: VolumeSettings) -> Result<Reflagged> {
        self.reflag(Some(settings), &HashMap::new())
    }

    /// The flags of tokens, as admin has them now: live sessions get the new
    /// merge (a session that would be refused now is cut).
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn update_token_flags(&self, tokens: &HashMap<TokenId, v1::Flags>) -> Result<Reflagged> {
        self.reflag(None, tokens)
    }

    /// Nothing commits under the old flags once this has returned.
    fn reflag(
        &self,
        settings: Option<VolumeSettings>,
        tokens: &HashMap<TokenId, v1::Flags>,
    ) -> Result<Reflagged> {
        let writer = self.writer.lock();
        let volume = match &settings {
            Some(settings) => settings.flags,
            None => self.settings.read().flags,
        };
        let changed: Vec<Changed> = self
            .sessions
            .all()
            .into_iter()
            .filter_map(|session| {
                let token = tokens.get(&session.token_id()).copied();
                let token = token.unwrap_or_else(|| session.token_flags());
                Changed::of(session, &volume, token)
            })
            .collect();
        self.store(&writer, &changed)?;
        if let Some(settings) = settings {
            *self.settings.write() = Arc::new(settings);
        }
        let mut done = Reflagged::default();
        for Changed { session, token, effective } in changed {
            match effective {
                Ok(effective) => {
                    let same = *session.flags() == effective;
                    session.set_flags(token, effective);
                    if !same {
                        done.changed.push(session.id);
                        // What it keeps was granted under the old ones.
                        done.recalls.0.extend(self.rights.recall_all(&session));
                    }
                }
                Err(code) => done.cut.push((session.id, code)),
            }
        }
        drop(writer);
        let cut: Vec<SessionId> = done.cut.iter().map(|(id, _)| *id).collect();
        self.release_now(&cut)?;
        Ok(done)
    }

    /// Writes the rows of changed sessions, and ends those that are cut.
    fn store(&self, writer: &MutexGuard<'_, ()>, changed: &[Changed]) -> Result<()> {
        let stored: Vec<&Changed> = changed.iter().filter(|one| one.is_stored()).collect();
        let mut ended = Vec::new();
        for part in stored.chunks(ROWS_PER_STEP) {
            let written = self.transact(writer, &mut |edit| {
                for Changed { session, token, effective } in part {
                    match effective {
                        Ok(_) => {
                            let key = edit.keys().session(session.id);
                            edit.put(&key, &session.row_with_flags(*token));
                        }
                        Err(code) => session_end::end(edit, session.id, *code),
                    }
                }
                Ok(())
            });
            let (_, effects) = written.inspect_err(|_| {
                // Those of the parts before are over all the same.
                self.ended.lock().append(&mut ended);
            })?;
            ended.extend(effects.ended.iter().map(|(id, _)| *id));
            self.apply(effects, writer);
        }
        Ok(())
    }

    /// A session has authenticated with this secret of its token and lives
    /// from it from now on; on stable storage when this returns. `holds` is
    /// asked at that very point of the commit order: false = what is known of
    /// the secret holds no longer, and nothing was changed.
    ///
    /// # Errors
    /// The code the session was cut with, else `SESSION_UNKNOWN`;
    /// `ENGINE_FAILED`.
    pub fn move_to_secret(
        &self,
        session: SessionId,
        secret: SecretId,
        holds: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let writer = self.writer.lock();
        // A cut is either before this, or finds the session by its new secret.
        let session = self.sessions.live(session)?;
        if !holds() {
            return Ok(false);
        }
        if session.secret_id() == secret {
            return Ok(true);
        }
        let row = session.row_with_secret(secret);
        let (version, effects) = self.transact(&writer, &mut |edit| {
            let key = edit.keys().session(session.id);
            edit.put(&key, &row);
            Ok(())
        })?;
        session.set_secret(secret);
        self.apply(effects, &writer);
        drop(writer);
        self.engine.sync(version)?;
        Ok(true)
    }

    /// The tokens and secrets that live sessions live from, at a point of the
    /// commit order: whoever moves or opens later finds what was noted before
    /// this was called.
    #[must_use]
    pub fn secrets(&self) -> Vec<(TokenId, SecretId)> {
        let _writer = self.writer.lock();
        let sessions = self.sessions.all();
        sessions.iter().map(|session| (session.token_id(), session.secret_id())).collect()
    }

    /// A live session.
    ///
    /// # Errors
    /// The code the session was cut with, else `SESSION_UNKNOWN`.
    pub fn session_info(&self, session: SessionId) -> Result<SessionInfo> {
        Ok(self.sessions.live(session)?.info())
    }

    /// The flags that hold for a session now.
    ///
    /// # Errors
    /// As [`Volume::session_info`].
    pub fn session_flags(&self, session: SessionId) -> Result<v1::Flags> {
        Ok(*self.sessions.live(session)?.flags())
    }

    /// Must the client be told its flags when it comes back? They changed
    /// since it opened the session, or may have before a restart.
    #[must_use]
    pub fn flags_are_untold(&self, session: SessionId) -> bool {
        self.sessions.live(session).is_ok_and(|session| session.is_untold())
    }
}
