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
use super::file::{FileState, Form, Writer, is_lack_of_room};
use super::upload::Uploaded;
use crate::session::clone_error;

/// Uploads of one file at once.
const PARALLEL: usize = 8;
/// Bytes after which what is uploaded is committed, so that writers who wait
/// for the budget go on.
const COMMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Plain bytes of an object that several segments share: few enough that
/// reading one of them back costs little.
const PACK_BYTES: u64 = 1024 * 1024;
/// Segments in one object.
const PACK_SEGMENTS: usize = 256;
/// How often a commit is built anew because somebody else changed the file.
const MERGES_MAX: u32 = 8;

/// How a flush is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// Only whole blocks: the rest may still grow.
    pub(super) full_only: bool,
    /// Until it survives power loss.
    pub(super) sync: bool,
}

impl How {
    /// Everything, as far as the servers' logs.
    pub(super) const ALL: How = How { full_only: false, sync: false };
}

/// What is to be done for a file.
enum Plan {
    Nothing,
    Unknown,
    Inline(Vec<u8>),
    Extents(Vec<Segment>),
}

/// Whose commit it is, and the state of the file it builds on: inline
/// contents are replaced as a whole, by whoever knows them.
#[derive(Clone, Debug)]
struct Base {
    writer: Writer,
    change: u64,
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
            let task =
                tokio::spawn(async move { file.flush_now(How { full_only: false, sync }).await });
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
    pub(super) async fn flush_now(self: &Arc<Self>, how: How) -> Result<()> {
        let _turn = self.turn.lock().await;
        let outcome = self.flush_turn(how).await;
        let mut state = self.state.lock();
        match &outcome {
            Ok(()) => {
                state.full = None;
                state.failed_at = None;
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                tracing::warn!(ino = %self.ino, error = %error.with_causes(), "a flush failed");
                state.turn_back();
                state.full = is_lack_of_room(error).then(|| clone_error(error));
                // A server that is away for a while loses nothing: what is
                // kept is written later, and whoever asks now is told now.
                if state.full.is_some() || is_hopeless(error) {
                    state.failures.record(error);
                }
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

    async fn flush_turn(self: &Arc<Self>, how: How) -> Result<()> {
        let mut merges = 0;
        while !self.state.lock().is_clean() {
            self.know_form().await?;
            let (plan, base) = self.plan(how.full_only);
            let outcome = match plan {
                Plan::Nothing => break,
                // Forgotten between the two lines above.
                Plan::Unknown => Err(Error::new(Code::FsBusy, "the file changes too fast")),
                Plan::Extents(segments) => self.flush_extents(&base, segments, how.sync).await,
                Plan::Inline(contents) => self.commit_inline(&base, contents, how.sync).await,
            };
            match outcome {
                // Somebody else changed it: again, on top of what is there.
                Err(error) if is_outdated(&error) && merges < MERGES_MAX => {
                    merges += 1;
                    let mut state = self.state.lock();
                    state.turn_back();
                    state.forget();
                }
                other => return other,
            }
        }
        // What this flush was to wait for is committed by one before it.
        if how.sync { self.core.sync(&self.writer().caller).await } else { Ok(()) }
    }

    fn writer(&self) -> Writer {
        let writer = self.state.lock().writer.clone();
        writer.unwrap_or(Writer { caller: v1::Caller::default(), open_id: 0 })
    }

    /// Decides where the contents go, and puts the bytes on their way.
    fn plan(&self, full_only: bool) -> (Plan, Base) {
        let writer = self.writer();
        let mut state = self.state.lock();
        let base = Base { writer, change: state.change };
        let size = state.size_now();
        let inline = match &state.form {
            Form::Inline(inline) => Some(inline.clone()),
            Form::Extents => None,
            Form::Unknown => return (Plan::Unknown, base),
        };
        let plan = match inline {
            Some(inline) if size <= self.core.inline_max => {
                let mut contents = vec![0; usize::try_from(size).unwrap_or(0)];
                if let Some(place) = contents.get_mut(..inline.len()) {
                    place.copy_from_slice(&inline);
                }
                state.take_off(false);
                state.overlay(0, &mut contents);
                Plan::Inline(contents)
            }
            Some(inline) if !inline.is_empty() => {
                // The inline part becomes data of an object: extents replace
                // inline contents, so they must cover them.
                state.fill_inline(&inline);
                Plan::Extents(state.take_off(false))
            }
            _ => Plan::Extents(state.take_off(full_only)),
        };
        match plan {
            Plan::Extents(segments) if segments.is_empty() => (Plan::Nothing, base),
            other => (other, base),
        }
    }

    async fn commit_inline(&self, base: &Base, contents: Vec<u8>, sync: bool) -> Result<()> {
        let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
        let contents = Bytes::from(contents);
        let commit = v1::CommitData {
            inline_data: Some(contents.clone()),
            min_size: size,
            sync,
            ..self.commit_of(base)
        };
        let attr = self.commit(base, commit).await?;
        let mut state = self.state.lock();
        state.all_landed();
        state.committed(attr, Form::Inline(contents));
        Ok(())
    }

    async fn flush_extents(
        self: &Arc<Self>,
        base: &Base,
        segments: Vec<Segment>,
        sync: bool,
    ) -> Result<()> {
        let packs = pack(segments, self.core.block_size);
        let count = packs.len();
        let core = &self.core;
        let uploads = packs.into_iter().enumerate().map(|(index, segments)| {
            let upload = Arc::clone(core).upload(joined(&segments), count - index - 1);
            // Spawned, so that uploads go on while a commit is waited for.
            let task = AbortOnDropHandle::new(tokio::spawn(upload));
            async move {
                let ended = task.await.map_err(|e| Error::bare(Code::Internal).caused_by(e));
                ended.flatten().map(|uploaded| (segments, uploaded))
            }
        });
        let mut uploads = std::pin::pin!(futures::stream::iter(uploads).buffered(PARALLEL));
        let mut batch = Batch::default();
        let mut done = 0;
        while let Some(uploaded) = uploads.next().await {
            let (segments, uploaded) = uploaded?;
            batch.add(segments, uploaded);
            done += 1;
            if done == count || batch.is_full() {
                let batch = std::mem::take(&mut batch);
                self.commit_extents(base, batch, sync && done == count).await?;
            }
        }
        if count > 1 {
            let core = Arc::clone(core);
            tokio::spawn(async move { core.mint.prepare(count).await });
        }
        Ok(())
    }

    async fn commit_extents(&self, base: &Base, batch: Batch, sync: bool) -> Result<()> {
        let mut commit = v1::CommitData { sync, ..self.commit_of(base) };
        {
            let state = self.state.lock();
            for (segments, uploaded) in &batch.packs {
                add_extents(&mut commit, &state, segments, uploaded);
            }
        }
        if commit.extents.is_empty() {
            return if sync { self.core.sync(&base.writer.caller).await } else { Ok(()) };
        }
        let attr = self.commit(base, commit).await?;
        let mut state = self.state.lock();
        for segment in batch.packs.iter().flat_map(|(segments, _)| segments) {
            state.flight.remove(&segment.offset);
        }
        if state.flight.is_empty() {
            state.all_landed();
        }
        state.committed(attr, Form::Extents);
        let excess = state.settle();
        drop(state);
        self.core.budget.release(excess);
        Ok(())
    }

    fn commit_of(&self, base: &Base) -> v1::CommitData {
        v1::CommitData {
            handle: self.handle.to_vec(),
            open_id: base.writer.open_id,
            base_change: base.change,
            mtime: self.state.lock().mtime,
            ..v1::CommitData::default()
        }
    }

    async fn commit(&self, base: &Base, commit: v1::CommitData) -> Result<Option<v1::Attr>> {
        let body = v1::op::Body::CommitData(commit);
        match self.core.session.call(base.writer.caller.clone(), body).await? {
            v1::reply::Result::Attr(attr) => Ok(Some(attr)),
            v1::reply::Result::Empty(_) => Ok(None),
            _ => Err(Error::new(Code::ProtocolInvalid, "not the answer to CommitData")),
        }
    }
}

/// Uploaded objects and the segments that lie in each, one after another.
#[derive(Debug, Default)]
struct Batch {
    packs: Vec<(Vec<Segment>, Uploaded)>,
    extents: usize,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, segments: Vec<Segment>, uploaded: Uploaded) {
        self.extents += segments.len();
        self.bytes += segments.iter().map(Segment::len).sum::<u64>();
        self.packs.push((segments, uploaded));
    }

    fn is_full(&self) -> bool {
        self.extents + PACK_SEGMENTS > limits::EXTENTS_PER_COMMIT || self.bytes >= COMMIT_BYTES
    }
}

/// Small segments share objects: one upload for hundreds of random writes.
fn pack(segments: Vec<Segment>, block_size: u64) -> Vec<Vec<Segment>> {
    let pack_max = PACK_BYTES.min(block_size);
    let mut packs: Vec<Vec<Segment>> = Vec::new();
    let mut room = 0;
    for segment in segments {
        let length = segment.len();
        match packs.last_mut() {
            Some(pack) if length <= room && pack.len() < PACK_SEGMENTS => pack.push(segment),
            _ => {
                room = pack_max;
                packs.push(vec![segment]);
            }
        }
        room = room.saturating_sub(length);
    }
    packs
}

/// The plain bytes of an object.
fn joined(segments: &[Segment]) -> Bytes {
    if let [segment] = segments {
        return segment.data.clone();
    }
    let parts: Vec<&[u8]> = segments.iter().map(|segment| &segment.data[..]).collect();
    parts.concat().into()
}

fn add_extents(
    commit: &mut v1::CommitData,
    state: &FileState,
    segments: &[Segment],
    uploaded: &Uploaded,
) {
    let object_length = segments.iter().map(Segment::len).sum();
    let mut object_offset = 0;
    for segment in segments {
        // Shorter when the file was truncated meanwhile.
        let length = state.still_flying(segment);
        if length > 0 {
            commit.extents.push(v1::Extent {
                file_offset: segment.offset,
                length,
                object_id: uploaded.object.0.to_vec(),
                object_offset,
                object_length,
                url: String::new(),
            });
            commit.stored_lengths.push(uploaded.stored_len);
        }
        object_offset += segment.len();
    }
}

/// What this commit was built on is not what is there: inline contents that
/// somebody changed, or extents where we knew inline contents, or the reverse.
fn is_outdated(error: &Error) -> bool {
    matches!(error.code(), Code::FsBusy | Code::FsInvalid)
}

/// Can this never succeed, however often it is tried?
fn is_hopeless(error: &Error) -> bool {
    error.kind() == Kind::Posix
        && !matches!(
            error.code(),
            Code::FsNoSpace | Code::FsQuota | Code::FsIo | Code::FsBusy | Code::FsWouldBlock
        )
}
