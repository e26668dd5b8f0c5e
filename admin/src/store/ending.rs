//! How tokens end: revoked, disabled, taken out of the listings. Rows are
//! never removed, so that an id is never used twice.

use flexfs_auth::principal::Role;
use flexfs_common::Result;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use jiff::Timestamp;

use super::{Sql, Value};

/// Revokes one; false when it was revoked already.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn revoke(sql: &mut dyn Sql, id: TokenId, now: Timestamp, reason: &str) -> Result<bool> {
    let changed = sql
        .execute(
            "UPDATE tokens SET revoked_at = $2, revoke_reason = $3
             WHERE id = $1 AND revoked_at IS NULL",
            vec![Value::text(id), Value::time(now), reason.into()],
        )
        .await?;
    Ok(changed > 0)
}

/// Revokes what is live of a volume and tells which.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn revoke_of_volume(
    sql: &mut dyn Sql,
    volume: VolumeId,
    now: Timestamp,
    reason: &str,
) -> Result<Vec<TokenId>> {
    let rows = sql
        .query(
            "UPDATE tokens SET revoked_at = $2, revoke_reason = $3
             WHERE volume_id = $1 AND revoked_at IS NULL RETURNING id",
            vec![Value::text(volume), Value::time(now), reason.into()],
        )
        .await?;
    rows.into_iter().map(|row| row.cells().parse()).collect()
}

/// Revokes what is live of a meta store and tells which.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn revoke_of_store(
    sql: &mut dyn Sql,
    store: &StoreId,
    now: Timestamp,
    reason: &str,
) -> Result<Vec<TokenId>> {
    let rows = sql
        .query(
            "UPDATE tokens SET revoked_at = $2, revoke_reason = $3
             WHERE meta_store = $1 AND revoked_at IS NULL RETURNING id",
            vec![Value::text(store), Value::time(now), reason.into()],
        )
        .await?;
    rows.into_iter().map(|row| row.cells().parse()).collect()
}

/// Revokes the live tokens of an account with this role, except one, and
/// tells which.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn revoke_of_role(
    sql: &mut dyn Sql,
    (account, role): (AccountId, Role),
    except: TokenId,
    now: Timestamp,
    reason: &str,
) -> Result<Vec<TokenId>> {
    let rows = sql
        .query(
            "UPDATE tokens SET revoked_at = $4, revoke_reason = $5
             WHERE account_id = $1 AND role = $2 AND id <> $3 AND revoked_at IS NULL
             RETURNING id",
            vec![
                Value::text(account),
                role.name().into(),
                Value::text(except),
                Value::time(now),
                reason.into(),
            ],
        )
        .await?;
    rows.into_iter().map(|row| row.cells().parse()).collect()
}

/// Takes a token out of the listings and removes its verifiers; its id stays.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn delete(sql: &mut dyn Sql, id: TokenId, now: Timestamp) -> Result<()> {
    sql.execute(
        "DELETE FROM secret_uses WHERE secret_id IN
             (SELECT s.id FROM token_secrets s WHERE s.token_id = $1)",
        vec![Value::text(id)],
    )
    .await?;
    sql.execute("DELETE FROM token_secrets WHERE token_id = $1", vec![Value::text(id)]).await?;
    sql.execute("DELETE FROM token_claims WHERE token_id = $1", vec![Value::text(id)]).await?;
    sql.execute(
        "UPDATE tokens SET deleted_at = $2 WHERE id = $1",
        vec![Value::text(id), Value::time(now)],
    )
    .await
    .map(drop)
}

/// Disables one, or puts it back to use (`at` absent).
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn set_disabled(sql: &mut dyn Sql, id: TokenId, at: Option<Timestamp>) -> Result<()> {
    sql.execute(
        "UPDATE tokens SET disabled_at = $2 WHERE id = $1",
        vec![Value::text(id), Value::opt_time(at)],
    )
    .await
    .map(drop)
}

/// Tokens that were revoked or expired before an instant, were unused for too
/// long by then, or never got a secret because nobody redeemed their claim
/// code, and are still listed; at most 200.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn ended_before(sql: &mut dyn Sql, before: Timestamp) -> Result<Vec<TokenId>> {
    let rows = sql
        .query(
            "SELECT id FROM tokens WHERE deleted_at IS NULL AND revoked_at < $1
             UNION
             SELECT id FROM tokens WHERE deleted_at IS NULL AND expires_at < $1
             UNION
             SELECT id FROM tokens WHERE deleted_at IS NULL AND idle_seconds > 0
               AND COALESCE(last_used_at, created_at) + idle_seconds * 1000000 < $1
               AND rotated_at + idle_seconds * 1000000 < $1
               AND COALESCE(not_before, 0) + idle_seconds * 1000000 < $1
             UNION
             SELECT c.token_id FROM token_claims c JOIN tokens t ON t.id = c.token_id
             WHERE t.deleted_at IS NULL AND c.redeemed_at IS NULL AND c.expires_at < $1
               AND NOT EXISTS (SELECT 1 FROM token_secrets s WHERE s.token_id = c.token_id)
             LIMIT 200",
            vec![Value::time(before)],
        )
        .await?;
    rows.into_iter().map(|row| row.cells().parse()).collect()
}
