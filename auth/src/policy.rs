//! The one authorisation decision: pure, total, no I/O. `Permit` is built
//! nowhere else, so a store function that takes one cannot be reached
//! without it. The whole table is in `policy/golden.txt`.

use flexfs_common::ids::{AccountId, VolumeId};
use flexfs_common::{Code, Error, Result};

use crate::principal::{Principal, Role};

/// What is to be done. One variant per RPC family; no wildcard arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// whoami: every valid token.
    WhoAmI,
    /// Status of the installation.
    StatusRead,
    /// Numbers of an account's tokens and mounts.
    MetricsRead,
    /// Create, suspend, delete accounts.
    AccountWrite,
    /// Change an account's name, contact and age policy.
    AccountUpdate,
    /// Show, list accounts.
    AccountRead,
    /// Create an account token of this role.
    AccountTokenCreate(Role),
    /// Change, rotate, end, delete account tokens.
    AccountTokenWrite,
    /// Show, list account tokens.
    AccountTokenRead,
    /// Create volume tokens.
    VolumeTokenCreate,
    /// Change, rotate, end, delete volume tokens.
    VolumeTokenWrite,
    /// Show, list volume tokens.
    VolumeTokenRead,
    /// Create, change, delete volumes.
    VolumeWrite,
    /// Show, list volumes.
    VolumeRead,
    /// Create, delete meta stores, block stores.
    StoreWrite,
    /// Show, list meta stores and block stores.
    StoreRead,
    /// Show, list meta tokens.
    MetaTokenRead,
    /// Change, rotate, end, delete meta tokens.
    MetaTokenWrite,
    /// DescribeMount: a volume token about itself.
    MountDescribe,
    /// DescribeServer: a meta token about itself.
    ServerDescribe,
    /// Register, list placed volumes, validate, watch: metadata servers.
    Authority,
    /// List live mounts.
    SessionRead,
    /// Revoke the very token that calls.
    SelfRevoke,
    /// Rotate the very token that calls.
    SelfRotate,
    /// Trade the claim code that calls for its token.
    ClaimRedeem,
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
/// What belongs to the installation (`AccountWrite`, the stores, meta tokens,
/// the status) is asked for on `Resource::Installation`; so is a listing over
/// all accounts, which is for `system` alone. A listing inside one account is
/// asked for on `Resource::Account`; a caller limited to volumes may list
/// volumes and volume tokens, and the caller of this function then leaves out
/// the rows of other volumes. `Authority` and `ServerDescribe` are asked for
/// on `Resource::Installation`: that a meta sees only what is placed in its
/// store is a condition of every query behind it. That a provisioner deletes
/// only volumes which it created is the service's check as well.
///
/// # Errors
/// `TOKEN_WRONG_KIND` for a principal of a kind that never may;
/// `ROLE_FORBIDDEN` inside the own account; the caller turns
/// `SCOPE_MISSING` (another account or volume) into the thing's NOT_FOUND.
pub fn authorize(principal: &Principal, action: Action, resource: Resource) -> Result<Permit> {
    match principal {
        Principal::Account { account_id, role, volumes, .. } => {
            check_kind(action, Holder::Account)?;
            check_scope(*role, *account_id, volumes, resource)?;
            check_role(*role, action)?;
            check_place(*role, action, resource)?;
            check_limits(volumes, action, resource)?;
        }
        Principal::Volume { account_id, volume_id, .. } => {
            check_kind(action, Holder::Volume)?;
            match resource {
                Resource::Volume(account, volume)
                    if account == *account_id && volume == *volume_id => {}
                // About the token itself, which has no resource of its own.
                Resource::Installation if action != Action::MountDescribe => {}
                Resource::Installation | Resource::Account(_) | Resource::Volume(..) => {
                    return Err(Code::ScopeMissing.into());
                }
            }
        }
        Principal::Meta { .. } => {
            check_kind(action, Holder::Meta)?;
            match resource {
                Resource::Installation => {}
                Resource::Account(_) | Resource::Volume(..) => {
                    return Err(Code::ScopeMissing.into());
                }
            }
        }
        Principal::Claim { .. } => {
            check_kind(action, Holder::Claim)?;
            match resource {
                Resource::Installation => {}
                Resource::Account(_) | Resource::Volume(..) => {
                    return Err(Code::ScopeMissing.into());
                }
            }
        }
    }
    Ok(Permit { action, resource })
}

