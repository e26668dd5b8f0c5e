//! Acknowledgements to admin: a revision is acknowledged when everything up
//! to it is applied *and* every client that was cut by it serves nothing any
//! more, and whose flags it changed keeps nothing older. In order, and without
//! holding up the feed.

use std::collections::HashMap;
use std::sync::Arc;

use flexfs_common::ids::TokenId;
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::service::{Consequences, Service};

/// Applied batches that wait for their clients. Each waits at most one lease;
/// beyond this many the feed waits as well.
const WAITING_MAX: usize = 4096;

/// Tokens in one acknowledgement: admin takes so many.
const CUTS_PER_ACK: usize = 1000;

/// Rows up to a revision are applied.
#[derive(Debug)]
pub struct Applied {
    /// Up to here.
    pub revision: u64,
    /// What has to be over first.
    pub consequences: Consequences,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    /// Cut and not yet reported.
    cuts: HashMap<TokenId, u32>,
}

/// The acknowledgements of one feed.
#[derive(Debug)]
pub struct Acks {
    state: Arc<Mutex<State>>,
    waiting: mpsc::Sender<Applied>,
    changed: watch::Receiver<u64>,
}

impl Acks {
    /// Begins at a revision; the task ends when this is dropped.
    #[must_use]
    pub fn start(revision: u64) -> Acks {
        let state = Arc::new(Mutex::new(State { revision, cuts: HashMap::new() }));
        let (waiting, mut receiver) = mpsc::channel::<Applied>(WAITING_MAX);
        let (signal, changed) = watch::channel(0_u64);
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Some(applied) = receiver.recv().await {
                let Consequences { cut, recalls } = applied.consequences;
                for entry in &cut {
                    entry.is_quiet().await;
                }
                for recalls in recalls {
                    recalls.over().await;
                }
                {
                    let mut state = shared.lock();
                    state.revision = state.revision.max(applied.revision);
                    for (token, count) in Service::count_per_token(&cut) {
                        let sum = state.cuts.entry(token).or_default();
                        *sum = sum.saturating_add(count);
                    }
                }
                signal.send_modify(|n| *n = n.wrapping_add(1));
            }
        });
        Acks { state, waiting, changed }
    }

    /// To be acknowledged when its clients are quiet.
    pub async fn push(&self, applied: Applied) {
        // The task ends only with the sender in `self`.
        let _ = self.waiting.send(applied).await;
    }

    /// Ends when there is something new to tell. Cancel-safe.
    pub async fn changed(&mut self) {
        // The sender lives as long as `waiting`.
        let _ = self.changed.changed().await;
    }

    /// The acknowledgement to send now, and whether more cuts are to be told.
    #[must_use]
    pub fn take(&self) -> (v1::WatchAck, bool) {
        let mut state = self.state.lock();
        let part: Vec<TokenId> = state.cuts.keys().take(CUTS_PER_ACK).copied().collect();
        let cuts = part
            .into_iter()
            .filter_map(|token| state.cuts.remove(&token).map(|sessions| (token, sessions)))
            .map(|(token, sessions)| v1::CutCount { token_id: token.to_string(), sessions })
            .collect();
        (v1::WatchAck { revision: state.revision, cuts }, !state.cuts.is_empty())
    }

    /// It could not be sent: the counts are told another time.
    pub fn put_back(&self, ack: &v1::WatchAck) {
        let mut state = self.state.lock();
        for cut in &ack.cuts {
            if let Ok(token) = cut.token_id.parse() {
                let sum = state.cuts.entry(token).or_default();
                *sum = sum.saturating_add(cut.sessions);
            }
        }
    }
}
