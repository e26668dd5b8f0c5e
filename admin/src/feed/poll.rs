//! Background work of the feed: changes of other processes come in, and what
//! servers acknowledged goes out.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::store::lease::RENEW;
use crate::store::{Kind, Store};
use crate::verify::Verify;

/// How often another process's commits are looked for on SQLite: `recover`
/// beside a running admin.
const POLL: Duration = Duration::from_millis(500);
/// How often acknowledgements are written for other replicas (only when
/// there is one) …
const FLUSH_SHARED: Duration = Duration::from_millis(100);
/// … and when only a restart needs them.
const FLUSH_ALONE: Duration = Duration::from_secs(10);

/// How often what ended long ago is looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// Reads which tokens there are, beside everything else: with millions it
/// takes seconds, and until then each unknown one is looked for. Tried until
/// it succeeds.
pub async fn load_known(store: Store, stop: CancellationToken) {
    let mut again = tokio::time::interval(POLL);
    let mut failing = false;
    while !store.knows_tokens() {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = again.tick() => {}
        }
        let loaded = tokio::select! {
            () = stop.cancelled() => return,
            loaded = store.load_known() => loaded,
        };
        if let Err(error) = loaded
            && !failing
        {
            failing = true;
            tracing::warn!(error = error.with_causes(), "the tokens' ids cannot be read yet");
        }
    }
}

/// Follows the database until `stop`. A failure of the database is told once
/// and tried again.
pub async fn follow(store: Store, stop: CancellationToken) {
    let mut failing = false;
    let every = match store.kind() {
        Kind::Sqlite => POLL,
        Kind::Postgres => RENEW,
    };
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = store.notified() => {}
            () = tokio::time::sleep(every) => {}
        }
        let known = match store.catch_up().await {
            Ok(()) => store.renew_lease().await,
            Err(error) => Err(error),
        };
        match known {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(error = error.with_causes(), "the feed cannot be read");
            }
            Err(_) => {}
        }
    }
}

/// Writes acknowledgements, last-used times, refusals and renewed verifiers now
/// and then, and at the end.
pub async fn write_back(service: Arc<Service>, stop: CancellationToken) {
    let (store, registry, verify) = (service.store(), service.registry(), service.verifier());
    let every = match store.kind() {
        Kind::Sqlite => FLUSH_ALONE,
        Kind::Postgres => FLUSH_SHARED,
    };
    let mut acknowledgements = tokio::time::interval(every);
    let mut used = tokio::time::interval(Verify::FLUSH_EVERY);
    let mut refused = tokio::time::interval(Verify::REFUSED_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = acknowledgements.tick() => told("acknowledgements", registry.flush(store).await),
            _ = used.tick() => {
                told("last-used times", verify.flush_used().await);
                registry.note_connected();
                told("live mounts", service.note_live_sessions().await);
            }
            _ = refused.tick() => {
                told("refusals", verify.flush_refused().await);
                told("last-used times", verify.flush_urgent().await);
                told("renewed verifiers", verify.flush_renewed().await);
            }
        }
    }
    told("acknowledgements", registry.flush(store).await);
    told("last-used times", verify.flush_used().await);
    told("refusals", verify.flush_refused().await);
    told("renewed verifiers", verify.flush_renewed().await);
}

/// Purges what ended longer than `retention` ago, now and then.
pub async fn purge(service: Arc<Service>, retention: Duration, stop: CancellationToken) {
    let mut every = tokio::time::interval(PURGE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let purged = tokio::select! {
            () = stop.cancelled() => return,
            purged = service.purge(retention) => purged,
        };
        match purged {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "tokens that ended long ago were purged"),
            Err(error) => told("purges", Err(error)),
        }
    }
}

fn told(what: &str, written: flexfs_common::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(error = error.with_causes(), "{what} are not written");
    }
}
