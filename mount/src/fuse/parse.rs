//! Requests of the kernel, as bytes in the machine's byte order → values.

use crate::caller::Requester;
use crate::fuse::abi;

/// The kernel said something this protocol does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// `fuse_in_header`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) who: Requester,
}

/// Takes values from the front of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*head))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*head))
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.0 = self.0.get(bytes..).ok_or(Malformed)?;
        Ok(())
    }

    /// Bytes up to a NUL, which is taken too.
    pub(super) fn name(&mut self) -> Result<Vec<u8>, Malformed> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Malformed)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(name.to_vec())
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
}

/// Splits a request into its header and what follows.
pub(super) fn header(request: &[u8]) -> Result<(Header, Fields<'_>), Malformed> {
    let mut fields = Fields(request);
    let len = usize::try_from(fields.u32()?).map_err(|_| Malformed)?;
    if len != request.len() || len < abi::IN_HEADER {
        return Err(Malformed);
    }
    let opcode = fields.u32()?;
    let unique = fields.u64()?;
    let node = fields.u64()?;
    let who = Requester { uid: fields.u32()?, gid: fields.u32()?, pid: fields.u32()? };
    // Length of extensions, of which none was asked for.
    fields.skip(4)?;
    Ok((Header { opcode, unique, node, who }, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let mut request = Vec::new();
        for field in [47_u32, abi::op::LOOKUP] {
            request.extend(field.to_ne_bytes());
        }
        for field in [9_u64, 1] {
            request.extend(field.to_ne_bytes());
        }
        for field in [1000_u32, 100, 4242, 0] {
            request.extend(field.to_ne_bytes());
        }
        request.extend(b"ab\0rest");
        let (header, mut fields) = header(&request).unwrap();
        assert_eq!((header.opcode, header.unique, header.node), (1, 9, 1));
        assert_eq!(header.who, Requester { uid: 1000, gid: 100, pid: 4242 });
        assert_eq!(fields.name().unwrap(), b"ab");
        assert_eq!(fields.bytes(4).unwrap(), b"rest");
        assert_eq!(fields.name(), Err(Malformed));
        assert_eq!(fields.u64(), Err(Malformed));
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert!(header(&[]).is_err());
        assert!(header(&[0; 40]).is_err());
        let mut short = vec![0; 44];
        short[..4].copy_from_slice(&40_u32.to_ne_bytes());
        assert!(header(&short).is_err());
    }
}
