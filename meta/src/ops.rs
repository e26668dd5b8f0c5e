//! The connection of a session: operations, heartbeats, and what the server
//! has to say unasked. Everything from the client is hostile.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::frame::{FrameKind, FrameReader};
use flexfs_common::tls::Stream;
use flexfs_common::turns::Turn;
use flexfs_common::{Error, limits, wire};
use flexfs_proto::v1;

use crate::service::{PeerAddress, Service};
use outgoing::Outgoing;

pub mod connection;
pub mod frames;
pub mod handshake;
pub mod outgoing;
pub mod reauthenticate;

/// Time to take what was written last, when the connection ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one connection to its end. `permit` counts it among the handshakes
/// until it has proven itself.
pub async fn serve(service: Arc<Service>, stream: Stream, address: PeerAddress, permit: Turn) {
    let peer = address.0.to_string();
    let exporter = match stream.exporter() {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(peer, error = %error.with_causes(), "operations connection");
            return;
        }
    };
    let (read, write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, FrameKind::Client);
    let mut outgoing = Outgoing::new(write);
    let greeting = handshake::greet(&service, &mut reader, &mut outgoing, &exporter);
    let attached = match tokio::time::timeout(limits::HANDSHAKE, greeting).await {
        Ok(Ok(attached)) => attached,
        Ok(Err(error)) => {
            tracing::info!(peer, code = %error.code(), error = %error.with_causes(),
                "connection refused");
            outgoing.close(Some(&refused(&error)), FAREWELL).await;
            return;
        }
        Err(_) => return,
    };
    drop(permit);
    let entry = Arc::clone(&attached.entry);
    let link = Arc::clone(&attached.link);
    let outcome = connection::run(&service, &mut reader, &mut outgoing, (attached, address)).await;
    entry.disconnect(&link);
    let last = outcome.err().map(|error| {
        tracing::info!(peer, session = %entry.id, code = %error.code(),
            error = %error.with_causes(), "connection ended");
        refused(&error)
    });
    outgoing.close(last.as_ref(), FAREWELL).await;
}

fn refused(error: &Error) -> v1::ServerFrame {
    v1::ServerFrame { refused: Some(wire::error_to_detail(error)), ..v1::ServerFrame::default() }
}

#[cfg(test)]
mod tests;
