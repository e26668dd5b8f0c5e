//! The command tree. What is done to things is in `nouns`, what happens in a
//! token's life in `life`; each noun's own flags stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flexfs_common::exit::ErrorFormat;

use crate::output::Format;
use crate::{init, offline, report, values};

mod life;
mod nouns;

pub(crate) use life::{Disable, Enable, Revoke, RevokeOne, Rotate, Rotation};
pub(crate) use nouns::{ById, Create, Delete, List, Page, Show, Update};

/// The operator's command line of flexfs.
#[derive(Parser, Debug)]
#[command(
    name = "configure.flexfs",
    bin_name = "configure.flexfs",
    version,
    propagate_version = false,
    max_term_width = 100,
    after_help = "Example:\n  configure.flexfs init creds --adminAddr admin:7400 --tokenFile -\n  \
                  configure.flexfs create volume-token --volumeID projects --mountPath /team-a --flags ro"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Default)]
pub(crate) struct Globals {
    /// How to print
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        global = true,
        help_heading = "Options of every command",
        value_name = "FORMAT"
    )]
    pub(crate) output: Option<Format>,
    /// The token to act with: a file, `-` for standard input, env:VAR, file:/PATH or
    /// exec:COMMAND. Where a token is created or rotated, the one to import; with `init creds`,
    /// to keep
    #[arg(
        long = "tokenFile",
        global = true,
        help_heading = "Options of every command",
        value_name = "F"
    )]
    pub(crate) token_file: Option<String>,
    /// Use this credentials file
    #[arg(
        long = "credsFile",
        global = true,
        help_heading = "Options of every command",
        value_name = "F",
        conflicts_with = "profile"
    )]
    pub(crate) creds_file: Option<PathBuf>,
    /// Use this profile of client.toml
    #[arg(
        long = "profile",
        global = true,
        help_heading = "Options of every command",
        value_name = "NAME"
    )]
    pub(crate) profile: Option<String>,
    /// Whose things (system tokens; default: the token's own account)
    #[arg(
        long = "accountID",
        global = true,
        help_heading = "Options of every command",
        value_name = "A"
    )]
    pub(crate) account_id: Option<String>,
    /// The id of the change to make: a change of one id is made once, however often it is asked
    /// for (default: a new one)
    #[arg(
        long = "requestID",
        global = true,
        help_heading = "Options of every command",
        value_name = "UUID",
        value_parser = values::uuid
    )]
    pub(crate) request_id: Option<uuid::Uuid>,
}

impl Globals {
    /// The form of errors that goes with the form of results.
    pub(crate) fn error_format(&self) -> ErrorFormat {
        match self.output {
            Some(Format::Json) => ErrorFormat::Json,
            None | Some(Format::Table | Format::Wide | Format::Yaml | Format::Id) => {
                ErrorFormat::Text
            }
        }
    }

    /// `--accountID` as a message field.
    pub(crate) fn account(&self) -> String {
        self.account_id.clone().unwrap_or_default()
    }
}

/// All commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Set up this user's access
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs init creds --adminAddr admin:7400 --tokenFile owner.token"
    )]
    Init(Init),
    /// Show the effective settings
    #[command(subcommand, after_help = "Example:\n  configure.flexfs config show")]
    Config(Config),
    /// Whose token is in use, and what it may do
    #[command(name = "whoami", after_help = "Example:\n  configure.flexfs whoami -o json")]
    WhoAmI,
    /// Can admin be reached? Its version, metadata servers and their feed lag
    #[command(after_help = "Example:\n  configure.flexfs status")]
    Status,
    /// Create something; a token is printed once, here
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs create volume projects --metaStoreID meta1 --blockStoreID disk > projects.token"
    )]
    Create(Create),
    /// Show one thing; never a secret
    #[command(subcommand, after_help = "Example:\n  configure.flexfs show volume projects -o json")]
    Show(Show),
    /// List things
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs list volume-tokens --volumeID projects"
    )]
    List(List),
    /// Delete something
    #[command(subcommand, after_help = "Example:\n  configure.flexfs delete volume projects")]
    Delete(Delete),
    /// Change a thing; what is not named stays as it is
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs update volume-token 0b6f8a52 --expires 30d"
    )]
    Update(Update),
    /// Revoke a token, or many: every server refuses them and cuts their sessions
    Revoke(Revoke),
    /// Give a token a new secret; the earlier ones end after an overlap
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs rotate volume-token 0b6f8a52 > new.token"
    )]
    Rotate(Rotate),
    /// Who still uses earlier secrets of a token, and their end
    #[command(subcommand, after_help = "Example:\n  configure.flexfs rotation status 0b6f8a52")]
    Rotation(Rotation),
    /// Refuse a token, or an account's tokens, until enabled; sessions are cut
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs disable volume-token 0b6f8a52 --wait"
    )]
    Disable(Disable),
    /// Accept a disabled token or account again
    #[command(subcommand, after_help = "Example:\n  configure.flexfs enable volume-token 0b6f8a52")]
    Enable(Enable),
    /// Reports
    #[command(subcommand, after_help = "Example:\n  configure.flexfs report tokens --csv")]
    Report(Report),
    /// Check access, tokens, metadata servers and rotations; ends with 1 when something is wrong
    #[command(after_help = "Example:\n  configure.flexfs doctor -o json")]
    Doctor,
    /// Make a token offline
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs generate token --kind volume > team.token"
    )]
    Generate(Generate),
    /// Look at a token offline
    #[command(subcommand, after_help = "Example:\n  configure.flexfs inspect token - < team.token")]
    Inspect(Inspect),
    /// What an error code means and what to check first
    #[command(after_help = "Example:\n  configure.flexfs explain TOKEN_REVOKED")]
    Explain {
        /// The code; all of them without it
        code: Option<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  configure.flexfs completions bash > \
                      /etc/bash_completion.d/configure.flexfs")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(after_help = "Example:\n  configure.flexfs man /usr/local/share/man/man1")]
    Man {
        /// An existing directory
        dir: PathBuf,
    },
    /// Print the version
    #[command(after_help = "Example:\n  configure.flexfs version")]
    Version,
}

/// Shells with completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// `init …`
#[derive(Subcommand, Debug)]
pub(crate) enum Init {
    /// Check a token with admin and keep it in a credentials file or a profile
    Creds(init::Arguments),
}

/// `report …`
#[derive(Subcommand, Debug)]
pub(crate) enum Report {
    /// Every token that one may see: age, end, last use
    Tokens(report::Arguments),
}

/// `config …`
#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Every setting and where it comes from; secrets are not shown
    #[command(after_help = "Example:\n  configure.flexfs config show")]
    Show,
}

/// `generate …`
#[derive(Subcommand, Debug)]
pub(crate) enum Generate {
    /// A token, to be imported with --tokenFile
    Token(offline::Generate),
}

/// `inspect …`
#[derive(Subcommand, Debug)]
pub(crate) enum Inspect {
    /// Kind, id and checksum of a token; no server is contacted
    Token(offline::Inspect),
}

#[cfg(test)]
mod tests;
