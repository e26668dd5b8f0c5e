//! One stream type over TCP with or without TLS, for both sides.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::protocol;
use crate::{Code, Error, Result};

/// A connection.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Client(Box<client::TlsStream<TcpStream>>),
    Server(Box<server::TlsStream<TcpStream>>),
}

impl Stream {
    /// Without TLS.
    #[must_use]
    pub fn plain(tcp: TcpStream) -> Stream {
        Stream(Inner::Plain(tcp))
    }

    /// A client's TLS connection.
    #[must_use]
    pub fn client(tls: client::TlsStream<TcpStream>) -> Stream {
        Stream(Inner::Client(Box::new(tls)))
    }

    /// A server's TLS connection.
    #[must_use]
    pub fn server(tls: server::TlsStream<TcpStream>) -> Stream {
        Stream(Inner::Server(Box::new(tls)))
    }

    /// The agreed ALPN protocol; `None` without TLS.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Client(tls) => tls.get_ref().1.alpn_protocol(),
            Inner::Server(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Keying material of this connection alone (RFC 5705), the same on both
    /// sides; zeros without TLS.
    ///
    /// # Errors
    /// `INTERNAL` before the handshake is complete.
    pub fn exporter(&self) -> Result<[u8; protocol::EXPORTER_LEN]> {
        let out = [0; protocol::EXPORTER_LEN];
        let exported = match &self.0 {
            Inner::Plain(_) => Ok(out),
            Inner::Client(tls) => {
                tls.get_ref().1.export_keying_material(out, protocol::EXPORTER_LABEL, None)
            }
            Inner::Server(tls) => {
                tls.get_ref().1.export_keying_material(out, protocol::EXPORTER_LABEL, None)
            }
        };
        exported.map_err(|e| Error::new(Code::Internal, "the TLS exporter").caused_by(e))
    }

    /// The other side's address.
    ///
    /// # Errors
    /// The socket's own.
    pub fn peer_addr(&self) -> std::io::Result<std::net::SocketAddr> {
        match &self.0 {
            Inner::Plain(tcp) => tcp.peer_addr(),
            Inner::Client(tls) => tls.get_ref().0.peer_addr(),
            Inner::Server(tls) => tls.get_ref().0.peer_addr(),
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().0 {
            Inner::Plain($stream) => $call,
            Inner::Client($stream) => $call,
            Inner::Server($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

impl tonic::transport::server::Connected for Stream {
    type ConnectInfo = tonic::transport::server::TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        match &self.0 {
            Inner::Plain(tcp) => tcp.connect_info(),
            Inner::Client(tls) => tls.get_ref().0.connect_info(),
            Inner::Server(tls) => tls.get_ref().0.connect_info(),
        }
    }
}
