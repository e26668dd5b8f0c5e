//! What a row of the feed does here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{AccountId, SecretId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::FeedKind;

use super::{Checked, revived};
use crate::grants::Confirmed;
use crate::grants::stamp::Stamp;
use crate::service::changes::FeedPoint;
use crate::service::feed_status::FeedState;
use crate::service::sessions::SessionEntry;
use crate::service::{Consequences, Service, block};
use crate::volume::Which;

/// How long admin is asked why the time of a secret is over: its sessions go
/// on meanwhile.
const ASK_AT_END: Duration = Duration::from_millis(500);

/// Applies the rows of one event, in order. When it fails, the rows must be
/// asked for again: each may be applied twice. What has to be over before they
/// are acknowledged is added to `done`, also when it fails later.
///
/// # Errors
/// `ENGINE_FAILED`, `PROTOCOL_INVALID`, `ADMIN_UNREACHABLE`.
pub async fn rows(
    service: &Arc<Service>,
    rows: &[v1::FeedRow],
    done: &mut Consequences,
) -> Result<()> {
    let applied = apply_rows(service, rows, done).await;
    done.add(service.take_consequences());
    applied
}

async fn apply_rows(
    service: &Arc<Service>,
    rows: &[v1::FeedRow],
    done: &mut Consequences,
) -> Result<()> {
    let mut check = HashSet::new();
    let (mut list, mut stored) = (false, false);
    for row in rows {
        let row = Row::parse(row)?;
        tracing::debug!(revision = row.revision, kind = ?row.kind, "feed row");
        match row.kind {
            FeedKind::TokenRevoked => {
                done.cut.extend(block(|| token_revoked(service, &row))?);
                stored = true;
            }
            FeedKind::TokenChanged => {
                if let Some(token) = row.token {
                    service.changes.note_token(token, row.revision);
                    check.insert(token);
                }
            }
            FeedKind::VolumeRetired => {
                done.cut.extend(block(|| volume_retired(service, &row))?);
                list = true;
            }
            FeedKind::AccountSuspended => {
                done.cut.extend(block(|| account_suspended(service, &row))?);
                stored = true;
            }
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
                check.extend(block(|| known_tokens(service)).into_iter().map(|(token, _)| token));
            }
        }
    }
    if list {
        list_volumes(service).await?;
    }
    if !check.is_empty() {
        check_tokens(service, |token| check.contains(&token), done).await?;
    }
    // Before it is acknowledged: it holds over a loss of power too.
    if stored || list || !check.is_empty() { block(|| service.grants.sync()) } else { Ok(()) }
}

/// Everything anew: the volumes, and every token that matters here. What has
/// to be over first is added to `done`, also when it fails later.
///
/// # Errors
/// As [`rows`].
pub async fn resynchronise(service: &Arc<Service>, done: &mut Consequences) -> Result<()> {
    service.changes.resynchronise();
    let applied = async {
        list_volumes(service).await?;
        service.feed.set_started();
        check_tokens(service, |_| true, done).await?;
        block(|| service.grants.sync())
    }
    .await;
    done.add(service.take_consequences());
    if applied.is_ok() {
        tokio::spawn(revived::report(Arc::clone(service)));
    }
    applied
}

async fn list_volumes(service: &Arc<Service>) -> Result<()> {
    let epoch = service.changes.epoch();
    let reply = service.authority.placed_volumes().await?;
    let point = FeedPoint { epoch, revision: reply.revision };
    block(|| {
        for placed in &reply.volumes {
            // One volume that cannot be opened must not take the others along.
            if let Err(error) = service.serve_volume(placed, point) {
                tracing::error!(volume = %placed.id, error = %error.with_causes(),
                    "volume cannot be taken into service");
            }
        }
    });
    Ok(())
}

