//! Disabled for a while: tokens and whole accounts. Sessions are cut for good;
//! what is enabled again is mounted again.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::{self, FeedKind};

use super::find::find_account;
use super::mint::{self, check_hands_out, token_change};
use super::revoke::{Revoked, Whose, check_not_last, stores, volume_of};
use super::tokens::ShownToken;
use super::{Caller, Service, input};
use crate::model::{Account, AccountState, TokenState};
use crate::store::changes::Change;
use crate::store::{accounts, ending};

impl Service {
    /// Disables a token until it is enabled. Again changes nothing.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `LAST_OWNER`,
    /// `ALREADY_ENDED`.
    pub async fn disable_token(
        &self,
        caller: &Caller,
        request: v1::DisableTokenRequest,
    ) -> Result<Revoked> {
        let reason = input::notes(&request.reason)?;
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted = self.wanted(caller, asked, &request.account_id, None).await?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        let now = mint::now();
        if token.state(now) == TokenState::Revoked {
            return Err(Code::AlreadyEnded.into());
        }
        check_not_last(tx.sql(), caller, &token).await?;
        let volume = volume_of(tx.sql(), &token).await?;
        let whose = Whose::Tokens(vec![token.id]);
        let wait = self.prepare_wait(tx.sql(), whose, stores(&volume), request.wait_millis).await?;
        if token.disabled_at.is_none() {
            ending::set_disabled(tx.sql(), token.id, Some(now)).await?;
        }
        let change = token_change(FeedKind::TokenChanged, &token, volume.as_ref());
        let mut entry = caller.entry(Some(token.account_id), "token.disable", token.id);
        entry.detail = reason;
        let revision = tx.commit(entry, &[change]).await?;
        let settled = self.settle(wait, revision).await?;
        let revision = self.told(caller, revision).await?;
        Ok(Revoked { id: token.id.to_string(), revision, settled })
    }

    /// Puts a disabled token back to use. Again changes nothing.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `ALREADY_ENDED`.
    pub async fn enable_token(
        &self,
        caller: &Caller,
        request: v1::GetTokenRequest,
    ) -> Result<ShownToken> {
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted = self.wanted(caller, asked, &request.account_id, None).await?;
        let mut tx = self.begin_for(caller).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        let now = mint::now();
        if token.state(now) == TokenState::Revoked {
            return Err(Code::AlreadyEnded.into());
        }
        check_hands_out(caller, &token)?;
        if token.disabled_at.is_some() {
            let volume = volume_of(tx.sql(), &token).await?;
            ending::set_disabled(tx.sql(), token.id, None).await?;
            let change = token_change(FeedKind::TokenChanged, &token, volume.as_ref());
            let entry = caller.entry(Some(token.account_id), "token.enable", token.id);
            tx.commit(entry, &[change]).await?;
        }
        self.shown(token.id, now).await
    }

    /// Suspends an account: none of its tokens is accepted, sessions of its
    /// volumes are cut. Again changes nothing.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `LAST_OWNER` for the account of
    /// the system tokens.
    pub async fn disable_account(
        &self,
        caller: &Caller,
        request: v1::DisableAccountRequest,
    ) -> Result<Revoked> {
        caller.permit(Resource::Installation)?;
        let reason = input::notes(&request.reason)?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let account = find_account(tx.sql(), &request.id).await?;
        authorize(&caller.principal, Action::AccountWrite, Resource::Account(account.id))?;
        let system = accounts::system(tx.sql()).await?;
        if system.is_some_and(|system| system.id == account.id) {
            return Err(Error::new(
                Code::LastOwner,
                "the account of the system tokens cannot be suspended",
            ));
        }
        let places = accounts::stores_of(tx.sql(), account.id).await?;
        let whose = Whose::Account(account.id);
        let wait = self.prepare_wait(tx.sql(), whose, places, request.wait_millis).await?;
        accounts::set_state(tx.sql(), account.id, AccountState::Suspended).await?;
        let change = Change { account: Some(account.id), ..Change::of(FeedKind::AccountSuspended) };
        let mut entry = caller.entry(Some(account.id), "account.disable", account.id);
        entry.detail = reason;
        let revision = tx.commit(entry, &[change]).await?;
        let settled = self.settle(wait, revision).await?;
        let revision = self.told(caller, revision).await?;
        Ok(Revoked { id: account.id.to_string(), revision, settled })
    }

    /// Ends the suspension of an account. Again changes nothing.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn enable_account(
        &self,
        caller: &Caller,
        request: v1::GetRequest,
    ) -> Result<Account> {
        caller.permit(Resource::Installation)?;
        let mut tx = self.begin_for(caller).await?;
        let account = find_account(tx.sql(), &request.id).await?;
        authorize(&caller.principal, Action::AccountWrite, Resource::Account(account.id))?;
        match account.state {
            AccountState::Active => return Ok(account),
            AccountState::Suspended => {}
            AccountState::Deleted => return Err(Code::AccountNotFound.into()),
        }
        accounts::set_state(tx.sql(), account.id, AccountState::Active).await?;
        let change = Change { account: Some(account.id), ..Change::of(FeedKind::AccountChanged) };
        let entry = caller.entry(Some(account.id), "account.enable", account.id);
        tx.commit(entry, &[change]).await?;
        Ok(Account { state: AccountState::Active, ..account })
    }
}
