//! Waits between attempts.

use std::time::Duration;

/// Between half of it and all of it, so that many mounts do not come at once.
pub(crate) fn jittered(span: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the full span is as good.
    if getrandom::fill(&mut random).is_err() {
        return span;
    }
    let part = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    span.mul_f64(0.5 + part / 2.0)
}
