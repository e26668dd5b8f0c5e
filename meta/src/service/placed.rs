//! The volumes of this server: what admin says of them, kept durably so that
//! the server can start while admin is away, and the volumes in service.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use flexfs_common::ids::{AccountId, VolumeId};
use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use parking_lot::{Mutex, RwLock};
use prost::Message;

use super::changes::FeedPoint;
use crate::blocks::StoreAccess;
use crate::blocks::signed::Signer;
use crate::engine::{Engine, Reader};
use crate::volume::{Reflagged, SessionSeal, Volume, VolumeSettings};

/// Keys of the rows about placed volumes; the volume's id follows.
const PREFIX: &[u8] = b"\xff\xffserver/volume/";
/// The first key after them ('/' + 1).
const PREFIX_END: &[u8] = b"\xff\xffserver/volume0";

/// A volume in service.
#[derive(Debug)]
pub struct Served {
    /// The core.
    pub volume: Arc<Volume>,
    /// Its block store.
    pub blocks: Arc<StoreAccess>,
    /// What admin said of it last, and when that was read there.
    placed: RwLock<(FeedPoint, v1::PlacedVolume)>,
}

/// What became of a volume that admin named.
#[derive(Debug)]
pub enum Change {
    /// It is in service from now on.
    New,
    /// Its settings may have changed, and with them these sessions.
    Settings(Reflagged),
    /// Nothing: this is known, or older than what is.
    Nothing,
}

impl Served {
    /// What admin said of it last.
    #[must_use]
    pub fn placed(&self) -> v1::PlacedVolume {
        self.placed.read().1.clone()
    }
}

/// The volumes in service.
#[derive(Debug)]
pub struct Volumes {
    engine: Arc<dyn Engine>,
    signer: Arc<Signer>,
    seal: Arc<SessionSeal>,
    served: RwLock<HashMap<VolumeId, Arc<Served>>>,
    /// Held while one is opened or changed.
    changing: Mutex<()>,
}

/// Checks what admin sent and turns it into the core's terms.
///
/// # Errors
/// `PROTOCOL_INVALID`.
pub fn settings_of(placed: &v1::PlacedVolume) -> Result<VolumeSettings> {
    let bad = |what: &str| Error::new(Code::ProtocolInvalid, format!("volume: {what}"));
    if !(limits::BLOCK_SIZE_MIN..=limits::BLOCK_SIZE_MAX).contains(&placed.block_size) {
        return Err(bad("block size out of range"));
    }
    Ok(VolumeSettings {
        id: VolumeId::from_bytes(*wire::uuid_from_wire("id", &placed.id)?.as_bytes()),
        name: placed.name.clone(),
        account_id: AccountId::from_bytes(
            *wire::uuid_from_wire("account_id", &placed.account_id)?.as_bytes(),
        ),
        flags: placed.flags.unwrap_or_default(),
        block_size: placed.block_size,
        inline_max: limits::INLINE_MAX,
        max_blocks: placed.max_blocks,
        max_inodes: placed.max_inodes,
        retention: Duration::from_secs(placed.retention_seconds),
    })
}

impl Volumes {
    /// None in service yet.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, signer: Arc<Signer>, seal: Arc<SessionSeal>) -> Volumes {
        Volumes { engine, signer, seal, served: RwLock::default(), changing: Mutex::new(()) }
    }

    /// A volume in service.
    #[must_use]
    pub fn get(&self, id: VolumeId) -> Option<Arc<Served>> {
        self.served.read().get(&id).cloned()
    }

    /// All in service.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.served.read().values().cloned().collect()
    }

    /// What was kept of placed volumes.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn kept(&self) -> Result<Vec<v1::PlacedVolume>> {
        kept(self.engine.as_ref())
    }

    /// What keeps everything.
    #[must_use]
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    /// Puts everything committed so far on stable storage. Blocks.
    ///
    /// # Errors
    /// `ENGINE_FAILED`.
    pub fn sync(&self) -> Result<()> {
        self.engine.sync(self.engine.head())
    }

    /// Takes a volume into service, or applies what changed. `point` is when
    /// admin's row was read: an answer that was overtaken by a later one
    /// changes nothing. Blocks.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID`, `ENGINE_FAILED`, `FORMAT_UNSUPPORTED`.
    pub fn apply(
        &self,
        placed: &v1::PlacedVolume,
        point: FeedPoint,
    ) -> Result<(Arc<Served>, Change)> {
        let settings = settings_of(placed)?;
        let id = settings.id;
        let spec = placed.block_store.clone().unwrap_or_default();
        let _one_at_a_time = self.changing.lock();
        if let Some(served) = self.get(id) {
            let (known_at, same) = {
                let known = served.placed.read();
                (known.0, known.1 == *placed)
            };
            if point < known_at {
                return Ok((served, Change::Nothing));
            }
            let change = if same {
                Change::Nothing
            } else {
                served.blocks.set_spec(&spec);
                let reflagged = served.volume.update_settings(settings)?;
                self.keep(id, placed)?;
                Change::Settings(reflagged)
            };
            *served.placed.write() = (point, placed.clone());
            return Ok((served, change));
        }
        let blocks = StoreAccess::new(id, spec, Arc::clone(&self.signer));
        let (engine, seal) = (Arc::clone(&self.engine), Arc::clone(&self.seal));
        let volume = Volume::open(engine, settings, Arc::clone(&blocks) as _, seal)?;
        self.keep(id, placed)?;
        let placed = RwLock::new((point, placed.clone()));
        let served = Arc::new(Served { volume, blocks, placed });
        self.served.write().insert(id, Arc::clone(&served));
        Ok((served, Change::New))
    }

    fn keep(&self, id: VolumeId, placed: &v1::PlacedVolume) -> Result<()> {
        let (key, value) = row(id, placed);
        self.engine.transact(&mut |txn| {
            txn.put(&key, &value);
            Ok(())
        })?;
        Ok(())
    }
}

/// The row that keeps what admin said of a volume.
#[must_use]
pub fn row(id: VolumeId, placed: &v1::PlacedVolume) -> (Vec<u8>, Vec<u8>) {
    ([PREFIX, id.as_bytes()].concat(), placed.encode_to_vec())
}

/// What an engine holds of placed volumes.
///
/// # Errors
/// `ENGINE_FAILED`.
pub fn kept(engine: &dyn Engine) -> Result<Vec<v1::PlacedVolume>> {
    kept_in(&*engine.snapshot()?)
}

/// As [`kept`], of one view.
///
/// # Errors
/// `ENGINE_FAILED`.
pub fn kept_in(reader: &dyn Reader) -> Result<Vec<v1::PlacedVolume>> {
    let mut kept = Vec::new();
    reader.scan(PREFIX, PREFIX_END, &mut |_, value| {
        let placed = v1::PlacedVolume::decode(value)
            .map_err(|e| Error::new(Code::EngineFailed, "a volume's row").caused_by(e))?;
        kept.push(placed);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(kept)
}