/// Decides whether an account token of this role, limited to these volumes
/// (none = unlimited), may be made: never a stronger one than the caller's.
/// The permit is one for `AccountTokenCreate(role)` on the account. Source
/// addresses and times of the caller's token are the service's to compare.
///
/// # Errors
/// As [`authorize`].
pub fn authorize_mint(
    principal: &Principal,
    role: Role,
    account: AccountId,
    limited_to: &[VolumeId],
) -> Result<Permit> {
    let action = Action::AccountTokenCreate(role);
    let resource = Resource::Account(account);
    let unlimited = match principal {
        Principal::Account { token_id, account_id, role, volumes } if !volumes.is_empty() => {
            let within = !limited_to.is_empty() && limited_to.iter().all(|v| volumes.contains(v));
            if !within {
                return Err(Error::new(
                    Code::RoleForbidden,
                    "this token is limited to volumes and makes only tokens limited to these",
                ));
            }
            Principal::Account {
                token_id: *token_id,
                account_id: *account_id,
                role: *role,
                volumes: Vec::new(),
            }
        }
        Principal::Account { .. }
        | Principal::Volume { .. }
        | Principal::Meta { .. }
        | Principal::Claim { .. } => principal.clone(),
    };
    authorize(&unlimited, action, resource)
}

/// Who holds a token of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Account,
    Volume,
    Meta,
    Claim,
}

fn check_kind(action: Action, holder: Holder) -> Result<()> {
    let allowed = match action {
        Action::WhoAmI | Action::SelfRevoke | Action::SelfRotate => holder != Holder::Claim,
        Action::ClaimRedeem => holder == Holder::Claim,
        Action::MountDescribe => holder == Holder::Volume,
        Action::ServerDescribe | Action::Authority => holder == Holder::Meta,
        Action::StatusRead
        | Action::MetricsRead
        | Action::AccountWrite
        | Action::AccountUpdate
        | Action::AccountRead
        | Action::AccountTokenCreate(_)
        | Action::AccountTokenWrite
        | Action::AccountTokenRead
        | Action::VolumeTokenCreate
        | Action::VolumeTokenWrite
        | Action::VolumeTokenRead
        | Action::VolumeWrite
        | Action::VolumeRead
        | Action::SessionRead
        | Action::StoreWrite
        | Action::StoreRead
        | Action::MetaTokenRead
        | Action::MetaTokenWrite => holder == Holder::Account,
    };
    if allowed { Ok(()) } else { Err(Code::TokenWrongKind.into()) }
}

/// Is the resource within sight at all?
fn check_scope(role: Role, own: AccountId, volumes: &[VolumeId], resource: Resource) -> Result<()> {
    let visible = |account: AccountId| role == Role::System || account == own;
    let in_sight = match resource {
        Resource::Installation => true,
        Resource::Account(account) => visible(account),
        Resource::Volume(account, volume) => {
            visible(account) && (volumes.is_empty() || volumes.contains(&volume))
        }
    };
    if in_sight { Ok(()) } else { Err(Code::ScopeMissing.into()) }
}

