//! The frame around every message between mount and meta:
//!
//! ```text
//! 0..4  length of the payload in bytes, big-endian, <= OPS_FRAME_MAX_LEN
//! 4     version of this header: 1
//! 5     kind: 1 = ClientFrame, 2 = ServerFrame
//! 6..8  reserved, zero
//! 8..   the payload, one prost message
//! ```
//!
//! Without TLS (`--noSSL`) a client first sends [`PREFACE`], so that the
//! server can tell it from HTTP.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Code, Error, Result, limits};

/// ALPN protocol id of operations (RFC 7301).
pub const ALPN: &[u8] = b"flexfs-ops/1";
/// First bytes of a connection without TLS.
pub const PREFACE: &[u8; 8] = b"FLEXOPS1";
/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
const VERSION: u8 = 1;

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// From the mount.
    Client = 1,
    /// From meta.
    Server = 2,
}

/// Appends one frame to `out`.
///
/// # Errors
/// `PROTOCOL_INVALID` when the message is longer than a frame may be.
pub fn encode<M: Message>(kind: FrameKind, message: &M, out: &mut BytesMut) -> Result<()> {
    let len = message.encoded_len();
    let wire_len = u32::try_from(len).ok().filter(|len| *len <= limits::OPS_FRAME_MAX_LEN);
    let Some(wire_len) = wire_len else {
        return Err(Error::new(Code::ProtocolInvalid, format!("a frame of {len} bytes")));
    };
    out.reserve(HEADER_LEN + len);
    out.put_u32(wire_len);
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u16(0);
    message
        .encode(out)
        .map_err(|e| Error::new(Code::Internal, "a frame cannot be encoded").caused_by(e))
}

/// Reads frames from a stream through one buffer.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    kind: FrameKind,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of frames of the other side's kind.
    pub fn new(stream: R, kind: FrameKind) -> FrameReader<R> {
        FrameReader { stream, buffer: BytesMut::with_capacity(64 * 1024), kind }
    }

    /// The next message; `None` when the other side has closed between two
    /// frames. Cancel-safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// `PROTOCOL_INVALID` for anything that is not such a frame, and the
    /// stream's own errors as `PROTOCOL_INVALID` with their source.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>> {
        let Some(payload) = self.next_payload().await? else { return Ok(None) };
        M::decode(payload)
            .map(Some)
            .map_err(|e| Error::new(Code::ProtocolInvalid, "a frame's message").caused_by(e))
    }

    async fn next_payload(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.take_buffered()? {
                return Ok(Some(payload));
            }
            let count = self.stream.read_buf(&mut self.buffer).await.map_err(|e| {
                Error::new(Code::ProtocolInvalid, "the connection broke").caused_by(e)
            })?;
            if count == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Error::new(Code::ProtocolInvalid, "the connection ended in a frame"));
            }
        }
    }

    fn take_buffered(&mut self) -> Result<Option<Bytes>> {
        let Some((mut header, _)) = self.buffer.split_at_checked(HEADER_LEN) else {
            return Ok(None);
        };
        let len = header.get_u32();
        let (version, kind, reserved) = (header.get_u8(), header.get_u8(), header.get_u16());
        if version != VERSION || kind != self.kind as u8 || reserved != 0 {
            return Err(Error::new(Code::ProtocolInvalid, "not a frame of this protocol"));
        }
        if len > limits::OPS_FRAME_MAX_LEN {
            return Err(Error::new(Code::ProtocolInvalid, format!("a frame of {len} bytes")));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if self.buffer.len() < HEADER_LEN + len {
            self.buffer.reserve(HEADER_LEN + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use flexfs_proto::v1::{ClientFrame, Heartbeat};

    use super::*;

    fn heartbeat(number: u64) -> ClientFrame {
        ClientFrame { heartbeat: Some(Heartbeat { number }), ..ClientFrame::default() }
    }

    #[tokio::test]
    async fn frames_come_back_one_by_one() {
        let mut bytes = BytesMut::new();
        for number in 0..3 {
            encode(FrameKind::Client, &heartbeat(number), &mut bytes).unwrap();
        }
        let mut reader = FrameReader::new(&bytes[..], FrameKind::Client);
        for number in 0..3 {
            let frame: ClientFrame = reader.next().await.unwrap().unwrap();
            assert_eq!(frame, heartbeat(number));
        }
        assert!(reader.next::<ClientFrame>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn junk_is_refused_before_it_allocates() {
        for junk in [
            &[0xff, 0xff, 0xff, 0xff, 1, 1, 0, 0][..],
            &[0, 0, 0, 0, 9, 1, 0, 0],
            &[0, 0, 0, 0, 1, 2, 0, 0],
            &[0, 0, 0, 0, 1, 1, 0, 1],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0, 0, 0, 9, 1, 1, 0, 0, 1],
        ] {
            let mut reader = FrameReader::new(junk, FrameKind::Client);
            let error = reader.next::<ClientFrame>().await.unwrap_err();
            assert_eq!(error.code(), Code::ProtocolInvalid);
        }
    }
}
