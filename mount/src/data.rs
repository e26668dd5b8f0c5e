//! The data plane: contents of files over immutable objects, read cache,
//! write-back buffer. Knows inodes and handles, not names.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::Ino;
use flexfs_common::{Error, Result, protocol};
use flexfs_proto::v1;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::codec::Codec;
use crate::session::MetaSession;

mod background;
mod blocks;
mod budget;
mod commit;
mod dirty;
mod extents;
mod failures;
mod file;
mod flush;
mod held;
mod mapping;
mod mint;
mod patience;
mod prefetch;
mod read;
mod right;
mod seek;
#[cfg(test)]
mod tests;
mod transfer;
mod turns;
mod upload;
mod write;

use blocks::Blocks;
use budget::Budget;
use file::FileState;
pub use file::Stale;
use flush::How;
use held::HeldFiles;
pub use held::{HeldFile, SetHeld, Which};
use mint::Mint;
use transfer::Transfer;

/// Files whose state is kept although nobody has them open.
const IDLE_FILES_MAX: usize = 4096;
/// Files flushed at once by [`DataPlane::flush_all`].
const FLUSH_ALL_PARALLEL: usize = 32;

/// Settings of the data plane.
#[derive(Debug, Clone)]
pub struct DataSettings {
    /// Bytes of the memory read cache.
    pub mem_capacity: u64,
    /// Bytes of dirty data before writers wait.
    pub write_back_max: u64,
}

/// Makes and finds the per-inode data state.
#[derive(Debug)]
pub struct DataPlane {
    core: Arc<Core>,
}

/// What all files of the mount share.
#[derive(Debug)]
pub(crate) struct Core {
    session: Arc<MetaSession>,
    transfer: Arc<Transfer>,
    blocks: Arc<Blocks>,
    mint: Mint,
    budget: Budget,
    codec: Codec,
    block_size: u64,
    inline_max: u64,
    /// Meta grants the right to buffer writes; an older one does not know it.
    write_rights: bool,
    /// Most blocks to fetch ahead; 0 when the cache is too small for any.
    prefetch_blocks: u64,
    /// Encodings at once.
    encoders: Semaphore,
    flushes: Arc<Semaphore>,
    /// Wakes the flusher.
    flusher: Arc<Notify>,
    stop: CancellationToken,
    files: Mutex<Files>,
    dirty_files: Mutex<HashMap<Ino, Arc<FileData>>>,
    /// Files that meta does not know of yet.
    held: HeldFiles,
}

#[derive(Debug, Default)]
struct Files {
    by_ino: HashMap<Ino, Arc<FileData>>,
    /// Size at which idle files are looked for again.
    sweep_at: usize,
}

/// The contents of one inode, shared by all its opens in this mount. Reads
/// see this mount's own dirty writes.
#[derive(Debug)]
pub struct FileData {
    core: Arc<Core>,
    ino: Ino,
    handle: Bytes,
    state: Mutex<FileState>,
    /// Held during a flush: commits of one file are in order.
    turn: tokio::sync::Mutex<()>,
    /// Held while meta is asked where the bytes lie.
    asking: tokio::sync::Mutex<()>,
    /// Held while meta is asked for the right to buffer writes.
    acquiring: tokio::sync::Mutex<()>,
    /// Shared by writes from before they ask for the right until they have used
    /// it; a recall waits for them a moment.
    writing: tokio::sync::RwLock<()>,
}

/// The kernel's pages of a file, as a recall found them.
#[derive(Debug)]
pub struct RecalledPages {
    file: Arc<FileData>,
    stale: Stale,
}

impl RecalledPages {
    /// The kernel has dropped them all. What has become old since then it may
    /// still have.
    pub fn dropped(self) {
        self.file.pages_dropped(self.stale);
    }
}

/// What the cache and buffers hold now.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataUsage {
    /// Dirty bytes not yet committed.
    pub dirty_bytes: u64,
    /// Bytes in the read cache.
    pub cache_bytes: u64,
}

