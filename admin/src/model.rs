//! The things that admin keeps, as parsed types: what lies in the database is
//! turned into these, or refused.

use std::fmt;
use std::str::FromStr;

use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::{AccountId, SecretId, ServerId, TokenId, VolumeId};
use flexfs_common::name::{StoreId, SubtreePath, VolumeName};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use jiff::Timestamp;

use crate::cidr::Cidr;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The word in messages and in the database.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(Error::new(
                        Code::ArgumentInvalid,
                        format!("`{}` is not one of: {}", text.escape_debug(),
                            [$($text),*].join(" ")),
                    )),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

words!(
    /// State of an account.
    AccountState {
        /// In use.
        Active "active",
        /// None of its tokens is accepted.
        Suspended "suspended",
        /// Gone; its id stays known.
        Deleted "deleted",
    }
);
words!(
    /// State of a meta store or block store.
    StoreState {
        /// In use.
        Active "active",
        /// Gone; its id stays known.
        Deleted "deleted",
    }
);
words!(
    /// State of a volume.
    VolumeState {
        /// In use.
        Active "active",
        /// No token opens it; its data is kept for the retention time.
        Retired "retired",
    }
);
words!(
    /// Compression of a volume's blocks.
    Compression {
        /// LZ4 frames.
        Lz4 "lz4",
        /// Zstandard (RFC 8878).
        Zstd "zstd",
        /// None.
        Nothing "none",
    }
);
words!(
    /// Kinds of block stores.
    BlockStoreKind {
        /// A directory served by meta.
        Dir "dir",
        /// S3 and what speaks it.
        S3 "s3",
        /// Google Cloud Storage.
        Gcs "gcs",
        /// Azure Blob Storage.
        Azure "azure",
    }
);
words!(
    /// What a volume token may do with contents.
    Rights {
        /// Read and write.
        Rw "rw",
        /// Create and extend only.
        Append "append",
        /// Read only.
        Ro "ro",
    }
);
words!(
    /// State of a token at an instant.
    TokenState {
        /// Accepted.
        Active "active",
        /// Not accepted until enabled.
        Disabled "disabled",
        /// Over.
        Expired "expired",
        /// Over for ever.
        Revoked "revoked",
        /// Not yet accepted.
        NotYetValid "notYetValid",
    }
);

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Unique among those not deleted.
    pub name: String,
    /// Contact.
    pub email: String,
    /// Its state.
    pub state: AccountState,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which token; `None` at bootstrap.
    pub created_by: Option<TokenId>,
}

/// A group of metadata servers that can serve volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaStore {
    /// Chosen by the operator.
    pub id: StoreId,
    /// `host:port` where its servers are reached.
    pub address: String,
    /// Its state.
    pub state: StoreState,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which token.
    pub created_by: TokenId,
}

/// A registered metadata server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaServer {
    /// Durable id of the server.
    pub id: ServerId,
    /// Its store.
    pub meta_store: StoreId,
    /// Where it listens; empty = the store's address.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Feed revision that it has applied.
    pub acknowledged: u64,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
}

/// Where blocks lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStore {
    /// Chosen by the operator.
    pub id: StoreId,
    /// What it is.
    pub kind: BlockStoreKind,
    /// dir: absolute path; others: bucket or container.
    pub location: String,
    /// Before every key.
    pub prefix: String,
    /// Region of the bucket.
    pub region: String,
    /// Endpoint, where it is not the provider's own.
    pub address: String,
    /// Name of an entry in meta's own configuration.
    pub credentials_name: String,
    /// Its state.
    pub state: StoreState,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which token.
    pub created_by: TokenId,
}

/// One file system tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Unique among the active ones of its account.
    pub name: VolumeName,
    /// Its owner.
    pub account_id: AccountId,
    /// Who serves it.
    pub meta_store: StoreId,
    /// Where its blocks lie.
    pub block_store: StoreId,
    /// Bytes, a power of two.
    pub block_size: u32,
    /// Of its blocks.
    pub compression: Compression,
    /// Are contents sealed by the clients?
    pub encryption: bool,
    /// How long deleted data is kept.
    pub retention_seconds: u64,
    /// 0 = no limit.
    pub max_blocks: u64,
    /// 0 = no limit.
    pub max_inodes: u64,
    /// Its restrictions.
    pub flags: v1::Flags,
    /// For people.
    pub notes: String,
    /// Its state.
    pub state: VolumeState,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which token.
    pub created_by: TokenId,
}

/// What a token gives: exactly what its kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum Grant {
    /// Operators.
    Account {
        /// What it may do.
        role: Role,
        /// The only volumes it may touch; empty = all of the account.
        volumes: Vec<VolumeId>,
    },
    /// Mounts.
    Volume {
        /// Of which volume.
        volume_id: VolumeId,
        /// The scope.
        mount_path: SubtreePath,
        /// What may be done with contents.
        rights: Rights,
        /// Restrictions and pins, without those of `rights`.
        flags: v1::Flags,
    },
    /// Metadata servers.
    Meta {
        /// Of which store.
        meta_store: StoreId,
    },
}

impl Grant {
    /// The kind of token that has this.
    #[must_use]
    pub const fn kind(&self) -> TokenKind {
        match self {
            Grant::Account { .. } => TokenKind::Account,
            Grant::Volume { .. } => TokenKind::Volume,
            Grant::Meta { .. } => TokenKind::Meta,
        }
    }
}

/// A token as admin keeps it. The verifiers of its secrets lie beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRecord {
    /// Public id.
    pub id: TokenId,
    /// Whose it is (a volume token: the volume's owner; a meta token: the
    /// account `system`).
    pub account_id: AccountId,
    /// What it gives.
    pub grant: Grant,
    /// Where it may be used from; empty = anywhere.
    pub cidrs: Vec<Cidr>,
    /// For people.
    pub notes: String,
    /// Last four characters of its text.
    pub last4: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it begins.
    pub not_before: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was disabled.
    pub disabled_at: Option<Timestamp>,
    /// When it was last used, within a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was taken out of the listings.
    pub deleted_at: Option<Timestamp>,
    /// By which token it was made; `None` at bootstrap and by `recover`.
    pub created_by: Option<TokenId>,
}

impl TokenRecord {
    /// Its state at an instant.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            TokenState::Expired
        } else if self.disabled_at.is_some() {
            TokenState::Disabled
        } else if self.not_before.is_some_and(|at| at > now) {
            TokenState::NotYetValid
        } else {
            TokenState::Active
        }
    }

    /// The volume it belongs to, if any.
    #[must_use]
    pub fn volume_id(&self) -> Option<VolumeId> {
        match &self.grant {
            Grant::Volume { volume_id, .. } => Some(*volume_id),
            Grant::Account { .. } | Grant::Meta { .. } => None,
        }
    }

    /// The restrictions as a session has them: `rights` included.
    #[must_use]
    pub fn effective_flags(&self) -> v1::Flags {
        match &self.grant {
            Grant::Volume { flags, rights, .. } => v1::Flags {
                ro: flags.ro || *rights == Rights::Ro,
                append_only: *rights == Rights::Append,
                ..*flags
            },
            Grant::Account { .. } | Grant::Meta { .. } => v1::Flags::default(),
        }
    }
}

/// One secret of a token, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its id.
    pub id: SecretId,
    /// What is compared.
    pub verifier: flexfs_auth::verifier::Verifier,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
}

impl SecretRecord {
    /// Is it accepted at this instant?
    #[must_use]
    pub fn live(&self, now: Timestamp) -> bool {
        self.retired_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}
