//! What creations have in common: new tokens, and the repetition of a
//! creation whose answer was lost.

use flexfs_auth::policy::authorize_mint;
use flexfs_auth::principal::Role;
use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Result, clock};
use flexfs_proto::v1::FeedKind;
use jiff::Timestamp;

use super::input::bad;
use super::{Caller, Service, hidden};
use crate::model::{Grant, SecretRecord, TokenRecord, Used, Volume};
use crate::store::changes::Change;
use crate::store::tokens::Listed;
use crate::store::{Sql, secrets, tokens};

/// Now, with the precision that is kept.
pub(super) fn now() -> Timestamp {
    let now = clock::wall_now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// A token that is about to be made, with its verifier derived already: that
/// takes tens of milliseconds, which no transaction should wait for.
pub(super) struct Minted {
    pub(super) token: Token,
    pub(super) verifier: Verifier,
}

/// What becomes of a creation.
pub(super) enum Outcome<T> {
    /// Nothing of the kind is there.
    New,
    /// The very same was made before by the same caller: a repetition.
    Repeated(T),
}

impl Service {
    pub(super) async fn derive(&self, caller: &Caller, token: Token) -> Result<Minted> {
        let verifier = self.verify.derive(Some(caller.account_id()), &token).await?;
        Ok(Minted { token, verifier })
    }

    /// Is this creation of a token a repetition? The same id, secret, maker
    /// and contents, and still live; anything else of this id is refused.
    pub(super) async fn repeated(
        &self,
        sql: &mut dyn Sql,
        token: &Token,
        wanted: &TokenRecord,
    ) -> Result<Outcome<TokenRecord>> {
        let Some(existing) = tokens::by_id(sql, wanted.id).await? else {
            return Ok(Outcome::New);
        };
        let secrets = secrets::of_token(sql, wanted.id).await?;
        let comparable = TokenRecord {
            created_at: wanted.created_at,
            rotated_at: wanted.rotated_at,
            used: Used::default(),
            ..existing.clone()
        };
        if comparable == *wanted && self.verify.matches(token, &secrets) {
            return Ok(Outcome::Repeated(existing));
        }
        Err(Code::TokenExists.into())
    }

    pub(super) async fn insert_token(
        &self,
        sql: &mut dyn Sql,
        record: &TokenRecord,
        verifier: &Verifier,
    ) -> Result<()> {
        self.verify.peppers().require_current(sql).await?;
        tokens::insert(sql, record).await?;
        let secret = SecretRecord::new(&record.last4, verifier.clone(), record.created_at);
        secrets::insert(sql, record.id, &secret).await
    }

    /// A token as callers see it.
    pub(super) async fn shown(&self, id: TokenId, now: Timestamp) -> Result<Listed> {
        let shown = tokens::listed(self.store.reader().as_mut(), id, now).await?;
        shown.ok_or_else(|| Code::TokenNotFound.into())
    }
}

/// The record of a new token.
pub(super) fn record(
    caller: &Caller,
    account: flexfs_common::ids::AccountId,
    token: &Token,
    grant: Grant,
) -> TokenRecord {
    TokenRecord::new(token, account, grant, now(), Some(caller.token_id()))
}

/// Nobody hands out more than he has. An account token is made, rotated or
/// changed only to what the caller's own could make: role, volumes, source
/// addresses, and no later end. Volume tokens and meta tokens are other
/// things than the caller's own: who may make them follows from the role, and
/// they may outlive him (docs/adr/0014).
pub(super) fn check_hands_out(caller: &Caller, token: &TokenRecord) -> Result<()> {
    let Grant::Account { role, volumes } = &token.grant else { return Ok(()) };
    authorize_mint(&caller.principal, *role, token.account_id, volumes)
        .map_err(|e| hidden(e, Code::AccountNotFound))?;
    if *role == Role::System && (token.account_id != caller.account_id() || !volumes.is_empty()) {
        return Err(bad("the role system is for the account `system`, without limits"));
    }
    let own = &caller.verified.standing.token;
    let within = own.cidrs.is_empty()
        || (!token.cidrs.is_empty()
            && token.cidrs.iter().all(|c| own.cidrs.iter().any(|o| o.covers(c))));
    if !within {
        return Err(Error::new(
            Code::RoleForbidden,
            "this token is limited to source addresses and makes only tokens limited to these",
        ));
    }
    let idle = token.idle_seconds;
    if own.idle_seconds > 0 && !(1..=own.idle_seconds).contains(&idle) {
        return Err(Error::new(
            Code::RoleForbidden,
            "this token ends when unused and makes only account tokens that end no later",
        ));
    }
    let in_time = own.expires_at.is_none_or(|end| token.expires_at.is_some_and(|at| at <= end));
    if !in_time {
        return Err(Error::new(
            Code::RoleForbidden,
            "this token expires and makes only account tokens that expire no later",
        ));
    }
    Ok(())
}

/// The feed row of a token.
pub(super) fn token_change(kind: FeedKind, token: &TokenRecord, volume: Option<&Volume>) -> Change {
    Change {
        account: Some(token.account_id),
        volume: token.volume_id(),
        token: Some(token.id),
        meta_store: match &token.grant {
            Grant::Meta { meta_store } => Some(meta_store.clone()),
            Grant::Account { .. } | Grant::Volume { .. } => {
                volume.map(|volume| volume.meta_store.clone())
            }
        },
        ..Change::of(kind)
    }
}
