//! Accounts.

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::client::present;
use crate::output::{Column, View, column, wide};
use crate::run::{Session, delete_request, get_request, list_request};
use crate::token::{HandedOut, TokenView, deleted, import_or_generate};
use crate::view::{cell, number, short, span, text, time};

/// `create account`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create account --name research > owner.token")]
pub(crate) struct Create {
    /// Its name, unique in the installation
    #[arg(long = "name")]
    name: String,
    /// Whom to write to about it
    #[arg(long = "email", default_value = "")]
    email: String,
}

/// An account as it is shown.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountView {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_token_age_seconds: Option<u64>,
}

impl From<v1::Account> for AccountView {
    fn from(account: v1::Account) -> AccountView {
        AccountView {
            id: account.id,
            name: account.name,
            email: text(account.email),
            state: account.state,
            created_at: time(account.created_at.as_ref()),
            max_token_age_seconds: number(account.max_token_age_seconds),
        }
    }
}

impl View for AccountView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("NAME"),
        column("STATE"),
        column("CREATED"),
        wide("EMAIL"),
        wide("MAXTOKENAGE"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.state.clone(),
            short(self.created_at.as_deref()),
            cell(self.email.as_ref()),
            self.max_token_age_seconds.map(span).unwrap_or_default(),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// An account with its first owner token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    #[serde(flatten)]
    account: &'a AccountView,
    account_token: HandedOut<'a>,
}

/// `create account`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let token = import_or_generate(session.imported_token_file(), TokenKind::Account)?;
    let request = v1::CreateAccountRequest {
        name: arguments.name,
        email: arguments.email,
        owner_token: Some(token.to_wire()),
    };
    let reply =
        session.change(request, async |mut admin, request| admin.create_account(request).await)?;
    let account = AccountView::from(present(reply.account)?);
    let token_view = TokenView::from(present(reply.token)?);
    let account_token = HandedOut::new(&token_view, &token);
    session.output.handed_out(&account, &token, &Created { account: &account, account_token })
}

/// `show account`
pub(crate) fn show(session: &Session, by: &ById) -> Result<()> {
    let request = get_request(session, by);
    let account = session.ask(|mut admin| async move { admin.get_account(request).await })?;
    session.output.one(&AccountView::from(account))
}

/// `list accounts`
pub(crate) fn list(session: &Session, page: &Page) -> Result<()> {
    let request = list_request(session, page);
    let reply = session.ask(|mut admin| async move { admin.list_accounts(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(AccountView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete account`
pub(crate) fn delete(session: &Session, by: &ById) -> Result<()> {
    let request = delete_request(session, by);
    let reply =
        session.change(request, async |mut admin, request| admin.delete_account(request).await)?;
    deleted(session, "account", reply)
}
