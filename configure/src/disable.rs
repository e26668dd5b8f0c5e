//! `disable` and `enable`: a token, or an account with all its tokens, is
//! refused for a while. What was cut stays cut: after `enable`, mount again.

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_proto::v1;

use crate::account::AccountView;
use crate::args::{ById, Disable, Enable};
use crate::cut::{Cut, Wait};
use crate::output::View;
use crate::run::{Session, get_request};
use crate::token::{self, TokenView};

/// `disable …`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs disable volume-token 0b6f8a52 --wait \
                  --reason \"host under repair\"\n  configure.flexfs disable account research")]
pub(crate) struct Arguments {
    /// The id or a unique prefix of it; an account also by its name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    wait: Wait,
    /// Why, for the audit log
    #[arg(long = "reason", default_value = "", value_name = "S")]
    reason: String,
}

/// `disable …`
pub(crate) fn disable(session: &Session, what: &Disable) -> Result<()> {
    let (kind, arguments) = match what {
        Disable::Account(arguments) => return account(session, arguments),
        Disable::AccountToken(arguments) => (TokenKind::Account, arguments),
        Disable::VolumeToken(arguments) => (TokenKind::Volume, arguments),
        Disable::MetaToken(arguments) => (TokenKind::Meta, arguments),
    };
    let request = v1::DisableTokenRequest {
        kind: kind.name().to_owned(),
        id: arguments.id.clone(),
        account_id: session.globals.account(),
        reason: arguments.reason.clone(),
        wait_millis: arguments.wait.millis(),
    };
    let reply =
        session.change_waiting(arguments.wait.span(), request, async |mut admin, request| {
            admin.disable_token(request).await
        })?;
    report(session, "token", "disabled", reply.into(), arguments.wait)
}

fn account(session: &Session, arguments: &Arguments) -> Result<()> {
    let request = v1::DisableAccountRequest {
        id: arguments.id.clone(),
        reason: arguments.reason.clone(),
        wait_millis: arguments.wait.millis(),
    };
    let reply =
        session.change_waiting(arguments.wait.span(), request, async |mut admin, request| {
            admin.disable_account(request).await
        })?;
    report(session, "account", "suspended", reply.into(), arguments.wait)
}

fn report(session: &Session, noun: &str, done: &str, cut: Cut, wait: Wait) -> Result<()> {
    session.output.done(&sentence(noun, done, &cut, wait.is_wanted()), &cut.id, &cut)?;
    if wait.is_wanted() { cut.laggards("the change") } else { Ok(()) }
}

fn sentence(noun: &str, done: &str, cut: &Cut, waited: bool) -> String {
    let done = format!("{noun} {} {done}", cut.id);
    match waited {
        true => format!("{done}; {}", cut.disconnected()),
        false => format!("{done} (revision {})", cut.revision),
    }
}

/// `enable …`
pub(crate) fn enable(session: &Session, what: &Enable) -> Result<()> {
    let (kind, by) = match what {
        Enable::Account(by) => return enable_account(session, by),
        Enable::AccountToken(by) => (TokenKind::Account, by),
        Enable::VolumeToken(by) => (TokenKind::Volume, by),
        Enable::MetaToken(by) => (TokenKind::Meta, by),
    };
    let request = token::get_request(session, kind, &by.id);
    let reply =
        session.change(request, async |mut admin, request| admin.enable_token(request).await)?;
    let view = TokenView::from(reply);
    session.output.done(&enabled("token", view.id()), view.id(), &view)
}

fn enable_account(session: &Session, by: &ById) -> Result<()> {
    let request = get_request(session, by);
    let reply =
        session.change(request, async |mut admin, request| admin.enable_account(request).await)?;
    let view = AccountView::from(reply);
    session.output.done(&enabled("account", view.id()), view.id(), &view)
}

fn enabled(noun: &str, id: &str) -> String {
    format!("{noun} {id} enabled; mounts that were cut must mount again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said() {
        let cut = Cut { id: "i".into(), revision: 4, sessions_cut: 2, ..Cut::default() };
        assert_eq!(sentence("token", "disabled", &cut, false), "token i disabled (revision 4)");
        assert_eq!(
            sentence("account", "suspended", &cut, true),
            "account i suspended; 2 mounts on 0 servers disconnected"
        );
        assert!(enabled("token", "i").contains("mount again"));
    }
}
