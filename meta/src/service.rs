//! The state of a running server, and what its parts do to sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use flexfs_common::clock::BootTime;
use flexfs_common::ids::{SecretId, ServerId, SessionId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Kind, Result, wire};
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::blocks::directory::DirectoryStore;
use crate::blocks::endpoint::Transfers;
use crate::blocks::signed::{Claims, Method, Signer};
use crate::engine::{Engine, Room};
use crate::grants::Grants;
use crate::grants::stamp::Stamp;
use crate::rpc::validate::Flights;
use crate::rpc::verdict::Verdicts;
use crate::volume::{Recalls, Reflagged, SessionKey, SessionSeal, Which};

pub mod background;
pub mod changes;
pub mod feed_status;
pub mod news;
pub mod own;
pub mod placed;
pub mod sessions;
pub mod synced;

use changes::{Changes, FeedPoint};
use feed_status::FeedStatus;
use own::OwnToken;
use placed::{Change, Served, Volumes};
use sessions::{SessionEntry, Sessions};

/// Everything the parts of a running server share.
#[derive(Debug)]
pub struct Service {
    /// Who this server is.
    pub server_id: ServerId,
    /// Its own token.
    pub own: OwnToken,
    /// admin.
    pub authority: Authority,
    /// Signs block URLs.
    pub signer: Arc<Signer>,
    /// Volumes in service.
    pub volumes: Volumes,
    /// Live sessions.
    pub sessions: Sessions,
    /// What the feed said last of whom.
    pub changes: Changes,
    /// Verdicts in memory.
    pub verdicts: Verdicts,
    /// Verdicts being fetched.
    pub flights: Flights,
    /// What holds while admin is away.
    pub grants: Grants,
    /// How the feed is.
    pub feed: FeedStatus,
    /// Ends when the server ends.
    pub stop: CancellationToken,
    /// When the time of the secrets of live sessions is over.
    lives: Mutex<HashMap<SecretId, Life>>,
    /// What changes of settings did to sessions, for the acknowledgement of
    /// the feed's row: whoever heard of the change first.
    consequences: Mutex<Consequences>,
}

/// Ends of secrets that are kept without a look at who lives from them.
const ENDS_KEPT: usize = 4096;

/// The time of a secret.
#[derive(Clone, Copy, Debug)]
struct Life {
    volume: VolumeId,
    end: BootTime,
    /// When admin said so: a later word is not replaced by an earlier one.
    point: FeedPoint,
    /// When it was last heard of, by whomever.
    heard: BootTime,
}

/// What has to be over before a row of the feed is acknowledged.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Sessions that were cut.
    pub cut: Vec<Arc<SessionEntry>>,
    /// What sessions were granted under flags that hold no longer.
    pub recalls: Vec<Recalls>,
}

impl Consequences {
    /// These as well.
    pub fn add(&mut self, more: Consequences) {
        self.cut.extend(more.cut);
        self.recalls.extend(more.recalls);
    }

    /// Is there nothing to wait for?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cut.is_empty() && self.recalls.is_empty()
    }
}

/// What a [`Service`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who this server is.
    pub server_id: ServerId,
    /// Its own token.
    pub own: OwnToken,
    /// admin.
    pub authority: Authority,
    /// Keeps everything.
    pub engine: Arc<dyn Engine>,
    /// Signs block URLs.
    pub signer: Arc<Signer>,
    /// Seals the keys of sessions.
    pub seal: Arc<SessionSeal>,
    /// What holds while admin is away.
    pub grants: Grants,
}

/// Work that may block the thread, from an async task.
pub fn block<R>(work: impl FnOnce() -> R) -> R {
    tokio::task::block_in_place(work)
}

impl Service {
    /// Puts the parts together.
    ///
    /// # Errors
    /// `INTERNAL` without randomness.
    pub fn new(parts: Parts) -> Result<Arc<Service>> {
        Ok(Arc::new(Service {
            server_id: parts.server_id,
            own: parts.own,
            authority: parts.authority,
            volumes: Volumes::new(parts.engine, Arc::clone(&parts.signer), parts.seal),
            signer: parts.signer,
            sessions: Sessions::default(),
            changes: Changes::default(),
            verdicts: Verdicts::new()?,
            flights: Flights::default(),
            grants: parts.grants,
            feed: FeedStatus::default(),
            stop: CancellationToken::new(),
            lives: Mutex::default(),
            consequences: Mutex::default(),
        }))
    }

