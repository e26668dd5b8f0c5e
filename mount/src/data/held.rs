//! Files that this mount has made and meta does not know of yet. They are sent
//! with what was written to them, at close at the latest or when somebody wants
//! to see their directory: one round trip makes, fills and closes a small file.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::ids::Ino;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use futures::StreamExt;
use parking_lot::Mutex;

use super::file::{Form, Writer, is_lack_of_room};
use super::flush::How;
use super::right::WriteRight;
use super::{DataPlane, FLUSH_ALL_PARALLEL, FileData};

/// How meta is going to hear of a file.
#[derive(Clone, Debug)]
pub struct HeldFile {
    /// Who has made it.
    pub caller: v1::Caller,
    /// With `held`.
    pub make: v1::Make,
    /// Meta's number of its directory.
    pub dir: Ino,
    /// As it was made.
    pub attr: v1::Attr,
}

/// What chmod(2) and utimensat(2) change of a file that is held back.
#[derive(Clone, Copy, Debug)]
pub struct SetHeld {
    /// Permission bits, no others.
    pub mode: Option<u32>,
    /// Last access.
    pub atime: Option<v1::Timestamp>,
    /// Last modification.
    pub mtime: Option<v1::Timestamp>,
    /// Meta's time.
    pub now: v1::Timestamp,
}

/// Some of the files that are held back.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// Those of a directory, by meta's number.
    In(Ino),
    /// All.
    All,
}

/// Which files are held back, and the directory of each.
#[derive(Debug, Default)]
pub(super) struct HeldFiles {
    dirs: Mutex<HashMap<Ino, Ino>>,
    /// How many: asked with most operations.
    count: AtomicUsize,
}

impl HeldFiles {
    fn add(&self, file: Ino, dir: Ino) {
        let mut dirs = self.dirs.lock();
        dirs.insert(file, dir);
        self.count.store(dirs.len(), Ordering::Release);
    }

    /// Meta knows of it, or never will.
    pub(super) fn forget(&self, file: Ino) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut dirs = self.dirs.lock();
            dirs.remove(&file);
            self.count.store(dirs.len(), Ordering::Release);
        }
    }

    pub(super) fn files(&self, which: Which) -> Vec<Ino> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let dirs = self.dirs.lock();
        let wanted = |dir: &Ino| match which {
            Which::In(wanted) => *dir == wanted,
            Which::All => true,
        };
        dirs.iter().filter(|(_, dir)| wanted(dir)).map(|(file, _)| *file).collect()
    }
}

impl DataPlane {
    /// A file was made here. To be called while it is sure that the right to
    /// its directory is not taken back.
    pub fn hold(&self, handle: Bytes, held: HeldFile) {
        let file = self.file(handle, &held.attr);
        let open_id = held.make.held.as_ref().map_or(0, |held| held.open_id);
        self.core.held.add(file.ino, held.dir);
        {
            let mut state = file.state.lock();
            state.writer = Some(Writer { caller: held.caller.clone(), open_id });
            state.right = WriteRight::of_held();
            state.dirty_since = Some(Instant::now());
            state.held = Some(Box::new(held));
        }
        // Whoever looked for idle ones meanwhile may have let go of it.
        self.core.files.lock().by_ino.insert(file.ino, Arc::clone(&file));
        self.core.mark_dirty(&file, false);
    }

    /// Others wait for these: meta is told of them, or they are lost.
    pub async fn give_up_made(&self, which: Which) {
        let files = self.core.held.files(which).into_iter().filter_map(|ino| self.get(ino));
        let files: Vec<Arc<FileData>> = files.collect();
        let sent = files.into_iter().map(|file| async move {
            file.send_or_lose(How::MADE, |state| state.held.is_none()).await;
        });
        futures::stream::iter(sent).for_each_concurrent(FLUSH_ALL_PARALLEL, |done| done).await;
    }

    /// Is one of these still held back?
    #[must_use]
    pub fn holds(&self, which: Which) -> bool {
        !self.core.held.files(which).is_empty()
    }

