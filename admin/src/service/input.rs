//! Input of callers, checked. Messages from outside are hostile: everything
//! has a form and a bound.

use std::str::FromStr;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::flags::{self, Owner};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Kind, Result, limits, tls, wire};
use flexfs_proto::v1;
use jiff::Timestamp;

use crate::cidr::Cidr;

/// Entries of a list in a request.
const LIST_MAX_LEN: usize = 64;
/// Characters of an account's name.
const ACCOUNT_NAME_MAX_LEN: usize = 64;
/// Characters of an e-mail address (RFC 5321 section 4.5.3.1.3).
const EMAIL_MAX_LEN: usize = 254;
/// Seconds of a hundred years.
const SPAN_MAX_SECONDS: u64 = 100 * 366 * 86_400;
/// Characters of other short texts: buckets, regions, endpoints.
const TEXT_MAX_LEN: usize = 1024;

pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::new(Code::ArgumentInvalid, why)
}

/// Text for people: bounded, no control characters but line ends and tabs.
pub(super) fn notes(text: &str) -> Result<String> {
    let ok = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.len() > limits::NOTES_MAX_LEN || !text.chars().all(ok) {
        return Err(bad(format!("notes are at most {} bytes of text", limits::NOTES_MAX_LEN)));
    }
    Ok(text.to_owned())
}

/// A short text on one line.
pub(super) fn line(what: &str, text: &str) -> Result<String> {
    if text.len() > TEXT_MAX_LEN || text.chars().any(char::is_control) {
        return Err(bad(format!("{what} is at most {TEXT_MAX_LEN} bytes on one line")));
    }
    Ok(text.to_owned())
}

