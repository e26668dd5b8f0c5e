//! What can be changed of tokens, accounts and volumes. What is absent in a
//! request stays as it is; the result is checked like a new thing.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_common::flags::{self, Owner};
use flexfs_common::{Code, Result};
use flexfs_proto::v1::{self, FeedKind};
use jiff::Timestamp;

use super::find::find_account;
use super::input::{self, bad};
use super::mint::{self, check_hands_out, token_change};
use super::revoke::{check_not_last, volume_of};
use super::tokens::ShownToken;
use super::volumes::volume_change;
use super::{Caller, Service, hidden};
use crate::model::{Account, AccountState, Grant, TokenRecord, TokenState, Volume, VolumeState};
use crate::store::changes::Change;
use crate::store::{Sql, accounts, tokens, volumes};

impl Service {
    /// Changes notes, times, limits and restrictions of a token; never beyond
    /// what the caller could give a new one. Changed restrictions reach live
    /// sessions.
    ///
    /// # Errors
    /// `TOKEN_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND`,
    /// `ROLE_FORBIDDEN`, `ALREADY_ENDED` for a revoked one, `LAST_OWNER`,
    /// `ARGUMENT_INVALID`.
    pub async fn update_token(
        &self,
        caller: &Caller,
        request: v1::UpdateTokenRequest,
    ) -> Result<ShownToken> {
        let asked = (request.kind.as_str(), request.id.as_str());
        let wanted = self.wanted(caller, asked, &request.account_id, None).await?;
        if request.idle_seconds.is_some_and(|idle| idle > 0) {
            // It counts from the last use, and uses of a token without an idle
            // end may not be written yet.
            self.verify.flush_used().await?;
        }
        let mut tx = self.begin_for(caller).await?;
        let token = self.target(tx.sql(), caller, &wanted).await?;
        let now = mint::now();
        if token.state(now) == TokenState::Revoked {
            return Err(Code::AlreadyEnded.into());
        }
        let changed = self.changed(tx.sql(), caller, &token, &request, now).await?;
        check_hands_out(caller, &changed)?;
        if !is_unlimited(&changed, now) {
            check_not_last(tx.sql(), caller, &token).await?;
        }
        if changed != token {
            let volume = volume_of(tx.sql(), &token).await?;
            tokens::update(tx.sql(), &changed).await?;
            let change = token_change(FeedKind::TokenChanged, &changed, volume.as_ref());
            let mut entry = caller.entry(Some(token.account_id), "token.update", token.id);
            entry.detail = told(&token, &changed);
            tx.commit(entry, &[change]).await?;
        }
        self.shown(token.id, now).await
    }

    /// The record as it is wanted.
    async fn changed(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        token: &TokenRecord,
        request: &v1::UpdateTokenRequest,
        now: Timestamp,
    ) -> Result<TokenRecord> {
        let mut out = token.clone();
        if let Some(notes) = &request.notes {
            out.notes = input::notes(notes)?;
        }
        if let Some(change) = &request.expires_at {
            out.expires_at = input::time(change.at.as_ref())?;
            if out.expires_at.is_some_and(|end| end <= now) {
                return Err(bad("the expiry lies in the past: to end a token, revoke it"));
            }
        }
        if let Some(change) = &request.not_before {
            out.not_before = input::time(change.at.as_ref())?;
        }
        if let (Some(begin), Some(end)) = (out.not_before, out.expires_at)
            && begin >= end
        {
            return Err(bad("the token would expire before it begins"));
        }
        if let Some(idle) = request.idle_seconds {
            out.idle_seconds = input::idle(idle)?;
        }
        if let Some(cidrs) = &request.cidrs {
            out.cidrs = input::cidrs(&cidrs.items)?;
        }
        match &mut out.grant {
            Grant::Account { volumes, .. } => {
                if let Some(names) = &request.volumes {
                    *volumes =
                        self.volumes_named(sql, caller, token.account_id, &names.items).await?;
                }
                forbid(request.flags.is_some() || request.rights.is_some(), token)?;
            }
            Grant::Volume { rights, flags: own, .. } => {
                if let Some(text) = &request.rights {
                    *rights = text.parse()?;
                }
                if let Some(names) = &request.flags {
                    let named = input::token_flags(&names.items)?;
                    *own = v1::Flags { uid: own.uid, gid: own.gid, umask: own.umask, ..named };
                }
                forbid(request.volumes.is_some(), token)?;
            }
            Grant::Meta { .. } => {
                let other = request.flags.is_some() || request.rights.is_some();
                forbid(other || request.volumes.is_some(), token)?;
            }
        }
        Ok(out)
    }

