//! The file: a magic number and a version, then chunks, each with a checksum,
//! the last one with a digest of everything before it.
//!
//! A checksum finds damage, not malice: whoever can write the file can make
//! it say anything.

use std::io::{ErrorKind, Read, Write};

use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use prost::Message;

use super::{failed, invalid};
use crate::engine::{KEY_MAX_LEN, VALUE_MAX_LEN};

/// First bytes of every backup.
const MAGIC: [u8; 8] = *b"flexfsMB";
/// The version that this build writes, and the only one it reads.
const VERSION: u32 = 1;
/// A chunk of rows is written when it has come to this many bytes.
const CHUNK_LEN: usize = 256 * 1024;
/// No chunk is longer, in bytes.
const CHUNK_MAX: usize = CHUNK_LEN + 8 + KEY_MAX_LEN + VALUE_MAX_LEN;
/// Kind and length before the body of a chunk.
const HEAD_LEN: usize = 5;

/// The first chunk: what this is a backup of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    /// Commit time of the engine in nanoseconds since 1970: nothing that
    /// follows has a later one.
    #[prost(int64, tag = "1")]
    pub(super) made_at: i64,
    /// Version of the program that wrote it.
    #[prost(string, tag = "2")]
    pub(super) program: String,
}

/// The rows of a volume follow.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VolumeHead {
    /// What admin said of it last.
    #[prost(message, optional, tag = "1")]
    pub(super) placed: Option<v1::PlacedVolume>,
}

/// The last chunk.
#[derive(Clone, PartialEq, Message)]
pub(super) struct End {
    #[prost(uint64, tag = "1")]
    pub(super) volumes: u64,
    #[prost(uint64, tag = "2")]
    pub(super) rows: u64,
    /// BLAKE3 of everything before this chunk.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) digest: Vec<u8>,
}

/// A part of a backup. The numbers of the kinds are the format.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Chunk {
    /// 1.
    Header(Header),
    /// 2: ids of revoked tokens, 16 bytes each.
    Revoked(Vec<u8>),
    /// 3.
    Volume(Box<VolumeHead>),
    /// 4: rows, see [`Rows`].
    Rows(Vec<u8>),
    /// 5.
    End(End),
}

/// Writes a backup.
pub(super) struct Writer<'w> {
    out: &'w mut dyn Write,
    digest: blake3::Hasher,
    rows: Vec<u8>,
}

impl<'w> Writer<'w> {
    pub(super) fn new(out: &'w mut dyn Write) -> Result<Writer<'w>> {
        let mut writer = Writer { out, digest: blake3::Hasher::new(), rows: Vec::new() };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_be_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes).map_err(failed("writing the backup failed"))
    }

    fn body(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let len = u32::try_from(body.len()).map_err(|_| Error::bare(Code::Internal))?;
        let head = [&[kind][..], &len.to_be_bytes()].concat();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head), body);
        self.put(&head)?;
        self.put(body)?;
        self.put(&sum.to_be_bytes())
    }

    /// Writes a chunk, and the rows before it.
    pub(super) fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        self.flush_rows()?;
        match chunk {
            Chunk::Header(header) => self.body(1, &header.encode_to_vec()),
            Chunk::Revoked(ids) => self.body(2, ids),
            Chunk::Volume(head) => self.body(3, &head.encode_to_vec()),
            Chunk::Rows(rows) => self.body(4, rows),
            Chunk::End(end) => self.body(5, &end.encode_to_vec()),
        }
    }

    /// Adds a row of the present volume.
    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        for part in [key, value] {
            let len = u32::try_from(part.len()).map_err(|_| Error::bare(Code::Internal))?;
            self.rows.extend_from_slice(&len.to_be_bytes());
            self.rows.extend_from_slice(part);
        }
        if self.rows.len() >= CHUNK_LEN { self.flush_rows() } else { Ok(()) }
    }

    fn flush_rows(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.rows);
        self.body(4, &rows)?;
        rows.clear();
        self.rows = rows;
        Ok(())
    }

    /// Writes the last chunk.
    pub(super) fn end(mut self, volumes: u64, rows: u64) -> Result<()> {
        self.flush_rows()?;
        let digest = self.digest.finalize().as_bytes().to_vec();
        self.chunk(&Chunk::End(End { volumes, rows, digest }))?;
        self.out.flush().map_err(failed("writing the backup failed"))
    }
}

