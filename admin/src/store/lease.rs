//! Answering from memory while other admins write to the same database.
//!
//! An admin may use what it has read before while it holds a lease: for
//! [`LEASE`] from when the renewal was *sent* it knows of every change that was
//! committed before the renewal, and whoever commits a change waits until every
//! admin that may hold a lease knows of it, or the lease is over. A renewal
//! locks the feed's head against commits, so one of the two comes first. An
//! admin without a lease reads the database each time: slower, never wrong.
//!
//! SQLite has one admin: what it has not committed itself (`recover`) is found
//! by polling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flexfs_common::clock::BootTime;

/// How long a lease holds.
pub const LEASE: Duration = Duration::from_secs(1);
/// What a committer waits beyond a lease, for the difference of clock rates.
pub const MARGIN: Duration = Duration::from_millis(100);
/// How often it is renewed, and how often changes are looked for.
pub const RENEW: Duration = Duration::from_millis(250);

/// The lease of this process.
#[derive(Debug, Default)]
pub struct Lease(AtomicU64);

impl Lease {
    /// Renewed by what was sent at this instant.
    pub fn renewed(&self, sent: BootTime) {
        self.0.fetch_max(sent.after(LEASE).as_nanos(), Ordering::SeqCst);
    }

    /// Does it hold now?
    #[must_use]
    pub fn holds(&self) -> bool {
        !BootTime::from_nanos(self.0.load(Ordering::SeqCst)).passed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_it_was_sent() {
        let lease = Lease::default();
        assert!(!lease.holds(), "none yet");
        lease.renewed(BootTime::from_nanos(0));
        assert!(!lease.holds(), "sent long ago");
        lease.renewed(BootTime::now());
        assert!(lease.holds());
    }
}
