//! All tokens that one may see, of all kinds and accounts: for reports and
//! checks.

use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Kind, Result, limits};
use flexfs_proto::v1;

use crate::run::Session;

/// Pages of one listing: ten million rows. A server that never says "no more"
/// is not followed for ever.
const PAGES_MAX: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// The tokens: account by account, kind by kind.
    pub(crate) tokens: Vec<v1::Token>,
    /// Kinds that the token in use may not list.
    pub(crate) hidden: Vec<TokenKind>,
}

impl Inventory {
    /// The tokens in this state (empty = in any), of the account of
    /// `--accountID`, else of every account that one may see.
    ///
    /// # Errors
    /// Those of the calls; what is not allowed is left out.
    pub(crate) fn take(session: &Session, state: &str) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for account in accounts(session)? {
            for kind in [TokenKind::Account, TokenKind::Volume] {
                inventory.add(session, kind, &account, state)?;
            }
        }
        // Those of metadata servers belong to the installation.
        inventory.add(session, TokenKind::Meta, &session.globals.account(), state)?;
        Ok(inventory)
    }

    fn add(
        &mut self,
        session: &Session,
        kind: TokenKind,
        account: &str,
        state: &str,
    ) -> Result<()> {
        let listed = pages(|page| {
            let request = v1::ListTokensRequest {
                kind: kind.name().to_owned(),
                account_id: account.to_owned(),
                state: state.to_owned(),
                limit: limits::LIST_MAX,
                page,
                ..v1::ListTokensRequest::default()
            };
            let reply = session.ask(|mut admin| async move { admin.list_tokens(request).await })?;
            Ok((reply.items, reply.next_page))
        });
        match listed {
            Ok(tokens) => self.tokens.extend(tokens),
            Err(error) if is_hidden(&error) => {
                if !self.hidden.contains(&kind) {
                    self.hidden.push(kind);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The kinds left out, for people.
    pub(crate) fn hidden_kinds(&self) -> Option<String> {
        let names: Vec<_> = self.hidden.iter().map(|kind| kind.name()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// Every account that one may see; the own one when that is all.
fn accounts(session: &Session) -> Result<Vec<String>> {
    if session.globals.account_id.is_some() {
        return Ok(vec![session.globals.account()]);
    }
    let listed = pages(|page| {
        let request =
            v1::ListRequest { limit: limits::LIST_MAX, page, ..v1::ListRequest::default() };
        let reply = session.ask(|mut admin| async move { admin.list_accounts(request).await })?;
        Ok((reply.items, reply.next_page))
    });
    match listed {
        // One that is deleted has nothing left.
        Ok(accounts) => Ok(accounts
            .into_iter()
            .filter(|account| account.state != "deleted")
            .map(|account| account.id)
            .collect()),
        Err(error) if is_hidden(&error) => Ok(vec![String::new()]),
        Err(error) => Err(error),
    }
}

fn is_hidden(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::NotFound)
}

/// Page after page, to the last.
fn pages<T>(mut page_at: impl FnMut(String) -> Result<(Vec<T>, String)>) -> Result<Vec<T>> {
    let (mut all, mut page) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let (items, next) = page_at(page)?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        page = next;
    }
    Err(Error::new(Code::ProtocolInvalid, "admin's listing does not end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_followed_to_the_last_and_not_for_ever() {
        let all = pages(|page| match page.as_str() {
            "" => Ok((vec![1, 2], "p".to_owned())),
            "p" => Ok((vec![3], String::new())),
            other => panic!("{other}"),
        });
        assert_eq!(all.unwrap(), [1, 2, 3]);
        let endless = pages(|_| Ok((Vec::<u8>::new(), "p".to_owned())));
        assert_eq!(endless.unwrap_err().code(), Code::ProtocolInvalid);
    }

    #[test]
    fn what_one_may_not_see_is_left_out_and_named() {
        assert!(is_hidden(&Error::bare(Code::RoleForbidden)));
        assert!(is_hidden(&Error::bare(Code::AccountNotFound)));
        assert!(!is_hidden(&Error::bare(Code::AdminUnreachable)));
        assert!(!is_hidden(&Error::bare(Code::TokenRevoked)));
        let inventory = Inventory { hidden: vec![TokenKind::Meta], ..Inventory::default() };
        assert_eq!(inventory.hidden_kinds().as_deref(), Some("meta"));
        assert_eq!(Inventory::default().hidden_kinds(), None);
    }
}
