//! Object → plain bytes. Everything here comes from outside: each length is
//! checked before anything is allocated or cut.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use flexfs_common::ids::ObjectId;
use flexfs_common::{Code, Error, Result};

use super::{
    COMPRESSED, CRC_AT, Codec, ENTRY_LEN, FORMAT_VERSION, FRAME_LEN, HEADER_LEN, MAGIC, PLAIN_MAX,
    SALT_LEN, corrupt, frame_count, head_len,
};

/// One frame, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where it begins, from the start of the object.
    pub offset: u64,
    /// Stored bytes.
    pub stored_len: u32,
    /// Plain bytes.
    pub plain_len: u32,
    compressed: bool,
    crc: u32,
}

/// Header and table of one object, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    object: ObjectId,
    codec: Codec,
    plain_len: u32,
    frames: Vec<FrameEntry>,
}

impl ObjectHead {
    /// Parses and verifies header and table at the start of `bytes`;
    /// `plain_len` is what the metadata says of the object.
    ///
    /// # Errors
    /// `BLOCK_CORRUPT`, naming the object; `FORMAT_UNSUPPORTED`.
    pub fn parse(object: ObjectId, bytes: &[u8], plain_len: u32) -> Result<ObjectHead> {
        let codec = check_header(object, bytes, plain_len)?;
        let length = head_len(plain_len);
        let head = bytes.get(..length).ok_or_else(|| corrupt(object, "its table is cut off"))?;
        check_crc(object, head)?;
        let mut table = head.get(HEADER_LEN..).unwrap_or_default();
        let mut frames = Vec::with_capacity(frame_count(plain_len));
        let mut offset = u64::try_from(length).unwrap_or(u64::MAX);
        let mut left = plain_len as usize;
        while table.remaining() >= ENTRY_LEN {
            let (word, crc) = (table.get_u32_le(), table.get_u32_le());
            let (stored_len, compressed) = (word & !COMPRESSED, word & COMPRESSED != 0);
            let plain = left.min(FRAME_LEN);
            left -= plain;
            let stored = stored_len as usize;
            let fits = if compressed {
                stored < plain && codec != Codec::None && stored > 0
            } else {
                stored == plain
            };
            if !fits {
                return Err(corrupt(object, "a frame has a wrong length"));
            }
            let plain_len = u32::try_from(plain).unwrap_or(u32::MAX);
            frames.push(FrameEntry { offset, stored_len, plain_len, compressed, crc });
            offset += u64::from(stored_len);
        }
        Ok(ObjectHead { object, codec, plain_len, frames })
    }

    /// Frames of the object.
    #[must_use]
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// Plain length of the whole object.
    #[must_use]
    pub fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// The error for bytes that are fewer or more than the table says.
    #[must_use]
    pub fn wrong_length(&self) -> Error {
        corrupt(self.object, "it has another length than its table says")
    }

