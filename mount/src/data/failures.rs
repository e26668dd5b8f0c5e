//! Failures of background flushes, told once to every open of the file.

use std::collections::HashMap;

use flexfs_common::Error;

use crate::session::clone_error;

/// Opens that are remembered; beyond, an open may be told twice.
const SEEN_MAX: usize = 4096;

/// The last failure and who has heard of it.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Number of failures so far.
    count: u64,
    last: Option<Error>,
    /// Somebody was told the last one.
    told: bool,
    seen: HashMap<u64, u64>,
}

impl Failures {
    pub(super) fn record(&mut self, error: &Error) {
        self.count += 1;
        self.last = Some(clone_error(error));
        self.told = false;
    }

    /// The failure that this open has not heard of. An open that is not known
    /// here is told: better twice than never.
    pub(super) fn report(&mut self, open_id: u64) -> Option<Error> {
        let last = self.last.as_ref()?;
        if self.seen.get(&open_id) == Some(&self.count) {
            return None;
        }
        let error = clone_error(last);
        self.mark(open_id);
        Some(error)
    }

    /// This open has got the last failure as its own answer.
    pub(super) fn mark(&mut self, open_id: u64) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(open_id, self.count);
        self.told = true;
    }

    /// A new open: it is not told what another one was told before it began.
    pub(super) fn opened(&mut self, open_id: u64) {
        if self.told {
            self.seen.insert(open_id, self.count);
        }
    }

    pub(super) fn was_told(&self) -> bool {
        self.last.is_none() || self.told
    }

    /// No opens are left: nobody can ask any more.
    pub(super) fn all_closed(&mut self) {
        self.seen.clear();
        if self.told {
            self.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use flexfs_common::Code;

    use super::*;

    #[test]
    fn each_open_hears_of_each_failure_once() {
        let mut failures = Failures::default();
        assert!(failures.report(1).is_none());
        failures.record(&Error::bare(Code::FsNoSpace));
        assert_eq!(failures.report(1).unwrap().code(), Code::FsNoSpace);
        assert!(failures.report(1).is_none());
        assert_eq!(failures.report(2).unwrap().code(), Code::FsNoSpace);
        failures.opened(3);
        assert!(failures.report(3).is_none(), "it began after the failure was told");
        failures.record(&Error::bare(Code::FsQuota));
        assert_eq!(failures.report(1).unwrap().code(), Code::FsQuota);
        failures.all_closed();
        assert!(failures.report(9).is_none());
    }
}
