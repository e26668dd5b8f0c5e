//! Things to put into a store.

use flexfs_common::clock;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_proto::v1;
use jiff::Timestamp;

use super::super::changes::Change;
use super::super::testing::TestDatabase;
use super::super::{Store, Tx, accounts, blocks, metas};
use crate::audit::{Entry, OK, Who};
use crate::model::{
    Account, AccountState, BlockStore, BlockStoreKind, Compression, Grant, MetaStore, Rights,
    StoreState, TokenRecord, Used, Volume, VolumeState,
};

pub(super) fn entry() -> Entry {
    Entry {
        who: Who::Bootstrap,
        account: None,
        action: "test",
        target: "x".into(),
        source: Some("192.0.2.1".parse().unwrap()),
        outcome: OK,
        detail: String::new(),
        request: None,
    }
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_microsecond(clock::wall_now().as_microsecond()).unwrap()
}

pub(super) fn store_id(text: &str) -> StoreId {
    text.parse().unwrap()
}

pub(super) async fn commit(tx: Tx, changes: &[Change]) -> u64 {
    tx.commit(entry(), changes).await.unwrap()
}

pub(super) fn account(name: &str) -> Account {
    Account {
        id: AccountId::random(),
        name: name.into(),
        email: String::new(),
        state: AccountState::Active,
        created_at: now(),
        created_by: Some(TokenId::random()),
        max_token_age: 0,
    }
}

pub(super) fn volume(account: &Account, name: &str) -> Volume {
    Volume {
        id: VolumeId::random(),
        name: name.parse().unwrap(),
        account_id: account.id,
        meta_store: store_id("m1"),
        block_store: store_id("b1"),
        block_size: 4 << 20,
        compression: Compression::Zstd,
        encryption: true,
        retention_seconds: 7,
        max_blocks: u64::try_from(i64::MAX).unwrap(),
        max_inodes: 0,
        flags: v1::Flags { no_exec: true, no_acl: true, ..v1::Flags::default() },
        notes: "ü\n\"'%".into(),
        state: VolumeState::Active,
        created_at: now(),
        created_by: TokenId::random(),
    }
}

pub(super) fn token(account: &Account, grant: Grant) -> TokenRecord {
    TokenRecord {
        id: TokenId::random(),
        account_id: account.id,
        grant,
        cidrs: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        notes: "n".into(),
        last4: "abcd".into(),
        created_at: now(),
        expires_at: Some(now()),
        not_before: None,
        idle_seconds: 90,
        rotated_at: now(),
        revoked_at: None,
        revoke_reason: String::new(),
        disabled_at: None,
        used: Used::default(),
        deleted_at: None,
        created_by: Some(TokenId::random()),
    }
}

pub(super) fn of_volume(volume: &Volume) -> Grant {
    Grant::Volume {
        volume_id: volume.id,
        mount_path: "/a/b".parse().unwrap(),
        rights: Rights::Append,
        flags: v1::Flags {
            no_suid: true,
            uid: Some(u32::MAX - 1),
            gid: Some(0),
            ..v1::Flags::default()
        },
    }
}

/// Two accounts, meta stores m1 and m2, block stores b1 and b2.
pub(super) async fn populated(db: &TestDatabase) -> (Store, Account, Account) {
    let store = db.open().await;
    let (one, two) = (account("one"), account("two"));
    let mut tx = store.begin().await.unwrap();
    for account in [&one, &two] {
        accounts::insert(tx.sql(), account).await.unwrap();
    }
    for name in ["m1", "m2"] {
        let meta = MetaStore {
            id: store_id(name),
            address: "h:1".into(),
            state: StoreState::Active,
            created_at: now(),
            created_by: TokenId::random(),
        };
        metas::insert(tx.sql(), &meta).await.unwrap();
        assert_eq!(metas::by_id(tx.sql(), &meta.id).await.unwrap(), Some(meta));
    }
    for name in ["b1", "b2"] {
        let block = BlockStore {
            id: store_id(name),
            kind: BlockStoreKind::Dir,
            location: "/d".into(),
            prefix: String::new(),
            region: String::new(),
            address: String::new(),
            credentials_name: "c".into(),
            state: StoreState::Active,
            created_at: now(),
            created_by: TokenId::random(),
        };
        blocks::insert(tx.sql(), &block).await.unwrap();
        assert_eq!(blocks::by_id(tx.sql(), &block.id).await.unwrap(), Some(block));
    }
    commit(tx, &[]).await;
    (store, one, two)
}
