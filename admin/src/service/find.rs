//! Things by what people type: an id, a unique prefix of it, or a name; only
//! among what the caller may see. What is not yours is not found.

use flexfs_auth::policy::{Action, Permit, Resource, authorize};
use flexfs_auth::principal::Principal;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::VolumeName;
use flexfs_common::{Code, Error, Result};

use super::input::{id_range, whole_id};
use super::{Caller, Service, hidden};
use crate::model::{Account, AccountState, Grant, TokenRecord, Volume};
use crate::store::volumes::Visible;
use crate::store::{Sql, accounts, tokens, volumes};

/// A prefix of several ids.
fn ambiguous(code: Code, text: &str) -> Error {
    Error::new(code, format!("`{}` begins several ids: type more of it", text.escape_debug()))
}

fn one<T>(mut found: Vec<T>, code: Code, text: &str) -> Result<Option<T>> {
    if found.len() > 1 {
        return Err(ambiguous(code, text));
    }
    Ok(found.pop())
}

impl Service {
    /// Whose things a request is about: empty = the caller's own account;
    /// another one is for `system` only.
    pub(super) async fn account_of(&self, caller: &Caller, text: &str) -> Result<AccountId> {
        let own = caller.account_id();
        if text.is_empty() {
            return Ok(own);
        }
        if !caller.is_system() {
            let is_own = id_range(text).is_some_and(|(from, _)| own.to_string().starts_with(&from));
            return if is_own { Ok(own) } else { Err(Code::AccountNotFound.into()) };
        }
        let account = find_account(self.store.reader().as_mut(), text).await?;
        Ok(account.id)
    }

    /// The volume meant, if the caller's role allows the action on any at
    /// all; the permit is for this very one.
    pub(super) async fn find_volume(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        action: Action,
        account: AccountId,
        text: &str,
    ) -> Result<(Volume, Permit)> {
        caller.permit_at_all(action, account).map_err(|e| hidden(e, Code::AccountNotFound))?;
        let visible = caller.visible(account);
        let volume = volume_by_text(sql, &visible, text).await?.ok_or(Code::VolumeNotFound)?;
        let resource = Resource::Volume(account, volume.id);
        let permit = authorize(&caller.principal, action, resource)
            .map_err(|e| hidden(e, Code::VolumeNotFound))?;
        Ok((volume, permit))
    }

    /// What a request that changes a token is about. The caller's own token is
    /// asked for by its whole id, and what `own` names is allowed on it.
    pub(super) async fn wanted<'r>(
        &self,
        caller: &Caller,
        (kind, id): (&str, &'r str),
        account_id: &str,
        own: Option<Action>,
    ) -> Result<Wanted<'r>> {
        let kind = TokenKind::from_name(kind)?;
        if let Some(action) = own
            && is_own_token(caller, kind, id)
        {
            authorize(&caller.principal, action, own_resource(caller))?;
            return Ok(Wanted { kind, id, account: None });
        }
        match caller.principal {
            Principal::Account { .. } => {
                let account = Some(self.account_of(caller, account_id).await?);
                Ok(Wanted { kind, id, account })
            }
            // Mounts and metadata servers change their own token, no other.
            Principal::Volume { .. } | Principal::Meta { .. } | Principal::Claim { .. } => {
                Err(Code::TokenNotFound.into())
            }
        }
    }

    /// The token of [`Service::wanted`], which is not stronger than the
    /// caller's.
    pub(super) async fn target(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        wanted: &Wanted<'_>,
    ) -> Result<TokenRecord> {
        let Some(account) = wanted.account else {
            return tokens::by_id(sql, caller.token_id())
                .await?
                .ok_or_else(|| Code::TokenNotFound.into());
        };
        let (token, _permit) =
            self.find_token(sql, caller, wanted.kind, account, wanted.id).await?;
        check_covers(caller, &token)?;
        Ok(token)
    }

    /// The token of a kind that is meant, and the permit for it.
    pub(super) async fn find_token(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        kind: TokenKind,
        account: AccountId,
        text: &str,
    ) -> Result<(TokenRecord, Permit)> {
        let action = caller.token_action(kind)?;
        let (visible, resource) = match kind {
            TokenKind::Meta => {
                authorize(&caller.principal, action, Resource::Installation)?;
                // Meta tokens belong to the account `system`, the caller's own.
                (Visible::all(caller.account_id()), Some(Resource::Installation))
            }
            TokenKind::Account | TokenKind::Claim => {
                let resource = Resource::Account(account);
                authorize(&caller.principal, action, resource)
                    .map_err(|e| hidden(e, Code::AccountNotFound))?;
                (Visible::all(account), Some(resource))
            }
            TokenKind::Volume => {
                caller
                    .permit_at_all(action, account)
                    .map_err(|e| hidden(e, Code::AccountNotFound))?;
                (caller.visible(account), None)
            }
        };
        let Some((from, to)) = id_range(text) else { return Err(Code::TokenNotFound.into()) };
        let found = tokens::by_prefix(sql, kind, &visible, &from, &to).await?;
        let token = one(found, Code::TokenNotFound, text)?.ok_or(Code::TokenNotFound)?;
        let resource = match (resource, token.volume_id()) {
            (Some(resource), _) => resource,
            (None, Some(volume)) => Resource::Volume(account, volume),
            (None, None) => return Err(Code::TokenNotFound.into()),
        };
        let permit = authorize(&caller.principal, action, resource)
            .map_err(|e| hidden(e, Code::TokenNotFound))?;
        Ok((token, permit))
    }
}

