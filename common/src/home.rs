//! `FLEXFS_HOME` and what lies where in it (docs/cli.md). Directories are
//! made with mode 0700, files written atomically with mode 0600.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Code, Error, Result};

/// The folder that holds everything of one installation on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// From the environment: `FLEXFS_HOME`, or `~/.flexfs`.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when neither is set, or it is relative.
    pub fn from_env() -> Result<Home> {
        let path = match std::env::var_os("FLEXFS_HOME").filter(|value| !value.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .ok_or_else(|| {
                    Error::new(Code::ConfigInvalid, "neither FLEXFS_HOME nor HOME is set")
                })?
                .join(".flexfs"),
        };
        if path.is_relative() {
            return Err(Error::new(Code::ConfigInvalid, "FLEXFS_HOME must be an absolute path"));
        }
        Ok(Home(path))
    }

    /// A given folder.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Home {
        Home(path.into())
    }

    /// A path below it, e.g. `admin/pepper`.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }
}

/// Makes the directory and its missing parents, mode 0700.
///
/// # Errors
/// `CONFIG_INVALID`, naming the path.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| {
        Error::new(Code::ConfigInvalid, format!("cannot make {}", path.display())).caused_by(e)
    })
}

/// Writes a file of mode 0600 so that a crash leaves the old or the new
/// contents: temporary file, fsync, rename, fsync of the directory.
///
/// # Errors
/// `CONFIG_INVALID`, naming the path.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let put = |temporary: &Path| fs::rename(temporary, path);
    place(path, contents, put).map_err(|e| cannot_write(path, e))
}

/// Like [`write_file`], but refuses to replace an existing file. Returns
/// false when it exists.
///
/// # Errors
/// `CONFIG_INVALID`, naming the path.
pub fn write_new_file(path: &Path, contents: &[u8]) -> Result<bool> {
    // link(2) fails where rename(2) would replace.
    let put = |temporary: &Path| {
        fs::hard_link(temporary, path)?;
        fs::remove_file(temporary)
    };
    match place(path, contents, put) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(cannot_write(path, e)),
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::ConfigInvalid, format!("cannot write {}", path.display())).caused_by(error)
}

/// Writes a temporary file, which `put` gives its name.
fn place(
    path: &Path,
    contents: &[u8],
    put: impl FnOnce(&Path) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (temporary, mut file) = temporary_beside(path)?;
    let written =
        file.write_all(contents).and_then(|()| file.sync_all()).and_then(|()| put(&temporary));
    if let Err(error) = written {
        // The first error is the one to tell; a left temporary file is not.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::File::open(dir_of(path))?.sync_all()?;
    remove_left(path);
    Ok(())
}

/// A new file of mode 0600, locked for as long as it is open: that tells it
/// from one that a killed process left.
///
/// # Errors
/// What the system says.
pub fn temporary_beside(path: &Path) -> std::io::Result<(PathBuf, fs::File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = uuid::Uuid::new_v4().simple();
        let temporary = dir_of(path).join(format!(".{name}.{number}.tmp"));
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        // Where there are no locks, nothing is taken for left either.
        let _ = file.lock();
        // Else it was taken for one that was left, before it was locked.
        if file.metadata()?.nlink() > 0 {
            return Ok((temporary, file));
        }
    }
}

/// Removes temporary files that killed writers of this file left: they may
/// hold a secret. What cannot be removed stays.
pub fn remove_left(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.");
    let is_temporary = |found: &str| {
        let number = found.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tmp"));
        number.is_some_and(|n| n.len() == 32 && n.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let Ok(entries) = fs::read_dir(dir_of(path)) else { return };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !entry.file_name().to_str().is_some_and(is_temporary) {
            continue;
        }
        let Ok(file) = fs::File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            // Somebody else may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        make_dir(&inner).unwrap();
        let file = inner.join("f");
        write_file(&file, b"one").unwrap();
        write_file(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!write_new_file(&file, b"three").unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(write_new_file(&inner.join("g"), b"three").unwrap());
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 2);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_others_write_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("creds");
        let (left, _) = temporary_beside(&file).unwrap();
        let (of_another, _) = temporary_beside(&dir.path().join("other")).unwrap();
        let (under_way, held) = temporary_beside(&file).unwrap();
        let named_alike = dir.path().join(".creds.mine.tmp");
        fs::write(&named_alike, "mine").unwrap();
        write_file(&file, b"one").unwrap();
        assert!(!left.exists());
        assert!(under_way.exists() && of_another.exists() && named_alike.exists());
        drop(held);
        assert!(!write_new_file(&file, b"two").unwrap());
        remove_left(&file);
        assert!(!under_way.exists());
        assert_eq!(fs::read(&file).unwrap(), b"one");
    }

    #[test]
    fn writers_at_once_do_not_take_each_others_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("creds");
        std::thread::scope(|scope| {
            for _writer in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| write_file(&file, b"text").unwrap()));
            }
        });
        assert_eq!(fs::read(&file).unwrap(), b"text");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
