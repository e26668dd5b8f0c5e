//! Error → exit code of a program, and how a program ends (docs/cli.md).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::{Code, Error, Kind};

/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// Not authenticated.
pub const UNAUTHENTICATED: u8 = 3;
/// Not allowed.
pub const DENIED: u8 = 4;
/// Not found.
pub const NOT_FOUND: u8 = 5;
/// Conflict.
pub const CONFLICT: u8 = 6;
/// Unavailable.
pub const UNAVAILABLE: u8 = 7;

/// The exit code of an error.
#[must_use]
pub fn exit_code(code: Code) -> u8 {
    match code.kind() {
        Kind::Invalid => match code {
            Code::ArgumentInvalid | Code::NameInvalid | Code::PathInvalid => USAGE,
            _ => FAILED,
        },
        Kind::Unauthenticated => UNAUTHENTICATED,
        Kind::Denied => DENIED,
        Kind::NotFound => NOT_FOUND,
        Kind::Exists | Kind::Conflict => CONFLICT,
        Kind::Limited | Kind::Unavailable | Kind::DeadlineExceeded => UNAVAILABLE,
        Kind::Cancelled | Kind::Corrupt | Kind::Unsupported | Kind::Posix | Kind::Internal => {
            FAILED
        }
    }
}

/// How errors are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `error[CODE]: sentence` and `hint: …`.
    Text,
    /// `{"code", "message", "hint"}` on one line.
    Json,
}

/// Prints the error on stderr and gives the exit code.
pub fn report(error: &Error, format: ErrorFormat) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    // Nothing can be done when stderr is closed; the exit code still tells.
    let _ = match format {
        ErrorFormat::Json => writeln!(
            stderr,
            "{}",
            serde_json::json!({
                "code": error.code().name(),
                "message": error.with_causes(),
                "hint": error.hint(),
            })
        ),
        ErrorFormat::Text => {
            let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let (red, reset) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
            let hint = match error.hint() {
                "" => String::new(),
                hint => format!("hint: {hint}\n"),
            };
            write!(
                stderr,
                "{red}error[{}]{reset}: {}\n{hint}",
                error.code().name(),
                error.with_causes()
            )
        }
    };
    ExitCode::from(exit_code(error.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        for code in Code::ALL {
            let name = code.name();
            if (name.starts_with("TOKEN_") && !matches!(code.kind(), Kind::Exists | Kind::NotFound))
                || (name.starts_with("CREDS_") && *code != Code::CredsExist)
            {
                assert_eq!(exit_code(*code), UNAUTHENTICATED, "{name}");
            }
        }
        assert_eq!(exit_code(Code::SecretWrong), UNAUTHENTICATED);
        assert_eq!(exit_code(Code::CredsExist), CONFLICT);
        assert_eq!(exit_code(Code::RateLimited), UNAVAILABLE);
        assert_eq!(exit_code(Code::RoleForbidden), DENIED);
    }
}
