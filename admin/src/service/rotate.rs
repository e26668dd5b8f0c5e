//! Rotation: a token gets another secret, the earlier ones live on for the
//! overlap, and `finish` ends them before. At every moment at least one secret
//! is good: the new one is written before the old ones get an end.

use std::time::Duration;

use flexfs_auth::policy::Action;
use flexfs_auth::principal::Principal;
use flexfs_common::ids::SecretId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1::{self, FeedKind};
use jiff::{SignedDuration, Timestamp};

use super::input::{self, bad};
use super::mint::{self, Minted, check_hands_out, token_change};
use super::revoke::{Revoked, Settled, Whose, stores, volume_of};
use super::{Caller, Service};
use crate::model::{SecretRecord, SecretUse, TokenRecord, TokenState, Used};
use crate::store::tokens::Listed;
use crate::store::{Sql, claims, feed, secrets, tokens};

/// How often a token can rotate itself in this time; no more than the ended
/// secrets that are kept, by which it is counted.
const ROTATIONS_PER_PACE: usize = 16;
/// See [`ROTATIONS_PER_PACE`].
const PACE: SignedDuration = SignedDuration::from_secs(2);

/// A token and its secrets, the oldest first.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The token.
    pub shown: Listed,
    /// Each with the hosts that use it.
    pub secrets: Vec<(SecretRecord, Vec<SecretUse>)>,
    /// When this was so.
    pub now: Timestamp,
}

/// A step of a rotation that was done.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// How the token stands now.
    pub rotation: Rotation,
    /// What ended with it.
    pub ended: Revoked,
}

impl Service {
    /// Adds a secret to a token; the earlier ones end with the overlap, or now
    /// in an emergency. The same secret again changes nothing.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `ALREADY_ENDED`,
    /// `TOKEN_EXISTS` for a secret that the token had before,
    /// `ROTATION_FULL`, `ARGUMENT_INVALID`.
    pub async fn rotate_token(
        &self,
        caller: &Caller,
        request: v1::RotateTokenRequest,
    ) -> Result<Rotated> {
        let overlap = overlap(&request)?;
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted =
            self.wanted(caller, asked, &request.account_id, Some(Action::SelfRotate)).await?;
        let token = input::new_token(request.token.as_ref(), wanted.kind)?;
        // Before the slow step: is there anything to rotate at all?
        let found = self.target(self.store.reader().as_mut(), caller, &wanted).await?;
        if token.id() != found.id {
            return Err(bad("the new secret is not one for this token: the ids differ"));
        }
        let minted = self.derive(caller, token).await?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        if !wanted.is_own() {
            check_hands_out(caller, &token)?;
        }
        let now = mint::now();
        require_living(&token, now)?;
        let before = secrets::of_token(tx.sql(), token.id).await?;
        let repeated = self.repeated_secret(&minted, &before, now)?;
        let live: Vec<_> = live(&before, now)
            .into_iter()
            .filter(|secret| repeated.is_none_or(|same| same != secret.id))
            .collect();
        if repeated.is_none() {
            if wanted.is_own() {
                check_newest(caller, &live)?;
                check_pace(&before, now)?;
            }
            if overlap.is_some() && live.len() >= limits::SECRETS_PER_TOKEN {
                return Err(Code::RotationFull.into());
            }
            self.insert_secret(tx.sql(), &token, (&minted, &before), now).await?;
            claims::remove(tx.sql(), token.id).await?;
        }
        let volume = volume_of(tx.sql(), &token).await?;
        let millis = if overlap.is_none() { request.wait_millis } else { 0 };
        let whose = Whose::Tokens(vec![token.id]);
        let wait = self.prepare_wait(tx.sql(), whose, stores(&volume), millis).await?;
        // A repetition ends what an emergency still finds, and nothing else.
        let revision = if repeated.is_some() && (overlap.is_some() || live.is_empty()) {
            let head = feed::head(tx.sql()).await?;
            drop(tx);
            head.revision
        } else {
            for secret in &live {
                end(tx.sql(), secret, now, overlap).await?;
            }
            let change = token_change(FeedKind::TokenChanged, &token, volume.as_ref());
            let mut entry = caller.entry(Some(token.account_id), "token.rotate", token.id);
            entry.detail = match overlap {
                Some(overlap) => format!("overlap of {} s", overlap.as_secs()),
                None => "emergency".to_owned(),
            };
            tx.commit(entry, &[change]).await?
        };
        let settled = self.settle(wait, revision).await?;
        self.rotated(caller, &token, (revision, settled)).await
    }

