//! The pepper that a database is used with, what lies under which, and the
//! renewal of verifiers.

use flexfs_auth::verifier::{Pepper, Verifier};
use flexfs_common::Result;
use flexfs_common::ids::{SecretId, TokenId};
use jiff::Timestamp;

use super::{Sql, Value, first};

/// The pepper of new tags, as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// Keyed with it.
    pub check_value: [u8; 32],
    /// Since when.
    pub since: Timestamp,
}

impl Known {
    /// How this pepper is known from now on.
    #[must_use]
    pub fn of(pepper: &Pepper, since: Timestamp) -> Known {
        Known { id: pepper.id().to_owned(), check_value: pepper.check_value(), since }
    }

    /// Is it this one? The id alone is too short to tell.
    #[must_use]
    pub fn is(&self, pepper: &Pepper) -> bool {
        self.id == pepper.id() && pepper.has_check_value(&self.check_value)
    }
}

/// The pepper of new tags; `None` before the first start.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn current(sql: &mut dyn Sql) -> Result<Option<Known>> {
    let row = first(sql, "SELECT id, check_value, since FROM pepper WHERE one = 1", vec![]).await?;
    let Some(row) = row else { return Ok(None) };
    let mut cells = row.cells();
    Ok(Some(Known { id: cells.text()?, check_value: cells.bytes()?, since: cells.time()? }))
}

/// Makes it the pepper of new tags.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn set(sql: &mut dyn Sql, known: &Known) -> Result<()> {
    sql.execute(
        "INSERT INTO pepper (one, id, check_value, since) VALUES (1, $1, $2, $3)
         ON CONFLICT (one) DO UPDATE SET id = excluded.id, check_value = excluded.check_value,
             since = excluded.since",
        vec![Value::text(&known.id), Value::bytes(&known.check_value), Value::time(known.since)],
    )
    .await
    .map(drop)
}

/// Is any secret there, and is any under this pepper?
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn in_use(sql: &mut dyn Sql, id: &str) -> Result<(bool, bool)> {
    let some = first(sql, "SELECT pepper_id FROM token_secrets LIMIT 1", vec![]).await?;
    let under = first(
        sql,
        "SELECT pepper_id FROM token_secrets WHERE pepper_id = $1 LIMIT 1",
        vec![Value::text(id)],
    )
    .await?;
    Ok((some.is_some(), under.is_some()))
}

/// How many live secrets and open claim codes lie under each pepper but one.
/// Live is what may be accepted, now or later: also what is of an expired or
/// disabled token, which an update brings back. No update moves the end of a
/// secret or of a claim code.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn live_under_others(
    sql: &mut dyn Sql,
    but: &str,
    now: Timestamp,
) -> Result<Vec<(String, u64)>> {
    // Two ranges, because an index serves no `<>`.
    let rows = sql
        .query(
            "SELECT u.pepper_id, CAST(SUM(u.live) AS BIGINT) FROM (
                 SELECT s.pepper_id AS pepper_id, COUNT(*) AS live
                 FROM token_secrets s JOIN tokens t ON t.id = s.token_id
                 WHERE (s.pepper_id < $1 OR s.pepper_id > $1) AND s.retired_at IS NULL
                   AND (s.expires_at IS NULL OR s.expires_at > $2)
                   AND t.revoked_at IS NULL AND t.deleted_at IS NULL
                 GROUP BY s.pepper_id
                 UNION ALL
                 SELECT c.pepper_id, COUNT(*)
                 FROM token_claims c JOIN tokens t ON t.id = c.token_id
                 WHERE (c.pepper_id < $1 OR c.pepper_id > $1) AND c.redeemed_at IS NULL
                   AND c.expires_at > $2 AND t.revoked_at IS NULL AND t.deleted_at IS NULL
                 GROUP BY c.pepper_id) u
             GROUP BY u.pepper_id ORDER BY u.pepper_id",
            vec![Value::text(but), Value::time(now)],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok((cells.text()?, cells.number()?))
        })
        .collect()
}

/// What a verifier is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A secret of a token.
    Secret(SecretId),
    /// The claim code of a token.
    Claim(TokenId),
}

/// Puts a new verifier in the place of the one that it was made from. False
/// when that is no longer there: whoever was faster is right, and a secret
/// that is gone stays gone. Nothing else of the row changes.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn renew(
    sql: &mut dyn Sql,
    whose: Whose,
    old: &Verifier,
    new: &Verifier,
) -> Result<bool> {
    let (text, id) = match whose {
        Whose::Secret(id) => (
            "UPDATE token_secrets SET tag = $2, pepper_id = $3, phc = $4
             WHERE id = $1 AND tag = $5 AND pepper_id = $6 AND phc = $7",
            Value::text(id),
        ),
        Whose::Claim(id) => (
            "UPDATE token_claims SET tag = $2, pepper_id = $3, phc = $4
             WHERE token_id = $1 AND tag = $5 AND pepper_id = $6 AND phc = $7",
            Value::text(id),
        ),
    };
    let mut args = vec![id];
    for verifier in [new, old] {
        args.push(Value::bytes(&verifier.tag));
        args.push(Value::text(&verifier.pepper_id));
        args.push(Value::text(&verifier.phc));
    }
    Ok(sql.execute(text, args).await? == 1)
}
