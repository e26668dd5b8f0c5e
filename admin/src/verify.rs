//! Is this token good, now, from there? The one place where secrets are
//! compared.
//!
//! Order, each step cheaper than the next: success cache → row by id → HMAC
//! (a dummy one when the id is unknown, so that the time is the same) →
//! argon2id, once per token and process, on a bounded pool → state, read again
//! after the slow step so that a revocation racing it wins. A wrong secret
//! never reaches argon2, and the rate limit is asked only about failures: it
//! never stands in the way of a good token. Of a source beyond that limit,
//! most bad tokens are told from memory (`flood`). (Secrets under a lost pepper
//! have no tag to compare: see `lost`.) What is behind the present scheme is
//! renewed on the way (`renewals`).
//!
//! Caching: what was read of a token is used again while nothing newer is
//! known of it, its account and its volume (see `store::changes::Applied`).
//! With Postgres, where other replicas write, that holds while this one has a
//! lease on the feed's head (`store::lease`); else the row is read again at
//! each use and only the argon2 step is saved.

use std::net::IpAddr;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::{Argon2Settings, Verifier};
use flexfs_common::ids::{AccountId, SecretId, TokenId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Kind, Result, clock};
use jiff::Timestamp;

use crate::model::{AccountState, SecretRecord, TokenState, VolumeState};
use crate::peppers::Peppers;
use crate::store::peppers::Whose;
use crate::store::tokens::{self, Standing};
use crate::store::{Sql, Store};

mod cache;
mod claims;
mod failures;
mod flood;
mod hashing;
mod lost;
mod places;
mod refused;
mod renewals;
mod used;

pub use hashing::Hashing;

use cache::{Cached, Caches};
use failures::FailureLimiter;
use flood::{Compared, RowsOfFailures};
use lost::LostTurns;
use refused::Refused;
pub use refused::Shown;
use renewals::Renewals;
use used::UsedLately;

pub(crate) use used::host_name;

/// A token that was found good, and the secret that matched.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The token with its account's and volume's state.
    pub standing: Arc<Standing>,
    /// The one of its secrets that matched; `None` = it was proven by its
    /// claim code, which allows nothing but to be redeemed.
    pub secret_id: Option<SecretId>,
}

/// Who shows a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Showing<'a> {
    /// From which address; `None` = not known.
    pub from: Option<IpAddr>,
    /// What the host calls itself; empty = it did not say.
    pub host: &'a str,
    /// Only tokens of this meta store are known to whom it is shown: for
    /// others no step is taken that an unknown one does not have.
    pub store: Option<&'a StoreId>,
}

