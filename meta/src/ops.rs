//! The connection of a session: operations, heartbeats, and what the server
//! has to say unasked. Everything from the client is hostile.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::tls::Stream;
use flexfs_common::{Error, Result, limits, wire};
use flexfs_proto::v1;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

pub mod connection;
pub mod frames;
pub mod handshake;

/// Frames that wait for a slow connection. Few, because each may be a
/// megabyte; the reader waits when they are full.
const SEND_QUEUE: usize = 8;
/// Bytes that are gathered into one write.
const WRITE_GATHER: usize = 256 * 1024;
/// Time to take what was written last, when the connection ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one connection to its end. `permit` counts it among the handshakes
/// until it has proven itself.
pub async fn serve(service: Arc<Service>, stream: Stream, permit: OwnedSemaphorePermit) {
    let peer = stream.peer_addr().map(|a| a.to_string()).unwrap_or_default();
    let exporter = match stream.exporter() {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(peer, error = %error.with_causes(), "operations connection");
            return;
        }
    };
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, FrameKind::Client);
    let greeting = handshake::greet(&service, &mut reader, &mut write, &exporter);
    let attached = match tokio::time::timeout(limits::HANDSHAKE, greeting).await {
        Ok(Ok(attached)) => attached,
        Ok(Err(error)) => {
            tracing::info!(peer, code = %error.code(), error = %error.with_causes(),
                "connection refused");
            let refusal = refused(&error);
            let _ = tokio::time::timeout(FAREWELL, send_one(&mut write, &refusal)).await;
            return;
        }
        Err(_) => return,
    };
    drop(permit);
    let (queue, receiver) = mpsc::channel(SEND_QUEUE);
    let broken = CancellationToken::new();
    let writer = tokio::spawn(write_all(write, receiver, broken.clone()));
    let entry = Arc::clone(&attached.entry);
    let link = Arc::clone(&attached.link);
    let outcome = connection::run(&service, &mut reader, queue.clone(), &broken, attached).await;
    entry.disconnect(&link);
    if let Err(error) = outcome {
        tracing::info!(peer, session = %entry.id, code = %error.code(),
            error = %error.with_causes(), "connection ended");
        let _ = tokio::time::timeout(FAREWELL, queue.send(refused(&error))).await;
    }
    drop(queue);
    // The writer ends with its queue, or with the connection.
    if tokio::time::timeout(FAREWELL, writer).await.is_err() {
        broken.cancel();
    }
}

fn refused(error: &Error) -> v1::ServerFrame {
    v1::ServerFrame { refused: Some(wire::error_to_detail(error)), ..v1::ServerFrame::default() }
}

/// Writes one frame by itself.
///
/// # Errors
/// `PROTOCOL_INVALID` when the connection broke.
pub(crate) async fn send_one<W: AsyncWrite + Unpin>(
    write: &mut W,
    frame: &v1::ServerFrame,
) -> Result<()> {
    let mut buffer = BytesMut::new();
    frame::encode(FrameKind::Server, frame, &mut buffer)?;
    let written = async {
        write.write_all(&buffer).await?;
        write.flush().await
    };
    written.await.map_err(|e| {
        Error::new(flexfs_common::Code::ProtocolInvalid, "the connection broke").caused_by(e)
    })
}

/// Writes frames until the queue ends; several that wait go out together.
async fn write_all<W: AsyncWrite + Unpin>(
    mut write: W,
    mut queue: mpsc::Receiver<v1::ServerFrame>,
    broken: CancellationToken,
) {
    let _guard = broken.clone().drop_guard();
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            if let Err(error) = frame::encode(FrameKind::Server, &frame, &mut buffer) {
                tracing::error!(error = %error.with_causes(), "a frame to a mount");
                return;
            }
            next = if buffer.len() < WRITE_GATHER { queue.try_recv().ok() } else { None };
        }
        let written = async {
            write.write_all(&buffer).await?;
            write.flush().await
        };
        tokio::select! {
            () = broken.cancelled() => return,
            // A client that takes nothing for a whole lease is gone.
            written = tokio::time::timeout(limits::LEASE, written) => {
                if !matches!(written, Ok(Ok(()))) {
                    return;
                }
            }
        }
        buffer.clear();
    }
    let _ = tokio::time::timeout(FAREWELL, write.shutdown()).await;
}

#[cfg(test)]
mod tests;
