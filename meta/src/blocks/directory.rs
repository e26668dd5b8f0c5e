//! A directory as block store: `<root>/<volume>/<xx>/<object>`, xx = first
//! byte of the object id in hex. An object appears whole and on stable
//! storage, or not at all, and is never replaced.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flexfs_common::ids::{ObjectId, VolumeId};
use flexfs_common::{Code, Error, Result, home};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Marks a directory as one of our stores, and says which.
const MARKER: &str = ".flexfs-store";
/// Uploads not yet complete.
const TEMPORARY: &str = "tmp";
/// An upload left over for this long belongs to nobody: far beyond the time
/// in which its key can be committed.
const TEMPORARY_AGE: Duration = Duration::from_secs(24 * 3600);
/// Largest marker that is read, in bytes.
const MARKER_MAX_LEN: u64 = 4096;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    store: String,
    uuid: String,
}

/// An open directory store.
#[derive(Debug)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Opens the directory, which must belong to this process's user and be
    /// empty or marked as store `id`; marks an empty one. A directory that is
    /// missing is made when its parent belongs to our user. Blocks.
    ///
    /// # Errors
    /// `BLOCK_STORE_REFUSED`, saying why.
    pub fn open(root: &Path, id: &str) -> Result<DirectoryStore> {
        let refused = |why: &str| {
            Error::new(
                Code::BlockStoreRefused,
                format!("block store {id}: {} {why}", root.display()),
            )
        };
        let failed = |e: io::Error| refused("cannot be used").caused_by(e);
        if root.is_relative() {
            return Err(refused("is not an absolute path"));
        }
        let own = rustix::process::geteuid().as_raw();
        if matches!(fs::symlink_metadata(root), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            let parent = root.parent().unwrap_or(root);
            let metadata = fs::metadata(parent).map_err(failed)?;
            if metadata.uid() != own {
                return Err(refused("does not exist, and its parent belongs to another user"));
            }
            fs::DirBuilder::new().mode(0o700).create(root).map_err(failed)?;
            sync_dir(parent).map_err(failed)?;
        }
        let metadata = fs::symlink_metadata(root).map_err(failed)?;
        if !metadata.is_dir() {
            return Err(refused("is not a directory"));
        }
        if metadata.uid() != own {
            return Err(refused("belongs to another user"));
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(refused("can be written by everybody"));
        }
        check_marker(root, id, &refused)?;
        make_dir(&root.join(TEMPORARY)).map_err(failed)?;
        let store = DirectoryStore { root: root.to_owned() };
        store.drop_old_temporaries();
        Ok(store)
    }

    /// Begins an object of at most `limit` bytes. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`, `BLOCK_REFUSED` when it exists already.
    pub fn create(&self, volume: VolumeId, object: ObjectId, limit: u64) -> Result<NewObject> {
        let path = self.path(volume, object);
        if path.exists() {
            return Err(exists(object));
        }
        let temporary =
            self.root.join(TEMPORARY).join(format!("{object}.{}", uuid::Uuid::new_v4()));
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| unavailable(object, e))?;
        Ok(NewObject { file, temporary, path, object, limit, written: 0, placed: false })
    }

    /// Opens an object for reading, with its length. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`; `FS_NOT_FOUND` when it is not there.
    pub fn read(&self, volume: VolumeId, object: ObjectId) -> Result<(fs::File, u64)> {
        let opened = fs::File::open(self.path(volume, object))
            .and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Code::FsNotFound, format!("no object {object}")).caused_by(e)
            }
            _ => unavailable(object, e),
        })
    }

    /// Deletes an object; one that is not there counts as deleted. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    pub fn delete(&self, volume: VolumeId, object: ObjectId) -> Result<()> {
        match fs::remove_file(self.path(volume, object)) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(unavailable(object, e)),
        }
    }

    /// Stored length, `None` when it is not there. Blocks.
    ///
    /// # Errors
    /// `BLOCK_UNAVAILABLE`.
    pub fn stored_len(&self, volume: VolumeId, object: ObjectId) -> Result<Option<u64>> {
        match fs::metadata(self.path(volume, object)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unavailable(object, e)),
        }
    }

    fn path(&self, volume: VolumeId, object: ObjectId) -> PathBuf {
        let [first, ..] = object.0;
        self.root.join(volume.to_string()).join(format!("{first:02x}")).join(object.to_string())
    }

    /// What a killed server left behind. Only tidiness: failures are ignored.
    fn drop_old_temporaries(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).map(|at| at.elapsed());
            if matches!(age, Ok(Ok(age)) if age > TEMPORARY_AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// An object that is being written. Dropped before [`NewObject::finish`], it
/// leaves nothing.
#[derive(Debug)]
pub struct NewObject {
    file: fs::File,
    temporary: PathBuf,
    path: PathBuf,
    object: ObjectId,
    limit: u64,
    written: u64,
    placed: bool,
}

impl NewObject {
    /// Appends. Blocks.
    ///
    /// # Errors
    /// `BLOCK_REFUSED` beyond the limit; `BLOCK_UNAVAILABLE`, `FS_NO_SPACE`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.written = self.written.saturating_add(len);
        if self.written > self.limit {
            let why = format!("object {}: more than {} bytes", self.object, self.limit);
            return Err(Error::new(Code::BlockRefused, why));
        }
        self.file.write_all(bytes).map_err(|e| unavailable(self.object, e))
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Puts it on stable storage, then in its place. Blocks.
    ///
    /// # Errors
    /// `BLOCK_REFUSED` when the object exists; `BLOCK_UNAVAILABLE`,
    /// `FS_NO_SPACE`.
    pub fn finish(mut self) -> Result<()> {
        let object = self.object;
        let failed = |e: io::Error| unavailable(object, e);
        flexfs_common::failpoint!("meta-store-written");
        self.file.sync_all().map_err(failed)?;
        flexfs_common::failpoint!("meta-store-synced");
        let dir = self.path.parent().unwrap_or(&self.path);
        make_dir(dir).map_err(failed)?;
        match place(&self.temporary, &self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(exists(object)),
            Err(e) => return Err(failed(e)),
        }
        self.placed = true;
        flexfs_common::failpoint!("meta-store-renamed");
        sync_dir(dir).map_err(failed)
    }
}

impl Drop for NewObject {
    fn drop(&mut self) {
        if !self.placed {
            // A file that cannot be removed is dropped at a later start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn exists(object: ObjectId) -> Error {
    Error::new(Code::BlockRefused, format!("object {object} exists and is never replaced"))
}

fn unavailable(object: ObjectId, e: io::Error) -> Error {
    let code = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::FsNoSpace,
        _ => Code::BlockUnavailable,
    };
    Error::new(code, format!("object {object}")).caused_by(e)
}

/// rename(2) that never replaces, or link + unlink where the file system has
/// no RENAME_NOREPLACE.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
        // EINVAL of the file system, ENOSYS of the kernel.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => other,
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Makes the directory and its missing parents, each on stable storage.
fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(dir.parent().ok_or(e)?)?;
            make_dir(dir)
        }
        Err(e) => Err(e),
    }
}

