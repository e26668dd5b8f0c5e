//! The connection to admin: one channel, the token on every request, a limit
//! on every call, errors as ours. Commands are plain functions; only the call
//! itself is asynchronous, so that reading files and prompts blocks nobody.

use std::future::Future;
use std::time::Duration;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::Token;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Kind, Result, limits, status};
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// admin's calls, authenticated.
pub(crate) type Admin = AdminServiceClient<InterceptedService<Channel, Headers>>;

/// The header with the id of a change: admin carries out a change of one id
/// once, and answers its repetition with the same outcome.
const REQUEST_ID: &str = "flexfs-request-id";

/// Before a change is repeated: what broke the connection may be over.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// What every request of a call carries.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    bearer: BearerInterceptor,
    request_id: Option<MetadataValue<Ascii>>,
}

impl Headers {
    fn new(token: &Token, request_id: Option<Uuid>) -> Headers {
        // A UUID is ASCII by construction.
        let text = |id: Uuid| MetadataValue::try_from(id.hyphenated().to_string()).ok();
        Headers { bearer: BearerInterceptor::new(token), request_id: request_id.and_then(text) }
    }
}

impl Interceptor for Headers {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = self.bearer.call(request)?;
        if let Some(id) = &self.request_id {
            request.metadata_mut().insert(REQUEST_ID, id.clone());
        }
        Ok(request)
    }
}

/// The runtime of this program's calls.
///
/// # Errors
/// `INTERNAL` when the system has no room for it.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Internal, "no runtime").caused_by(e))
}

/// Makes one call to admin and waits at most `limit` for its answer.
///
/// # Errors
/// What admin says; `ADMIN_UNREACHABLE`, `PEER_UNTRUSTED`,
/// `DEADLINE_EXCEEDED`.
pub(crate) fn ask<T, F>(
    peer: &Peer,
    token: &Token,
    limit: Duration,
    call: impl FnOnce(Admin) -> F,
) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    runtime()?.block_on(answer(peer, token, limit, call))
}

/// As [`ask`], inside a runtime.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn answer<T, F>(
    peer: &Peer,
    token: &Token,
    limit: Duration,
    call: impl FnOnce(Admin) -> F,
) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    whole_answer(peer, token, limit, call).await.map(Response::into_inner)
}

/// As [`answer`], with the headers.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn whole_answer<T, F>(
    peer: &Peer,
    token: &Token,
    limit: Duration,
    call: impl FnOnce(Admin) -> F,
) -> Result<Response<T>>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let admin = connect(peer, Headers::new(token, None))?;
    let outcome = within(limit, call(admin)).await?;
    outcome.map_err(|status| status::from_status(&status, Code::AdminUnreachable))
}

/// Has admin make a change, under this id. When the answer was lost or admin
/// is away, it is asked once more with the same id and the same message (the
/// same generated secret in it): admin makes no change twice.
///
/// # Errors
/// As [`ask`].
pub(crate) fn change<R: Clone, T>(
    (peer, token): (&Peer, &Token),
    limit: Duration,
    id: Uuid,
    request: R,
    call: impl AsyncFn(Admin, R) -> Result<Response<T>, Status>,
) -> Result<T> {
    runtime()?.block_on(async {
        let headers = Headers::new(token, Some(id));
        let first = within(limit, call(connect(peer, headers.clone())?, request.clone())).await?;
        let status = match first {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let error = status::from_status(&status, Code::AdminUnreachable);
        if status::was_never_sent(&status) || error.code().kind() != Kind::Unavailable {
            return Err(error);
        }
        tokio::time::sleep(REPEAT_AFTER).await;
        within(limit, call(connect(peer, headers)?, request))
            .await?
            .map(Response::into_inner)
            .map_err(|status| status::from_status(&status, Code::AdminUnreachable))
    })
}

fn connect(peer: &Peer, headers: Headers) -> Result<Admin> {
    Ok(AdminServiceClient::with_interceptor(peer.channel()?, headers))
}

async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, call).await.map_err(|_| {
        let seconds = limit.as_secs();
        Error::new(Code::DeadlineExceeded, format!("admin did not answer within {seconds} s"))
    })
}

/// The usual limit of a call.
pub(crate) const LIMIT: Duration = limits::CALL;

/// A part of an answer that must be there.
///
/// # Errors
/// `PROTOCOL_INVALID`.
pub(crate) fn present<T>(part: Option<T>) -> Result<T> {
    part.ok_or_else(|| Error::new(Code::ProtocolInvalid, "admin's answer is incomplete"))
}

#[cfg(test)]
mod tests;
