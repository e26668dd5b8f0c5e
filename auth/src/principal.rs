//! Who a verified token names. Each kind holds exactly what that kind has.

use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};

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
        match self {
            Role::System => "system",
            Role::Owner => "owner",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
            Role::Auditor => "auditor",
            Role::Metrics => "metrics",
            Role::Provisioner => "provisioner",
        }
    }

    /// The reverse.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`, listing the roles.
    pub fn from_name(name: &str) -> Result<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
            let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
            Error::new(
                Code::ArgumentInvalid,
                format!("`{}` is not a role: {}", name.escape_debug(), names.join(", ")),
            )
        })
    }

    /// Is everything that `other` may do allowed to this role as well? A
    /// partial order: a provisioner and a viewer do not cover each other. What
    /// a token may mint, and which tokens it may end, follows from it.
    /// Auditor and metrics see what operators do not, so only an owner covers
    /// them.
    #[must_use]
    pub const fn covers(self, other: Role) -> bool {
        match self {
            Role::System => true,
            Role::Owner => match other {
                Role::System => false,
                Role::Owner
                | Role::Operator
                | Role::Viewer
                | Role::Auditor
                | Role::Metrics
                | Role::Provisioner => true,
            },
            Role::Operator => match other {
                Role::Operator | Role::Viewer | Role::Provisioner => true,
                Role::System | Role::Owner | Role::Auditor | Role::Metrics => false,
            },
            Role::Viewer | Role::Auditor | Role::Metrics | Role::Provisioner => {
                // Not ==: it is no const fn on enums.
                self as u8 == other as u8
            }
        }
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
    /// A machine that holds a claim code.
    Claim {
        /// The token that the code stands for.
        token_id: TokenId,
    },
}

impl Principal {
    /// The token that was verified.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        match self {
            Principal::Account { token_id, .. }
            | Principal::Volume { token_id, .. }
            | Principal::Meta { token_id, .. }
            | Principal::Claim { token_id } => *token_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_their_own_reverse() {
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()).unwrap(), role);
        }
        for bad in ["", "Owner", "root", " owner"] {
            let error = Role::from_name(bad).unwrap_err();
            assert!(error.message().contains("provisioner"), "{}", error.message());
        }
    }

    #[test]
    fn covers_is_a_partial_order() {
        for a in Role::ALL {
            assert!(a.covers(a), "{a:?} is reflexive");
            for b in Role::ALL {
                assert!(a == b || !(a.covers(b) && b.covers(a)), "{a:?} {b:?} antisymmetric");
                for c in Role::ALL {
                    assert!(
                        !(a.covers(b) && b.covers(c)) || a.covers(c),
                        "{a:?} {b:?} {c:?} transitive"
                    );
                }
            }
        }
        assert!(!Role::Viewer.covers(Role::Provisioner));
        assert!(!Role::Provisioner.covers(Role::Viewer));
        assert!(!Role::Owner.covers(Role::System));
    }
}
