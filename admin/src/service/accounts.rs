//! Accounts.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Result};
use flexfs_proto::v1::{self, FeedKind};

use super::find::find_account;
use super::mint::{self, Outcome, token_change};
use super::{Caller, Service, hidden, input};
use crate::model::{Account, AccountState, Grant, TokenRecord};
use crate::page::Page;
use crate::store::accounts;
use crate::store::changes::Change;

impl Service {
    /// Makes an account and its owner token.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `ACCOUNT_EXISTS`, `TOKEN_EXISTS`, `NAME_INVALID`,
    /// `ARGUMENT_INVALID`.
    pub async fn create_account(
        &self,
        caller: &Caller,
        request: v1::CreateAccountRequest,
    ) -> Result<(Account, TokenRecord)> {
        caller.permit(Resource::Installation)?;
        let name = input::account_name(&request.name)?;
        let email = input::email(&request.email)?;
        let token = input::new_token(request.owner_token.as_ref(), TokenKind::Account)?;
        let minted = self.derive(caller, token).await?;
        let account = Account {
            id: AccountId::random(),
            name,
            email,
            state: AccountState::Active,
            created_at: mint::now(),
            created_by: Some(caller.token_id()),
            max_token_age: 0,
        };
        let grant = Grant::Account { role: Role::Owner, volumes: Vec::new() };
        let owner = mint::record(caller, account.id, &minted.token, grant);
        let mut tx = self.begin_for(caller).await?;
        if let Some(existing) = accounts::by_name(tx.sql(), &account.name).await? {
            let same = existing.email == account.email && existing.created_by == account.created_by;
            let wanted = TokenRecord { account_id: existing.id, ..owner };
            let owner = match self.repeated(tx.sql(), &minted.token, &wanted).await {
                Ok(Outcome::Repeated(owner)) if same => owner,
                Ok(_) => return Err(Code::AccountExists.into()),
                Err(e) if e.code() == Code::TokenExists => {
                    return Err(Code::AccountExists.into());
                }
                Err(e) => return Err(e),
            };
            return Ok((existing, owner));
        }
        self.repeated(tx.sql(), &minted.token, &owner).await?;
        accounts::insert(tx.sql(), &account).await?;
        self.insert_token(tx.sql(), &owner, &minted.verifier).await?;
        let changes = [
            Change { account: Some(account.id), ..Change::of(FeedKind::AccountChanged) },
            token_change(FeedKind::TokenChanged, &owner, None),
        ];
        let entry = caller.entry(Some(account.id), "account.create", account.id);
        tx.commit(entry, &changes).await?;
        Ok((account, owner))
    }

    /// One account; a tenant sees its own.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_account(&self, caller: &Caller, request: v1::GetRequest) -> Result<Account> {
        let text = if request.id.is_empty() { &request.account_id } else { &request.id };
        let id = if caller.is_system() && !text.is_empty() {
            caller.permit(Resource::Installation)?;
            find_account(self.store.reader().as_mut(), text).await?.id
        } else {
            self.account_of(caller, text).await?
        };
        caller.permit(Resource::Account(id)).map_err(|e| hidden(e, Code::AccountNotFound))?;
        let account = accounts::by_id(self.store.reader().as_mut(), id).await?;
        account.ok_or_else(|| Code::AccountNotFound.into())
    }

    /// All accounts for `system`, else the caller's own.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `ARGUMENT_INVALID`.
    pub async fn list_accounts(
        &self,
        caller: &Caller,
        request: v1::ListRequest,
    ) -> Result<(Vec<Account>, String)> {
        let only = if caller.is_system() && request.account_id.is_empty() {
            caller.permit(Resource::Installation)?;
            None
        } else {
            let account = self.account_of(caller, &request.account_id).await?;
            caller
                .permit(Resource::Account(account))
                .map_err(|e| hidden(e, Code::AccountNotFound))?;
            Some(account)
        };
        let page = Page::parse(request.limit, &request.page)?;
        let state = input::state::<AccountState>(&request.state)?;
        let mut items = accounts::list(self.store.reader().as_mut(), only, state, &page).await?;
        let next = page.finish(&mut items, |a| (a.created_at.as_microsecond(), a.id.to_string()));
        Ok((items, next))
    }

    /// Deletes an account that has no volumes and no live tokens.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ACCOUNT_NOT_EMPTY`, `ROLE_FORBIDDEN`.
    pub async fn delete_account(
        &self,
        caller: &Caller,
        request: v1::DeleteRequest,
    ) -> Result<(AccountId, u64)> {
        caller.permit(Resource::Installation)?;
        if let Some((id, revision)) = caller.deleted_before() {
            return Ok((id, self.told(caller, revision).await?));
        }
        let mut tx = self.begin_for(caller).await?;
        let account = find_account(tx.sql(), &request.id).await?;
        authorize(&caller.principal, Action::AccountWrite, Resource::Account(account.id))?;
        if accounts::in_use(tx.sql(), account.id, mint::now()).await? {
            return Err(Code::AccountNotEmpty.into());
        }
        accounts::set_state(tx.sql(), account.id, AccountState::Deleted).await?;
        let change = Change { account: Some(account.id), ..Change::of(FeedKind::AccountSuspended) };
        let entry = caller.entry(Some(account.id), "account.delete", account.id);
        let revision = tx.commit(entry, &[change]).await?;
        Ok((account.id, revision))
    }
}