/// The table of roles.
fn check_role(role: Role, action: Action) -> Result<()> {
    use Role::{Auditor, Metrics, Operator, Owner, Provisioner, System, Viewer};
    let allowed = match action {
        // For every valid token; whoever fears for it can end or renew it.
        Action::WhoAmI | Action::SelfRevoke | Action::SelfRotate => true,
        // Versions, addresses and lag: no tenant's data.
        Action::StatusRead | Action::MetricsRead => {
            matches!(role, System | Owner | Operator | Viewer | Metrics)
        }
        Action::AccountWrite | Action::StoreWrite => matches!(role, System),
        Action::MetaTokenRead | Action::MetaTokenWrite => matches!(role, System),
        Action::AccountRead | Action::AccountTokenRead => {
            matches!(role, System | Owner | Operator | Viewer)
        }
        Action::AccountTokenCreate(minted) => matches!(role, System | Owner) && role.covers(minted),
        Action::AccountTokenWrite | Action::AccountUpdate => matches!(role, System | Owner),
        Action::VolumeWrite | Action::VolumeTokenCreate | Action::VolumeTokenWrite => {
            matches!(role, System | Owner | Operator | Provisioner)
        }
        // Whoever makes volumes must be able to choose stores.
        Action::VolumeRead | Action::VolumeTokenRead | Action::SessionRead | Action::StoreRead => {
            matches!(role, System | Owner | Operator | Viewer | Provisioner)
        }
        // Refused before, by kind.
        Action::MountDescribe
        | Action::ServerDescribe
        | Action::Authority
        | Action::ClaimRedeem => false,
    };
    // Named here so that a new role cannot be forgotten above.
    match role {
        System | Owner | Operator | Viewer | Auditor | Metrics | Provisioner => {}
    }
    if allowed {
        return Ok(());
    }
    Err(Error::new(Code::RoleForbidden, format!("the role {} does not allow this", role.name())))
}

/// Things of accounts asked for over the whole installation are for `system`.
fn check_place(role: Role, action: Action, resource: Resource) -> Result<()> {
    let installation_wide = match action {
        Action::WhoAmI
        | Action::SelfRevoke
        | Action::SelfRotate
        | Action::ClaimRedeem
        | Action::StatusRead
        | Action::StoreRead => false,
        Action::AccountWrite
        | Action::AccountUpdate
        | Action::MetricsRead
        | Action::SessionRead
        | Action::AccountRead
        | Action::AccountTokenCreate(_)
        | Action::AccountTokenWrite
        | Action::AccountTokenRead
        | Action::VolumeTokenCreate
        | Action::VolumeTokenWrite
        | Action::VolumeTokenRead
        | Action::VolumeWrite
        | Action::VolumeRead
        | Action::StoreWrite
        | Action::MetaTokenRead
        | Action::MetaTokenWrite
        | Action::MountDescribe
        | Action::ServerDescribe
        | Action::Authority => resource == Resource::Installation,
    };
    if installation_wide && role != Role::System {
        return Err(Error::new(Code::RoleForbidden, "this concerns the whole installation"));
    }
    Ok(())
}

/// What a token limited to volumes may do beside its volumes.
fn check_limits(volumes: &[VolumeId], action: Action, resource: Resource) -> Result<()> {
    if volumes.is_empty() {
        return Ok(());
    }
    let on_its_volume = match resource {
        Resource::Volume(..) => true,
        Resource::Account(_) | Resource::Installation => false,
    };
    let allowed = match action {
        Action::WhoAmI
        | Action::SelfRevoke
        | Action::SelfRotate
        | Action::StatusRead
        | Action::StoreRead
        | Action::AccountRead => true,
        // Listings: the service leaves out other volumes.
        Action::VolumeRead | Action::VolumeTokenRead | Action::SessionRead => {
            resource != Resource::Installation
        }
        Action::VolumeTokenCreate | Action::VolumeTokenWrite | Action::VolumeWrite => on_its_volume,
        // Through `authorize_mint` only, which knows the new token's limits.
        Action::AccountTokenCreate(_) => false,
        Action::AccountTokenWrite | Action::AccountTokenRead | Action::MetricsRead => false,
        Action::AccountWrite
        | Action::AccountUpdate
        | Action::StoreWrite
        | Action::MetaTokenRead
        | Action::MetaTokenWrite
        | Action::MountDescribe
        | Action::ServerDescribe
        | Action::ClaimRedeem
        | Action::Authority => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(Code::RoleForbidden, "this token is limited to certain volumes"))
}

#[cfg(test)]
mod tests;
