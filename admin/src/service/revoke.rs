//! Revocation: it stands when the transaction has committed; then the metadata
//! servers are waited for, as long as the caller wishes.

use std::time::{Duration, Instant};

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_auth::principal::{Principal, Role};
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::{ServerId, TokenId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1::{self, FeedKind};

use super::find::is_own_token;
use super::mint::{self, token_change};
use super::{Caller, Service, input};
use crate::model::{Grant, TokenRecord};
use crate::store::{Sql, tokens, volumes};

/// How one metadata server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaAnswer {
    /// Which server.
    pub id: ServerId,
    /// From the commit to its acknowledgement; `None` = not within the wait.
    pub after: Option<Duration>,
}

/// A revocation that stands.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// Which token.
    pub id: TokenId,
    /// Its row in the feed.
    pub revision: u64,
    /// Sessions that the servers cut.
    pub sessions_cut: u32,
    /// Those asked.
    pub metas: Vec<MetaAnswer>,
}

impl Service {
    /// Revokes a token. Revoking it again changes nothing and waits again.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `LAST_OWNER`.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        request: v1::RevokeTokenRequest,
    ) -> Result<Revoked> {
        let kind = TokenKind::from_name(&request.kind)?;
        let reason = input::notes(&request.reason)?;
        let wait = Duration::from_millis(request.wait_millis.into()).min(limits::REVOKE_WAIT_MAX);
        let token_to_find = if is_own_token(caller, kind, &request.id) {
            authorize(&caller.principal, Action::SelfRevoke, own_resource(caller))?;
            None
        } else if matches!(caller.principal, Principal::Account { .. }) {
            Some(self.account_of(caller, &request.account_id).await?)
        } else {
            // Mounts and metadata servers end their own token, no other.
            return Err(Code::TokenNotFound.into());
        };
        let now = mint::now();
        let mut tx = self.store.begin().await?;
        let token = match token_to_find {
            None => tokens::by_id(tx.sql(), caller.token_id()).await?.ok_or(Code::TokenNotFound)?,
            Some(account) => {
                let (token, _permit) =
                    self.find_token(tx.sql(), caller, kind, account, &request.id).await?;
                check_covers(caller, &token)?;
                token
            }
        };
        check_not_last(tx.sql(), caller, &token).await?;
        let volume = match token.volume_id() {
            Some(id) => volumes::by_id(tx.sql(), id).await?,
            None => None,
        };
        let store = volume.as_ref().map(|volume| volume.meta_store.clone());
        tokens::revoke(tx.sql(), token.id, now, &reason).await?;
        let change = token_change(FeedKind::TokenRevoked, &token, volume.as_ref());
        let mut entry = caller.entry(Some(token.account_id), "token.revoke", token.id);
        entry.detail = reason;
        let committing = Instant::now();
        let revision = tx.commit(entry, &[change]).await?;
        let mut revoked = Revoked { id: token.id, revision, sessions_cut: 0, metas: Vec::new() };
        if let (Some(store), false) = (store, wait.is_zero()) {
            self.wait_for_metas(&store, &mut revoked, committing, wait).await?;
        }
        Ok(revoked)
    }

    async fn wait_for_metas(
        &self,
        store: &StoreId,
        revoked: &mut Revoked,
        since: Instant,
        wait: Duration,
    ) -> Result<()> {
        let answers =
            self.registry.wait_for(&self.store, store, revoked.revision, since, wait).await?;
        revoked.sessions_cut = self.registry.cuts(&self.store, revoked.id).await?;
        revoked.metas = answers;
        Ok(())
    }
}

fn own_resource(caller: &Caller) -> Resource {
    match &caller.principal {
        Principal::Account { account_id, .. } => Resource::Account(*account_id),
        Principal::Volume { account_id, volume_id, .. } => {
            Resource::Volume(*account_id, *volume_id)
        }
        Principal::Meta { .. } => Resource::Installation,
    }
}

/// Nobody ends a token that is stronger than his own.
pub(super) fn check_covers(caller: &Caller, token: &TokenRecord) -> Result<()> {
    match (&caller.principal, &token.grant) {
        (Principal::Account { role, .. }, Grant::Account { role: other, .. })
            if !role.covers(*other) =>
        {
            Err(Error::new(
                Code::RoleForbidden,
                format!(
                    "the role {} does not end tokens of the role {}",
                    role.name(),
                    other.name()
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// The last live owner token of an account is kept by its owners, the last
/// system token by everybody: nobody shall lock himself out. `system` may end
/// the last owner token of another account, because it can always make
/// another one, and must be able to before it deletes the account.
async fn check_not_last(sql: &mut dyn Sql, caller: &Caller, token: &TokenRecord) -> Result<()> {
    let role = match &token.grant {
        Grant::Account { role: role @ (Role::System | Role::Owner), .. } => *role,
        Grant::Account { .. } | Grant::Volume { .. } | Grant::Meta { .. } => return Ok(()),
    };
    if token.revoked_at.is_some() || (role == Role::Owner && caller.is_system()) {
        return Ok(());
    }
    let now = mint::now();
    let live = token.expires_at.is_none_or(|end| end > now) && token.disabled_at.is_none();
    if !live || tokens::has_other_of_role(sql, token, role, now).await? {
        return Ok(());
    }
    Err(Code::LastOwner.into())
}
