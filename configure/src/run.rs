//! From the parsed command line to the command.

use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result};

use crate::args::{
    Cli, Command, Config, Create, Delete, Generate, Init, Inspect, List, Report, Revoke, RevokeOne,
    Rotate, Rotation, Show,
};
pub(crate) use crate::session::Session;
use crate::{
    account, account_token, block_store, bulk, config, disable, doctor, init, meta_store,
    meta_token, offline, report, revoke, rotate, rotation, sessions, shell, status, token, update,
    volume, volume_token, whoami,
};

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All is well.
    Done,
    /// It was to look for what is wrong, and found something.
    Findings,
}

/// Does the command take `--tokenFile` as the token to create or keep?
fn takes_token_file(command: &Command) -> bool {
    match command {
        Command::Init(_) | Command::Rotate(_) => true,
        Command::Create(create) => match create {
            Create::Account(_) | Create::MetaStore(_) => true,
            Create::AccountToken(arguments) => arguments.claim.is_none(),
            Create::VolumeToken(arguments) => arguments.claim.is_none(),
            Create::Volume(arguments) => !arguments.no_token,
            Create::BlockStore(_) => false,
        },
        Command::Config(_)
        | Command::WhoAmI
        | Command::Status
        | Command::Show(_)
        | Command::List(_)
        | Command::Delete(_)
        | Command::Update(_)
        | Command::Revoke(_)
        | Command::Rotation(_)
        | Command::Disable(_)
        | Command::Enable(_)
        | Command::Report(_)
        | Command::Doctor
        | Command::Generate(_)
        | Command::Inspect(_)
        | Command::Explain { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Version => false,
    }
}

/// Carries out the command.
///
/// # Errors
/// Whatever the command reports.
pub(crate) fn run(cli: Cli) -> Result<Ending> {
    let session = Session::new(cli.globals, takes_token_file(&cli.command));
    let session = &session;
    match cli.command {
        Command::Doctor => return doctor::examine(session),
        Command::Init(Init::Creds(arguments)) => init::creds(session, &arguments),
        Command::Config(Config::Show) => config::show(session),
        Command::WhoAmI => whoami::show(session),
        Command::Status => status::show(session),
        Command::Create(what) => create(session, what),
        Command::Show(what) => show(session, &what),
        Command::Update(what) => update::update(session, what),
        Command::List(what) => list(session, &what),
        Command::Delete(what) => delete(session, &what),
        Command::Revoke(what) => revoke(session, &what),
        Command::Rotate(what) => rotate(session, &what),
        Command::Rotation(Rotation::Status(arguments)) => rotation::status(session, &arguments),
        Command::Rotation(Rotation::Finish(arguments)) => rotation::finish(session, &arguments),
        Command::Disable(what) => disable::disable(session, &what),
        Command::Enable(what) => disable::enable(session, &what),
        Command::Report(Report::Tokens(arguments)) => report::tokens(session, &arguments),
        Command::Generate(Generate::Token(arguments)) => offline::generate(session, &arguments),
        Command::Inspect(Inspect::Token(arguments)) => offline::inspect(session, &arguments),
        Command::Explain { code } => offline::explain(session, code.as_deref()),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => shell::man(&dir),
        Command::Version => offline::version(session),
    }
    .map(|()| Ending::Done)
}

fn revoke(session: &Session, what: &Revoke) -> Result<()> {
    let Some(one) = &what.one else { return bulk::revoke(session, &what.many) };
    if what.many.is_given() {
        let message = "one token or many: options of one token stand after its kind";
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    match one {
        RevokeOne::AccountToken(arguments) => revoke::token(session, TokenKind::Account, arguments),
        RevokeOne::VolumeToken(arguments) => revoke::token(session, TokenKind::Volume, arguments),
        RevokeOne::MetaToken(arguments) => revoke::token(session, TokenKind::Meta, arguments),
    }
}

fn rotate(session: &Session, what: &Rotate) -> Result<()> {
    match what {
        Rotate::AccountToken(arguments) => rotate::token(session, TokenKind::Account, arguments),
        Rotate::VolumeToken(arguments) => rotate::token(session, TokenKind::Volume, arguments),
        Rotate::MetaToken(arguments) => rotate::token(session, TokenKind::Meta, arguments),
    }
}

fn create(session: &Session, what: Create) -> Result<()> {
    match what {
        Create::Account(arguments) => account::create(session, arguments),
        Create::AccountToken(arguments) => account_token::create(session, arguments),
        Create::Volume(arguments) => volume::create(session, arguments),
        Create::VolumeToken(arguments) => volume_token::create(session, arguments),
        Create::MetaStore(arguments) => meta_store::create(session, arguments),
        Create::BlockStore(arguments) => block_store::create(session, arguments),
    }
}

fn show(session: &Session, what: &Show) -> Result<()> {
    match what {
        Show::Account(by) => account::show(session, by),
        Show::AccountToken(by) => token::show(session, TokenKind::Account, by),
        Show::Volume(by) => volume::show(session, by),
        Show::VolumeToken(by) => token::show(session, TokenKind::Volume, by),
        Show::MetaStore(by) => meta_store::show(session, by),
        Show::MetaToken(by) => meta_token::show(session, by),
        Show::BlockStore(by) => block_store::show(session, by),
    }
}

fn list(session: &Session, what: &List) -> Result<()> {
    match what {
        List::Accounts(page) => account::list(session, page),
        List::AccountTokens(list) => token::list(session, TokenKind::Account, "", list),
        List::Volumes(page) => volume::list(session, page),
        List::VolumeTokens(arguments) => volume_token::list(session, arguments),
        List::MetaTokens(list) => meta_token::list(session, list),
        List::MetaStores(page) => meta_store::list(session, page),
        List::BlockStores(page) => block_store::list(session, page),
        List::Sessions(arguments) => sessions::list(session, arguments),
    }
}

fn delete(session: &Session, what: &Delete) -> Result<()> {
    match what {
        Delete::Account(by) => account::delete(session, by),
        Delete::AccountToken(by) => token::delete(session, TokenKind::Account, by),
        Delete::Volume(by) => volume::delete(session, by),
        Delete::VolumeToken(by) => token::delete(session, TokenKind::Volume, by),
        Delete::MetaStore(by) => meta_store::delete(session, by),
        Delete::BlockStore(by) => block_store::delete(session, by),
    }
}

/// A request for one thing.
pub(crate) fn get_request(
    session: &Session,
    by: &crate::args::ById,
) -> flexfs_proto::v1::GetRequest {
    flexfs_proto::v1::GetRequest { id: by.id.clone(), account_id: session.globals.account() }
}

/// A request to delete one thing.
pub(crate) fn delete_request(
    session: &Session,
    by: &crate::args::ById,
) -> flexfs_proto::v1::DeleteRequest {
    flexfs_proto::v1::DeleteRequest { id: by.id.clone(), account_id: session.globals.account() }
}

/// A request for a page of things.
pub(crate) fn list_request(
    session: &Session,
    page: &crate::args::Page,
) -> flexfs_proto::v1::ListRequest {
    flexfs_proto::v1::ListRequest {
        account_id: session.globals.account(),
        state: page.state.clone().unwrap_or_default(),
        limit: page.limit.unwrap_or_default(),
        page: page.page.clone().unwrap_or_default(),
    }
}
