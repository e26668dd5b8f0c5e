//! What a row of the feed does here.

use std::collections::HashSet;
use std::sync::Arc;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{AccountId, SecretId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Result, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::FeedKind;

use crate::service::sessions::SessionEntry;
use crate::service::{Service, block};
use crate::volume::Which;

/// Applies the rows of one event, in order. When it fails, the rows must be
/// asked for again: each may be applied twice. Sessions that were cut are
/// added to `cut`, also when it fails later.
///
/// # Errors
/// `ENGINE_FAILED`, `PROTOCOL_INVALID`, `ADMIN_UNREACHABLE`.
pub async fn rows(
    service: &Arc<Service>,
    rows: &[v1::FeedRow],
    cut: &mut Vec<Arc<SessionEntry>>,
) -> Result<()> {
    let mut check = HashSet::new();
    let (mut list, mut revoked) = (false, false);
    for row in rows {
        let row = Row::parse(row)?;
        tracing::debug!(revision = row.revision, kind = ?row.kind, "feed row");
        match row.kind {
            FeedKind::TokenRevoked => {
                cut.extend(block(|| token_revoked(service, &row))?);
                revoked = true;
            }
            FeedKind::TokenChanged => {
                if let Some(token) = row.token {
                    service.changes.note_token(token, row.revision);
                    check.insert(token);
                }
            }
            FeedKind::VolumeRetired => {
                cut.extend(block(|| volume_retired(service, &row))?);
                list = true;
            }
            FeedKind::AccountSuspended => cut.extend(block(|| account_suspended(service, &row))?),
            FeedKind::AccountChanged => {
                if let Some(account) = row.account {
                    service.changes.note_account(account, row.revision);
                }
            }
            FeedKind::VolumeChanged => {
                if let Some(volume) = row.volume {
                    service.changes.note_volume(volume, row.revision);
                }
                list = true;
            }
            FeedKind::MetaStoreChanged | FeedKind::BlockStoreChanged => list = true,
            // Of a later version: look at everything again.
            FeedKind::Unspecified => {
                service.changes.resynchronise();
                list = true;
                check.extend(live_tokens(service).into_iter().map(|(token, _)| token));
            }
        }
    }
    if list {
        list_volumes(service).await?;
    }
    if !check.is_empty() {
        check_tokens(service, |token| check.contains(&token), cut).await?;
    }
    // Before it is acknowledged: a revocation holds over a loss of power too.
    if revoked { block(|| service.grants.sync()) } else { Ok(()) }
}

/// Everything anew: the volumes, and every token that matters here. Sessions
/// that were cut are added to `cut`, also when it fails later.
///
/// # Errors
/// As [`rows`].
pub async fn resynchronise(service: &Arc<Service>, cut: &mut Vec<Arc<SessionEntry>>) -> Result<()> {
    service.changes.resynchronise();
    list_volumes(service).await?;
    service.feed.set_started();
    check_tokens(service, |_| true, cut).await?;
    block(|| service.grants.sync())
}

async fn list_volumes(service: &Arc<Service>) -> Result<()> {
    let reply = service.authority.placed_volumes().await?;
    block(|| {
        for placed in &reply.volumes {
            // One volume that cannot be opened must not take the others along.
            if let Err(error) = service.serve_volume(placed) {
                tracing::error!(volume = %placed.id, error = %error.with_causes(),
                    "volume cannot be taken into service");
            }
        }
    });
    Ok(())
}

fn live_tokens(service: &Service) -> Vec<(TokenId, SecretId)> {
    service.sessions.all().iter().map(|entry| (entry.token_id, entry.secret_id)).collect()
}

/// Asks admin about the tokens of live sessions and of grants.
async fn check_tokens(
    service: &Arc<Service>,
    concerns: impl Fn(TokenId) -> bool,
    cut: &mut Vec<Arc<SessionEntry>>,
) -> Result<()> {
    let mut tokens = live_tokens(service);
    tokens.extend(service.grants.tokens());
    tokens.retain(|(token, _)| concerns(*token));
    tokens.sort_unstable();
    tokens.dedup();
    let asked = BootTime::now();
    let states = service.authority.check(&tokens).await?;
    for ((token, secret), state) in tokens.into_iter().zip(states) {
        match &state.refused {
            Some(detail) => {
                let reason = wire::error_from_detail(detail)?;
                cut.extend(block(|| secret_refused(service, token, secret, &reason))?);
            }
            None => {
                let valid = std::time::Duration::from_millis(state.valid_millis);
                let end = (state.valid_millis != 0).then(|| asked.after(valid));
                let of_secret = |entry: &Arc<SessionEntry>| entry.secret_id == secret;
                if let Some(entry) = service.sessions.all().iter().find(|e| of_secret(e)) {
                    service.set_end(secret, entry.volume.settings().id, end);
                }
            }
        }
    }
    Ok(())
}

fn secret_refused(
    service: &Service,
    token: TokenId,
    secret: SecretId,
    reason: &Error,
) -> Result<Vec<Arc<SessionEntry>>> {
    let cut = service.cut_where(|_| true, Which::Secret(secret), reason)?;
    service.grants.forget(|subject, of| subject.token == token && of == secret)?;
    if reason.code() == Code::TokenRevoked {
        service.grants.note_revoked(token, service.feed.revision())?;
    }
    Ok(cut)
}

fn token_revoked(service: &Service, row: &Row) -> Result<Vec<Arc<SessionEntry>>> {
    let Some(token) = row.token else { return Ok(Vec::new()) };
    service.changes.note_token(token, row.revision);
    if token == service.own_token.id() {
        service.feed.set_own_refused(Some(Code::TokenRevoked));
        return Ok(Vec::new());
    }
    // The volume is named as a help; without it every volume is asked.
    let concerns = |id: VolumeId| row.volume.is_none_or(|volume| volume == id);
    let cut = service.cut_where(
        |served| concerns(served.volume.settings().id),
        Which::Token(token),
        &Error::bare(Code::TokenRevoked),
    )?;
    service.grants.note_revoked(token, row.revision)?;
    service.grants.forget(|subject, _| subject.token == token)?;
    Ok(cut)
}

fn volume_retired(service: &Service, row: &Row) -> Result<Vec<Arc<SessionEntry>>> {
    let Some(volume) = row.volume else { return Ok(Vec::new()) };
    service.changes.note_volume(volume, row.revision);
    let cut = service.cut_where(
        |served| served.volume.settings().id == volume,
        Which::All,
        &Error::bare(Code::VolumeRetired),
    )?;
    service.grants.forget(|subject, _| subject.volume == volume)?;
    Ok(cut)
}

fn account_suspended(service: &Service, row: &Row) -> Result<Vec<Arc<SessionEntry>>> {
    let Some(account) = row.account else { return Ok(Vec::new()) };
    service.changes.note_account(account, row.revision);
    let cut = service.cut_where(
        |served| served.volume.settings().account_id == account,
        Which::All,
        &Error::bare(Code::AccountSuspended),
    )?;
    service.grants.forget(|subject, _| subject.account == account)?;
    Ok(cut)
}

struct Row {
    revision: u64,
    kind: FeedKind,
    account: Option<AccountId>,
    volume: Option<VolumeId>,
    token: Option<TokenId>,
}

impl Row {
    fn parse(row: &v1::FeedRow) -> Result<Row> {
        fn id<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<Option<T>> {
            let bad = |e: Error| Error::new(Code::ProtocolInvalid, "a feed row's id").caused_by(e);
            if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(bad) }
        }
        Ok(Row {
            revision: row.revision,
            kind: FeedKind::try_from(row.kind).unwrap_or(FeedKind::Unspecified),
            account: id(&row.account_id)?,
            volume: id(&row.volume_id)?,
            token: id(&row.token_id)?,
        })
    }
}
