//! Where peppers lie (see the parent module), each file 0600 and never
//! replaced by another content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use flexfs_auth::private_file;
use flexfs_auth::verifier::Pepper;
use flexfs_common::home::{self, Home};
use flexfs_common::{Code, Error, Result};

use super::is_id;
use crate::store::peppers::Known;

/// Ends the name of a mark.
const LOST: &str = ".lost";
/// Bytes of a mark.
const MARK_MAX_LEN: usize = 256;

pub(super) struct Files {
    current: PathBuf,
    next: PathBuf,
    earlier: PathBuf,
}

impl Files {
    pub(super) fn of(home: &Home) -> Files {
        Files {
            current: home.path("admin/pepper"),
            next: home.path("admin/pepper.next"),
            earlier: home.path("admin/pepper.d"),
        }
    }

    pub(super) fn earlier_dir(&self) -> &Path {
        &self.earlier
    }

    /// The one in `admin/pepper`, whichever it is.
    pub(super) fn current(&self) -> Result<Option<Pepper>> {
        load(&self.current)
    }

    /// The very first one.
    pub(super) fn make_first(&self) -> Result<Pepper> {
        Pepper::load_or_create(&self.current)
    }

    /// Those in `admin/pepper.d`, by id.
    pub(super) fn earlier(&self) -> Result<BTreeMap<String, Pepper>> {
        let mut out = BTreeMap::new();
        for name in self.names()?.into_iter().filter(|name| is_id(name)) {
            let path = self.earlier.join(&name);
            let Some(pepper) = load(&path)? else { continue };
            if pepper.id() != name {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    format!("{} holds the pepper {}: name it so", path.display(), pepper.id()),
                ));
            }
            out.insert(name, pepper);
        }
        Ok(out)
    }

    /// The ids that are marked as lost.
    pub(super) fn lost(&self) -> Result<BTreeSet<String>> {
        let mut out = BTreeSet::new();
        for name in self.names()? {
            let Some(id) = name.strip_suffix(LOST).filter(|id| is_id(id)) else { continue };
            // Nobody else can have put it there.
            private_file::read(&self.earlier.join(&name), MARK_MAX_LEN)?;
            out.insert(id.to_owned());
        }
        Ok(out)
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |e| {
            Error::new(Code::ConfigInvalid, format!("cannot list {}", self.earlier.display()))
                .caused_by(e)
        };
        let entries = match std::fs::read_dir(&self.earlier) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The pepper that the database knows: as it lies there, or where a change
    /// that was cut short left it.
    pub(super) fn settle(&self, known: &Known) -> Result<Pepper> {
        let found = self.current()?;
        if let Some(pepper) = found.as_ref().filter(|pepper| known.is(pepper)) {
            return Ok(pepper.clone());
        }
        if let Some(next) = load(&self.next)?.filter(|next| known.is(next)) {
            if let Some(old) = &found {
                self.keep(old)?;
            }
            self.promote()?;
            return Ok(next);
        }
        // Whoever promoted it between the two looks above has done it.
        match (self.current()?, found) {
            (Some(pepper), _) if known.is(&pepper) => Ok(pepper),
            (_, None) => Err(self.absent()),
            (_, Some(pepper)) => Err(Error::new(
                Code::PepperMismatch,
                format!(
                    "{} is the pepper {}, and the database was used with {}",
                    self.current.display(),
                    pepper.id(),
                    known.id
                ),
            )),
        }
    }

    pub(super) fn absent(&self) -> Error {
        Error::new(Code::PepperMismatch, format!("there is no {}", self.current.display()))
    }

    /// Keeps one among the earlier ones.
    pub(super) fn keep(&self, pepper: &Pepper) -> Result<()> {
        pepper.store_new(&self.earlier.join(pepper.id())).map(drop)
    }

    /// Marks one as lost.
    pub(super) fn mark_lost(&self, id: &str) -> Result<()> {
        home::make_dir(&self.earlier)?;
        home::write_new_file(&self.earlier.join(format!("{id}{LOST}")), b"lost\n").map(drop)
    }

    /// Puts a new one beside the current one. What an earlier attempt left
    /// there was never used.
    pub(super) fn stage(&self, pepper: &Pepper) -> Result<()> {
        remove(&self.next)?;
        pepper.store_new(&self.next).map(drop)
    }

    /// Gives the staged one its name.
    pub(super) fn promote(&self) -> Result<()> {
        match std::fs::rename(&self.next, &self.current) {
            Ok(()) => sync_dir_of(&self.current),
            // Somebody else was faster.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(cannot("rename", &self.next, e)),
        }
    }

    /// Removes an earlier one and its mark.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        remove(&self.earlier.join(id))?;
        remove(&self.earlier.join(format!("{id}{LOST}")))
    }
}

fn load(path: &Path) -> Result<Option<Pepper>> {
    match Pepper::load(path) {
        Ok(pepper) => Ok(Some(pepper)),
        Err(e) if e.code() == Code::CredsMissing => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir_of(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot("remove", path, e)),
    }
}

fn sync_dir_of(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| cannot("sync", dir, e))
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::ConfigInvalid, format!("cannot {what} {}", path.display())).caused_by(error)
}
