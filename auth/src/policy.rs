//! The one authorisation decision: pure, total, no I/O. `Permit` is built
//! nowhere else, so a store function that takes one cannot be reached
//! without it.

use flexfs_common::Result;
use flexfs_common::ids::{AccountId, VolumeId};

use crate::principal::{Principal, Role};

/// What is to be done. One variant per RPC family; no wildcard arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// whoami: every valid token.
    WhoAmI,
    /// Status of the installation.
    StatusRead,
    /// Create, delete accounts.
    AccountWrite,
    /// Show, list accounts.
    AccountRead,
    /// Create an account token of this role.
    AccountTokenCreate(Role),
    /// Revoke, delete account tokens.
    AccountTokenWrite,
    /// Show, list account tokens.
    AccountTokenRead,
    /// Create volume tokens.
    VolumeTokenCreate,
    /// Revoke, delete volume tokens.
    VolumeTokenWrite,
    /// Show, list volume tokens.
    VolumeTokenRead,
    /// Create, delete volumes.
    VolumeWrite,
    /// Show, list volumes.
    VolumeRead,
    /// Create, delete meta stores, block stores, meta tokens.
    StoreWrite,
    /// Show, list meta stores and block stores.
    StoreRead,
    /// Show, list meta tokens.
    MetaTokenRead,
    /// Revoke, delete meta tokens.
    MetaTokenWrite,
    /// DescribeMount: a volume token about itself.
    MountDescribe,
    /// DescribeServer: a meta token about itself.
    ServerDescribe,
    /// Register, list placed volumes, validate, watch: metadata servers.
    Authority,
    /// Revoke the very token that calls.
    SelfRevoke,
}

/// On what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The installation.
    Installation,
    /// Things of an account, none in particular or a new one.
    Account(AccountId),
    /// A volume and what belongs to it.
    Volume(AccountId, VolumeId),
}

/// Proof that one action was allowed on one resource.
#[derive(Debug)]
pub struct Permit {
    action: Action,
    resource: Resource,
}

impl Permit {
    /// What was allowed.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }
    /// On what.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource
    }
}

/// Decides.
///
/// # Errors
/// `TOKEN_WRONG_KIND` for a principal of a kind that never may;
/// `ROLE_FORBIDDEN` inside the own account; the caller turns
/// `SCOPE_MISSING` (another account or volume) into the thing's NOT_FOUND.
#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
pub fn authorize(principal: &Principal, action: Action, resource: Resource) -> Result<Permit> {
    unimplemented!()
}
