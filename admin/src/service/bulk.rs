//! Many tokens revoked at once: by account, volume, list or age. One
//! transaction and one push per page.

use flexfs_auth::policy::{Action, Resource, authorize};
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::{Code, Result};
use flexfs_proto::v1::{self, FeedKind};
use jiff::Timestamp;

use super::find::check_covers;
use super::input::{self, bad};
use super::mint::{self, token_change};
use super::revoke::{Settled, Whose, check_not_last};
use super::{Caller, Service, hidden};
use crate::page::Page;
use crate::store::tokens::{self, Filter, Listed};
use crate::store::volumes::Visible;
use crate::store::{Sql, ending, volumes};

/// Tokens of one call: others wait for the writer meanwhile.
const PAGE_MAX: u32 = 200;

/// Ids of one call.
const IDS_MAX: usize = 1000;

/// What a page of a bulk revocation did.
#[derive(Clone, Debug)]
pub struct BulkRevoked {
    /// Those revoked, or that would be.
    pub items: Vec<Listed>,
    /// Those left alone.
    pub kept: Vec<TokenId>,
    /// 0 = nothing was revoked.
    pub revision: u64,
    /// What the servers said.
    pub settled: Settled,
    /// Empty = that was all.
    pub next_page: String,
}

/// What is to be revoked.
struct Selection {
    kinds: Vec<TokenKind>,
    volume: Option<VolumeId>,
    ids: Vec<TokenId>,
    created_before: Option<Timestamp>,
    now: Timestamp,
}

impl Service {
    /// Revokes a page of what is selected, or tells what would be. The
    /// caller's own token, stronger ones and the last owner are kept.
    ///
    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `VOLUME_NOT_FOUND`, `ROLE_FORBIDDEN`,
    /// `ARGUMENT_INVALID`.
    pub async fn revoke_tokens(
        &self,
        caller: &Caller,
        request: v1::RevokeTokensRequest,
    ) -> Result<BulkRevoked> {
        let account = self.account_of(caller, &request.account_id).await?;
        let reason = input::notes(&request.reason)?;
        let page = Page::parse(PAGE_MAX, &request.page)?;
        let selection = self.selection(caller, account, &request).await?;
        let mut tx = self.begin_ending(caller, request.wait_millis).await?;
        let visible = caller.visible(account);
        let (mut found, next_page) = select(tx.sql(), &visible, &selection, &page).await?;
        let mut kept = Vec::new();
        let mut items = Vec::new();
        for listed in found.drain(..) {
            let ends = listed.token.id != caller.token_id()
                && check_covers(caller, &listed.token).is_ok()
                && self.ends(tx.sql(), caller, &listed, &reason, selection.now).await?;
            if ends {
                items.push(listed);
            } else {
                kept.push(listed.token.id);
            }
        }
        if request.dry_run || items.is_empty() {
            // Dropped without a commit it never happened.
            drop(tx);
            let settled = Settled::default();
            return Ok(BulkRevoked { items, kept, revision: 0, settled, next_page });
        }
        let mut changes = Vec::new();
        let mut entries = Vec::new();
        let mut places = Vec::new();
        for listed in &items {
            let volume = super::revoke::volume_of(tx.sql(), &listed.token).await?;
            changes.push(token_change(FeedKind::TokenRevoked, &listed.token, volume.as_ref()));
            let mut entry = caller.entry(Some(account), "token.revoke", listed.token.id);
            entry.detail.clone_from(&reason);
            entries.push(entry);
            places.extend(volume.map(|volume| volume.meta_store));
        }
        places.sort();
        places.dedup();
        let whose = Whose::Tokens(items.iter().map(|listed| listed.token.id).collect());
        let wait = self.prepare_wait(tx.sql(), whose, places, request.wait_millis).await?;
        let revision = tx.commit_all(&entries, &changes).await?;
        let settled = self.settle(wait, revision).await?;
        let revision = self.told(caller, revision).await?;
        Ok(BulkRevoked { items, kept, revision, settled, next_page })
    }

