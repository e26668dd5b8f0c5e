//! The live session with meta: connection, frames, slots, lease, reconnect.
//! No file-system logic and no caching.

use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::ids::SessionId;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result, protocol};
use flexfs_proto::v1;
use tokio::sync::mpsc;

pub(crate) mod backoff;
mod connect;
mod drive;
mod events;
mod lease;
mod mutation;
mod new_secret;
mod outbox;
mod shared;
mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

use shared::{Phase, Shared};

/// Events that wait for the file system.
const EVENTS_MAX: usize = 64;

/// Where and as whom to open a session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The metadata server.
    pub meta: Peer,
    /// Volume name or id.
    pub volume: String,
    /// The volume token's text (redacted Debug).
    pub token: v1::SecretText,
    /// Restrictions asked for on the command line.
    pub requested: v1::Flags,
    /// The mount point, for listings.
    pub dir: String,
    /// How long an operation waits for a lost meta before EIO.
    pub wait_limit: Duration,
}

/// How the session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// Connected, lease valid.
    Live,
    /// No connection; operations wait.
    Reconnecting,
    /// Ended for good (code and message); every operation fails with it.
    Cut(flexfs_common::Code),
}

/// What meta tells the mount unasked.
#[derive(Debug)]
pub enum SessionEvent {
    /// Give up what was granted, then call [`MetaSession::recall_done`].
    Recall(v1::Recall),
    /// The session was cut: all operations fail with `error` already. Drop the
    /// kernel's caches, then call [`MetaSession::cut_done`].
    Cut(Arc<Error>),
    /// The lease has ended without contact: caches must not be used until
    /// [`SessionEvent::LeaseBack`].
    LeaseLost,
    /// Contact again, the same session.
    LeaseBack,
    /// Flags in force changed.
    FlagsChanged(v1::Flags),
}

/// The session, shared by everything in the mount.
#[derive(Debug)]
pub struct MetaSession {
    opened: v1::OpenSessionReply,
    shared: Arc<Shared>,
}

impl MetaSession {
    /// Opens a session, connects, and keeps it alive in the background (must
    /// be called in a tokio runtime).
    ///
    /// # Errors
    /// Everything OpenSession refuses with; `META_UNREACHABLE`.
    pub async fn open(
        mut config: SessionConfig,
    ) -> Result<(Arc<MetaSession>, mpsc::Receiver<SessionEvent>)> {
        let (opened, id, key) = connect::open_session(&mut config).await?;
        let shared = Arc::new(Shared::new(id, key, config.meta, config.wait_limit, &opened));
        let link = connect::connect(&shared).await?;
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(Arc::clone(&shared.events).pump(sender));
        tokio::spawn(drive::watch_lease(Arc::clone(&shared)));
        tokio::spawn(drive::drive(Arc::clone(&shared), link));
        Ok((Arc::new(MetaSession { opened, shared }), receiver))
    }

    /// Do both sides know this feature of the protocol?
    #[must_use]
    pub fn has_feature(&self, name: &str) -> bool {
        self.opened.features.iter().any(|feature| feature == name)
    }

    /// What meta granted (the session key is cleared).
    #[must_use]
    pub fn opened(&self) -> &v1::OpenSessionReply {
        &self.opened
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// In force now: those of the opening, or as meta changed them since.
    #[must_use]
    pub fn flags(&self) -> v1::Flags {
        self.shared.flags()
    }

    /// May anything be changed at all? Meta refuses it all the same; asked
    /// before something is buffered.
    ///
    /// # Errors
    /// `FS_READ_ONLY`.
    pub fn check_writable(&self) -> Result<()> {
        self.shared.check_writable()
    }

    /// The metadata server.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// How long an operation waits for a lost meta.
    #[must_use]
    pub fn wait_limit(&self) -> Duration {
        self.shared.wait_limit()
    }

    /// Sends one operation and waits for its result. Mutations get a slot and
    /// a sequence and are sent again after a reconnect; reads too. Many calls
    /// run at once and share frames. Dropping the future cancels a waiting
    /// lock at meta; another mutation whose future is dropped may or may not
    /// take effect.
    ///
    /// # Errors
    /// Meta's error; the cut's error when the session has ended; `FS_IO` when
    /// meta could not be reached within the wait limit; `FS_RANGE` for an
    /// operation larger than a frame.
    pub async fn call(&self, caller: v1::Caller, body: v1::op::Body) -> Result<v1::reply::Result> {
        self.shared.call(caller, body).await
    }

    /// Moves the session to another secret of its token: from then on it ends
    /// with that one.
    ///
    /// # Errors
    /// `CREDS_MISMATCH` for another token; meta's and admin's refusal, after
    /// which the session goes on as before; what is unavailable now;
    /// `UNSUPPORTED` by an old server; the cut's.
    pub async fn reauthenticate(&self, token: Token) -> Result<()> {
        if !self.has_feature(protocol::REAUTHENTICATE) {
            return Err(Error::new(
                Code::Unsupported,
                "the metadata server is too old to take another secret for a live mount; mount \
                 again",
            ));
        }
        if self.opened.token_id != token.id().to_string() {
            return Err(Error::new(
                Code::CredsMismatch,
                format!(
                    "the mount lives from another token, {}; mount again",
                    self.opened.token_id
                ),
            ));
        }
        self.shared.reauthenticate(token).await
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> SessionState {
        match (self.shared.ended(), self.shared.phase()) {
            (Some(error), _) => SessionState::Cut(error.code()),
            (None, Phase::Live) => SessionState::Live,
            (None, Phase::Down | Phase::Ended) => SessionState::Reconnecting,
        }
    }

    /// The error every operation must fail with now, if the session is cut or
    /// its lease has ended; checked before anything cached is answered.
    ///
    /// # Errors
    /// The cut's error; `META_UNREACHABLE` when the lease has ended.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// The error of all calls, once the session has ended for good.
    #[must_use]
    pub fn end_error(&self) -> Option<Error> {
        self.shared.ended().map(|error| clone_error(error))
    }

    /// Waits until [`MetaSession::check`] succeeds.
    ///
    /// # Errors
    /// The cut's error; `FS_IO` after the wait limit.
    pub async fn wait_ready(&self) -> Result<()> {
        self.shared.wait_ready().await
    }

    /// Returns when the session has ended, with the error of all calls.
    pub async fn ended(&self) -> Error {
        self.shared.cut_error().await
    }

    /// What is left of the lease (counted from when the renewal was sent).
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        self.shared.lease.left()
    }

    /// How often all locks of the session were lost, because meta heard nothing
    /// for longer than the lease. Told before the lease begins anew.
    #[must_use]
    pub fn lock_losses(&self) -> u64 {
        self.shared.lock_losses()
    }

    /// Meta's wall clock as estimated here.
    #[must_use]
    pub fn meta_now(&self) -> v1::Timestamp {
        self.shared.clock.now()
    }

    /// A recall was carried out.
    pub fn recall_done(&self, id: u64) {
        self.shared.outbox.recall_done(id);
    }

    /// The kernel's caches are dropped after a cut.
    pub fn cut_done(&self) {
        self.shared.outbox.cut_done();
    }

    /// Clean end: waits for what is in flight, says goodbye.
    pub async fn close(&self) {
        self.shared.close().await;
    }
}

impl Drop for MetaSession {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The same code and message; the cause stays with the original, which was
/// logged.
pub(crate) fn clone_error(error: &Error) -> Error {
    Error::new(error.code(), error.message())
}
