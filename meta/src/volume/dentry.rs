//! Names in directories. A dentry's key is its cookie: the hash of its name
//! and a collision digit. Digit 0 is always there while any other of the same
//! hash is, so one read decides nearly every lookup.

use std::ops::ControlFlow;

use bytes::Bytes;
use flexfs_common::ids::Ino;
use flexfs_common::name::DentryName;
use flexfs_common::{Code, Result};

use super::edit::Edit;
use super::keys::{Range, u64_at};
use super::name_order::{DIGITS, NameOrder};
use super::record::{Dentry, decode};
use super::view::View;

/// A name found: where it stands, and what it names.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) cookie: u64,
    pub(super) ino: Ino,
    pub(super) kind: i32,
}

/// Looks a name up.
pub(super) fn find(
    view: View<'_>,
    order: &NameOrder,
    dir: Ino,
    name: &DentryName,
) -> Result<Option<Found>> {
    let first = order.first_cookie(name.as_bytes());
    let Some(dentry) = view.record::<Dentry>("dentry", &view.keys.dentry(dir, first))? else {
        return Ok(None);
    };
    if dentry.ino != 0 && dentry.name == name.as_bytes() {
        return Ok(Some(Found { cookie: first, ino: Ino(dentry.ino), kind: dentry.kind }));
    }
    if !dentry.chained {
        return Ok(None);
    }
    let mut found = None;
    view.scan(&later_digits(view, dir, first), &mut |key, value| {
        let dentry: Dentry = decode("dentry", value)?;
        if dentry.name != name.as_bytes() {
            return Ok(ControlFlow::Continue(()));
        }
        let cookie = u64_at(key, 8).unwrap_or(0);
        found = Some(Found { cookie, ino: Ino(dentry.ino), kind: dentry.kind });
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

fn later_digits(view: View<'_>, dir: Ino, first: u64) -> Range {
    Range { from: view.keys.dentry(dir, first + 1), to: view.keys.dentry(dir, first + DIGITS) }
}

/// Adds a name that is not there, and its back record.
///
/// # Errors
/// `FS_NO_SPACE` when 256 names of one directory share a hash.
pub(super) fn insert(
    edit: &mut Edit<'_>,
    order: &NameOrder,
    dir: Ino,
    name: &DentryName,
    (ino, kind): (Ino, i32),
) -> Result<()> {
    let first = order.first_cookie(name.as_bytes());
    let keys = edit.keys();
    let first_key = keys.dentry(dir, first);
    let mut dentry =
        Dentry { name: Bytes::copy_from_slice(name.as_bytes()), ino: ino.0, kind, chained: false };
    let cookie = match edit.view().record::<Dentry>("dentry", &first_key)? {
        None => first,
        Some(occupied) if occupied.ino == 0 => {
            dentry.chained = occupied.chained;
            first
        }
        Some(occupied) => {
            let cookie = free_digit(edit.view(), dir, first)?;
            if !occupied.chained {
                edit.put(&first_key, &Dentry { chained: true, ..occupied });
            }
            cookie
        }
    };
    edit.put(&keys.dentry(dir, cookie), &dentry);
    edit.put_raw(&keys.back(ino, dir, cookie), &[]);
    edit.effects.renamed.push(dir);
    Ok(())
}

fn free_digit(view: View<'_>, dir: Ino, first: u64) -> Result<u64> {
    let mut free = first + 1;
    view.scan(&later_digits(view, dir, first), &mut |key, _| {
        if u64_at(key, 8) == Some(free) {
            free += 1;
            return Ok(ControlFlow::Continue(()));
        }
        Ok(ControlFlow::Break(()))
    })?;
    if free < first + DIGITS { Ok(free) } else { Err(Code::FsNoSpace.into()) }
}

/// Removes a name that was found, and its back record.
pub(super) fn remove(edit: &mut Edit<'_>, dir: Ino, found: &Found) -> Result<()> {
    let keys = edit.keys();
    let first = found.cookie - found.cookie % DIGITS;
    let first_key = keys.dentry(dir, first);
    edit.delete(&keys.back(found.ino, dir, found.cookie));
    edit.effects.renamed.push(dir);
    let head: Dentry = edit.view().record("dentry", &first_key)?.unwrap_or_default();
    if found.cookie != first {
        edit.delete(&keys.dentry(dir, found.cookie));
        if head.ino == 0 && !edit.view().any(&later_digits(edit.view(), dir, first))? {
            edit.delete(&first_key);
        }
    } else if head.chained && edit.view().any(&later_digits(edit.view(), dir, first))? {
        let placeholder = Dentry { name: Bytes::new(), ino: 0, kind: 0, chained: true };
        edit.put(&first_key, &placeholder);
    } else {
        edit.delete(&first_key);
    }
    Ok(())
}

/// Lets a name that was found name another inode; it stays where it stands.
pub(super) fn repoint(
    edit: &mut Edit<'_>,
    dir: Ino,
    found: &Found,
    (ino, kind): (Ino, i32),
) -> Result<()> {
    let keys = edit.keys();
    let key = keys.dentry(dir, found.cookie);
    let dentry: Dentry = edit.view().record("dentry", &key)?.unwrap_or_default();
    edit.put(&key, &Dentry { ino: ino.0, kind, ..dentry });
    edit.delete(&keys.back(found.ino, dir, found.cookie));
    edit.put_raw(&keys.back(ino, dir, found.cookie), &[]);
    edit.effects.renamed.push(dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flexfs_common::ids::VolumeId;
    use flexfs_proto::v1::FileKind;

    use super::super::keys::Keys;
    use super::*;
    use crate::engine::memory::MemoryEngine;
    use crate::engine::{Engine, Txn};

    fn with(engine: &MemoryEngine, keys: &Keys, work: impl Fn(&mut Edit<'_>)) {
        engine
            .transact(&mut |txn: &mut dyn Txn| {
                work(&mut Edit::new(txn, keys));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn names_that_collide_are_found_and_keep_their_cookies() {
        let engine = MemoryEngine::new();
        let keys = Keys::new(VolumeId::from_bytes([1; 16]));
        let order = NameOrder::colliding(&[0; 32]);
        let dir = Ino(2);
        let name = |i: u64| DentryName::parse(format!("n{i}").as_bytes()).unwrap();
        let kind = FileKind::Regular as i32;
        let mut model = BTreeMap::new();
        // A fixed pseudo-random walk of inserts and removals over 40 names,
        // nearly all with the same hash.
        let mut state = 1_u64;
        for _ in 0..600 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let i = (state >> 33) % 40;
            with(&engine, &keys, |edit| match find(edit.view(), &order, dir, &name(i)).unwrap() {
                Some(found) => remove(edit, dir, &found).unwrap(),
                None => insert(edit, &order, dir, &name(i), (Ino(100 + i), kind)).unwrap(),
            });
            if model.remove(&i).is_none() {
                model.insert(i, 0);
            }
            with(&engine, &keys, |edit| {
                for i in 0..40 {
                    let found = find(edit.view(), &order, dir, &name(i)).unwrap();
                    assert_eq!(found.is_some(), model.contains_key(&i), "name {i}");
                }
            });
            let snapshot = engine.snapshot().unwrap();
            let view = View::new(&*snapshot, &keys);
            for (i, cookie) in &mut model {
                let found = find(view, &order, dir, &name(*i)).unwrap().unwrap();
                assert!(*cookie == 0 || *cookie == found.cookie, "the cookie of {i} changed");
                *cookie = found.cookie;
            }
        }
        for i in model.keys() {
            with(&engine, &keys, |edit| {
                let found = find(edit.view(), &order, dir, &name(*i)).unwrap().unwrap();
                remove(edit, dir, &found).unwrap();
            });
        }
        let snapshot = engine.snapshot().unwrap();
        let view = View::new(&*snapshot, &keys);
        assert!(!view.any(&keys.dentries_after(dir, 0)).unwrap(), "nothing is left behind");
    }

    #[test]
    fn a_full_hash_is_refused() {
        let engine = MemoryEngine::new();
        let keys = Keys::new(VolumeId::from_bytes([1; 16]));
        let order = NameOrder::colliding(&[0; 32]);
        with(&engine, &keys, |edit| {
            let mut refused = 0;
            for i in 0..600_u64 {
                let name = DentryName::parse(format!("n{i}").as_bytes()).unwrap();
                let target = (Ino(100 + i), FileKind::Regular as i32);
                refused += u32::from(insert(edit, &order, Ino(2), &name, target).is_err());
            }
            // A mask of one bit and the rule that a hash is never 0 leave one.
            assert_eq!(refused, 600 - 256);
        });
    }
}