impl DataPlane {
    /// A data plane on this session (must be called in a tokio runtime).
    ///
    /// # Errors
    /// `INTERNAL` when the HTTP client cannot be made; `FORMAT_UNSUPPORTED`
    /// for an encrypted volume or a compression that is not known.
    pub fn new(session: Arc<MetaSession>, settings: DataSettings) -> Result<Arc<DataPlane>> {
        let grant = session.opened();
        if grant.encryption {
            return Err(Error::new(
                flexfs_common::Code::FormatUnsupported,
                "encrypted volumes are not built yet",
            ));
        }
        let codec = Codec::from_name(&grant.compression)?;
        let (block_size, inline_max) = (u64::from(grant.block_size), u64::from(grant.inline_max));
        let transfer = Arc::new(Transfer::new(Arc::clone(&session))?);
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let core = Arc::new(Core {
            blocks: Arc::new(Blocks::new(Arc::clone(&transfer), settings.mem_capacity)),
            mint: Mint::new(Arc::clone(&session)),
            budget: Budget::new(settings.write_back_max),
            transfer,
            write_rights: session.has_feature(protocol::WRITE_RIGHTS),
            session,
            codec,
            block_size,
            inline_max,
            // The block being read, those ahead, and room for another file.
            prefetch_blocks: (settings.mem_capacity / block_size / 2).saturating_sub(1),
            encoders: Semaphore::new(cores),
            flushes: Arc::new(Semaphore::new(Core::parallel_flushes())),
            flusher: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
            files: Mutex::new(Files { by_ino: HashMap::new(), sweep_at: IDLE_FILES_MAX }),
            dirty_files: Mutex::new(HashMap::new()),
            held: HeldFiles::default(),
        });
        tokio::spawn(background::run(Arc::downgrade(&core)));
        Ok(Arc::new(DataPlane { core }))
    }

    /// The data of an inode, made when first asked for. `attr` is fresh from
    /// meta: when its change counter is newer than what is cached, the cached
    /// extents are dropped (dirty bytes stay).
    pub fn file(&self, handle: Bytes, attr: &v1::Attr) -> Arc<FileData> {
        let ino = Ino(attr.ino);
        let mut files = self.core.files.lock();
        if let Some(file) = files.by_ino.get(&ino) {
            let file = Arc::clone(file);
            drop(files);
            file.state.lock().learn(attr);
            return file;
        }
        if files.by_ino.len() >= files.sweep_at {
            files.by_ino.retain(|_, file| file.is_in_use());
            files.sweep_at = IDLE_FILES_MAX.max(files.by_ino.len() * 2);
        }
        let block_size = self.core.session.opened().block_size;
        let file = Arc::new(FileData {
            core: Arc::clone(&self.core),
            ino,
            handle,
            state: Mutex::new(FileState::new(attr, block_size)),
            turn: tokio::sync::Mutex::new(()),
            asking: tokio::sync::Mutex::new(()),
            acquiring: tokio::sync::Mutex::new(()),
            writing: tokio::sync::RwLock::new(()),
        });
        files.by_ino.insert(ino, Arc::clone(&file));
        file
    }

