//! The clocks. Leases count on CLOCK_BOOTTIME, which goes on during suspend
//! (clock_gettime(2)); wall time is for people and for stamps.

use std::time::Duration;

/// A point on CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    #[must_use]
    pub fn now() -> BootTime {
        let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(Duration::new(
            u64::try_from(at.tv_sec).unwrap_or(0),
            u32::try_from(at.tv_nsec).unwrap_or(0),
        ))
    }

    /// Later by `span` (saturating).
    #[must_use]
    pub fn after(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_add(span))
    }

    /// From `earlier` to this; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// From now until this; zero when it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.since(BootTime::now())
    }

    /// Has it passed?
    #[must_use]
    pub fn passed(self) -> bool {
        BootTime::now() >= self
    }

    /// Nanoseconds since boot, for atomics.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The reverse of [`BootTime::as_nanos`].
    #[must_use]
    pub fn from_nanos(nanos: u64) -> BootTime {
        BootTime(Duration::from_nanos(nanos))
    }
}

/// Wall-clock time now.
#[must_use]
pub fn wall_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