/// See [`Service::wanted`].
pub(super) struct Wanted<'r> {
    /// Of this kind.
    pub(super) kind: TokenKind,
    /// As it was typed.
    id: &'r str,
    /// Whose; `None` = it is the caller's own token.
    account: Option<AccountId>,
}

impl Wanted<'_> {
    /// Is it the caller's own token?
    pub(super) fn is_own(&self) -> bool {
        self.account.is_none()
    }
}

fn own_resource(caller: &Caller) -> Resource {
    match &caller.principal {
        Principal::Account { account_id, .. } => Resource::Account(*account_id),
        Principal::Volume { account_id, volume_id, .. } => {
            Resource::Volume(*account_id, *volume_id)
        }
        Principal::Meta { .. } | Principal::Claim { .. } => Resource::Installation,
    }
}

/// Nobody changes or ends a token that is stronger than his own.
pub(super) fn check_covers(caller: &Caller, token: &TokenRecord) -> Result<()> {
    match (&caller.principal, &token.grant) {
        (Principal::Account { role, .. }, Grant::Account { role: other, .. })
            if !role.covers(*other) =>
        {
            Err(Error::new(
                Code::RoleForbidden,
                format!(
                    "the role {} does not change tokens of the role {}",
                    role.name(),
                    other.name()
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// By id, prefix or name.
async fn volume_by_text(
    sql: &mut dyn Sql,
    visible: &Visible,
    text: &str,
) -> Result<Option<Volume>> {
    if let Some(id) = whole_id::<VolumeId>(text) {
        let volume = volumes::by_id(sql, id).await?;
        return Ok(volume.filter(|volume| visible.shows(volume)));
    }
    if let Ok(name) = text.parse::<VolumeName>() {
        let named = volumes::by_name(sql, visible.account, name.as_str()).await?;
        if let Some(volume) = named.filter(|volume| visible.shows(volume)) {
            return Ok(Some(volume));
        }
    }
    let Some((from, to)) = id_range(text) else { return Ok(None) };
    one(volumes::by_prefix(sql, visible, &from, &to).await?, Code::VolumeNotFound, text)
}

/// For `system`: any account that is not deleted, by id, prefix or name.
pub(super) async fn find_account(sql: &mut dyn Sql, text: &str) -> Result<Account> {
    if let Some(id) = whole_id::<AccountId>(text) {
        return accounts::by_id(sql, id)
            .await?
            .filter(|account| account.state != AccountState::Deleted)
            .ok_or_else(|| Code::AccountNotFound.into());
    }
    if let Some(account) = accounts::by_name(sql, text).await? {
        return Ok(account);
    }
    let Some((from, to)) = id_range(text) else { return Err(Code::AccountNotFound.into()) };
    one(accounts::by_prefix(sql, &from, &to).await?, Code::AccountNotFound, text)?
        .ok_or_else(|| Code::AccountNotFound.into())
}

/// A token by its whole id, for rules that compare it with the caller's own.
fn is_own_token(caller: &Caller, kind: TokenKind, text: &str) -> bool {
    let own = &caller.verified.standing.token;
    own.grant.kind() == kind && whole_id::<TokenId>(text) == Some(own.id)
}
