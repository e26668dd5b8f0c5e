//! The command line of `meta.flexfs` (docs/cli.md).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use flexfs_common::exit::{self, ErrorFormat};
use flexfs_common::{Result, cli, daemon, duration, size, tls};

use crate::commands;
use crate::output::{self, Format};

/// The metadata daemon of flexfs.
#[derive(Debug, Parser)]
#[command(
    name = "meta.flexfs",
    disable_version_flag = true,
    after_help = "Example:\n  meta.flexfs init creds --adminAddr admin:7400 --tokenFile -\n  meta.flexfs start"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write what this server needs.
    #[command(subcommand)]
    Init(Init),
    /// Start the server.
    Start(Box<Start>),
    /// Is it running, and how is it?
    #[command(after_help = "Example:\n  meta.flexfs status -o json")]
    Status(Show),
    /// Check the consistency of the database.
    #[command(after_help = "Example:\n  meta.flexfs verify")]
    Verify(Verify),
    /// Delete what is no longer needed from the block stores.
    #[command(after_help = "Example:\n  meta.flexfs gc --confirmRestore")]
    Gc(Gc),
    /// Write a backup of the database into a new file, also beside a running
    /// server. The file is like a key: keep it as one.
    #[command(after_help = "Example:\n  meta.flexfs backup /var/backups/meta-monday")]
    Backup(BackupFile),
    /// Fill an empty data directory from a backup, while no server runs.
    /// Nothing is deleted from the block stores afterwards until
    /// `gc --confirmRestore`.
    #[command(after_help = "Example:\n  meta.flexfs restore /var/backups/meta-monday")]
    Restore(BackupFile),
    /// Print the version.
    #[command(after_help = "Example:\n  meta.flexfs version")]
    Version,
}

#[derive(Debug, Subcommand)]
enum Init {
    /// Contact admin, check the meta token, and write the credentials file.
    #[command(
        after_help = "Example:\n  meta.flexfs init creds --adminAddr admin:7400 --tokenFile token"
    )]
    Creds(InitCreds),
}

/// Arguments of `init creds`.
#[derive(Debug, Args)]
pub struct InitCreds {
    /// Where admin is: host:port, or http://host:port for one without TLS.
    #[arg(long = "adminAddr", value_name = "H:P")]
    pub admin_addr: String,
    /// File with the meta token, `-` for stdin, or a reference.
    #[arg(long = "tokenFile", value_name = "F|-")]
    pub token_file: Option<String>,
    /// Fingerprint of admin's CA, as `admin.flexfs status` prints it.
    #[arg(long = "caFingerprint", value_name = "sha256:…")]
    pub ca_fingerprint: Option<String>,
    /// Credentials of a block store: a name, and the file that holds them.
    #[arg(long = "blockCreds", value_name = "NAME=FILE")]
    pub block_creds: Vec<String>,
    /// The file to write [default: $FLEXFS_HOME/meta/creds].
    #[arg(long = "credsFile", value_name = "F")]
    pub creds_file: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `start`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  meta.flexfs start --bindAddr 0.0.0.0:7410")]
pub struct Start {
    /// Where to listen.
    #[arg(long = "bindAddr", value_name = "IP:PORT", default_value = "0.0.0.0:7410")]
    pub bind_addr: String,
    /// The credentials file [default: $FLEXFS_HOME/meta/creds].
    #[arg(long = "credsFile", value_name = "F")]
    pub creds_file: Option<PathBuf>,
    /// Where the embedded engine keeps everything [default: $FLEXFS_HOME/meta/data].
    #[arg(long = "dataDir", value_name = "D", conflicts_with = "engine")]
    pub data_dir: Option<PathBuf>,
    /// Another engine than the embedded one.
    #[arg(long, value_name = "URL")]
    pub engine: Option<String>,
    /// Put every commit on stable storage before it is answered (slow; without
    /// it this is done for fsync, and for everything within a second).
    #[arg(long)]
    pub sync: bool,
    /// What is kept free of the data directory's disk: below that, what takes
    /// space fails with ENOSPC; 0 = nothing, then a full disk ends the engine
    /// [default: 2 % of the disk, at least 64M, at most 256M].
    #[arg(long = "diskReserve", value_name = "S", value_parser = bytes)]
    pub disk_reserve: Option<u64>,
    /// How long to go on without admin; 0s = not at all.
    #[arg(long = "adminGrace", value_name = "T", default_value = "1h", value_parser = grace)]
    pub admin_grace: Duration,
    /// Listen without TLS.
    #[arg(long = "noSSL", conflicts_with_all = ["ssl_cert", "ssl_key"])]
    pub no_ssl: bool,
    /// Certificate chain (PEM) instead of the one from admin.
    #[arg(long = "sslCert", value_name = "F", requires = "ssl_key")]
    pub ssl_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long = "sslKey", value_name = "F", requires = "ssl_cert")]
    pub ssl_key: Option<PathBuf>,
    /// Stay in the foreground, log to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// Log everything.
    #[arg(long)]
    pub verbose: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Show {
    /// How to print.
    #[arg(short = 'o', long = "output", value_enum, default_value = "table")]
    pub output: Format,
    /// The credentials file [default: $FLEXFS_HOME/meta/creds].
    #[arg(long = "credsFile", value_name = "F")]
    pub creds_file: Option<PathBuf>,
    /// Its data directory [default: $FLEXFS_HOME/meta/data].
    #[arg(long = "dataDir", value_name = "D")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Only this volume.
    #[arg(long = "volumeID", value_name = "V", default_value = "")]
    pub volume_id: String,
    /// Everything else as for `status`.
    #[command(flatten)]
    pub show: Show,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// The restored volumes are as they should be: what they do not need may
    /// be deleted from the block store.
    #[arg(long = "confirmRestore", required = true)]
    pub confirm_restore: bool,
    /// Only this volume.
    #[arg(long = "volumeID", value_name = "V", default_value = "")]
    pub volume_id: String,
    /// Everything else as for `status`.
    #[command(flatten)]
    pub show: Show,
}