    /// How many files are held back.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.core.held.count.load(Ordering::Acquire)
    }

    /// Tells meta of these files.
    ///
    /// # Errors
    /// The first failure. Who has a file open is told of it as well.
    pub async fn report_made(&self, which: Which) -> Result<()> {
        let files = self.core.held.files(which).into_iter().filter_map(|ino| self.get(ino));
        let files: Vec<Arc<FileData>> = files.collect();
        let reports = files.into_iter().map(|file| async move { file.report_made().await });
        let reports = futures::stream::iter(reports).buffer_unordered(FLUSH_ALL_PARALLEL);
        let outcomes: Vec<Result<()>> = reports.collect().await;
        outcomes.into_iter().collect()
    }
}

impl FileData {
    /// Does meta not know of it yet?
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.state.lock().held.is_some()
    }

    /// Its attributes as it was made, while meta does not know of it.
    #[must_use]
    pub fn held_attr(&self) -> Option<v1::Attr> {
        self.state.lock().held.as_ref().map(|held| held.attr)
    }

    /// Changes the mode or times of a file that meta does not know of, or is
    /// being told of just now. Returns its attributes; `None`: it is too late,
    /// or what is written may go in parts, of which each would set the time.
    pub fn set_held(&self, set: &SetHeld) -> Option<v1::Attr> {
        let _turn = self.turn.try_lock().ok()?;
        let mut state = self.state.lock();
        if state.size_now() > self.core.inline_max {
            return None;
        }
        let file = state.held.as_mut()?;
        let held = file.make.held.as_mut()?;
        if let Some(mode) = set.mode {
            (file.make.mode, file.caller.umask, file.attr.mode) = (mode, 0, mode);
        }
        if set.atime.is_some() {
            (held.set_atime, file.attr.atime) = (set.atime, set.atime);
        }
        if set.mtime.is_some() {
            (held.set_mtime, file.attr.mtime) = (set.mtime, set.mtime);
        }
        file.attr.ctime = Some(set.now);
        let attr = file.attr;
        if set.mtime.is_some() {
            state.mtime = None;
        }
        Some(attr)
    }

    /// Tells meta of the file if it does not know of it yet.
    ///
    /// # Errors
    /// What that fails with.
    pub async fn report_made(self: &Arc<Self>) -> Result<()> {
        if !self.is_held_back() {
            return Ok(());
        }
        self.flush_aside(How::MADE).await
    }

    /// Tells meta of the file, with its whole contents or without any. In the
    /// file's turn to be flushed. False: meta knew of it, and has not looked at
    /// the contents.
    pub(super) async fn report_with(&self, contents: Bytes, sync: bool) -> Result<bool> {
        match self.send_report(contents.clone(), sync).await {
            Err(error) if !contents.is_empty() && is_lack_of_room(&error) => {
                // As without a right to make it: it is there, and empty.
                self.send_report(Bytes::new(), false).await?;
                Err(error)
            }
            other => other,
        }
    }

    async fn send_report(&self, contents: Bytes, sync: bool) -> Result<bool> {
        let (mut make, caller, era, mtime) = {
            let state = self.state.lock();
            let Some(held) = &state.held else { return Ok(false) };
            (held.make.clone(), held.caller.clone(), state.right.era(), state.mtime)
        };
        let has_contents = !contents.is_empty();
        if let Some(held) = &mut make.held {
            held.inline_data = has_contents.then(|| contents.clone());
            held.mtime = mtime;
            held.set_mtime = held.set_mtime.filter(|_| mtime.is_none());
            held.sync = sync;
        }
        flexfs_common::failpoint!("mount-make-before");
        let result = self.core.session.call(caller, v1::op::Body::Make(make)).await?;
        flexfs_common::failpoint!("mount-make-after");
        let v1::reply::Result::Entry(v1::Entry { attr: Some(attr), made_before, .. }) = result
        else {
            return Err(Error::new(Code::ProtocolInvalid, "not the answer to Make"));
        };
        let mut state = self.state.lock();
        state.held = None;
        state.right.told_of(attr.write_right, era);
        if made_before {
            // As it was then, with what came then: it is asked for.
            state.turn_back();
            state.committed(None, Form::Unknown);
            return Ok(false);
        }
        if has_contents {
            state.all_landed();
        }
        state.committed(Some(attr), Form::Inline(contents));
        Ok(true)
    }
}
