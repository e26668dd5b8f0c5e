//! Who a verified token names. Each kind holds exactly what that kind has.

use flexfs_common::Result;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;

/// Roles of account tokens (DESIGN section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Installation-wide.
    System,
    /// Everything in the account.
    Owner,
    /// Volumes and volume tokens.
    Operator,
    /// Read-only.
    Viewer,
    /// The audit log, no more.
    Auditor,
    /// Metrics, no more.
    Metrics,
    /// What a CSI controller needs.
    Provisioner,
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl Role {
    /// Every role.
    pub const ALL: [Role; 7] = [
        Role::System,
        Role::Owner,
        Role::Operator,
        Role::Viewer,
        Role::Auditor,
        Role::Metrics,
        Role::Provisioner,
    ];
    /// As in `--role`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        unimplemented!()
    }
    /// The reverse.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`, listing the roles.
    pub fn from_name(name: &str) -> Result<Role> {
        unimplemented!()
    }
}

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// An operator.
    Account {
        /// Its token.
        token_id: TokenId,
        /// Its account.
        account_id: AccountId,
        /// Its role.
        role: Role,
        /// The only volumes it may touch; empty = all of the account.
        volumes: Vec<VolumeId>,
    },
    /// A mount.
    Volume {
        /// Its token.
        token_id: TokenId,
        /// Owner of the volume.
        account_id: AccountId,
        /// Its volume.
        volume_id: VolumeId,
    },
    /// A metadata server.
    Meta {
        /// Its token.
        token_id: TokenId,
        /// Its meta store.
        meta_store: StoreId,
    },
}