/// Reads a backup, and checks it as it goes.
pub(super) struct Reader<'r> {
    from: &'r mut dyn Read,
    digest: blake3::Hasher,
    ended: bool,
}

impl<'r> Reader<'r> {
    /// # Errors
    /// `BACKUP_INVALID` when it is none, `FORMAT_UNSUPPORTED` for another
    /// version, `BACKUP_FAILED`.
    pub(super) fn new(from: &'r mut dyn Read) -> Result<Reader<'r>> {
        let mut reader = Reader { from, digest: blake3::Hasher::new(), ended: false };
        let mut magic = [0; 8];
        reader.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(invalid("this is not a backup of a metadata store"));
        }
        let mut version = [0; 4];
        reader.fill(&mut version)?;
        if version != VERSION.to_be_bytes() {
            let found = u32::from_be_bytes(version);
            return Err(Error::new(
                Code::FormatUnsupported,
                format!("the backup is of format {found}; this version reads {VERSION}"),
            ));
        }
        reader.digest.update(&magic).update(&version);
        Ok(reader)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.from.read_exact(into).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => invalid("the backup is cut short"),
            _ => failed("reading the backup failed")(e),
        })
    }

    /// The next chunk; `None` after the end.
    ///
    /// # Errors
    /// `BACKUP_INVALID`, `BACKUP_FAILED`.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>> {
        if self.ended {
            return Ok(None);
        }
        let mut head = [0; HEAD_LEN];
        self.fill(&mut head)?;
        let [kind, len @ ..] = head;
        let len = u32::from_be_bytes(len) as usize;
        if len > CHUNK_MAX {
            return Err(invalid("a chunk of the backup is damaged"));
        }
        let mut body = vec![0; len];
        self.fill(&mut body)?;
        let mut sum = [0; 4];
        self.fill(&mut sum)?;
        if crc32c::crc32c_append(crc32c::crc32c(&head), &body).to_be_bytes() != sum {
            return Err(invalid("a chunk of the backup is damaged"));
        }
        let before = self.digest.finalize();
        self.digest.update(&head).update(&body).update(&sum);
        let chunk = parse(kind, body)?;
        if let Chunk::End(end) = &chunk {
            self.check_end(end, &before)?;
        }
        Ok(Some(chunk))
    }

    fn check_end(&mut self, end: &End, before: &blake3::Hash) -> Result<()> {
        self.ended = true;
        if end.digest != before.as_bytes() {
            return Err(invalid("the parts of the backup do not belong together"));
        }
        match self.from.read(&mut [0]).map_err(failed("reading the backup failed"))? {
            0 => Ok(()),
            _ => Err(invalid("something follows the end of the backup")),
        }
    }
}

fn parse(kind: u8, body: Vec<u8>) -> Result<Chunk> {
    let damaged = |_: prost::DecodeError| invalid("a chunk of the backup is damaged");
    Ok(match kind {
        1 => Chunk::Header(Header::decode(&body[..]).map_err(damaged)?),
        2 => Chunk::Revoked(body),
        3 => Chunk::Volume(Box::new(VolumeHead::decode(&body[..]).map_err(damaged)?)),
        4 => Chunk::Rows(body),
        5 => Chunk::End(End::decode(&body[..]).map_err(damaged)?),
        _ => return Err(invalid("the backup has a chunk of an unknown kind")),
    })
}

/// The rows of a chunk.
pub(super) struct Rows<'r>(pub(super) &'r [u8]);

impl<'r> Rows<'r> {
    fn part(&mut self, max: usize) -> Result<&'r [u8]> {
        let damaged = || invalid("a row of the backup is damaged");
        let (len, rest) = self.0.split_first_chunk::<4>().ok_or_else(damaged)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (part, rest) = rest.split_at_checked(len).ok_or_else(damaged)?;
        if len > max {
            return Err(damaged());
        }
        self.0 = rest;
        Ok(part)
    }

    /// The next key and value.
    pub(super) fn next(&mut self) -> Result<Option<(&'r [u8], &'r [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        Ok(Some((self.part(KEY_MAX_LEN)?, self.part(VALUE_MAX_LEN)?)))
    }
}
