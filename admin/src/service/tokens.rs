//! Account tokens and volume tokens: made, shown, listed, taken out of the
//! listings.

use flexfs_auth::policy::{Action, Resource, authorize, authorize_mint};
use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_common::flags::{self, Owner};
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::{self, FeedKind};

use super::input::{self, bad};
use super::mint::{self, Outcome, token_change};
use super::{Caller, Service, hidden};
use crate::model::{AccountState, Grant, Rights, TokenRecord, TokenState, VolumeState};
use crate::page::Page;
use crate::store::{Sql, accounts, tokens, volumes};

/// A token and the name of its volume, if it has one.
pub type ShownToken = (TokenRecord, String);

impl Service {
    /// Makes an account token, never a stronger one than the caller's own.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND` (in its
    /// limits), `TOKEN_EXISTS`, `ARGUMENT_INVALID`.
    pub async fn create_account_token(
        &self,
        caller: &Caller,
        request: v1::CreateAccountTokenRequest,
    ) -> Result<TokenRecord> {
        let account = self.account_of(caller, &request.account_id).await?;
        let role = Role::from_name(&request.role)?;
        let limits = self.limits_of(caller, role, account, &request.volumes).await?;
        authorize_mint(&caller.principal, role, account, &limits)
            .map_err(|e| hidden(e, Code::AccountNotFound))?;
        if role == Role::System && (account != caller.account_id() || !limits.is_empty()) {
            return Err(bad("the role system is for the account `system`, without limits"));
        }
        let now = mint::now();
        let (not_before, expires_at) =
            input::life(request.not_before.as_ref(), request.expires_at.as_ref(), now)?;
        let cidrs = input::cidrs(&request.cidrs)?;
        let own = &caller.verified.standing.token.cidrs;
        let within = own.is_empty()
            || (!cidrs.is_empty() && cidrs.iter().all(|c| own.iter().any(|o| o.covers(c))));
        if !within {
            return Err(Error::new(
                Code::RoleForbidden,
                "this token is limited to source addresses and makes only tokens limited to these",
            ));
        }
        let token = input::new_token(request.token.as_ref(), TokenKind::Account)?;
        let minted = self.derive(token).await?;
        let grant = Grant::Account { role, volumes: limits };
        let record = TokenRecord {
            cidrs,
            notes: input::notes(&request.notes)?,
            expires_at,
            not_before,
            ..mint::record(caller, account, &minted.token, grant)
        };
        let mut tx = self.store.begin().await?;
        require_active(tx.sql(), account).await?;
        if let Outcome::Repeated(token) = self.repeated(tx.sql(), &minted.token, &record).await? {
            return Ok(token);
        }
        self.insert_token(tx.sql(), &record, &minted.verifier).await?;
        let change = token_change(FeedKind::TokenChanged, &record, None);
        let entry = caller.entry(Some(account), "accountToken.create", record.id);
        tx.commit(entry, &[change]).await?;
        Ok(record)
    }

    /// The volumes that a new token is limited to, by name or id.
    async fn limits_of(
        &self,
        caller: &Caller,
        role: Role,
        account: AccountId,
        texts: &[String],
    ) -> Result<Vec<VolumeId>> {
        // Only whoever may mint learns which volumes there are.
        caller
            .permit_at_all(Action::AccountTokenCreate(role), account)
            .map_err(|e| hidden(e, Code::AccountNotFound))?;
        let mut reader = self.store.reader();
        let mut limits = Vec::new();
        for text in input::names_of_volumes(texts)? {
            let (volume, _permit) = self
                .find_volume(reader.as_mut(), caller, Action::VolumeRead, account, text)
                .await?;
            limits.push(volume.id);
        }
        limits.sort();
        limits.dedup();
        Ok(limits)
    }

