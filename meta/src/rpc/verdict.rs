//! What admin said of a volume token.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::SecretId;
use flexfs_common::name::SubtreePath;
use flexfs_common::{Result, wire};
use flexfs_proto::v1;

use crate::grants::token_hash;
use crate::identity;
use crate::service::changes::{FeedPoint, Subject};

/// Verdicts kept in memory: one per live pair of token and address.
const VERDICTS_MAX: usize = 65_536;

/// A token that may open sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Token, volume, account.
    pub subject: Subject,
    /// The secret that matched.
    pub secret_id: SecretId,
    /// The subtree.
    pub scope: SubtreePath,
    /// The token's own flags.
    pub flags: v1::Flags,
    /// When admin's rows were read.
    pub point: FeedPoint,
    /// When the token's own time is over.
    pub ends: Option<BootTime>,
    /// When admin was asked.
    pub asked: BootTime,
    /// The token ends when it is unused for so long.
    pub idle: Option<Duration>,
}

impl Verdict {
    /// From admin's answer; `epoch` was noted before it was asked, and `asked`
    /// is when that was (what is left of a token counts from then).
    ///
    /// # Errors
    /// `PROTOCOL_INVALID`, `PATH_INVALID`.
    pub fn from_wire(
        reply: &v1::ValidateVolumeTokenReply,
        epoch: u64,
        asked: BootTime,
    ) -> Result<Verdict> {
        let id = |field, text: &str| wire::uuid_from_wire(field, text).map(|id| *id.as_bytes());
        let volume = reply.volume.as_ref().map_or("", |volume| volume.id.as_str());
        let valid = Duration::from_millis(reply.valid_millis);
        Ok(Verdict {
            subject: Subject {
                token: flexfs_common::ids::TokenId::from_bytes(id("token_id", &reply.token_id)?),
                volume: flexfs_common::ids::VolumeId::from_bytes(id("volume.id", volume)?),
                account: flexfs_common::ids::AccountId::from_bytes(id(
                    "account_id",
                    &reply.account_id,
                )?),
            },
            secret_id: SecretId::from_bytes(id("secret_id", &reply.secret_id)?),
            scope: reply.mount_path.parse()?,
            flags: reply.flags.unwrap_or_default(),
            point: FeedPoint { epoch, revision: reply.revision },
            ends: (reply.valid_millis != 0).then(|| asked.after(valid)),
            asked,
            idle: (reply.idle_millis != 0).then(|| Duration::from_millis(reply.idle_millis)),
        })
    }

    /// Until when it may open sessions without another word from admin: only
    /// admin knows whether the token was used meanwhile, elsewhere or here.
    #[must_use]
    pub fn fresh_until(&self) -> Option<BootTime> {
        self.idle.map(|idle| self.asked.after(idle))
    }

    /// Is it fresh enough to open a session?
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        !self.fresh_until().is_some_and(BootTime::passed)
    }

    /// Time left of token and secret in milliseconds; 0 = no end.
    #[must_use]
    pub fn millis_left(&self) -> u64 {
        let left = |at: BootTime| u64::try_from(at.left().as_millis()).unwrap_or(u64::MAX).max(1);
        self.ends.map_or(0, left)
    }

    /// Is the token's own time over?
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ends.is_some_and(BootTime::passed)
    }
}

/// The key of a verdict: a hash of token and address under a key that lives
/// only in this process.
pub type VerdictKey = [u8; 32];

/// Verdicts in memory.
pub struct Verdicts {
    key: hmac::Key,
    cache: quick_cache::sync::Cache<VerdictKey, Arc<Verdict>>,
}

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verdicts({})", self.cache.len())
    }
}

impl Verdicts {
    /// None yet.
    ///
    /// # Errors
    /// `INTERNAL` without randomness.
    pub fn new() -> Result<Verdicts> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, identity::random_key()?.as_slice());
        Ok(Verdicts { key, cache: quick_cache::sync::Cache::new(VERDICTS_MAX) })
    }

    /// The key of this token as used from this address.
    #[must_use]
    pub fn key(&self, token: &Token, peer: IpAddr) -> VerdictKey {
        token_hash(&self.key, token, peer)
    }

    /// What is kept.
    #[must_use]
    pub fn get(&self, key: &VerdictKey) -> Option<Arc<Verdict>> {
        self.cache.get(key)
    }

    /// Keeps one.
    pub fn put(&self, key: VerdictKey, verdict: Arc<Verdict>) {
        self.cache.insert(key, verdict);
    }

    /// Drops one.
    pub fn drop(&self, key: &VerdictKey) {
        self.cache.remove(key);
    }
}
