//! Meta stores and block stores: they belong to the installation.

use flexfs_auth::policy::Resource;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::TokenId;
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::{self, FeedKind};

use super::input::{self, bad};
use super::mint::{self, Outcome, token_change};
use super::{Caller, Service};
use crate::model::{BlockStore, BlockStoreKind, Grant, MetaStore, StoreState, TokenRecord};
use crate::page::Page;
use crate::store::changes::Change;
use crate::store::{blocks, ending, metas};

/// A meta store as shown: with the id of its live token, for `system` alone.
pub type ShownMetaStore = (MetaStore, Option<TokenId>);

impl Service {
    /// Makes a meta store and its meta token.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `META_STORE_EXISTS` (also for the id of a deleted
    /// one), `TOKEN_EXISTS`, `NAME_INVALID`, `ARGUMENT_INVALID`.
    pub async fn create_meta_store(
        &self,
        caller: &Caller,
        request: v1::CreateMetaStoreRequest,
    ) -> Result<(MetaStore, TokenRecord)> {
        caller.permit(Resource::Installation)?;
        let store = MetaStore {
            id: request.id.parse()?,
            address: input::address(&request.address)?,
            state: StoreState::Active,
            created_at: mint::now(),
            created_by: caller.token_id(),
        };
        let token = input::new_token(request.meta_token.as_ref(), TokenKind::Meta)?;
        let minted = self.derive(caller, token).await?;
        let grant = Grant::Meta { meta_store: store.id.clone() };
        let record = mint::record(caller, caller.account_id(), &minted.token, grant);
        let mut tx = self.begin_for(caller).await?;
        if let Some(existing) = metas::by_id(tx.sql(), &store.id).await? {
            let same = MetaStore { created_at: existing.created_at, ..store } == existing;
            return match self.repeated(tx.sql(), &minted.token, &record).await {
                Ok(Outcome::Repeated(record)) if same => Ok((existing, record)),
                Ok(_) => Err(Code::MetaStoreExists.into()),
                Err(e) if e.code() == Code::TokenExists => Err(Code::MetaStoreExists.into()),
                Err(e) => Err(e),
            };
        }
        self.repeated(tx.sql(), &minted.token, &record).await?;
        metas::insert(tx.sql(), &store).await?;
        self.insert_token(tx.sql(), &record, &minted.verifier).await?;
        let changes = [
            Change { meta_store: Some(store.id.clone()), ..Change::of(FeedKind::MetaStoreChanged) },
            token_change(FeedKind::TokenChanged, &record, None),
        ];
        tx.commit(caller.entry(None, "metaStore.create", &store.id), &changes).await?;
        Ok((store, record))
    }

