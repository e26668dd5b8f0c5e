//! `authorization: Bearer <token>` (RFC 6750) on both sides of gRPC.

use flexfs_common::Result;
use tonic::metadata::MetadataMap;

use crate::token::Token;

/// Adds the token to every request of a client.
#[derive(Clone, Debug)]
pub struct BearerInterceptor {
    value: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
}

#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
impl BearerInterceptor {
    /// For this token. The header value is marked sensitive.
    #[must_use]
    pub fn new(token: &Token) -> BearerInterceptor {
        unimplemented!()
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
/// `TOKEN_MISSING` (absent; another scheme), `TOKEN_MALFORMED`.
#[allow(unused_variables, clippy::unimplemented, reason = "to be built")]
pub fn token_of(metadata: &MetadataMap) -> Result<Token> {
    unimplemented!()
}
