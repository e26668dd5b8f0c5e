//! What the three kinds of tokens have in common: how one is fetched,
//! listed, deleted, and made.

use clap::Args;
use flexfs_auth::reference;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::output::{Changed, View};
use crate::run::Session;
use crate::values;
use crate::view::short;

mod view;

pub(crate) use view::TokenView;

/// `list …-tokens`
#[derive(Args, Debug, Clone)]
#[command(after_help = "Example:\n  configure.flexfs list account-tokens --expiringWithin 14d\n  \
                  configure.flexfs list account-tokens --unusedSince 30d --state active")]
pub(crate) struct Listing {
    #[command(flatten)]
    page: Page,
    /// Only those that end within this time
    #[arg(long = "expiringWithin", value_name = "T", value_parser = values::instant)]
    expiring: Option<v1::Timestamp>,
    /// Only those not used since this time (a span counts back from now)
    #[arg(long = "unusedSince", value_name = "T", value_parser = values::past)]
    unused: Option<v1::Timestamp>,
    /// Only those past the account's age policy
    #[arg(long = "overdue")]
    overdue: bool,
    /// Only those made by the token with this id
    #[arg(long = "createdBy", value_name = "ID", value_parser = values::token_id)]
    created_by: Option<TokenId>,
}

impl Listing {
    /// As a message.
    fn request(&self, session: &Session, kind: TokenKind, volume: &str) -> v1::ListTokensRequest {
        v1::ListTokensRequest {
            kind: kind.name().to_owned(),
            account_id: session.globals.account(),
            volume: volume.to_owned(),
            state: self.page.state.clone().unwrap_or_default(),
            limit: self.page.limit.unwrap_or_default(),
            page: self.page.page.clone().unwrap_or_default(),
            expiring_before: self.expiring,
            unused_since: self.unused,
            overdue: self.overdue,
            created_by: self.created_by.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}

/// A token where it is handed out: `{"id", "token"}` and nothing else.
#[derive(Serialize)]
pub(crate) struct HandedOut<'a> {
    id: &'a str,
    token: &'a str,
}

impl<'a> HandedOut<'a> {
    /// The id as admin confirmed it.
    pub(crate) fn new(view: &'a TokenView, token: &'a Token) -> HandedOut<'a> {
        HandedOut { id: view.id(), token: token.reveal() }
    }
}

/// A claim code where it is handed out: there is no token yet.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HandedOutClaim<'a> {
    id: &'a str,
    claim: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_expires_at: Option<&'a str>,
}

/// The secret that `create …-token` sends: of the token itself, or of the
/// claim code that stands for it.
///
/// # Errors
/// As [`import_or_generate`].
pub(crate) fn mint(session: &Session, kind: TokenKind, is_claim: bool) -> Result<Token> {
    match is_claim {
        true => Token::generate(TokenKind::Claim),
        false => import_or_generate(session.imported_token_file(), kind),
    }
}

/// Where a request has it.
pub(crate) fn to_wire_if(token: &Token, is_meant: bool) -> Option<v1::SecretText> {
    is_meant.then(|| token.to_wire())
}

/// Prints what [`mint`] made and admin has taken.
///
/// # Errors
/// `INTERNAL`.
pub(crate) fn hand_out(session: &Session, reply: v1::Token, secret: &Token) -> Result<()> {
    let view = TokenView::from(reply);
    if secret.kind() != TokenKind::Claim {
        return session.output.handed_out(&view, secret, &HandedOut::new(&view, secret));
    }
    let until = view.claim_expires_at();
    let json = HandedOutClaim { id: view.id(), claim: secret.reveal(), claim_expires_at: until };
    session.output.handed_out(&view, secret, &json)?;
    let until = until.map(|at| format!(" until {}", short(Some(at)))).unwrap_or_default();
    session.output.remark(&format!(
        "next: `init creds … --claimFile F|-` trades the code for the token, once{until}"
    ));
    Ok(())
}

