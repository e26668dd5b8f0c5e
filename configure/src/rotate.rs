//! `rotate`: a new secret for the same token. It is generated here and sent,
//! so that a repeated request cannot make a second one. Where the token is the
//! very one in use, it is written down before admin is asked.

use std::time::Duration;

use clap::Args;
use flexfs_auth::reference;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use serde::Serialize;

use crate::client::present;
use crate::cut::{Cut, Meta, Wait};
use crate::output::Output;
use crate::run::Session;
use crate::token::{self, TokenView};
use crate::values;
use crate::view::{short, time};

mod own;

use own::Own;

/// `rotate …-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs rotate volume-token 0b6f8a52 --overlap 2h > \
                  new.token\n  configure.flexfs rotate account-token 5d0c --emergency --wait > \
                  new.token")]
pub(crate) struct Arguments {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    /// How long earlier secrets are still accepted (default: 24h)
    #[arg(long = "overlap", value_name = "SPAN", value_parser = values::overlap)]
    overlap: Option<Duration>,
    /// Earlier secrets end at once, and the sessions that live from them
    #[arg(long = "emergency", conflicts_with = "overlap")]
    emergency: bool,
    #[command(flatten)]
    wait: Wait,
}

/// The new secret where it is handed out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated<'a> {
    id: &'a str,
    kind: &'a str,
    token: &'a str,
    /// When the last of the earlier secrets ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier_end_at: Option<&'a str>,
    #[serde(flatten)]
    cut: Option<CutForm<'a>>,
}

/// What an emergency has cut.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CutForm<'a> {
    revision: u64,
    sessions_cut: u32,
    metas: &'a [Meta],
}

impl<'a> CutForm<'a> {
    fn of(cut: &'a Cut) -> CutForm<'a> {
        CutForm { revision: cut.revision, sessions_cut: cut.sessions_cut, metas: &cut.metas }
    }
}

/// `rotate …-token`
pub(crate) fn token(session: &Session, kind: TokenKind, arguments: &Arguments) -> Result<()> {
    let id: TokenId = token::find_id(session, kind, &arguments.id)?
        .parse()
        .map_err(|e| Error::new(Code::ProtocolInvalid, "a token's id is no UUID").caused_by(e))?;
    let own = Own::of(session, kind, id)?;
    let secret = secret(session, kind, id, own.as_ref())?;
    let request = request(session, kind, id, &secret, arguments);
    let asked =
        session.change_waiting(arguments.wait.span(), request, async |mut admin, request| {
            admin.rotate_token(request).await
        });
    let reply = match (asked, &own) {
        (Err(error), Some(own)) => own.find_out(&secret, error)?,
        (asked, _) => asked?,
    };
    // The secret is printed whatever becomes of the file, and the reverse.
    let kept = own.as_ref().map_or(Ok(()), |own| own.keep(&secret));
    report(session.output, reply, &secret, arguments)?;
    kept
}

fn request(
    session: &Session,
    kind: TokenKind,
    id: TokenId,
    secret: &Token,
    arguments: &Arguments,
) -> v1::RotateTokenRequest {
    let overlap = match arguments.emergency {
        true => Duration::ZERO,
        false => arguments.overlap.unwrap_or(limits::ROTATION_OVERLAP),
    };
    v1::RotateTokenRequest {
        kind: kind.name().to_owned(),
        id: id.to_string(),
        account_id: session.globals.account(),
        token: Some(secret.to_wire()),
        overlap_seconds: overlap.as_secs(),
        emergency: arguments.emergency,
        wait_millis: arguments.wait.millis(),
    }
}

/// The new secret: imported, left over from an interrupted rotation, or new.
fn secret(session: &Session, kind: TokenKind, id: TokenId, own: Option<&Own<'_>>) -> Result<Token> {
    let pending = own.and_then(|own| own.pending(kind, id));
    let Some(argument) = session.imported_token_file() else {
        return match pending {
            Some(pending) => pending.obtain(),
            None => Token::generate_for(kind, id),
        };
    };
    let token = Token::parse_kind(&reference::read_secret_argument(argument)?, kind)?;
    if token.id() != id {
        let message = format!("--tokenFile has a secret of the token {}, not of {id}", token.id());
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    if let Some(pending) = pending {
        pending.write(&token)?;
    }
    Ok(token)
}

/// When the last of the earlier secrets ends by itself.
fn earlier_end(secrets: &[v1::Secret]) -> Option<String> {
    let (_newest, earlier) = secrets.split_last()?;
    let live = earlier.iter().filter(|secret| secret.state != "ended");
    live.filter_map(|secret| secret.expires_at)
        .max_by_key(|at| (at.seconds, at.nanos))
        .and_then(|at| time(Some(&at)))
}

fn report(
    output: Output,
    reply: v1::RotateReply,
    secret: &Token,
    arguments: &Arguments,
) -> Result<()> {
    let rotation = present(reply.rotation)?;
    let earlier_end = earlier_end(&rotation.secrets);
    let view = TokenView::from(present(rotation.token)?);
    let cut = reply.ended.filter(|_| arguments.emergency).map(Cut::from);
    let id = secret.id().to_string();
    let json = Rotated {
        id: &id,
        kind: secret.kind().name(),
        token: secret.reveal(),
        earlier_end_at: earlier_end.as_deref(),
        cut: cut.as_ref().map(CutForm::of),
    };
    output.handed_out(&view, secret, &json)?;
    for remark in remarks(&id, earlier_end.as_deref(), cut.as_ref(), arguments) {
        output.remark(&remark);
    }
    match cut {
        Some(cut) if arguments.wait.is_wanted() => cut.laggards("the rotation"),
        Some(_) | None => Ok(()),
    }
}

/// What is to be known and done next.
fn remarks(
    id: &str,
    earlier_end: Option<&str>,
    cut: Option<&Cut>,
    arguments: &Arguments,
) -> Vec<String> {
    let give = "next: give the new token to its hosts, in the place of the old text";
    if arguments.emergency {
        let ended = match cut {
            Some(cut) if arguments.wait.is_wanted() => {
                format!("earlier secrets have ended: {}", cut.disconnected())
            }
            Some(cut) => format!("earlier secrets have ended (revision {})", cut.revision),
            None => "earlier secrets have ended".to_owned(),
        };
        return vec![ended, give.to_owned()];
    }
    let until = match earlier_end {
        Some(at) => format!("earlier secrets are accepted until {}", short(Some(at))),
        None => "earlier secrets are accepted until the rotation is finished".to_owned(),
    };
    let then = format!(
        "{give}; `configure.flexfs rotation status {id}` shows who still uses an earlier one, \
         `configure.flexfs rotation finish {id}` ends them"
    );
    vec![until, then]
}

#[cfg(test)]
mod tests;
