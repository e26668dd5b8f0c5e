//! Scopes of live sessions: which directory each is pinned to, and which
//! directories are known to lie inside.
//!
//! Only the verdict "inside" is kept, each scope root with its own epoch. A
//! directory that leaves a scope bumps the epoch of the roots it leaves; one
//! that enters needs nothing, since "outside" is never remembered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use flexfs_common::ids::{Ino, SessionId};
use parking_lot::{Mutex, RwLock};

/// Directories remembered per scope root: 16 bytes each.
const VERDICTS_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct Verdicts {
    epoch: u64,
    inside: HashSet<Ino>,
}

/// A directory that live sessions are confined to.
#[derive(Debug)]
pub(super) struct ScopeRoot {
    pub(super) ino: Ino,
    verdicts: Mutex<Verdicts>,
}

impl ScopeRoot {
    /// The epoch to give to [`ScopeRoot::remember`]; taken BEFORE the view
    /// that the walk reads.
    pub(super) fn epoch(&self) -> u64 {
        self.verdicts.lock().epoch
    }

    /// Is the directory known to be inside?
    pub(super) fn knows(&self, dir: Ino) -> bool {
        self.verdicts.lock().inside.contains(&dir)
    }

    /// Remembers directories found inside, unless something left since.
    pub(super) fn remember(&self, epoch: u64, dirs: &[Ino]) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.epoch != epoch {
            return;
        }
        if verdicts.inside.len() + dirs.len() > VERDICTS_MAX {
            verdicts.inside.clear();
        }
        verdicts.inside.extend(dirs.iter().take(VERDICTS_MAX));
    }

    fn bump(&self) {
        let mut verdicts = self.verdicts.lock();
        verdicts.epoch += 1;
        verdicts.inside.clear();
    }
}

#[derive(Debug, Default)]
struct Table {
    roots: HashMap<Ino, (Arc<ScopeRoot>, usize)>,
    /// Sessions whose scope's path leads through a directory.
    through: HashMap<Ino, HashSet<SessionId>>,
}

/// The scopes of all live sessions. Changed under the volume's writer lock.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    table: RwLock<Table>,
}

impl Scopes {
    /// A session is confined to the last of these directories, reached
    /// through the others.
    pub(super) fn pin(&self, session: SessionId, path: &[Ino]) -> Option<Arc<ScopeRoot>> {
        let root = *path.last()?;
        let mut table = self.table.write();
        for dir in path {
            table.through.entry(*dir).or_default().insert(session);
        }
        let (scope, users) = table
            .roots
            .entry(root)
            .or_insert_with(|| (Arc::new(ScopeRoot { ino: root, verdicts: Mutex::default() }), 0));
        *users += 1;
        Some(Arc::clone(scope))
    }

    /// The session has ended.
    pub(super) fn unpin(&self, session: SessionId, path: impl Iterator<Item = Ino>) {
        let mut table = self.table.write();
        let mut root = None;
        for dir in path {
            root = Some(dir);
            if let Some(sessions) = table.through.get_mut(&dir) {
                sessions.remove(&session);
                if sessions.is_empty() {
                    table.through.remove(&dir);
                }
            }
        }
        let Some(root) = root else { return };
        if let Some((_, users)) = table.roots.get_mut(&root) {
            *users -= 1;
            if *users == 0 {
                table.roots.remove(&root);
            }
        }
    }

    /// Sessions whose scope's path breaks when this directory moves or goes.
    pub(super) fn through(&self, dir: Ino) -> Vec<SessionId> {
        let table = self.table.read();
        table.through.get(&dir).map_or_else(Vec::new, |sessions| sessions.iter().copied().collect())
    }

    /// Which of these directories are scope roots?
    pub(super) fn roots_among(&self, dirs: &[Ino]) -> Vec<Ino> {
        let table = self.table.read();
        dirs.iter().copied().filter(|dir| table.roots.contains_key(dir)).collect()
    }

    /// A directory left this scope: what was known is forgotten.
    pub(super) fn bump(&self, root: Ino) {
        if let Some((scope, _)) = self.table.read().roots.get(&root) {
            scope.bump();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_from_before_a_bump_is_not_remembered() {
        let scopes = Scopes::default();
        let session = SessionId::random();
        let root = scopes.pin(session, &[Ino(5), Ino(6)]).unwrap();
        let epoch = root.epoch();
        root.remember(epoch, &[Ino(7)]);
        assert!(root.knows(Ino(7)));
        scopes.bump(Ino(6));
        assert!(!root.knows(Ino(7)));
        root.remember(epoch, &[Ino(7)]);
        assert!(!root.knows(Ino(7)), "the walk may have read the state before the move");
    }

    #[test]
    fn pins_end_with_their_sessions() {
        let scopes = Scopes::default();
        let (one, two) = (SessionId::random(), SessionId::random());
        scopes.pin(one, &[Ino(5), Ino(6)]);
        scopes.pin(two, &[Ino(5)]);
        assert_eq!(scopes.through(Ino(5)).len(), 2);
        assert_eq!(scopes.through(Ino(6)), [one]);
        assert_eq!(scopes.roots_among(&[Ino(4), Ino(5), Ino(6)]), [Ino(5), Ino(6)]);
        scopes.unpin(one, [Ino(5), Ino(6)].into_iter());
        assert_eq!(scopes.through(Ino(5)), [two]);
        assert_eq!(scopes.roots_among(&[Ino(5), Ino(6)]), [Ino(5)]);
    }
}
