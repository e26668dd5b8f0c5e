//! Bytes to and from the block store by signed URL: HTTP/1.1 with a pool of
//! connections, because one stream per connection is what TLS does fastest.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flexfs_common::ids::ObjectId;
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error, Kind, Result, limits};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Method, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::patience::{Arrivals, OF_DOWNLOAD, STALL, allowance, of_upload};
use crate::session::MetaSession;
use crate::session::backoff::jittered;

/// Downloads and uploads at once, each: fills a fast link with 4 MiB blocks
/// without holding too much memory.
const PARALLEL: usize = 8;
/// Attempts of one transfer.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubles.
const BACKOFF: Duration = Duration::from_millis(50);
/// Idle connections kept.
const IDLE_MAX: usize = 16;
/// Largest body of an error that is read.
const ERROR_BODY_MAX: usize = 16 * 1024;

/// The HTTP side of the data plane.
#[derive(Debug)]
pub(super) struct Transfer {
    session: Arc<MetaSession>,
    /// To the metadata server's own block endpoint.
    meta: Client,
    base: String,
    /// To cloud stores; made when the first absolute URL comes.
    cloud: OnceLock<Client>,
    downloads: Semaphore,
    uploads: Semaphore,
    downloaded: Arrivals,
    uploaded: Arrivals,
}

/// Every name is the metadata server's address: the name in the URL is the
/// role in its certificate, which no name server knows.
struct ToPeer(String);

impl Resolve for ToPeer {
    fn resolve(&self, _name: Name) -> Resolving {
        let address = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host(address).await?;
            let found: Addrs = Box::new(found);
            Ok(found)
        })
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .http1_only()
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits::CONNECT)
        .pool_max_idle_per_host(IDLE_MAX)
}

fn client(builder: reqwest::ClientBuilder) -> Result<Client> {
    builder
        .build()
        .map_err(|e| Error::new(Code::Internal, "the HTTP client cannot be made").caused_by(e))
}

fn meta_client(peer: &Peer) -> Result<(Client, String)> {
    if matches!(peer.trust, Trust::Plaintext) {
        return Ok((client(builder())?, format!("http://{}", peer.address)));
    }
    let config = tls::client_config(&peer.trust, b"http/1.1")?;
    let with_tls = builder().tls_backend_preconfigured((*config).clone());
    match peer.trust {
        Trust::System => Ok((client(with_tls)?, format!("https://{}", peer.address))),
        Trust::Ca(_) | Trust::Plaintext => {
            let port = peer.address.rsplit_once(':').map_or("443", |(_, port)| port);
            let resolving = with_tls.dns_resolver(Arc::new(ToPeer(peer.address.clone())));
            Ok((client(resolving)?, format!("https://{}:{port}", peer.name)))
        }
    }
}

impl Transfer {
    pub(super) fn new(session: Arc<MetaSession>) -> Result<Transfer> {
        tls::install_provider();
        let (meta, base) = meta_client(session.peer())?;
        Ok(Transfer {
            session,
            meta,
            base,
            cloud: OnceLock::new(),
            downloads: Semaphore::new(PARALLEL),
            uploads: Semaphore::new(PARALLEL),
            downloaded: Arrivals::default(),
            uploaded: Arrivals::default(),
        })
    }

    /// Downloads (a range of) an object, at most `max` bytes. It ends as well
    /// when nothing that the mount downloads has moved for [`OF_DOWNLOAD`].
    ///
    /// # Errors
    /// `BLOCK_REFUSED` for a URL that is not valid any more, `BLOCK_CORRUPT`
    /// when the object is gone or longer than `max`, `BLOCK_UNAVAILABLE`, and
    /// the session's own when it has ended.
    pub(super) async fn get(
        &self,
        object: ObjectId,
        url: &str,
        range: Option<Range<u64>>,
        max: usize,
    ) -> Result<Bytes> {
        let work = async {
            let _permit = self.downloads.acquire().await.map_err(|_| closed())?;
            let mut attempt = 1;
            loop {
                match self.get_once(object, url, range.clone(), max).await {
                    Err(error) if may_retry(&error) && attempt < ATTEMPTS => {
                        pause(object, attempt, &error).await;
                        attempt += 1;
                    }
                    other => return other,
                }
            }
        };
        tokio::select! {
            biased;
            error = self.session.ended() => Err(error),
            result = work => result,
            () = self.downloaded.silent(Instant::now(), OF_DOWNLOAD) => Err(silent(object)),
        }
    }

    async fn get_once(
        &self,
        object: ObjectId,
        url: &str,
        range: Option<Range<u64>>,
        max: usize,
    ) -> Result<Bytes> {
        let mut request = self.request(Method::GET, url)?.timeout(allowance(max));
        if let Some(range) = &range {
            let last = range.end.saturating_sub(1);
            request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
        }
        let response = moving(object, request.send()).await?;
        let expected = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if response.status() != expected {
            return Err(refusal(object, response).await);
        }
        body(object, response, max, &self.downloaded).await
    }

