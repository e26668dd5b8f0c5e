//! Block stores.

use flexfs_common::Result;
use flexfs_common::name::StoreId;

use super::{Row, Sql, Value, first};
use crate::model::{BlockStore, StoreState};
use crate::page::Page;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, location, prefix, region, address, credentials_name, state, \
             created_at, created_by FROM block_stores ",
            $rest
        )
    };
}

fn decode(row: Row) -> Result<BlockStore> {
    let mut cells = row.cells();
    Ok(BlockStore {
        id: cells.parse()?,
        kind: cells.parse()?,
        location: cells.text()?,
        prefix: cells.text()?,
        region: cells.text()?,
        address: cells.text()?,
        credentials_name: cells.text()?,
        state: cells.parse()?,
        created_at: cells.time()?,
        created_by: cells.parse()?,
    })
}

/// # Errors
/// `DATABASE_FAILED`, also when it exists: look first.
pub async fn insert(sql: &mut dyn Sql, store: &BlockStore) -> Result<()> {
    sql.execute(
        "INSERT INTO block_stores (id, kind, location, prefix, region, address, \
         credentials_name, state, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        vec![
            Value::text(&store.id),
            Value::text(store.kind),
            Value::text(&store.location),
            Value::text(&store.prefix),
            Value::text(&store.region),
            Value::text(&store.address),
            Value::text(&store.credentials_name),
            Value::text(store.state),
            Value::time(store.created_at),
            Value::text(store.created_by),
        ],
    )
    .await
    .map(drop)
}

/// By id, in any state.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_id(sql: &mut dyn Sql, id: &StoreId) -> Result<Option<BlockStore>> {
    first(sql, select!("WHERE id = $1"), vec![Value::text(id)]).await?.map(decode).transpose()
}

/// A page; `state` empty = those not deleted.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(sql: &mut dyn Sql, state: &str, page: &Page) -> Result<Vec<BlockStore>> {
    let rows = sql
        .query(
            select!(
                "WHERE ((state = $1) OR ($1 = '' AND state <> 'deleted'))
                   AND (created_at > $2 OR (created_at = $2 AND id > $3))
                 ORDER BY created_at, id LIMIT $4"
            ),
            vec![
                state.into(),
                page.after_at.into(),
                Value::text(&page.after_id),
                page.fetch().into(),
            ],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn set_state(sql: &mut dyn Sql, id: &StoreId, state: StoreState) -> Result<()> {
    sql.execute(
        "UPDATE block_stores SET state = $2 WHERE id = $1",
        vec![Value::text(id), Value::text(state)],
    )
    .await
    .map(drop)
}

/// Do active volumes lie in it?
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn in_use(sql: &mut dyn Sql, id: &StoreId) -> Result<bool> {
    let row = first(
        sql,
        "SELECT id FROM volumes WHERE block_store = $1 AND state = 'active' LIMIT 1",
        vec![Value::text(id)],
    );
    Ok(row.await?.is_some())
}