    /// Takes a volume into service or applies what changed; its live sessions
    /// can resume from then on. `point` is when admin's row was read. Blocks.
    /// Must run within the runtime.
    ///
    /// # Errors
    /// As [`Volumes::apply`].
    pub fn serve_volume(
        self: &Arc<Self>,
        placed: &v1::PlacedVolume,
        point: FeedPoint,
    ) -> Result<Arc<Served>> {
        let (served, change) = self.volumes.apply(placed, point)?;
        match change {
            Change::New => {
                let now = Stamp::now();
                for session in served.volume.sessions() {
                    let volume = Arc::clone(&served.volume);
                    let entry = SessionEntry::new(session.id, volume, session.token_id);
                    self.sessions.insert(entry)?;
                    let end = self.grants.end_of(session.secret_id, &now);
                    let volume = served.volume.settings().id;
                    self.set_end(session.secret_id, volume, (end, FeedPoint::default()));
                }
                tokio::spawn(background::tick_volume(Arc::clone(self), Arc::clone(&served)));
                tracing::info!(volume = %placed.id, name = %placed.name, "volume in service");
            }
            Change::Settings(reflagged) => self.reflagged(reflagged),
            Change::Nothing => {}
        }
        Ok(served)
    }

    /// Live sessions have other flags, or were cut for them: their
    /// connections are told.
    pub fn reflagged(&self, reflagged: Reflagged) {
        let Reflagged { changed, cut, recalls } = reflagged;
        for entry in changed.into_iter().filter_map(|id| self.sessions.get(id)) {
            tracing::info!(session = %entry.id, token = %entry.token_id, "session's flags changed");
            entry.push_flags();
        }
        let mut entries = Vec::new();
        for (id, code) in cut {
            let Some(entry) = self.sessions.remove(id) else { continue };
            self.tell_cut(&entry, &Error::bare(code));
            entries.push(entry);
        }
        let mut consequences = self.consequences.lock();
        // Without a feed nobody takes them: what is over need not be kept.
        consequences.recalls.retain(|recalls| !recalls.is_over());
        consequences.cut.retain(|entry| !entry.is_quiet_now());
        consequences.add(Consequences { cut: entries, recalls: vec![recalls] });
    }

    /// What changes of settings did since the last call.
    #[must_use]
    pub fn take_consequences(&self) -> Consequences {
        std::mem::take(&mut *self.consequences.lock())
    }

    fn tell_cut(&self, entry: &SessionEntry, reason: &Error) {
        entry.push_cut(&wire::error_to_detail(reason));
        tracing::info!(session = %entry.id, token = %entry.token_id, code = %reason.code(),
            "session cut");
    }

