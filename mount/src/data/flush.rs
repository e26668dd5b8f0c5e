//! From the buffer to meta: objects first, then the commit that names them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::{Code, Error, Kind, Result, limits};
use flexfs_proto::v1;
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::FileData;
use super::dirty::Segment;
use super::file::{Form, Writer, is_lack_of_room};
use super::upload::Uploaded;
use crate::session::clone_error;

/// Uploads of one file at once.
const PARALLEL: usize = 8;
/// Bytes after which what is uploaded is committed, so that writers who wait
/// for the budget go on.
const COMMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Attempts to replace inline contents that somebody else changes too.
const MERGES: u32 = 4;

/// What is to be done for a file.
enum Plan {
    Nothing,
    Inline(Vec<u8>, u64),
    Extents(Vec<Segment>),
}

impl FileData {
    /// Uploads and commits what is dirty; with `sync` until it survives power
    /// loss. Reports each failure once per open that has not seen it.
    ///
    /// # Errors
    /// The failure of this or an earlier background flush.
    pub async fn flush(
        self: &Arc<Self>,
        caller: &v1::Caller,
        open_id: u64,
        sync: bool,
    ) -> Result<()> {
        let clean = self.state.lock().is_clean();
        let outcome = if clean {
            match sync {
                true => self.core.sync(caller).await,
                false => Ok(()),
            }
        } else {
            let file = Arc::clone(self);
            // A task of its own: an interrupted fsync does not leave a file
            // half committed.
            let task = tokio::spawn(async move { file.flush_now(false, sync).await });
            task.await.map_err(|e| Error::bare(Code::Internal).caused_by(e)).flatten()
        };
        let mut state = self.state.lock();
        match outcome {
            Ok(()) => state.failures.report(open_id).map_or(Ok(()), Err),
            Err(error) => {
                state.failures.mark(open_id);
                Err(error)
            }
        }
    }

    /// One flush after the other; a failure is kept for the opens.
    pub(super) async fn flush_now(self: &Arc<Self>, full_only: bool, sync: bool) -> Result<()> {
        let _turn = self.turn.lock().await;
        let outcome = self.flush_turn(full_only, sync).await;
        let mut state = self.state.lock();
        match &outcome {
            Ok(()) => {
                state.full = None;
                state.failed_at = None;
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                tracing::warn!(ino = %self.ino, error = %error.with_causes(), "a flush failed");
                state.failures.record(error);
                state.turn_back();
                state.full = is_lack_of_room(error).then(|| clone_error(error));
                let nobody = state.full.is_some() && state.opens == 0;
                if is_hopeless(error) || nobody {
                    let lost = state.discard();
                    tracing::error!(ino = %self.ino, lost, code = %error.code(), "data is lost");
                }
            }
        }
        if state.is_clean() {
            state.mtime = None;
        }
        let excess = state.settle();
        let clean = state.is_clean();
        drop(state);
        self.core.budget.release(excess);
        if clean {
            self.core.mark_clean(self);
        }
        outcome
    }

    async fn flush_turn(self: &Arc<Self>, full_only: bool, sync: bool) -> Result<()> {
        for merge in 1..=MERGES {
            if self.state.lock().is_clean() {
                break;
            }
            self.know_form().await?;
            let (plan, writer) = self.plan(full_only);
            match plan {
                Plan::Nothing => break,
                Plan::Extents(segments) => {
                    return self.flush_extents(&writer, segments, sync).await;
                }
                Plan::Inline(contents, base_change) => {
                    match self.commit_inline(&writer, contents, base_change, sync).await {
                        // Somebody else changed it: merge with what is there.
                        Err(error) if is_outdated(&error) && merge < MERGES => {
                            let mut state = self.state.lock();
                            state.turn_back();
                            state.forget();
                        }
                        other => return other,
                    }
                }
            }
        }
        // What this flush was to wait for is committed by one before it.
        if sync { self.core.sync(&self.writer().caller).await } else { Ok(()) }
    }

    fn writer(&self) -> Writer {
        let writer = self.state.lock().writer.clone();
        writer.unwrap_or(Writer { caller: v1::Caller::default(), open_id: 0 })
    }

    /// Decides where the contents go, and puts the bytes on their way.
    fn plan(&self, full_only: bool) -> (Plan, Writer) {
        let writer = self.writer();
        let mut state = self.state.lock();
        let size = state.size_now();
        let inline = match &state.form {
            Form::Inline(inline) => Some(inline.clone()),
            Form::Unknown | Form::Extents => None,
        };
        let plan = match inline {
            Some(inline) if size <= self.core.inline_max => {
                let mut contents = vec![0; usize::try_from(size).unwrap_or(0)];
                if let Some(place) = contents.get_mut(..inline.len()) {
                    place.copy_from_slice(&inline);
                }
                state.take_off(false);
                state.overlay(0, &mut contents);
                Plan::Inline(contents, state.change)
            }
            Some(inline) if !inline.is_empty() => {
                // The inline part becomes data of an object: extents replace
                // inline contents, so they must cover them.
                state.dirty.fill(0, &inline);
                Plan::Extents(state.take_off(false))
            }
            _ => Plan::Extents(state.take_off(full_only)),
        };
        match plan {
            Plan::Extents(segments) if segments.is_empty() => (Plan::Nothing, writer),
            other => (other, writer),
        }
    }

