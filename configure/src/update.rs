//! `update`: what is not named stays as it is.

use std::time::Duration;

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use crate::account::AccountView;
use crate::args::Update;
use crate::run::Session;
use crate::token::TokenView;
use crate::values;
use crate::volume::VolumeView;
use crate::volume_token::Rights;

/// `update account`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs update account research --maxTokenAge 90d")]
pub(crate) struct Account {
    /// The id, a unique prefix of it, or the name
    #[arg(value_name = "ID")]
    id: String,
    /// Its name, unique in the installation
    #[arg(long = "name", value_name = "S")]
    name: Option<String>,
    /// Whom to write to about it
    #[arg(long = "email", value_name = "S")]
    email: Option<String>,
    /// Age policy: `doctor`, `report` and `list --overdue` name tokens whose newest secret is
    /// older; `none` ends it
    #[arg(long = "maxTokenAge", value_name = "SPAN|none", value_parser = values::token_age)]
    max_token_age: Option<u64>,
}

/// What can be changed of every token.
#[derive(Args, Debug)]
struct OfToken {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    /// For people
    #[arg(long = "notes", value_name = "S")]
    notes: Option<String>,
    /// When it ends: RFC 3339, a span from now, or `never`
    #[arg(long = "expires", value_name = "T|never", value_parser = values::time_change)]
    expires: Option<v1::TimeChange>,
    /// When it begins to work; `none` = it does
    #[arg(long = "notBefore", value_name = "T|none", value_parser = values::time_change)]
    not_before: Option<v1::TimeChange>,
    /// Ends when it is unused for so long; `none` = does not
    #[arg(long = "idle", value_name = "SPAN|none", value_parser = values::idle_change)]
    idle: Option<u64>,
    /// Only from these networks; `none` = from everywhere
    #[arg(long = "cidr", value_name = "A,B|none", value_parser = values::list)]
    cidrs: Option<v1::TextList>,
}

/// `update account-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs update account-token 5d0c --expires never \
                  --volumes projects,archive")]
pub(crate) struct AccountToken {
    #[command(flatten)]
    token: OfToken,
    /// Only these volumes (names or ids); `all` = every one of the account
    #[arg(long = "volumes", value_name = "A,B|all", value_parser = values::list_or_all)]
    volumes: Option<v1::TextList>,
}

/// `update volume-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs update volume-token 0b6f8a52 --flags \
                  ro,noExec --expires 30d")]
pub(crate) struct VolumeToken {
    #[command(flatten)]
    token: OfToken,
    /// Restrictions; `none` = no restrictions
    #[arg(long = "flags", value_name = "A,B|none", value_parser = values::token_flag_list)]
    flags: Option<v1::TextList>,
    /// Read and write, create and extend only, or read only
    #[arg(long = "rights", value_enum)]
    rights: Option<Rights>,
}

/// `update meta-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs update meta-token 7c1f --cidr 10.0.0.0/8")]
pub(crate) struct MetaToken {
    #[command(flatten)]
    token: OfToken,
}

/// `update volume`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs update volume projects --maxInodes 1000000 \
                  --flags noSUID")]
pub(crate) struct Volume {
    /// The id, a unique prefix of it, or the name
    #[arg(value_name = "ID")]
    id: String,
    /// For people
    #[arg(long = "notes", value_name = "S")]
    notes: Option<String>,
    /// Restrictions for all its mounts; `none` = no restrictions
    #[arg(long = "flags", value_name = "A,B|none", value_parser = values::volume_flag_list)]
    flags: Option<v1::TextList>,
    /// At most so many blocks (0 = no limit)
    #[arg(long = "maxBlocks", value_name = "N")]
    max_blocks: Option<u64>,
    /// At most so many inodes (0 = no limit)
    #[arg(long = "maxInodes", value_name = "N")]
    max_inodes: Option<u64>,
    /// How long deleted blocks are kept
    #[arg(long = "retention", value_name = "SPAN", value_parser = values::span)]
    retention: Option<Duration>,
}

/// `update …`
pub(crate) fn update(session: &Session, what: Update) -> Result<()> {
    match what {
        Update::Account(arguments) => account(session, arguments),
        Update::Volume(arguments) => volume(session, arguments),
        Update::AccountToken(AccountToken { token, volumes }) => {
            let request = v1::UpdateTokenRequest { volumes, ..of_token(session, token) };
            update_token(session, TokenKind::Account, request)
        }
        Update::VolumeToken(VolumeToken { token, flags, rights }) => {
            let rights = rights.map(|rights| rights.name().to_owned());
            let request = v1::UpdateTokenRequest { flags, rights, ..of_token(session, token) };
            update_token(session, TokenKind::Volume, request)
        }
        Update::MetaToken(MetaToken { token }) => {
            update_token(session, TokenKind::Meta, of_token(session, token))
        }
    }
}

