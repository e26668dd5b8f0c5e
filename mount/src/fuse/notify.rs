//! Telling the kernel to forget.

use std::sync::Arc;

use super::abi;
use super::device::{Delivery, Device};
use super::encode::Body;
use crate::fs::KernelCaches;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct Notifier {
    device: Arc<Device>,
    /// What to do with a name: where the kernel can, let it ask again, instead
    /// of taking what lies below out of its tree.
    entry_flags: u32,
}

impl Notifier {
    /// On a connection that speaks this minor version.
    pub(super) fn new(device: Arc<Device>, minor: u32) -> Notifier {
        let expires = minor >= abi::MINOR_EXPIRE_ONLY;
        Notifier { device, entry_flags: if expires { abi::EXPIRE_ONLY } else { 0 } }
    }

    fn inode(&self, ino: u64, offset: i64) -> Delivery {
        let mut body = Body::default();
        body.u64(ino).u64(offset.cast_unsigned()).u64(0);
        self.device.notify(abi::NOTIFY_INVAL_INODE, &body.finish())
    }
}

impl KernelCaches for Notifier {
    fn drop_inode(&self, ino: u64) {
        // From offset 0 to the end (length 0): attributes and all pages.
        self.inode(ino, 0);
    }

    fn drop_attributes(&self, ino: u64) -> bool {
        // A negative offset: no pages.
        self.inode(ino, -1) == Delivery::Taken
    }

    fn drop_entry(&self, parent: u64, name: &[u8]) {
        let Ok(len) = u32::try_from(name.len()) else { return };
        let mut body = Body::default();
        body.u64(parent).u32(len).u32(self.entry_flags).bytes(name).zeros(1);
        self.device.notify(abi::NOTIFY_INVAL_ENTRY, &body.finish());
    }
}
