//! The block endpoint: GET (with one Range) and create-only PUT of objects in
//! a directory store, by signed URL. A transfer ends with its session: it is
//! asked again every [`limits::BLOCK_RECHECK_LEN`] bytes, in both directions.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use flexfs_common::http::http_status;
use flexfs_common::{Code, Error, Result, limits};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;

use super::directory::{DirectoryStore, NewObject};
use super::signed::{Claims, Method, Signer, now_millis};

/// An upload that brings nothing for this long is given up.
const STALL: Duration = Duration::from_secs(30);

/// How long the rest of an upload that the store does not take is read, so that
/// its sender reads the answer instead of seeing the connection break under it.
const DRAIN: Duration = Duration::from_secs(5);

/// Who may transfer now.
pub trait Transfers: Send + Sync + 'static {
    /// The store, while the session is live on this volume, its flags allow
    /// the method, and admin's word on its token holds. Called again during a
    /// transfer.
    ///
    /// # Errors
    /// The session's or the store's.
    fn admit(&self, claims: &Claims) -> Result<Arc<DirectoryStore>>;
}

/// The endpoint's state.
pub struct Endpoint<T> {
    transfers: Arc<T>,
    signer: Arc<Signer>,
}

impl<T> std::fmt::Debug for Endpoint<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endpoint")
    }
}

/// The routes of the endpoint.
pub fn routes<T: Transfers>(transfers: Arc<T>, signer: Arc<Signer>) -> Router {
    let endpoint = Arc::new(Endpoint { transfers, signer });
    Router::new()
        .route("/v1/blocks/{volume}/{object}", get(read::<T>).put(write::<T>))
        .with_state(endpoint)
}

/// Runs blocking work on the pool.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::bare(Code::Internal).caused_by(e))?
}

/// `{code, error, message, hint}` with the status of the code.
pub(crate) fn error_response(error: &Error) -> Response {
    let body = serde_json::json!({
        "code": error.code().name(),
        "error": error.code().sentence(),
        "message": error.message(),
        "hint": error.hint(),
    });
    let mut response = (http_status(error.code()), axum::Json(body)).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let value = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

impl<T: Transfers> Endpoint<T> {
    async fn admit(
        &self,
        method: Method,
        path: &(String, String),
        query: Option<&str>,
    ) -> Result<(Claims, Arc<DirectoryStore>)> {
        let (volume, object) = path;
        let claims =
            self.signer.check(method, volume, object, query.unwrap_or_default(), now_millis())?;
        // The store may have to be opened: that reads and writes the disk.
        let transfers = Arc::clone(&self.transfers);
        let store = blocking(move || transfers.admit(&claims)).await?;
        Ok((claims, store))
    }
}

async fn read<T: Transfers>(
    State(endpoint): State<Arc<Endpoint<T>>>,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match try_read(&endpoint, &path, query.as_deref(), &headers).await {
        Ok(response) => response,
        Err(error) => error_response(&not_found_as_missing(error)),
    }
}

/// An object that is gone: NOT_FOUND of HTTP, not of the file system.
fn not_found_as_missing(error: Error) -> Error {
    match error.code() {
        Code::FsNotFound => Error::new(Code::BlockCorrupt, "the object is not in the store"),
        _ => error,
    }
}

async fn try_read<T: Transfers>(
    endpoint: &Endpoint<T>,
    path: &(String, String),
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response> {
    let (claims, store) = endpoint.admit(Method::Get, path, query).await?;
    let (file, len) = blocking(move || store.read(claims.volume, claims.object)).await?;
    let range = match headers.get(header::RANGE) {
        None => None,
        Some(value) => match value.to_str().ok().and_then(|text| parse_range(text, len)) {
            Some(range) => Some(range),
            None => return Ok(unsatisfiable(len)),
        },
    };
    let (start, end) = range.unwrap_or((0, len));
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_LENGTH, end - start);
    if range.is_some() {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{len}", end - 1));
    }
    let source =
        Source { file: Arc::new(file), transfers: Arc::clone(&endpoint.transfers), claims };
    response.body(stream(source, start, end)).map_err(|e| Error::bare(Code::Internal).caused_by(e))
}

fn unsatisfiable(len: u64) -> Response {
    let error = Error::new(Code::ArgumentInvalid, "the range is not within the object");
    let mut response = error_response(&error);
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(value) = format!("bytes */{len}").parse() {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// One byte range (RFC 9110 section 14.1.2) as start and exclusive end within
/// `len`; `None` for several ranges, another unit, or nothing within.
fn parse_range(text: &str, len: u64) -> Option<(u64, u64)> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => (len.saturating_sub(suffix.parse().ok()?), len),
        (first, "") => (first.parse().ok()?, len),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?.min(len)),
    };
    (start < end).then_some((start, end))
}

