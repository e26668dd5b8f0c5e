//! Values of flags: parsed while the command line is, so that a complaint
//! names the flag.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Result, clock, duration, flags, limits, size, wire};
use flexfs_proto::v1;

/// An instant: RFC 3339, or a span from now.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn instant(text: &str) -> Result<v1::Timestamp> {
    duration::parse_time(text, clock::wall_now()).map(wire::timestamp_to_wire)
}

/// An instant in the past: RFC 3339, or a span back from now.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn past(text: &str) -> Result<v1::Timestamp> {
    past_from(text, clock::wall_now()).map(wire::timestamp_to_wire)
}

fn past_from(text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp> {
    let Ok(span) = duration::parse_span(text) else { return duration::parse_time(text, now) };
    let far = || Error::new(Code::ArgumentInvalid, "too long ago");
    let span = jiff::SignedDuration::try_from(span).map_err(|_| far())?;
    now.checked_sub(span).map_err(|_| far())
}

/// When something ends or begins from now on: an instant, or `never` or
/// `none` for no such time.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn time_change(text: &str) -> Result<v1::TimeChange> {
    match text {
        "never" | "none" => Ok(v1::TimeChange { at: None }),
        _ => instant(text).map(|at| v1::TimeChange { at: Some(at) }),
    }
}

/// A span of time.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn span(text: &str) -> Result<Duration> {
    duration::parse_span(text)
}

/// `--idle`, in whole seconds.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn idle(text: &str) -> Result<u64> {
    let idle = duration::parse_span(text)?;
    if idle < limits::IDLE_MIN {
        let least = limits::IDLE_MIN.as_secs();
        return Err(Error::new(Code::ArgumentInvalid, format!("at least {least}s")));
    }
    Ok(idle.as_secs())
}

/// `--idle` of a change: `none` = 0.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn idle_change(text: &str) -> Result<u64> {
    if text == "none" { Ok(0) } else { idle(text) }
}

/// `--maxTokenAge`, in whole seconds; `none` = 0.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn token_age(text: &str) -> Result<u64> {
    if text == "none" {
        return Ok(0);
    }
    match duration::parse_span(text)?.as_secs() {
        0 => Err(Error::new(Code::ArgumentInvalid, "at least 1s, or `none`")),
        seconds => Ok(seconds),
    }
}

/// `--overlap` of a rotation.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn overlap(text: &str) -> Result<Duration> {
    let overlap = duration::parse_span(text)?;
    if overlap < Duration::from_secs(1) || overlap > limits::ROTATION_OVERLAP_MAX {
        let most = limits::ROTATION_OVERLAP_MAX.as_secs() / 86_400;
        let message = format!("from 1s to {most}d; --emergency is a rotation without overlap");
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    Ok(overlap)
}

/// `--wait=SPAN`
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn wait(text: &str) -> Result<Duration> {
    let wait = duration::parse_span(text)?;
    if wait.is_zero() || wait > limits::REVOKE_WAIT_MAX {
        let most = limits::REVOKE_WAIT_MAX.as_secs();
        return Err(Error::new(Code::ArgumentInvalid, format!("from 1ms to {most}s")));
    }
    Ok(wait)
}

/// A span as messages have it, in milliseconds.
pub(crate) fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// A size in bytes.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    size::parse_bytes(text)
}

/// A list to be set: `a,b`, or `none` for an empty one.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn list(text: &str) -> Result<v1::TextList> {
    list_or(text, "none")
}

/// As [`list`], where the empty list means all of them.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn list_or_all(text: &str) -> Result<v1::TextList> {
    list_or(text, "all")
}

fn list_or(text: &str, empty: &str) -> Result<v1::TextList> {
    if text == empty {
        return Ok(v1::TextList::default());
    }
    let items: Vec<_> = text.split(',').map(str::to_owned).collect();
    if items.iter().any(|item| item.is_empty() || item == empty) {
        let message = format!("a list is `a,b`, or `{empty}` alone");
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    Ok(v1::TextList { items })
}

/// Restrictions of a token to be set, or `none`.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn token_flag_list(text: &str) -> Result<v1::TextList> {
    flag_list(text, flags::Owner::Token)
}

/// Restrictions of a volume to be set, or `none`.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn volume_flag_list(text: &str) -> Result<v1::TextList> {
    flag_list(text, flags::Owner::Volume)
}

fn flag_list(text: &str, owner: flags::Owner) -> Result<v1::TextList> {
    let list = list(text)?;
    flags::parse(owner, list.items.iter().map(String::as_str))?;
    Ok(list)
}

/// Restrictions that a token can have.
pub(crate) fn token_flags() -> PossibleValuesParser {
    PossibleValuesParser::new(flags::NAMES)
}

/// Restrictions that a volume can have.
pub(crate) fn volume_flags() -> PossibleValuesParser {
    PossibleValuesParser::new(flags::NAMES.into_iter().chain(flags::VOLUME_NAMES))
}

/// A kind of token.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn kind(text: &str) -> Result<TokenKind> {
    match TokenKind::from_name(text)? {
        TokenKind::Claim => Err(Error::new(Code::ArgumentInvalid, "account, volume or meta")),
        kind @ (TokenKind::Account | TokenKind::Volume | TokenKind::Meta) => Ok(kind),
    }
}

/// A token's whole id.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn token_id(text: &str) -> Result<TokenId> {
    text.parse()
}

/// A UUID.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn uuid(text: &str) -> Result<uuid::Uuid> {
    uuid::Uuid::try_parse(text).map_err(|_| Error::new(Code::ArgumentInvalid, "a UUID is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_into_the_past_is_counted_back() {
        let now: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(past_from("24h", now).unwrap().to_string(), "2026-01-01T00:00:00Z");
        let given = "2025-06-01T00:00:00Z";
        assert_eq!(past_from(given, now).unwrap().to_string(), given);
        for bad in ["yesterday", "9999999999d", ""] {
            assert_eq!(past_from(bad, now).unwrap_err().code(), Code::ArgumentInvalid, "{bad}");
        }
    }

    #[test]
    fn lists_can_be_emptied_by_their_word_alone() {
        assert_eq!(list("10.0.0.0/8,::/0").unwrap().items, ["10.0.0.0/8", "::/0"]);
        assert!(list("none").unwrap().items.is_empty());
        assert!(list_or_all("all").unwrap().items.is_empty());
        assert_eq!(list_or_all("none").unwrap().items, ["none"]);
        for bad in ["", "a,,b", "a,none", ","] {
            assert!(list(bad).is_err(), "{bad}");
        }
        assert_eq!(token_flag_list("ro,noExec").unwrap().items, ["ro", "noExec"]);
        assert!(token_flag_list("noACL").is_err() && volume_flag_list("noACL").is_ok());
    }

    #[test]
    fn times_and_spans_can_be_taken_away() {
        assert_eq!(time_change("never").unwrap().at, None);
        assert!(time_change("9d").unwrap().at.is_some());
        assert_eq!(idle_change("none").unwrap(), 0);
        assert_eq!(idle_change("2m").unwrap(), 120);
        assert!(idle("none").is_err() && idle("59s").is_err());
        assert_eq!(token_age("90d").unwrap(), 90 * 86_400);
        assert_eq!(token_age("none").unwrap(), 0);
        assert!(token_age("10ms").is_err());
        assert!(overlap("0s").is_err() && overlap("91d").is_err() && overlap("24h").is_ok());
    }
}
