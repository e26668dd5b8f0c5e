//! Can this directory be mounted on?

use std::path::Path;

use flexfs_common::{Code, Error, Result};

use crate::fuse;
use crate::mount_table::{self, FS_TYPE};

/// Checks an absolute directory. A dead mount of ours in the way (its daemon
/// was killed) is taken away first. Blocks.
///
/// # Errors
/// `MOUNT_INVALID` with the reason.
pub fn prepare(dir: &Path, non_empty: bool) -> Result<()> {
    let invalid = |why: &str| Error::new(Code::MountInvalid, format!("{}: {why}", dir.display()));
    while fuse::detach_dead(dir)? {
        tracing::info!(dir = %dir.display(), "a dead mount was taken away");
    }
    if mount_table::mounted_at(dir)?.is_some_and(|entry| entry.kind == FS_TYPE) {
        return Err(invalid("is a flexfs mount already"));
    }
    let found = dir.metadata().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => invalid("does not exist"),
        _ => invalid("cannot be looked at").caused_by(e),
    })?;
    if !found.is_dir() {
        return Err(invalid("is not a directory"));
    }
    if non_empty {
        return Ok(());
    }
    let mut entries = dir.read_dir().map_err(|e| invalid("cannot be looked at").caused_by(e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(invalid("is not empty; --nonEmpty mounts over it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_directories_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        prepare(&empty, false).unwrap();
        let reason = |path: &Path| {
            let error = prepare(path, false).unwrap_err();
            assert_eq!(error.code(), Code::MountInvalid);
            error.message().to_owned()
        };
        assert!(reason(dir.path()).contains("not empty"));
        prepare(dir.path(), true).unwrap();
        assert!(reason(&dir.path().join("none")).contains("does not exist"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(reason(&file).contains("not a directory"));
    }
}
