//! What the session's tasks share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::SessionId;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::connect::Key;
use super::drive::Heartbeats;
use super::events::Events;
use super::lease::{Lease, MetaClock, Renewal};
use super::mutation::{carries_contents, is_mutation, is_waiting_lock, needs_writable};
use super::new_secret::NewSecret;
use super::outbox::{NewOp, Outbox, Places};
use super::slots::Slots;
use super::{SessionEvent, clone_error};

/// A lock that finds no right to wait at meta asks again after this long.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The connection, as callers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Live,
    Down,
    Ended,
}

/// The heart of a session.
pub(crate) struct Shared {
    pub(super) id: SessionId,
    pub(super) key: Key,
    pub(super) peer: Peer,
    pub(super) outbox: Outbox,
    pub(super) lease: Lease,
    pub(super) clock: MetaClock,
    pub(super) events: Arc<Events>,
    pub(super) new_secret: NewSecret,
    /// The mount has let go of the session.
    pub(super) stop: CancellationToken,
    /// In force: meta's word, at the opening and whenever they change.
    flags: RwLock<v1::Flags>,
    wait_limit: Duration,
    in_flight: Arc<Semaphore>,
    /// Operations that may have to wait for what other mounts have written:
    /// not all places and slots, so that what is written here, for which those
    /// may be waiting, always finds one.
    waiting: Arc<Semaphore>,
    waiting_mutations: Arc<Semaphore>,
    /// Locks that may wait at meta: half of the slots, so that an unlock
    /// always finds one.
    lock_waits: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
    ended: OnceLock<Arc<Error>>,
    heartbeats: Mutex<Heartbeats>,
    /// How often all locks were lost.
    lock_losses: AtomicU64,
    driver_done: CancellationToken,
}

