//! The verifiers of tokens' secrets, and who uses each.

use std::net::IpAddr;

use flexfs_auth::verifier::Verifier;
use flexfs_common::Result;
use flexfs_common::ids::{SecretId, TokenId};
use jiff::Timestamp;

use super::{Sql, Value};
use crate::model::{SecretRecord, SecretUse};

/// Hosts kept per secret: names are the hosts' own, so somebody with a token
/// could make up any number of them.
pub const HOSTS_PER_SECRET: i64 = 64;

/// Ended secrets kept per token, to tell a late user what happened: somebody
/// with a token could rotate it without end.
pub const ENDED_PER_TOKEN: i64 = 16;

/// Writes one; of those that have ended only the newest are kept.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn insert(sql: &mut dyn Sql, token: TokenId, secret: &SecretRecord) -> Result<()> {
    sql.execute(
        "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, last4, created_at, \
         expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vec![
            Value::text(secret.id),
            Value::text(token),
            Value::bytes(&secret.verifier.tag),
            Value::text(&secret.verifier.pepper_id),
            Value::text(&secret.verifier.phc),
            Value::text(&secret.last4),
            Value::time(secret.created_at),
            Value::opt_time(secret.expires_at),
        ],
    )
    .await?;
    sql.execute(
        "DELETE FROM token_secrets
         WHERE token_id = $1 AND (retired_at IS NOT NULL OR expires_at <= $2)
           AND created_at < (SELECT MIN(k.created_at) FROM (
               SELECT s.created_at FROM token_secrets s
               WHERE s.token_id = $1 AND (s.retired_at IS NOT NULL OR s.expires_at <= $2)
               ORDER BY s.created_at DESC LIMIT $3) k)",
        vec![Value::text(token), Value::time(secret.created_at), ENDED_PER_TOKEN.into()],
    )
    .await?;
    sql.execute(
        "UPDATE tokens SET last4 = $2, rotated_at = $3 WHERE id = $1",
        vec![Value::text(token), Value::text(&secret.last4), Value::time(secret.created_at)],
    )
    .await
    .map(drop)
}

/// All secrets of a token, live or not, the oldest first.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn of_token(sql: &mut dyn Sql, token: TokenId) -> Result<Vec<SecretRecord>> {
    let rows = sql
        .query(
            "SELECT id, tag, pepper_id, phc, last4, created_at, expires_at, retired_at, \
             last_used_at, uses FROM token_secrets WHERE token_id = $1 ORDER BY created_at, id",
            vec![Value::text(token)],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok(SecretRecord {
                id: cells.parse()?,
                verifier: Verifier {
                    tag: cells.bytes()?,
                    pepper_id: cells.text()?,
                    phc: cells.text()?,
                },
                last4: cells.text()?,
                created_at: cells.time()?,
                expires_at: cells.opt_time()?,
                retired_at: cells.opt_time()?,
                last_used_at: cells.opt_time()?,
                uses: cells.number()?,
            })
        })
        .collect()
}

/// Ends a secret at this instant, unless it ends earlier.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn end_by(sql: &mut dyn Sql, id: SecretId, at: Timestamp) -> Result<()> {
    sql.execute(
        "UPDATE token_secrets SET expires_at = $2
         WHERE id = $1 AND (expires_at IS NULL OR expires_at > $2)",
        vec![Value::text(id), Value::time(at)],
    )
    .await
    .map(drop)
}

/// Ends a secret now and for ever.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn retire(sql: &mut dyn Sql, id: SecretId, now: Timestamp) -> Result<()> {
    sql.execute(
        "UPDATE token_secrets SET retired_at = $2 WHERE id = $1 AND retired_at IS NULL",
        vec![Value::text(id), Value::time(now)],
    )
    .await
    .map(drop)
}

/// Removes secrets that ended before an instant, except the newest of each
/// token: until then they are kept to tell a late user what happened.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn purge(sql: &mut dyn Sql, before: Timestamp) -> Result<u64> {
    sql.execute(
        "DELETE FROM token_secrets
         WHERE (retired_at < $1 OR expires_at < $1)
           AND EXISTS (SELECT 1 FROM token_secrets s WHERE s.token_id = token_secrets.token_id
                 AND s.created_at > token_secrets.created_at)",
        vec![Value::time(before)],
    )
    .await
}