    /// Makes a volume token.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND`,
    /// `VOLUME_RETIRED`, `TOKEN_EXISTS`, `PATH_INVALID`, `ARGUMENT_INVALID`.
    pub async fn create_volume_token(
        &self,
        caller: &Caller,
        request: v1::CreateVolumeTokenRequest,
    ) -> Result<ShownToken> {
        let account = self.account_of(caller, &request.account_id).await?;
        let mut reader = self.store.reader();
        let (volume, permit) = self
            .find_volume(
                reader.as_mut(),
                caller,
                Action::VolumeTokenCreate,
                account,
                &request.volume,
            )
            .await?;
        drop(reader);
        let now = mint::now();
        let (not_before, expires_at) =
            input::life(request.not_before.as_ref(), request.expires_at.as_ref(), now)?;
        let token = input::new_token(request.token.as_ref(), TokenKind::Volume)?;
        let grant = volume_grant(volume.id, &request)?;
        let (cidrs, notes) = (input::cidrs(&request.cidrs)?, input::notes(&request.notes)?);
        let minted = self.derive(token).await?;
        let record = TokenRecord {
            cidrs,
            notes,
            expires_at,
            not_before,
            ..mint::record(caller, account, &minted.token, grant)
        };
        debug_assert_eq!(permit.resource(), Resource::Volume(account, volume.id));
        let mut tx = self.store.begin().await?;
        require_active(tx.sql(), account).await?;
        if let Outcome::Repeated(token) = self.repeated(tx.sql(), &minted.token, &record).await? {
            return Ok((token, volume.name.to_string()));
        }
        // Read again: it may have been retired while argon2 ran.
        let volume = volumes::by_id(tx.sql(), volume.id).await?.ok_or(Code::VolumeNotFound)?;
        match volume.state {
            VolumeState::Active => {}
            VolumeState::Retired => return Err(Code::VolumeRetired.into()),
        }
        self.insert_token(tx.sql(), &record, &minted.verifier).await?;
        let change = token_change(FeedKind::TokenChanged, &record, Some(&volume));
        let entry = caller.entry(Some(account), "volumeToken.create", record.id);
        tx.commit(entry, &[change]).await?;
        Ok((record, volume.name.to_string()))
    }

    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_token(
        &self,
        caller: &Caller,
        request: v1::GetTokenRequest,
    ) -> Result<ShownToken> {
        let kind = TokenKind::from_name(&request.kind)?;
        let account = self.account_of(caller, &request.account_id).await?;
        let mut reader = self.store.reader();
        let (token, _permit) =
            self.find_token(reader.as_mut(), caller, kind, account, &request.id).await?;
        let name = match token.volume_id() {
            Some(id) => volumes::by_id(reader.as_mut(), id).await?.map(|v| v.name.to_string()),
            None => None,
        };
        Ok((token, name.unwrap_or_default()))
    }

    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND`, `ROLE_FORBIDDEN`,
    /// `ARGUMENT_INVALID`.
    pub async fn list_tokens(
        &self,
        caller: &Caller,
        request: v1::ListTokensRequest,
    ) -> Result<(Vec<ShownToken>, String)> {
        let kind = TokenKind::from_name(&request.kind)?;
        let action = caller.token_action(kind)?;
        let account = self.account_of(caller, &request.account_id).await?;
        let resource = match kind {
            TokenKind::Meta => Resource::Installation,
            TokenKind::Account | TokenKind::Volume | TokenKind::Claim => Resource::Account(account),
        };
        authorize(&caller.principal, action, resource)
            .map_err(|e| hidden(e, Code::AccountNotFound))?;
        let page = Page::parse(request.limit, &request.page)?;
        let state = input::state::<TokenState>(&request.state)?;
        let mut reader = self.store.reader();
        let volume = match (kind, request.volume.as_str()) {
            (_, "") => None,
            (TokenKind::Volume, text) => {
                let (volume, _permit) = self
                    .find_volume(reader.as_mut(), caller, Action::VolumeTokenRead, account, text)
                    .await?;
                Some(volume.id)
            }
            (TokenKind::Account | TokenKind::Meta | TokenKind::Claim, _) => {
                return Err(bad("only volume tokens belong to a volume"));
            }
        };
        let visible = caller.visible(account);
        let filter = tokens::Filter { kind, visible: &visible, volume, state, now: mint::now() };
        let mut items = tokens::list(reader.as_mut(), &filter, &page).await?;
        let next =
            page.finish(&mut items, |(t, _)| (t.created_at.as_microsecond(), t.id.to_string()));
        Ok((items, next))
    }

    /// Takes a revoked or expired token out of the listings.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`,
    /// `NOT_ENDED` for a token that still lives.
    pub async fn delete_token(
        &self,
        caller: &Caller,
        request: v1::DeleteTokenRequest,
    ) -> Result<(TokenId, u64)> {
        let kind = TokenKind::from_name(&request.kind)?;
        let account = self.account_of(caller, &request.account_id).await?;
        let mut tx = self.store.begin().await?;
        let (token, _permit) =
            self.find_token(tx.sql(), caller, kind, account, &request.id).await?;
        super::revoke::check_covers(caller, &token)?;
        let now = mint::now();
        match token.state(now) {
            TokenState::Revoked | TokenState::Expired => {}
            TokenState::Active | TokenState::Disabled | TokenState::NotYetValid => {
                return Err(Code::NotEnded.into());
            }
        }
        let volume = match token.volume_id() {
            Some(id) => volumes::by_id(tx.sql(), id).await?,
            None => None,
        };
        tokens::delete(tx.sql(), token.id, now).await?;
        let change = token_change(FeedKind::TokenRevoked, &token, volume.as_ref());
        let entry = caller.entry(Some(token.account_id), "token.delete", token.id);
        let revision = tx.commit(entry, &[change]).await?;
        Ok((token.id, revision))
    }
}

async fn require_active(sql: &mut dyn Sql, account: AccountId) -> Result<()> {
    match accounts::by_id(sql, account).await?.map(|account| account.state) {
        Some(AccountState::Active) => Ok(()),
        Some(AccountState::Suspended) => Err(Code::AccountSuspended.into()),
        Some(AccountState::Deleted) | None => Err(Code::AccountNotFound.into()),
    }
}

fn volume_grant(volume_id: VolumeId, request: &v1::CreateVolumeTokenRequest) -> Result<Grant> {
    if request.flags.len() > flags::NAMES.len() {
        return Err(bad("a flag is named twice"));
    }
    let mut token_flags = flags::parse(Owner::Token, request.flags.iter().map(String::as_str))?;
    // (uid_t) -1 means "leave it" to chown(2): it is no identity.
    for (what, id) in [("uid", request.uid), ("gid", request.gid)] {
        if id == Some(u32::MAX) {
            return Err(bad(format!("{what} 4294967295 is no identity")));
        }
    }
    (token_flags.uid, token_flags.gid) = (request.uid, request.gid);
    let mount_path = if request.mount_path.is_empty() { "/" } else { &request.mount_path };
    Ok(Grant::Volume {
        volume_id,
        mount_path: mount_path.parse()?,
        rights: if request.rights.is_empty() { Rights::Rw } else { request.rights.parse()? },
        flags: token_flags,
    })
}
