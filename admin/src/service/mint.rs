//! What creations have in common: new tokens, and the repetition of a
//! creation whose answer was lost.

use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::ids::SecretId;
use flexfs_common::{Code, Result, clock};
use flexfs_proto::v1::FeedKind;
use jiff::Timestamp;

use super::{Caller, Service};
use crate::model::{Grant, TokenRecord, Volume};
use crate::store::changes::Change;
use crate::store::{Sql, tokens};

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
    pub(super) async fn derive(&self, token: Token) -> Result<Minted> {
        let verifier = self.verify.derive(&token).await?;
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
        let secrets = tokens::secrets(sql, wanted.id).await?;
        let comparable =
            TokenRecord { created_at: wanted.created_at, last_used_at: None, ..existing.clone() };
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
        tokens::insert(sql, record).await?;
        tokens::insert_secret(sql, record.id, SecretId::random(), verifier, record.created_at).await
    }
}

/// The record of a new token.
pub(super) fn record(
    caller: &Caller,
    account: flexfs_common::ids::AccountId,
    token: &Token,
    grant: Grant,
) -> TokenRecord {
    TokenRecord {
        id: token.id(),
        account_id: account,
        grant,
        cidrs: Vec::new(),
        notes: String::new(),
        last4: token.last4().to_owned(),
        created_at: now(),
        expires_at: None,
        not_before: None,
        revoked_at: None,
        disabled_at: None,
        last_used_at: None,
        deleted_at: None,
        created_by: Some(caller.token_id()),
    }
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
