//! Account tokens and volume tokens: made, shown, listed, taken out of the
//! listings.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_auth::principal::Role;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::{Code, Result};
use flexfs_proto::v1::{self, FeedKind};

use super::claim::First;
use super::input::{self, bad};
use super::mint::{self, Minted, Outcome, check_hands_out, token_change};
use super::revoke::volume_of;
use super::{Caller, Service, hidden};
use crate::audit::Entry;
use crate::model::{
    AccountState, Claim, Grant, Rights, TokenRecord, TokenState, Volume, VolumeState,
};
use crate::page::Page;
use crate::store::tokens::Listed;
use crate::store::{Sql, Tx, accounts, claims, ending, tokens, volumes};

/// A token with what people want to see beside it.
pub type ShownToken = Listed;

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
    ) -> Result<ShownToken> {
        let account = self.account_of(caller, &request.account_id).await?;
        let role = Role::from_name(&request.role)?;
        let limits = self.limits_of(caller, role, account, &request.volumes).await?;
        let now = mint::now();
        let (not_before, expires_at) =
            input::life(request.not_before.as_ref(), request.expires_at.as_ref(), now)?;
        let first = First::parse(
            (request.token.as_ref(), TokenKind::Account),
            request.claim.as_ref(),
            request.claim_expires_at.as_ref(),
            now,
        )?;
        let own = &caller.verified.standing.token;
        let record = TokenRecord {
            cidrs: input::cidrs(&request.cidrs)?,
            notes: input::notes(&request.notes)?,
            // Whoever expires makes what expires with him, unless he says less.
            expires_at: expires_at.or(own.expires_at),
            not_before,
            idle_seconds: match input::idle(request.idle_seconds)? {
                0 => own.idle_seconds,
                idle => idle,
            },
            ..mint::record(caller, account, first.text(), Grant::Account { role, volumes: limits })
        };
        check_hands_out(caller, &record)?;
        let minted = self.derive(caller, first.text().clone()).await?;
        let mut tx = self.begin_for(caller).await?;
        require_active(tx.sql(), account).await?;
        let entry = caller.entry(Some(account), "accountToken.create", record.id);
        self.create(tx, (&record, None), (&first, &minted), entry).await
    }

    /// Writes a new token with its first secret or its claim code.
    async fn create(
        &self,
        mut tx: Tx,
        (record, volume): (&TokenRecord, Option<&Volume>),
        (first, minted): (&First, &Minted),
        entry: Entry,
    ) -> Result<ShownToken> {
        match first {
            First::Token(_) => {
                let known = self.repeated(tx.sql(), &minted.token, record).await?;
                if let Outcome::Repeated(token) = known {
                    drop(tx);
                    return self.shown(token.id, record.created_at).await;
                }
                self.insert_token(tx.sql(), record, &minted.verifier).await?;
            }
            First::Claim(_, expires_at) => {
                let claim = Claim {
                    verifier: minted.verifier.clone(),
                    expires_at: *expires_at,
                    redeemed_at: None,
                    redeemed_from: String::new(),
                };
                if self.repeated_claim(tx.sql(), record, &minted.token).await? {
                    drop(tx);
                    return self.shown(record.id, record.created_at).await;
                }
                self.verify.peppers().require_current(tx.sql()).await?;
                // Idle time counts from when it can be used.
                let unclaimed = TokenRecord { rotated_at: *expires_at, ..record.clone() };
                tokens::insert(tx.sql(), &unclaimed).await?;
                claims::insert(tx.sql(), record.id, &claim).await?;
            }
        }
        let change = token_change(FeedKind::TokenChanged, record, volume);
        tx.commit(entry, &[change]).await?;
        self.shown(record.id, record.created_at).await
    }

    /// Is this the repetition of a creation with the same claim code?
    async fn repeated_claim(
        &self,
        sql: &mut dyn Sql,
        wanted: &TokenRecord,
        code: &Token,
    ) -> Result<bool> {
        let Some(existing) = tokens::by_id(sql, wanted.id).await? else { return Ok(false) };
        let claim = claims::of_token(sql, wanted.id).await?;
        let same = existing.created_by == wanted.created_by && existing.grant == wanted.grant;
        match claim {
            Some(claim) if same && self.verify.is_behind(code, &claim.verifier) => Ok(true),
            Some(_) | None => Err(Code::TokenExists.into()),
        }
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
        self.volumes_named(self.store.reader().as_mut(), caller, account, texts).await
    }

    /// Volumes of an account by name or id, as the limits of a token.
    pub(super) async fn volumes_named(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        account: AccountId,
        texts: &[String],
    ) -> Result<Vec<VolumeId>> {
        let mut limits = Vec::new();
        for text in input::names_of_volumes(texts)? {
            let (volume, _permit) =
                self.find_volume(sql, caller, Action::VolumeRead, account, text).await?;
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
        let first = First::parse(
            (request.token.as_ref(), TokenKind::Volume),
            request.claim.as_ref(),
            request.claim_expires_at.as_ref(),
            now,
        )?;
        let record = TokenRecord {
            cidrs: input::cidrs(&request.cidrs)?,
            notes: input::notes(&request.notes)?,
            expires_at,
            not_before,
            idle_seconds: input::idle(request.idle_seconds)?,
            ..mint::record(caller, account, first.text(), volume_grant(volume.id, &request)?)
        };
        debug_assert_eq!(permit.resource(), Resource::Volume(account, volume.id));
        let minted = self.derive(caller, first.text().clone()).await?;
        let mut tx = self.begin_for(caller).await?;
        require_active(tx.sql(), account).await?;
        // Read again: it may have been retired while argon2 ran.
        let volume = volumes::by_id(tx.sql(), volume.id).await?.ok_or(Code::VolumeNotFound)?;
        match volume.state {
            VolumeState::Active => {}
            VolumeState::Retired => return Err(Code::VolumeRetired.into()),
        }
        let entry = caller.entry(Some(account), "volumeToken.create", record.id);
        self.create(tx, (&record, Some(&volume)), (&first, &minted), entry).await
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
        drop(reader);
        self.shown(token.id, mint::now()).await
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
        let created_by = match request.created_by.as_str() {
            "" => None,
            id => Some(id.parse()?),
        };
        let filter = tokens::Filter {
            volume,
            state,
            expiring_before: input::time(request.expiring_before.as_ref())?,
            unused_since: input::time(request.unused_since.as_ref())?,
            overdue: request.overdue,
            created_by,
            ..tokens::Filter::all(kind, &visible, mint::now())
        };
        let mut items = tokens::list(reader.as_mut(), &filter, &page).await?;
        let next = page.finish(&mut items, |listed| {
            (listed.token.created_at.as_microsecond(), listed.token.id.to_string())
        });
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
        if let Some((id, revision)) = caller.deleted_before() {
            return Ok((id, self.told(caller, revision).await?));
        }
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted = self.wanted(caller, asked, &request.account_id, None).await?;
        let mut tx = self.begin_for(caller).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        let now = mint::now();
        match token.state(now) {
            TokenState::Revoked | TokenState::Expired => {}
            TokenState::Active | TokenState::Disabled | TokenState::NotYetValid => {
                return Err(Code::NotEnded.into());
            }
        }
        let volume = volume_of(tx.sql(), &token).await?;
        ending::delete(tx.sql(), token.id, now).await?;
        let change = token_change(FeedKind::TokenRevoked, &token, volume.as_ref());
        let entry = caller.entry(Some(token.account_id), "token.delete", token.id);
        let revision = tx.commit(entry, &[change]).await?;
        Ok((token.id, self.told(caller, revision).await?))
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
    let mut token_flags = input::token_flags(&request.flags)?;
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
