//! Telling the kernel to forget.

use std::sync::Arc;

use super::abi;
use super::device::Device;
use super::encode::Body;
use crate::fs::KernelCaches;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct Notifier(pub(super) Arc<Device>);

impl KernelCaches for Notifier {
    fn drop_inode(&self, ino: u64) {
        let mut body = Body::default();
        // From offset 0 to the end (length 0): attributes and all pages.
        body.u64(ino).u64(0).u64(0);
        self.0.notify(abi::NOTIFY_INVAL_INODE, &body.finish());
    }

    fn drop_entry(&self, parent: u64, name: &[u8]) {
        let Ok(len) = u32::try_from(name.len()) else { return };
        let mut body = Body::default();
        body.u64(parent).u32(len).u32(0).bytes(name).zeros(1);
        self.0.notify(abi::NOTIFY_INVAL_ENTRY, &body.finish());
    }
}
