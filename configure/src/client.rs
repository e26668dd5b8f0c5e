//! The connection to admin: one channel, the token on every request, a limit
//! on every call, errors as ours. Commands are plain functions; only the call
//! itself is asynchronous, so that reading files and prompts blocks nobody.

use std::future::Future;
use std::time::Duration;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::Token;
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result, limits, status};
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// admin's calls, authenticated.
pub(crate) type Admin = AdminServiceClient<InterceptedService<Channel, BearerInterceptor>>;

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
    let channel = peer.channel()?;
    let admin = AdminServiceClient::with_interceptor(channel, BearerInterceptor::new(token));
    let outcome = tokio::time::timeout(limit, call(admin)).await.map_err(|_| {
        let seconds = limit.as_secs();
        Error::new(Code::DeadlineExceeded, format!("admin did not answer within {seconds} s"))
    })?;
    outcome
        .map(Response::into_inner)
        .map_err(|status| status::from_status(&status, Code::AdminUnreachable))
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
