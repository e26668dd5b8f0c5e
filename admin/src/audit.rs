//! The audit record of a change: who did what to what, from where, with what
//! outcome. Records are chained by hash; nothing secret is ever in one.

use std::net::IpAddr;

use aws_lc_rs::digest;
use flexfs_common::ids::{AccountId, RequestId, TokenId};
use jiff::Timestamp;

/// Who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A caller.
    Token(TokenId),
    /// A caller that was refused: the id it showed, without proof.
    Claimed(TokenId),
    /// More callers than are listed.
    Several,
    /// The first start.
    Bootstrap,
    /// `admin.flexfs recover`.
    Recover,
    /// The purge of what ended long ago.
    Purge,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Token(id) => id.fmt(f),
            Who::Claimed(id) => write!(f, "claimed {id}"),
            Who::Several => f.write_str("several"),
            Who::Bootstrap => f.write_str("bootstrap"),
            Who::Recover => f.write_str("recover"),
            Who::Purge => f.write_str("purge"),
        }
    }
}

/// The id that a caller gave a request, and what it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The same for a repetition.
    pub id: RequestId,
    /// SHA-256 of the message.
    pub digest: [u8; 32],
}

/// What is to be recorded; time, revision and hashes are added at the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who acted.
    pub who: Who,
    /// Whose thing it is.
    pub account: Option<AccountId>,
    /// What was done: `volume.create`, `token.revoke`, …
    pub action: &'static str,
    /// To what: an id.
    pub target: String,
    /// The caller's address.
    pub source: Option<IpAddr>,
    /// `ok`, or the code of the refusal.
    pub outcome: &'static str,
    /// What else people need to know; no secret.
    pub detail: String,
    /// The id of the request, if the caller gave one: not recorded here, but
    /// kept for a day beside what was done.
    pub request: Option<Request>,
}

/// The outcome of what was done.
pub const OK: &str = "ok";

/// A record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Dense, from 1.
    pub seq: u64,
    /// When, in microseconds.
    pub at: Timestamp,
    /// See [`Entry`].
    pub who: String,
    /// See [`Entry`]; empty = none.
    pub account: String,
    /// See [`Entry`].
    pub action: String,
    /// See [`Entry`].
    pub target: String,
    /// See [`Entry`]; empty = local.
    pub source: String,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
    /// See [`Entry`].
    pub detail: String,
    /// The feed's head with this change.
    pub revision: u64,
}

/// The hash that stands before the first record.
pub const GENESIS: [u8; 32] = [0; 32];

impl Record {
    /// SHA-256 over the hash before it and every field, each with its length
    /// before it, so that no two records have the same bytes.
    #[must_use]
    pub fn hash(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"flexfs-audit-1");
        context.update(before);
        context.update(&self.seq.to_be_bytes());
        context.update(&self.at.as_microsecond().to_be_bytes());
        context.update(&self.revision.to_be_bytes());
        for field in [
            &self.who,
            &self.account,
            &self.action,
            &self.target,
            &self.source,
            &self.outcome,
            &self.detail,
        ] {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}
