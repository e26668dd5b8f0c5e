//! What every operation knows of where and for whom it runs.

use flexfs_common::{Code, Result};
use flexfs_proto::v1;

use super::caller::Who;
use super::lock_wait::LockWaiters;
use super::scope::Scopes;
use super::session::Session;
use super::superblock::Identity;
use super::types::{BlockAccess, VolumeSettings};

/// One operation's surroundings.
pub(super) struct Context<'a> {
    pub(super) identity: &'a Identity,
    pub(super) settings: &'a VolumeSettings,
    pub(super) scopes: &'a Scopes,
    pub(super) waiters: &'a LockWaiters,
    pub(super) blocks: &'a dyn BlockAccess,
    pub(super) session: &'a Session,
    /// Effective flags of the session.
    pub(super) flags: &'a v1::Flags,
    pub(super) who: Who,
    /// Epoch of the session's scope, taken before the view in use.
    pub(super) scope_epoch: u64,
}

impl Context<'_> {
    /// # Errors
    /// `FS_READ_ONLY` on a read-only session.
    pub(super) fn need_writable(&self) -> Result<()> {
        if self.flags.ro { Err(Code::FsReadOnly.into()) } else { Ok(()) }
    }

    /// For what takes something away or replaces it.
    ///
    /// # Errors
    /// `FS_READ_ONLY`; `FS_NOT_PERMITTED` on an append-only session.
    pub(super) fn need_full_rights(&self) -> Result<()> {
        self.need_writable()?;
        if self.flags.append_only { Err(Code::FsNotPermitted.into()) } else { Ok(()) }
    }
}
