//! Extended attributes (xattr(7)). Access control lists are two of them.

use bytes::Bytes;
use flexfs_common::limits::{XATTR_LIST_MAX_LEN, XATTR_NAME_MAX_LEN, XATTR_VALUE_MAX_LEN};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::acl::is_list;
use super::{FileSystem, reply};
use crate::caller::Requester;

impl FileSystem {
    /// The value. Size probing is the kernel interface's business.
    ///
    /// # Errors
    /// `FS_NO_ATTRIBUTE`, and meta's.
    pub async fn getxattr(&self, who: Requester, ino: u64, name: &[u8]) -> Result<Bytes> {
        self.check_xattr(name)?;
        if is_list(name) {
            return self.get_list(who, ino, name).await;
        }
        if self.is_held_back(ino) {
            return Err(Code::FsNoAttribute.into());
        }
        self.ask_xattr(who, ino, name).await
    }

    /// Asks meta for a value.
    pub(super) async fn ask_xattr(&self, who: Requester, ino: u64, name: &[u8]) -> Result<Bytes> {
        self.report_made(ino).await?;
        let handle = self.inodes.handle(ino)?.to_vec();
        let body = Body::GetXattr(v1::GetXattr { handle, name: name.to_vec() });
        reply::bytes(self.call(who, 0, body).await?)
    }

    /// `flags` are XATTR_CREATE, XATTR_REPLACE of setxattr(2).
    ///
    /// # Errors
    /// `FS_EXISTS`, `FS_NO_ATTRIBUTE`, `FS_RANGE`, as [`FileSystem::getxattr`].
    pub async fn setxattr(
        &self,
        who: Requester,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.check_xattr(name)?;
        if value.len() > XATTR_VALUE_MAX_LEN {
            return Err(Error::bare(Code::FsRange));
        }
        self.report_for_xattr(ino).await?;
        let handle = self.inodes.handle(ino)?.to_vec();
        let _change = self.freshness.change(&[ino]);
        let body = Body::SetXattr(v1::SetXattr {
            handle,
            name: name.to_vec(),
            value: value.to_vec(),
            flags,
        });
        self.call(who, 0, body).await.map(reply::done)?;
        if is_list(name) {
            self.list_changed(ino);
        }
        Ok(())
    }

    /// All names, each followed by a NUL byte (listxattr(2)).
    ///
    /// # Errors
    /// As [`FileSystem::getxattr`].
    pub async fn listxattr(&self, who: Requester, ino: u64) -> Result<Vec<u8>> {
        self.report_made(ino).await?;
        let handle = self.inodes.handle(ino)?.to_vec();
        let body = Body::ListXattr(v1::ListXattr { handle });
        let mut list = Vec::new();
        for name in reply::names(self.call(who, 0, body).await?)? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        if list.len() > XATTR_LIST_MAX_LEN {
            return Err(Error::bare(Code::FsRange));
        }
        Ok(list)
    }

    /// # Errors
    /// As [`FileSystem::getxattr`].
    pub async fn removexattr(&self, who: Requester, ino: u64, name: &[u8]) -> Result<()> {
        self.check_xattr(name)?;
        self.report_for_xattr(ino).await?;
        let handle = self.inodes.handle(ino)?.to_vec();
        let _change = self.freshness.change(&[ino]);
        let body = Body::RemoveXattr(v1::RemoveXattr { handle, name: name.to_vec() });
        self.call(who, 0, body).await.map(reply::done)?;
        if is_list(name) {
            self.list_changed(ino);
        }
        Ok(())
    }

    /// An attribute of an inode, which may be an access control list, is about
    /// to change.
    async fn report_for_xattr(&self, ino: u64) -> Result<()> {
        self.report_made(ino).await?;
        self.report_made_in(ino).await?;
        self.whole.changing(ino);
        self.whole.stop_making(ino);
        Ok(())
    }

    /// Had the volume any, or access control lists, when it was mounted? Asked
    /// before the operations above: the kernel is told once and does not ask
    /// again. What changes later, meta answers.
    #[must_use]
    pub fn serves_xattrs(&self) -> bool {
        !self.session.opened().flags.is_some_and(|flags| flags.no_xattr && flags.no_acl)
    }

    /// Refuses what need not be asked for.
    fn check_xattr(&self, name: &[u8]) -> Result<()> {
        if name.len() > XATTR_NAME_MAX_LEN {
            return Err(Error::bare(Code::FsRange));
        }
        if self.session.flags().no_xattr && !is_list(name) {
            return Err(Error::bare(Code::FsUnsupported));
        }
        Ok(())
    }
}