pub(super) fn account_name(text: &str) -> Result<String> {
    let ok = !text.is_empty()
        && text.chars().count() <= ACCOUNT_NAME_MAX_LEN
        && text.trim() == text
        && !text.chars().any(char::is_control);
    if !ok {
        return Err(Error::new(
            Code::NameInvalid,
            format!("an account's name is 1 to {ACCOUNT_NAME_MAX_LEN} characters on one line"),
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn email(text: &str) -> Result<String> {
    let ok = text.is_empty()
        || (text.len() <= EMAIL_MAX_LEN
            && !text.chars().any(|c| c.is_control() || c.is_whitespace())
            && text.split_once('@').is_some_and(|(user, host)| {
                !user.is_empty() && !host.is_empty() && !host.contains('@')
            }));
    if ok { Ok(text.to_owned()) } else { Err(bad("the e-mail address is not one")) }
}

/// `host:port`, as others are to use it.
pub(super) fn address(text: &str) -> Result<String> {
    let (address, plain) = tls::parse_address(text)?;
    if address.len() > TEXT_MAX_LEN || address.chars().any(char::is_control) {
        return Err(bad("the address is too long"));
    }
    Ok(if plain { format!("http://{address}") } else { address })
}

pub(super) fn store_id(text: &str, missing: Code) -> Result<StoreId> {
    // An id of another form is of no store.
    text.parse().map_err(|e: Error| Error::bare(missing).caused_by(e))
}

/// An instant, cut to the microseconds that are kept.
pub(super) fn time(at: Option<&v1::Timestamp>) -> Result<Option<Timestamp>> {
    at.map(|at| {
        let at = wire::timestamp_from_wire(at)?;
        Timestamp::from_microsecond(at.as_microsecond())
            .map_err(|e| bad("the time is out of range").caused_by(e))
    })
    .transpose()
}

/// The life of a token: an end in the past is refused, so that a typo does
/// not make a dead token.
pub(super) fn life(
    not_before: Option<&v1::Timestamp>,
    expires_at: Option<&v1::Timestamp>,
    now: Timestamp,
) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
    let (not_before, expires_at) = (time(not_before)?, time(expires_at)?);
    if expires_at.is_some_and(|end| end <= now) {
        return Err(bad("the expiry lies in the past"));
    }
    if let (Some(begin), Some(end)) = (not_before, expires_at)
        && begin >= end
    {
        return Err(bad("the token would expire before it begins"));
    }
    Ok((not_before, expires_at))
}

/// A number that the databases can keep.
pub(super) fn count(what: &str, value: u64) -> Result<u64> {
    if i64::try_from(value).is_err() {
        return Err(bad(format!("{what} is too large")));
    }
    Ok(value)
}

/// Seconds of an age or an idle time: at most a hundred years.
pub(super) fn span(what: &str, seconds: u64) -> Result<u64> {
    if seconds > SPAN_MAX_SECONDS {
        return Err(bad(format!("{what} is longer than a hundred years")));
    }
    Ok(seconds)
}

/// An idle end in seconds; 0 = none.
pub(super) fn idle(seconds: u64) -> Result<u64> {
    let least = limits::IDLE_MIN.as_secs();
    if seconds != 0 && seconds < least {
        return Err(bad(format!(
            "an idle time is at least {least} s: uses are written in batches"
        )));
    }
    span("the idle time", seconds)
}

/// Restrictions of a token by name.
pub(super) fn token_flags(names: &[String]) -> Result<v1::Flags> {
    if names.len() > flags::NAMES.len() {
        return Err(bad("a flag is named twice"));
    }
    flags::parse(Owner::Token, names.iter().map(String::as_str))
}

/// Parsed entries, sorted and each once, so that equal lists are equal.
pub(super) fn list<T: FromStr<Err = Error> + Ord>(what: &str, texts: &[String]) -> Result<Vec<T>> {
    if texts.len() > LIST_MAX_LEN {
        return Err(bad(format!("at most {LIST_MAX_LEN} {what}")));
    }
    let mut out = texts.iter().map(|text| text.parse()).collect::<Result<Vec<T>>>()?;
    out.sort();
    out.dedup();
    Ok(out)
}

pub(super) fn cidrs(texts: &[String]) -> Result<Vec<Cidr>> {
    list("address ranges", texts)
}

pub(super) fn names_of_volumes(texts: &[String]) -> Result<&[String]> {
    if texts.len() > LIST_MAX_LEN {
        return Err(bad(format!("at most {LIST_MAX_LEN} volumes")));
    }
    Ok(texts)
}

/// A token that the caller generated.
pub(super) fn new_token(text: Option<&v1::SecretText>, kind: TokenKind) -> Result<Token> {
    let text = text.filter(|text| !text.value.is_empty()).ok_or_else(|| {
        bad(format!("the {} token is missing: the caller generates it", kind.name()))
    })?;
    Token::parse_kind(&text.value, kind)
}

/// A state to filter by; empty = any.
pub(super) fn state<T: FromStr<Err = Error>>(text: &str) -> Result<&str> {
    if !text.is_empty() {
        text.parse::<T>()?;
    }
    Ok(text)
}

/// The range of ids that begin with a prefix of at least four digits; `None`
/// when the text cannot begin an id. An upper-case id is the same id.
pub(super) fn id_range(text: &str) -> Option<(String, String)> {
    let ok =
        (4..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let from = ok.then(|| text.to_ascii_lowercase())?;
    // `~` follows every character of an id.
    let to = format!("{from}~");
    Some((from, to))
}

/// The whole id, when the text is one; a failure of parsing is none.
pub(super) fn whole_id<T: FromStr<Err = Error>>(text: &str) -> Option<T> {
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            debug_assert_eq!(error.kind(), Kind::Invalid);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_four_digits_and_an_end() {
        assert_eq!(id_range("ABCD"), Some(("abcd".into(), "abcd~".into())));
        for bad in ["", "abc", "abcg", "%%%%", "ab_d", &"a".repeat(37)] {
            assert_eq!(id_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_dead_token_cannot_be_made() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| wire::timestamp_to_wire(text.parse().unwrap());
        let (early, late) = (at("2025-12-31T00:00:00Z"), at("2027-01-01T00:00:00Z"));
        assert!(life(None, Some(&early), now).is_err());
        assert!(life(Some(&late), Some(&late), now).is_err());
        assert!(life(Some(&early), Some(&late), now).is_ok());
        assert_eq!(life(None, None, now).unwrap(), (None, None));
        let broken = v1::Timestamp { seconds: i64::MAX, nanos: 0 };
        assert!(life(None, Some(&broken), now).is_err());
    }

    #[test]
    fn texts_are_bounded() {
        assert!(notes(&"x".repeat(limits::NOTES_MAX_LEN)).is_ok());
        assert!(notes(&"x".repeat(limits::NOTES_MAX_LEN + 1)).is_err());
        assert!(notes("a\u{1b}[2J").is_err());
        for good in ["", "a@b", "x.y@example.org"] {
            assert!(email(good).is_ok(), "{good}");
        }
        for bad in ["a", "@b", "a@", "a@b@c", "a b@c"] {
            assert!(email(bad).is_err(), "{bad}");
        }
        for bad in ["", " a", "a\n", &"x".repeat(65)] {
            assert!(account_name(bad).is_err(), "{bad}");
        }
        assert_eq!(address("http://h:1/").unwrap(), "http://h:1");
        assert!(address("h").is_err());
    }
}
