//! Volumes.

use flexfs_auth::policy::{Action, Resource};
use flexfs_auth::token::TokenKind;
use flexfs_common::flags::{self, Owner};
use flexfs_common::ids::{AccountId, VolumeId};
use flexfs_common::name::SubtreePath;
use flexfs_common::{Code, Error, Result, limits};
use flexfs_proto::v1::{self, FeedKind};

use super::input::{self, bad};
use super::mint::{self, Minted, Outcome, token_change};
use super::{Caller, Service, hidden};
use crate::model::{
    AccountState, Compression, Grant, Rights, StoreState, TokenRecord, Volume, VolumeState,
};
use crate::page::Page;
use crate::store::changes::Change;
use crate::store::{Sql, accounts, blocks, ending, metas, volumes};

impl Service {
    /// Makes a volume, and its first token when one is given.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN`, `ACCOUNT_NOT_FOUND`, `META_STORE_NOT_FOUND`,
    /// `BLOCK_STORE_NOT_FOUND`, `VOLUME_EXISTS`, `TOKEN_EXISTS`,
    /// `NAME_INVALID`, `ARGUMENT_INVALID`.
    pub async fn create_volume(
        &self,
        caller: &Caller,
        request: v1::CreateVolumeRequest,
    ) -> Result<(Volume, Option<TokenRecord>)> {
        let asked = request.volume.unwrap_or_default();
        let account = self.account_of(caller, &asked.account_id).await?;
        caller.permit(Resource::Account(account)).map_err(|e| hidden(e, Code::AccountNotFound))?;
        let volume = new_volume(caller, account, &asked)?;
        let minted = match request.volume_token {
            Some(text) => {
                let token = input::new_token(Some(&text), TokenKind::Volume)?;
                Some(self.derive(caller, token).await?)
            }
            None => None,
        };
        let mut tx = self.begin_for(caller).await?;
        let active = accounts::by_id(tx.sql(), account).await?;
        if active.is_none_or(|account| account.state != AccountState::Active) {
            return Err(Code::AccountNotFound.into());
        }
        let named = volumes::by_name(tx.sql(), account, volume.name.as_str()).await?;
        if let Some(existing) = named.filter(|volume| volume.state == VolumeState::Active) {
            return self.repeated_volume(tx.sql(), caller, existing, &volume, minted).await;
        }
        check_stores(tx.sql(), &volume).await?;
        volumes::insert(tx.sql(), &volume).await?;
        let mut changes = vec![volume_change(FeedKind::VolumeChanged, &volume)];
        let mut first = None;
        if let Some(minted) = &minted {
            let record = first_token(caller, &volume, minted);
            self.repeated(tx.sql(), &minted.token, &record).await?;
            self.insert_token(tx.sql(), &record, &minted.verifier).await?;
            changes.push(token_change(FeedKind::TokenChanged, &record, Some(&volume)));
            first = Some(record);
        }
        tx.commit(caller.entry(Some(account), "volume.create", volume.id), &changes).await?;
        Ok((volume, first))
    }

    /// The answer to a creation whose name is taken: the same again when it
    /// is the same request with the same token, else a refusal.
    async fn repeated_volume(
        &self,
        sql: &mut dyn Sql,
        caller: &Caller,
        existing: Volume,
        wanted: &Volume,
        minted: Option<Minted>,
    ) -> Result<(Volume, Option<TokenRecord>)> {
        let comparable =
            Volume { id: existing.id, created_at: existing.created_at, ..wanted.clone() };
        let Some(minted) = minted.filter(|_| comparable == existing) else {
            return Err(Code::VolumeExists.into());
        };
        let record = first_token(caller, &existing, &minted);
        match self.repeated(sql, &minted.token, &record).await {
            Ok(Outcome::Repeated(token)) => Ok((existing, Some(token))),
            Ok(Outcome::New) => Err(Code::VolumeExists.into()),
            Err(e) if e.code() == Code::TokenExists => Err(Code::VolumeExists.into()),
            Err(e) => Err(e),
        }
    }

