//! open(2) with O_TMPFILE.

use bytes::Bytes;
use flexfs_common::{Code, Error, Result, protocol};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::file::Grant;
use super::name::{Created, MakeRequest};
use super::{FileSystem, reply};
use crate::caller::Requester;

const O_EXCL: u32 = libc::O_EXCL as u32;

impl FileSystem {
    /// Makes and opens a file without a name, which meta keeps as long as it is
    /// open. link(2) may give it one, unless it was opened with O_EXCL. Always
    /// meta's to make, also in a directory in which this mount may make files:
    /// nothing is told of the directory.
    ///
    /// # Errors
    /// `FS_UNSUPPORTED` when this meta knows no such files, and meta's.
    pub async fn create_nameless(
        &self,
        who: Requester,
        dir: u64,
        request: MakeRequest,
        open_flags: u32,
    ) -> Result<Created> {
        if !self.session.has_feature(protocol::NAMELESS) {
            return Err(Error::bare(Code::FsUnsupported));
        }
        let asked = self.ask();
        let body = Body::MakeNameless(v1::MakeNameless {
            parent: self.inodes.handle(dir)?.to_vec(),
            mode: request.mode & 0o7777,
            open_flags,
            linkable: open_flags & O_EXCL == 0,
        });
        let (entry, attr) = reply::entry(self.call(who, request.umask, body).await?)?;
        let handle = Bytes::from(entry.handle);
        let ino = self.inodes.kernel_ino(attr.ino);
        let grant =
            Grant { handle: handle.clone(), open_id: entry.open_id, flags: open_flags, asked };
        let opened = self.register_open(ino, grant, &attr);
        let found = self.told(&handle, attr, asked);
        self.inodes.found(&found.attr, handle, dir);
        self.remember_told(&found);
        Ok(Created { found, opened })
    }
}