/// Uses of a secret from one host since they were last written.
#[derive(Clone, Debug)]
pub struct Uses<'a> {
    /// The token.
    pub token: TokenId,
    /// Its secret.
    pub secret: SecretId,
    /// What the host calls itself; empty = it did not say.
    pub host: &'a str,
    /// From where.
    pub from: Option<IpAddr>,
    /// The last time.
    pub at: Timestamp,
    /// How often.
    pub count: u64,
}

/// Notes uses; times never go backwards. A secret that was purged meanwhile
/// is left out.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn note_uses(sql: &mut dyn Sql, uses: &Uses<'_>) -> Result<()> {
    let from = Value::text(uses.from.map(|ip| ip.to_string()).unwrap_or_default());
    let (at, count) = (Value::time(uses.at), Value::unsigned(uses.count));
    sql.execute(
        "UPDATE tokens SET uses = uses + $3,
             last_used_from = CASE WHEN COALESCE(last_used_at, 0) <= $2 THEN $4
                                   ELSE last_used_from END,
             last_used_host = CASE WHEN COALESCE(last_used_at, 0) <= $2 THEN $5
                                   ELSE last_used_host END,
             last_used_at = CASE WHEN COALESCE(last_used_at, 0) <= $2 THEN $2
                                 ELSE last_used_at END
         WHERE id = $1",
        vec![
            Value::text(uses.token),
            at.clone(),
            count.clone(),
            from.clone(),
            Value::text(uses.host),
        ],
    )
    .await?;
    let known = sql
        .execute(
            "UPDATE token_secrets SET uses = uses + $3,
                 last_used_at = CASE WHEN COALESCE(last_used_at, 0) <= $2 THEN $2
                                     ELSE last_used_at END
             WHERE id = $1",
            vec![Value::text(uses.secret), at.clone(), count.clone()],
        )
        .await?;
    if known == 0 {
        return Ok(());
    }
    sql.execute(
        "INSERT INTO secret_uses (secret_id, host, address, last_used_at, uses)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (secret_id, host, address) DO UPDATE SET
             uses = secret_uses.uses + excluded.uses,
             last_used_at = CASE WHEN secret_uses.last_used_at < excluded.last_used_at
                 THEN excluded.last_used_at ELSE secret_uses.last_used_at END",
        vec![Value::text(uses.secret), Value::text(uses.host), from, at, count],
    )
    .await?;
    sql.execute(
        "DELETE FROM secret_uses WHERE secret_id = $1 AND last_used_at < (
             SELECT u.last_used_at FROM secret_uses u WHERE u.secret_id = $1
             ORDER BY u.last_used_at DESC LIMIT 1 OFFSET $2)",
        vec![Value::text(uses.secret), HOSTS_PER_SECRET.into()],
    )
    .await
    .map(drop)
}

/// The hosts that use a secret, those with live mounts and the latest first.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn hosts(sql: &mut dyn Sql, secret: SecretId) -> Result<Vec<SecretUse>> {
    let rows = sql
        .query(
            "SELECT h.host, h.address, MAX(h.at), CAST(SUM(h.uses) AS BIGINT), \
             CAST(SUM(h.sessions) AS BIGINT) FROM (
                 SELECT host, address, last_used_at AS at, uses, 0 AS sessions
                 FROM secret_uses WHERE secret_id = $1
                 UNION ALL
                 SELECT host, address, opened_at, 0, 1 FROM sessions WHERE secret_id = $1) h
             GROUP BY h.host, h.address
             ORDER BY CASE WHEN SUM(h.sessions) > 0 THEN 0 ELSE 1 END, MAX(h.at) DESC, h.host, h.address LIMIT $2",
            vec![Value::text(secret), HOSTS_PER_SECRET.into()],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok(SecretUse {
                host: cells.text()?,
                address: cells.text()?,
                last_used_at: cells.time()?,
                uses: cells.number()?,
                sessions: cells.number()?,
            })
        })
        .collect()
}
