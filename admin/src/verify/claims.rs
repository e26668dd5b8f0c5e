//! Claim codes: verified like tokens, but against a row of their own, never
//! from a cache, and good for one method only.

use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::Verifier;
use flexfs_common::{Code, Result, clock};

use super::flood::{self, Compared};
use super::{Showing, Shown, Verified, Verify, refusal};
use crate::peppers::Have;
use crate::store::claims;
use crate::store::peppers::Whose;

impl Verify {
    /// Verifies a claim code. One that was redeemed passes: whether this is a
    /// repetition only the redemption can tell.
    ///
    /// # Errors
    /// `TOKEN_UNKNOWN` for an unknown id and a wrong secret alike,
    /// `TOKEN_EXPIRED` when its time or that of its token is over, the codes
    /// of [`refusal`], `RATE_LIMITED`, `DATABASE_FAILED`.
    pub async fn verify_claim(&self, code: &Token, showing: &Showing<'_>) -> Result<Verified> {
        let asked = tokio::time::Instant::now();
        match self.claim_in(code, showing).await {
            Ok(verified) => Ok(verified),
            Err((shown, error)) => {
                self.note_refusal(showing.from, shown, error.code());
                flood::pause(asked, error.code()).await;
                Err(error)
            }
        }
    }

    async fn claim_in(
        &self,
        code: &Token,
        showing: &Showing<'_>,
    ) -> Result<Verified, (Shown, flexfs_common::Error)> {
        let unproven = Shown::Unproven(code.id());
        let failed = |e| (unproven, e);
        // Codes are shown for no store.
        let shown = &Showing { store: None, ..*showing };
        let refused = |code| failed(self.counted(code, showing.from));
        if let Some(code) = self.memory_refuses(code, shown) {
            return Err(refused(code));
        }
        let _look = self.failures.look(showing.from);
        let turn = self.reading_turn(code, shown).await.map_err(refused)?;
        let revision = self.store.applied().latest();
        let mut reader = self.store.reader();
        let claim = claims::of_token(reader.as_mut(), code.id()).await.map_err(failed)?;
        // The same work for an unknown one.
        let pepper_id = self.peppers.current().id().to_owned();
        let dummy = Verifier { tag: [0; 32], pepper_id, phc: String::new() };
        let verifier = claim.as_ref().map_or(&dummy, |claim| &claim.verifier);
        let matches = self.peppers.tag_matches(code, verifier);
        if !matches && self.store.may_exist(code.id()) {
            self.keep_row(code, showing.from, || {
                let verifiers = claim.iter().map(|claim| claim.verifier.clone()).collect();
                Some(Compared { verifiers, volume: None, meta_store: None, revision })
            });
        }
        drop(turn);
        let lost = !matches && self.peppers.have(&verifier.pepper_id) == Have::Lost;
        let claim =
            claim.filter(|_| matches || lost).ok_or_else(|| failed(self.failed(showing.from)))?;
        let standing = self.standing(reader.as_mut(), code.id()).await.map_err(failed)?;
        let standing = standing.ok_or_else(|| failed(Code::TokenUnknown.into()))?;
        let account = standing.token.account_id;
        if lost {
            let behind = self.is_behind_lost(account, code, &claim.verifier, showing.from).await;
            if !behind.map_err(failed)? {
                return Err(failed(self.failed(showing.from)));
            }
        } else if !self.hashing.matches(account, code, &claim.verifier).await.map_err(failed)? {
            tracing::error!(token = %code.id(), "tag and argon2id string of a claim disagree");
            return Err(failed(Code::TokenUnknown.into()));
        }
        self.renew(account, code, Whose::Claim(code.id()), &claim.verifier);
        let proven = |code: Code| (Shown::Proven(standing.token.id, account), code.into());
        let now = clock::wall_now();
        // A repetition of what was done in time is still answered.
        if claim.redeemed_at.is_none() && claim.expires_at <= now {
            return Err(proven(Code::TokenExpired));
        }
        if let Some(code) = refusal(&standing, None, now, showing.from) {
            return Err(proven(code));
        }
        Ok(Verified { standing: Arc::new(standing), secret_id: None })
    }
}
