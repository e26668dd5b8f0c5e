//! The port: TLS, and what is spoken on it. Operations of mounts are told
//! apart from HTTP by ALPN, or without TLS by their first bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use flexfs_common::places::Places;
use flexfs_common::tls::{self, ServerCertificate, Stream};
use flexfs_common::turns::{Turn, Turns};
use flexfs_common::{Code, Error, Result, frame, limits, process};
use flexfs_proto::v1::meta_control_service_server::MetaControlServiceServer;
use flexfs_proto::v1::meta_service_server::MetaServiceServer;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::blocks::endpoint;
use crate::ops;
use crate::rpc::control::ControlService;
use crate::rpc::open::OpenService;
use crate::service::{PeerAddress, Service};

/// Connections that have not yet proven anything.
const HANDSHAKES_MAX: usize = 256;
/// Of them, of one source: silent connections of one do not shut out others.
const HANDSHAKES_OF_SOURCE: usize = HANDSHAKES_MAX / 4;
/// Connections in all; each costs some 100 KiB of buffers at most times. What
/// they are of one source is said in [`Places`].
const CONNECTIONS_MAX: usize = 16_384;
/// Largest request of a control call, in bytes.
const CALL_MAX_LEN: usize = 256 * 1024;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Time for what is under way when the server ends.
const DRAIN: Duration = Duration::from_secs(5);
/// Wait after accept(2) failed (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that is bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds the port. A port that a killed server just left is taken at once.
///
/// # Errors
/// `ADDRESS_IN_USE`, `ARGUMENT_INVALID`.
pub fn bind(address: SocketAddr) -> Result<Bound> {
    let failed = |e: io::Error| {
        let code = match e.kind() {
            io::ErrorKind::AddrInUse => Code::AddressInUse,
            _ => Code::ArgumentInvalid,
        };
        Error::new(code, format!("cannot listen on {address}")).caused_by(e)
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let listener = socket.listen(1024).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address })
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the service is told to stop; then lets what is under way
    /// finish for a while. `certificate` is `None` for `--noSSL`.
    pub async fn serve(self, service: Arc<Service>, certificate: Option<Arc<ServerCertificate>>) {
        let acceptor = certificate.map(|certificate| {
            let alpn: [&[u8]; 3] = [frame::ALPN, b"h2", b"http/1.1"];
            tokio_rustls::TlsAcceptor::from(tls::server_config(certificate, &alpn))
        });
        let port = Arc::new(Port {
            router: router(&service, self.address),
            service: Arc::clone(&service),
            acceptor,
            handshakes: Turns::new(HANDSHAKES_MAX, HANDSHAKES_OF_SOURCE),
        });
        let places = Places::new(process::connections(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = service.stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without a place it is closed at once.
            let Some(place) = places.take(peer.ip()) else { continue };
            let port = Arc::clone(&port);
            tasks.spawn(async move {
                port.connection(tcp, peer).await;
                drop(place);
            });
        }
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("connections were still busy at the end");
        }
    }
}

fn router(service: &Arc<Service>, address: SocketAddr) -> Router {
    let open = MetaServiceServer::new(OpenService(Arc::clone(service)))
        .max_decoding_message_size(CALL_MAX_LEN);
    let control = ControlService { service: Arc::clone(service), address: address.to_string() };
    let control = MetaControlServiceServer::new(control).max_decoding_message_size(CALL_MAX_LEN);
    tonic::service::Routes::new(open)
        .add_service(control)
        .into_axum_router()
        .merge(endpoint::routes(Arc::clone(service), Arc::clone(&service.signer)))
        .route("/healthz", axum::routing::get(async || "ok"))
}

struct Port {
    service: Arc<Service>,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    router: Router,
    handshakes: Turns,
}

impl Port {
    async fn connection(&self, tcp: TcpStream, peer: SocketAddr) {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%peer, %error, "nodelay");
            return;
        }
        // Whoever waits for longer has gone.
        let turn = tokio::time::timeout(limits::HANDSHAKE, self.handshakes.next(peer.ip())).await;
        let Ok(Some(permit)) = turn else { return };
        let Some(acceptor) = &self.acceptor else {
            match tokio::time::timeout(limits::HANDSHAKE, sniff(tcp)).await {
                Ok(Ok((true, stream))) => {
                    let stream = Stream::plain(stream.inner);
                    self.operations(stream, peer, permit).await;
                }
                Ok(Ok((false, stream))) => {
                    drop(permit);
                    self.http(stream, peer).await;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            return;
        };
        let tls = match tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(tcp)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake");
                return;
            }
            Err(_) => return,
        };
        let stream = Stream::server(tls);
        if stream.alpn() == Some(frame::ALPN) {
            self.operations(stream, peer, permit).await;
        } else {
            drop(permit);
            self.http(stream, peer).await;
        }
    }

    async fn operations(&self, stream: Stream, peer: SocketAddr, permit: Turn) {
        ops::serve(Arc::clone(&self.service), stream, PeerAddress(peer), permit).await;
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        peer: SocketAddr,
    ) {
        let router = self.router.clone();
        let handler = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(PeerAddress(peer));
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HANDSHAKE)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(limits::LEASE))
            .max_concurrent_streams(STREAMS_MAX);
        let serving = builder.serve_connection(TokioIo::new(stream), handler);
        tokio::pin!(serving);
        let outcome = tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = self.service.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, %error, "HTTP connection");
        }
    }
}

/// A stream whose first bytes were read already.
struct Rewound<S> {
    head: Vec<u8>,
    taken: usize,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.head.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// True when the connection begins with the preface of operations, which is
/// then taken off; else everything read is still to be read.
async fn sniff<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(bool, Rewound<S>)> {
    let mut head = Vec::with_capacity(frame::PREFACE.len());
    while head.len() < frame::PREFACE.len() && frame::PREFACE.starts_with(&head) {
        let mut rest =
            (&mut stream).take(u64::try_from(frame::PREFACE.len() - head.len()).unwrap_or(0));
        if rest.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let is_ops = head == frame::PREFACE;
    if is_ops {
        head.clear();
    }
    Ok((is_ops, Rewound { head, taken: 0, inner: stream }))
}

#[cfg(test)]
mod tests;
