//! Operation → file system → answer.

use std::sync::Arc;

use flexfs_common::{Code, Error, Result};

use super::abi;
use super::answer::Answer;
use super::encode::{Body, DirBuffer};
use super::operation::{AttrOp, DirOp, FileOp, LockOp, NameOp, Operation, XattrOp};
use super::parse::Header;
use crate::fs::{Attributes, Created, FileSystem, Found, OpenMode, Opened};

/// Carries out what waits for an answer.
pub(super) async fn run(
    fs: &Arc<FileSystem>,
    header: Header,
    operation: Operation,
) -> Result<Answer> {
    let outcome = match operation {
        Operation::Name(op) => name(fs, header, op).await,
        Operation::Attr(op) => attr(fs, header, op).await,
        Operation::File(op) => file(fs, header, op).await,
        Operation::Dir(op) => dir(fs, header, op).await,
        Operation::Xattr(op) => xattr(fs, header, op).await,
        Operation::Lock(op) => lock(fs, header, op).await,
        // Answered before it comes here.
        Operation::Forget(_)
        | Operation::Interrupt(_)
        | Operation::Destroy
        | Operation::Ioctl
        | Operation::Unknown => Err(Code::Unsupported.into()),
    };
    // After a cut every call fails with its reason (P1), whatever it ran into
    // while the session ended around it.
    outcome.map_err(|error| fs.session().end_error().unwrap_or(error))
}

async fn name(fs: &FileSystem, header: Header, op: NameOp) -> Result<Answer> {
    let Header { who, node, .. } = header;
    match op {
        NameOp::Lookup(name) => fs.lookup(who, node, &name).await.map(|found| match found {
            Found::There(told) => entry(&told),
            Found::Absent(kept) => {
                let mut body = Body::default();
                body.absent(kept);
                Answer::promising(body)
            }
        }),
        NameOp::Make(name, request) => {
            fs.make(who, node, &name, request).await.map(|told| entry(&told))
        }
        NameOp::Create(name, request, flags) => {
            fs.create(who, node, &name, request, flags).await.map(|made| created(&made))
        }
        NameOp::CreateNameless(request, flags) => {
            fs.create_nameless(who, node, request, flags).await.map(|made| created(&made))
        }
        NameOp::Unlink(name, directory) => {
            fs.unlink(who, node, &name, directory).await.map(|()| Answer::empty())
        }
        NameOp::Link(ino, name) => fs.link(who, ino, node, &name).await.map(|told| entry(&told)),
        NameOp::Rename { name, new_parent, new_name, flags } => fs
            .rename(who, (node, &name), (new_parent, &new_name), flags)
            .await
            .map(|()| Answer::empty()),
        NameOp::ReadLink => fs.readlink(who, node).await.map(Answer::body),
    }
}

fn entry(told: &Attributes) -> Answer {
    let mut body = Body::default();
    body.entry(told);
    Answer { told: vec![told.attr.ino], ..Answer::promising(body) }
}

fn created(made: &Created) -> Answer {
    let mut body = Body::default();
    body.entry(&made.found);
    body.open_out(made.opened.fh, open_flags(made.opened));
    Answer {
        told: vec![made.found.attr.ino],
        opened: Some(made.opened.fh),
        ..Answer::promising(body)
    }
}

fn open_flags(opened: Opened) -> u32 {
    match opened.mode {
        OpenMode::Fresh => 0,
        OpenMode::KeepCache => abi::FOPEN_KEEP_CACHE,
        OpenMode::Direct => abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES,
    }
}

async fn attr(fs: &FileSystem, header: Header, op: AttrOp) -> Result<Answer> {
    let Header { who, node, .. } = header;
    let mut body = Body::default();
    match op {
        AttrOp::Get(fh) => {
            body.attr_out(&fs.getattr(who, node, fh).await?);
        }
        AttrOp::Statx(fh) => {
            body.statx_out(&fs.getattr(who, node, fh).await?);
        }
        AttrOp::Set(request) => {
            body.attr_out(&fs.setattr(who, node, request).await?);
        }
        AttrOp::Access(mask) => fs.access(who, node, mask).await?,
        AttrOp::StatFs => {
            body.statfs_out(&fs.statfs(who, node).await?);
        }
    }
    Ok(Answer::promising(body))
}

