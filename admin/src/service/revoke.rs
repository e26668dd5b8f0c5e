//! Revocation: it stands when the transaction has committed; then the metadata
//! servers are waited for, as long as the caller wishes.

use std::time::{Duration, Instant};

use flexfs_auth::policy::Action;
use flexfs_auth::principal::Role;
use flexfs_common::ids::{AccountId, ServerId, TokenId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1::{self, FeedKind};

use super::mint::{self, token_change};
use super::{Caller, Service, input};
use crate::model::{Grant, TokenRecord, Volume};
use crate::store::{Sql, Tx, ending, metas, tokens, volumes};

/// How one metadata server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaAnswer {
    /// Which server.
    pub id: ServerId,
    /// From the commit to its acknowledgement; `None` = not within the wait.
    pub after: Option<Duration>,
}

/// What has become of the sessions that lived from what was ended.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Sessions that the servers cut.
    pub sessions_cut: u32,
    /// Those asked.
    pub metas: Vec<MetaAnswer>,
}

/// Something that was ended for good or for now: it stands.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// Which token or account.
    pub id: String,
    /// Its row in the feed.
    pub revision: u64,
    /// What the servers said.
    pub settled: Settled,
}

/// Whose sessions are counted.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// Of these tokens.
    Tokens(Vec<TokenId>),
    /// Of all tokens of an account.
    Account(AccountId),
}

/// A wait for metadata servers, prepared before the commit: sessions that
/// were cut earlier are not counted again.
pub(super) struct Wait {
    whose: Whose,
    stores: Vec<StoreId>,
    wait: Duration,
    cut_before: u32,
    began: Instant,
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
        let reason = input::notes(&request.reason)?;
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted =
            self.wanted(caller, asked, &request.account_id, Some(Action::SelfRevoke)).await?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        check_not_last(tx.sql(), caller, &token).await?;
        let volume = volume_of(tx.sql(), &token).await?;
        let wait = self
            .prepare_wait(
                tx.sql(),
                Whose::Tokens(vec![token.id]),
                stores(&volume),
                request.wait_millis,
            )
            .await?;
        ending::revoke(tx.sql(), token.id, mint::now(), &reason).await?;
        let change = token_change(FeedKind::TokenRevoked, &token, volume.as_ref());
        let mut entry = caller.entry(Some(token.account_id), "token.revoke", token.id);
        entry.detail = reason;
        let revision = tx.commit(entry, &[change]).await?;
        let settled = self.settle(wait, revision).await?;
        let revision = self.told(caller, revision).await?;
        Ok(Revoked { id: token.id.to_string(), revision, settled })
    }

    /// Begins a change that ends sessions, when all cuts told so far are
    /// written.
    pub(super) async fn begin_ending(&self, caller: &Caller, wait_millis: u32) -> Result<Tx> {
        if wait_millis > 0 {
            self.registry.flush(&self.store).await?;
        }
        self.begin_for(caller).await
    }

    /// Before the commit: what must be known to count afterwards.
    pub(super) async fn prepare_wait(
        &self,
        sql: &mut dyn Sql,
        whose: Whose,
        stores: Vec<StoreId>,
        wait_millis: u32,
    ) -> Result<Wait> {
        let wait = Duration::from_millis(wait_millis.into()).min(limits::REVOKE_WAIT_MAX);
        let counts = !wait.is_zero() && !stores.is_empty();
        let cut_before = if counts { cuts(sql, &whose).await? } else { 0 };
        Ok(Wait { whose, stores, wait, cut_before, began: Instant::now() })
    }

    /// After the commit: waits for the servers of the stores.
    pub(super) async fn settle(&self, wait: Wait, revision: u64) -> Result<Settled> {
        if wait.wait.is_zero() {
            return Ok(Settled::default());
        }
        let waits = wait.stores.iter().map(|store| {
            self.registry.wait_for(&self.store, store, revision, wait.began, wait.wait)
        });
        let mut metas = Vec::new();
        for answers in futures::future::join_all(waits).await {
            metas.extend(answers?);
        }
        // What was told with the acknowledgements is counted as well.
        self.registry.flush(&self.store).await?;
        let cut = cuts(self.store.reader().as_mut(), &wait.whose).await?;
        Ok(Settled { sessions_cut: cut.saturating_sub(wait.cut_before), metas })
    }
}

async fn cuts(sql: &mut dyn Sql, whose: &Whose) -> Result<u32> {
    match whose {
        Whose::Account(account) => metas::cuts_of_account(sql, *account).await,
        Whose::Tokens(tokens) => {
            let mut sum = 0_u32;
            for token in tokens {
                for (_, count) in metas::cuts(sql, *token).await? {
                    sum = sum.saturating_add(count);
                }
            }
            Ok(sum)
        }
    }
}

/// The volume of a token, if it has one.
pub(super) async fn volume_of(sql: &mut dyn Sql, token: &TokenRecord) -> Result<Option<Volume>> {
    match token.volume_id() {
        Some(id) => volumes::by_id(sql, id).await,
        None => Ok(None),
    }
}

/// Where sessions of a volume can live.
pub(super) fn stores(volume: &Option<Volume>) -> Vec<StoreId> {
    volume.iter().map(|volume| volume.meta_store.clone()).collect()
}

/// The last live owner token of an account is kept by its owners, the last
/// system token by everybody: nobody shall lock himself out. `system` may end
/// the last owner token of another account, because it can always make
/// another one, and must be able to before it deletes the account. To be
/// asked before a token is ended, disabled or limited.
pub(super) async fn check_not_last(
    sql: &mut dyn Sql,
    caller: &Caller,
    token: &TokenRecord,
) -> Result<()> {
    let role = match &token.grant {
        Grant::Account { role: role @ (Role::System | Role::Owner), .. } => *role,
        Grant::Account { .. } | Grant::Volume { .. } | Grant::Meta { .. } => return Ok(()),
    };
    if token.revoked_at.is_some() || (role == Role::Owner && caller.is_system()) {
        return Ok(());
    }
    let now = mint::now();
    let live = token.lives(now) && token.disabled_at.is_none();
    if !live || tokens::has_other_of_role(sql, token, role, now).await? {
        return Ok(());
    }
    Err(Code::LastOwner.into())
}
