//! Shared values ↔ their messages. Validation is on the receiving side.

use flexfs_proto::v1::{ErrorDetail, Timestamp};

use crate::{Code, Error, Result};

/// The error as data. Its source is not part of it.
#[must_use]
pub fn error_to_detail(error: &Error) -> ErrorDetail {
    ErrorDetail {
        code: error.code().name().to_owned(),
        message: error.message().to_owned(),
        hint: error.hint().to_owned(),
    }
}

/// The other side's error. A code that this version does not know is an
/// error of its own, which keeps the text.
///
/// # Errors
/// `PROTOCOL_INVALID` when the code is empty.
pub fn error_from_detail(detail: &ErrorDetail) -> Result<Error> {
    if detail.code.is_empty() {
        return Err(Error::new(Code::ProtocolInvalid, "an error without a code"));
    }
    Ok(match Code::from_name(&detail.code) {
        Some(code) => Error::new(code, detail.message.clone()),
        None => Error::new(Code::Internal, format!("{}: {}", detail.code, detail.message)),
    })
}

/// Microseconds and finer are kept: jiff's timestamps have nanoseconds.
#[must_use]
pub fn timestamp_to_wire(at: jiff::Timestamp) -> Timestamp {
    let nanos = at.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    let rest = nanos.rem_euclid(1_000_000_000);
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: u32::try_from(rest).unwrap_or(0),
    }
}

/// # Errors
/// `PROTOCOL_INVALID` when it lies outside the years -9999..=9999 or the
/// nanoseconds are not below one second.
pub fn timestamp_from_wire(at: &Timestamp) -> Result<jiff::Timestamp> {
    if at.nanos >= 1_000_000_000 {
        return Err(Error::new(Code::ProtocolInvalid, "a time with 10⁹ nanoseconds or more"));
    }
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    jiff::Timestamp::from_nanosecond(nanos)
        .map_err(|e| Error::new(Code::ProtocolInvalid, "a time out of range").caused_by(e))
}

/// A UUID in text, as all ids travel in gRPC messages.
///
/// # Errors
/// `PROTOCOL_INVALID`, naming the field.
pub fn uuid_from_wire(field: &'static str, text: &str) -> Result<uuid::Uuid> {
    uuid::Uuid::try_parse(text).map_err(|e| {
        Error::new(Code::ProtocolInvalid, format!("{field} is not a UUID")).caused_by(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for nanos in [-1_i128, -1_500_000_001, 0, 1, 1_700_000_000_123_456_789] {
            let at = jiff::Timestamp::from_nanosecond(nanos).unwrap();
            assert_eq!(timestamp_from_wire(&timestamp_to_wire(at)).unwrap(), at);
        }
    }
}