/// Why a token is not accepted at an instant, from an address; `None` = it is.
/// Asked only after its secret matched: the answers tell about the token.
#[must_use]
pub fn refusal(
    standing: &Standing,
    secret_id: Option<SecretId>,
    now: Timestamp,
    from: Option<IpAddr>,
) -> Option<Code> {
    let token = &standing.token;
    if token.deleted_at.is_some() || token.revoked_at.is_some() {
        return Some(Code::TokenRevoked);
    }
    // Whoever holds an ended secret learns no more of the token than that.
    let live = |id| standing.secrets.iter().any(|secret| secret.id == id && secret.live(now));
    if !secret_id.is_none_or(live) {
        return Some(Code::TokenRotated);
    }
    match token.state(now) {
        TokenState::Revoked => return Some(Code::TokenRevoked),
        TokenState::Expired => return Some(Code::TokenExpired),
        TokenState::Disabled => return Some(Code::TokenDisabled),
        TokenState::NotYetValid => return Some(Code::TokenNotYetValid),
        TokenState::Active => {}
    }
    match standing.account_state {
        AccountState::Active => {}
        AccountState::Suspended | AccountState::Deleted => return Some(Code::AccountSuspended),
    }
    match standing.volume_state {
        Some(VolumeState::Retired) => return Some(Code::VolumeRetired),
        Some(VolumeState::Active) | None => {}
    }
    let allowed = token.cidrs.is_empty()
        || from.is_some_and(|address| token.cidrs.iter().any(|cidr| cidr.contains(address)));
    if allowed { None } else { Some(Code::TokenSourceDenied) }
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verify {
    store: Store,
    peppers: Peppers,
    hashing: Arc<Hashing>,
    lost: LostTurns,
    renewals: Arc<Renewals>,
    caches: Caches,
    failures: Arc<FailureLimiter>,
    rows: RowsOfFailures,
    used: UsedLately,
    refused: Refused,
}

impl Verify {
    /// # Errors
    /// `INTERNAL` when there is no randomness.
    pub fn new(
        store: Store,
        peppers: impl Into<Peppers>,
        settings: Argon2Settings,
    ) -> Result<Verify> {
        Ok(Verify {
            store,
            peppers: peppers.into(),
            hashing: Arc::new(Hashing::new(settings)),
            lost: LostTurns::new(),
            renewals: Arc::default(),
            caches: Caches::new()?,
            failures: Arc::new(FailureLimiter::new()),
            rows: RowsOfFailures::new(),
            used: UsedLately::default(),
            refused: Refused::default(),
        })
    }

    /// Derives what is stored for a new secret that somebody of this account
    /// (`None` = this server itself) asked for.
    ///
    /// # Errors
    /// `RATE_LIMITED` when too many wait for the pool, `INTERNAL`.
    pub async fn derive(&self, account: Option<AccountId>, token: &Token) -> Result<Verifier> {
        self.hashing.derive(account, token, self.peppers.current()).await
    }

    /// What tags are compared with.
    #[must_use]
    pub fn peppers(&self) -> &Peppers {
        &self.peppers
    }

    /// Is this the secret behind these verifiers? For repeated creations.
    #[must_use]
    pub fn matches(&self, token: &Token, secrets: &[SecretRecord]) -> bool {
        self.matching(token, secrets).is_some()
    }

    /// Is this the secret behind this very verifier?
    #[must_use]
    pub fn is_behind(&self, token: &Token, verifier: &Verifier) -> bool {
        self.peppers.tag_matches(token, verifier)
    }

    /// The one of these verifiers that this secret is behind, live or not.
    pub fn matching<'s>(
        &self,
        token: &Token,
        secrets: &'s [SecretRecord],
    ) -> Option<&'s SecretRecord> {
        secrets.iter().find(|secret| self.peppers.tag_matches(token, &secret.verifier))
    }

    /// Verifies a token used from an address (`None` = not known).
    ///
    /// # Errors
    /// `TOKEN_UNKNOWN` for an unknown id and a wrong secret alike; the codes
    /// of [`refusal`]; `RATE_LIMITED` for a failure from a source that had too
    /// many, and when too many cold tokens wait; `DATABASE_FAILED`.
    pub async fn verify(&self, token: &Token, from: Option<IpAddr>) -> Result<Verified> {
        self.verify_shown(token, &Showing { from, ..Showing::default() }).await
    }

    /// Like [`Verify::verify`], with more known of who shows the token.
    ///
    /// # Errors
    /// As [`Verify::verify`].
    pub async fn verify_shown(&self, token: &Token, showing: &Showing<'_>) -> Result<Verified> {
        let asked = tokio::time::Instant::now();
        let outcome = self.verify_in(token, showing).await;
        let verified = match outcome {
            Ok(verified) => verified,
            Err(error) => {
                self.note_refusal(showing.from, Shown::Unproven(token.id()), error.code());
                flood::pause(asked, error.code()).await;
                return Err(error);
            }
        };
        self.checked(verified, showing).await
    }

    /// Takes note of a refusal for the audit log, unless it is our own fault.
    pub fn note_refusal(&self, from: Option<IpAddr>, shown: Shown, code: Code) {
        if matches!(code.kind(), Kind::Unauthenticated | Kind::Denied | Kind::Limited) {
            self.refused.note(from, shown, code);
        }
    }

    /// Writes the refusals counted so far.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; the counts are lost.
    pub async fn flush_refused(&self) -> Result<()> {
        self.refused.flush(&self.store).await
    }

    /// Is it a secret that there is, whatever has become of its token?
    async fn verify_in(&self, token: &Token, showing: &Showing<'_>) -> Result<Verified> {
        let (from, store) = (showing.from, showing.store);
        let key = self.caches.key(token);
        if let Some(verified) = self.cached(token, &key).await? {
            return self.placed(verified, from, store);
        }
        if self.caches.failed_lately(&key, token, self.store.applied()) {
            return Err(self.failed(from));
        }
        if let Some(code) = self.memory_refuses(token, showing) {
            return Err(self.counted(code, from));
        }
        let _look = self.failures.look(from);
        // One at a time per token; the others find the first one's result.
        let flight = self.caches.flight(&key);
        let _turn = flight.wait().await;
        if let Some(verified) = self.cached(token, &key).await? {
            return self.placed(verified, from, store);
        }
        let revision = self.store.applied().latest();
        let verified = match self.cold(token, showing).await {
            Ok(verified) => verified,
            Err(error) if error.code() == Code::TokenUnknown => {
                if store.is_none() {
                    // For one meta store only it says nothing about others.
                    let applied = self.store.applied();
                    self.caches.remember_failure(key, token, applied, revision);
                }
                return Err(self.failed(from));
            }
            Err(error) => return Err(error),
        };
        self.placed(verified, from, store)
    }

    fn placed(
        &self,
        verified: Verified,
        from: Option<IpAddr>,
        store: Option<&StoreId>,
    ) -> Result<Verified> {
        if is_placed(&verified.standing, store) { Ok(verified) } else { Err(self.failed(from)) }
    }

    /// A refusal from memory, counted unless the flood already is.
    fn counted(&self, code: Code, from: Option<IpAddr>) -> Error {
        if code == Code::TokenUnknown { self.failed(from) } else { code.into() }
    }

    /// A failure: told as such, or that there are too many.
    fn failed(&self, from: Option<IpAddr>) -> Error {
        if self.failures.admit(from) { Code::TokenUnknown.into() } else { Code::RateLimited.into() }
    }

    async fn checked(&self, verified: Verified, showing: &Showing<'_>) -> Result<Verified> {
        let now = clock::wall_now();
        let judge = |verified: &Verified| {
            refusal(&verified.standing, verified.secret_id, now, showing.from)
        };
        let mut verified = verified;
        let mut refused = judge(&verified);
        if refused == Some(Code::TokenExpired) && verified.standing.token.idle_seconds > 0 {
            // Uses do not reach what was cached.
            let id = verified.standing.token.id;
            let standing = self.standing(self.store.reader().as_mut(), id).await?;
            let standing = standing.ok_or(Code::TokenUnknown)?;
            verified = Verified { standing: Arc::new(standing), ..verified };
            refused = judge(&verified);
        }
        if let Some(code) = refused {
            let token = &verified.standing.token;
            self.note_refusal(showing.from, Shown::Proven(token.id, token.account_id), code);
            return Err(code.into());
        }
        self.used.note(&verified, showing, now);
        Ok(verified)
    }

    /// A token with its account's and volume's state and all that is known of
    /// its uses, also what is not yet written.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn standing(&self, sql: &mut dyn Sql, id: TokenId) -> Result<Option<Standing>> {
        let Some(mut standing) = tokens::standing(sql, id).await? else { return Ok(None) };
        let used = &mut standing.token.used;
        used.last_at = used.last_at.max(self.used.last(id));
        Ok(Some(standing))
    }

    async fn cached(&self, token: &Token, key: &cache::Key) -> Result<Option<Verified>> {
        let Some(cached) = self.caches.get(key) else { return Ok(None) };
        if self.store.is_current() && !cached.is_stale(self.store.applied()) {
            return Ok(Some(cached.verified));
        }
        // The secret was right; what has become of the token?
        let revision = self.store.applied().latest();
        let Some(standing) = tokens::standing(self.store.reader().as_mut(), token.id()).await?
        else {
            return Ok(None);
        };
        let secret_id = cached.verified.secret_id;
        if !standing.secrets.iter().any(|secret| Some(secret.id) == secret_id) {
            // Purged: no longer known.
            self.caches.forget(key);
            return Ok(None);
        }
        let verified = Verified { standing: Arc::new(standing), secret_id };
        self.caches.put(*key, Cached { verified: verified.clone(), revision });
        Ok(Some(verified))
    }

    async fn cold(&self, token: &Token, showing: &Showing<'_>) -> Result<Verified> {
        let turn = self.reading_turn(token, showing).await?;
        let revision = self.store.applied().latest();
        let read = tokens::standing(self.store.reader().as_mut(), token.id()).await?;
        let standing = read.as_ref().filter(|standing| is_placed(standing, showing.store));
        let secrets = standing.map_or(&[][..], |standing| &standing.secrets);
        let matching = self.matching(token, secrets);
        if matching.is_none() {
            let compared = || read.as_ref().map(|read| Compared::with(read, revision));
            self.keep_row(token, showing.from, compared);
        }
        drop(turn);
        if secrets.is_empty() {
            // The same work as for a known id.
            let dummy = Verifier {
                tag: [0; 32],
                pepper_id: self.peppers.current().id().to_owned(),
                phc: String::new(),
            };
            let _ = self.peppers.tag_matches(token, &dummy);
            return Err(Code::TokenUnknown.into());
        }
        let account = standing.map(|standing| standing.token.account_id);
        let account = account.ok_or(Code::TokenUnknown)?;
        let secret = match matching {
            Some(secret) => {
                if !self.hashing.matches(account, token, &secret.verifier).await? {
                    // Tag and string are of one secret: one of them was altered.
                    tracing::error!(token = %token.id(), "tag and argon2id string of a secret disagree");
                    return Err(Code::TokenUnknown.into());
                }
                secret
            }
            None => match self.matching_lost(account, token, secrets, showing.from).await? {
                Some(secret) => secret,
                None => return Err(Code::TokenUnknown.into()),
            },
        };
        let secret_id = secret.id;
        // Read again: what happened meanwhile counts.
        let revision = self.store.applied().latest();
        let standing = tokens::standing(self.store.reader().as_mut(), token.id())
            .await?
            .ok_or(Code::TokenUnknown)?;
        let verified = Verified { standing: Arc::new(standing), secret_id: Some(secret_id) };
        self.caches.put(self.caches.key(token), Cached { verified: verified.clone(), revision });
        self.renew(account, token, Whose::Secret(secret_id), &secret.verifier);
        Ok(verified)
    }

    /// Looks again at a token that a long call still lives from.
    ///
    /// # Errors
    /// The codes of [`refusal`], `DATABASE_FAILED`.
    pub async fn still_good(&self, verified: &Verified, from: Option<IpAddr>) -> Result<()> {
        let id = verified.standing.token.id;
        let standing =
            self.standing(self.store.reader().as_mut(), id).await?.ok_or(Code::TokenRevoked)?;
        match refusal(&standing, verified.secret_id, clock::wall_now(), from) {
            Some(code) => Err(code.into()),
            None => Ok(()),
        }
    }

    /// Writes the uses gathered so far.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; they are written next time.
    pub async fn flush_used(&self) -> Result<()> {
        self.used.flush(&self.store).await
    }

    /// Like [`Verify::flush_used`], when a rotation waits to hear of uses.
    ///
    /// # Errors
    /// As [`Verify::flush_used`].
    pub async fn flush_urgent(&self) -> Result<()> {
        if self.used.is_urgent() { self.used.flush(&self.store).await } else { Ok(()) }
    }

    /// How often [`Verify::flush_refused`] should run.
    pub const REFUSED_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
    /// How often [`Verify::flush_used`] should run.
    pub const FLUSH_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
}