    /// Revokes one in the transaction, unless it is the last owner. What was
    /// revoked before it in the page counts.
    async fn ends(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        listed: &Listed,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool> {
        match check_not_last(sql, caller, &listed.token).await {
            Ok(()) => ending::revoke(sql, listed.token.id, now, reason).await,
            Err(error) if error.code() == Code::LastOwner => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn selection(
        &self,
        caller: &Caller,
        account: AccountId,
        request: &v1::RevokeTokensRequest,
    ) -> Result<Selection> {
        let kinds = match request.kind.as_str() {
            "" => vec![TokenKind::Account, TokenKind::Volume],
            kind => vec![TokenKind::from_name(kind)?],
        };
        let volume = match request.volume.as_str() {
            "" => None,
            text => {
                let mut reader = self.store.reader();
                let action = Action::VolumeTokenWrite;
                let found =
                    self.find_volume(reader.as_mut(), caller, action, account, text).await?;
                Some(found.0.id)
            }
        };
        // Tokens of a volume are volume tokens.
        let kinds = match (volume, request.kind.as_str()) {
            (Some(_), "") => vec![TokenKind::Volume],
            _ => kinds,
        };
        let kinds = permitted(caller, account, volume, kinds)?;
        if request.ids.len() > IDS_MAX {
            return Err(bad(format!("at most {IDS_MAX} ids at once")));
        }
        Ok(Selection {
            kinds,
            volume,
            ids: request.ids.iter().map(|id| id.parse()).collect::<Result<_>>()?,
            created_before: input::time(request.created_before.as_ref())?,
            now: mint::now(),
        })
    }
}

/// Those of the kinds that the caller may end; none at all is an error.
fn permitted(
    caller: &Caller,
    account: AccountId,
    volume: Option<VolumeId>,
    kinds: Vec<TokenKind>,
) -> Result<Vec<TokenKind>> {
    let mut allowed = Vec::new();
    let mut refused = None;
    for kind in kinds {
        let resource = match (kind, volume) {
            (TokenKind::Meta, _) => Resource::Installation,
            (_, Some(volume)) => Resource::Volume(account, volume),
            (_, None) => Resource::Account(account),
        };
        let action = caller.token_action(kind)?;
        match authorize(&caller.principal, action, resource) {
            Ok(_) => allowed.push(kind),
            Err(error) => refused = Some(hidden(error, Code::AccountNotFound)),
        }
    }
    match refused {
        Some(error) if allowed.is_empty() => Err(error),
        Some(_) | None => Ok(allowed),
    }
}

/// A page of the selection. Ids are looked up one by one; else the kinds
/// follow each other, and the page's token says where.
async fn select(
    sql: &mut dyn Sql,
    visible: &Visible,
    selection: &Selection,
    page: &Page,
) -> Result<(Vec<Listed>, String)> {
    if !selection.ids.is_empty() {
        return Ok((by_ids(sql, visible, selection).await?, String::new()));
    }
    let mut found = Vec::new();
    for kind in &selection.kinds {
        let filter = Filter {
            volume: selection.volume,
            created_before: selection.created_before,
            unrevoked: true,
            ..Filter::all(*kind, visible, selection.now)
        };
        found.extend(tokens::list(sql, &filter, page).await?);
    }
    found.sort_by_key(|listed| (listed.token.created_at, listed.token.id.to_string()));
    let next = page.finish(&mut found, |listed| {
        (listed.token.created_at.as_microsecond(), listed.token.id.to_string())
    });
    Ok((found, next))
}

async fn by_ids(
    sql: &mut dyn Sql,
    visible: &Visible,
    selection: &Selection,
) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    for id in &selection.ids {
        // What is not yours is not found, and an ended one is not named again.
        let Some(listed) = tokens::listed(sql, *id, selection.now).await? else { continue };
        let token = &listed.token;
        let volume = match token.volume_id() {
            Some(id) => volumes::by_id(sql, id).await?,
            None => None,
        };
        let shown = token.account_id == visible.account
            && volume.as_ref().is_none_or(|volume| visible.shows(volume));
        let selected = selection.kinds.contains(&token.grant.kind())
            && selection.volume.is_none_or(|id| token.volume_id() == Some(id))
            && selection.created_before.is_none_or(|before| token.created_at < before);
        if shown && selected && token.deleted_at.is_none() && token.revoked_at.is_none() {
            found.push(listed);
        }
    }
    Ok(found)
}
