//! References to secrets: `env:VAR`, `file:/abs/path`, `exec:command args`.

use flexfs_common::Result;
use zeroize::Zeroizing;

/// A literal, or what the reference points to, trailing white space stripped.
///
/// # Errors
/// `REFERENCE_INVALID` naming the reference (never its value): unset or
/// empty variable, unreadable, relative or empty file, failing command.
#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
pub fn resolve(text: &str) -> Result<Zeroizing<String>> {
    unimplemented!()
}

/// Reads a `--tokenFile F|-` argument: a file or standard input, at most
/// 4 KiB, trailing white space stripped; also the three references.
///
/// # Errors
/// `REFERENCE_INVALID`.
#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
pub fn read_secret_argument(argument: &str) -> Result<Zeroizing<String>> {
    unimplemented!()
}
