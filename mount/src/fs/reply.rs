//! Meta's replies, checked: another kind of result than the one asked for is
//! a broken peer, never a panic.

use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::reply::Result as Got;

/// A reply that does not fit the request.
pub(super) fn unexpected() -> Error {
    Error::new(Code::ProtocolInvalid, "meta's reply does not fit the request")
}

/// An entry with its attributes.
pub(super) fn entry(got: Got) -> Result<(v1::Entry, v1::Attr)> {
    match got {
        Got::Entry(mut entry) => {
            let attr = entry.attr.take().ok_or_else(unexpected)?;
            check_attr(&attr)?;
            Ok((entry, attr))
        }
        _ => Err(unexpected()),
    }
}

pub(super) fn attr(got: Got) -> Result<v1::Attr> {
    match got {
        Got::Attr(attr) => check_attr(&attr).map(|()| attr),
        _ => Err(unexpected()),
    }
}

pub(super) fn opened(got: Got) -> Result<(u64, v1::Attr)> {
    match got {
        Got::Opened(opened) => {
            let attr = opened.attr.ok_or_else(unexpected)?;
            check_attr(&attr)?;
            Ok((opened.open_id, attr))
        }
        _ => Err(unexpected()),
    }
}

pub(super) fn dir_page(got: Got) -> Result<v1::DirPage> {
    match got {
        Got::DirPage(page) => Ok(page),
        _ => Err(unexpected()),
    }
}

pub(super) fn bytes(got: Got) -> Result<bytes::Bytes> {
    match got {
        Got::BytesValue(value) => Ok(value.value),
        _ => Err(unexpected()),
    }
}

pub(super) fn names(got: Got) -> Result<Vec<Vec<u8>>> {
    match got {
        Got::Names(list) => Ok(list.names),
        _ => Err(unexpected()),
    }
}

pub(super) fn stat_fs(got: Got) -> Result<v1::StatFsResult> {
    match got {
        Got::StatFs(result) => Ok(result),
        _ => Err(unexpected()),
    }
}

pub(super) fn lock(got: Got) -> Result<v1::LockState> {
    match got {
        Got::Lock(lock) => Ok(lock),
        _ => Err(unexpected()),
    }
}

/// Operations whose only answer is that they were done.
pub(super) fn done(_: Got) {}

/// Inode 0 is no inode to the kernel, and a type is needed.
pub(super) fn check_attr(attr: &v1::Attr) -> Result<()> {
    if attr.ino == 0 || attr.kind() == v1::FileKind::Unspecified {
        return Err(unexpected());
    }
    Ok(())
}
