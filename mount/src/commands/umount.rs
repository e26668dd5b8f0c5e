//! The umount(8) helper: `umount.fuse.flexfs DIR|VOLUME [-flnrv] [-N NS]
//! [-t TYPE]`, as umount(8) calls helpers of the type in /proc/mounts. Returns
//! 0 only when everything written is safe and the mount is gone: umount2(2)
//! alone does not wait for a FUSE daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

use super::stop;
use crate::fuse;
use crate::mount_table::{self, FS_TYPE};

/// What umount(8) wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UmountCall {
    /// The directory, or the source that /proc/mounts shows.
    place: PathBuf,
    /// `-l`: out of sight now, without a wait.
    lazy: bool,
    /// `-f`: although its servers do not answer.
    force: bool,
}

/// # Errors
/// `ARGUMENT_INVALID`, naming what is wrong.
pub(super) fn parse(arguments: &[OsString]) -> Result<UmountCall> {
    let bad = |why: String| Error::new(Code::ArgumentInvalid, why);
    let mut words = arguments.iter();
    let (mut places, mut lazy, mut force) = (Vec::new(), false, false);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match text.strip_prefix('-') {
            // The type is ours, or umount(8) would not have called; a name
            // space it has entered itself.
            Some("t" | "N") => {
                words.next().ok_or_else(|| bad(format!("{text} needs a value")))?;
            }
            Some(letters) if !letters.is_empty() => {
                for letter in letters.chars() {
                    match letter {
                        'l' => lazy = true,
                        'f' => force = true,
                        // No mtab; a remount would not help; say more.
                        'n' | 'r' | 'v' => {}
                        other => {
                            return Err(bad(format!("-{other} is not an option of umount(8)")));
                        }
                    }
                }
            }
            _ => places.push(PathBuf::from(word)),
        }
    }
    match <[PathBuf; 1]>::try_from(places) {
        Ok([place]) => Ok(UmountCall { place, lazy, force }),
        Err(_) => Err(bad("one directory, or one volume that is mounted".to_owned())),
    }
}

/// Unmounts.
///
/// # Errors
/// `MOUNT_NOT_FOUND`, `MOUNT_INVALID` (in use), what `stop` fails with.
pub(super) fn run(home: &Home, call: &UmountCall) -> Result<()> {
    let dir = find(&call.place)?;
    if call.lazy || call.force {
        return fuse::unmount_now(&dir, call.force);
    }
    if fuse::is_busy(&dir) {
        let why = format!("{}: the target is busy: programs use it", dir.display());
        return Err(Error::new(Code::MountInvalid, why));
    }
    match stop::run(home, &dir) {
        Err(error) if error.code() == Code::MountNotFound => Err(Error::new(
            Code::MountNotFound,
            format!(
                "{}: its daemon belongs to another FLEXFS_HOME, and could not be waited for; set \
                 it, or `umount -i` without waiting",
                dir.display()
            ),
        )),
        other => other,
    }
}

/// The directory of a mount of ours, named itself or by its source.
fn find(place: &Path) -> Result<PathBuf> {
    let mounts = mount_table::read()?;
    let ours = || mounts.iter().filter(|entry| entry.kind == FS_TYPE);
    if ours().any(|entry| entry.dir == place) {
        return Ok(place.to_owned());
    }
    let mut of_source = ours().filter(|entry| Path::new(&entry.source) == place);
    match (of_source.next(), of_source.next()) {
        (Some(entry), None) => Ok(entry.dir.clone()),
        (Some(_), Some(_)) => Err(Error::new(
            Code::ArgumentInvalid,
            format!("{} is mounted more than once: name the directory", place.display()),
        )),
        // Perhaps spelt otherwise: `stop` knows.
        (None, _) => Ok(place.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Result<UmountCall> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_form_of_umount() {
        let plain = UmountCall { place: "/mnt".into(), lazy: false, force: false };
        assert_eq!(call(&["/mnt"]).unwrap(), plain);
        assert_eq!(call(&["/mnt", "-n", "-v", "-t", "fuse.flexfs"]).unwrap(), plain);
        assert_eq!(call(&["/mnt", "-nv", "-N", "/proc/1/ns/mnt"]).unwrap(), plain);
        let lazy = UmountCall { lazy: true, ..plain.clone() };
        assert_eq!(call(&["-l", "/mnt"]).unwrap(), lazy);
        assert_eq!(call(&["/mnt", "-fr"]).unwrap(), UmountCall { force: true, ..plain });
        for wrong in [&[][..], &["/a", "/b"], &["/a", "-x"], &["/a", "-t"]] {
            assert_eq!(call(wrong).unwrap_err().code(), Code::ArgumentInvalid, "{wrong:?}");
        }
    }

    #[test]
    fn only_a_name_of_umount_is_its_helper() {
        use crate::commands::is_umount_helper;
        assert!(is_umount_helper("/sbin/umount.fuse.flexfs".as_ref()));
        assert!(is_umount_helper("umount.flexfs".as_ref()));
        assert!(!is_umount_helper("/umount.d/mount.flexfs".as_ref()));
        assert!(!is_umount_helper("mount-flexfs".as_ref()));
    }
}