struct Source<T> {
    file: Arc<File>,
    transfers: Arc<T>,
    claims: Claims,
}

/// The bytes in pieces, each after another look at the session. A body that
/// fails breaks the connection: the reader sees a short answer.
fn stream<T: Transfers>(source: Source<T>, start: u64, end: u64) -> Body {
    let pieces = futures::stream::try_unfold((source, start), move |(source, at)| async move {
        if at >= end {
            return Ok::<_, io::Error>(None);
        }
        let piece = u64::try_from(limits::BLOCK_RECHECK_LEN).unwrap_or(u64::MAX).min(end - at);
        let (file, transfers, claims) =
            (Arc::clone(&source.file), Arc::clone(&source.transfers), source.claims);
        let bytes = blocking(move || {
            transfers.admit(&claims)?;
            let mut bytes = vec![0; usize::try_from(piece).unwrap_or(0)];
            file.read_exact_at(&mut bytes, at)
                .map_err(|e| Error::bare(Code::BlockUnavailable).caused_by(e))?;
            Ok(Bytes::from(bytes))
        })
        .await
        .map_err(io::Error::other)?;
        Ok(Some((bytes, (source, at + piece))))
    });
    Body::from_stream(pieces)
}

async fn write<T: Transfers>(
    State(endpoint): State<Arc<Endpoint<T>>>,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match try_write(&endpoint, &path, query.as_deref(), &headers, body).await {
        Ok(()) => StatusCode::CREATED.into_response(),
        Err(error) => error_response(&error),
    }
}

async fn try_write<T: Transfers>(
    endpoint: &Endpoint<T>,
    path: &(String, String),
    query: Option<&str>,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<()> {
    let (claims, store) = endpoint.admit(Method::Put, path, query).await?;
    let len: u64 = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| Error::new(Code::ArgumentInvalid, "Content-Length is missing"))?;
    if len > claims.limit {
        let why = format!("{len} bytes, and the signed URL allows {}", claims.limit);
        return Err(Error::new(Code::BlockRefused, why));
    }
    let outcome = receive(endpoint, claims, store, len, &mut body).await;
    if let Err(error) = &outcome
        && matches!(error.code(), Code::FsNoSpace | Code::BlockUnavailable)
    {
        drain(&mut body, len).await;
    }
    outcome
}

/// Reads what nobody wants for a while, at most the announced length, which
/// the signed URL allows.
async fn drain(body: &mut Body, len: u64) {
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    let reading = async {
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // One that stalls gets the answer as it is.
    let _ = tokio::time::timeout(DRAIN, reading).await;
}

async fn receive<T: Transfers>(
    endpoint: &Endpoint<T>,
    claims: Claims,
    store: Arc<DirectoryStore>,
    len: u64,
    body: &mut Body,
) -> Result<()> {
    let mut object =
        blocking(move || store.create(claims.volume, claims.object, claims.limit)).await?;
    let mut buffer = BytesMut::with_capacity(limits::BLOCK_RECHECK_LEN);
    loop {
        let frame = tokio::time::timeout(STALL, body.frame())
            .await
            .map_err(|_| Error::new(Code::DeadlineExceeded, "the upload stalled"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| {
            Error::new(Code::BlockUnavailable, "the upload ended early").caused_by(e)
        })?;
        // Trailers say nothing to us.
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            let room = limits::BLOCK_RECHECK_LEN.saturating_sub(buffer.len()).min(data.len());
            buffer.extend_from_slice(&data.split_to(room));
            if buffer.len() >= limits::BLOCK_RECHECK_LEN {
                object = append(endpoint, claims, object, buffer.split().freeze()).await?;
                buffer.reserve(limits::BLOCK_RECHECK_LEN);
            }
        }
    }
    let object = append(endpoint, claims, object, buffer.freeze()).await?;
    if object.written() != len {
        return Err(Error::new(Code::BlockRefused, "the upload is not of the announced length"));
    }
    blocking(move || object.finish()).await
}

async fn append<T: Transfers>(
    endpoint: &Endpoint<T>,
    claims: Claims,
    mut object: NewObject,
    bytes: Bytes,
) -> Result<NewObject> {
    let transfers = Arc::clone(&endpoint.transfers);
    blocking(move || {
        transfers.admit(&claims)?;
        object.write(&bytes)?;
        Ok(object)
    })
    .await
}

#[cfg(test)]
mod tests;
