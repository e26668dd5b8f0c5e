//! The text of a token: prefix, 22 base62 digits of the id, `_`, 43 of the
//! secret, 6 of the CRC-32 (IEEE 802.3) of all characters before them; 77
//! characters, one canonical spelling. The checksum is for typos and secret
//! scanners: it proves nothing.

use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Result};
use zeroize::{Zeroize, Zeroizing};

use crate::base62;

/// Characters of a token.
pub const TOKEN_LEN: usize = 77;
/// Digits of the 128-bit id: 62^22 > 2^128.
const ID_DIGITS: usize = 22;
/// Digits of the 256-bit secret: 62^43 > 2^256.
const SECRET_DIGITS: usize = 43;
/// Digits of the checksum: 62^6 > 2^32.
const CHECKSUM_DIGITS: usize = 6;
/// All before the checksum.
const BODY_LEN: usize = TOKEN_LEN - CHECKSUM_DIGITS;
/// How text may announce a secret (RFC 8959).
const SECRET_SCHEME: &str = "secret-token:";

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

impl TokenKind {
    /// Every kind.
    pub const ALL: [TokenKind; 4] =
        [TokenKind::Account, TokenKind::Volume, TokenKind::Meta, TokenKind::Claim];

    /// `account`, `volume`, `meta` or `claim`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TokenKind::Account => "account",
            TokenKind::Volume => "volume",
            TokenKind::Meta => "meta",
            TokenKind::Claim => "claim",
        }
    }

    /// As it stands in a sentence.
    #[must_use]
    pub const fn with_article(self) -> &'static str {
        match self {
            TokenKind::Account => "an account",
            TokenKind::Volume => "a volume",
            TokenKind::Meta => "a meta",
            TokenKind::Claim => "a claim",
        }
    }

    /// The reverse of `name`.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`.
    pub fn from_name(name: &str) -> Result<TokenKind> {
        TokenKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(
                Code::ArgumentInvalid,
                format!("`{}` is not a kind of token: account, volume, meta", name.escape_debug()),
            )
        })
    }

    /// The prefix with its underscore.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            TokenKind::Account => "flxa_",
            TokenKind::Volume => "flxv_",
            TokenKind::Meta => "flxm_",
            TokenKind::Claim => "flxw_",
        }
    }
}

/// A parsed token. No Display, no Serialize; Debug shows id and kind only.
/// Its memory is zeroed when dropped.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    kind: TokenKind,
    secret: Zeroizing<[u8; 32]>,
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

impl Token {
    /// A new token from the operating system's random source.
    ///
    /// # Errors
    /// `INTERNAL` when there is no randomness.
    pub fn generate(kind: TokenKind) -> Result<Token> {
        let mut id = [0; 16];
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(secret.as_mut_slice()))
            .map_err(|e| Error::new(Code::Internal, "no randomness").caused_by(e))?;
        let id = uuid::Builder::from_random_bytes(id).into_uuid().into_bytes();
        Ok(Token::assemble(kind, id, secret))
    }

    /// Another secret for the token of this kind and id: what a rotation adds,
    /// and what a claim code is traded for.
    ///
    /// # Errors
    /// `INTERNAL` when there is no randomness, or when the id is not a random
    /// UUID (no token has such an id).
    pub fn generate_for(kind: TokenKind, id: TokenId) -> Result<Token> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice())
            .map_err(|e| Error::new(Code::Internal, "no randomness").caused_by(e))?;
        Token::parse(&Token::assemble(kind, *id.as_bytes(), secret).text)
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))
    }

    fn assemble(kind: TokenKind, id: [u8; 16], secret: Zeroizing<[u8; 32]>) -> Token {
        // The whole length at once: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_LEN));
        text.push_str(kind.prefix());
        base62::encode(id, ID_DIGITS, &mut text);
        text.push('_');
        base62::encode(*secret, SECRET_DIGITS, &mut text);
        let checksum = crc32fast::hash(text.as_bytes());
        base62::encode(checksum.to_be_bytes(), CHECKSUM_DIGITS, &mut text);
        Token { id: TokenId::from_bytes(id), kind, secret, text }
    }

    /// Parses a canonical token of any kind, offline. One trailing newline
    /// and a leading `secret-token:` (RFC 8959) are accepted.
    ///
    /// # Errors
    /// `TOKEN_MALFORMED`; the message says what is wrong and never quotes
    /// the text.
    pub fn parse(text: &str) -> Result<Token> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_prefix(SECRET_SCHEME).unwrap_or(text);
        Token::parse_bare(text).map_err(|why| {
            Error::new(Code::TokenMalformed, format!("this is not a flexfs token: {why}"))
        })
    }

    fn parse_bare(text: &str) -> Result<Token, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        let kind = TokenKind::ALL
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))
            .ok_or("it does not begin with flxa_, flxv_, flxm_ or flxw_")?;
        if text.len() != TOKEN_LEN {
            let count = text.chars().count();
            return Err(format!("it has {count} characters instead of {TOKEN_LEN}"));
        }
        let (body, checksum) =
            text.as_bytes().split_at_checked(BODY_LEN).ok_or("it is too short")?;
        let digits = body.get(kind.prefix().len()..).unwrap_or_default();
        let (id_digits, rest) = digits.split_at_checked(ID_DIGITS).ok_or("it is too short")?;
        let secret_digits = match rest {
            [b'_', secret @ ..] if secret.len() == SECRET_DIGITS => secret,
            _ => return Err("its form is wrong".to_owned()),
        };
        let foreign = "it has a character that does not belong there";
        let expected = base62::decode::<4>(checksum).ok_or(foreign)?;
        if crc32fast::hash(body).to_be_bytes() != expected {
            return Err("its checksum is wrong; was it copied completely?".to_owned());
        }
        let id = base62::decode::<16>(id_digits).ok_or(foreign)?;
        let uuid = uuid::Uuid::from_bytes(id);
        let random_v4 = uuid.get_version() == Some(uuid::Version::Random)
            && uuid.get_variant() == uuid::Variant::RFC4122;
        if !random_v4 {
            return Err("its id is not a random UUID".to_owned());
        }
        let mut plain = base62::decode::<32>(secret_digits).ok_or(foreign)?;
        let secret = Zeroizing::new(plain);
        plain.zeroize();
        let text = Zeroizing::new(text.to_owned());
        Ok(Token { id: TokenId::from_bytes(id), kind, secret, text })
    }

    /// Parses and demands a kind.
    ///
    /// # Errors
    /// `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`.
    pub fn parse_kind(text: &str, kind: TokenKind) -> Result<Token> {
        let token = Token::parse(text)?;
        if token.kind == kind {
            return Ok(token);
        }
        Err(Error::new(
            Code::TokenWrongKind,
            format!(
                "{} token was given where {} token belongs",
                token.kind.with_article(),
                kind.with_article()
            ),
        ))
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
        self.text.get(TOKEN_LEN - 4..).unwrap_or_default()
    }

    /// The text itself: the one way to the secret, named so that it is found.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The 32 bytes of the secret, for the verifier alone.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    #[cfg(test)]
    pub(crate) fn from_parts(kind: TokenKind, id: [u8; 16], secret: [u8; 32]) -> Token {
        Token::assemble(kind, id, Zeroizing::new(secret))
    }

    /// As a message field.
    #[must_use]
    pub fn to_wire(&self) -> flexfs_proto::v1::SecretText {
        flexfs_proto::v1::SecretText { value: self.reveal().to_owned() }
    }
}

#[cfg(test)]
mod tests;