/// Three quarters, and one at least.
fn most_of(places: usize) -> usize {
    (places - places / 4).max(1)
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        id: SessionId,
        key: Key,
        peer: Peer,
        wait_limit: Duration,
        grant: &v1::OpenSessionReply,
    ) -> Shared {
        let frame_max = usize::try_from(grant.max_frame_bytes).unwrap_or(usize::MAX);
        let in_flight = usize::try_from(grant.max_in_flight).unwrap_or(1);
        let slots = usize::try_from(grant.slot_count).unwrap_or(1);
        let lock_waits = slots / 2;
        Shared {
            id,
            key,
            peer,
            outbox: Outbox::new(Slots::new(grant.slot_count), frame_max),
            lease: Lease::new(),
            clock: MetaClock::default(),
            events: Arc::new(Events::default()),
            new_secret: NewSecret::default(),
            stop: CancellationToken::new(),
            flags: RwLock::new(grant.flags.unwrap_or_default()),
            wait_limit,
            in_flight: Arc::new(Semaphore::new(in_flight)),
            waiting: Arc::new(Semaphore::new(most_of(in_flight))),
            waiting_mutations: Arc::new(Semaphore::new(most_of(slots))),
            lock_waits: Arc::new(Semaphore::new(lock_waits)),
            phase: watch::Sender::new(Phase::Down),
            ended: OnceLock::new(),
            heartbeats: Mutex::new(Heartbeats::default()),
            lock_losses: AtomicU64::new(0),
            driver_done: CancellationToken::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn ended(&self) -> Option<&Arc<Error>> {
        self.ended.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.get().is_some() || self.stop.is_cancelled()
    }

    pub(super) fn wait_limit(&self) -> Duration {
        self.wait_limit
    }

    // What the connection tells.

    pub(super) fn resumed(&self, sent: BootTime, resumed: &v1::Resumed) {
        if let Some(now) = &resumed.now {
            self.clock.learn(now);
        }
        self.new_secret.again();
        self.outbox.requeue(&resumed.slot_sequences);
        self.told_lock_losses(resumed.lock_losses);
        self.renewed(sent, resumed.lease_millis);
        self.set_phase(Phase::Live);
    }

    pub(super) fn disconnected(&self) {
        self.set_phase(Phase::Down);
    }

    fn set_phase(&self, new: Phase) {
        self.phase.send_if_modified(|phase| {
            let changed = *phase != Phase::Ended && *phase != new;
            if changed {
                *phase = new;
            }
            changed
        });
    }

    pub(super) fn next_heartbeat(&self) -> v1::Heartbeat {
        self.heartbeats.lock().next()
    }

    pub(super) fn heartbeat_answered(&self, ack: &v1::HeartbeatAck) {
        let Some(sent) = self.heartbeats.lock().answered(ack.number) else { return };
        if let Some(now) = &ack.now {
            self.clock.learn(now);
        }
        self.told_lock_losses(ack.lock_losses);
        self.renewed(sent, ack.lease_millis);
    }

    /// Before the lease begins anew: no operation may go on as if its lock were
    /// still there.
    fn told_lock_losses(&self, losses: u64) {
        if self.lock_losses.fetch_max(losses, Ordering::AcqRel) < losses {
            tracing::warn!("meta heard nothing for longer than the lease: all locks are lost");
        }
    }

    pub(super) fn lock_losses(&self) -> u64 {
        self.lock_losses.load(Ordering::Acquire)
    }

    fn renewed(&self, sent: BootTime, millis: u32) {
        match self.lease.renew(sent, millis) {
            Renewal::Back { unnoticed } => {
                if unnoticed {
                    self.events.push(SessionEvent::LeaseLost);
                }
                self.events.push(SessionEvent::LeaseBack);
            }
            Renewal::Kept | Renewal::Late => {}
        }
    }

    pub(super) fn recall(&self, recall: v1::Recall) {
        self.events.push(SessionEvent::Recall(recall));
    }

    pub(super) fn flags(&self) -> v1::Flags {
        *self.flags.read()
    }

    /// Other flags are in force, from the next operation on.
    pub(super) fn flags_changed(&self, new: v1::Flags) {
        let old = std::mem::replace(&mut *self.flags.write(), new);
        if old != new {
            self.events.push(SessionEvent::FlagsChanged(new));
        }
    }

    /// The session has ended for good: every waiting and every later call
    /// fails with `error` from now on.
    pub(super) fn cut(&self, error: Error) {
        let error = Arc::new(error);
        if self.ended.set(Arc::clone(&error)).is_err() {
            return;
        }
        tracing::warn!(code = %error.code(), "the session was cut");
        self.end(&error);
        self.events.push(SessionEvent::Cut(error));
    }

    /// The driver has ended.
    pub(super) fn finished(&self) {
        let closed = Arc::new(Error::new(Code::SessionUnknown, "the session is closed"));
        // After a cut this changes nothing.
        let error = self.ended.get_or_init(|| closed);
        self.end(error);
        self.driver_done.cancel();
    }

    fn end(&self, error: &Arc<Error>) {
        self.phase.send_replace(Phase::Ended);
        self.new_secret.fail();
        self.outbox.fail_all(error);
    }

    // What callers need.

    /// Returns when the session has ended, with its error.
    pub(super) async fn cut_error(&self) -> Error {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
        match self.ended.get() {
            Some(error) => clone_error(error),
            None => Error::bare(Code::SessionUnknown),
        }
    }

    /// Returns when waiting has no use: the session has ended, or meta was
    /// out of reach for the wait limit.
    pub(super) async fn hopeless(&self) -> Error {
        let mut phase = self.phase.subscribe();
        loop {
            let now = phase.wait_for(|phase| *phase != Phase::Live).await.map(|phase| *phase);
            if !matches!(now, Ok(Phase::Down)) {
                return self.cut_error().await;
            }
            let back = phase.wait_for(|phase| *phase != Phase::Down);
            if tokio::time::timeout(self.wait_limit, back).await.is_err() {
                return Error::new(Code::FsIo, "meta could not be reached in time");
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(error) = self.ended.get() {
            return Err(clone_error(error));
        }
        if self.lease.valid() {
            return Ok(());
        }
        Err(Error::new(self.peer.unreachable, "the lease has ended and meta cannot be reached"))
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.flags.read().ro { Err(Error::bare(Code::FsReadOnly)) } else { Ok(()) }
    }

    /// Moves the session to another secret of its token.
    pub(super) async fn reauthenticate(&self, token: Token) -> Result<()> {
        let (number, answer) = self.new_secret.offer(token);
        let _withdraw = Withdraw { new_secret: &self.new_secret, number };
        self.outbox.wake.notify_one();
        tokio::select! {
            biased;
            Ok(answer) = answer => answer,
            error = self.cut_error() => Err(error),
            () = tokio::time::sleep(limits::CALL) => {
                Err(Error::new(self.peer.unreachable, "meta did not answer in time"))
            }
        }
    }

    pub(super) async fn wait_ready(&self) -> Result<()> {
        if self.check().is_ok() {
            return Ok(());
        }
        let valid = async {
            // Polled: a renewal is an atomic store on the hot path.
            while !self.lease.valid() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            biased;
            error = self.cut_error() => Err(error),
            () = valid => Ok(()),
            () = tokio::time::sleep(self.wait_limit) => {
                Err(Error::new(Code::FsIo, "meta could not be reached in time"))
            }
        }
    }

    pub(super) async fn call(
        &self,
        caller: v1::Caller,
        body: v1::op::Body,
    ) -> Result<v1::reply::Result> {
        if let Some(error) = self.ended.get() {
            return Err(clone_error(error));
        }
        if needs_writable(&body) {
            self.check_writable()?;
        }
        let exchange = async {
            match body {
                v1::op::Body::SetLock(lock) if lock.wait => self.wait_for_lock(caller, lock).await,
                other => self.exchange(caller, other).await,
            }
        };
        tokio::select! {
            biased;
            answer = exchange => answer,
            error = self.hopeless() => Err(error),
        }
    }

    /// Waits at meta when few locks do, else asks again and again: waiting
    /// locks hold their slots, and the unlock they wait for needs one.
    async fn wait_for_lock(
        &self,
        caller: v1::Caller,
        lock: v1::SetLock,
    ) -> Result<v1::reply::Result> {
        loop {
            if let Ok(_right) = self.lock_waits.try_acquire() {
                return self.exchange(caller, v1::op::Body::SetLock(lock)).await;
            }
            let once = v1::SetLock { wait: false, ..lock.clone() };
            match self.exchange(caller.clone(), v1::op::Body::SetLock(once)).await {
                Err(error) if error.code() == Code::FsWouldBlock => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                other => return other,
            }
        }
    }

    async fn exchange(&self, caller: v1::Caller, body: v1::op::Body) -> Result<v1::reply::Result> {
        let over = || Error::bare(Code::SessionUnknown);
        let waiting_lock = is_waiting_lock(&body);
        let slots = self.outbox.slots();
        let place = async |places: &Arc<Semaphore>, is_needed: bool| match is_needed {
            true => Arc::clone(places).acquire_owned().await.map(Some).map_err(|_| over()),
            false => Ok(None),
        };
        let (mutates, waits) = (is_mutation(&body), !carries_contents(&body));
        let waiting_mutation = place(&self.waiting_mutations, waits && mutates).await?;
        let waiting = place(&self.waiting, waits).await?;
        let slot = if mutates { Some(slots.permit().await.ok_or_else(over)?) } else { None };
        let in_flight = Arc::clone(&self.in_flight).acquire_owned().await.map_err(|_| over())?;
        let slot = slot.and_then(|permit| slots.take(permit));
        let places = Places {
            _in_flight: in_flight,
            _waiting: waiting,
            _waiting_mutation: waiting_mutation,
        };
        let new = NewOp { caller, body, slot, waiting_lock, places };
        let (id, answer) = self.outbox.submit(new)?;
        let mut abandon = Abandon { outbox: &self.outbox, id: Some(id) };
        let answer = answer.await;
        abandon.id = None;
        answer.map_err(|_| over())?
    }

    /// Waits for what is in flight, says goodbye, waits for the driver.
    pub(super) async fn close(&self) {
        let idle = async {
            loop {
                let idle = self.outbox.idle.notified();
                if self.outbox.is_idle() {
                    return;
                }
                idle.await;
            }
        };
        // A meta that does not answer does not keep an unmount for ever.
        let _ = tokio::time::timeout(self.wait_limit, idle).await;
        if self.phase() == Phase::Live {
            self.outbox.goodbye();
            let _ = tokio::time::timeout(self.wait_limit, self.driver_done.cancelled()).await;
        }
        self.stop.cancel();
        self.driver_done.cancelled().await;
    }
}

/// A secret whose answer nobody waits for is not sent (again).
struct Withdraw<'a> {
    new_secret: &'a NewSecret,
    number: u64,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.new_secret.withdraw(self.number);
    }
}

/// Tells the outbox when a caller goes before its answer.
struct Abandon<'a> {
    outbox: &'a Outbox,
    id: Option<u64>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.outbox.abandon(id);
        }
    }
}
