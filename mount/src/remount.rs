//! Flags that changed on a live mount, brought to the kernel as far as it lets
//! us: /proc/mounts shows them, and what has a meaning there alone (noexec, …)
//! holds.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::{Code, Error, Result, flags};
use flexfs_proto::v1;
use tokio::sync::watch;

use crate::fuse::{Mounted, Remounted};

/// How often a read-only mount with files open for writing is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Runs until the sender of `wanted` is gone; `mounted_with` is in force at
/// first.
pub async fn run(
    mounted: Arc<Mounted>,
    mounted_with: v1::Flags,
    mut wanted: watch::Receiver<v1::Flags>,
) {
    let with_checks = flags::identity_is_true(&mounted_with);
    while wanted.changed().await.is_ok() {
        let now = *wanted.borrow();
        if with_checks && !flags::identity_is_true(&now) {
            tracing::warn!(
                "identities are squashed or pinned from now on; until it is mounted again, this \
                 machine's kernel checks permissions for the callers' own ids as well"
            );
        }
        if !remount(&mounted, &mut wanted).await {
            return;
        }
    }
}

/// Until the latest flags are in force, or cannot be; false when nobody wants
/// any more.
async fn remount(mounted: &Arc<Mounted>, wanted: &mut watch::Receiver<v1::Flags>) -> bool {
    let mut told = false;
    loop {
        let flags = *wanted.borrow_and_update();
        match once(mounted, flags).await {
            Ok(Remounted::InForce) => {
                tracing::info!(flags = flags::names(&flags).join(","), "other flags are in force");
                return true;
            }
            Ok(Remounted::Busy) if !told => {
                told = true;
                tracing::info!("read-only; the kernel says so when no file is open for writing");
            }
            Ok(Remounted::Busy) => {}
            // Meta refuses all the same; only what the kernel alone can do
            // waits for the next mount.
            Err(error) => {
                tracing::error!(code = %error.code(), "flags changed: {}", error.with_causes());
                return true;
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return false },
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn once(mounted: &Arc<Mounted>, flags: v1::Flags) -> Result<Remounted> {
    let mounted = Arc::clone(mounted);
    tokio::task::spawn_blocking(move || mounted.remount(&flags))
        .await
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
}
