//! What ended long ago is taken away: tokens leave the listings, verifiers of
//! ended secrets are removed. Ids stay known for ever.

use std::time::Duration;

use flexfs_common::{Result, limits};
use flexfs_proto::v1::FeedKind;
use jiff::Timestamp;

use super::Service;
use super::mint::{self, token_change};
use super::revoke::volume_of;
use crate::audit::{Entry, OK, Who};
use crate::store::{claims, ending, requests, secrets, sessions, tokens};

/// Between two transactions.
const BREATH: Duration = Duration::from_millis(50);
/// How long a request id is remembered.
const REQUESTS_KEPT: Duration = Duration::from_secs(24 * 3600);

impl Service {
    /// Purges what ended longer than `retention` ago. Returns how many tokens.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; what was done before stays done.
    pub async fn purge(&self, retention: Duration) -> Result<usize> {
        let now = mint::now();
        let before = |span: Duration| now.checked_sub(span).unwrap_or(Timestamp::MIN);
        let mut purged = 0;
        loop {
            let mut tx = self.store.begin().await?;
            let ended = ending::ended_before(tx.sql(), before(retention)).await?;
            if ended.is_empty() {
                break;
            }
            let (mut entries, mut changes) = (Vec::new(), Vec::new());
            for id in &ended {
                let Some(token) = tokens::by_id(tx.sql(), *id).await? else { continue };
                let volume = volume_of(tx.sql(), &token).await?;
                ending::delete(tx.sql(), *id, now).await?;
                changes.push(token_change(FeedKind::TokenRevoked, &token, volume.as_ref()));
                entries.push(Entry {
                    who: Who::Purge,
                    account: Some(token.account_id),
                    action: "token.purge",
                    target: id.to_string(),
                    source: None,
                    outcome: OK,
                    detail: String::new(),
                    request: None,
                });
            }
            purged += ended.len();
            tx.commit_all(&entries, &changes).await?;
            // Others write, too.
            tokio::time::sleep(BREATH).await;
        }
        let mut tx = self.store.begin().await?;
        secrets::purge(tx.sql(), before(retention)).await?;
        claims::purge(tx.sql(), before(retention)).await?;
        requests::purge(tx.sql(), before(REQUESTS_KEPT)).await?;
        // A silent server ends its sessions itself after this time.
        sessions::purge(tx.sql(), before(limits::SESSION + limits::ADMIN_GRACE)).await?;
        tx.commit_quietly().await?;
        Ok(purged)
    }

    /// Live mounts of connected servers are uses of their tokens.
    ///
    /// # Errors
    /// `DATABASE_FAILED`; it is tried again at the next call.
    pub async fn note_live_sessions(&self) -> Result<()> {
        let servers = self.registry.connected_servers();
        if servers.is_empty() {
            return Ok(());
        }
        let now = mint::now();
        let mut tx = self.store.begin().await?;
        for server in servers {
            sessions::note_used(tx.sql(), server, now).await?;
        }
        tx.commit_quietly().await
    }
}
