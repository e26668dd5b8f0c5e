//! Written bytes → objects in the block store.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, Result};
use tokio::time::Instant;

use super::Core;
use super::transfer::{may_retry, pause};
use crate::codec::{self, FRAME_LEN};

/// Attempts of one object, each with a key of its own.
const ATTEMPTS: u32 = 5;

/// An object that is in the block store and not named by any file yet.
#[derive(Debug)]
pub(super) struct Uploaded {
    pub(super) object: ObjectId,
    pub(super) stored_len: u64,
}

impl Core {
    /// Encodes and uploads one object; `more` is how many follow soon.
    ///
    /// # Errors
    /// `FS_NO_SPACE`, `BLOCK_UNAVAILABLE`, meta's, the session's.
    pub(super) async fn upload(self: Arc<Self>, plain: Bytes, more: usize) -> Result<Uploaded> {
        let stored = self.encode(plain).await?;
        let stored_len = u64::try_from(stored.len()).unwrap_or(u64::MAX);
        let mut attempt = 1;
        let mut since = Instant::now();
        loop {
            let asked = Instant::now();
            let minted = self.mint.take(more).await?;
            // The wait for meta is not the store's.
            since += asked.elapsed();
            flexfs_common::failpoint!("mount-put-before");
            match self.transfer.put(minted.object, &minted.url, stored.clone(), since).await {
                Ok(()) => {
                    flexfs_common::failpoint!("mount-put-after");
                    return Ok(Uploaded { object: minted.object, stored_len });
                }
                // A URL that ran out, and a lost answer after which the key
                // exists already, end with the next key.
                Err(error)
                    if attempt < ATTEMPTS
                        && !self.transfer.is_silent(since, stored.len())
                        && (may_retry(&error) || error.code() == Code::BlockRefused) =>
                {
                    pause(minted.object, attempt, &error).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn encode(&self, plain: Bytes) -> Result<Bytes> {
        let codec = self.codec;
        if plain.len() <= FRAME_LEN {
            return codec::encode(&plain, codec);
        }
        let ended = |_| Error::new(Code::Internal, "the mount has ended");
        let _core = self.encoders.acquire().await.map_err(ended)?;
        tokio::task::spawn_blocking(move || codec::encode(&plain, codec))
            .await
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
    }
}
