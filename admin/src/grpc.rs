//! gRPC: decode, call the service, encode. No rules here.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;

use aws_lc_rs::digest;
use flexfs_common::{Code, Error, Kind, Result, status};
use flexfs_proto::v1::admin_service_server::AdminServiceServer;
use flexfs_proto::v1::authority_service_server::AuthorityServiceServer;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::audit;
use crate::service::{Caller, Service};
use crate::verify::Shown;

mod admin;
pub mod auth;
mod authority;
mod convert;

/// Bytes of a request: the longest is a list of 1000 tokens to check.
const REQUEST_MAX_LEN: usize = 256 * 1024;
/// Bytes of a reply: a metadata server's list of all its volumes.
const REPLY_MAX_LEN: usize = 64 * 1024 * 1024;

/// Both services, behind the authentication of every call.
pub fn routes(service: Arc<Service>, stop: CancellationToken) -> axum::Router {
    let admin = AdminServiceServer::new(admin::Admin(Arc::clone(&service)))
        .max_decoding_message_size(REQUEST_MAX_LEN)
        .max_encoding_message_size(REPLY_MAX_LEN);
    let authority = authority::Authority { service: Arc::clone(&service), stop };
    let authority = AuthorityServiceServer::new(authority)
        .max_decoding_message_size(REQUEST_MAX_LEN)
        .max_encoding_message_size(REPLY_MAX_LEN);
    tonic::service::Routes::new(admin)
        .add_service(authority)
        .prepare()
        .into_axum_router()
        .layer(auth::AuthenticateLayer::new(service))
}

/// The header in which a caller gives its request an id.
const REQUEST_ID: &str = "flexfs-request-id";

/// Takes the caller that the authentication has put there, and the message.
fn parts<T>(request: Request<T>) -> Result<(Caller, T)> {
    let (_, mut extensions, message) = request.into_parts();
    // Without a caller nothing is done: no way around the authentication.
    let caller = extensions.remove::<Caller>().ok_or(Code::TokenMissing)?;
    Ok((caller, message))
}

/// Like [`parts`], with the id of the request.
fn identified<T: Message>(request: Request<T>) -> Result<(Caller, T)> {
    let id = request.metadata().get(REQUEST_ID).cloned();
    let (mut caller, message) = parts(request)?;
    if let Some(id) = id {
        let bad = || Error::new(Code::ArgumentInvalid, "a request id is a UUID");
        let id = id.to_str().map_err(|_| bad())?.parse().map_err(|_| bad())?;
        // Messages of several methods have the same fields.
        let mut bytes = Zeroizing::new(caller.method.path.as_bytes().to_vec());
        bytes.extend_from_slice(&Zeroizing::new(message.encode_to_vec()));
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
        caller.request = Some(audit::Request { id, digest });
    }
    Ok((caller, message))
}

/// Runs a call to its end even when the client goes away in the middle, so
/// that what was committed is also made known here.
///
/// What a caller was not allowed goes into the audit log.
async fn whole<T, F>(
    service: &Arc<Service>,
    caller: Caller,
    work: impl FnOnce(Arc<Service>, Caller) -> F,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let told = Told::of(&caller);
    let mut caller = caller;
    service.recall_request(&mut caller).await.map_err(|e| refused(&e))?;
    let outcome = tokio::spawn(work(Arc::clone(service), caller))
        .await
        .unwrap_or_else(|e| Err(Error::bare(Code::Internal).caused_by(e)));
    outcome.map_err(|error| told.refused(service, &error))
}

/// Runs a call that is mostly answered from memory: at once and here when it
/// is, else to its end like [`whole`], because what it finds is kept.
async fn reading<T: Send + 'static>(
    service: &Arc<Service>,
    told: Told,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Status> {
    let mut work = Box::pin(work);
    let outcome = match futures::poll!(&mut work) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(Error::bare(Code::Internal).caused_by(e))),
    };
    outcome.map_err(|error| told.refused(service, &error))
}

/// Who is told of a refusal.
struct Told {
    source: Option<IpAddr>,
    shown: Shown,
}

impl Told {
    fn of(caller: &Caller) -> Told {
        let shown = Shown::Proven(caller.token_id(), caller.account_id());
        Told { source: caller.source, shown }
    }

    /// What was not allowed goes into the audit log.
    fn refused(&self, service: &Service, error: &Error) -> Status {
        if error.kind() == Kind::Denied {
            service.verifier().note_refusal(self.source, self.shown, error.code());
        }
        refused(error)
    }
}

/// The status of an error; what is our own fault is logged here, once.
fn refused(error: &Error) -> Status {
    match error.kind() {
        Kind::Internal | Kind::Corrupt | Kind::Unavailable => {
            tracing::error!(code = %error.code(), error = error.with_causes(), "a call failed");
        }
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Denied
        | Kind::NotFound
        | Kind::Exists
        | Kind::Conflict
        | Kind::Limited
        | Kind::DeadlineExceeded
        | Kind::Cancelled
        | Kind::Unsupported
        | Kind::Posix => {
            tracing::debug!(code = %error.code(), "a call was refused");
        }
    }
    status::to_status(error)
}
