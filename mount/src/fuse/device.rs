//! `/dev/fuse`: one message per read, one per write.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::abi;

/// The connection's file descriptor. Reads and writes of several threads may
/// run at once; each moves one whole message.
#[derive(Debug)]
pub(super) struct Device(OwnedFd);

/// What a read of the device gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// It is in the buffer.
    Request,
    /// None waits.
    Nothing,
    /// The file system was unmounted or the connection aborted.
    End,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The kernel has it.
    Taken,
    /// Nobody waits for it any more.
    Gone,
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Device {
    pub(super) fn new(fd: OwnedFd) -> Device {
        Device(fd)
    }

    /// Waits for a request, holding up the thread. False when the file system
    /// was unmounted or the connection aborted.
    pub(super) fn receive(&self, buffer: &mut Vec<u8>) -> bool {
        loop {
            match self.try_receive(buffer) {
                Received::Request => return true,
                Received::Nothing => {}
                Received::End => return false,
            }
        }
    }

    /// From now on [`Device::try_receive`] does not wait.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn set_nonblocking(&self) -> std::io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.0)?;
        rustix::fs::fcntl_setfl(&self.0, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(())
    }

    /// Reads a request, if there is one.
    pub(super) fn try_receive(&self, buffer: &mut Vec<u8>) -> Received {
        loop {
            buffer.clear();
            match rustix::io::read(&self.0, spare_capacity(buffer)) {
                Ok(_) => return Received::Request,
                Err(Errno::AGAIN) => return Received::Nothing,
                // ENOENT: the request was taken back before it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Received::End,
                Err(error) => {
                    tracing::error!("reading /dev/fuse failed: {error}");
                    return Received::End;
                }
            }
        }
    }

    /// Replies to a request with an errno (0 = success) and a body.
    pub(super) fn reply(&self, unique: u64, errno: i32, body: &[u8]) -> Delivery {
        // Negative, as system calls return it inside the kernel.
        self.send(unique, errno.saturating_neg(), body)
    }

    /// Tells the kernel something unasked.
    pub(super) fn notify(&self, code: i32, body: &[u8]) -> Delivery {
        self.send(0, code, body)
    }

    fn send(&self, unique: u64, code: i32, body: &[u8]) -> Delivery {
        let mut header = [0; abi::OUT_HEADER];
        let len = u32::try_from(abi::OUT_HEADER + body.len()).unwrap_or(u32::MAX);
        let fields = [len.to_ne_bytes(), code.to_ne_bytes()];
        let (first, second) = header.split_at_mut(8);
        first.copy_from_slice(fields.as_flattened());
        second.copy_from_slice(&unique.to_ne_bytes());
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        loop {
            match rustix::io::writev(&self.0, &parts) {
                Ok(_) => return Delivery::Taken,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The request was aborted, or the inode of a notification is
                // not known: nothing to do.
                Err(Errno::NOENT | Errno::NODEV) => return Delivery::Gone,
                Err(error) => {
                    tracing::warn!(code, len, "writing /dev/fuse failed: {error}");
                    return Delivery::Gone;
                }
            }
        }
    }
}
