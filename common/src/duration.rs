//! Times as people type them: RFC 3339, or a span from now (`90d`, `8s`).

use std::time::Duration;

use crate::{Code, Error, Result};

/// `8s`, `30m`, `24h`, `90d`, `2w`, or `250ms`.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse_span(text: &str) -> Result<Duration> {
    let bad = || {
        Error::new(
            Code::ArgumentInvalid,
            format!("`{}` is not a span of time: 8s, 30m, 24h or 90d", text.escape_debug()),
        )
    };
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(bad()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// An instant: RFC 3339, or a span from `now`.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub fn parse_time(text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at);
    }
    let bad = |why: &str| {
        Error::new(
            Code::ArgumentInvalid,
            format!("`{}` is not a time: RFC 3339 or a span like 90d{why}", text.escape_debug()),
        )
    };
    let span = parse_span(text).map_err(|_| bad(""))?;
    let span = jiff::SignedDuration::try_from(span).map_err(|_| bad(" (too far away)"))?;
    now.checked_add(span).map_err(|_| bad(" (too far away)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_good_and_bad() {
        assert_eq!(parse_span("90d").unwrap(), Duration::from_secs(90 * 86_400));
        assert_eq!(parse_span("8s").unwrap(), Duration::from_secs(8));
        for bad in ["", "8", "s", "-8s", "1y", "1.5h", "99999999999999999d"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rfc3339_or_spans() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(parse_time("24h", now).unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(parse_time("2027-01-01T00:00:00Z", now).unwrap().as_second(), 1_798_761_600);
        for bad in ["tomorrow", "2027-13-01T00:00:00Z", "9999999999d", "2027-01-01"] {
            assert!(parse_time(bad, now).is_err(), "{bad}");
        }
    }
}
