//! statfs(2).

use flexfs_common::Result;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;

use super::{FileSystem, reply};
use crate::caller::Requester;

impl FileSystem {
    /// What the scope may see of space and inodes.
    ///
    /// # Errors
    /// Meta's.
    pub async fn statfs(&self, who: Requester, ino: u64) -> Result<v1::StatFsResult> {
        let handle = self.inodes.handle(ino)?.to_vec();
        reply::stat_fs(self.call_open(who, Body::StatFs(v1::StatFs { handle })).await?)
    }
}
