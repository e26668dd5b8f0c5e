//! The live session with meta: connection, frames, slots, lease, reconnect.
//! No file-system logic and no caching.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::ids::SessionId;
use flexfs_common::tls::Peer;
use flexfs_common::{Error, Result};
use flexfs_proto::v1;
use tokio::sync::mpsc;

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
    /// Drop every cache of these inodes, then call [`MetaSession::recall_done`].
    Recall {
        /// To be answered.
        id: u64,
        /// Inode numbers.
        inos: Vec<u64>,
    },
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
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl MetaSession {
    /// Opens a session, connects, and keeps it alive in the background (must
    /// be called in a tokio runtime).
    ///
    /// # Errors
    /// Everything OpenSession refuses with; `META_UNREACHABLE`.
    pub async fn open(
        config: SessionConfig,
    ) -> Result<(Arc<MetaSession>, mpsc::Receiver<SessionEvent>)> {
        unimplemented!()
    }

    /// What meta granted (the session key is cleared).
    #[must_use]
    pub fn opened(&self) -> &v1::OpenSessionReply {
        &self.opened
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        unimplemented!()
    }

    /// Sends one operation and waits for its result. Mutations get a slot and
    /// a sequence and are sent again after a reconnect; reads too. Many calls
    /// run at once and share frames. Dropping the future cancels a waiting
    /// lock at meta.
    ///
    /// # Errors
    /// Meta's error; the cut's error when the session has ended; `FS_IO` when
    /// meta could not be reached within the wait limit.
    pub async fn call(&self, caller: v1::Caller, body: v1::op::Body) -> Result<v1::reply::Result> {
        unimplemented!()
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> SessionState {
        unimplemented!()
    }

    /// The error every operation must fail with now, if the session is cut or
    /// its lease has ended; checked before anything cached is answered.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<()> {
        unimplemented!()
    }

    /// What is left of the lease (counted from when the renewal was sent).
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        unimplemented!()
    }

    /// Meta's wall clock as estimated here.
    #[must_use]
    pub fn meta_now(&self) -> v1::Timestamp {
        unimplemented!()
    }

    /// A recall was carried out.
    pub fn recall_done(&self, id: u64) {
        unimplemented!()
    }

    /// The kernel's caches are dropped after a cut.
    pub fn cut_done(&self) {
        unimplemented!()
    }

    /// Clean end: waits for what is in flight, says goodbye.
    pub async fn close(&self) {
        unimplemented!()
    }
}
