//! Damaged files: every byte counts.

use std::sync::Arc;

use flexfs_common::Code;
use flexfs_common::ids::{TokenId, VolumeId};
use flexfs_proto::v1;

use super::dump::dump;
use super::load::{check, restore};
use crate::blocks::StoreAccess;
use crate::blocks::signed::Signer;
use crate::engine::Engine;
use crate::engine::memory::MemoryEngine;
use crate::grants;
use crate::service::placed::{self, settings_of};
use crate::volume::{SessionSeal, Volume};

fn placed(id: u8) -> v1::PlacedVolume {
    v1::PlacedVolume {
        id: VolumeId::from_bytes([id; 16]).to_string(),
        account_id: VolumeId::from_bytes([9; 16]).to_string(),
        name: format!("v{id}"),
        block_size: 4 << 20,
        ..v1::PlacedVolume::default()
    }
}

fn open(engine: &Arc<dyn Engine>, placed: &v1::PlacedVolume) -> Arc<Volume> {
    let settings = settings_of(placed).unwrap();
    let signer = Arc::new(Signer::new(&[1; 32]));
    let blocks = StoreAccess::new(settings.id, v1::BlockStoreSpec::default(), signer);
    let seal = Arc::new(SessionSeal::new(&[2; 32]).unwrap());
    Volume::open(Arc::clone(engine), settings, blocks, seal).unwrap()
}

fn revoked() -> TokenId {
    TokenId::from_bytes([3; 16])
}

/// A store of two volumes and a revoked token.
fn store() -> Arc<dyn Engine> {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    for id in [5, 6] {
        let placed = placed(id);
        open(&engine, &placed);
        let (key, value) = placed::row(settings_of(&placed).unwrap().id, &placed);
        let put = &mut |txn: &mut dyn crate::engine::Txn| {
            txn.put(&key, &value);
            txn.put(&grants::revoked_key(revoked()), b"");
            Ok(())
        };
        engine.transact(put).unwrap();
    }
    engine
}

fn backup(engine: &dyn Engine) -> Vec<u8> {
    let mut file = Vec::new();
    dump(engine, &mut file).unwrap();
    file
}

#[test]
fn a_backup_brings_back_volumes_and_revocations() {
    let file = backup(&*store());
    let checked = check(&mut &file[..]).unwrap();
    assert_eq!(checked.volumes, 2);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    assert_eq!(restore(&*engine, &mut &file[..]).unwrap(), checked);
    assert_eq!(placed::kept(&*engine).unwrap(), [placed(5), placed(6)]);
    let snapshot = engine.snapshot().unwrap();
    assert_eq!(grants::revoked_in(&*snapshot).unwrap(), [revoked()]);
    let volume = open(&engine, &placed(5));
    assert_eq!(volume.verify(&mut |name, why| panic!("{name}: {why}")).unwrap().inodes, 1);
    // Only an empty store is filled.
    let error = restore(&*engine, &mut &file[..]).unwrap_err();
    assert_eq!(error.code(), Code::StoreNotEmpty);
}

/// The lost server's clock was ahead, or this one's is behind.
#[test]
fn times_do_not_go_back_with_a_restore() {
    const FAR: i64 = i64::MAX / 2;
    let old = store();
    let ahead = &mut |txn: &mut dyn crate::engine::Txn| {
        txn.advance(FAR);
        txn.put(b"later", b"");
        Ok(())
    };
    old.transact(ahead).unwrap();
    open(&old, &placed(5));
    let file = backup(&*old);
    assert_eq!(check(&mut &file[..]).unwrap().made_at, FAR);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    restore(&*engine, &mut &file[..]).unwrap();
    let look = &mut |txn: &mut dyn crate::engine::Txn| {
        assert!(txn.commit_time() >= FAR);
        Ok(())
    };
    engine.transact(look).unwrap();
}

#[test]
fn no_byte_can_be_changed_left_out_or_added() {
    let file = backup(&*store());
    for at in 0..file.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = file.clone();
            damaged[at] ^= bit;
            let code = check(&mut &damaged[..]).unwrap_err().code();
            // The four bytes after the magic are the version of the format.
            let expected = match at {
                8..12 => Code::FormatUnsupported,
                _ => Code::BackupInvalid,
            };
            assert_eq!(code, expected, "bit {bit} of byte {at}");
        }
        assert_eq!(check(&mut &file[..at]).unwrap_err().code(), Code::BackupInvalid, "cut at {at}");
    }
    let longer = [&file[..], b"x"].concat();
    assert_eq!(check(&mut &longer[..]).unwrap_err().code(), Code::BackupInvalid);
}

/// Chunks that are each whole, but not all there, or twice.
#[test]
fn chunks_belong_together() {
    let file = backup(&*store());
    let mut chunks = Vec::new();
    let mut at = 12;
    while at < file.len() {
        let len = u32::from_be_bytes(file[at + 1..at + 5].try_into().unwrap()) as usize;
        chunks.push(at..at + 5 + len + 4);
        at += 5 + len + 4;
    }
    assert!(chunks.len() >= 7, "{chunks:?}");
    for chunk in chunks {
        let without = [&file[..chunk.start], &file[chunk.end..]].concat();
        assert_eq!(check(&mut &without[..]).unwrap_err().code(), Code::BackupInvalid);
        let twice = [&file[..chunk.end], &file[chunk.start..]].concat();
        assert_eq!(check(&mut &twice[..]).unwrap_err().code(), Code::BackupInvalid);
    }
}