    /// Writes the new secret after those before it, in the order of creation
    /// also when clocks of several admins differ.
    pub(super) async fn insert_secret(
        &self,
        sql: &mut dyn Sql,
        token: &TokenRecord,
        (minted, before): (&Minted, &[SecretRecord]),
        now: Timestamp,
    ) -> Result<()> {
        self.verify.peppers().require_current(sql).await?;
        let after = before
            .last()
            .and_then(|last| last.created_at.checked_add(SignedDuration::from_micros(1)).ok());
        let at = after.map_or(now, |after| after.max(now));
        let secret = SecretRecord::new(minted.token.last4(), minted.verifier.clone(), at);
        secrets::insert(sql, token.id, &secret).await
    }

    /// Is this secret there already, and live?
    fn repeated_secret(
        &self,
        minted: &Minted,
        before: &[SecretRecord],
        now: Timestamp,
    ) -> Result<Option<SecretId>> {
        let same = self.verify.matching(&minted.token, before);
        match same {
            None => Ok(None),
            Some(secret) if secret.live(now) => Ok(Some(secret.id)),
            Some(_) => Err(Error::new(
                Code::TokenExists,
                "the token had this secret before, and it has ended: generate another one",
            )),
        }
    }

    async fn rotated(
        &self,
        caller: &Caller,
        token: &TokenRecord,
        (revision, settled): (u64, Settled),
    ) -> Result<Rotated> {
        let revision = self.told(caller, revision).await?;
        let rotation = rotation(self.store.reader().as_mut(), caller, token).await?;
        Ok(Rotated { rotation, ended: Revoked { id: token.id.to_string(), revision, settled } })
    }

    /// The secrets of a token, and who uses each.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_rotation(
        &self,
        caller: &Caller,
        request: v1::GetTokenRequest,
    ) -> Result<Rotation> {
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted =
            self.wanted(caller, asked, &request.account_id, Some(Action::SelfRotate)).await?;
        // What this process has not yet written is told as well.
        self.verify.flush_used().await?;
        let mut reader = self.store.reader();
        let token = self.target(reader.as_mut(), caller, &wanted).await?;
        rotation(reader.as_mut(), caller, &token).await
    }

    /// Ends all secrets of a token but the newest.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `ALREADY_ENDED`,
    /// `ROTATION_IN_USE` while a mount, or a use of the last minute, needs an
    /// old one, unless forced.
    pub async fn finish_rotation(
        &self,
        caller: &Caller,
        request: v1::FinishRotationRequest,
    ) -> Result<Rotated> {
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted =
            self.wanted(caller, asked, &request.account_id, Some(Action::SelfRotate)).await?;
        self.verify.flush_used().await?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        let now = mint::now();
        if token.state(now) == TokenState::Revoked {
            return Err(Code::AlreadyEnded.into());
        }
        let all = secrets::of_token(tx.sql(), token.id).await?;
        let live = live(&all, now);
        let old = live.split_last().map_or(&[][..], |(_, old)| old);
        if wanted.is_own() && !old.is_empty() {
            check_newest(caller, &live)?;
        }
        if !request.force {
            check_unused(tx.sql(), old, now).await.map_err(|error| for_owners(caller, error))?;
        }
        let volume = volume_of(tx.sql(), &token).await?;
        let whose = Whose::Tokens(vec![token.id]);
        let wait = self.prepare_wait(tx.sql(), whose, stores(&volume), request.wait_millis).await?;
        let revision = if old.is_empty() {
            let head = feed::head(tx.sql()).await?;
            drop(tx);
            head.revision
        } else {
            for secret in old {
                secrets::retire(tx.sql(), secret.id, now).await?;
            }
            let change = token_change(FeedKind::TokenChanged, &token, volume.as_ref());
            let mut entry = caller.entry(Some(token.account_id), "rotation.finish", token.id);
            entry.detail = if request.force { "forced".to_owned() } else { String::new() };
            tx.commit(entry, &[change]).await?
        };
        let settled = self.settle(wait, revision).await?;
        self.rotated(caller, &token, (revision, settled)).await
    }
}

