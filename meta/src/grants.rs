//! What this server goes on with while admin is away (P6): which tokens it
//! knows, and for how long it may trust that knowledge. Kept in the engine,
//! so that a restart neither loses nor renews the grace.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::{AccountId, SecretId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use parking_lot::Mutex;
use prost::Message;

use crate::engine::{CommitVersion, Engine, Reader};
use crate::rpc::verdict::Verdict;
use crate::service::changes::{FeedPoint, Subject};

pub mod stamp;
use stamp::Stamp;

/// Key of the row about the last contact with admin.
const CONTACT_KEY: &[u8] = b"\xff\xffserver/contact";
/// Keys of grants; the keyed hash of token and address follows.
const GRANT_PREFIX: &[u8] = b"\xff\xffserver/grant/";
const GRANT_PREFIX_END: &[u8] = b"\xff\xffserver/grant0";
/// Keys of tokens that are revoked for ever; the token's id follows.
const REVOKED_PREFIX: &[u8] = b"\xff\xffserver/revoked/";
const REVOKED_PREFIX_END: &[u8] = b"\xff\xffserver/revoked0";
/// Grants that are kept. Beyond that a token is not known while admin is away.
const GRANTS_MAX: usize = 100_000;

/// A token that admin has confirmed, as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredGrant {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    volume: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    account: Vec<u8>,
    #[prost(string, tag = "5")]
    mount_path: String,
    #[prost(message, optional, tag = "6")]
    flags: Option<v1::Flags>,
    /// Time left of the token at `at`; 0 = no end.
    #[prost(uint64, tag = "7")]
    valid_millis: u64,
    #[prost(message, required, tag = "8")]
    at: Stamp,
    /// From `at` on, without a word from admin, for so long; 0 = for as long
    /// as there is grace. A token with an idle end is not known for longer.
    #[prost(uint64, tag = "9")]
    fresh_millis: u64,
}

/// What admin says of a secret that is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confirmed {
    /// Whose secret it is.
    pub token: TokenId,
    /// The token's own flags; `None` = not said.
    pub flags: Option<v1::Flags>,
    /// When the time of token or secret is over.
    pub ends: Option<BootTime>,
}

impl StoredGrant {
    /// Takes over what is said now; true when that is something else.
    fn confirm(&mut self, confirmed: &Confirmed, now: &Stamp) -> bool {
        let flags = confirmed.flags.or(self.flags);
        let valid_millis = millis_left(confirmed.ends);
        if flags == self.flags && !moved(self, valid_millis, now) {
            return false;
        }
        self.flags = flags;
        self.valid_millis = valid_millis;
        if self.fresh_millis != 0 {
            // It counts from the same moment.
            self.fresh_millis = millis(fresh_left(self, now).unwrap_or_default()).max(1);
        }
        self.at = now.clone();
        true
    }
}

/// The last contact with admin, as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredContact {
    #[prost(message, required, tag = "1")]
    at: Stamp,
    /// Grace used up before `at`.
    #[prost(uint64, tag = "2")]
    away_millis: u64,
}

#[derive(Debug)]
struct State {
    grants: HashMap<[u8; 32], StoredGrant>,
    /// As in the engine: asked at every validation.
    revoked: HashSet<TokenId>,
    /// `None`: admin was never heard of, so there is no grace.
    contact: Option<StoredContact>,
}

/// The grants of one server.
pub struct Grants {
    engine: Arc<dyn Engine>,
    key: hmac::Key,
    grace: Duration,
    state: Mutex<State>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("grace", &self.grace).finish_non_exhaustive()
    }
}

fn corrupt(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::EngineFailed, "a grant's row is not understood").caused_by(e)
}