/// Tokens and secrets of live sessions and of grants. Blocks.
fn known_tokens(service: &Service) -> Vec<(TokenId, SecretId)> {
    let live = service.live_secrets().into_iter().map(|(secret, (token, _))| (token, secret));
    let mut tokens: Vec<_> = live.chain(service.grants.tokens()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// Asks admin about the tokens of live sessions and of grants. Their rows have
/// been noted: whoever opens a session or moves one to another secret from
/// here on asks for himself.
async fn check_tokens(
    service: &Arc<Service>,
    concerns: impl Fn(TokenId) -> bool,
    done: &mut Consequences,
) -> Result<()> {
    let mut tokens = block(|| known_tokens(service));
    tokens.retain(|(token, _)| concerns(*token));
    let (epoch, asked) = (service.changes.epoch(), BootTime::now());
    let checked = service.authority.check(&tokens, limits::CALL).await?;
    let point = FeedPoint { epoch, revision: checked.revision };
    block(|| {
        let live = service.live_secrets();
        let (mut flags, mut good) = (HashMap::new(), HashMap::new());
        for ((token, secret), state) in tokens.into_iter().zip(&checked.states) {
            match &state.refused {
                Some(detail) => {
                    let reason = wire::error_from_detail(detail)?;
                    done.cut.extend(secret_refused(service, token, secret, &reason)?);
                }
                None => {
                    let end = end_of(state, asked);
                    if let Some((_, volume)) = live.get(&secret) {
                        service.set_end(secret, *volume, (end, point));
                    }
                    // Not said is not: none.
                    flags.extend(state.flags.map(|flags| (token, flags)));
                    good.insert(secret, Confirmed { token, flags: state.flags, ends: end });
                }
            }
        }
        service.grants.confirm(&good, &Stamp::now())?;
        for served in service.volumes.all() {
            service.reflagged(served.volume.update_token_flags(&flags)?);
        }
        Ok(())
    })
}

/// What is left of a token counts from when admin was asked.
fn end_of(state: &v1::TokenState, asked: BootTime) -> Option<BootTime> {
    (state.valid_millis != 0).then(|| asked.after(Duration::from_millis(state.valid_millis)))
}

/// The time of these secrets is over, as far as is known here: their sessions
/// end. Admin is asked first, if it is there, whether it was the token's time
/// or the secret's alone, or was extended; for a moment only.
///
/// # Errors
/// `ENGINE_FAILED`; those that are not dealt with come again.
pub async fn end_secrets(
    service: &Arc<Service>,
    ended: &HashMap<SecretId, (TokenId, VolumeId)>,
) -> Result<()> {
    let tokens: Vec<_> = ended.iter().map(|(secret, (token, _))| (*token, *secret)).collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let (epoch, asked) = (service.changes.epoch(), BootTime::now());
    let checked = match service.feed.state() {
        FeedState::Live => service.authority.check(&tokens, ASK_AT_END).await,
        FeedState::Silent | FeedState::Unreachable => Err(Error::bare(Code::AdminUnreachable)),
    };
    let checked = checked.unwrap_or_else(|error| {
        tracing::debug!(error = %error.with_causes(), "ended secrets are not asked about");
        Checked { states: Vec::new(), revision: 0 }
    });
    let point = FeedPoint { epoch, revision: checked.revision };
    let mut states = checked.states.iter();
    block(|| {
        for (token, secret) in tokens {
            match states.next() {
                Some(state) if state.refused.is_none() => {
                    if let Some((_, volume)) = ended.get(&secret) {
                        service.set_end(secret, *volume, (end_of(state, asked), point));
                    }
                }
                state => {
                    let detail = state.and_then(|state| state.refused.as_ref());
                    let reason = match detail {
                        Some(detail) => wire::error_from_detail(detail)?,
                        None => Error::bare(Code::TokenExpired),
                    };
                    secret_refused(service, token, secret, &reason)?;
                }
            }
        }
        Ok(())
    })
}

/// A secret is not good any more. That says nothing of its token, unless that
/// was revoked.
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
    if token == service.own.token().id() {
        service.own_is_refused(Code::TokenRevoked);
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
