//! Values of flags: parsed while the command line is, so that a complaint
//! names the flag.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use flexfs_common::{Result, clock, duration, flags, size, wire};
use flexfs_proto::v1;

/// An instant: RFC 3339, or a span from now.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn instant(text: &str) -> Result<v1::Timestamp> {
    duration::parse_time(text, clock::wall_now()).map(wire::timestamp_to_wire)
}

/// A span of time.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn span(text: &str) -> Result<Duration> {
    duration::parse_span(text)
}

/// A size in bytes.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    size::parse_bytes(text)
}

/// Restrictions that a token can have.
pub(crate) fn token_flags() -> PossibleValuesParser {
    PossibleValuesParser::new(flags::NAMES)
}

/// Restrictions that a volume can have.
pub(crate) fn volume_flags() -> PossibleValuesParser {
    PossibleValuesParser::new(flags::NAMES.into_iter().chain(flags::VOLUME_NAMES))
}
