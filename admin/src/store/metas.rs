//! Meta stores and the servers registered in them.

use flexfs_common::Result;
use flexfs_common::ids::{AccountId, ServerId, TokenId};
use flexfs_common::name::StoreId;
use jiff::Timestamp;

use super::{Row, Sql, Value, first};
use crate::model::{MetaServer, MetaStore, StoreState};
use crate::page::Page;

macro_rules! stores {
    ($rest:literal) => {
        concat!("SELECT id, address, state, created_at, created_by FROM meta_stores ", $rest)
    };
}
macro_rules! servers {
    ($rest:literal) => {
        concat!(
            "SELECT id, meta_store, address, version, acknowledged, last_seen_at \
             FROM meta_servers ",
            $rest
        )
    };
}

fn decode(row: Row) -> Result<MetaStore> {
    let mut cells = row.cells();
    Ok(MetaStore {
        id: cells.parse()?,
        address: cells.text()?,
        state: cells.parse()?,
        created_at: cells.time()?,
        created_by: cells.parse()?,
    })
}

fn decode_server(row: Row) -> Result<MetaServer> {
    let mut cells = row.cells();
    Ok(MetaServer {
        id: cells.parse()?,
        meta_store: cells.parse()?,
        address: cells.text()?,
        version: cells.text()?,
        acknowledged: cells.number()?,
        last_seen_at: cells.time()?,
    })
}

/// # Errors
/// `DATABASE_FAILED`, also when it exists: look first.
pub async fn insert(sql: &mut dyn Sql, store: &MetaStore) -> Result<()> {
    sql.execute(
        "INSERT INTO meta_stores (id, address, state, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5)",
        vec![
            Value::text(&store.id),
            Value::text(&store.address),
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
pub async fn by_id(sql: &mut dyn Sql, id: &StoreId) -> Result<Option<MetaStore>> {
    first(sql, stores!("WHERE id = $1"), vec![Value::text(id)]).await?.map(decode).transpose()
}

/// A page; `state` empty = those not deleted.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(sql: &mut dyn Sql, state: &str, page: &Page) -> Result<Vec<MetaStore>> {
    let rows = sql
        .query(
            stores!(
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
        "UPDATE meta_stores SET state = $2 WHERE id = $1",
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
        "SELECT id FROM volumes WHERE meta_store = $1 AND state = 'active' LIMIT 1",
        vec![Value::text(id)],
    );
    Ok(row.await?.is_some())
}

/// The newest of its tokens that is neither revoked nor deleted.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn live_token(sql: &mut dyn Sql, id: &StoreId) -> Result<Option<TokenId>> {
    first(
        sql,
        "SELECT id FROM tokens WHERE meta_store = $1 AND revoked_at IS NULL
           AND deleted_at IS NULL ORDER BY created_at DESC LIMIT 1",
        vec![Value::text(id)],
    )
    .await?
    .map(|row| row.cells().parse())
    .transpose()
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn server(sql: &mut dyn Sql, id: ServerId) -> Result<Option<MetaServer>> {
    first(sql, servers!("WHERE id = $1"), vec![Value::text(id)])
        .await?
        .map(decode_server)
        .transpose()
}

/// The servers of a store, the one last heard of first.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn servers_of(sql: &mut dyn Sql, store: &StoreId) -> Result<Vec<MetaServer>> {
    let rows = sql
        .query(
            servers!("WHERE meta_store = $1 ORDER BY last_seen_at DESC, id LIMIT 1000"),
            vec![Value::text(store)],
        )
        .await?;
    rows.into_iter().map(decode_server).collect()
}

/// All servers, or those of the stores where an account has volumes.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn servers_for(sql: &mut dyn Sql, account: Option<AccountId>) -> Result<Vec<MetaServer>> {
    let rows = sql
        .query(
            servers!(
                "WHERE $1 = '' OR meta_store IN (SELECT meta_store FROM volumes
                     WHERE account_id = $1 AND state = 'active')
                 ORDER BY meta_store, id LIMIT 1000"
            ),
            vec![Value::text(account.map(|id| id.to_string()).unwrap_or_default())],
        )
        .await?;
    rows.into_iter().map(decode_server).collect()
}

/// Registers a server, or renews what is known of it. The caller has checked
/// that it is not another store's.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn put_server(sql: &mut dyn Sql, server: &MetaServer) -> Result<()> {
    sql.execute(
        "INSERT INTO meta_servers (id, meta_store, address, version, acknowledged, last_seen_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (id) DO UPDATE SET address = excluded.address,
             version = excluded.version, last_seen_at = excluded.last_seen_at",
        vec![
            Value::text(server.id),
            Value::text(&server.meta_store),
            Value::text(&server.address),
            Value::text(&server.version),
            Value::unsigned(server.acknowledged),
            Value::time(server.last_seen_at),
        ],
    )
    .await
    .map(drop)
}

/// Notes how far a server is.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn acknowledge(
    sql: &mut dyn Sql,
    id: ServerId,
    revision: u64,
    at: Timestamp,
) -> Result<()> {
    sql.execute(
        "UPDATE meta_servers SET acknowledged = $2, last_seen_at = $3 WHERE id = $1",
        vec![Value::text(id), Value::unsigned(revision), Value::time(at)],
    )
    .await
    .map(drop)
}

/// Adds to the sessions that a server cut for a token.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn add_cuts(sql: &mut dyn Sql, id: ServerId, token: TokenId, count: u32) -> Result<()> {
    sql.execute(
        "INSERT INTO session_cuts (server_id, token_id, sessions) VALUES ($1, $2, $3)
         ON CONFLICT (server_id, token_id)
         DO UPDATE SET sessions = session_cuts.sessions + excluded.sessions",
        vec![Value::text(id), Value::text(token), i64::from(count).into()],
    )
    .await
    .map(drop)
}

/// Sessions that were cut for the tokens of an account.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn cuts_of_account(sql: &mut dyn Sql, account: AccountId) -> Result<u32> {
    let row = first(
        sql,
        "SELECT CAST(COALESCE(SUM(c.sessions), 0) AS BIGINT) FROM session_cuts c
         JOIN tokens t ON t.id = c.token_id WHERE t.account_id = $1",
        vec![Value::text(account)],
    )
    .await?;
    row.map_or(Ok(0), |row| row.cells().number())
}

/// How many sessions each server cut for a token.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn cuts(sql: &mut dyn Sql, token: TokenId) -> Result<Vec<(ServerId, u32)>> {
    let rows = sql
        .query(
            "SELECT server_id, sessions FROM session_cuts WHERE token_id = $1",
            vec![Value::text(token)],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok((cells.parse()?, cells.number()?))
        })
        .collect()
}
