//! The text of a token (DESIGN: 77 characters, prefix, id, secret, CRC32).

use flexfs_common::Result;
use flexfs_common::ids::TokenId;
use zeroize::Zeroizing;

/// Which credential it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// `flxa_`: operators.
    Account,
    /// `flxv_`: mounts.
    Volume,
    /// `flxm_`: metadata servers.
    Meta,
    /// `flxw_`: one-time claim codes.
    Claim,
}

/// A parsed token. No Display, no Serialize; Debug shows id and kind only.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    kind: TokenKind,
    text: Zeroizing<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl TokenKind {
    /// `account`, `volume`, `meta` or `claim`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        unimplemented!()
    }
    /// The reverse of `name`.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`.
    pub fn from_name(name: &str) -> Result<TokenKind> {
        unimplemented!()
    }
    /// The prefix with its underscore.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        unimplemented!()
    }
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl Token {
    /// A new token from the operating system's random source.
    ///
    /// # Errors
    /// `INTERNAL` when there is no randomness.
    pub fn generate(kind: TokenKind) -> Result<Token> {
        unimplemented!()
    }
    /// Parses a canonical token of any kind, offline. One trailing newline
    /// and a leading `secret-token:` (RFC 8959) are accepted.
    ///
    /// # Errors
    /// `TOKEN_MALFORMED`.
    pub fn parse(text: &str) -> Result<Token> {
        unimplemented!()
    }
    /// Parses and demands a kind.
    ///
    /// # Errors
    /// `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`.
    pub fn parse_kind(text: &str, kind: TokenKind) -> Result<Token> {
        unimplemented!()
    }
    /// Public id.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> TokenKind {
        self.kind
    }
    /// The last four characters of the text, for listings.
    #[must_use]
    pub fn last4(&self) -> &str {
        unimplemented!()
    }
    /// The text itself: the one way to the secret, named so that it is found.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
    /// As a message field.
    #[must_use]
    pub fn to_wire(&self) -> flexfs_proto::v1::SecretText {
        unimplemented!()
    }
}