fn of_token(session: &Session, token: OfToken) -> v1::UpdateTokenRequest {
    v1::UpdateTokenRequest {
        id: token.id,
        account_id: session.globals.account(),
        notes: token.notes,
        expires_at: token.expires,
        not_before: token.not_before,
        idle_seconds: token.idle,
        cidrs: token.cidrs,
        ..v1::UpdateTokenRequest::default()
    }
}

/// An update of nothing is a mistake, found before admin is asked.
fn check_some(flags: &str, are_given: bool) -> Result<()> {
    if are_given {
        return Ok(());
    }
    Err(Error::new(Code::ArgumentInvalid, format!("nothing to change: give some of {flags}")))
}

fn update_token(session: &Session, kind: TokenKind, request: v1::UpdateTokenRequest) -> Result<()> {
    let more = match kind {
        TokenKind::Account => " --volumes",
        TokenKind::Volume => " --flags --rights",
        TokenKind::Meta | TokenKind::Claim => "",
    };
    let flags = format!("--notes --expires --notBefore --idle --cidr{more}");
    let unchanged = v1::UpdateTokenRequest {
        id: request.id.clone(),
        account_id: request.account_id.clone(),
        ..v1::UpdateTokenRequest::default()
    };
    check_some(&flags, request != unchanged)?;
    let request = v1::UpdateTokenRequest { kind: kind.name().to_owned(), ..request };
    let reply =
        session.change(request, async |mut admin, request| admin.update_token(request).await)?;
    session.output.one(&TokenView::from(reply))
}

fn account(session: &Session, arguments: Account) -> Result<()> {
    let Account { id, name, email, max_token_age } = arguments;
    let are_given = name.is_some() || email.is_some() || max_token_age.is_some();
    check_some("--name --email --maxTokenAge", are_given)?;
    let request =
        v1::UpdateAccountRequest { id, name, email, max_token_age_seconds: max_token_age };
    let reply =
        session.change(request, async |mut admin, request| admin.update_account(request).await)?;
    session.output.one(&AccountView::from(reply))
}

fn volume(session: &Session, arguments: Volume) -> Result<()> {
    let Volume { id, notes, flags, max_blocks, max_inodes, retention } = arguments;
    let limits = max_blocks.is_some() || max_inodes.is_some();
    let are_given = notes.is_some() || flags.is_some() || limits || retention.is_some();
    check_some("--notes --flags --maxBlocks --maxInodes --retention", are_given)?;
    let request = v1::UpdateVolumeRequest {
        id,
        account_id: session.globals.account(),
        notes,
        flags,
        max_blocks,
        max_inodes,
        retention_seconds: retention.map(|retention| retention.as_secs()),
    };
    let reply =
        session.change(request, async |mut admin, request| admin.update_volume(request).await)?;
    session.output.one(&VolumeView::from(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, Globals};

    fn parsed(words: &str) -> Update {
        let words = ["configure.flexfs", "update"].into_iter().chain(words.split(' '));
        let cli: Cli = flexfs_common::cli::parse(words).unwrap();
        match cli.command {
            Command::Update(update) => update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_update_of_nothing_is_a_usage_error_naming_what_can_be_changed() {
        let session = Session::new(Globals::default(), false);
        for (words, flag) in [
            ("account a", "--maxTokenAge"),
            ("volume v", "--retention"),
            ("account-token t", "--volumes"),
            ("volume-token t", "--rights"),
            ("meta-token t", "--cidr"),
        ] {
            let error = update(&session, parsed(words)).unwrap_err();
            assert_eq!(error.code(), Code::ArgumentInvalid, "{words}");
            assert!(error.message().contains(flag), "{words}: {}", error.message());
        }
    }

    #[test]
    fn taking_away_is_told_from_leaving_alone() {
        let session = Session::new(Globals::default(), false);
        let words = "meta-token t --expires never --cidr none --idle none";
        let Update::MetaToken(MetaToken { token }) = parsed(words) else { panic!() };
        let request = of_token(&session, token);
        assert_eq!(request.expires_at, Some(v1::TimeChange { at: None }));
        assert_eq!(request.cidrs, Some(v1::TextList::default()));
        assert_eq!(request.idle_seconds, Some(0));
        assert_eq!((request.not_before, request.notes), (None, None));
    }
}
