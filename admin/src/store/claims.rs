//! Claim codes: one per token at most.

use flexfs_auth::verifier::Verifier;
use flexfs_common::Result;
use flexfs_common::ids::TokenId;
use jiff::Timestamp;

use super::{Sql, Value, first};
use crate::model::Claim;

/// # Errors
/// `DATABASE_FAILED`, also when the token has one.
pub async fn insert(sql: &mut dyn Sql, token: TokenId, claim: &Claim) -> Result<()> {
    sql.execute(
        "INSERT INTO token_claims (token_id, tag, pepper_id, phc, expires_at)
         VALUES ($1, $2, $3, $4, $5)",
        vec![
            Value::text(token),
            Value::bytes(&claim.verifier.tag),
            Value::text(&claim.verifier.pepper_id),
            Value::text(&claim.verifier.phc),
            Value::time(claim.expires_at),
        ],
    )
    .await
    .map(drop)
}

/// The claim code of a token, redeemed or not.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn of_token(sql: &mut dyn Sql, token: TokenId) -> Result<Option<Claim>> {
    let row = first(
        sql,
        "SELECT tag, pepper_id, phc, expires_at, redeemed_at, redeemed_from
         FROM token_claims WHERE token_id = $1",
        vec![Value::text(token)],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut cells = row.cells();
    Ok(Some(Claim {
        verifier: Verifier { tag: cells.bytes()?, pepper_id: cells.text()?, phc: cells.text()? },
        expires_at: cells.time()?,
        redeemed_at: cells.opt_time()?,
        redeemed_from: cells.text()?,
    }))
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn redeem(sql: &mut dyn Sql, token: TokenId, now: Timestamp, from: &str) -> Result<()> {
    sql.execute(
        "UPDATE token_claims SET redeemed_at = $2, redeemed_from = $3
         WHERE token_id = $1 AND redeemed_at IS NULL",
        vec![Value::text(token), Value::time(now), from.into()],
    )
    .await
    .map(drop)
}

/// Voids the claim code of a token, redeemed or not.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn remove(sql: &mut dyn Sql, token: TokenId) -> Result<()> {
    sql.execute("DELETE FROM token_claims WHERE token_id = $1", vec![Value::text(token)])
        .await
        .map(drop)
}

/// Removes those that ended before an instant.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn purge(sql: &mut dyn Sql, before: Timestamp) -> Result<u64> {
    sql.execute("DELETE FROM token_claims WHERE expires_at < $1", vec![Value::time(before)]).await
}