    /// Changes name, contact and age policy of an account.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ACCOUNT_EXISTS` for a name that is taken,
    /// `ROLE_FORBIDDEN`, `NAME_INVALID`, `ARGUMENT_INVALID`.
    pub async fn update_account(
        &self,
        caller: &Caller,
        request: v1::UpdateAccountRequest,
    ) -> Result<Account> {
        let mut tx = self.begin_for(caller).await?;
        let id = if caller.is_system() && !request.id.is_empty() {
            find_account(tx.sql(), &request.id).await?.id
        } else {
            self.account_of(caller, &request.id).await?
        };
        caller.permit(Resource::Account(id)).map_err(|e| hidden(e, Code::AccountNotFound))?;
        let account = accounts::by_id(tx.sql(), id).await?.ok_or(Code::AccountNotFound)?;
        let mut changed = account.clone();
        if let Some(name) = &request.name {
            // Names are unique over all accounts: who may try them could find
            // out which there are.
            authorize(&caller.principal, Action::AccountWrite, Resource::Account(id))?;
            changed.name = input::account_name(name)?;
            let named = accounts::by_name(tx.sql(), &changed.name).await?;
            if named.is_some_and(|named| named.id != id) {
                return Err(Code::AccountExists.into());
            }
        }
        if let Some(email) = &request.email {
            changed.email = input::email(email)?;
        }
        if let Some(age) = request.max_token_age_seconds {
            changed.max_token_age = input::span("the age policy", age)?;
        }
        if changed != account {
            accounts::update(tx.sql(), &changed).await?;
            let change = Change { account: Some(id), ..Change::of(FeedKind::AccountChanged) };
            tx.commit(caller.entry(Some(id), "account.update", id), &[change]).await?;
        }
        debug_assert_ne!(changed.state, AccountState::Deleted);
        Ok(changed)
    }

    /// Changes notes, restrictions, limits and retention of a volume. Changed
    /// restrictions reach live sessions.
    ///
    /// # Errors
    /// `VOLUME_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `VOLUME_RETIRED`,
    /// `ROLE_FORBIDDEN`, `ARGUMENT_INVALID`.
    pub async fn update_volume(
        &self,
        caller: &Caller,
        request: v1::UpdateVolumeRequest,
    ) -> Result<Volume> {
        let account = self.account_of(caller, &request.account_id).await?;
        let mut tx = self.begin_for(caller).await?;
        let (volume, _permit) =
            self.find_volume(tx.sql(), caller, Action::VolumeWrite, account, &request.id).await?;
        match volume.state {
            VolumeState::Active => {}
            VolumeState::Retired => return Err(Code::VolumeRetired.into()),
        }
        let mut changed = volume.clone();
        if let Some(notes) = &request.notes {
            changed.notes = input::notes(notes)?;
        }
        if let Some(names) = &request.flags {
            changed.flags = flags::parse(Owner::Volume, names.items.iter().map(String::as_str))?;
        }
        if let Some(blocks) = request.max_blocks {
            changed.max_blocks = input::count("maxBlocks", blocks)?;
        }
        if let Some(inodes) = request.max_inodes {
            changed.max_inodes = input::count("maxInodes", inodes)?;
        }
        if let Some(retention) = request.retention_seconds {
            changed.retention_seconds = input::count("the retention", retention)?;
        }
        if changed != volume {
            volumes::update(tx.sql(), &changed).await?;
            let change = volume_change(FeedKind::VolumeChanged, &changed);
            tx.commit(caller.entry(Some(account), "volume.update", volume.id), &[change]).await?;
        }
        Ok(changed)
    }
}

fn forbid(given: bool, token: &TokenRecord) -> Result<()> {
    if given {
        return Err(bad(format!(
            "{} token has no such setting",
            token.grant.kind().with_article()
        )));
    }
    Ok(())
}

/// Could nobody be locked out by it? See `check_not_last`.
fn is_unlimited(token: &TokenRecord, now: Timestamp) -> bool {
    let unlimited = match &token.grant {
        Grant::Account { volumes, .. } => volumes.is_empty(),
        Grant::Volume { .. } | Grant::Meta { .. } => true,
    };
    unlimited
        && token.cidrs.is_empty()
        && token.idle_seconds == 0
        && token.expires_at.is_none()
        && token.not_before.is_none_or(|begin| begin <= now)
}

/// Which settings changed, for the audit record.
fn told(before: &TokenRecord, after: &TokenRecord) -> String {
    let mut names = Vec::new();
    for (name, changed) in [
        ("notes", before.notes != after.notes),
        ("expiry", before.expires_at != after.expires_at),
        ("notBefore", before.not_before != after.not_before),
        ("idle", before.idle_seconds != after.idle_seconds),
        ("cidr", before.cidrs != after.cidrs),
        ("grant", before.grant != after.grant),
    ] {
        if changed {
            names.push(name);
        }
    }
    names.join(",")
}
