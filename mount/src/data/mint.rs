//! Object keys ahead of their use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use parking_lot::Mutex;

use crate::codec;
use crate::session::MetaSession;

/// Most keys asked for at once.
const BATCH_MAX: usize = 64;
/// A key is not used in the last part of its URL's life.
const URL_MARGIN: Duration = Duration::from_secs(10);

/// A key and where to put the object.
#[derive(Debug)]
pub(super) struct Minted {
    pub(super) object: ObjectId,
    pub(super) url: String,
    until: Instant,
}

/// The pool of keys of the session. It asks for as many as were used of late:
/// keys that are never used count against the session until they are overdue.
#[derive(Debug)]
pub(super) struct Mint {
    session: Arc<MetaSession>,
    size_limit: u32,
    pool: Mutex<VecDeque<Minted>>,
    /// One request at a time: the others find what it brought.
    asking: tokio::sync::Mutex<()>,
}

impl Mint {
    pub(super) fn new(session: Arc<MetaSession>) -> Mint {
        let size_limit = codec::stored_max(session.opened().block_size);
        Mint {
            session,
            size_limit: u32::try_from(size_limit).unwrap_or(u32::MAX),
            pool: Mutex::new(VecDeque::new()),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    fn pop(&self) -> Option<Minted> {
        let mut pool = self.pool.lock();
        let now = Instant::now();
        while let Some(minted) = pool.pop_front() {
            if minted.until > now {
                return Some(minted);
            }
        }
        None
    }

    /// A key; `more` is how many the caller is going to need after this one.
    ///
    /// # Errors
    /// Meta's.
    pub(super) async fn take(&self, more: usize) -> Result<Minted> {
        loop {
            if let Some(minted) = self.pop() {
                return Ok(minted);
            }
            let _asking = self.asking.lock().await;
            if let Some(minted) = self.pop() {
                return Ok(minted);
            }
            self.ask(more.saturating_add(1).min(BATCH_MAX)).await?;
        }
    }

    /// Makes sure that `count` keys are there, so that nobody has to wait.
    pub(super) async fn prepare(&self, count: usize) {
        let count = count.min(BATCH_MAX);
        let _asking = self.asking.lock().await;
        let present = self.pool.lock().len();
        if present < count
            && let Err(error) = self.ask(count - present).await
        {
            // Whoever needs one will ask, and get the error.
            tracing::debug!(error = %error.with_causes(), "no keys ahead");
        }
    }

    async fn ask(&self, count: usize) -> Result<()> {
        let count = u32::try_from(count).unwrap_or(1).clamp(1, limits::MINT_MAX);
        let sent = Instant::now();
        let body =
            v1::op::Body::MintObjects(v1::MintObjects { count, size_limit: self.size_limit });
        let answer = self.session.call(v1::Caller::default(), body).await?;
        let v1::reply::Result::Minted(minted) = answer else {
            return Err(Error::new(Code::ProtocolInvalid, "not the answer to MintObjects"));
        };
        if minted.objects.is_empty() || minted.size_limit < self.size_limit {
            return Err(Error::new(Code::ProtocolInvalid, "no object keys, or for less"));
        }
        let life = Duration::from_millis(u64::from(minted.url_millis));
        let until = sent + life.saturating_sub(URL_MARGIN).max(life / 2);
        let mut new = VecDeque::with_capacity(minted.objects.len());
        for object in minted.objects {
            let id = ObjectId::from_slice(&object.object_id)?;
            new.push_back(Minted { object: id, url: object.url, until });
        }
        self.pool.lock().append(&mut new);
        Ok(())
    }
}
