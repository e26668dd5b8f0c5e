//! A rotation of the very token in use: nobody else has its new secret, so it
//! must neither be lost nor kept in vain.

use flexfs_auth::creds::{Pending, Standing};
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;

use crate::client;
use crate::keeper::Keeper;
use crate::output::Output;
use crate::run::Session;
use crate::token;

/// The token in use, when that is the one to rotate.
pub(super) struct Own<'a> {
    session: &'a Session,
    keeper: Option<&'a Keeper>,
}

impl<'a> Own<'a> {
    /// `None` when it is another token.
    ///
    /// # Errors
    /// Those of the settings.
    pub(super) fn of(
        session: &'a Session,
        kind: TokenKind,
        id: TokenId,
    ) -> Result<Option<Own<'a>>> {
        let access = session.access()?;
        let is_own = access.token.value.kind() == kind && access.token.value.id() == id;
        Ok(is_own.then_some(Own { session, keeper: access.keeper.as_ref() }))
    }

    /// Where its next secret waits.
    pub(super) fn pending(&self, kind: TokenKind, id: TokenId) -> Option<Pending> {
        let beside = |keeper: &Keeper| Pending::beside(keeper.path(), kind, id);
        self.keeper.map(beside)
    }

    /// Puts the new secret where the old one was found, and says so.
    ///
    /// # Errors
    /// Those of the file; the secret then goes on waiting.
    pub(super) fn keep(&self, secret: &Token) -> Result<()> {
        let access = self.session.access()?;
        let Some(keeper) = self.keeper else {
            let source = &access.token.source;
            let text = format!("this is the token in use: put the new text where {source} has it");
            self.session.output.remark(&text);
            return Ok(());
        };
        keeper.settle(&access.token.value, secret).map_err(|error| {
            let waits = keeper.pending(secret);
            let message = format!(
                "the rotation stands, but the new token is not in {}: {}; it waits in {}",
                keeper.place(),
                error.with_causes(),
                waits.path().display()
            );
            Error::new(error.code(), message)
        })?;
        self.session.output.remark(&format!("{} has the new token", keeper.place()));
        Ok(())
    }

    /// The call failed: did admin take the secret all the same? Nobody else
    /// has it, and the old one may have ended.
    ///
    /// # Errors
    /// The one that is given, when it did not or cannot be asked.
    pub(super) fn find_out(&self, secret: &Token, error: Error) -> Result<v1::RotateReply> {
        match self.keeper {
            Some(keeper) => {
                let pending = keeper.pending(secret);
                let peer = &self.session.access()?.peer;
                match client::runtime()?.block_on(pending.resolve(peer)) {
                    Ok(Standing::Accepted(_)) => self.found(secret),
                    Ok(Standing::Open(_)) if is_uncertain(&error) => {
                        Err(left_open(&error, pending.path()))
                    }
                    // admin has refused it.
                    Ok(Standing::Open(_)) => pending.remove().and(Err(error)),
                    Ok(Standing::Dropped(_) | Standing::Absent) => Err(error),
                    Err(_) => Err(left_open(&error, pending.path())),
                }
            }
            None if is_uncertain(&error) => match self.ask_with(secret) {
                Ok(_) => self.found(secret),
                Err(why) if is_uncertain(&why) => {
                    // Lost, it could lock its owner out.
                    self.session.output.remark(
                        "it is not known whether admin took the new token; \
                         `configure.flexfs whoami` with it tells:",
                    );
                    Output::raw(format!("{}\n", secret.reveal()).as_bytes())?;
                    Err(error)
                }
                Err(_) => Err(error),
            },
            None => Err(error),
        }
    }

    fn ask_with(&self, secret: &Token) -> Result<v1::WhoAmIReply> {
        let peer = &self.session.access()?.peer;
        client::ask(peer, secret, client::LIMIT, |mut admin| async move {
            admin.who_am_i(v1::WhoAmIRequest {}).await
        })
    }

    /// What the lost answer would have said.
    fn found(&self, secret: &Token) -> Result<v1::RotateReply> {
        let peer = &self.session.access()?.peer;
        let request = token::get_request(self.session, secret.kind(), &secret.id().to_string());
        let rotation = client::ask(peer, secret, client::LIMIT, |mut admin| async move {
            admin.get_rotation(request).await
        });
        // A role that may not look has rotated all the same.
        let bare = || v1::Rotation {
            token: Some(v1::Token {
                id: secret.id().to_string(),
                kind: secret.kind().name().to_owned(),
                last4: secret.last4().to_owned(),
                ..v1::Token::default()
            }),
            secrets: Vec::new(),
        };
        let rotation = rotation.unwrap_or_else(|_| bare());
        Ok(v1::RotateReply { rotation: Some(rotation), ended: None })
    }
}

/// May admin have done what it was asked?
pub(super) fn is_uncertain(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
        // The second attempt of an emergency that was carried out.
        || error.code() == Code::TokenRotated
}

fn left_open(error: &Error, path: &std::path::Path) -> Error {
    let message = format!(
        "{}; the new token waits in {}, and the next command finds out whether admin took it",
        error.with_causes(),
        path.display()
    );
    Error::new(error.code(), message)
}
