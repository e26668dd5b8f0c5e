//! The command tree. Each noun's own flags stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flexfs_common::exit::ErrorFormat;

use crate::output::Format;
use crate::{
    account, account_token, block_store, init, meta_store, offline, revoke, volume, volume_token,
};

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
    /// exec:COMMAND. Where a token is created, the one to import; with `init creds`, to keep
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
    /// Revoke a token: every server refuses it and cuts its sessions
    #[command(
        subcommand,
        after_help = "Example:\n  configure.flexfs revoke volume-token 0b6f8a52 --wait"
    )]
    Revoke(Revoke),
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

/// `config …`
#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Every setting and where it comes from; secrets are not shown
    #[command(after_help = "Example:\n  configure.flexfs config show")]
    Show,
}

/// `create …`
#[derive(Subcommand, Debug)]
pub(crate) enum Create {
    /// An account, with its first owner token
    #[command(alias = "accounts")]
    Account(account::Create),
    /// A token for operators
    #[command(alias = "account-tokens")]
    AccountToken(account_token::Create),
    /// A volume, with a token for all of it
    #[command(alias = "volumes")]
    Volume(volume::Create),
    /// A token for mounts
    #[command(alias = "volume-tokens")]
    VolumeToken(volume_token::Create),
    /// A place for metadata, with the token of its servers
    #[command(alias = "meta-stores")]
    MetaStore(meta_store::Create),
    /// A place for blocks
    #[command(alias = "block-stores")]
    BlockStore(block_store::Create),
}

/// One thing, by its id.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs show volume projects -o json\n  \
                  configure.flexfs delete volume-token 0b6f8a52")]
pub(crate) struct ById {
    /// The id or a unique prefix of it; a volume or account also by its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `show …`
#[derive(Subcommand, Debug)]
pub(crate) enum Show {
    /// An account
    #[command(alias = "accounts")]
    Account(ById),
    /// A token for operators
    #[command(alias = "account-tokens")]
    AccountToken(ById),
    /// A volume
    #[command(alias = "volumes")]
    Volume(ById),
    /// A token for mounts
    #[command(alias = "volume-tokens")]
    VolumeToken(ById),
    /// A place for metadata
    #[command(alias = "meta-stores")]
    MetaStore(ById),
    /// The token of a place's metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(ById),
    /// A place for blocks
    #[command(alias = "block-stores")]
    BlockStore(ById),
}

/// `delete …`
#[derive(Subcommand, Debug)]
pub(crate) enum Delete {
    /// An account without volumes and live tokens
    #[command(alias = "accounts")]
    Account(ById),
    /// A revoked or expired token for operators: out of the listings
    #[command(alias = "account-tokens")]
    AccountToken(ById),
    /// Retire a volume; its tokens are revoked
    #[command(alias = "volumes")]
    Volume(ById),
    /// A revoked or expired token for mounts: out of the listings
    #[command(alias = "volume-tokens")]
    VolumeToken(ById),
    /// A place for metadata without volumes
    #[command(alias = "meta-stores")]
    MetaStore(ById),
    /// A place for blocks without volumes
    #[command(alias = "block-stores")]
    BlockStore(ById),
}

/// What every listing takes.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Example:\n  configure.flexfs list volume-tokens --state active -o json")]
pub(crate) struct Page {
    /// Only those in this state
    #[arg(long = "state", value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// At most so many
    #[arg(long = "limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// The page after an earlier listing (its nextPage)
    #[arg(long = "page", value_name = "P")]
    pub(crate) page: Option<String>,
}

/// `list …`
#[derive(Subcommand, Debug)]
pub(crate) enum List {
    /// Accounts
    #[command(alias = "account")]
    Accounts(Page),
    /// Tokens of operators
    #[command(alias = "account-token")]
    AccountTokens(Page),
    /// Volumes
    #[command(alias = "volume")]
    Volumes(Page),
    /// Tokens of mounts
    #[command(alias = "volume-token")]
    VolumeTokens(volume_token::List),
    /// Tokens of metadata servers
    #[command(alias = "meta-token")]
    MetaTokens(Page),
    /// Places for metadata
    #[command(alias = "meta-store")]
    MetaStores(Page),
    /// Places for blocks
    #[command(alias = "block-store")]
    BlockStores(Page),
}

/// `revoke …`
#[derive(Subcommand, Debug)]
#[expect(clippy::enum_variant_names, reason = "the variants are the words of the command line")]
pub(crate) enum Revoke {
    /// A token of an operator
    #[command(alias = "account-tokens")]
    AccountToken(revoke::Arguments),
    /// A token of mounts: every mount with it is cut off
    #[command(alias = "volume-tokens")]
    VolumeToken(revoke::Arguments),
    /// The token of metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(revoke::Arguments),
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
