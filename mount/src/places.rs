//! Where things of one mount lie: `$FLEXFS_HOME/mount/{creds,run,log}`.

use std::path::{Path, PathBuf};

use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result};

/// Hex digits of a mount point's hash in file names: enough that two of one
/// home never meet.
const HASH_DIGITS: usize = 16;

/// The daemons' common log.
#[must_use]
pub fn log(home: &Home) -> PathBuf {
    home.path("mount/log")
}

/// The credentials of a volume.
#[must_use]
pub fn creds(home: &Home, volume: &str) -> PathBuf {
    home.path("mount/creds").join(volume)
}

/// Where run files and control sockets lie.
#[must_use]
pub fn run_dir(home: &Home) -> PathBuf {
    home.path("mount/run")
}

/// The files of the mount at one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlaces {
    /// The run file.
    pub file: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

impl RunPlaces {
    /// Of an absolute directory.
    #[must_use]
    pub fn of(home: &Home, dir: &Path) -> RunPlaces {
        let hash = blake3::hash(dir.as_os_str().as_encoded_bytes()).to_hex();
        let name: String = hash.chars().take(HASH_DIGITS).collect();
        RunPlaces::named(home, &name)
    }

    /// All that were ever used in this home, dead or alive.
    #[must_use]
    pub fn all(home: &Home) -> Vec<RunPlaces> {
        let files = std::fs::read_dir(run_dir(home)).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".lock")?.to_owned())).collect();
        names.sort();
        names.iter().map(|name| RunPlaces::named(home, name)).collect()
    }

    /// The lock beside the run file, held while the daemon lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.file.with_extension("lock")
    }

    fn named(home: &Home, name: &str) -> RunPlaces {
        let dir = run_dir(home);
        RunPlaces { file: dir.join(name), socket: dir.join(format!("{name}.sock")) }
    }
}

/// The absolute, link-free form of a mount point. The directory itself is
/// looked at only where there is no other way: a dead or hanging mount there
/// must not stand in the way of `stop`.
///
/// # Errors
/// `MOUNT_INVALID` when its parent does not exist.
pub fn absolute(dir: &Path) -> Result<PathBuf> {
    let failed = |e: std::io::Error| {
        Error::new(Code::MountInvalid, format!("{}: no such directory", dir.display())).caused_by(e)
    };
    let Some(name) = dir.file_name() else { return dir.canonicalize().map_err(failed) };
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let direct = parent.canonicalize().map_err(failed)?.join(name);
    let mounted = crate::mount_table::mounted_at(&direct)?.is_some();
    let link = || direct.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if !mounted && link() { direct.canonicalize().map_err(failed) } else { Ok(direct) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_a_mount_point_are_the_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(absolute(&dir.path().join("link")).unwrap(), real);
        assert_eq!(absolute(&dir.path().join("./real/")).unwrap(), real);
        assert_eq!(absolute(&real.join("..").join("real")).unwrap(), real);
        assert_eq!(absolute(&real.join("..")).unwrap(), real.parent().unwrap());
        let missing = absolute(&dir.path().join("not/there")).unwrap_err();
        assert_eq!(missing.code(), Code::MountInvalid);
    }

    #[test]
    fn every_directory_has_files_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let (a, b) = (RunPlaces::of(&home, Path::new("/a")), RunPlaces::of(&home, Path::new("/b")));
        assert_ne!(a, b);
        assert_eq!(RunPlaces::all(&home), []);
        std::fs::create_dir_all(run_dir(&home)).unwrap();
        std::fs::write(a.lock(), "").unwrap();
        std::fs::write(&a.socket, "").unwrap();
        assert_eq!(RunPlaces::all(&home), [a]);
    }
}
