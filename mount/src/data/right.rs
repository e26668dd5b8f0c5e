//! The right to buffer writes: with it a write is answered before meta has
//! the bytes, because everybody who wants to see the file waits until this
//! mount has sent them. It is meta's to give and to take back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::{Code, Result, limits};
use flexfs_proto::v1;

use super::FileData;
use super::file::FileState;
use super::flush::How;

/// Refusals before a write does without, and waits for its commit: somebody
/// else's change may come between the question and the answer.
const ATTEMPTS: usize = 3;
/// How long a right that is taken back may still be used by writes that have
/// asked for it.
const USE_MAX: Duration = Duration::from_millis(100);
/// How long what was written is tried to be sent when the right is taken back;
/// others wait for it.
const SEND_MAX: Duration = Duration::from_secs(5);
/// How long between two attempts.
const SEND_PAUSE: Duration = Duration::from_millis(100);
/// Instead of a number, while meta does not know of the file.
const OF_HELD: u64 = u64::MAX;

/// What this mount may do, and what it has done under which right.
#[derive(Debug, Default)]
pub(super) struct WriteRight {
    number: Option<u64>,
    /// The right that what is buffered was written under; 0: none, who wrote
    /// it is waiting.
    under: u64,
    /// Rises when a right is given up: one that was asked for before is none.
    era: u64,
}

impl WriteRight {
    pub(super) fn is_held(&self) -> bool {
        self.number.is_some()
    }

    /// Is nothing buffered under another number?
    fn may_become(&self, number: u64) -> bool {
        self.under == 0 || self.under == number
    }

    /// The number to commit with.
    pub(super) fn under(&self) -> u64 {
        self.under
    }

    /// Bytes are buffered; false when their writer has to wait for the commit.
    pub(super) fn wrote(&mut self) -> bool {
        if let Some(number) = self.number {
            self.under = number;
        }
        self.is_held()
    }

    /// Everything written under a right has arrived, or is lost.
    pub(super) fn nothing_left(&mut self) {
        self.under = 0;
    }

    pub(super) fn give_up(&mut self) {
        self.number = None;
        self.era += 1;
    }

    /// A file that meta does not know of is nobody else's.
    pub(super) fn of_held() -> WriteRight {
        WriteRight { number: Some(OF_HELD), ..WriteRight::default() }
    }

    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// Meta has heard of the file, and granted the right of this number (0:
    /// none) with its answer to a question of that era.
    pub(super) fn told_of(&mut self, number: u64, era: u64) {
        if self.under == OF_HELD {
            self.under = number;
        }
        self.number = (number != 0 && era == self.era).then_some(number);
    }
}

impl FileData {
    /// Meta has granted the right of this number with an answer that is fresh.
    pub fn may_buffer(&self, number: u64) {
        let mut state = self.state.lock();
        // Bytes of another right go under their own number first.
        if self.core.write_rights && number != 0 && state.right.may_become(number) {
            state.right.number = Some(number);
        }
    }

    /// Asks for the right unless it is there. That it was granted does not say
    /// that it still is; false: this mount does not get it now.
    ///
    /// # Errors
    /// Meta's.
    pub(super) async fn want_right(
        self: &Arc<Self>,
        caller: &v1::Caller,
        open_id: u64,
    ) -> Result<bool> {
        if !self.core.write_rights || self.state.lock().right.is_held() {
            return Ok(true);
        }
        // Its right was taken back: meta has to hear of it first.
        self.report_made().await?;
        // One question at a time: the others find its answer.
        let _acquiring = self.acquiring.lock().await;
        if self.state.lock().right.under() != 0 {
            // Of a right that was taken back: they go under its number, or are
            // refused, before there is another.
            let flushed = self.flush_aside(How::ALL).await;
            tracing::debug!(ino = %self.ino, ?flushed, "sent before another right is asked for");
            if self.state.lock().right.under() != 0 {
                return Ok(false);
            }
        }
        let mut refusals = 0;
        while refusals < ATTEMPTS {
            let era = {
                let state = self.state.lock();
                if state.right.is_held() {
                    return Ok(true);
                }
                state.right.era
            };
            let handle = self.handle.to_vec();
            let body = v1::op::Body::AcquireWrite(v1::AcquireWrite { handle, open_id });
            let attr = match self.core.session.call(caller.clone(), body).await? {
                v1::reply::Result::Attr(attr) => attr,
                _ => {
                    let why = "not the answer to AcquireWrite";
                    return Err(flexfs_common::Error::new(Code::ProtocolInvalid, why));
                }
            };
            let mut state = self.state.lock();
            if attr.write_right == 0 {
                refusals += 1;
                continue;
            }
            if state.right.era == era && state.right.may_become(attr.write_right) {
                state.learn(&attr);
                state.right.number = Some(attr.write_right);
            }
            // Else it was taken back on its way here.
            return Ok(true);
        }
        Ok(false)
    }

    /// Does nobody have it open here, and is there something that meta does not
    /// have?
    #[must_use]
    pub fn is_left_dirty(&self) -> bool {
        let state = self.state.lock();
        state.opens == 0 && !state.is_clean()
    }

    /// Ends when nothing is left that meta does not have: it has arrived, or is
    /// lost.
    pub async fn until_clean(&self) {
        while !self.is_clean() && self.core.session.end_error().is_none() {
            // The flusher tries it again about as often.
            tokio::time::sleep(limits::WRITE_BACK_AGE).await;
        }
        let mut state = self.state.lock();
        if state.opens == 0 {
            state.right.give_up();
        }
    }

    /// Meta takes the right back: what was written is sent. What cannot be is
    /// lost, and those who wrote it are told; others see the file without it.
    pub async fn give_up_writes(self: Arc<Self>) {
        // A right that has just been granted is used first: else two mounts that
        // write in turn might take it from each other for ever. Not for long:
        // such a write may itself be waiting for this to be answered.
        let used = tokio::time::timeout(USE_MAX, self.writing.write()).await;
        let under = {
            let mut state = self.state.lock();
            state.right.give_up();
            state.right.under
        };
        drop(used);
        flexfs_common::failpoint!("mount-recall-received");
        self.send_or_lose(How::ALL, FileState::is_clean).await;
        let mut state = self.state.lock();
        if !state.right.is_held() && state.right.under == under {
            // What is there now was written since, by somebody who is waiting.
            state.right.nothing_left();
        }
    }

    /// Sends what others are waiting for. What cannot be sent is lost, and those
    /// who wrote it are told.
    pub(super) async fn send_or_lose(self: &Arc<Self>, how: How, is_sent: fn(&FileState) -> bool) {
        let until = Instant::now() + SEND_MAX;
        loop {
            let Err(error) = self.flush_now(how).await else { return };
            if self.core.session.end_error().is_some() || is_sent(&self.state.lock()) {
                // Discarded already, and said so.
                return;
            }
            if Instant::now() >= until {
                let lost = self.discard(Some(&error));
                tracing::error!(ino = %self.ino, lost, "data is lost: others could not wait");
                return;
            }
            tokio::time::sleep(SEND_PAUSE).await;
        }
    }
}
