//! The commands: each reads its arguments, does one thing, and ends.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use flexfs_common::exit::{self, ErrorFormat};
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

use crate::cli::{Cli, Command, Init, Output};
use crate::{helper_form, output};

mod init_creds;
mod start;
mod status;
mod stop;
mod umount;

/// Runs the program with these arguments (without its name).
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    if helper_form::is_helper_form(arguments) {
        let outcome = helper_form::parse(arguments).and_then(|call| start::helper(&call));
        return end(outcome, ErrorFormat::Text);
    }
    let words = std::iter::once(OsString::from("mount.flexfs")).chain(arguments.iter().cloned());
    let cli: Cli = match flexfs_common::cli::parse(words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Init { what: Init::Creds(arguments) } => end(
            Home::from_env().and_then(|home| init_creds::run(&home, &arguments)),
            ErrorFormat::Text,
        ),
        Command::Start(arguments) => start::run(arguments),
        Command::Stop(arguments) => end(
            Home::from_env().and_then(|home| stop::run(&home, &arguments.dir)),
            ErrorFormat::Text,
        ),
        Command::Status(arguments) => {
            let format = match arguments.output {
                Output::Json => ErrorFormat::Json,
                Output::Table | Output::Wide | Output::Yaml | Output::Id => ErrorFormat::Text,
            };
            end(Home::from_env().and_then(|home| status::run(&home, &arguments)), format)
        }
        Command::Version => {
            output::line(&flexfs_common::cli::version_line("mount.flexfs"));
            ExitCode::from(exit::OK)
        }
    }
}

/// Was the program called as umount(8) calls its helpers, `umount.TYPE`?
#[must_use]
pub fn is_umount_helper(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| name.as_bytes().starts_with(b"umount."))
}

/// Runs the program as umount(8)'s helper.
#[must_use]
pub fn run_umount(arguments: &[OsString]) -> ExitCode {
    let outcome = umount::parse(arguments)
        .and_then(|call| Home::from_env().and_then(|home| umount::run(&home, &call)));
    end(outcome, ErrorFormat::Text)
}

fn end(outcome: Result<()>, format: ErrorFormat) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => exit::report(&error, format),
    }
}

/// A runtime for one short command.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::bare(Code::Internal).caused_by(e))
}
