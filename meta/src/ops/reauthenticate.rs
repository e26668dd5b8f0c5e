//! A live session is moved to another secret of its token: the mount's
//! credentials file has changed. Verified as when a session is opened; a
//! refusal, or nobody there to ask, changes nothing.

use std::sync::Arc;
use std::time::Duration;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Result};

use crate::rpc::validate::{Caller, TRIES, changes_too_fast, check_known, verdict_for};
use crate::rpc::verdict::Verdict;
use crate::service::news::Change;
use crate::service::sessions::SessionEntry;
use crate::service::{PeerAddress, Service, block};

/// A session re-authenticates at most this often. Who comes sooner waits: an
/// honest mount never does, another cannot make this server ask on and on.
const INTERVAL: Duration = Duration::from_secs(1);

/// Verifies the token and moves the session to its secret. Returns what is
/// left of token and secret in milliseconds, 0 = no end.
///
/// # Errors
/// `CREDS_MISMATCH` for another token than the session's, and everything that
/// refuses a new session.
pub async fn reauthenticate(
    service: Arc<Service>,
    entry: Arc<SessionEntry>,
    peer: PeerAddress,
    token: Token,
) -> Result<u64> {
    let mut last = entry.reauthentication.lock().await;
    if let Some(last) = *last {
        tokio::time::sleep(last.after(INTERVAL).left()).await;
    }
    *last = Some(BootTime::now());
    let outcome = try_move(&service, &entry, peer, token).await;
    match &outcome {
        Ok(_) => tracing::info!(session = %entry.id, "session authenticated again"),
        Err(error) => tracing::info!(session = %entry.id, code = %error.code(),
            error = %error.with_causes(), "session not authenticated again"),
    }
    outcome
}

async fn try_move(
    service: &Arc<Service>,
    entry: &Arc<SessionEntry>,
    peer: PeerAddress,
    token: Token,
) -> Result<u64> {
    if token.kind() != TokenKind::Volume {
        return Err(Error::bare(Code::TokenWrongKind));
    }
    if token.id() != entry.token_id {
        return Err(another("token"));
    }
    check_known(service, &token)?;
    let info = entry.volume.session_info(entry.id)?;
    let volume = entry.volume.settings().id;
    let caller = Caller { token, peer, volume: volume.to_string(), host_name: info.host_name };
    for _ in 0..TRIES {
        let verdict = verdict_for(service, &caller).await?;
        if verdict.subject.volume != volume || verdict.scope != info.scope {
            return Err(another("volume or scope"));
        }
        if block(|| move_to(service, entry, &verdict))? {
            return Ok(verdict.millis_left());
        }
    }
    Err(changes_too_fast())
}

/// False when the feed has overtaken the verdict. Blocks.
fn move_to(service: &Service, entry: &SessionEntry, verdict: &Verdict) -> Result<bool> {
    // Asked in the commit order. The row that ends a secret is noted before
    // anybody looks who lives from it: so either it is seen here, or the
    // session is found with its new secret.
    let holds =
        || service.changes.is_current(verdict.subject, verdict.point) && !verdict.has_ended();
    // Nothing else moves it: a session re-authenticates once at a time.
    let is_news = entry.volume.session_info(entry.id)?.secret_id != verdict.secret_id;
    let moved = entry.volume.move_to_secret(entry.id, verdict.secret_id, &holds);
    // Told also when that failed: it may have moved all the same.
    if is_news && !matches!(moved, Ok(false)) {
        service.sessions.news.note(entry.id, Change::Opened);
    }
    if !moved? {
        return Ok(false);
    }
    let end = (verdict.ends, verdict.point);
    service.set_end(verdict.secret_id, verdict.subject.volume, end);
    Ok(true)
}

fn another(what: &str) -> Error {
    Error::new(Code::CredsMismatch, format!("another {what} than the session's: mount again"))
}