/// `None` = an emergency: no overlap at all.
fn overlap(request: &v1::RotateTokenRequest) -> Result<Option<Duration>> {
    if request.emergency {
        return match request.overlap_seconds {
            0 => Ok(None),
            _ => Err(bad("an emergency has no overlap")),
        };
    }
    let overlap = match request.overlap_seconds {
        0 => limits::ROTATION_OVERLAP,
        seconds => Duration::from_secs(seconds),
    };
    if overlap > limits::ROTATION_OVERLAP_MAX {
        let days = limits::ROTATION_OVERLAP_MAX.as_secs() / 86_400;
        return Err(bad(format!("an overlap is at most {days} days")));
    }
    Ok(Some(overlap))
}

fn require_living(token: &TokenRecord, now: Timestamp) -> Result<()> {
    if token.lives(now) { Ok(()) } else { Err(Code::AlreadyEnded.into()) }
}

/// A token rotates itself with its newest secret alone: whoever holds one that
/// is about to end must neither prolong it nor end the good one.
fn check_newest(caller: &Caller, live: &[SecretRecord]) -> Result<()> {
    if live.last().is_some_and(|secret| Some(secret.id) == caller.verified.secret_id) {
        return Ok(());
    }
    Err(Error::new(
        Code::TokenRotated,
        "this secret was replaced by a newer one, which alone can rotate the token",
    ))
}

/// Each rotation makes all that know the token look again.
fn check_pace(before: &[SecretRecord], now: Timestamp) -> Result<()> {
    let since = now.checked_sub(PACE).unwrap_or(Timestamp::MIN);
    if before.iter().filter(|secret| secret.created_at > since).count() < ROTATIONS_PER_PACE {
        return Ok(());
    }
    Err(Error::new(Code::RateLimited, "the token was rotated too often in the last seconds"))
}

/// Mounts and metadata servers are not told who else holds their token.
fn for_owners(caller: &Caller, error: Error) -> Error {
    match caller.principal {
        Principal::Account { .. } => error,
        Principal::Volume { .. } | Principal::Meta { .. } | Principal::Claim { .. } => {
            error.code().into()
        }
    }
}

fn live(secrets: &[SecretRecord], now: Timestamp) -> Vec<SecretRecord> {
    secrets.iter().filter(|secret| secret.live(now)).cloned().collect()
}

async fn end(
    sql: &mut dyn Sql,
    secret: &SecretRecord,
    now: Timestamp,
    overlap: Option<Duration>,
) -> Result<()> {
    let Some(overlap) = overlap else { return secrets::retire(sql, secret.id, now).await };
    let end = now.checked_add(overlap).map_err(|e| bad("the overlap is too long").caused_by(e))?;
    secrets::end_by(sql, secret.id, end).await
}

/// Who still needs one of these secrets? Names of hosts are of this token's
/// own users, which its owner may know.
async fn check_unused(sql: &mut dyn Sql, old: &[SecretRecord], now: Timestamp) -> Result<()> {
    let since = now.checked_sub(limits::ROTATION_USE).unwrap_or(Timestamp::MIN);
    let mut users = Vec::new();
    for secret in old {
        for host in secrets::hosts(sql, secret.id).await? {
            if host.sessions > 0 || host.last_used_at > since {
                users.push(user(&host, now));
            }
        }
    }
    users.sort();
    users.dedup();
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::RotationInUse,
        format!("old secrets of the token are still used by: {}", users.join(", ")),
    ))
}

fn user(host: &SecretUse, now: Timestamp) -> String {
    let name = match (host.host.as_str(), host.address.as_str()) {
        ("", "") => "an unknown host".to_owned(),
        ("", address) => address.to_owned(),
        (name, "") => name.to_owned(),
        (name, address) => format!("{name} ({address})"),
    };
    match host.sessions {
        0 => format!("{name}, {} s ago", now.duration_since(host.last_used_at).as_secs().max(0)),
        1 => format!("{name}, 1 mount"),
        mounts => format!("{name}, {mounts} mounts"),
    }
}

async fn rotation(sql: &mut dyn Sql, caller: &Caller, token: &TokenRecord) -> Result<Rotation> {
    let now = mint::now();
    let mut shown = tokens::listed(sql, token.id, now).await?.ok_or(Code::TokenNotFound)?;
    let told = matches!(caller.principal, Principal::Account { .. });
    if !told {
        shown.token.notes.clear();
        shown.token.used = Used::default();
    }
    let mut out = Vec::new();
    for secret in secrets::of_token(sql, token.id).await? {
        let hosts = if told { secrets::hosts(sql, secret.id).await? } else { Vec::new() };
        out.push((secret, hosts));
    }
    Ok(Rotation { shown, secrets: out, now })
}