    /// The data of an inode if this mount has some.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Arc<FileData>> {
        self.core.files.lock().by_ino.get(&ino).cloned()
    }

    /// An open of the inode began (+) in this mount.
    pub fn opened(&self, ino: Ino) {
        if let Some(file) = self.get(ino) {
            let mut state = file.state.lock();
            state.opens = state.opens.saturating_add(1);
        }
    }

    /// As [`DataPlane::opened`], and the open is known by its id: it is not
    /// told failures that others were told before it began.
    pub fn opened_as(&self, ino: Ino, open_id: u64) {
        if let Some(file) = self.get(ino) {
            let mut state = file.state.lock();
            if state.opens == 0 && state.is_clean() {
                // Whatever is left of one of before: meta has forgotten it.
                state.right.give_up();
            }
            state.opens = state.opens.saturating_add(1);
            state.failures.opened(open_id);
        }
    }

    /// An open of the inode ended; the last one lets the state go once clean.
    pub fn closed(&self, ino: Ino) {
        let Some(file) = self.get(ino) else { return };
        let mut state = file.state.lock();
        state.opens = state.opens.saturating_sub(1);
        if state.opens == 0 {
            // Nobody is left who could be told that there is no room, or make
            // some through this file; the buffer belongs to others too.
            if state.full.is_some() && state.failures.was_told() {
                let lost = state.discard();
                tracing::error!(%ino, lost, "data is lost: there was no room for it");
            }
            state.failures.all_closed();
        }
        let excess = state.settle();
        let clean = state.is_clean();
        if state.held.is_none() {
            self.core.held.forget(ino);
        }
        if state.opens == 0 && clean {
            // Before meta hears of it, and takes it back with the open.
            state.right.give_up();
        }
        drop(state);
        self.core.budget.release(excess);
        if clean {
            self.core.mark_clean(&file);
        }
    }

    /// Flushes everything dirty of the mount; with `sync` until it survives
    /// power loss of the servers.
    ///
    /// # Errors
    /// The first failure; the others are logged.
    pub async fn flush_all(&self, sync: bool) -> Result<()> {
        let files: Vec<_> = self.core.dirty_files.lock().values().cloned().collect();
        let flushes = files.into_iter().map(|file| async move { file.flush_now(How::ALL).await });
        let outcomes: Vec<Result<()>> =
            futures::stream::iter(flushes).buffer_unordered(FLUSH_ALL_PARALLEL).collect().await;
        outcomes.into_iter().collect::<Result<()>>()?;
        if sync { self.core.sync(&v1::Caller::default()).await } else { Ok(()) }
    }

    /// Drops everything (the session was cut). Returns lost dirty bytes.
    pub fn discard_all(&self) -> u64 {
        let files: Vec<_> = self.core.files.lock().by_ino.values().cloned().collect();
        let error = self.core.session.check().err();
        let mut lost = 0;
        for file in files {
            lost += file.discard(error.as_ref());
        }
        self.core.blocks.clear();
        lost
    }

    /// What is cached of an inode is recalled, the kernel's pages too. What
    /// was written here and not committed stays. To be told when those pages
    /// are gone.
    pub fn recall(&self, ino: Ino) -> Option<RecalledPages> {
        let file = self.get(ino)?;
        let stale = {
            let mut state = file.state.lock();
            state.forget();
            state.pages.are_old();
            state.pages.stale()
        };
        stale.map(|stale| RecalledPages { file, stale })
    }

    /// The right to buffer writes is taken back, of files or of all, and that to
    /// make files in directories: ends when everything that was written and
    /// made before has left this mount.
    pub async fn give_up_writes(&self, inos: Option<&[Ino]>) {
        for dir in inos.unwrap_or_default() {
            // What is in these files has a right of its own as soon as meta
            // knows of them.
            self.give_up_made(Which::In(*dir)).await;
        }
        let files: Vec<_> = match inos {
            Some(inos) => inos.iter().filter_map(|ino| self.get(*ino)).collect(),
            None => self.core.files.lock().by_ino.values().cloned().collect(),
        };
        let all = files.into_iter().map(FileData::give_up_writes);
        futures::stream::iter(all).for_each_concurrent(FLUSH_ALL_PARALLEL, |done| done).await;
    }

    /// Everything cached is recalled.
    pub fn recall_all(&self) {
        let files: Vec<_> = self.core.files.lock().by_ino.values().cloned().collect();
        for file in files {
            let mut state = file.state.lock();
            state.forget();
            state.pages.are_old();
        }
    }

    /// For `status`.
    #[must_use]
    pub fn usage(&self) -> DataUsage {
        DataUsage {
            dirty_bytes: self.core.budget.used(),
            cache_bytes: self.core.blocks.cached_bytes(),
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.core.stop.cancel();
        // Files refer to the core and the core to files.
        self.core.files.lock().by_ino.clear();
        self.core.dirty_files.lock().clear();
    }
}