/// The token to be created: imported from `--tokenFile`, or a new one.
///
/// # Errors
/// `REFERENCE_INVALID`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`, `INTERNAL`.
pub(crate) fn import_or_generate(import: Option<&str>, kind: TokenKind) -> Result<Token> {
    match import {
        Some(argument) => {
            let text = reference::read_secret_argument(argument)?;
            Token::parse_kind(&text, kind).map_err(|e| match e.code() {
                Code::TokenWrongKind => Error::new(
                    e.code(),
                    format!("{}; --tokenFile is the token to import here", e.message()),
                ),
                _ => e,
            })
        }
        None => Token::generate(kind),
    }
}

/// `show …-token`
pub(crate) fn show(session: &Session, kind: TokenKind, by: &ById) -> Result<()> {
    session.output.one(&TokenView::from(get(session, kind, &by.id)?))
}

/// One token, by its id or a unique prefix of it.
///
/// # Errors
/// Those of the call.
pub(crate) fn get(session: &Session, kind: TokenKind, id: &str) -> Result<v1::Token> {
    let request = get_request(session, kind, id);
    session.ask(|mut admin| async move { admin.get_token(request).await })
}

/// The whole id of the token that is meant. A role that may see no account
/// tokens knows its own all the same.
///
/// # Errors
/// Those of the call.
pub(crate) fn find_id(session: &Session, kind: TokenKind, id: &str) -> Result<String> {
    let error = match get(session, kind, id) {
        Ok(token) => return Ok(token.id),
        Err(error) => error,
    };
    let own = &session.access()?.token.value;
    let is_own = kind == own.kind() && own.id().to_string().starts_with(&id.to_ascii_lowercase());
    match error.kind() {
        Kind::Denied if is_own && !id.is_empty() => Ok(own.id().to_string()),
        _ => Err(error),
    }
}

/// A request for one token.
pub(crate) fn get_request(session: &Session, kind: TokenKind, id: &str) -> v1::GetTokenRequest {
    v1::GetTokenRequest {
        kind: kind.name().to_owned(),
        id: id.to_owned(),
        account_id: session.globals.account(),
    }
}

/// `list …-tokens`
pub(crate) fn list(session: &Session, kind: TokenKind, volume: &str, list: &Listing) -> Result<()> {
    let request = list.request(session, kind, volume);
    let reply = session.ask(|mut admin| async move { admin.list_tokens(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(TokenView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete …-token`
pub(crate) fn delete(session: &Session, kind: TokenKind, by: &ById) -> Result<()> {
    let request = v1::DeleteTokenRequest {
        kind: kind.name().to_owned(),
        id: by.id.clone(),
        account_id: session.globals.account(),
    };
    let reply =
        session.change(request, async |mut admin, request| admin.delete_token(request).await)?;
    deleted(session, &format!("{} token", kind.name()), reply)
}

/// What every `delete` prints.
pub(crate) fn deleted(session: &Session, what: &str, reply: v1::DeleteReply) -> Result<()> {
    let changed = Changed { id: reply.id, revision: reply.revision };
    session.output.done(&format!("{what} {} deleted", changed.id), &changed.id, &changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_has_two_keys() {
        let token = Token::generate(TokenKind::Volume).unwrap();
        let view =
            TokenView::from(v1::Token { id: token.id().to_string(), ..v1::Token::default() });
        let json = serde_json::to_value(HandedOut::new(&view, &token)).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 2);
        assert_eq!(json["token"], token.reveal());
    }

    #[test]
    fn a_claim_code_is_handed_out_as_such_and_without_a_token() {
        let code = Token::generate(TokenKind::Claim).unwrap();
        let json = HandedOutClaim { id: "i", claim: code.reveal(), claim_expires_at: Some("T") };
        let json = serde_json::to_value(json).unwrap();
        assert!(json["claim"].as_str().unwrap().starts_with("flxw_"));
        assert_eq!(json["claimExpiresAt"], "T");
        assert!(json.get("token").is_none());
    }
}
