//! From messages to what is shown: times, numbers and lists as text. What a
//! server sends may be anything; nothing here fails.

use flexfs_common::wire;
use flexfs_proto::v1::Timestamp;

/// RFC 3339, as JSON has it.
pub(crate) fn time(at: Option<&Timestamp>) -> Option<String> {
    at.and_then(|at| wire::timestamp_from_wire(at).ok()).map(|at| at.to_string())
}

/// To the second, for tables; empty when there is none.
pub(crate) fn short(time: Option<&str>) -> String {
    match time {
        None => String::new(),
        Some(text) => match text.split_once('.') {
            Some((seconds, _)) => format!("{seconds}Z"),
            None => text.to_owned(),
        },
    }
}

/// `None` for an empty text: what does not apply is left out.
pub(crate) fn text(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

/// `None` for zero.
pub(crate) fn number(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

/// A text or nothing, as a cell.
pub(crate) fn cell(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}

/// A size in bytes as people write it.
pub(crate) fn size(bytes: u64) -> String {
    [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// Seconds in the largest unit that divides them.
pub(crate) fn span(seconds: u64) -> String {
    [(86_400, "d"), (3600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit, _)| seconds != 0 && seconds.is_multiple_of(*unit))
        .map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        let at = Timestamp { seconds: 1_767_225_600, nanos: 120_000_000 };
        let full = time(Some(&at));
        assert_eq!(full.as_deref(), Some("2026-01-01T00:00:00.12Z"));
        assert_eq!(short(full.as_deref()), "2026-01-01T00:00:00Z");
        assert_eq!(time(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })), None);
        assert_eq!(time(None), None);
        assert_eq!(size(4 << 20), "4MiB");
        assert_eq!(size(1500), "1500");
        assert_eq!(size(0), "0");
    }

    #[test]
    fn spans_are_written_as_people_do() {
        assert_eq!(span(7 * 86_400), "7d");
        assert_eq!(span(90), "90s");
        assert_eq!(span(5400), "90m");
        assert_eq!(span(0), "0s");
    }
}
