//! `authorization: Bearer <token>` (RFC 6750) on both sides of gRPC.

use flexfs_common::{Code, Error, Result};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::token::Token;

/// Adds the token to every request of a client.
#[derive(Clone, Debug)]
pub struct BearerInterceptor {
    value: MetadataValue<Ascii>,
}

impl BearerInterceptor {
    /// For this token. The header value is marked sensitive.
    #[must_use]
    pub fn new(token: &Token) -> BearerInterceptor {
        let text = zeroize::Zeroizing::new(format!("Bearer {}", token.reveal()));
        // A token is ASCII letters, digits and underscores by construction.
        let mut value = MetadataValue::try_from(text.as_str())
            .unwrap_or_else(|_| MetadataValue::from_static(""));
        value.set_sensitive(true);
        BearerInterceptor { value }
    }
}

impl tonic::service::Interceptor for BearerInterceptor {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.value.clone());
        Ok(request)
    }
}

/// The token of a request, any kind, checked offline.
///
/// # Errors
/// `TOKEN_MISSING` (absent; another scheme), `TOKEN_MALFORMED` (also when
/// the header is there more than once: which one counts must never be open).
pub fn token_of(metadata: &MetadataMap) -> Result<Token> {
    let values = metadata.get_all("authorization");
    token_of_values(values.iter().map(MetadataValue::as_encoded_bytes))
}

/// As [`token_of`], where the request is one of HTTP.
///
/// # Errors
/// As [`token_of`].
pub fn token_of_headers(headers: &HeaderMap) -> Result<Token> {
    token_of_values(headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes))
}

fn token_of_values<'v>(mut values: impl Iterator<Item = &'v [u8]>) -> Result<Token> {
    let value = values.next().ok_or(Code::TokenMissing)?;
    if values.next().is_some() {
        return Err(Error::new(Code::TokenMalformed, "more than one authorization header"));
    }
    token_of_header(value)
}

/// The token in the value of an HTTP `Authorization` header.
///
/// # Errors
/// `TOKEN_MISSING`, `TOKEN_MALFORMED`.
pub fn token_of_header(value: &[u8]) -> Result<Token> {
    let malformed = || Error::new(Code::TokenMalformed, "the authorization header is not text");
    let text = std::str::from_utf8(value).map_err(|_| malformed())?;
    match text.split_once(' ') {
        // The scheme's case does not matter (RFC 9110 section 11.1).
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => {
            Token::parse(token.trim_start_matches(' '))
        }
        _ => Err(Error::new(Code::TokenMissing, "no bearer token was sent")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::service::Interceptor;

    use super::*;
    use crate::token::TokenKind;

    #[test]
    fn what_is_sent_is_read_and_not_shown() {
        let token = Token::generate(TokenKind::Account).unwrap();
        let mut interceptor = BearerInterceptor::new(&token);
        let request = interceptor.call(tonic::Request::new(())).unwrap();
        assert_eq!(token_of(request.metadata()).unwrap().id(), token.id());
        let shown = format!("{request:?} {interceptor:?}");
        assert!(!shown.contains(token.reveal()), "{shown}");
    }

    #[test]
    fn other_headers_are_typed() {
        let token = Token::generate(TokenKind::Account).unwrap();
        let code = |values: &[String]| {
            let mut map = MetadataMap::new();
            for value in values {
                map.append("authorization", value.parse().unwrap());
            }
            token_of(&map).map(|t| t.id()).map_err(|e| e.code())
        };
        let text = token.reveal();
        assert_eq!(code(&[]), Err(Code::TokenMissing));
        assert_eq!(code(&[format!("Basic {text}")]), Err(Code::TokenMissing));
        assert_eq!(code(&[text.to_owned()]), Err(Code::TokenMissing));
        assert_eq!(code(&["Bearer ".into()]), Err(Code::TokenMalformed));
        assert_eq!(code(&[format!("Bearer {text}x")]), Err(Code::TokenMalformed));
        assert_eq!(code(&[format!("bearer {text}")]), Ok(token.id()));
        let twice = [format!("Bearer {text}"), format!("Bearer {text}")];
        assert_eq!(code(&twice), Err(Code::TokenMalformed));
    }
}