fn check_marker(root: &Path, id: &str, refused: &dyn Fn(&str) -> Error) -> Result<()> {
    let failed = |e: io::Error| refused("cannot be used").caused_by(e);
    let path = root.join(MARKER);
    if !path.exists() {
        if fs::read_dir(root).map_err(failed)?.next().is_some() {
            return Err(refused("is neither empty nor marked as a store"));
        }
        let marker = Marker { store: id.to_owned(), uuid: uuid::Uuid::new_v4().to_string() };
        let text =
            serde_json::to_vec(&marker).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
        // False: another server marked it at the same time; look at its mark.
        home::write_new_file(&path, &text)?;
    }
    let mut text = String::new();
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(&path)
        .and_then(|file| file.take(MARKER_MAX_LEN).read_to_string(&mut text))
        .map_err(failed)?;
    let marker: Marker = serde_json::from_str(&text)
        .map_err(|e| refused("has a mark that is not understood").caused_by(e))?;
    if marker.store != id {
        return Err(refused(&format!("is marked as store {}", marker.store)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn count_files(dir: &Path) -> usize {
        fs::read_dir(dir).map_or(0, |entries| {
            entries
                .flatten()
                .map(|e| if e.path().is_dir() { count_files(&e.path()) } else { 1 })
                .sum()
        })
    }

    #[test]
    fn only_an_empty_or_marked_directory_is_accepted() {
        let base = tempfile::tempdir().unwrap();
        let refused = |path: &Path, id| {
            assert_eq!(
                DirectoryStore::open(path, id).unwrap_err().code(),
                Code::BlockStoreRefused,
                "{}",
                path.display()
            );
        };
        let root = base.path().join("store");
        DirectoryStore::open(&root, "one").unwrap();
        DirectoryStore::open(&root, "one").unwrap();
        refused(&root, "two");
        let used = base.path().join("used");
        fs::create_dir(&used).unwrap();
        fs::write(used.join("mine"), b"x").unwrap();
        refused(&used, "one");
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        refused(&open, "one");
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        refused(&link, "one");
        refused(Path::new("relative"), "one");
        refused(&base.path().join("no/such/parent"), "one");
        fs::write(root.join(MARKER), b"junk").unwrap();
        refused(&root, "one");
    }

    #[test]
    fn objects_are_whole_or_absent_and_never_replaced() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("store");
        let store = DirectoryStore::open(&root, "one").unwrap();
        let (volume, object) = (VolumeId::random(), ObjectId([5; 16]));
        let files_before = count_files(&root);

        let mut torn = store.create(volume, object, 10).unwrap();
        torn.write(b"half").unwrap();
        assert_eq!(store.stored_len(volume, object).unwrap(), None);
        drop(torn);
        assert_eq!(count_files(&root), files_before);

        let mut first = store.create(volume, object, 10).unwrap();
        let mut second = store.create(volume, object, 10).unwrap();
        first.write(b"0123456789").unwrap();
        second.write(b"other").unwrap();
        first.finish().unwrap();
        assert_eq!(second.finish().unwrap_err().code(), Code::BlockRefused);
        assert_eq!(store.create(volume, object, 10).unwrap_err().code(), Code::BlockRefused);
        let (mut file, len) = store.read(volume, object).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), len), ("0123456789", 10));
        assert_eq!(count_files(&root), files_before + 1);

        store.delete(volume, object).unwrap();
        store.delete(volume, object).unwrap();
        assert_eq!(store.read(volume, object).unwrap_err().code(), Code::FsNotFound);
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&base.path().join("s"), "one").unwrap();
        let mut object = store.create(VolumeId::random(), ObjectId([1; 16]), 4).unwrap();
        object.write(b"1234").unwrap();
        assert_eq!(object.write(b"5").unwrap_err().code(), Code::BlockRefused);
    }

    #[test]
    fn only_old_leftovers_are_dropped_at_open() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("s");
        let store = DirectoryStore::open(&root, "one").unwrap();
        let fresh = store.create(VolumeId::random(), ObjectId([1; 16]), 4).unwrap();
        let old = root.join(TEMPORARY).join("old");
        let long_ago = std::time::SystemTime::now() - 2 * TEMPORARY_AGE;
        fs::File::create(&old).unwrap().set_modified(long_ago).unwrap();
        DirectoryStore::open(&root, "one").unwrap();
        assert!(!old.exists());
        assert!(fresh.temporary.exists());
    }
}
