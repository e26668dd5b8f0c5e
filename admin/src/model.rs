//! The things that admin keeps, as parsed types: what lies in the database is
//! turned into these, or refused.

use std::fmt;
use std::str::FromStr;

use flexfs_auth::principal::Role;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::{AccountId, SecretId, ServerId, SessionId, TokenId, VolumeId};
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
    /// Age policy: secrets older than this many seconds are reported; 0 = none.
    pub max_token_age: u64,
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

/// How a token or secret was used, as far as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// The last time.
    pub last_at: Option<Timestamp>,
    /// From which address, the last time; empty = not known.
    pub last_from: String,
    /// What that host calls itself; empty = it did not say.
    pub last_host: String,
    /// How often. A mount that lives counts once.
    pub count: u64,
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
    /// Ends when unused for so many seconds; 0 = does not.
    pub idle_seconds: u64,
    /// When its newest secret was made.
    pub rotated_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked.
    pub revoke_reason: String,
    /// When it was disabled.
    pub disabled_at: Option<Timestamp>,
    /// How it was used, within a minute.
    pub used: Used,
    /// When it was taken out of the listings.
    pub deleted_at: Option<Timestamp>,
    /// By which token it was made; `None` at bootstrap and by `recover`.
    pub created_by: Option<TokenId>,
}

impl TokenRecord {
    /// A new one without end or limits.
    #[must_use]
    pub fn new(
        token: &Token,
        account_id: AccountId,
        grant: Grant,
        created_at: Timestamp,
        created_by: Option<TokenId>,
    ) -> TokenRecord {
        TokenRecord {
            id: token.id(),
            account_id,
            grant,
            cidrs: Vec::new(),
            notes: String::new(),
            last4: token.last4().to_owned(),
            created_at,
            expires_at: None,
            not_before: None,
            idle_seconds: 0,
            rotated_at: created_at,
            revoked_at: None,
            revoke_reason: String::new(),
            disabled_at: None,
            used: Used::default(),
            deleted_at: None,
            created_by,
        }
    }

    /// Its state at an instant.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.end().is_some_and(|at| at <= now) {
            TokenState::Expired
        } else if self.disabled_at.is_some() {
            TokenState::Disabled
        } else if self.not_before.is_some_and(|at| at > now) {
            TokenState::NotYetValid
        } else {
            TokenState::Active
        }
    }

    /// When it ends by itself: at its expiry, or when it was unused for too
    /// long (as far as its uses are known here), whichever is first.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        match (self.expires_at, self.idle_end()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (end, None) | (None, end) => end,
        }
    }

    /// When it ends if it is not used again.
    #[must_use]
    pub fn idle_end(&self) -> Option<Timestamp> {
        if self.idle_seconds == 0 {
            return None;
        }
        // A new secret begins anew; before a claim code is redeemed nothing can
        // be used.
        let begin = self.not_before.map_or(self.rotated_at, |at| at.max(self.rotated_at));
        let since = self.used.last_at.map_or(begin, |at| at.max(begin));
        let idle = jiff::SignedDuration::from_secs(i64::try_from(self.idle_seconds).ok()?);
        Some(since.checked_add(idle).unwrap_or(Timestamp::MAX))
    }

    /// Does it still live at this instant, now or later?
    #[must_use]
    pub fn lives(&self, now: Timestamp) -> bool {
        match self.state(now) {
            TokenState::Active | TokenState::Disabled | TokenState::NotYetValid => true,
            TokenState::Expired | TokenState::Revoked => false,
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
    pub verifier: Verifier,
    /// Last four characters of the token's text with this secret.
    pub last4: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
    /// When it was last used, within a minute.
    pub last_used_at: Option<Timestamp>,
    /// How often it was used.
    pub uses: u64,
}

impl SecretRecord {
    /// A new one without end, of a token with this text.
    #[must_use]
    pub fn new(last4: &str, verifier: Verifier, created_at: Timestamp) -> SecretRecord {
        SecretRecord {
            id: SecretId::random(),
            verifier,
            last4: last4.to_owned(),
            created_at,
            expires_at: None,
            retired_at: None,
            last_used_at: None,
            uses: 0,
        }
    }

    /// Is it accepted at this instant?
    #[must_use]
    pub fn live(&self, now: Timestamp) -> bool {
        self.retired_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

/// A host that uses a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// What it calls itself; empty = it did not say.
    pub host: String,
    /// The address it was seen with; empty = not known.
    pub address: String,
    /// The last time.
    pub last_used_at: Timestamp,
    /// How often.
    pub uses: u64,
    /// Mounts that live from the secret there.
    pub sessions: u32,
}

/// A claim code, as stored: traded once for a token's first secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is compared.
    pub verifier: Verifier,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was redeemed.
    pub redeemed_at: Option<Timestamp>,
    /// From where.
    pub redeemed_from: String,
}

/// A live mount, as its metadata server reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// Its id.
    pub id: SessionId,
    /// The server.
    pub server: ServerId,
    /// Its token.
    pub token_id: TokenId,
    /// The secret it lives from.
    pub secret_id: SecretId,
    /// Its volume.
    pub volume_id: VolumeId,
    /// The scope.
    pub mount_path: String,
    /// What the host calls itself.
    pub host: String,
    /// The mount point there.
    pub dir: String,
    /// The address it was seen with.
    pub address: String,
    /// When it began.
    pub opened_at: Timestamp,
}