    /// # Errors
    /// `META_STORE_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_meta_store(
        &self,
        caller: &Caller,
        request: v1::GetRequest,
    ) -> Result<ShownMetaStore> {
        caller.permit(Resource::Installation)?;
        let id = input::store_id(&request.id, Code::MetaStoreNotFound)?;
        let mut reader = self.store.reader();
        let store = metas::by_id(reader.as_mut(), &id).await?.ok_or(Code::MetaStoreNotFound)?;
        let token =
            if caller.is_system() { metas::live_token(reader.as_mut(), &id).await? } else { None };
        Ok((store, token))
    }

    /// # Errors
    /// `ROLE_FORBIDDEN`, `ARGUMENT_INVALID`.
    pub async fn list_meta_stores(
        &self,
        caller: &Caller,
        request: v1::ListRequest,
    ) -> Result<(Vec<ShownMetaStore>, String)> {
        caller.permit(Resource::Installation)?;
        let page = Page::parse(request.limit, &request.page)?;
        let state = input::state::<StoreState>(&request.state)?;
        let mut reader = self.store.reader();
        let mut items = metas::list(reader.as_mut(), state, &page).await?;
        let next = page.finish(&mut items, |s| (s.created_at.as_microsecond(), s.id.to_string()));
        let mut shown = Vec::with_capacity(items.len());
        for store in items {
            let token = if caller.is_system() {
                metas::live_token(reader.as_mut(), &store.id).await?
            } else {
                None
            };
            shown.push((store, token));
        }
        Ok((shown, next))
    }

    /// Deletes a meta store without active volumes; its token is revoked in
    /// the same transaction.
    ///
    /// # Errors
    /// `META_STORE_NOT_FOUND`, `META_STORE_IN_USE`, `ROLE_FORBIDDEN`.
    pub async fn delete_meta_store(
        &self,
        caller: &Caller,
        request: v1::DeleteRequest,
    ) -> Result<(StoreId, u64)> {
        caller.permit(Resource::Installation)?;
        if let Some((id, revision)) = caller.deleted_before() {
            return Ok((id, self.told(caller, revision).await?));
        }
        let id = input::store_id(&request.id, Code::MetaStoreNotFound)?;
        let mut tx = self.begin_for(caller).await?;
        metas::by_id(tx.sql(), &id)
            .await?
            .filter(|store| store.state == StoreState::Active)
            .ok_or(Code::MetaStoreNotFound)?;
        if metas::in_use(tx.sql(), &id).await? {
            return Err(Code::MetaStoreInUse.into());
        }
        metas::set_state(tx.sql(), &id, StoreState::Deleted).await?;
        let revoked =
            ending::revoke_of_store(tx.sql(), &id, mint::now(), "meta store deleted").await?;
        let mut changes =
            vec![Change { meta_store: Some(id.clone()), ..Change::of(FeedKind::MetaStoreChanged) }];
        changes.extend(revoked.into_iter().map(|token| Change {
            token: Some(token),
            account: Some(caller.account_id()),
            meta_store: Some(id.clone()),
            ..Change::of(FeedKind::TokenRevoked)
        }));
        let revision = tx.commit(caller.entry(None, "metaStore.delete", &id), &changes).await?;
        Ok((id, revision))
    }

    /// Makes a block store. Its credentials stay in meta's configuration:
    /// only the name of an entry there is kept here.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `BLOCK_STORE_EXISTS` (also for the id of a deleted
    /// one), `NAME_INVALID`, `ARGUMENT_INVALID`.
    pub async fn create_block_store(
        &self,
        caller: &Caller,
        request: v1::CreateBlockStoreRequest,
    ) -> Result<BlockStore> {
        caller.permit(Resource::Installation)?;
        let asked = request.block_store.ok_or_else(|| bad("the block store is missing"))?;
        let store = block_store(caller, &asked)?;
        let mut tx = self.begin_for(caller).await?;
        if blocks::by_id(tx.sql(), &store.id).await?.is_some() {
            return Err(Code::BlockStoreExists.into());
        }
        blocks::insert(tx.sql(), &store).await?;
        let change = Change {
            block_store: Some(store.id.clone()),
            ..Change::of(FeedKind::BlockStoreChanged)
        };
        tx.commit(caller.entry(None, "blockStore.create", &store.id), &[change]).await?;
        Ok(store)
    }

    /// # Errors
    /// `BLOCK_STORE_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_block_store(
        &self,
        caller: &Caller,
        request: v1::GetRequest,
    ) -> Result<BlockStore> {
        caller.permit(Resource::Installation)?;
        let id = input::store_id(&request.id, Code::BlockStoreNotFound)?;
        let store = blocks::by_id(self.store.reader().as_mut(), &id).await?;
        store.ok_or_else(|| Code::BlockStoreNotFound.into())
    }

    /// # Errors
    /// `ROLE_FORBIDDEN`, `ARGUMENT_INVALID`.
    pub async fn list_block_stores(
        &self,
        caller: &Caller,
        request: v1::ListRequest,
    ) -> Result<(Vec<BlockStore>, String)> {
        caller.permit(Resource::Installation)?;
        let page = Page::parse(request.limit, &request.page)?;
        let state = input::state::<StoreState>(&request.state)?;
        let mut items = blocks::list(self.store.reader().as_mut(), state, &page).await?;
        let next = page.finish(&mut items, |s| (s.created_at.as_microsecond(), s.id.to_string()));
        Ok((items, next))
    }

    /// Deletes a block store without active volumes.
    ///
    /// # Errors
    /// `BLOCK_STORE_NOT_FOUND`, `BLOCK_STORE_IN_USE`, `ROLE_FORBIDDEN`.
    pub async fn delete_block_store(
        &self,
        caller: &Caller,
        request: v1::DeleteRequest,
    ) -> Result<(StoreId, u64)> {
        caller.permit(Resource::Installation)?;
        if let Some((id, revision)) = caller.deleted_before() {
            return Ok((id, self.told(caller, revision).await?));
        }
        let id = input::store_id(&request.id, Code::BlockStoreNotFound)?;
        let mut tx = self.begin_for(caller).await?;
        blocks::by_id(tx.sql(), &id)
            .await?
            .filter(|store| store.state == StoreState::Active)
            .ok_or(Code::BlockStoreNotFound)?;
        if blocks::in_use(tx.sql(), &id).await? {
            return Err(Code::BlockStoreInUse.into());
        }
        blocks::set_state(tx.sql(), &id, StoreState::Deleted).await?;
        let change =
            Change { block_store: Some(id.clone()), ..Change::of(FeedKind::BlockStoreChanged) };
        let revision = tx.commit(caller.entry(None, "blockStore.delete", &id), &[change]).await?;
        Ok((id, revision))
    }
}

fn block_store(caller: &Caller, asked: &v1::BlockStore) -> Result<BlockStore> {
    let kind: BlockStoreKind = asked.kind.parse()?;
    let location = input::line("the location", &asked.location)?;
    if location.is_empty() {
        return Err(bad("the location (--path or --bucket) is missing"));
    }
    let prefix = input::line("the prefix", &asked.prefix)?;
    if kind == BlockStoreKind::Dir {
        let components = location.strip_prefix('/').unwrap_or_default().split('/');
        let ok = location.starts_with('/')
            && location != "/"
            && components.into_iter().all(|c| !c.is_empty() && c != "." && c != "..");
        if !ok {
            return Err(Error::new(
                Code::PathInvalid,
                "the directory of a block store is an absolute path without `.`, `..`, `//` or a \
                 trailing `/`",
            ));
        }
    } else if location.contains(['/', ' ']) {
        return Err(bad("a bucket's name has no `/` and no spaces"));
    }
    if prefix.split('/').any(|component| component == "." || component == "..") {
        return Err(bad("the prefix may not contain `.` or `..`"));
    }
    let credentials_name = asked.credentials_name.clone();
    if !credentials_name.is_empty() {
        // A name, never a value or a reference.
        credentials_name.parse::<StoreId>().map_err(|_| {
            bad("--credentials is the name of an entry in meta's configuration: [a-z0-9._-]")
        })?;
    }
    Ok(BlockStore {
        id: asked.id.parse()?,
        kind,
        location,
        prefix,
        region: input::line("the region", &asked.region)?,
        address: input::line("the address", &asked.address)?,
        credentials_name,
        state: StoreState::Active,
        created_at: mint::now(),
        created_by: caller.token_id(),
    })
}