    /// # Errors
    /// `VOLUME_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn get_volume(&self, caller: &Caller, request: v1::GetRequest) -> Result<Volume> {
        let account = self.account_of(caller, &request.account_id).await?;
        let mut reader = self.store.reader();
        let (volume, _permit) = self
            .find_volume(reader.as_mut(), caller, Action::VolumeRead, account, &request.id)
            .await?;
        Ok(volume)
    }

    /// # Errors
    /// `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`, `ARGUMENT_INVALID`.
    pub async fn list_volumes(
        &self,
        caller: &Caller,
        request: v1::ListRequest,
    ) -> Result<(Vec<Volume>, String)> {
        let account = self.account_of(caller, &request.account_id).await?;
        caller.permit(Resource::Account(account)).map_err(|e| hidden(e, Code::AccountNotFound))?;
        let page = Page::parse(request.limit, &request.page)?;
        let state = input::state::<VolumeState>(&request.state)?;
        let visible = caller.visible(account);
        let mut items = volumes::list(self.store.reader().as_mut(), &visible, state, &page).await?;
        let next = page.finish(&mut items, |v| (v.created_at.as_microsecond(), v.id.to_string()));
        Ok((items, next))
    }

    /// Retires a volume; its tokens are revoked in the same transaction.
    ///
    /// # Errors
    /// `VOLUME_NOT_FOUND`, `ACCOUNT_NOT_FOUND`, `ROLE_FORBIDDEN`.
    pub async fn delete_volume(
        &self,
        caller: &Caller,
        request: v1::DeleteRequest,
    ) -> Result<(VolumeId, u64)> {
        if let Some((id, revision)) = caller.deleted_before() {
            return Ok((id, self.told(caller, revision).await?));
        }
        let account = self.account_of(caller, &request.account_id).await?;
        let mut tx = self.begin_for(caller).await?;
        let (volume, _permit) =
            self.find_volume(tx.sql(), caller, Action::VolumeWrite, account, &request.id).await?;
        if volume.state == VolumeState::Retired {
            return Err(Code::VolumeNotFound.into());
        }
        volumes::set_state(tx.sql(), volume.id, VolumeState::Retired).await?;
        let revoked =
            ending::revoke_of_volume(tx.sql(), volume.id, mint::now(), "volume deleted").await?;
        let mut changes = vec![volume_change(FeedKind::VolumeRetired, &volume)];
        changes.extend(revoked.into_iter().map(|token| Change {
            token: Some(token),
            ..volume_change(FeedKind::TokenRevoked, &volume)
        }));
        let entry = caller.entry(Some(account), "volume.delete", volume.id);
        let revision = tx.commit(entry, &changes).await?;
        Ok((volume.id, self.told(caller, revision).await?))
    }
}

/// The feed row of a volume.
pub(super) fn volume_change(kind: FeedKind, volume: &Volume) -> Change {
    Change {
        account: Some(volume.account_id),
        volume: Some(volume.id),
        meta_store: Some(volume.meta_store.clone()),
        ..Change::of(kind)
    }
}

fn first_token(caller: &Caller, volume: &Volume, minted: &Minted) -> TokenRecord {
    let grant = Grant::Volume {
        volume_id: volume.id,
        mount_path: SubtreePath::root(),
        rights: Rights::Rw,
        flags: v1::Flags::default(),
    };
    mint::record(caller, volume.account_id, &minted.token, grant)
}

async fn check_stores(sql: &mut dyn Sql, volume: &Volume) -> Result<()> {
    let active = |state| state == StoreState::Active;
    let meta = metas::by_id(sql, &volume.meta_store).await?;
    if !meta.is_some_and(|store| active(store.state)) {
        return Err(missing(Code::MetaStoreNotFound, volume.meta_store.as_str()));
    }
    let block = blocks::by_id(sql, &volume.block_store).await?;
    if !block.is_some_and(|store| active(store.state)) {
        return Err(missing(Code::BlockStoreNotFound, volume.block_store.as_str()));
    }
    Ok(())
}

fn missing(code: Code, id: &str) -> Error {
    let what = if code == Code::MetaStoreNotFound { "meta store" } else { "block store" };
    Error::new(code, format!("there is no {what} `{id}`"))
}

fn new_volume(caller: &Caller, account: AccountId, asked: &v1::Volume) -> Result<Volume> {
    if !asked.id.is_empty() {
        return Err(bad("the id of a new volume is chosen by the server"));
    }
    let block_size =
        if asked.block_size == 0 { limits::BLOCK_SIZE_DEFAULT } else { asked.block_size };
    let in_range = (limits::BLOCK_SIZE_MIN..=limits::BLOCK_SIZE_MAX).contains(&block_size);
    if !in_range || !block_size.is_power_of_two() {
        return Err(bad(format!(
            "the block size is a power of two from {} to {} bytes",
            limits::BLOCK_SIZE_MIN,
            limits::BLOCK_SIZE_MAX
        )));
    }
    let compression =
        if asked.compression.is_empty() { Compression::Lz4 } else { asked.compression.parse()? };
    for (what, value) in [
        ("the retention", asked.retention_seconds),
        ("maxBlocks", asked.max_blocks),
        ("maxInodes", asked.max_inodes),
    ] {
        if i64::try_from(value).is_err() {
            return Err(bad(format!("{what} is too large")));
        }
    }
    if asked.flags.len() > flags::NAMES.len() + flags::VOLUME_NAMES.len() {
        return Err(bad("a flag is named twice"));
    }
    Ok(Volume {
        id: VolumeId::random(),
        name: asked.name.parse()?,
        account_id: account,
        meta_store: input::store_id(&asked.meta_store_id, Code::MetaStoreNotFound)?,
        block_store: input::store_id(&asked.block_store_id, Code::BlockStoreNotFound)?,
        block_size,
        compression,
        encryption: asked.encryption,
        retention_seconds: asked.retention_seconds,
        max_blocks: asked.max_blocks,
        max_inodes: asked.max_inodes,
        flags: flags::parse(Owner::Volume, asked.flags.iter().map(String::as_str))?,
        notes: input::notes(&asked.notes)?,
        state: VolumeState::Active,
        created_at: mint::now(),
        created_by: caller.token_id(),
    })
}