    async fn commit_inline(
        &self,
        writer: &Writer,
        contents: Vec<u8>,
        base_change: u64,
        sync: bool,
    ) -> Result<()> {
        let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
        let contents = Bytes::from(contents);
        let commit = v1::CommitData {
            inline_data: Some(contents.clone()),
            base_change,
            min_size: size,
            sync,
            ..self.commit_of(writer)
        };
        let attr = self.commit(writer, commit).await?;
        let mut state = self.state.lock();
        state.flight.clear();
        state.committed(attr, Form::Inline(contents));
        Ok(())
    }

    async fn flush_extents(
        self: &Arc<Self>,
        writer: &Writer,
        segments: Vec<Segment>,
        sync: bool,
    ) -> Result<()> {
        let count = segments.len();
        let core = &self.core;
        let uploads = segments.into_iter().enumerate().map(|(index, segment)| {
            let upload = Arc::clone(core).upload(segment.data.clone(), count - index - 1);
            // Spawned, so that uploads go on while a commit is waited for.
            let task = AbortOnDropHandle::new(tokio::spawn(upload));
            async move {
                let joined = task.await.map_err(|e| Error::bare(Code::Internal).caused_by(e));
                joined.flatten().map(|uploaded| (segment, uploaded))
            }
        });
        let mut uploads = std::pin::pin!(futures::stream::iter(uploads).buffered(PARALLEL));
        let mut ready: Vec<(Segment, Uploaded)> = Vec::new();
        let mut ready_bytes = 0;
        let mut done = 0;
        while let Some(uploaded) = uploads.next().await {
            let uploaded = uploaded?;
            ready_bytes += u64::try_from(uploaded.0.data.len()).unwrap_or(0);
            ready.push(uploaded);
            done += 1;
            let last = done == count;
            if last || ready.len() >= limits::EXTENTS_PER_COMMIT || ready_bytes >= COMMIT_BYTES {
                self.commit_extents(writer, std::mem::take(&mut ready), sync && last).await?;
                ready_bytes = 0;
            }
        }
        if count > 1 {
            let core = Arc::clone(core);
            tokio::spawn(async move { core.mint.prepare(count).await });
        }
        Ok(())
    }

    async fn commit_extents(
        &self,
        writer: &Writer,
        ready: Vec<(Segment, Uploaded)>,
        sync: bool,
    ) -> Result<()> {
        let mut commit = v1::CommitData { sync, ..self.commit_of(writer) };
        {
            let state = self.state.lock();
            for (segment, uploaded) in &ready {
                // Shorter when the file was truncated meanwhile.
                let length = state.still_flying(segment);
                if length == 0 {
                    continue;
                }
                commit.extents.push(v1::Extent {
                    file_offset: segment.offset,
                    length,
                    object_id: uploaded.object.0.to_vec(),
                    object_offset: 0,
                    object_length: u64::try_from(segment.data.len()).unwrap_or(0),
                    url: String::new(),
                });
                commit.stored_lengths.push(uploaded.stored_len);
            }
        }
        if commit.extents.is_empty() {
            return if sync { self.core.sync(&writer.caller).await } else { Ok(()) };
        }
        let attr = self.commit(writer, commit).await?;
        let mut state = self.state.lock();
        for (segment, _) in &ready {
            state.flight.remove(&segment.offset);
        }
        state.committed(attr, Form::Extents);
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
        Ok(())
    }

    fn commit_of(&self, writer: &Writer) -> v1::CommitData {
        v1::CommitData {
            handle: self.handle.to_vec(),
            open_id: writer.open_id,
            mtime: self.state.lock().mtime,
            ..v1::CommitData::default()
        }
    }

    async fn commit(&self, writer: &Writer, commit: v1::CommitData) -> Result<Option<v1::Attr>> {
        let body = v1::op::Body::CommitData(commit);
        match self.core.session.call(writer.caller.clone(), body).await? {
            v1::reply::Result::Attr(attr) => Ok(Some(attr)),
            v1::reply::Result::Empty(_) => Ok(None),
            _ => Err(Error::new(Code::ProtocolInvalid, "not the answer to CommitData")),
        }
    }
}

/// The base that inline contents were built on is not what is there.
fn is_outdated(error: &Error) -> bool {
    error.code() == Code::FsStale || error.code() == Code::FsBusy
}

/// Can this never succeed, however often it is tried?
fn is_hopeless(error: &Error) -> bool {
    error.kind() == Kind::Posix
        && !matches!(
            error.code(),
            Code::FsNoSpace | Code::FsQuota | Code::FsIo | Code::FsBusy | Code::FsWouldBlock
        )
}
