//! configure.flexfs: the operator's command line. It authenticates with an
//! account token and speaks gRPC to admin; what it hands out it generates
//! itself, so that a repeated command cannot make a second secret.

mod account;
mod account_token;
mod args;
mod block_store;
mod bulk;
mod client;
mod config;
mod cut;
mod disable;
mod doctor;
mod init;
mod inventory;
mod keeper;
mod meta_store;
mod meta_token;
mod offline;
mod output;
mod profile;
mod report;
mod revoke;
mod rotate;
mod rotation;
mod run;
mod session;
mod sessions;
mod settings;
mod shell;
mod status;
mod token;
mod update;
mod values;
mod view;
mod volume;
mod volume_token;
mod whoami;

use std::process::ExitCode;

use flexfs_common::{cli, exit, tls};

/// How this program is called, in messages and scripts.
const PROGRAM: &str = "configure.flexfs";

fn main() -> ExitCode {
    tls::install_provider();
    flexfs_common::process::forbid_dumps();
    let cli: args::Cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let format = cli.globals.error_format();
    match run::run(cli) {
        Ok(run::Ending::Done) => ExitCode::from(exit::OK),
        Ok(run::Ending::Findings) => ExitCode::from(exit::FAILED),
        Err(error) => exit::report(&error, format),
    }
}