    /// Uploads an object by its create-only URL. One attempt: a key that may
    /// have been used is not used again. It ends as well when no upload of the
    /// mount has arrived for [`of_upload`] since `since`, also one that still
    /// waits for others.
    ///
    /// # Errors
    /// As [`Transfer::get`]; `FS_NO_SPACE`.
    pub(super) async fn put(
        &self,
        object: ObjectId,
        url: &str,
        stored: Bytes,
        since: Instant,
    ) -> Result<()> {
        let len = stored.len();
        let work = async {
            let _permit = self.uploads.acquire().await.map_err(|_| closed())?;
            let request = self
                .request(Method::PUT, url)?
                .timeout(allowance(len))
                .header(header::CONTENT_LENGTH, stored.len())
                .body(stored);
            let response = request.send().await.map_err(|e| unavailable(object, e))?;
            if response.status().is_success() {
                self.uploaded.arrived();
                return Ok(());
            }
            Err(refusal(object, response).await)
        };
        tokio::select! {
            biased;
            error = self.session.ended() => Err(error),
            result = work => result,
            () = self.uploaded.silent(since, of_upload(len)) => Err(silent(object)),
        }
    }

    /// Has no upload of the mount arrived for as long as one of `len` bytes that
    /// began at `since` is tried?
    pub(super) fn is_silent(&self, since: Instant, len: usize) -> bool {
        self.uploaded.is_silent(since, of_upload(len))
    }

    fn request(&self, method: Method, url: &str) -> Result<reqwest::RequestBuilder> {
        if url.starts_with('/') {
            return Ok(self.meta.request(method, format!("{}{url}", self.base)));
        }
        if let Some(cloud) = self.cloud.get() {
            return Ok(cloud.request(method, url));
        }
        let config = tls::client_config(&Trust::System, b"http/1.1")?;
        let new = client(builder().tls_backend_preconfigured((*config).clone()))?;
        Ok(self.cloud.get_or_init(|| new).request(method, url))
    }
}

/// Is the same request worth another attempt?
pub(super) fn may_retry(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Limited | Kind::DeadlineExceeded)
}

/// Waits before attempt `attempt` + 1.
pub(super) async fn pause(object: ObjectId, attempt: u32, error: &Error) {
    tracing::debug!(%object, attempt, error = %error.with_causes(), "a transfer is tried again");
    tokio::time::sleep(jittered(BACKOFF * 2_u32.saturating_pow(attempt - 1))).await;
}

fn closed() -> Error {
    Error::new(Code::Internal, "transfers have ended")
}

fn silent(object: ObjectId) -> Error {
    Error::new(Code::BlockUnavailable, format!("object {object}: the block store is silent"))
}

/// One step of a download, which may take [`STALL`].
async fn moving<T>(object: ObjectId, step: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
    match tokio::time::timeout(STALL, step).await {
        Ok(outcome) => outcome.map_err(|e| unavailable(object, e)),
        Err(_) => Err(silent(object)),
    }
}

/// The URL is a credential for a minute: it must not reach the log.
fn unavailable(object: ObjectId, cause: reqwest::Error) -> Error {
    Error::new(Code::BlockUnavailable, format!("object {object} cannot be transferred"))
        .caused_by(cause.without_url())
}

/// The body, never more than `max` bytes of it.
async fn body(
    object: ObjectId,
    mut response: Response,
    max: usize,
    moved: &Arrivals,
) -> Result<Bytes> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    if announced.is_some_and(|length| length > max) {
        return Err(too_long(object));
    }
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0));
    while let Some(part) = moving(object, response.chunk()).await? {
        if bytes.len() + part.len() > max {
            return Err(too_long(object));
        }
        bytes.extend_from_slice(&part);
        moved.arrived();
    }
    Ok(bytes.freeze())
}

fn too_long(object: ObjectId) -> Error {
    Error::new(Code::BlockCorrupt, format!("object {object}: it is longer than it can be"))
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    code: String,
}

/// What a status other than success means: our endpoint says it in the body,
/// cloud stores by the status alone.
async fn refusal(object: ObjectId, response: Response) -> Error {
    let status = response.status();
    let told = body(object, response, ERROR_BODY_MAX, &Arrivals::default())
        .await
        .ok()
        .and_then(|body| serde_json::from_slice::<ErrorBody>(&body).ok())
        .and_then(|body| Code::from_name(&body.code));
    let code = told.unwrap_or(match status.as_u16() {
        401 | 403 => Code::BlockRefused,
        404 | 410 | 416 => Code::BlockCorrupt,
        507 => Code::FsNoSpace,
        408 | 425 | 429 | 500..=599 => Code::BlockUnavailable,
        _ => Code::Internal,
    });
    Error::new(code, format!("object {object}: the block store answered {status}"))
}
