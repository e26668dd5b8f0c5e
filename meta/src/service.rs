//! The state of a running server, and what its parts do to sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::{SecretId, ServerId, SessionId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Kind, Result, wire};
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::blocks::directory::DirectoryStore;
use crate::blocks::endpoint::Transfers;
use crate::blocks::signed::Signer;
use crate::engine::Engine;
use crate::grants::Grants;
use crate::grants::stamp::Stamp;
use crate::rpc::validate::Flights;
use crate::rpc::verdict::Verdicts;
use crate::volume::{SessionKey, Which};

pub mod background;
pub mod changes;
pub mod feed_status;
pub mod placed;
pub mod sessions;
pub mod synced;

use changes::Changes;
use feed_status::FeedStatus;
use placed::{Served, Volumes};
use sessions::{SessionEntry, Sessions};

/// Everything the parts of a running server share.
#[derive(Debug)]
pub struct Service {
    /// Who this server is.
    pub server_id: ServerId,
    /// Its own token.
    pub own_token: Token,
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
    lives: Mutex<HashMap<SecretId, (VolumeId, BootTime)>>,
}

/// What a [`Service`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who this server is.
    pub server_id: ServerId,
    /// Its own token.
    pub own_token: Token,
    /// admin.
    pub authority: Authority,
    /// Keeps everything.
    pub engine: Arc<dyn Engine>,
    /// Signs block URLs.
    pub signer: Arc<Signer>,
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
            own_token: parts.own_token,
            authority: parts.authority,
            volumes: Volumes::new(parts.engine, Arc::clone(&parts.signer)),
            signer: parts.signer,
            sessions: Sessions::default(),
            changes: Changes::default(),
            verdicts: Verdicts::new()?,
            flights: Flights::default(),
            grants: parts.grants,
            feed: FeedStatus::default(),
            stop: CancellationToken::new(),
            lives: Mutex::default(),
        }))
    }

    /// Takes a volume into service or applies what changed; its live sessions
    /// can resume from then on. Blocks. Must run within the runtime.
    ///
    /// # Errors
    /// As [`Volumes::apply`].
    pub fn serve_volume(self: &Arc<Self>, placed: &v1::PlacedVolume) -> Result<Arc<Served>> {
        let (served, new) = self.volumes.apply(placed)?;
        if new {
            let now = Stamp::now();
            for session in served.volume.sessions() {
                let entry = SessionEntry::new(
                    session.id,
                    Arc::clone(&served.volume),
                    session.token_id,
                    session.secret_id,
                );
                self.sessions.insert(entry)?;
                let end = self.grants.end_of(session.secret_id, &now);
                self.set_end(session.secret_id, served.volume.settings().id, end);
            }
            tokio::spawn(background::tick_volume(Arc::clone(self), Arc::clone(&served)));
            tracing::info!(volume = %placed.id, name = %placed.name, "volume in service");
        }
        Ok(served)
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
        let detail = wire::error_to_detail(reason);
        let entries: Vec<_> = cut.into_iter().filter_map(|id| self.sessions.remove(id)).collect();
        for entry in &entries {
            entry.push_cut(&detail);
            tracing::info!(session = %entry.id, token = %entry.token_id, code = %reason.code(),
                "session cut");
        }
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

    /// When the time of a secret is over; its sessions are cut then.
    pub fn set_end(&self, secret: SecretId, volume: VolumeId, end: Option<BootTime>) {
        let mut lives = self.lives.lock();
        match end {
            Some(at) => lives.insert(secret, (volume, at)),
            None => lives.remove(&secret),
        };
    }

    /// Takes out the secrets whose time is over.
    fn take_ended(&self) -> Vec<(SecretId, VolumeId)> {
        let mut ended = Vec::new();
        self.lives.lock().retain(|secret, (volume, at)| {
            let over = at.passed();
            if over {
                ended.push((*secret, *volume));
            }
            !over
        });
        ended
    }

    /// When the next secret's time is over.
    fn next_end(&self) -> Option<BootTime> {
        self.lives.lock().values().map(|(_, at)| *at).min()
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
    fn admit(&self, volume: VolumeId, session: SessionId) -> Result<Arc<DirectoryStore>> {
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
