//! Values → bytes of replies, in the machine's byte order.

use bytes::Bytes;
use flexfs_proto::v1;

use super::abi;
use crate::freshness::Reading;
use crate::fs::{Attributes, DirItem, DirSink, Kept};

/// st_blksize: what programs take as buffer. Larger than a page, because each
/// request costs the same.
const PREFERRED_IO: u32 = 64 * 1024;
/// Bytes of `fuse_attr`.
const ATTR: usize = 88;
/// Bytes of `fuse_entry_out`.
const ENTRY_OUT: usize = 128;
/// Bytes of `fuse_dirent` without its name.
const DIRENT: usize = 24;

/// Appends values to a reply.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    promises: Vec<Promise>,
}

/// A time in a reply for which the kernel may keep something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// Where the seconds (64 bits) and nanoseconds (32 bits) stand.
    seconds_at: usize,
    nanos_at: usize,
    kept: Kept,
}

/// Makes zero of every time that is not to be promised any more.
pub(super) fn withdraw(reply: Bytes, promises: &[Promise], reading: &Reading<'_>) -> Bytes {
    let broken = |promise: &&Promise| !reading.permits(promise.kept.ino, promise.kept.stamp);
    if promises.iter().find(broken).is_none() {
        return reply;
    }
    let mut bytes = Vec::from(reply);
    for promise in promises.iter().filter(broken) {
        let (seconds, nanos) = (promise.seconds_at, promise.nanos_at);
        bytes.get_mut(seconds..seconds + 8).unwrap_or_default().fill(0);
        bytes.get_mut(nanos..nanos + 4).unwrap_or_default().fill(0);
    }
    bytes.into()
}

