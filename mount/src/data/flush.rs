//! From the buffer to meta: objects first, then the commit that names them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;
use tokio::sync::MutexGuard;

use super::FileData;
use super::commit::Base;
use super::dirty::Segment;
use super::file::{Form, Writer, is_lack_of_room};
use crate::session::clone_error;

/// How often a commit is built anew because somebody else changed the file.
const MERGES_MAX: u32 = 8;

/// How a flush is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// Only whole blocks: the rest may still grow.
    pub(super) full_only: bool,
    /// Until it survives power loss.
    pub(super) sync: bool,
    /// Meta is to know of the file; what is in it may follow.
    pub(super) made_only: bool,
}

impl How {
    /// Everything, as far as the servers' logs.
    pub(super) const ALL: How = How { full_only: false, sync: false, made_only: false };
    /// That meta knows of the file.
    pub(super) const MADE: How = How { made_only: true, ..How::ALL };
}

/// What is to be done for a file.
enum Plan {
    Nothing,
    Unknown,
    Inline(Vec<u8>),
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
        // After a cut every call fails, also one with nothing to do.
        if let Some(error) = self.core.session.end_error() {
            self.state.lock().failures.mark(open_id);
            return Err(error);
        }
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
                tokio::spawn(async move { file.flush_or_share(How { sync, ..How::ALL }).await });
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

    /// As [`FileData::flush_now`]; but when the flush that is under way, or one
    /// that comes before ours, gives the store up, that is the answer.
    async fn flush_or_share(self: &Arc<Self>, how: How) -> Result<()> {
        let joined = self.state.lock().turns.joined();
        let turn = self.turn.lock().await;
        let shared = self.state.lock().turns.shared(joined);
        match shared {
            Some(error) => Err(error),
            None => self.flush_in_turn(how, turn).await,
        }
    }

    /// As [`FileData::flush_now`], in a task of its own: whoever is interrupted
    /// leaves nothing half done.
    pub(super) async fn flush_aside(self: &Arc<Self>, how: How) -> Result<()> {
        let file = Arc::clone(self);
        let task = tokio::spawn(async move { file.flush_now(how).await });
        task.await.map_err(|e| Error::bare(Code::Internal).caused_by(e)).flatten()
    }

    /// One flush after the other; a failure is kept for the opens.
    pub(super) async fn flush_now(self: &Arc<Self>, how: How) -> Result<()> {
        let turn = self.turn.lock().await;
        self.flush_in_turn(how, turn).await
    }

    async fn flush_in_turn(self: &Arc<Self>, how: How, _turn: MutexGuard<'_, ()>) -> Result<()> {
        self.state.lock().turns.begin();
        let outcome = self.flush_turn(how).await;
        let mut state = self.state.lock();
        state.turns.end(outcome.as_ref().err());
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
                if error.code() == Code::WriteLost {
                    state.right.give_up();
                }
                if is_hopeless(error) || nobody {
                    let lost = state.discard();
                    tracing::error!(ino = %self.ino, lost, code = %error.code(), "data is lost");
                }
            }
        }
        if state.is_clean() {
            state.mtime = None;
            state.right.nothing_left();
        }
        let is_told = state.held.is_none();
        let excess = state.settle();
        let clean = state.is_clean();
        drop(state);
        self.core.budget.release(excess);
        if is_told {
            self.core.held.forget(self.ino);
        }
        if clean {
            self.core.mark_clean(self);
        }
        outcome
    }

    async fn flush_turn(self: &Arc<Self>, mut how: How) -> Result<()> {
        let mut merges = 0;
        while !self.state.lock().is_clean() {
            if how.made_only && !self.is_held_back() {
                return Ok(());
            }
            // Before anything is uploaded that meta is going to refuse.
            self.core.session.check_writable()?;
            self.know_form().await?;
            let (plan, base) = self.plan(how.full_only);
            let outcome = match plan {
                Plan::Nothing => break,
                Plan::Inline(contents) if self.is_held_back() => {
                    if self.report_with(contents.into(), how.sync).await? {
                        return Ok(());
                    }
                    continue;
                }
                Plan::Extents(_) if self.is_held_back() => {
                    self.state.lock().turn_back();
                    self.report_with(Bytes::new(), false).await?;
                    let mut state = self.state.lock();
                    if how.made_only && (state.right.is_held() || state.is_clean()) {
                        state.dirty_since.get_or_insert_with(Instant::now);
                        return Ok(());
                    }
                    // Without a right nobody would ask for the rest.
                    how.full_only &= state.right.is_held();
                    continue;
                }
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
}

/// What this commit was built on is not what is there: inline contents that
/// somebody changed, or extents where we knew inline contents, or the reverse.
fn is_outdated(error: &Error) -> bool {
    matches!(error.code(), Code::FsBusy | Code::FsInvalid)
}

/// Can this never succeed, however often it is tried?
fn is_hopeless(error: &Error) -> bool {
    if error.code() == Code::WriteLost {
        return true;
    }
    error.kind() == Kind::Posix
        && !matches!(
            error.code(),
            Code::FsNoSpace | Code::FsQuota | Code::FsIo | Code::FsBusy | Code::FsWouldBlock
        )
}
