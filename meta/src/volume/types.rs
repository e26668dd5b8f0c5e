//! What the transport and the core say to each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::ids::{AccountId, ObjectId, SecretId, SessionId, TokenId, VolumeId};
use flexfs_common::name::SubtreePath;
use flexfs_common::{Code, Result};
use flexfs_proto::v1;
use zeroize::Zeroizing;

use super::recalls::{self, Ticket};

/// What admin says of the volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSettings {
    /// Its id: prefix of all its keys.
    pub id: VolumeId,
    /// Its name, for messages.
    pub name: String,
    /// Whose it is.
    pub account_id: AccountId,
    /// The volume's own flags.
    pub flags: v1::Flags,
    /// Bytes.
    pub block_size: u32,
    /// Files up to this many bytes lie in the metadata.
    pub inline_max: u32,
    /// Limit of stored blocks of `block_size`; 0 = none.
    pub max_blocks: u64,
    /// Limit of inodes; 0 = none.
    pub max_inodes: u64,
    /// How long deleted data is kept.
    pub retention: Duration,
}

/// Signed access to the block store of a volume; implemented in `blocks`.
pub trait BlockAccess: Send + Sync + std::fmt::Debug {
    /// A signed GET URL of one object for one session.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    fn sign_get(&self, session: SessionId, object: ObjectId) -> Result<String>;
    /// A signed create-only PUT URL of at most `size_limit` stored bytes.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    fn sign_put(&self, session: SessionId, object: ObjectId, size_limit: u32) -> Result<String>;
    /// Deletes an object; one that is not there counts as deleted. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    fn delete(&self, object: ObjectId) -> Result<()>;
    /// Stored length of an object, `None` when it is not there. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    fn stored_len(&self, object: ObjectId) -> Result<Option<u64>>;
}

/// What a validated token asks for.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Which token.
    pub token_id: TokenId,
    /// Which of its secrets.
    pub secret_id: SecretId,
    /// The subtree it is confined to.
    pub scope: SubtreePath,
    /// The token's own flags.
    pub token_flags: v1::Flags,
    /// What the client asked for (adds restrictions only).
    pub requested: v1::Flags,
    /// Restrictions that only a client's kernel can apply, as far as this one
    /// can.
    pub honours: v1::Flags,
    /// The client answers recalls.
    pub recalls: bool,
    /// The client knows the right to buffer writes.
    pub write_rights: bool,
    /// The mount makes files under a right to do so.
    pub make_rights: bool,
    /// The client can let its kernel check access control lists.
    pub acls: bool,
    /// For listings.
    pub host_name: String,
    /// For listings: the mount point.
    pub dir: String,
    /// For listings and audit: the client's address.
    pub peer: String,
}

/// A session's secret key.
pub type SessionKey = Zeroizing<[u8; 32]>;

/// What the mount is told.
pub struct OpenedSession {
    /// Its id.
    pub id: SessionId,
    /// Its key: proves later connections.
    pub key: SessionKey,
    /// Volume ∪ token ∪ client.
    pub flags: v1::Flags,
    /// Its kernel is to check access control lists.
    pub acls: bool,
    /// Handle of the scope's root.
    pub root_handle: Vec<u8>,
    /// Attributes of the scope's root.
    pub root_attr: v1::Attr,
}

impl std::fmt::Debug for OpenedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A connection that has proven its session.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Frames of lower generations are dropped from now on.
    pub generation: u64,
    /// Highest sequence answered per slot.
    pub slot_sequences: Vec<u64>,
}

/// What became of live sessions whose flags were merged anew.
#[derive(Debug, Default)]
pub struct Reflagged {
    /// Under other flags than before.
    pub changed: Vec<SessionId>,
    /// Cut, and why: a new session of their kind would be refused.
    pub cut: Vec<(SessionId, Code)>,
    /// What they were granted under the old flags, as it is taken back.
    pub recalls: Recalls,
}

/// Recalls that somebody may wait for.
#[derive(Debug, Default)]
pub struct Recalls(pub(super) Vec<Arc<Ticket>>);

impl Recalls {
    /// Ends when everything is given up, or its time is over: after a lease,
    /// whatever the mounts do.
    pub async fn over(self) {
        recalls::settled(self.0).await;
    }

    /// Is there nothing to wait for?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.iter().all(|ticket| ticket.is_over())
    }
}

/// Which sessions end.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// All of a token.
    Token(TokenId),
    /// All that last authenticated with this secret.
    Secret(SecretId),
    /// One.
    Session(SessionId),
    /// All of the volume.
    All,
}

/// A live session, for listings.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Its token.
    pub token_id: TokenId,
    /// The secret it last authenticated with.
    pub secret_id: SecretId,
    /// Its scope.
    pub scope: SubtreePath,
    /// Effective flags.
    pub flags: v1::Flags,
    /// The client's name for itself.
    pub host_name: String,
    /// The mount point.
    pub dir: String,
    /// The client's address.
    pub peer: String,
    /// When it was opened.
    pub opened_at: jiff::Timestamp,
}

/// What becomes of an operation.
#[expect(clippy::large_enum_variant, reason = "one per operation, handed on at once")]
pub enum Execution {
    /// Answered.
    Done(v1::Reply),
    /// Answered later (a lock to wait for, a sync). Dropping the future gives
    /// the operation up.
    Pending(Pin<Box<dyn Future<Output = v1::Reply> + Send>>),
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Execution::Done(reply) => f.debug_tuple("Done").field(reply).finish(),
            Execution::Pending(_) => f.write_str("Pending"),
        }
    }
}
