//! Claim codes: a machine trades one, once, for a token whose secret it made
//! itself, so that no operator ever sees it.

use flexfs_auth::policy::Resource;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1::{self, FeedKind};
use jiff::Timestamp;

use super::input::{self, bad};
use super::mint::{self, token_change};
use super::revoke::volume_of;
use super::tokens::ShownToken;
use super::{Caller, Service};
use crate::model::Claim;
use crate::store::{claims, secrets, tokens};
use crate::verify::Shown;

/// How a new token comes to its first secret.
pub(super) enum First {
    /// The caller has it.
    Token(Token),
    /// The machine that has this code will make it.
    Claim(Token, Timestamp),
}

impl First {
    /// From a request: a token or a claim code, not both.
    pub(super) fn parse(
        (token, kind): (Option<&v1::SecretText>, TokenKind),
        claim: Option<&v1::SecretText>,
        claim_expires_at: Option<&v1::Timestamp>,
        now: Timestamp,
    ) -> Result<First> {
        let Some(claim) = claim else { return Ok(First::Token(input::new_token(token, kind)?)) };
        if token.is_some() {
            return Err(bad("a token comes with its secret or with a claim code, not with both"));
        }
        let code = Token::parse_kind(&claim.value, TokenKind::Claim)?;
        let end = input::time(claim_expires_at)?
            .ok_or_else(|| bad("a claim code has an end: claim_expires_at"))?;
        let longest = now.checked_add(limits::CLAIM_MAX).unwrap_or(Timestamp::MAX);
        if end <= now || end > longest {
            let days = limits::CLAIM_MAX.as_secs() / 86_400;
            return Err(bad(format!("a claim code lives at most {days} days")));
        }
        Ok(First::Claim(code, end))
    }

    /// The text whose id the token gets.
    pub(super) fn text(&self) -> &Token {
        match self {
            First::Token(token) | First::Claim(token, _) => token,
        }
    }
}

impl Service {
    /// Gives the token of a claim code its first secret. The same again is
    /// answered again; another secret is refused and recorded.
    ///
    /// # Errors
    /// `CLAIM_USED`, `TOKEN_WRONG_KIND` when the caller has no use for this
    /// kind, `ALREADY_ENDED`, `ARGUMENT_INVALID`.
    pub async fn redeem_claim(
        &self,
        caller: &Caller,
        request: v1::RedeemClaimRequest,
    ) -> Result<ShownToken> {
        caller.permit(Resource::Installation)?;
        let kind = TokenKind::from_name(&request.kind)?;
        let id = caller.token_id();
        if caller.verified.standing.token.grant.kind() != kind {
            return Err(Error::new(
                Code::TokenWrongKind,
                format!("the claim code is not for {} token", kind.with_article()),
            ));
        }
        let token = input::new_token(request.token.as_ref(), kind)?;
        if token.id() != id {
            return Err(bad("the new secret is not one for this claim code: the ids differ"));
        }
        let minted = self.derive(caller, token).await?;
        let mut tx = self.begin_for(caller).await?;
        // Read again: somebody else may have been faster, or have revoked it.
        let now = mint::now();
        let record = tokens::by_id(tx.sql(), id).await?.ok_or(Code::TokenNotFound)?;
        let claim = claims::of_token(tx.sql(), id).await?.ok_or(Code::TokenUnknown)?;
        let before = secrets::of_token(tx.sql(), id).await?;
        if let Some(secret) = self.verify.matching(&minted.token, &before) {
            drop(tx);
            return if secret.live(now) {
                self.shown(id, now).await
            } else {
                Err(Code::ClaimUsed.into())
            };
        }
        check_open(&claim, now).inspect_err(|error| {
            if error.code() == Code::ClaimUsed {
                tracing::warn!(token = %id, "a claim code was shown again after it was redeemed");
            }
            let shown = Shown::Proven(id, record.account_id);
            self.verify.note_refusal(caller.source, shown, error.code());
        })?;
        if !record.lives(now) {
            return Err(Code::AlreadyEnded.into());
        }
        self.insert_secret(tx.sql(), &record, (&minted, &before), now).await?;
        let from = caller.source.map(|ip| ip.to_string()).unwrap_or_default();
        claims::redeem(tx.sql(), id, now, &from).await?;
        let volume = volume_of(tx.sql(), &record).await?;
        let change = token_change(FeedKind::TokenChanged, &record, volume.as_ref());
        let entry = caller.entry(Some(record.account_id), "claim.redeem", id);
        tx.commit(entry, &[change]).await?;
        self.shown(id, now).await
    }
}

fn check_open(claim: &Claim, now: Timestamp) -> Result<()> {
    if claim.redeemed_at.is_some() {
        return Err(Code::ClaimUsed.into());
    }
    if claim.expires_at <= now {
        return Err(Error::new(Code::TokenExpired, "the claim code has expired"));
    }
    Ok(())
}
