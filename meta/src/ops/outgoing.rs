//! What goes out on a connection. Written by the task that made it: handing
//! frames to another task costs two switches of threads per operation.

use std::time::Duration;

use bytes::BytesMut;
use flexfs_common::frame::{self, FrameKind};
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Room that is kept between frames.
const KEPT: usize = 64 * 1024;

/// The sending half of a connection.
#[derive(Debug)]
pub struct Outgoing<W> {
    write: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    /// Sends on `write`.
    pub fn new(write: W) -> Outgoing<W> {
        Outgoing { write, buffer: BytesMut::with_capacity(KEPT) }
    }

    /// Puts a frame into the buffer, to go out with the next [`Self::flush`].
    ///
    /// # Errors
    /// `INTERNAL` for a frame that is too large.
    pub fn push(&mut self, frame: &v1::ServerFrame) -> Result<()> {
        frame::encode(FrameKind::Server, frame, &mut self.buffer)
    }

    /// Writes what was pushed. Given up half-way, the connection is of no use
    /// any more. A client that takes nothing for a whole lease is gone.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID` when the connection broke.
    pub async fn flush(&mut self) -> Result<()> {
        let written = async {
            self.write.write_all(&self.buffer).await?;
            self.write.flush().await
        };
        let written = tokio::time::timeout(limits::LEASE, written).await;
        self.buffer.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broke().caused_by(error)),
            Err(_) => Err(broke()),
        }
    }

    /// One frame, at once.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn send(&mut self, frame: &v1::ServerFrame) -> Result<()> {
        self.push(frame)?;
        self.flush().await
    }

    /// Says what is to be said last, and ends, within `limit`.
    pub async fn close(mut self, last: Option<&v1::ServerFrame>, limit: Duration) {
        let farewell = async {
            if let Some(last) = last
                && self.send(last).await.is_err()
            {
                return;
            }
            // The other side may be gone already.
            let _ = self.write.shutdown().await;
        };
        let _ = tokio::time::timeout(limit, farewell).await;
    }
}

fn broke() -> Error {
    Error::new(Code::ProtocolInvalid, "the connection broke")
}
