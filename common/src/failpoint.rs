//! Places where a program of a debug build kills itself, so that tests see
//! what a restart finds: `FLEXFS_FAILPOINT=name` or `name:nth`. In a release
//! build a place expands to nothing, so there is no such switch.

/// Kills this process with SIGKILL where it stands, when `FLEXFS_FAILPOINT`
/// names this point and it is passed for the nth time (1 when not said). Only
/// under `debug_assertions`. A name that is not in `failpoint::NAMES` does not
/// compile.
#[cfg(debug_assertions)]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        const INDEX: usize = $crate::failpoint::index($name);
        $crate::failpoint::pass(INDEX);
    }};
}

/// Nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}

#[cfg(debug_assertions)]
pub use armed::{NAMES, index, pass};

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Says which point is armed.
    const VARIABLE: &str = "FLEXFS_FAILPOINT";

    /// Every point: `meta-*` and `mount-*` are passed in the program of that
    /// name. `tests/tests/failpoints.rs` dies at each.
    pub const NAMES: &[&str] = &[
        // A frame of operations.
        "meta-commit-before",
        "meta-commit-after",
        "meta-sync-before",
        "meta-sync-after",
        // Objects that nobody needs any more.
        "meta-collect-condemned",
        "meta-collect-synced",
        "meta-collect-deleted",
        // The directory store.
        "meta-store-written",
        "meta-store-synced",
        "meta-store-renamed",
        // Recalls, sessions.
        "meta-recall-queued",
        "meta-recall-answered",
        "meta-session-opened",
        // An upload, its commit, a file that is told of late, a recall of the
        // right to buffer writes.
        "mount-put-before",
        "mount-put-after",
        "mount-commit-after",
        "mount-make-before",
        "mount-make-after",
        "mount-recall-received",
        "mount-recall-flushed",
    ];

    struct Armed {
        index: usize,
        left: AtomicU64,
    }

    /// Read once: a process has the environment it was started with.
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// The place of a name in [`NAMES`].
    ///
    /// # Panics
    /// When it is not there; in a constant, so that it does not compile.
    #[must_use]
    #[expect(clippy::panic, reason = "evaluated by the compiler")]
    #[expect(clippy::indexing_slicing, reason = "below the length; get is not const")]
    pub const fn index(name: &str) -> usize {
        let mut at = 0;
        while at < NAMES.len() {
            if equal(NAMES[at].as_bytes(), name.as_bytes()) {
                return at;
            }
            at += 1;
        }
        panic!("not in failpoint::NAMES")
    }

    #[expect(clippy::indexing_slicing, reason = "below the length; get is not const")]
    const fn equal(left: &[u8], right: &[u8]) -> bool {
        let mut at = 0;
        while at < left.len() && at < right.len() && left[at] == right[at] {
            at += 1;
        }
        at == left.len() && at == right.len()
    }

    /// Passes a point; does not return when it is the armed one and its turn
    /// has come.
    pub fn pass(index: usize) {
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.index != index || armed.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // Nobody may refuse a process its own end.
        let killed = kill_process(getpid(), Signal::KILL);
        tracing::error!(?killed, "still here after SIGKILL");
        loop {
            std::thread::park();
        }
    }

    fn from_environment() -> Option<Armed> {
        let text = std::env::var(VARIABLE).ok()?;
        let armed = parse(&text);
        match &armed {
            Some(_) => tracing::warn!("{VARIABLE}={text}: this process will kill itself there"),
            None => tracing::warn!("{VARIABLE}={text} is no failpoint and ignored"),
        }
        armed
    }

    fn parse(text: &str) -> Option<Armed> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let index = NAMES.iter().position(|known| *known == name)?;
        let nth = nth.parse().ok().filter(|nth| *nth > 0)?;
        Some(Armed { index, left: AtomicU64::new(nth) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_a_known_name_with_a_count_above_zero_is_armed() {
            let parsed = |text: &str| {
                parse(text).map(|armed| (armed.index, armed.left.load(Ordering::Relaxed)))
            };
            let second = index("meta-commit-after");
            assert_eq!(parsed("meta-commit-after"), Some((second, 1)));
            assert_eq!(parsed("meta-commit-after:7"), Some((second, 7)));
            for bad in ["", "meta-commit", "meta-commit-after:", "meta-commit-after:0", "x:1"] {
                assert_eq!(parsed(bad), None, "{bad}");
            }
        }

        #[test]
        fn every_name_stands_once() {
            for (at, name) in NAMES.iter().enumerate() {
                assert_eq!(index(name), at, "{name}");
            }
        }
    }
}
