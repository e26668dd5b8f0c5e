//! The block store of a volume: what [`crate::volume::BlockAccess`] asks for.

use std::path::Path;
use std::sync::Arc;

use flexfs_common::ids::{ObjectId, SessionId, VolumeId};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use parking_lot::Mutex;

use crate::volume::BlockAccess;

pub mod directory;
pub mod endpoint;
pub mod signed;

use directory::DirectoryStore;
use signed::{Claims, Method, Signer};

/// The store of one volume. It is opened when first needed, and tried again
/// after a failure: a store that is away must not take the volume's metadata
/// out of service.
#[derive(Debug)]
pub struct StoreAccess {
    volume: VolumeId,
    signer: Arc<Signer>,
    store: Mutex<(v1::BlockStoreSpec, Option<Arc<DirectoryStore>>)>,
}

impl StoreAccess {
    /// For a volume placed in this store.
    #[must_use]
    pub fn new(
        volume: VolumeId,
        spec: v1::BlockStoreSpec,
        signer: Arc<Signer>,
    ) -> Arc<StoreAccess> {
        Arc::new(StoreAccess { volume, signer, store: Mutex::new((spec, None)) })
    }

    /// Admin says something else of the store now.
    pub fn set_spec(&self, spec: &v1::BlockStoreSpec) {
        let mut store = self.store.lock();
        if store.0 != *spec {
            *store = (spec.clone(), None);
        }
    }

    /// The store itself; opens it when it is not open. Blocks then.
    ///
    /// # Errors
    /// `BLOCK_STORE_REFUSED`.
    pub fn store(&self) -> Result<Arc<DirectoryStore>> {
        let mut store = self.store.lock();
        let (spec, opened) = &mut *store;
        if let Some(opened) = opened {
            return Ok(Arc::clone(opened));
        }
        if spec.kind != "dir" {
            return Err(Error::new(
                Code::BlockStoreRefused,
                format!("block stores of kind `{}` are not built yet", spec.kind),
            ));
        }
        let new = Arc::new(DirectoryStore::open(Path::new(&spec.location), &spec.id)?);
        *opened = Some(Arc::clone(&new));
        Ok(new)
    }

    fn sign(&self, method: Method, session: SessionId, object: ObjectId, limit: u64) -> String {
        self.signer.sign(&Claims::from_now(method, self.volume, object, session, limit))
    }
}

impl BlockAccess for StoreAccess {
    fn sign_get(&self, session: SessionId, object: ObjectId) -> Result<String> {
        self.store()?;
        Ok(self.sign(Method::Get, session, object, 0))
    }

    fn sign_put(&self, session: SessionId, object: ObjectId, size_limit: u32) -> Result<String> {
        self.store()?;
        Ok(self.sign(Method::Put, session, object, u64::from(size_limit)))
    }

    fn delete(&self, object: ObjectId) -> Result<()> {
        self.store()?.delete(self.volume, object)
    }

    fn stored_len(&self, object: ObjectId) -> Result<Option<u64>> {
        self.store()?.stored_len(self.volume, object)
    }
}
