//! What a server does by itself: the core's work of every second, ends of
//! tokens, the grace, a look at the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, wire};

use super::changes::FeedPoint;
use super::placed::Served;
use super::{Service, block};
use crate::authority::apply;
use crate::grants::stamp::Stamp;

/// How often the core is given time for its background work.
const TICK: Duration = Duration::from_secs(1);
/// Longest time between two looks at what ends.
const LOOK: Duration = Duration::from_millis(250);
/// How often the use of the grace is written down.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// Background work of one volume, until the server ends.
pub async fn tick_volume(service: Arc<Service>, served: Arc<Served>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = service.stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        let volume = Arc::clone(&served.volume);
        match tokio::task::spawn_blocking(move || volume.tick()).await {
            Ok(Ok(ended)) => {
                for entry in ended.into_iter().filter_map(|id| service.sessions.remove(id)) {
                    // The core knows why it ended.
                    let reason = match block(|| entry.volume.session_key(entry.id)) {
                        Err(error) => error,
                        Ok(_) => Error::bare(Code::SessionUnknown),
                    };
                    tracing::info!(session = %entry.id, code = %reason.code(), "session ended");
                    entry.push_cut(&wire::error_to_detail(&reason));
                }
            }
            Ok(Err(error)) => tracing::error!(error = %error.with_causes(), "background work"),
            Err(error) => tracing::error!(%error, "background work died"),
        }
    }
}

/// Cuts sessions when the time of their token is over, and looks after the
/// grace, until the server ends.
pub async fn watch_time(service: Arc<Service>) {
    // At the first look: a server that is killed young has been heard, too.
    let mut written = None::<tokio::time::Instant>;
    loop {
        let wait = service.next_end().map_or(LOOK, |at| at.left().min(LOOK));
        tokio::select! {
            () = service.stop.cancelled() => break,
            // At least a little, so that a failing cut does not spin.
            () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
        }
        cut_ended(&service).await;
        service.review_grace();
        // So that a change is told also when nobody works.
        block(|| service.volumes.engine().room());
        if written.is_none_or(|at| at.elapsed() >= CHECKPOINT) {
            written = Some(tokio::time::Instant::now());
            checkpoint(&service);
            block(|| service.forget_unused_ends());
        }
    }
    checkpoint(&service);
}

fn checkpoint(service: &Service) {
    if let Err(error) = block(|| service.grants.checkpoint(Stamp::now())) {
        tracing::error!(error = %error.with_causes(), "the use of the grace cannot be written");
    }
}

async fn cut_ended(service: &Arc<Service>) {
    let over = service.take_ended();
    if over.is_empty() {
        return;
    }
    // Of those that nobody lives from any more nothing need be known.
    let live = block(|| service.live_secrets());
    let ended: HashMap<_, _> = over
        .iter()
        .filter_map(|(secret, _)| live.get_key_value(secret))
        .map(|(s, l)| (*s, *l))
        .collect();
    if let Err(error) = apply::end_secrets(service, &ended).await {
        tracing::error!(error = %error.with_causes(), "sessions of an expired token");
        // Once more at the next look.
        for (secret, (_, volume)) in ended {
            service.set_end(secret, volume, (Some(BootTime::now()), FeedPoint::default()));
        }
    }
}
