//! From the parsed command line to the command.

use std::future::Future;
use std::time::Duration;

use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use tonic::{Response, Status};

use crate::args::{
    Cli, Command, Config, Create, Delete, Generate, Globals, Init, Inspect, List, Revoke, Show,
};
use crate::client::{self, Admin};
use crate::output::Output;
use crate::settings::Settings;
use crate::{
    account, account_token, block_store, config, init, meta_store, meta_token, offline, revoke,
    shell, status, token, volume, volume_token, whoami,
};

/// One run of the program.
pub(crate) struct Session {
    /// What every command takes.
    pub(crate) globals: Globals,
    /// How to print.
    pub(crate) output: Output,
    /// `--tokenFile` is something else than the token to act with.
    token_file_taken: bool,
}

impl Session {
    /// Makes one call to admin, with the token and address of the settings.
    ///
    /// # Errors
    /// Those of the settings and of the call.
    pub(crate) fn ask<T, F>(&self, call: impl FnOnce(Admin) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_within(client::LIMIT, call)
    }

    /// As [`Session::ask`], with a limit of its own.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(crate) fn ask_within<T, F>(
        &self,
        limit: Duration,
        call: impl FnOnce(Admin) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let settings = Settings::new(&self.globals)?;
        let place = settings.place()?;
        let token = settings.token(&place, self.acting_token_file())?;
        client::ask(&place.peer()?, &token.value, limit, call)
    }

    /// `--tokenFile` where it is the token to act with.
    pub(crate) fn acting_token_file(&self) -> Option<&str> {
        self.globals.token_file.as_deref().filter(|_| !self.token_file_taken)
    }

    /// `--tokenFile` where it is the token to import.
    pub(crate) fn imported_token_file(&self) -> Option<&str> {
        self.globals.token_file.as_deref().filter(|_| self.token_file_taken)
    }
}

/// Does the command take `--tokenFile` as the token to create or keep?
fn takes_token_file(command: &Command) -> bool {
    match command {
        Command::Init(_) => true,
        Command::Create(create) => match create {
            Create::Account(_)
            | Create::AccountToken(_)
            | Create::VolumeToken(_)
            | Create::MetaStore(_) => true,
            Create::Volume(arguments) => !arguments.no_token,
            Create::BlockStore(_) => false,
        },
        Command::Config(_)
        | Command::WhoAmI
        | Command::Status
        | Command::Show(_)
        | Command::List(_)
        | Command::Delete(_)
        | Command::Revoke(_)
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
pub(crate) fn run(cli: Cli) -> Result<()> {
    let output = Output::new(cli.globals.output);
    let token_file_taken = takes_token_file(&cli.command);
    let session = Session { globals: cli.globals, output, token_file_taken };
    match cli.command {
        Command::Init(Init::Creds(arguments)) => init::creds(&session, &arguments),
        Command::Config(Config::Show) => config::show(&session),
        Command::WhoAmI => whoami::show(&session),
        Command::Status => status::show(&session),
        Command::Create(what) => create(&session, what),
        Command::Show(what) => show(&session, &what),
        Command::List(what) => list(&session, &what),
        Command::Delete(what) => delete(&session, &what),
        Command::Revoke(what) => match what {
            Revoke::AccountToken(arguments) => {
                revoke::token(&session, TokenKind::Account, &arguments)
            }
            Revoke::VolumeToken(arguments) => {
                revoke::token(&session, TokenKind::Volume, &arguments)
            }
            Revoke::MetaToken(arguments) => revoke::token(&session, TokenKind::Meta, &arguments),
        },
        Command::Generate(Generate::Token(arguments)) => offline::generate(&session, &arguments),
        Command::Inspect(Inspect::Token(arguments)) => offline::inspect(&session, &arguments),
        Command::Explain { code } => offline::explain(&session, code.as_deref()),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => shell::man(&dir),
        Command::Version => offline::version(&session),
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
        List::AccountTokens(page) => token::list(session, TokenKind::Account, None, page),
        List::Volumes(page) => volume::list(session, page),
        List::VolumeTokens(arguments) => volume_token::list(session, arguments),
        List::MetaTokens(page) => meta_token::list(session, page),
        List::MetaStores(page) => meta_store::list(session, page),
        List::BlockStores(page) => block_store::list(session, page),
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
