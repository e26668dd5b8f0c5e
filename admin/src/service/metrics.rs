//! Numbers for dashboards and alerts: of the caller's account, or of all for
//! `system`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_auth::policy::Resource;
use flexfs_common::Result;
use flexfs_common::ids::AccountId;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Caller, Service, mint};
use crate::store::{sessions, tokens};

/// How long counted numbers are told again: counting reads every token.
const KEPT: Duration = Duration::from_secs(15);
/// Accounts whose numbers are kept.
const ACCOUNTS_MAX: usize = 1024;
/// What ends within this time is told as expiring.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Tokens that are listed.
    pub tokens: Vec<tokens::Count>,
    /// Live mounts.
    pub sessions: u64,
}

/// When, and what.
type Lately = (Instant, Arc<Metrics>);

/// Numbers that were counted lately, by account (`None` = all).
#[derive(Debug, Default)]
pub(super) struct Counted {
    lately: Mutex<HashMap<Option<AccountId>, Lately>>,
    turn: tokio::sync::Mutex<()>,
}

impl Counted {
    fn get(&self, account: Option<AccountId>) -> Option<Arc<Metrics>> {
        let counted = self.lately.lock();
        let (at, metrics) = counted.get(&account)?;
        (at.elapsed() < KEPT).then(|| Arc::clone(metrics))
    }

    fn put(&self, account: Option<AccountId>, metrics: &Arc<Metrics>) {
        let mut counted = self.lately.lock();
        if counted.len() >= ACCOUNTS_MAX {
            counted.clear();
        }
        counted.insert(account, (Instant::now(), Arc::clone(metrics)));
    }
}

impl Service {
    /// # Errors
    /// `ROLE_FORBIDDEN`, `DATABASE_FAILED`.
    pub async fn metrics(&self, caller: &Caller) -> Result<Arc<Metrics>> {
        let account = if caller.is_system() {
            caller.permit(Resource::Installation)?;
            None
        } else {
            caller.permit(Resource::Account(caller.account_id()))?;
            Some(caller.account_id())
        };
        if let Some(metrics) = self.counted.get(account) {
            return Ok(metrics);
        }
        // One at a time: each reads many rows.
        let _turn = self.counted.turn.lock().await;
        if let Some(metrics) = self.counted.get(account) {
            return Ok(metrics);
        }
        let now = mint::now();
        let soon = now.checked_add(SOON).unwrap_or(Timestamp::MAX);
        let mut reader = self.store.reader();
        let metrics = Arc::new(Metrics {
            tokens: tokens::counts(reader.as_mut(), account, now, soon).await?,
            sessions: sessions::count(reader.as_mut(), account).await?,
        });
        self.counted.put(account, &metrics);
        Ok(metrics)
    }
}
