//! What the kernel has open: file handle → the open file or directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use parking_lot::Mutex;

use crate::data::FileData;
use crate::fs::Asked;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// The kernel's inode number.
    pub ino: u64,
    /// How to name it to meta.
    pub handle: Bytes,
    /// Meta's id of this open.
    pub open_id: u64,
    /// Linux open(2) flags.
    pub flags: u32,
    /// Its contents.
    pub data: Arc<FileData>,
}

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    /// The kernel's inode number.
    pub ino: u64,
    /// How to name it to meta.
    pub handle: Bytes,
    /// What was read of it and not handed out yet. One reader at a time.
    pub stream: tokio::sync::Mutex<DirStream>,
}

/// A page of a directory, and where it came from.
#[derive(Debug, Default)]
pub struct DirStream {
    /// The page.
    pub entries: Vec<v1::DirEntry>,
    /// Nothing comes after the page.
    pub end: bool,
    /// The cookie that the page was asked for with; `None` = no page yet.
    pub after: Option<u64>,
    /// With handles and attributes.
    pub plus: bool,
    /// When the page was asked for: attributes are valid from then.
    pub asked: Option<Asked>,
    /// How long its names may be kept from then.
    pub name_cache_millis: u32,
}

/// All open files and directories.
#[derive(Debug, Default)]
pub struct HandleTable {
    last: AtomicU64,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    dirs: Mutex<HashMap<u64, Arc<OpenDir>>>,
}

impl HandleTable {
    /// Adds an open file; returns its file handle.
    pub fn add_file(&self, file: OpenFile) -> u64 {
        let fh = self.next();
        self.files.lock().insert(fh, Arc::new(file));
        fh
    }

    /// Adds an open directory; returns its file handle.
    pub fn add_dir(&self, dir: OpenDir) -> u64 {
        let fh = self.next();
        self.dirs.lock().insert(fh, Arc::new(dir));
        fh
    }

    /// # Errors
    /// `FS_BAD_HANDLE`.
    pub fn file(&self, fh: u64) -> Result<Arc<OpenFile>> {
        self.files.lock().get(&fh).cloned().ok_or_else(|| Error::bare(Code::FsBadHandle))
    }

    /// # Errors
    /// `FS_BAD_HANDLE`.
    pub fn dir(&self, fh: u64) -> Result<Arc<OpenDir>> {
        self.dirs.lock().get(&fh).cloned().ok_or_else(|| Error::bare(Code::FsBadHandle))
    }

    /// # Errors
    /// `FS_BAD_HANDLE`.
    pub fn remove_file(&self, fh: u64) -> Result<Arc<OpenFile>> {
        self.files.lock().remove(&fh).ok_or_else(|| Error::bare(Code::FsBadHandle))
    }

    /// # Errors
    /// `FS_BAD_HANDLE`.
    pub fn remove_dir(&self, fh: u64) -> Result<()> {
        match self.dirs.lock().remove(&fh) {
            Some(_) => Ok(()),
            None => Err(Code::FsBadHandle.into()),
        }
    }

    /// The kernel's numbers of all inodes with open files, each once.
    #[must_use]
    pub fn open_inodes(&self) -> Vec<u64> {
        let mut inodes: Vec<u64> = self.files.lock().values().map(|file| file.ino).collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }
}
