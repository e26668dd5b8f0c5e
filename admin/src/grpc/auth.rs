//! Who calls? Asked before a request's body is read, for every path: by the
//! table of methods, offline first.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use flexfs_auth::bearer;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result, status};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tower::{Layer, Service as TowerService};

use crate::service::{Caller, Service, methods};
use crate::verify::Showing;

/// The address of the other side, put on each request by the server.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub IpAddr);

/// Puts [`Authenticate`] before a service.
#[derive(Clone, Debug)]
pub struct AuthenticateLayer(Arc<Service>);

impl AuthenticateLayer {
    /// Tokens are verified by this service's verifier.
    #[must_use]
    pub fn new(service: Arc<Service>) -> AuthenticateLayer {
        AuthenticateLayer(service)
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;
    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { inner, service: Arc::clone(&self.0) }
    }
}

/// Lets only verified callers through, and tells the service who they are.
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    inner: S,
    service: Arc<Service>,
}

impl<S> TowerService<Request<Body>> for Authenticate<S>
where
    S: TowerService<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was polled ready, not its clone.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let service = Arc::clone(&self.service);
        Box::pin(async move {
            let source = request.extensions().get::<Source>().map(|source| source.0);
            let path = request.uri().path().to_owned();
            match caller(&service, &path, request.headers(), source).await {
                Ok(caller) => {
                    // The token has done its work; nothing behind may log it.
                    request.headers_mut().remove(AUTHORIZATION);
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(error) => {
                    tracing::debug!(%path, code = %error.code(), "a caller was refused");
                    Ok(status::to_status(&error).into_http())
                }
            }
        })
    }
}

/// Who calls this path?
///
/// # Errors
/// `TOKEN_MISSING`, `UNSUPPORTED` for a path that there is not, the codes of
/// `Verify`.
pub async fn caller(
    service: &Service,
    path: &str,
    headers: &HeaderMap,
    source: Option<IpAddr>,
) -> Result<Caller> {
    let token = bearer::token_of_headers(headers)?;
    let method = methods::find(path)
        .ok_or_else(|| Error::new(Code::Unsupported, "there is no such method"))?;
    if !method.kinds.contains(&token.kind()) {
        return Err(Code::TokenWrongKind.into());
    }
    if token.kind() == TokenKind::Claim {
        let showing = Showing { from: source, ..Showing::default() };
        let verified = service.verifier().verify_claim(&token, &showing).await?;
        return Ok(Caller::new(verified, source, method));
    }
    let verified = service.verifier().verify(&token, source).await?;
    if verified.standing.token.grant.kind() != token.kind() {
        // The HMAC covers the kind: this cannot be, and must not be.
        return Err(Code::TokenUnknown.into());
    }
    Ok(Caller::new(verified, source, method))
}