/// Arguments of `backup` and `restore`.
#[derive(Debug, Args)]
pub struct BackupFile {
    /// The backup's file: made by `backup`, read by `restore`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Everything else as for `status`.
    #[command(flatten)]
    pub show: Show,
}

fn bytes(text: &str) -> Result<u64, String> {
    size::parse_bytes(text).map_err(|e| e.message().to_owned())
}

fn grace(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    duration::parse_span(text).map_err(|e| e.message().to_owned())
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    tls::install_provider();
    flexfs_common::process::forbid_dumps();
    let cli: Cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let (outcome, format) = match cli.command {
        Command::Version => {
            output::line(&cli::version_line("meta.flexfs"));
            (Ok(()), ErrorFormat::Text)
        }
        Command::Init(Init::Creds(arguments)) => {
            (commands::init::creds(&arguments), ErrorFormat::Text)
        }
        Command::Start(arguments) => (commands::start::start(&arguments), ErrorFormat::Text),
        Command::Status(arguments) => {
            (commands::status::status(&arguments), errors_as(arguments.output))
        }
        Command::Gc(arguments) => {
            (commands::gc::confirm_restore(&arguments), errors_as(arguments.show.output))
        }
        Command::Backup(arguments) => {
            (commands::backup::backup(&arguments), errors_as(arguments.show.output))
        }
        Command::Restore(arguments) => {
            (commands::restore::restore(&arguments), errors_as(arguments.show.output))
        }
        Command::Verify(arguments) => match commands::verify::verify(&arguments) {
            Ok(0) => (Ok(()), ErrorFormat::Text),
            Ok(_) => return ExitCode::from(exit::FAILED),
            Err(error) => (Err(error), errors_as(arguments.show.output)),
        },
    };
    match outcome {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) if daemon::report_failure(&error) => {
            ExitCode::from(exit::exit_code(error.code()))
        }
        Err(error) => exit::report(&error, format),
    }
}

fn errors_as(format: Format) -> ErrorFormat {
    if format == Format::Json { ErrorFormat::Json } else { ErrorFormat::Text }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        cli::with_kebab_aliases(Cli::command()).debug_assert();
    }

    #[test]
    fn flags_follow_the_contract() {
        let words = "meta.flexfs start --bindAddr 127.0.0.1:1 --credsFile c --data-dir d --sync \
                     --adminGrace 0 --diskReserve 1G --no-ssl --foreground --verbose";
        let parsed: Cli = cli::parse(words.split_whitespace()).unwrap();
        let Command::Start(start) = parsed.command else { panic!("not start") };
        assert_eq!(start.admin_grace, Duration::ZERO);
        assert_eq!(start.disk_reserve, Some(1 << 30));
        assert!(start.no_ssl && start.sync && start.foreground && start.verbose);
        assert!(cli::parse::<Cli, _>("meta start --engine x --dataDir y".split(' ')).is_err());
        assert!(cli::parse::<Cli, _>("meta start --diskReserve 2%".split(' ')).is_err());
        assert!(cli::parse::<Cli, _>("meta start --adminGrace soon".split(' ')).is_err());
        assert!(
            cli::parse::<Cli, _>("meta start --noSSL --sslCert a --sslKey b".split(' ')).is_err()
        );
    }
}
