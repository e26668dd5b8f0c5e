//! Volumes. Every query but those for metadata servers begins with the
//! account: what is not yours is not there.

use flexfs_common::Result;
use flexfs_common::flags::{self, Owner};
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;

use super::{Row, Sql, Value, first};
use crate::model::{Volume, VolumeState};
use crate::page::Page;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, account_id, meta_store, block_store, block_size, compression, \
             encryption, retention_seconds, max_blocks, max_inodes, flags, notes, state, \
             created_at, created_by FROM volumes ",
            $rest
        )
    };
}

/// What a caller may see of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    /// Whose things.
    pub account: AccountId,
    /// The only volumes; empty = all.
    pub volumes: Vec<VolumeId>,
    /// Only what this token made (role `provisioner`).
    pub created_by: Option<TokenId>,
}

impl Visible {
    /// All of an account.
    #[must_use]
    pub fn all(account: AccountId) -> Visible {
        Visible { account, volumes: Vec::new(), created_by: None }
    }
    /// Is it limited to some volumes?
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.volumes.is_empty() || self.created_by.is_some()
    }
    /// May this one be seen?
    #[must_use]
    pub fn shows(&self, volume: &Volume) -> bool {
        self.account == volume.account_id
            && (self.volumes.is_empty() || self.volumes.contains(&volume.id))
            && self.created_by.is_none_or(|maker| maker == volume.created_by)
    }
    /// As the arguments of `only` (ids joined by commas) and `made_by`.
    pub(super) fn limits(&self) -> [Value; 2] {
        let only: Vec<String> = self.volumes.iter().map(ToString::to_string).collect();
        let maker = self.created_by.map(|id| id.to_string()).unwrap_or_default();
        [Value::text(only.join(",")), Value::text(maker)]
    }
}

fn decode(row: Row) -> Result<Volume> {
    let mut cells = row.cells();
    Ok(Volume {
        id: cells.parse()?,
        name: cells.parse()?,
        account_id: cells.parse()?,
        meta_store: cells.parse()?,
        block_store: cells.parse()?,
        block_size: cells.number()?,
        compression: cells.parse()?,
        encryption: cells.int()? != 0,
        retention_seconds: cells.number()?,
        max_blocks: cells.number()?,
        max_inodes: cells.number()?,
        flags: flags::parse(Owner::Volume, cells.text()?.split(',').filter(|f| !f.is_empty()))?,
        notes: cells.text()?,
        state: cells.parse()?,
        created_at: cells.time()?,
        created_by: cells.parse()?,
    })
}

/// # Errors
/// `DATABASE_FAILED`, also when it exists: look first.
pub async fn insert(sql: &mut dyn Sql, volume: &Volume) -> Result<()> {
    sql.execute(
        "INSERT INTO volumes (id, name, account_id, meta_store, block_store, block_size, \
         compression, encryption, retention_seconds, max_blocks, max_inodes, flags, notes, \
         state, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        vec![
            Value::text(volume.id),
            Value::text(&volume.name),
            Value::text(volume.account_id),
            Value::text(&volume.meta_store),
            Value::text(&volume.block_store),
            i64::from(volume.block_size).into(),
            Value::text(volume.compression),
            i64::from(volume.encryption).into(),
            Value::unsigned(volume.retention_seconds),
            Value::unsigned(volume.max_blocks),
            Value::unsigned(volume.max_inodes),
            Value::text(flags::names(&volume.flags).join(",")),
            Value::text(&volume.notes),
            Value::text(volume.state),
            Value::time(volume.created_at),
            Value::text(volume.created_by),
        ],
    )
    .await
    .map(drop)
}

/// By id, in any state, of any account: for what a verified token names.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_id(sql: &mut dyn Sql, id: VolumeId) -> Result<Option<Volume>> {
    first(sql, select!("WHERE id = $1"), vec![Value::text(id)]).await?.map(decode).transpose()
}

/// The active one of this name, else the one last retired.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_name(sql: &mut dyn Sql, account: AccountId, name: &str) -> Result<Option<Volume>> {
    first(
        sql,
        select!(
            "WHERE account_id = $1 AND name = $2
             ORDER BY CASE state WHEN 'active' THEN 0 ELSE 1 END, created_at DESC LIMIT 1"
        ),
        vec![Value::text(account), name.into()],
    )
    .await?
    .map(decode)
    .transpose()
}

/// Those whose id begins so, of what the caller may see; two at most.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_prefix(
    sql: &mut dyn Sql,
    visible: &Visible,
    from: &str,
    to: &str,
) -> Result<Vec<Volume>> {
    let [only, maker] = visible.limits();
    let rows = sql
        .query(
            select!(
                "WHERE account_id = $1 AND id >= $2 AND id < $3
                   AND ($4 = '' OR $4 LIKE '%' || id || '%')
                   AND ($5 = '' OR created_by = $5)
                 ORDER BY id LIMIT 2"
            ),
            vec![Value::text(visible.account), from.into(), to.into(), only, maker],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// A page; `state` empty = any.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(
    sql: &mut dyn Sql,
    visible: &Visible,
    state: &str,
    page: &Page,
) -> Result<Vec<Volume>> {
    let [only, maker] = visible.limits();
    let rows = sql
        .query(
            select!(
                "WHERE account_id = $1
                   AND ($2 = '' OR $2 LIKE '%' || id || '%')
                   AND ($3 = '' OR created_by = $3)
                   AND ($4 = '' OR state = $4)
                   AND (created_at > $5 OR (created_at = $5 AND id > $6))
                 ORDER BY created_at, id LIMIT $7"
            ),
            vec![
                Value::text(visible.account),
                only,
                maker,
                state.into(),
                page.after_at.into(),
                Value::text(&page.after_id),
                page.fetch().into(),
            ],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// The volumes of a meta store after an id, in the order of ids, at most 1000.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn placed(sql: &mut dyn Sql, store: &StoreId, after: &str) -> Result<Vec<Volume>> {
    let rows = sql
        .query(
            select!("WHERE meta_store = $1 AND id > $2 ORDER BY id LIMIT 1000"),
            vec![Value::text(store), after.into()],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn set_state(sql: &mut dyn Sql, id: VolumeId, state: VolumeState) -> Result<()> {
    sql.execute(
        "UPDATE volumes SET state = $2 WHERE id = $1",
        vec![Value::text(id), Value::text(state)],
    )
    .await
    .map(drop)
}

/// Changes notes, restrictions, limits and retention.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn update(sql: &mut dyn Sql, volume: &Volume) -> Result<()> {
    sql.execute(
        "UPDATE volumes SET notes = $2, flags = $3, max_blocks = $4, max_inodes = $5, \
         retention_seconds = $6 WHERE id = $1",
        vec![
            Value::text(volume.id),
            Value::text(&volume.notes),
            Value::text(flags::names(&volume.flags).join(",")),
            Value::unsigned(volume.max_blocks),
            Value::unsigned(volume.max_inodes),
            Value::unsigned(volume.retention_seconds),
        ],
    )
    .await
    .map(drop)
}
