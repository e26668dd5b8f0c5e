//! `FLEXFS_HOME` and what lies where in it (docs/cli.md). Directories are
//! made with mode 0700, files written atomically with mode 0600.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
    let failed = |e: std::io::Error| {
        Error::new(Code::ConfigInvalid, format!("cannot write {}", path.display())).caused_by(e)
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::File::open(dir)?.sync_all());
    if let Err(error) = written {
        // The first error is the one to tell; a left temporary file is not.
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    Ok(())
}

/// Like [`write_file`], but refuses to replace an existing file. Returns
/// false when it exists.
///
/// # Errors
/// `CONFIG_INVALID`, naming the path.
pub fn write_new_file(path: &Path, contents: &[u8]) -> Result<bool> {
    let failed = |e: std::io::Error| {
        Error::new(Code::ConfigInvalid, format!("cannot write {}", path.display())).caused_by(e)
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
    write_file(&temporary, contents)?;
    // link(2) fails where rename(2) would replace.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(failed)?;
    match linked {
        Ok(()) => fs::File::open(dir).and_then(|d| d.sync_all()).map(|()| true).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed(e)),
    }
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
}
