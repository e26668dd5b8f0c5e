//! `rotation status` and `rotation finish`: who still needs an earlier secret
//! of a token, and their end.

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::client::present;
use crate::cut::{Cut, Wait, count};
use crate::run::Session;
use crate::token;
use crate::values;

mod view;

use view::{RotationView, SecretView};

/// Which token.
#[derive(Args, Debug)]
struct Which {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    /// Only a token of this kind: account, volume or meta
    #[arg(long = "kind", value_name = "KIND", value_parser = values::kind)]
    kind: Option<TokenKind>,
}

/// `rotation status`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs rotation status 0b6f8a52 -o json")]
pub(crate) struct Status {
    #[command(flatten)]
    which: Which,
}

/// `rotation finish`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs rotation finish 0b6f8a52 --wait")]
pub(crate) struct Finish {
    #[command(flatten)]
    which: Which,
    /// Also while earlier secrets are in use: their sessions are cut
    #[arg(long = "force")]
    force: bool,
    #[command(flatten)]
    wait: Wait,
}

/// The token that is meant, of whatever kind.
fn find(session: &Session, which: &Which) -> Result<(TokenKind, String)> {
    if let Some(kind) = which.kind {
        return Ok((kind, token::find_id(session, kind, &which.id)?));
    }
    let tries = [TokenKind::Volume, TokenKind::Account, TokenKind::Meta]
        .map(|kind| (kind, token::find_id(session, kind, &which.id)));
    one_of(&which.id, tries)
}

/// The only kind that has such a token. What one may not see is not there.
fn one_of(text: &str, tries: [(TokenKind, Result<String>); 3]) -> Result<(TokenKind, String)> {
    let mut found = Vec::new();
    for (kind, outcome) in tries {
        match outcome {
            Ok(id) => found.push((kind, id)),
            Err(error) => match error.kind() {
                // A prefix of several ids is told by its message.
                Kind::NotFound if error.message() == error.code().sentence() => {}
                Kind::Denied => {}
                Kind::NotFound if error.code() != Code::TokenNotFound => {}
                _ => return Err(error),
            },
        }
    }
    let first = found.pop().ok_or(Code::TokenNotFound)?;
    let Some((other, _)) = found.pop() else { return Ok(first) };
    let message = format!(
        "`{}` begins ids of {} and {} tokens: type more of it, or give --kind",
        text.escape_debug(),
        other.name(),
        first.0.name()
    );
    Err(Error::new(Code::TokenNotFound, message))
}

fn get(session: &Session, kind: TokenKind, id: &str) -> Result<RotationView> {
    let request = token::get_request(session, kind, id);
    RotationView::of(session.ask(|mut admin| async move { admin.get_rotation(request).await })?)
}

/// `rotation status`
pub(crate) fn status(session: &Session, arguments: &Status) -> Result<()> {
    let (kind, id) = find(session, &arguments.which)?;
    let view = get(session, kind, &id)?;
    session.output.with_table(&view, "secrets", &view.rows())?;
    session.output.remark(&view.remark());
    Ok(())
}

/// What the end of a rotation did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished<'a> {
    #[serde(flatten)]
    cut: &'a Cut,
    secrets: &'a [SecretView],
}

/// `rotation finish`
pub(crate) fn finish(session: &Session, arguments: &Finish) -> Result<()> {
    let (kind, id) = find(session, &arguments.which)?;
    let wait = arguments.wait;
    let request = v1::FinishRotationRequest {
        kind: kind.name().to_owned(),
        id: id.clone(),
        account_id: session.globals.account(),
        force: arguments.force,
        wait_millis: wait.millis(),
    };
    let asked = session.change_waiting(wait.span(), request, async |mut admin, request| {
        admin.finish_rotation(request).await
    });
    let reply = match asked {
        Err(error) if error.code() == Code::RotationInUse => {
            return Err(with_hosts(error, get(session, kind, &id).ok()));
        }
        asked => asked?,
    };
    let view = RotationView::of(present(reply.rotation)?)?;
    let cut = Cut { id: id.clone(), ..reply.ended.map(Cut::from).unwrap_or_default() };
    let json = Finished { cut: &cut, secrets: &view.secrets };
    session.output.done(&sentence(&view, &cut, wait), &id, &json)?;
    if wait.is_wanted() { cut.laggards("the end of the earlier secrets") } else { Ok(()) }
}

fn sentence(view: &RotationView, cut: &Cut, wait: Wait) -> String {
    let live = view.secrets.iter().filter(|secret| secret.state != "ended").count();
    let done = format!("rotation of {} finished; {} accepted", view.id, count(live, "secret"));
    if wait.is_wanted() { format!("{done}; {}", cut.disconnected()) } else { done }
}

/// The refusal names the hosts; where it does not, they are looked up.
fn with_hosts(error: Error, view: Option<RotationView>) -> Error {
    let users = view.map(|view| view.users()).unwrap_or_default();
    if users.is_empty() || users.iter().any(|name| error.message().contains(name)) {
        return error;
    }
    Error::new(error.code(), format!("{} In use by {}", error.message(), users.join(", ")))
}

#[cfg(test)]
mod tests;