async fn file(fs: &FileSystem, header: Header, op: FileOp) -> Result<Answer> {
    let Header { who, node, .. } = header;
    match op {
        FileOp::Open(flags) => {
            let opened = fs.open(who, node, flags).await?;
            let mut body = Body::default();
            body.open_out(opened.fh, open_flags(opened));
            Ok(Answer { opened: Some(opened.fh), ..Answer::body(body.finish()) })
        }
        FileOp::Read { fh, offset, size } => {
            fs.read(fh, offset, size.min(abi::MAX_WRITE)).await.map(Answer::body)
        }
        FileOp::Write(request) => {
            let written = fs.write(who, request).await?;
            let mut body = Body::default();
            body.u32(written).u32(0);
            Ok(Answer::body(body.finish()))
        }
        FileOp::Flush { fh, lock_owner } => {
            fs.flush(who, fh, lock_owner).await.map(|()| Answer::empty())
        }
        FileOp::Release { fh, flock_owner } => {
            fs.release(fh, flock_owner).await;
            Ok(Answer::empty())
        }
        FileOp::Fsync(fh) => fs.fsync(who, fh).await.map(|()| Answer::empty()),
        FileOp::Fallocate { fh, mode, offset, length } => {
            fs.fallocate(who, fh, mode, offset, length).await.map(|()| Answer::empty())
        }
        FileOp::Lseek { fh, offset, whence } => {
            let found = fs.lseek(who, fh, offset, whence).await?;
            let mut body = Body::default();
            body.u64(found);
            Ok(Answer::body(body.finish()))
        }
    }
}

async fn dir(fs: &FileSystem, header: Header, op: DirOp) -> Result<Answer> {
    let Header { who, node, .. } = header;
    match op {
        DirOp::Open => {
            let fh = fs.opendir(who, node).await?;
            let mut body = Body::default();
            body.open_out(fh, 0);
            Ok(Answer { opened_dir: Some(fh), ..Answer::body(body.finish()) })
        }
        DirOp::Read { fh, offset, size, plus } => {
            let mut buffer = Told { fs, buffer: Some(DirBuffer::new(size, plus)) };
            if let Some(sink) = buffer.buffer.as_mut() {
                fs.readdir(who, fh, offset, plus, sink).await?;
            }
            let (body, told) = buffer.buffer.take().map(DirBuffer::finish).unwrap_or_default();
            Ok(Answer { told, ..Answer::promising(body) })
        }
        DirOp::Release(fh) => fs.releasedir(fh).map(|()| Answer::empty()),
        DirOp::Fsync => fs.fsyncdir(who).await.map(|()| Answer::empty()),
    }
}

/// Entries counted as told; forgotten again when the request fails or is
/// given up half-way.
struct Told<'a> {
    fs: &'a FileSystem,
    buffer: Option<DirBuffer>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        for ino in self.buffer.take().map(|buffer| buffer.told).unwrap_or_default() {
            self.fs.forget(ino, 1);
        }
    }
}

async fn xattr(fs: &FileSystem, header: Header, op: XattrOp) -> Result<Answer> {
    let Header { who, node, .. } = header;
    match op {
        XattrOp::Get { name, size } => sized(&fs.getxattr(who, node, &name).await?, size),
        XattrOp::List { size } => sized(&fs.listxattr(who, node).await?, size),
        XattrOp::Set { name, value, flags } => {
            fs.setxattr(who, node, &name, &value, flags).await.map(|()| Answer::empty())
        }
        XattrOp::Remove(name) => fs.removexattr(who, node, &name).await.map(|()| Answer::empty()),
    }
}

/// getxattr(2), listxattr(2): size 0 asks how much room is needed.
fn sized(value: &[u8], size: u32) -> Result<Answer> {
    let len = u32::try_from(value.len()).map_err(|_| Error::bare(Code::FsRange))?;
    if size == 0 {
        let mut body = Body::default();
        body.u32(len).u32(0);
        return Ok(Answer::body(body.finish()));
    }
    if len > size {
        return Err(Code::FsRange.into());
    }
    Ok(Answer::body(value.to_vec()))
}

async fn lock(fs: &FileSystem, header: Header, op: LockOp) -> Result<Answer> {
    match op {
        LockOp::Get { fh, lock } => {
            let found = fs.getlk(header.who, fh, lock).await?;
            let mut body = Body::default();
            body.lock_out(&found);
            Ok(Answer::body(body.finish()))
        }
        LockOp::Set { fh, lock, wait } => {
            fs.setlk(header.who, fh, lock, wait).await.map(|()| Answer::empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_values_are_probed_and_bounded() {
        assert_eq!(sized(b"abc", 0).unwrap().body[..4], 3_u32.to_ne_bytes());
        assert_eq!(sized(b"abc", 3).unwrap().body, "abc");
        assert_eq!(sized(b"abc", 2).unwrap_err().code(), Code::FsRange);
        assert_eq!(sized(b"", 10).unwrap().body, "");
    }
}
