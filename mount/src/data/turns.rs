//! The flushes of one file, numbered, so that whoever waited behind one that
//! failed shares its failure instead of waiting for another series of attempts.

use flexfs_common::{Code, Error};

use crate::session::clone_error;

/// Which flush runs, and how the last one ended.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many have begun.
    begun: u64,
    running: bool,
    /// The last to end failed at the store, and which it was.
    failed: Option<(u64, Error)>,
}

impl Turns {
    /// The first flush whose failure is one for who asks now: the one under
    /// way, which carries bytes of the file, or else the next.
    pub(super) fn joined(&self) -> u64 {
        if self.running { self.begun } else { self.begun + 1 }
    }

    /// The failure of a flush that began before the asker's turn and is its
    /// own; `None`: the asker flushes.
    pub(super) fn shared(&self, joined: u64) -> Option<Error> {
        let (number, error) = self.failed.as_ref()?;
        (*number >= joined).then(|| clone_error(error))
    }

    /// A flush begins.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
        self.running = true;
    }

    /// The flush has ended. Only a store that was waited for is shared:
    /// other failures come at once, and may be over by the next attempt.
    pub(super) fn end(&mut self, failure: Option<&Error>) {
        self.running = false;
        self.failed = failure
            .filter(|error| error.code() == Code::BlockUnavailable)
            .map(|error| (self.begun, clone_error(error)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_behind_a_flush_shares_its_failure_and_who_comes_later_does_not() {
        let mut turns = Turns::default();
        turns.begin();
        let behind = turns.joined();
        assert!(turns.shared(behind).is_none());
        turns.end(Some(&Error::bare(Code::BlockUnavailable)));
        assert_eq!(turns.shared(behind).unwrap().code(), Code::BlockUnavailable);
        let later = turns.joined();
        assert!(turns.shared(later).is_none());
        // The next one was to carry the bytes of both.
        turns.begin();
        turns.end(Some(&Error::bare(Code::BlockUnavailable)));
        assert!(turns.shared(behind).is_some() && turns.shared(later).is_some());
    }

    #[test]
    fn a_flush_that_succeeds_or_fails_elsewhere_is_not_shared() {
        for outcome in [None, Some(Error::bare(Code::FsNoSpace))] {
            let mut turns = Turns::default();
            turns.begin();
            let behind = turns.joined();
            turns.end(outcome.as_ref());
            assert!(turns.shared(behind).is_none());
        }
    }
}
