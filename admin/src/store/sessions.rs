//! Live mounts, as the metadata servers report them.

use flexfs_common::Result;
use flexfs_common::ids::{AccountId, ServerId, SessionId};
use flexfs_common::name::StoreId;
use jiff::Timestamp;

use super::volumes::Visible;
use super::{Cells, Row, Sql, Value, first};
use crate::model::LiveSession;
use crate::page::Page;

fn decode_cells(cells: &mut Cells) -> Result<LiveSession> {
    Ok(LiveSession {
        id: cells.parse()?,
        server: cells.parse()?,
        token_id: cells.parse()?,
        secret_id: cells.parse()?,
        volume_id: cells.parse()?,
        mount_path: cells.text()?,
        host: cells.text()?,
        dir: cells.text()?,
        address: cells.text()?,
        opened_at: cells.time()?,
    })
}

/// A report of all of a server's sessions begins: those it does not name will
/// be removed at its end.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn mark_stale(sql: &mut dyn Sql, server: ServerId) -> Result<()> {
    sql.execute("UPDATE sessions SET stale = 1 WHERE server_id = $1", vec![Value::text(server)])
        .await
        .map(drop)
}

/// The report is complete.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn remove_stale(sql: &mut dyn Sql, server: ServerId) -> Result<()> {
    sql.execute(
        "DELETE FROM sessions WHERE server_id = $1 AND stale = 1",
        vec![Value::text(server)],
    )
    .await
    .map(drop)
}

/// How many of a server are known.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn count_of(sql: &mut dyn Sql, server: ServerId) -> Result<u64> {
    let row =
        first(sql, "SELECT COUNT(*) FROM sessions WHERE server_id = $1", vec![Value::text(server)])
            .await?;
    row.map_or(Ok(0), |row| row.cells().number())
}

/// Notes one, or that it lives from another secret now. Nothing is noted of a
/// token whose volume is not placed in the server's store, of a secret that is
/// not the token's, or of a session id that another server has.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn put(sql: &mut dyn Sql, store: &StoreId, session: &LiveSession) -> Result<()> {
    sql.execute(
        "INSERT INTO sessions (id, server_id, token_id, secret_id, volume_id, mount_path, host, \
         dir, address, opened_at)
         SELECT $1, $2, t.id, $4, v.id, $6, $7, $8, $9, $10
         FROM tokens t JOIN volumes v ON v.id = t.volume_id
             JOIN token_secrets k ON k.token_id = t.id AND k.id = $4
         WHERE t.id = $3 AND v.id = $5 AND v.meta_store = $11
         ON CONFLICT (id) DO UPDATE SET secret_id = excluded.secret_id,
             address = excluded.address, stale = 0
         WHERE sessions.server_id = excluded.server_id",
        vec![
            Value::text(session.id),
            Value::text(session.server),
            Value::text(session.token_id),
            Value::text(session.secret_id),
            Value::text(session.volume_id),
            Value::text(&session.mount_path),
            Value::text(&session.host),
            Value::text(&session.dir),
            Value::text(&session.address),
            Value::time(session.opened_at),
            Value::text(store),
        ],
    )
    .await
    .map(drop)
}

/// Forgets one of a server.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn remove(sql: &mut dyn Sql, server: ServerId, id: SessionId) -> Result<()> {
    sql.execute(
        "DELETE FROM sessions WHERE id = $1 AND server_id = $2",
        vec![Value::text(id), Value::text(server)],
    )
    .await
    .map(drop)
}

/// Forgets those of servers that were not heard of since an instant.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn purge(sql: &mut dyn Sql, unheard_since: Timestamp) -> Result<u64> {
    sql.execute(
        "DELETE FROM sessions WHERE server_id IN
             (SELECT m.id FROM meta_servers m WHERE m.last_seen_at < $1)",
        vec![Value::time(unheard_since)],
    )
    .await
}

/// A live mount is a use of its token: notes that for all of a server.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn note_used(sql: &mut dyn Sql, server: ServerId, now: Timestamp) -> Result<()> {
    let args = || vec![Value::text(server), Value::time(now)];
    sql.execute(
        "UPDATE tokens SET last_used_at = $2
         WHERE id IN (SELECT s.token_id FROM sessions s WHERE s.server_id = $1)
           AND COALESCE(last_used_at, 0) < $2",
        args(),
    )
    .await?;
    sql.execute(
        "UPDATE token_secrets SET last_used_at = $2
         WHERE id IN (SELECT s.secret_id FROM sessions s WHERE s.server_id = $1)
           AND COALESCE(last_used_at, 0) < $2",
        args(),
    )
    .await
    .map(drop)
}

/// How many there are, of an account or of all.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn count(sql: &mut dyn Sql, account: Option<AccountId>) -> Result<u64> {
    let row = match account {
        None => first(sql, "SELECT COUNT(*) FROM sessions", vec![]).await?,
        Some(account) => {
            first(
                sql,
                "SELECT COUNT(*) FROM sessions s JOIN volumes v ON v.id = s.volume_id
                 WHERE v.account_id = $1",
                vec![Value::text(account)],
            )
            .await?
        }
    };
    row.map_or(Ok(0), |row| row.cells().number())
}

/// A page of what the caller may see, each with its volume's name.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(
    sql: &mut dyn Sql,
    visible: &Visible,
    volume: &str,
    page: &Page,
) -> Result<Vec<(LiveSession, String)>> {
    let [only, maker] = visible.limits();
    let rows: Vec<Row> = sql
        .query(
            "SELECT s.id, s.server_id, s.token_id, s.secret_id, s.volume_id, s.mount_path, \
             s.host, s.dir, s.address, s.opened_at, v.name
             FROM sessions s JOIN volumes v ON v.id = s.volume_id
             WHERE v.account_id = $1
               AND ($2 = '' OR $2 LIKE '%' || v.id || '%')
               AND ($3 = '' OR v.created_by = $3)
               AND ($4 = '' OR v.id = $4)
               AND (s.opened_at, s.id) > ($5, $6)
             ORDER BY s.opened_at, s.id LIMIT $7",
            vec![
                Value::text(visible.account),
                only,
                maker,
                volume.into(),
                page.after_at.into(),
                Value::text(&page.after_id),
                page.fetch().into(),
            ],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok((decode_cells(&mut cells)?, cells.text()?))
        })
        .collect()
}