/// What tests look at.
#[cfg(test)]
impl Verify {
    pub(crate) fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// The next failure is told from the database again.
    pub(crate) fn forget_failures(&self) {
        self.caches.forget_failures();
        self.failures.forget();
    }

    /// The next use is cold again.
    pub(crate) fn forget_successes(&self) {
        self.caches.forget_successes();
    }

    /// Failures of this source are beyond its rate, for longer than any test.
    pub(crate) fn exhaust(&self, from: Option<IpAddr>) {
        self.failures.exhaust(from);
    }

    /// Entries: successes, failures, tokens being verified, sources of
    /// failures, refusals not yet written, rows of failures.
    pub(crate) fn kept(&self) -> [usize; 6] {
        let [successes, failures, flights] = self.caches.kept();
        let (sources, rows) = (self.failures.kept(), self.rows.kept());
        [successes, failures, flights, sources, self.refused.kept(), rows]
    }
}

/// Does it belong to this meta store, if one is demanded?
fn is_placed(standing: &Standing, store: Option<&StoreId>) -> bool {
    store.is_none() || standing.meta_store.as_ref() == store
}

/// Sources are counted by address; an IPv6 host has a whole /64.
fn source_key(from: Option<IpAddr>) -> u128 {
    from.map_or(0, flexfs_common::turns::source_key)
}
