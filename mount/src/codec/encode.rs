//! Plain bytes → object.

use bytes::{BufMut, Bytes, BytesMut};
use flexfs_common::{Code, Error, Result};

use super::{
    COMPRESSED, CRC_AT, Codec, FORMAT_VERSION, FRAME_LEN, MAGIC, PLAIN_MAX, SALT_LEN, head_len,
    stored_max,
};

/// Fast, and still a third better than lz4 on text.
const ZSTD_LEVEL: i32 = 1;
/// A probe that saves less than 1/16 is not worth the reader's time.
const WORTH_SHIFT: usize = 4;

/// Encodes one object. CPU-bound: some milliseconds for a block.
///
/// # Errors
/// `INTERNAL` when it is longer than a block may be or the system gives no
/// random numbers.
pub fn encode(plain: &[u8], codec: Codec) -> Result<Bytes> {
    let plain_len = u32::try_from(plain.len()).ok().filter(|len| *len <= PLAIN_MAX);
    let Some(plain_len) = plain_len else {
        return Err(Error::new(Code::Internal, format!("an object of {} bytes", plain.len())));
    };
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt)
        .map_err(|e| Error::new(Code::Internal, "no random numbers").caused_by(e))?;
    let mut compressor = Compressor::new(codec)?;
    if !worth_compressing(plain, &mut compressor)? {
        compressor = Compressor::None;
    }
    let mut head = header(codec, plain_len, &salt);
    let mut out = BytesMut::with_capacity(stored_max(plain_len));
    // The head is written last, over these zeros.
    out.put_bytes(0, head_len(plain_len));
    for frame in plain.chunks(FRAME_LEN) {
        let packed = compressor.compress(frame)?;
        let (stored, flag) = match packed {
            Some(packed) if packed.len() < frame.len() => (packed, COMPRESSED),
            _ => (frame, 0),
        };
        let length = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        head.put_u32_le(length | flag);
        head.put_u32_le(crc32c::crc32c(stored));
        out.extend_from_slice(stored);
    }
    let crc = crc32c::crc32c(&head);
    if let Some(place) = head.get_mut(CRC_AT) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    match out.get_mut(..head.len()) {
        Some(place) if head.len() == head_len(plain_len) => place.copy_from_slice(&head),
        _ => return Err(Error::new(Code::Internal, "a head of another length")),
    }
    Ok(out.freeze())
}

fn header(codec: Codec, plain_len: u32, salt: &[u8; SALT_LEN]) -> Vec<u8> {
    let mut head = Vec::with_capacity(head_len(plain_len));
    head.put_slice(&MAGIC);
    head.put_u8(FORMAT_VERSION);
    head.put_u8(codec.number());
    head.put_u16_le(0);
    // Key id 0: not encrypted.
    head.put_u32_le(0);
    head.put_u32_le(u32::try_from(FRAME_LEN).unwrap_or(u32::MAX));
    head.put_u32_le(plain_len);
    head.put_u32_le(0);
    head.put_slice(salt);
    head
}

/// Looks at the first frame, and when that does not shrink at one in the
/// middle: data that is compressed already costs two frames of work.
fn worth_compressing(plain: &[u8], compressor: &mut Compressor) -> Result<bool> {
    let frames = plain.len().div_ceil(FRAME_LEN);
    for index in [0, frames / 2] {
        let Some(frame) = plain.chunks(FRAME_LEN).nth(index) else { continue };
        let Some(packed) = compressor.compress(frame)? else { return Ok(false) };
        if packed.len() + (frame.len() >> WORTH_SHIFT) <= frame.len() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A compressor with its own room, used for all frames of an object.
enum Compressor {
    None,
    Lz4(Vec<u8>),
    Zstd(Box<zstd::bulk::Compressor<'static>>, Vec<u8>),
}

impl Compressor {
    fn new(codec: Codec) -> Result<Compressor> {
        Ok(match codec {
            Codec::None => Compressor::None,
            Codec::Lz4 => {
                Compressor::Lz4(vec![0; lz4_flex::block::get_maximum_output_size(FRAME_LEN)])
            }
            Codec::Zstd => {
                let inner = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?;
                Compressor::Zstd(
                    Box::new(inner),
                    Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_LEN)),
                )
            }
        })
    }

    /// `None` when nothing is compressed here.
    fn compress(&mut self, frame: &[u8]) -> Result<Option<&[u8]>> {
        match self {
            Compressor::None => Ok(None),
            Compressor::Lz4(room) => {
                let length = lz4_flex::block::compress_into(frame, room).map_err(failed)?;
                Ok(room.get(..length))
            }
            Compressor::Zstd(inner, room) => {
                room.clear();
                inner.compress_to_buffer(frame, room).map_err(failed)?;
                Ok(Some(room))
            }
        }
    }
}

fn failed(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::Internal, "compression failed").caused_by(cause)
}
