//! The listening side: connections, TLS, HTTP/2 and HTTP/1.1 on one port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use flexfs_common::places::Places;
use flexfs_common::tls::{self, ServerCertificate, Stream};
use flexfs_common::turns::Turns;
use flexfs_common::{Code, Error, Result, limits, process};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::grpc::{self, auth::Source};
use crate::service::Service;

/// Connections at once; what they are of one source is said in [`Places`].
const CONNECTIONS_MAX: usize = 4096;
/// Handshakes at once: each costs a signature.
const HANDSHAKES_MAX: usize = 256;
/// Of them, of one source: silent connections of one do not shut out others.
const HANDSHAKES_OF_SOURCE: usize = HANDSHAKES_MAX / 4;
/// Calls at once on one connection.
const CALLS_PER_CONNECTION: u32 = 256;
/// Bytes of all headers of a request: a token and some.
const HEADERS_MAX_LEN: u32 = 16 * 1024;
/// A silent connection is asked whether it lives after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long calls may go on after the order to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Wait after a failed accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerCertificate>>,
}

impl Server {
    /// Listens; `tls` absent = plain HTTP.
    ///
    /// # Errors
    /// `ADDRESS_IN_USE`, `ARGUMENT_INVALID`.
    pub async fn bind(address: &str, tls: Option<Arc<ServerCertificate>>) -> Result<Server> {
        let bad = |e: std::io::Error| {
            let code = match e.kind() {
                std::io::ErrorKind::AddrInUse => Code::AddressInUse,
                _ => Code::ArgumentInvalid,
            };
            Error::new(code, format!("cannot listen on `{}`", address.escape_debug())).caused_by(e)
        };
        let target =
            tokio::net::lookup_host(address).await.map_err(bad)?.next().ok_or_else(|| {
                Error::new(Code::ArgumentInvalid, "the address to listen on names no host")
            })?;
        let socket = if target.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }
            .map_err(bad)?;
        // After kill -9 the same address is free at once.
        socket.set_reuseaddr(true).map_err(bad)?;
        socket.bind(target).map_err(bad)?;
        let listener = socket.listen(1024).map_err(bad)?;
        let address = listener.local_addr().map_err(bad)?;
        Ok(Server { listener, address, tls })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets calls end for some seconds; feeds end
    /// at once.
    pub async fn serve(self, service: Arc<Service>, stop: CancellationToken) {
        let app =
            grpc::routes(Arc::clone(&service), stop.clone()).merge(crate::http::routes(service));
        let config =
            self.tls.map(|certificate| tls::server_config(certificate, &[b"h2", b"http/1.1"]));
        let places = Places::new(process::connections(CONNECTIONS_MAX));
        let handshakes = Arc::new(Turns::new(HANDSHAKES_MAX, HANDSHAKES_OF_SOURCE));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Accepted all the same when the house is full: in the kernel's line
            // those who have few would wait behind those who have many.
            let Some(place) = places.take(peer.ip()) else { continue };
            let (app, config) = (app.clone(), config.clone());
            let (handshakes, stop) = (Arc::clone(&handshakes), stop.clone());
            tasks.spawn(async move {
                let _place = place;
                if let Some(stream) = secure((tcp, peer.ip()), config, &handshakes).await {
                    connection(stream, peer, app, stop).await;
                }
            });
        }
        drop(self.listener);
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::info!("calls that did not end in time are cut");
        }
    }
}

async fn secure(
    (tcp, from): (TcpStream, IpAddr),
    config: Option<Arc<rustls::ServerConfig>>,
    handshakes: &Turns,
) -> Option<Stream> {
    // Only latency: a refusal changes nothing.
    let _ = tcp.set_nodelay(true);
    let Some(config) = config else { return Some(Stream::plain(tcp)) };
    let handshake = async {
        let _turn = handshakes.next(from).await?;
        tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.ok()
    };
    let tls = tokio::time::timeout(limits::HANDSHAKE, handshake).await.ok().flatten()?;
    Some(Stream::server(tls))
}

async fn connection(stream: Stream, peer: SocketAddr, app: Router, stop: CancellationToken) {
    let source = Source(peer.ip().to_canonical());
    let app = app.layer(axum::Extension(source));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits::HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .max_header_list_size(HEADERS_MAX_LEN)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(limits::FEED_DEAD);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::trace!(%error, "a connection broke");
    }
}
