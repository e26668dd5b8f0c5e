//! What is done to things: create, show, update, list, delete.

use clap::{Args, Subcommand};

use crate::{
    account, account_token, block_store, meta_store, sessions, token, update, volume, volume_token,
};

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
    AccountTokens(token::Listing),
    /// Volumes
    #[command(alias = "volume")]
    Volumes(Page),
    /// Tokens of mounts
    #[command(alias = "volume-token")]
    VolumeTokens(volume_token::List),
    /// Tokens of metadata servers
    #[command(alias = "meta-token")]
    MetaTokens(token::Listing),
    /// Places for metadata
    #[command(alias = "meta-store")]
    MetaStores(Page),
    /// Places for blocks
    #[command(alias = "block-store")]
    BlockStores(Page),
    /// Live mounts
    #[command(alias = "session")]
    Sessions(sessions::List),
}

/// `update …`
#[derive(Subcommand, Debug)]
pub(crate) enum Update {
    /// An account
    #[command(alias = "accounts")]
    Account(update::Account),
    /// A token for operators
    #[command(alias = "account-tokens")]
    AccountToken(update::AccountToken),
    /// A volume
    #[command(alias = "volumes")]
    Volume(update::Volume),
    /// A token for mounts; narrowed flags reach live mounts
    #[command(alias = "volume-tokens")]
    VolumeToken(update::VolumeToken),
    /// The token of a place's metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(update::MetaToken),
}
