//! Commits: inline contents, or uploaded objects as extents.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::FileData;
use super::dirty::Segment;
use super::file::{FileState, Form, Writer};
use super::upload::Uploaded;

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

/// Whose commit it is, and the state of the file it builds on: inline
/// contents are replaced as a whole, by whoever knows them.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) writer: Writer,
    pub(super) change: u64,
}

impl FileData {
    pub(super) async fn commit_inline(
        &self,
        base: &Base,
        contents: Vec<u8>,
        sync: bool,
    ) -> Result<()> {
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

    pub(super) async fn flush_extents(
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
        let state = self.state.lock();
        v1::CommitData {
            handle: self.handle.to_vec(),
            open_id: base.writer.open_id,
            base_change: base.change,
            mtime: state.mtime,
            write_right: state.right.under(),
            ..v1::CommitData::default()
        }
    }

    async fn commit(&self, base: &Base, commit: v1::CommitData) -> Result<Option<v1::Attr>> {
        let body = v1::op::Body::CommitData(commit);
        let result = self.core.session.call(base.writer.caller.clone(), body).await?;
        flexfs_common::failpoint!("mount-commit-after");
        match result {
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
