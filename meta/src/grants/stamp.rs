//! A moment that can be compared over restarts: CLOCK_BOOTTIME within one
//! boot, wall time between boots.

use std::time::Duration;

use flexfs_common::clock::{self, BootTime};

/// A moment.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stamp {
    /// Which boot (`/proc/sys/kernel/random/boot_id`); empty = not known.
    #[prost(string, tag = "1")]
    pub boot: String,
    /// Nanoseconds of CLOCK_BOOTTIME.
    #[prost(uint64, tag = "2")]
    pub boot_nanos: u64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "3")]
    pub wall_millis: i64,
}

impl Stamp {
    /// Now.
    #[must_use]
    pub fn now() -> Stamp {
        // Read once: it cannot change while this process lives.
        static BOOT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map(|text| text.trim_end().to_owned())
                .unwrap_or_default()
        });
        Stamp {
            boot: BOOT.clone(),
            boot_nanos: BootTime::now().as_nanos(),
            wall_millis: clock::wall_now().as_millisecond(),
        }
    }

    /// From this to `later`; `None` when the clock went backwards between.
    #[must_use]
    pub fn until(&self, later: &Stamp) -> Option<Duration> {
        if !self.boot.is_empty() && self.boot == later.boot {
            return later.boot_nanos.checked_sub(self.boot_nanos).map(Duration::from_nanos);
        }
        let millis = later.wall_millis.checked_sub(self.wall_millis)?;
        u64::try_from(millis).ok().map(Duration::from_millis)
    }
}