    /// Ends sessions of one volume: in the commit order first, then their
    /// connections are told. Returns them, to wait until they are quiet.
    /// Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn cut(
        &self,
        served: &Served,
        which: Which,
        reason: &Error,
    ) -> Result<Vec<Arc<SessionEntry>>> {
        let cut = served.volume.cut(which, reason.code())?;
        let entries: Vec<_> = cut.into_iter().filter_map(|id| self.sessions.remove(id)).collect();
        entries.iter().for_each(|entry| self.tell_cut(entry, reason));
        Ok(entries)
    }

    /// [`Service::cut`] in every volume that `concerns` names. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn cut_where(
        &self,
        concerns: impl Fn(&Served) -> bool,
        which: Which,
        reason: &Error,
    ) -> Result<Vec<Arc<SessionEntry>>> {
        let mut entries = Vec::new();
        for served in self.volumes.all() {
            if concerns(&served) {
                entries.extend(self.cut(&served, which, reason)?);
            }
        }
        Ok(entries)
    }

    /// The session of this id and its key. Blocks.
    ///
    /// # Errors
    /// The code the session was cut with; `META_UNREACHABLE` while volumes
    /// that may hold it are not yet in service; else `SESSION_UNKNOWN`.
    pub fn find_session(&self, id: SessionId) -> Result<(Arc<SessionEntry>, SessionKey)> {
        if let Some(entry) = self.sessions.get(id) {
            let key = entry.volume.session_key(id)?;
            return Ok((entry, key));
        }
        // Not live here: perhaps a volume remembers how it ended.
        for served in self.volumes.all() {
            if let Err(error) = served.volume.session_key(id)
                && error.code() != Code::SessionUnknown
            {
                return Err(error);
            }
        }
        if !self.feed.is_started() {
            return Err(Error::new(Code::MetaUnreachable, "this server is still starting"));
        }
        Err(Error::bare(Code::SessionUnknown))
    }

    /// Refuses while admin has been away beyond the grace.
    ///
    /// # Errors
    /// `TOKEN_EXPIRED`.
    pub fn check_grace(&self) -> Result<()> {
        if self.feed.is_suspended() {
            return Err(Error::new(
                Code::TokenExpired,
                "admin has been away beyond the grace; it has to confirm the token",
            ));
        }
        Ok(())
    }

    /// Looks at the grace again.
    pub fn review_grace(&self) {
        let suspended = self.grants.grace_left(&Stamp::now()).is_zero();
        if self.feed.set_suspended(suspended) != suspended {
            if suspended {
                tracing::warn!("admin is away beyond the grace: operations are refused");
                // What mounts answer by themselves has to fail as well.
                self.volumes.all().iter().for_each(|served| served.volume.recall_everything());
            } else {
                tracing::info!("admin confirms tokens again: operations go on");
            }
        }
    }

    /// Admin has answered, and everything it said is applied.
    pub fn note_contact(&self) {
        self.grants.contact(Stamp::now());
        self.review_grace();
    }

    /// A call to admin failed.
    pub fn note_failure(&self, error: &Error) {
        match error.kind() {
            Kind::Unauthenticated => self.feed.set_own_refused(Some(error.code())),
            Kind::Unavailable | Kind::DeadlineExceeded => self.feed.set_unreachable(),
            _ => {}
        }
    }

    /// When the time of a secret is over, as admin said at a point of the
    /// feed; its sessions are cut then. An earlier word changes nothing.
    pub fn set_end(
        &self,
        secret: SecretId,
        volume: VolumeId,
        (end, point): (Option<BootTime>, FeedPoint),
    ) {
        let mut lives = self.lives.lock();
        let heard = BootTime::now();
        if let Some(life) = lives.get_mut(&secret).filter(|life| life.point > point) {
            life.heard = heard;
            return;
        }
        match end {
            Some(end) => lives.insert(secret, Life { volume, end, point, heard }),
            None => lives.remove(&secret),
        };
    }

    /// Forgets the ends of secrets that no session lives from, when there are
    /// many. Blocks.
    fn forget_unused_ends(&self) {
        if self.lives.lock().len() <= ENDS_KEPT {
            return;
        }
        // Whoever begins to live from one while we look says so after that.
        let begun = BootTime::now();
        let live = self.live_secrets();
        self.lives.lock().retain(|secret, life| life.heard >= begun || live.contains_key(secret));
    }

    /// When the time of a secret is over, as far as it is known to end.
    #[must_use]
    pub fn end_of(&self, secret: SecretId) -> Option<BootTime> {
        self.lives.lock().get(&secret).map(|life| life.end)
    }

    /// The secrets that live sessions live from, each with its token, at a
    /// point of the commit order of each volume. Blocks.
    #[must_use]
    pub fn live_secrets(&self) -> HashMap<SecretId, (TokenId, VolumeId)> {
        let mut secrets = HashMap::new();
        for served in self.volumes.all() {
            let volume = served.volume.settings().id;
            for (token, secret) in served.volume.secrets() {
                secrets.insert(secret, (token, volume));
            }
        }
        secrets
    }

    /// Takes out the secrets whose time is over.
    fn take_ended(&self) -> Vec<(SecretId, VolumeId)> {
        let mut ended = Vec::new();
        self.lives.lock().retain(|secret, life| {
            let over = life.end.passed();
            if over {
                ended.push((*secret, life.volume));
            }
            !over
        });
        ended
    }

    /// When the next secret's time is over.
    fn next_end(&self) -> Option<BootTime> {
        self.lives.lock().values().map(|life| life.end).min()
    }

    /// Sessions cut, counted per token.
    #[must_use]
    pub fn count_per_token(entries: &[Arc<SessionEntry>]) -> Vec<(TokenId, u32)> {
        let mut counts: HashMap<TokenId, u32> = HashMap::new();
        for entry in entries {
            let count = counts.entry(entry.token_id).or_default();
            *count = count.saturating_add(1);
        }
        counts.into_iter().collect()
    }
}

impl Transfers for Service {
    fn admit(&self, claims: &Claims) -> Result<Arc<DirectoryStore>> {
        let (volume, session) = (claims.volume, claims.session);
        self.check_grace()?;
        let entry = self
            .sessions
            .get(session)
            .filter(|entry| entry.volume.session_is_live(session))
            .ok_or_else(|| Error::bare(Code::SessionUnknown))?;
        let served = self
            .volumes
            .get(volume)
            .filter(|served| Arc::ptr_eq(&served.volume, &entry.volume))
            .ok_or_else(|| Error::bare(Code::BlockRefused))?;
        // A URL may be older than the flags.
        if claims.method == Method::Put && entry.volume.session_flags(session)?.ro {
            return Err(Error::new(Code::BlockRefused, "the session is read-only now"));
        }
        // The block store may lie on the same disk; and who has the URL could
        // not have got it now.
        if claims.method == Method::Put && self.volumes.engine().room() < Room::Ample {
            return Err(Code::FsNoSpace.into());
        }
        served.blocks.store()
    }
}

/// The address of the other side of a connection, as an extension of its
/// requests.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub std::net::SocketAddr);

impl PeerAddress {
    /// Without port, IPv4 in its own form.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}
