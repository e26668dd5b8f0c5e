//! Meta tokens. They are made with their meta store and belong to the
//! installation.

use flexfs_auth::token::TokenKind;
use flexfs_common::Result;

use crate::args::ById;
use crate::run::Session;
use crate::token;

/// `show meta-token`
pub(crate) fn show(session: &Session, by: &ById) -> Result<()> {
    token::show(session, TokenKind::Meta, by)
}

/// `list meta-tokens`
pub(crate) fn list(session: &Session, list: &token::Listing) -> Result<()> {
    token::list(session, TokenKind::Meta, "", list)
}