    /// Exact stored length of the whole object.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.frames.last().map_or(head_len(self.plain_len) as u64, |last| {
            last.offset + u64::from(last.stored_len)
        })
    }

    /// Where the stored bytes of these frames lie in the object.
    ///
    /// # Errors
    /// `BLOCK_CORRUPT` when there are no such frames.
    pub fn stored_range(&self, frames: Range<usize>) -> Result<Range<u64>> {
        let missing = || corrupt(self.object, "a frame is missing");
        let wanted = self.frames.get(frames).ok_or_else(missing)?;
        let (first, last) = wanted.first().zip(wanted.last()).ok_or_else(missing)?;
        Ok(first.offset..last.offset + u64::from(last.stored_len))
    }

    /// Decodes consecutive frames from exactly their stored bytes
    /// ([`ObjectHead::stored_range`]).
    ///
    /// # Errors
    /// `BLOCK_CORRUPT`, naming the object.
    pub fn decode_frames(&self, frames: Range<usize>, mut stored: Bytes) -> Result<Vec<Bytes>> {
        let range = self.stored_range(frames.clone())?;
        let expected = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        if stored.len() != expected {
            return Err(self.wrong_length());
        }
        let entries = self.frames.get(frames).unwrap_or_default();
        entries
            .iter()
            .map(|entry| self.decode_frame(entry, stored.split_to(entry.stored_len as usize)))
            .collect()
    }

    /// Decodes a whole object.
    ///
    /// # Errors
    /// As [`ObjectHead::parse`].
    pub fn decode_object(object: ObjectId, bytes: Bytes, plain_len: u32) -> Result<Bytes> {
        let head = ObjectHead::parse(object, &bytes, plain_len)?;
        if bytes.len() as u64 != head.stored_len() {
            return Err(head.wrong_length());
        }
        let count = head.frames.len();
        if count == 0 {
            return Ok(Bytes::new());
        }
        let frames = head.decode_frames(0..count, bytes.slice(head_len(plain_len)..))?;
        let mut plain = BytesMut::with_capacity(plain_len as usize);
        frames.iter().for_each(|frame| plain.extend_from_slice(frame));
        Ok(plain.freeze())
    }

    fn decode_frame(&self, entry: &FrameEntry, stored: Bytes) -> Result<Bytes> {
        if crc32c::crc32c(&stored) != entry.crc {
            return Err(corrupt(self.object, "the checksum of a frame is wrong"));
        }
        if !entry.compressed {
            // A copy of its own, so that one cached frame does not keep a
            // whole received block in memory.
            return Ok(Bytes::copy_from_slice(&stored));
        }
        let mut plain = vec![0; entry.plain_len as usize];
        let length = match self.codec {
            Codec::Lz4 => lz4_flex::block::decompress_into(&stored, &mut plain).ok(),
            Codec::Zstd => zstd::bulk::decompress_to_buffer(&stored, &mut plain).ok(),
            Codec::None => None,
        };
        if length != Some(plain.len()) {
            return Err(corrupt(self.object, "a frame cannot be decompressed"));
        }
        Ok(plain.into())
    }
}

fn check_header(object: ObjectId, bytes: &[u8], plain_len: u32) -> Result<Codec> {
    let mut header =
        bytes.get(..HEADER_LEN).ok_or_else(|| corrupt(object, "its header is cut off"))?;
    let mut magic = [0; MAGIC.len()];
    header.copy_to_slice(&mut magic);
    if magic != MAGIC {
        return Err(corrupt(object, "it is not an object of flexfs"));
    }
    let (version, codec, reserved) = (header.get_u8(), header.get_u8(), header.get_u16_le());
    let (key_id, frame_size) = (header.get_u32_le(), header.get_u32_le());
    let (stated_len, _crc) = (header.get_u32_le(), header.get_u32_le());
    debug_assert_eq!(header.len(), SALT_LEN, "the salt is the rest");
    if plain_len > PLAIN_MAX || stated_len != plain_len {
        return Err(corrupt(object, "it has another length than the metadata says"));
    }
    if reserved != 0 {
        return Err(corrupt(object, "its header is damaged"));
    }
    let codec = match codec {
        0 => Some(Codec::None),
        1 => Some(Codec::Lz4),
        2 => Some(Codec::Zstd),
        _ => None,
    };
    let ours = version == FORMAT_VERSION && key_id == 0 && frame_size as usize == FRAME_LEN;
    match codec {
        Some(codec) if ours => Ok(codec),
        _ => Err(foreign(object, bytes, plain_len)),
    }
}

/// A header of another version, or a damaged one: the checksum, which covers
/// the same bytes in every version, tells them apart.
fn foreign(object: ObjectId, bytes: &[u8], plain_len: u32) -> Error {
    match bytes.get(..head_len(plain_len)).map(|head| check_crc(object, head)) {
        Some(Ok(())) => Error::new(
            Code::FormatUnsupported,
            format!("object {object} was written by another version, or is encrypted"),
        ),
        Some(Err(_)) | None => corrupt(object, "its header is damaged"),
    }
}

fn check_crc(object: ObjectId, head: &[u8]) -> Result<()> {
    let damaged = || corrupt(object, "its header or table is damaged");
    let before = head.get(..CRC_AT.start).ok_or_else(damaged)?;
    let stated = head.get(CRC_AT).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or_else(damaged)?;
    let after = head.get(CRC_AT.end..).ok_or_else(damaged)?;
    let mut crc = crc32c::crc32c(before);
    crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc = crc32c::crc32c_append(crc, after);
    if crc == u32::from_le_bytes(stated) { Ok(()) } else { Err(damaged()) }
}
