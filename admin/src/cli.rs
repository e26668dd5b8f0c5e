//! The command line (docs/cli.md).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flexfs_auth::reference;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::exit::{self, ErrorFormat};
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

use crate::bootstrap;
use crate::config::{Given, Settings};
use crate::output;

mod recover;
mod start;
mod status;

/// The control plane of flexfs.
#[derive(Debug, Parser)]
#[command(
    name = "admin.flexfs",
    disable_version_flag = true,
    after_help = "Example:\n  admin.flexfs start --bindAddr 0.0.0.0:7400\n  admin.flexfs status"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare files before the first start.
    #[command(after_help = "Example:\n  admin.flexfs init creds --tokenFile -")]
    Init {
        #[command(subcommand)]
        what: Init,
    },
    /// Start the daemon.
    #[command(after_help = "Example:\n  admin.flexfs start --db file:/etc/flexfs/db-url")]
    Start(StartArgs),
    /// Is it running? Where, with which database, and how far is the feed?
    #[command(after_help = "Example:\n  admin.flexfs status -o json")]
    Status {
        /// How to print it.
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Make a new system token on the server itself; earlier ones are revoked.
    /// Or change the pepper, which leaves all tokens as they are.
    #[command(
        after_help = "Example:\n  admin.flexfs recover\n  admin.flexfs recover --newPepper\n  \
                      admin.flexfs recover --dropPepper 0a1b2c3d"
    )]
    Recover(RecoverArgs),
    /// Print the version.
    #[command(after_help = "Example:\n  admin.flexfs version")]
    Version,
}

#[derive(Debug, Subcommand)]
enum Init {
    /// Give the first (system) token instead of a generated one.
    #[command(
        after_help = "Example:\n  configure.flexfs generate token --kind account | admin.flexfs init creds --tokenFile -"
    )]
    Creds {
        /// File with the token, `-` for standard input, or a reference.
        #[arg(long = "tokenFile", value_name = "F|-")]
        token_file: Option<String>,
        /// Replace the file.
        #[arg(long)]
        force: bool,
    },
}

/// Which database.
#[derive(Debug, Args)]
struct DatabaseArgs {
    /// `sqlite:PATH`, `postgres://…`, `env:VAR` or `file:F`.
    #[arg(long, value_name = "URL")]
    db: Option<String>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Flags of `recover`.
#[derive(Debug, Args)]
struct RecoverArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Make a new pepper in place of the present one, or of one that is lost;
    /// no admin may run meanwhile. Every token goes on working and moves to the
    /// new one at its next use.
    #[arg(long = "newPepper", conflicts_with = "drop_pepper")]
    new_pepper: bool,
    /// Remove an earlier or lost pepper that no live secret needs any more
    /// (`admin.flexfs status` counts them).
    #[arg(long = "dropPepper", value_name = "ID")]
    drop_pepper: Option<String>,
}

/// Flags of `start`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct StartArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where to listen.
    #[arg(long = "bindAddr", value_name = "HOST:PORT")]
    bind_addr: Option<String>,
    /// Listen without TLS.
    #[arg(long = "noSSL")]
    no_ssl: bool,
    /// Certificate chain (PEM) in place of our own.
    #[arg(long = "sslCert", value_name = "F")]
    ssl_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long = "sslKey", value_name = "F")]
    ssl_key: Option<PathBuf>,
    /// Development: debug endpoints on a loopback address.
    #[arg(long)]
    dev: bool,
    /// Do not become a daemon.
    #[arg(long)]
    foreground: bool,
    /// Most verbose logging.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    /// The id of the installation's feed.
    Id,
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    flexfs_common::tls::install_provider();
    flexfs_common::process::forbid_dumps();
    let cli: Cli = match flexfs_common::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let format = match &cli.command {
        Command::Status { output: Format::Json } => ErrorFormat::Json,
        Command::Status { .. }
        | Command::Init { .. }
        | Command::Start(_)
        | Command::Recover(_)
        | Command::Version => ErrorFormat::Text,
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => exit::report(&error, format),
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Version => {
            output::line(&flexfs_common::cli::version_line("admin.flexfs"));
            Ok(())
        }
        Command::Init { what: Init::Creds { token_file, force } } => {
            init_creds(token_file.as_deref(), force)
        }
        Command::Start(args) => start::run(args),
        Command::Status { output } => status::run(output),
        Command::Recover(args) => recover::run(args),
    }
}

fn init_creds(token_file: Option<&str>, force: bool) -> Result<()> {
    let home = Home::from_env()?;
    if home.path("admin/flexfs.db").exists() {
        return Err(Error::new(
            Code::CredsExist,
            "the first start has been: its token cannot be given any more; \
             `admin.flexfs recover` makes a new one",
        ));
    }
    let token = match token_file {
        Some(argument) => {
            Token::parse_kind(&reference::read_secret_argument(argument)?, TokenKind::Account)?
        }
        None => Token::generate(TokenKind::Account)?,
    };
    if !bootstrap::write_token(&home, &token, force)? {
        let path = bootstrap::token_path(&home);
        return Err(Error::new(Code::CredsExist, format!("{} exists", path.display())));
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Internal, "no threads").caused_by(e))
}

impl DatabaseArgs {
    fn given(self) -> Given {
        Given { db: self.db, config: self.config, ..Given::default() }
    }
}

impl StartArgs {
    fn settings(self) -> Result<Settings> {
        let given = Given {
            bind_addr: self.bind_addr,
            no_ssl: self.no_ssl,
            ssl_cert: self.ssl_cert,
            ssl_key: self.ssl_key,
            ..self.database.given()
        };
        Settings::resolve(Home::from_env()?, given)
    }
}