impl Body {
    pub(super) fn u16(&mut self, value: u16) -> &mut Body {
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Body {
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Body {
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Body {
        self.bytes.extend_from_slice(value);
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Body {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// With the times in it that are to be checked when it is sent.
    pub(super) fn finish_promising(self) -> (Vec<u8>, Vec<Promise>) {
        (self.bytes, self.promises)
    }

    fn promise(&mut self, kept: Kept, seconds_at: usize, nanos_at: usize) {
        if !kept.ttl.is_zero() {
            self.promises.push(Promise { seconds_at, nanos_at, kept });
        }
    }

    /// `fuse_attr`.
    fn attr(&mut self, attr: &v1::Attr) -> &mut Body {
        let (atime, mtime, ctime) = (time(attr.atime), time(attr.mtime), time(attr.ctime));
        self.u64(attr.ino).u64(attr.size).u64(attr.blocks);
        self.u64(atime.0).u64(mtime.0).u64(ctime.0);
        self.u32(atime.1).u32(mtime.1).u32(ctime.1);
        self.u32(mode(attr)).u32(attr.nlink).u32(attr.uid).u32(attr.gid).u32(attr.rdev);
        self.u32(PREFERRED_IO).u32(0)
    }

    /// `fuse_entry_out`. Generation 0: inode numbers are never used twice.
    pub(super) fn entry(&mut self, told: &Attributes) -> &mut Body {
        let (name, attributes) = (told.name_kept, told.kept);
        let at = self.bytes.len();
        self.promise(name, at + 16, at + 32);
        self.promise(attributes, at + 24, at + 36);
        self.u64(told.attr.ino).u64(0);
        self.u64(name.ttl.as_secs()).u64(attributes.ttl.as_secs());
        self.u32(name.ttl.subsec_nanos()).u32(attributes.ttl.subsec_nanos());
        self.attr(&told.attr)
    }

    /// `fuse_entry_out` of a name that is not there: node 0.
    pub(super) fn absent(&mut self, kept: Kept) -> &mut Body {
        let at = self.bytes.len();
        self.promise(kept, at + 16, at + 32);
        self.u64(0).u64(0).u64(kept.ttl.as_secs()).u64(0);
        self.u32(kept.ttl.subsec_nanos()).u32(0).zeros(ATTR)
    }

    /// `fuse_attr_out`.
    pub(super) fn attr_out(&mut self, told: &Attributes) -> &mut Body {
        self.attr_valid(told.kept).u32(0).attr(&told.attr)
    }

    fn attr_valid(&mut self, kept: Kept) -> &mut Body {
        let at = self.bytes.len();
        self.promise(kept, at, at + 8);
        self.u64(kept.ttl.as_secs()).u32(kept.ttl.subsec_nanos())
    }

    /// `fuse_statx_out`.
    pub(super) fn statx_out(&mut self, told: &Attributes) -> &mut Body {
        let attr = &told.attr;
        self.attr_valid(told.kept).u32(0).u64(0).u64(0);
        self.u32(abi::STATX_MASK).u32(PREFERRED_IO).u64(0);
        self.u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        // Type and permissions are 16 bits wide.
        self.u16(u16::try_from(mode(attr)).unwrap_or(0)).u16(0);
        self.u64(attr.ino).u64(attr.size).u64(attr.blocks).u64(0);
        for at in [attr.atime, attr.btime, attr.ctime, attr.mtime] {
            let (seconds, nanos) = time(at);
            self.u64(seconds).u32(nanos).u32(0);
        }
        let (major, minor) = major_minor(attr.rdev);
        self.u32(major).u32(minor).u32(0).u32(0).zeros(14 * 8)
    }

    /// `fuse_open_out`.
    pub(super) fn open_out(&mut self, fh: u64, flags: u32) -> &mut Body {
        self.u64(fh).u32(flags).u32(0)
    }

    /// `fuse_statfs_out`.
    pub(super) fn statfs_out(&mut self, of: &v1::StatFsResult) -> &mut Body {
        self.u64(of.blocks).u64(of.blocks_free).u64(of.blocks_free);
        self.u64(of.inodes).u64(of.inodes_free);
        self.u32(of.block_size).u32(of.name_max).u32(of.block_size).zeros(7 * 4)
    }

    /// `fuse_lk_out`.
    pub(super) fn lock_out(&mut self, lock: &v1::LockState) -> &mut Body {
        let kind = match lock.kind() {
            v1::LockKind::Unlock => libc::F_UNLCK,
            v1::LockKind::Read => libc::F_RDLCK,
            v1::LockKind::Write => libc::F_WRLCK,
        };
        // The kernel refuses offsets beyond its own largest one.
        let end = lock.end.min(i64::MAX.cast_unsigned());
        self.u64(lock.start).u64(end).u32(kind.cast_unsigned()).u32(lock.pid)
    }
}

/// Seconds in the kernel's unsigned spelling, and nanoseconds.
fn time(at: Option<v1::Timestamp>) -> (u64, u32) {
    at.map_or((0, 0), |at| (at.seconds.cast_unsigned(), at.nanos.min(999_999_999)))
}

fn type_bits(kind: v1::FileKind) -> u32 {
    match kind {
        v1::FileKind::Unspecified => 0,
        v1::FileKind::Regular => libc::S_IFREG,
        v1::FileKind::Directory => libc::S_IFDIR,
        v1::FileKind::Symlink => libc::S_IFLNK,
        v1::FileKind::Fifo => libc::S_IFIFO,
        v1::FileKind::Socket => libc::S_IFSOCK,
        v1::FileKind::CharDevice => libc::S_IFCHR,
        v1::FileKind::BlockDevice => libc::S_IFBLK,
    }
}

fn mode(attr: &v1::Attr) -> u32 {
    type_bits(attr.kind()) | (attr.mode & 0o7777)
}

/// new_decode_dev of `include/linux/kdev_t.h`.
fn major_minor(rdev: u32) -> (u32, u32) {
    ((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

/// The kernel's buffer for directory entries.
#[derive(Debug)]
pub(super) struct DirBuffer {
    body: Body,
    limit: usize,
    plus: bool,
    /// Inodes counted as told to the kernel.
    pub(super) told: Vec<u64>,
}

impl DirBuffer {
    pub(super) fn new(size: u32, plus: bool) -> DirBuffer {
        let limit = usize::try_from(size.min(abi::MAX_WRITE)).unwrap_or(0);
        DirBuffer { body: Body::default(), limit, plus, told: Vec::new() }
    }

    pub(super) fn finish(self) -> (Body, Vec<u64>) {
        (self.body, self.told)
    }
}

impl DirSink for DirBuffer {
    fn add(&mut self, item: &DirItem<'_>) -> bool {
        let named = (DIRENT + item.name.len()).next_multiple_of(8);
        let size = named + if self.plus { ENTRY_OUT } else { 0 };
        if self.body.bytes.len() + size > self.limit {
            return false;
        }
        match item.found {
            Some(told) if self.plus => {
                self.body.entry(told);
                self.told.push(told.attr.ino);
            }
            // Node 0: no attributes, the kernel looks the name up if it cares.
            _ if self.plus => {
                self.body.zeros(ENTRY_OUT);
            }
            _ => {}
        }
        let padding = named - DIRENT - item.name.len();
        let name_len = u32::try_from(item.name.len()).unwrap_or(0);
        self.body.u64(item.ino).u64(item.next).u32(name_len).u32(type_bits(item.kind) >> 12);
        self.body.bytes(item.name).zeros(padding);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::freshness::Freshness;

    fn told() -> Attributes {
        let at = |seconds, nanos| Some(v1::Timestamp { seconds, nanos });
        let attr = v1::Attr {
            ino: 77,
            kind: v1::FileKind::Regular.into(),
            mode: 0o4755,
            nlink: 2,
            size: 5,
            blocks: 8,
            atime: at(-1, 5),
            mtime: at(2, 6),
            ctime: at(3, 7),
            ..Default::default()
        };
        let kept = Kept { ttl: Duration::from_millis(1500), ino: 77, ..Kept::default() };
        let name_kept = Kept { ttl: Duration::from_millis(2500), ino: 5, ..Kept::default() };
        Attributes { attr, kept, name_kept }
    }

    #[test]
    fn structures_have_the_kernels_sizes() {
        let told = told();
        let size = |fill: &dyn Fn(&mut Body) -> usize| fill(&mut Body::default());
        assert_eq!(size(&|b| b.attr(&told.attr).bytes.len()), 88);
        assert_eq!(size(&|b| b.entry(&told).bytes.len()), 128);
        assert_eq!(size(&|b| b.absent(told.kept).bytes.len()), 128);
        assert_eq!(size(&|b| b.attr_out(&told).bytes.len()), 104);
        assert_eq!(size(&|b| b.statx_out(&told).bytes.len()), 288);
        assert_eq!(size(&|b| b.open_out(1, 2).bytes.len()), 16);
        assert_eq!(size(&|b| b.statfs_out(&v1::StatFsResult::default()).bytes.len()), 80);
        assert_eq!(size(&|b| b.lock_out(&v1::LockState::default()).bytes.len()), 24);
    }

    #[test]
    fn a_promise_that_a_recall_overtook_is_withdrawn_and_no_other() {
        let fresh = Freshness::default();
        let mut told = told();
        (told.kept.stamp, told.name_kept.stamp) = (fresh.stamp(), fresh.stamp());
        let times = |recalled: Option<u64>| {
            let mut body = Body::default();
            body.u64(9).entry(&told);
            let (bytes, promises) = body.finish_promising();
            fresh.recalled(recalled);
            let bytes = withdraw(bytes.into(), &promises, &fresh.reading());
            let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
            let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            [(u64_at(24), u32_at(40)), (u64_at(32), u32_at(44))]
        };
        let half = 500_000_000;
        assert_eq!(times(None), [(2, half), (1, half)]);
        assert_eq!(times(Some(5)), [(0, 0), (1, half)]);
        assert_eq!(times(Some(77)), [(0, 0), (0, 0)]);
        for body in [Body::default().attr_out(&told), Body::default().statx_out(&told)] {
            let (bytes, promises) = std::mem::take(body).finish_promising();
            assert_eq!(bytes[..8], 1_u64.to_ne_bytes());
            let bytes = withdraw(bytes.into(), &promises, &fresh.reading());
            assert_eq!(bytes[..12], [0; 12]);
        }
    }

    #[test]
    fn attributes_lie_where_the_kernel_reads_them() {
        let mut body = Body::default();
        body.attr(&told().attr);
        let bytes = body.finish();
        assert_eq!(bytes[0..8], 77_u64.to_ne_bytes());
        assert_eq!(bytes[24..32], (-1_i64).to_ne_bytes());
        assert_eq!(bytes[60..64], (libc::S_IFREG | 0o4755).to_ne_bytes());
    }

    #[test]
    fn entries_are_padded_and_bounded() {
        let item = |name: &'static [u8]| DirItem {
            ino: 5,
            next: 9,
            kind: v1::FileKind::Directory,
            name,
            found: None,
        };
        let mut buffer = DirBuffer::new(64, false);
        assert!(buffer.add(&item(b"a")));
        assert!(buffer.add(&item(b"12345678")));
        assert!(!buffer.add(&item(b"b")));
        let (body, told) = buffer.finish();
        let bytes = body.finish();
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[20..24], 4_u32.to_ne_bytes(), "DT_DIR");
        assert!(told.is_empty());
    }

    #[test]
    fn only_entries_with_attributes_count_as_told() {
        let told = told();
        let mut buffer = DirBuffer::new(4096, true);
        let kind = v1::FileKind::Regular;
        assert!(buffer.add(&DirItem { ino: 1, next: 1, kind, name: b".", found: None }));
        assert!(buffer.add(&DirItem { ino: 77, next: 3, kind, name: b"f", found: Some(&told) }));
        let (body, told) = buffer.finish();
        let bytes = body.finish();
        assert_eq!(told, [77]);
        assert_eq!(bytes.len(), 2 * (128 + 32));
        assert_eq!(bytes[..8], [0; 8]);
        assert_eq!(bytes[160..168], 77_u64.to_ne_bytes());
    }

    #[test]
    fn device_numbers_are_split_as_linux_does() {
        assert_eq!(major_minor(0x0801), (8, 1));
        assert_eq!(major_minor(0x1234_56ff), (0x456, 0x1_23ff));
    }
}