/// The tokens that are revoked for ever, as far as is known here.
///
/// # Errors
/// `ENGINE_FAILED`.
pub fn revoked_in(reader: &dyn Reader) -> Result<Vec<TokenId>> {
    let mut revoked = Vec::new();
    reader.scan(REVOKED_PREFIX, REVOKED_PREFIX_END, &mut |key, _| {
        let id = key.get(REVOKED_PREFIX.len()..).and_then(|id| id.try_into().ok());
        revoked.extend(id.map(TokenId::from_bytes));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(revoked)
}

/// The key of the row that says that a token is revoked. Its value is for
/// people: admin's revision, or nothing after a restore.
#[must_use]
pub fn revoked_key(token: TokenId) -> Vec<u8> {
    [REVOKED_PREFIX, token.as_bytes()].concat()
}

impl Grants {
    /// Reads what was kept. `key` makes the hashes of tokens.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn load(engine: Arc<dyn Engine>, key: &[u8; 32], grace: Duration) -> Result<Grants> {
        let mut grants = HashMap::new();
        let snapshot = engine.snapshot()?;
        snapshot.scan(GRANT_PREFIX, GRANT_PREFIX_END, &mut |key, value| {
            let hash = key.get(GRANT_PREFIX.len()..).and_then(|hash| hash.try_into().ok());
            if let Some(hash) = hash {
                grants.insert(hash, StoredGrant::decode(value).map_err(corrupt)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let contact = match snapshot.get(CONTACT_KEY)? {
            Some(value) => Some(StoredContact::decode(value).map_err(corrupt)?),
            None => None,
        };
        let revoked = revoked_in(&*snapshot)?.into_iter().collect();
        drop(snapshot);
        Ok(Grants {
            engine,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            grace,
            state: Mutex::new(State { grants, revoked, contact }),
        })
    }

    /// Admin has answered: the grace begins anew. Only in memory; written by
    /// [`Grants::checkpoint`].
    pub fn contact(&self, now: Stamp) {
        self.state.lock().contact = Some(StoredContact { at: now, away_millis: 0 });
    }

    /// Writes how much of the grace is used up. To be called every few
    /// seconds: what a crash may lose is counted as used. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn checkpoint(&self, now: Stamp) -> Result<()> {
        let value = {
            let mut state = self.state.lock();
            let Some(contact) = state.contact.as_mut() else { return Ok(()) };
            contact.away_millis = millis(away(contact, &now));
            contact.at = now;
            contact.encode_to_vec()
        };
        self.write(&mut |txn| txn.put(CONTACT_KEY, &value)).map(|_| ())
    }

    /// What is left of the grace; zero = admin has to confirm first. A feed
    /// counts as silent only after [`limits::FEED_DEAD`], so no grace is
    /// shorter than that.
    #[must_use]
    pub fn grace_left(&self, now: &Stamp) -> Duration {
        let grace = self.grace.max(limits::FEED_DEAD);
        let state = self.state.lock();
        state.contact.as_ref().map_or(Duration::ZERO, |c| grace.saturating_sub(away(c, now)))
    }

    /// May new sessions be opened on the strength of a grant?
    #[must_use]
    pub fn may_open(&self, now: &Stamp) -> bool {
        !self.grace.is_zero() && !self.grace_left(now).is_zero()
    }

    /// Keeps what admin said of a token used from this address. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn remember(
        &self,
        token: &Token,
        peer: IpAddr,
        verdict: &Verdict,
        now: Stamp,
    ) -> Result<()> {
        let hash = self.hash(token, peer);
        let grant = StoredGrant {
            token: verdict.subject.token.as_bytes().to_vec(),
            secret: verdict.secret_id.as_bytes().to_vec(),
            volume: verdict.subject.volume.as_bytes().to_vec(),
            account: verdict.subject.account.as_bytes().to_vec(),
            mount_path: verdict.scope.to_string(),
            flags: Some(verdict.flags),
            valid_millis: millis_left(verdict.ends),
            at: now,
            fresh_millis: millis_left(verdict.fresh_until()),
        };
        {
            let mut state = self.state.lock();
            if !state.grants.contains_key(&hash) && state.grants.len() >= GRANTS_MAX {
                tracing::warn!("too many tokens: this one is not known while admin is away");
                return Ok(());
            }
            state.grants.insert(hash, grant.clone());
        }
        let (key, value) = ([GRANT_PREFIX, &hash].concat(), grant.encode_to_vec());
        self.write(&mut |txn| txn.put(&key, &value)).map(|_| ())
    }

    /// Forgets what was remembered of a token used from this address: it was
    /// overtaken. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn forget_one(&self, token: &Token, peer: IpAddr) -> Result<()> {
        let hash = self.hash(token, peer);
        self.state.lock().grants.remove(&hash);
        self.write(&mut |txn| txn.delete(&[GRANT_PREFIX, &hash].concat())).map(|_| ())
    }

    /// Was this token admitted here before, from this address? No proof of
    /// anything now.
    #[must_use]
    pub fn knows(&self, token: &Token, peer: IpAddr) -> bool {
        let hash = self.hash(token, peer);
        self.state.lock().grants.contains_key(&hash)
    }

    /// Admin says what holds for secrets now: their grants are that much from
    /// now on. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn confirm(&self, secrets: &HashMap<SecretId, Confirmed>, now: &Stamp) -> Result<()> {
        let changed: Vec<([u8; 32], StoredGrant)> = {
            let mut state = self.state.lock();
            let mut changed = Vec::new();
            for (hash, grant) in &mut state.grants {
                let Some((subject, secret)) = subject_of(grant) else { continue };
                let Some(confirmed) = secrets.get(&secret) else { continue };
                if confirmed.token == subject.token && grant.confirm(confirmed, now) {
                    changed.push((*hash, grant.clone()));
                }
            }
            changed
        };
        for part in changed.chunks(1000) {
            self.write(&mut |txn| {
                for (hash, grant) in part {
                    txn.put(&[GRANT_PREFIX, hash].concat(), &grant.encode_to_vec());
                }
            })?;
        }
        Ok(())
    }

    /// What is known of a token used from this address, while it is not
    /// revoked and its own time is not over. Of a token with an idle end only
    /// while admin's word is younger than that.
    ///
    /// # Errors
    /// `ENGINE_FAILED`, `TOKEN_EXPIRED`.
    pub fn find(
        &self,
        token: &Token,
        peer: IpAddr,
        now: &Stamp,
        point: FeedPoint,
    ) -> Result<Option<Verdict>> {
        let hash = self.hash(token, peer);
        let Some(grant) = self.state.lock().grants.get(&hash).cloned() else { return Ok(None) };
        let ends = match left_of(&grant, now) {
            Left::Endless => None,
            Left::For(span) => Some(BootTime::now().after(span)),
            Left::Over => return Err(Error::bare(Code::TokenExpired)),
        };
        if grant.fresh_millis != 0 && fresh_left(&grant, now).is_none() {
            return Ok(None);
        }
        let Some((subject, secret_id)) = subject_of(&grant) else { return Ok(None) };
        Ok(Some(Verdict {
            subject,
            secret_id,
            scope: grant.mount_path.parse()?,
            flags: grant.flags.unwrap_or_default(),
            point,
            ends,
            asked: BootTime::now(),
            // Looked at above.
            idle: None,
        }))
    }

    /// When the time of this secret is over, as far as is known here: for
    /// sessions that were live before a restart.
    #[must_use]
    pub fn end_of(&self, secret: SecretId, now: &Stamp) -> Option<BootTime> {
        let state = self.state.lock();
        let ends =
            state.grants.values().filter(|g| g.secret == secret.as_bytes()).filter_map(|grant| {
                match left_of(grant, now) {
                    Left::Endless => None,
                    Left::For(span) => Some(BootTime::now().after(span)),
                    Left::Over => Some(BootTime::now()),
                }
            });
        ends.min()
    }

    /// Every token and secret that is known.
    #[must_use]
    pub fn tokens(&self) -> Vec<(TokenId, SecretId)> {
        let state = self.state.lock();
        let mut tokens: Vec<_> = state
            .grants
            .values()
            .filter_map(|grant| subject_of(grant).map(|(subject, secret)| (subject.token, secret)))
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Forgets the grants that `which` names. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn forget(&self, which: impl Fn(Subject, SecretId) -> bool) -> Result<()> {
        let gone: Vec<[u8; 32]> = {
            let mut state = self.state.lock();
            let gone: Vec<_> = state
                .grants
                .iter()
                .filter(|(_, grant)| subject_of(grant).is_none_or(|(s, secret)| which(s, secret)))
                .map(|(hash, _)| *hash)
                .collect();
            for hash in &gone {
                state.grants.remove(hash);
            }
            gone
        };
        // In parts, so that no transaction grows without bound.
        for part in gone.chunks(1000) {
            self.write(&mut |txn| {
                for hash in part {
                    txn.delete(&[GRANT_PREFIX, hash].concat());
                }
            })?;
        }
        Ok(())
    }

    /// Notes for ever that a token is revoked; [`Grants::sync`] puts it on
    /// stable storage. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`; until the next start it is revoked all the same.
    pub fn note_revoked(&self, token: TokenId, revision: u64) -> Result<()> {
        self.state.lock().revoked.insert(token);
        let key = [REVOKED_PREFIX, token.as_bytes()].concat();
        self.write(&mut |txn| txn.put(&key, &revision.to_be_bytes())).map(|_| ())
    }

    /// Puts everything noted so far on stable storage. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn sync(&self) -> Result<()> {
        self.engine.sync(self.engine.head())
    }

    /// Was it ever noted as revoked?
    #[must_use]
    pub fn is_revoked(&self, token: TokenId) -> bool {
        self.state.lock().revoked.contains(&token)
    }

    /// Tokens that were noted as revoked, in order, at most so many.
    #[must_use]
    pub fn revoked(&self, limit: usize) -> Vec<TokenId> {
        let mut tokens: Vec<_> = self.state.lock().revoked.iter().copied().collect();
        tokens.sort_unstable();
        tokens.truncate(limit);
        tokens
    }

    fn hash(&self, token: &Token, peer: IpAddr) -> [u8; 32] {
        token_hash(&self.key, token, peer)
    }

    fn write(&self, body: &mut dyn FnMut(&mut dyn crate::engine::Txn)) -> Result<CommitVersion> {
        self.engine.transact(&mut |txn| {
            body(txn);
            Ok(())
        })
    }
}

/// The keyed hash of a token as used from one address: source limits of
/// tokens are checked by admin, for that address alone.
#[must_use]
pub fn token_hash(key: &hmac::Key, token: &Token, peer: IpAddr) -> [u8; 32] {
    let address = match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut context = hmac::Context::with_key(key);
    context.update(&address.octets());
    context.update(token.reveal().as_bytes());
    let tag = context.sign();
    let mut hash = [0; 32];
    hash.copy_from_slice(tag.as_ref());
    hash
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// How long admin has been away; for ever when the clock went backwards.
fn away(contact: &StoredContact, now: &Stamp) -> Duration {
    let before = Duration::from_millis(contact.away_millis);
    contact.at.until(now).map_or(Duration::MAX, |span| before.saturating_add(span))
}

enum Left {
    Endless,
    For(Duration),
    Over,
}

fn left_of(grant: &StoredGrant, now: &Stamp) -> Left {
    if grant.valid_millis == 0 {
        return Left::Endless;
    }
    let left = grant
        .at
        .until(now)
        .and_then(|gone| Duration::from_millis(grant.valid_millis).checked_sub(gone));
    match left {
        Some(left) if !left.is_zero() => Left::For(left),
        _ => Left::Over,
    }
}

/// What is left until a moment in milliseconds, at least 1; 0 = no end.
fn millis_left(end: Option<BootTime>) -> u64 {
    end.map_or(0, |at| millis(at.left()).max(1))
}

/// For how long admin's word on a token with an idle end is fresh; `None` =
/// not any more.
fn fresh_left(grant: &StoredGrant, now: &Stamp) -> Option<Duration> {
    let gone = grant.at.until(now)?;
    let left = Duration::from_millis(grant.fresh_millis).checked_sub(gone)?;
    (!left.is_zero()).then_some(left)
}

/// Is the end of a grant another than what is left of it now? Seconds apart
/// are not: they come from rounding and from the way of the answer.
fn moved(grant: &StoredGrant, valid_millis: u64, now: &Stamp) -> bool {
    const SAME: Duration = Duration::from_secs(1);
    let valid = Duration::from_millis(valid_millis);
    match left_of(grant, now) {
        Left::Endless => valid_millis != 0,
        Left::For(left) => valid_millis == 0 || left.abs_diff(valid) > SAME,
        Left::Over => true,
    }
}

fn subject_of(grant: &StoredGrant) -> Option<(Subject, SecretId)> {
    let id = |bytes: &[u8]| -> Option<[u8; 16]> { bytes.try_into().ok() };
    let subject = Subject {
        token: TokenId::from_bytes(id(&grant.token)?),
        volume: VolumeId::from_bytes(id(&grant.volume)?),
        account: AccountId::from_bytes(id(&grant.account)?),
    };
    Some((subject, SecretId::from_bytes(id(&grant.secret)?)))
}

#[cfg(test)]
mod tests;