impl Core {
    /// Everything answered before is on stable storage when this returns.
    async fn sync(&self, caller: &v1::Caller) -> Result<()> {
        let body = v1::op::Body::Sync(v1::Sync {});
        self.session.call(caller.clone(), body).await.map(drop)
    }

    /// The file has something for the flusher; `due`: now.
    fn mark_dirty(&self, file: &Arc<FileData>, due: bool) {
        let first = {
            let mut dirty = self.dirty_files.lock();
            let empty = dirty.is_empty();
            dirty.entry(file.ino).or_insert_with(|| Arc::clone(file));
            empty
        };
        if due || first {
            self.flusher.notify_one();
        }
    }

    fn mark_clean(&self, file: &Arc<FileData>) {
        let mut dirty = self.dirty_files.lock();
        // Under this lock a writer that comes now is seen.
        if file.state.lock().is_clean() {
            dirty.remove(&file.ino);
        }
    }
}

impl FileData {
    fn is_in_use(&self) -> bool {
        let state = self.state.lock();
        state.opens > 0 || !state.is_clean()
    }

    /// The inode.
    #[must_use]
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// Size with dirty writes; `None` when it equals what meta said last to
    /// the caller (the attributes given to [`DataPlane::file`]).
    #[must_use]
    pub fn local_size(&self) -> Option<u64> {
        let state = self.state.lock();
        (!state.is_clean() || state.committed.is_some()).then(|| state.size_now())
    }

    /// Time of the last buffered write, when dirty (for getattr).
    #[must_use]
    pub fn local_mtime(&self) -> Option<v1::Timestamp> {
        self.state.lock().mtime
    }

    /// May the kernel's pages of the file be older than what meta has? To be
    /// asked before they are dropped.
    #[must_use]
    pub fn stale_pages(&self) -> Option<Stale> {
        self.state.lock().pages.stale()
    }

    /// The kernel has dropped its pages of the file since that was asked.
    pub fn pages_dropped(&self, stale: Stale) {
        self.state.lock().pages.dropped(stale);
    }

    /// An operation of this mount has changed the attributes to these; if
    /// nobody else has changed anything between, what is cached stays good.
    pub fn own_change(&self, attr: &v1::Attr) {
        self.state.lock().own_change(attr);
    }

    /// Is nothing written here that meta does not have?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state.lock().is_clean()
    }

    /// Until then meta tells before somebody else changes the file, which it
    /// knew with this change counter.
    pub fn trust(&self, change: u64, until: BootTime) {
        let mut state = self.state.lock();
        if state.size_known && state.change == change {
            state.valid_until = state.valid_until.max(Some(until));
        }
    }

    /// The attributes that meta answered to the last commit of this mount,
    /// when they are newer than those given to [`DataPlane::file`].
    #[must_use]
    pub fn committed_attr(&self) -> Option<v1::Attr> {
        self.state.lock().committed
    }

    /// The size was set through meta (truncate): drop what lies beyond and
    /// what is cached. The caller has flushed before.
    pub fn truncated(&self, attr: &v1::Attr) {
        let mut state = self.state.lock();
        state.clip(attr.size);
        state.forget();
        if attr.change >= state.change {
            state.adopt(attr);
        }
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
    }

    /// Drops what is written and cached; `error` is told to every open.
    fn discard(self: &Arc<Self>, error: Option<&Error>) -> u64 {
        let mut state = self.state.lock();
        let was_held = state.held.is_some();
        let lost = state.discard();
        if (lost > 0 || was_held)
            && let Some(error) = error
        {
            state.failures.record(error);
        }
        state.forget();
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
        self.core.held.forget(self.ino);
        self.core.mark_clean(self);
        lost
    }
}
