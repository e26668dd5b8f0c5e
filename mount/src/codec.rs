//! The form of an object in the block store. No I/O.
//!
//! ```text
//! 0..4     magic "FXOB"
//! 4        format version: 1
//! 5        codec: 0 none, 1 lz4, 2 zstd
//! 6..8     reserved, zero
//! 8..12    key id; 0 = not encrypted
//! 12..16   frame size in plain bytes
//! 16..20   plain length of the whole object
//! 20..24   CRC-32C of header and table, with these four bytes zero
//! 24..56   salt
//! 56..     table: 8 bytes per frame: stored length with the top bit set when
//!          compressed, then CRC-32C of the stored bytes
//! then     the frames, one after another
//! ```
//!
//! Numbers are little-endian. Every frame but the last holds exactly one
//! frame size of plain bytes. A frame that does not shrink is kept as it is.
//! So a small read fetches and verifies a frame, not a block.

use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, limits};

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{FrameEntry, ObjectHead};
pub use encode::encode;

/// Bytes of the header.
pub const HEADER_LEN: usize = 56;
/// Bytes of one frame's entry in the table.
pub const ENTRY_LEN: usize = 8;
const MAGIC: [u8; 4] = *b"FXOB";
const FORMAT_VERSION: u8 = 1;
const SALT_LEN: usize = 32;
const CRC_AT: std::ops::Range<usize> = 20..24;
const COMPRESSED: u32 = 1 << 31;
/// Plain bytes of one frame.
pub const FRAME_LEN: usize = limits::FRAME_SIZE as usize;
/// Largest plain length of an object.
pub const PLAIN_MAX: u32 = limits::BLOCK_SIZE_MAX;

/// How frames are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 blocks.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl Codec {
    /// From a volume's `compression`: `none`, `lz4` or `zstd`.
    ///
    /// # Errors
    /// `FORMAT_UNSUPPORTED`.
    pub fn from_name(name: &str) -> Result<Codec, Error> {
        match name {
            "none" | "" => Ok(Codec::None),
            "lz4" => Ok(Codec::Lz4),
            "zstd" => Ok(Codec::Zstd),
            other => Err(Error::new(
                Code::FormatUnsupported,
                format!("compression `{}`", other.escape_debug()),
            )),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        }
    }
}

/// Frames of an object of this plain length.
#[must_use]
pub const fn frame_count(plain_len: u32) -> usize {
    (plain_len as usize).div_ceil(FRAME_LEN)
}

/// Bytes of header and table of an object of this plain length.
#[must_use]
pub const fn head_len(plain_len: u32) -> usize {
    HEADER_LEN + ENTRY_LEN * frame_count(plain_len)
}

/// Largest stored length of an object of this plain length.
#[must_use]
pub const fn stored_max(plain_len: u32) -> usize {
    head_len(plain_len) + plain_len as usize
}

fn corrupt(object: ObjectId, what: &str) -> Error {
    Error::new(Code::BlockCorrupt, format!("object {object}: {what}"))
}
