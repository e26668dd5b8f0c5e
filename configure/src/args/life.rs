//! What happens in the life of a token: rotate, revoke, disable, enable.

use clap::{Args, Subcommand};

use super::ById;
use crate::{bulk, disable, revoke, rotate, rotation};

/// `revoke …`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs revoke volume-token 0b6f8a52 --wait\n  \
                  configure.flexfs revoke --volumeID projects --all --dryRun\n  configure.flexfs \
                  revoke --idsFile leaked.txt --all --reason \"leaked\" --wait")]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(crate) many: bulk::Arguments,
    #[command(subcommand)]
    pub(crate) one: Option<RevokeOne>,
}

/// `revoke …-token`
#[derive(Subcommand, Debug)]
#[expect(clippy::enum_variant_names, reason = "the variants are the words of the command line")]
pub(crate) enum RevokeOne {
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

/// `rotate …`
#[derive(Subcommand, Debug)]
#[expect(clippy::enum_variant_names, reason = "the variants are the words of the command line")]
pub(crate) enum Rotate {
    /// A token of an operator
    #[command(alias = "account-tokens")]
    AccountToken(rotate::Arguments),
    /// A token of mounts
    #[command(alias = "volume-tokens")]
    VolumeToken(rotate::Arguments),
    /// The token of metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(rotate::Arguments),
}

/// `rotation …`
#[derive(Subcommand, Debug)]
pub(crate) enum Rotation {
    /// A token's secrets, and which hosts use which
    Status(rotation::Status),
    /// End all secrets but the newest
    Finish(rotation::Finish),
}

/// `disable …`
#[derive(Subcommand, Debug)]
pub(crate) enum Disable {
    /// Suspend an account: none of its tokens is accepted
    #[command(alias = "accounts")]
    Account(disable::Arguments),
    /// A token of an operator
    #[command(alias = "account-tokens")]
    AccountToken(disable::Arguments),
    /// A token of mounts: every mount with it is cut off
    #[command(alias = "volume-tokens")]
    VolumeToken(disable::Arguments),
    /// The token of metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(disable::Arguments),
}

/// `enable …`
#[derive(Subcommand, Debug)]
pub(crate) enum Enable {
    /// A suspended account
    #[command(alias = "accounts")]
    Account(ById),
    /// A token of an operator
    #[command(alias = "account-tokens")]
    AccountToken(ById),
    /// A token of mounts; mounts that were cut must mount again
    #[command(alias = "volume-tokens")]
    VolumeToken(ById),
    /// The token of metadata servers
    #[command(alias = "meta-tokens")]
    MetaToken(ById),
}
