//! Accounts.

use flexfs_common::Result;
use flexfs_common::ids::AccountId;
use flexfs_common::name::StoreId;

use super::{Row, Sql, Value, first};
use crate::model::{Account, AccountState};
use crate::page::Page;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, email, state, created_at, created_by, max_token_age FROM accounts ",
            $rest
        )
    };
}

fn decode(row: Row) -> Result<Account> {
    let mut cells = row.cells();
    Ok(Account {
        id: cells.parse()?,
        name: cells.text()?,
        email: cells.text()?,
        state: cells.parse()?,
        created_at: cells.time()?,
        created_by: cells.opt_parse()?,
        max_token_age: cells.number()?,
    })
}

/// # Errors
/// `DATABASE_FAILED`, also when it exists: look first.
pub async fn insert(sql: &mut dyn Sql, account: &Account) -> Result<()> {
    sql.execute(
        "INSERT INTO accounts (id, name, email, state, created_at, created_by, max_token_age)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        vec![
            Value::text(account.id),
            Value::text(&account.name),
            Value::text(&account.email),
            Value::text(account.state),
            Value::time(account.created_at),
            Value::text(account.created_by.map(|id| id.to_string()).unwrap_or_default()),
            Value::unsigned(account.max_token_age),
        ],
    )
    .await
    .map(drop)
}

/// By id, in any state.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_id(sql: &mut dyn Sql, id: AccountId) -> Result<Option<Account>> {
    first(sql, select!("WHERE id = $1"), vec![Value::text(id)]).await?.map(decode).transpose()
}

/// By name, unless deleted.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_name(sql: &mut dyn Sql, name: &str) -> Result<Option<Account>> {
    first(sql, select!("WHERE name = $1 AND state <> 'deleted'"), vec![name.into()])
        .await?
        .map(decode)
        .transpose()
}

/// Those not deleted whose id begins so; two at most, enough to see that
/// there is not one.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_prefix(sql: &mut dyn Sql, from: &str, to: &str) -> Result<Vec<Account>> {
    let rows = sql
        .query(
            select!("WHERE id >= $1 AND id < $2 AND state <> 'deleted' ORDER BY id LIMIT 2"),
            vec![from.into(), to.into()],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// The oldest account: `system`.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn system(sql: &mut dyn Sql) -> Result<Option<Account>> {
    first(sql, select!("WHERE created_by = '' ORDER BY created_at LIMIT 1"), vec![])
        .await?
        .map(decode)
        .transpose()
}

/// A page; `only` empty = all; `state` empty = those not deleted.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(
    sql: &mut dyn Sql,
    only: Option<AccountId>,
    state: &str,
    page: &Page,
) -> Result<Vec<Account>> {
    let rows = sql
        .query(
            select!(
                "WHERE ($1 = '' OR id = $1)
                   AND ((state = $2) OR ($2 = '' AND state <> 'deleted'))
                   AND (created_at > $3 OR (created_at = $3 AND id > $4))
                 ORDER BY created_at, id LIMIT $5"
            ),
            vec![
                Value::text(only.map(|id| id.to_string()).unwrap_or_default()),
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
pub async fn set_state(sql: &mut dyn Sql, id: AccountId, state: AccountState) -> Result<()> {
    sql.execute(
        "UPDATE accounts SET state = $2 WHERE id = $1",
        vec![Value::text(id), Value::text(state)],
    )
    .await
    .map(drop)
}

/// Changes name, contact and age policy.
///
/// # Errors
/// `DATABASE_FAILED`, also when the name is taken: look first.
pub async fn update(sql: &mut dyn Sql, account: &Account) -> Result<()> {
    sql.execute(
        "UPDATE accounts SET name = $2, email = $3, max_token_age = $4 WHERE id = $1",
        vec![
            Value::text(account.id),
            Value::text(&account.name),
            Value::text(&account.email),
            Value::unsigned(account.max_token_age),
        ],
    )
    .await
    .map(drop)
}

/// How far an account is: changes of its own, and the revision of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnChanges {
    /// How many there were.
    pub count: u64,
    /// The revision of the last.
    pub last: u64,
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn own_changes(sql: &mut dyn Sql, id: AccountId) -> Result<OwnChanges> {
    let row = first(
        sql,
        "SELECT changes, last_change FROM accounts WHERE id = $1",
        vec![Value::text(id)],
    )
    .await?
    .ok_or(flexfs_common::Code::AccountNotFound)?;
    let mut cells = row.cells();
    Ok(OwnChanges { count: cells.number()?, last: cells.number()? })
}

/// Counts the rows of the feed that are an account's own.
pub(super) async fn count_changes(
    sql: &mut dyn Sql,
    id: AccountId,
    count: u64,
    last: u64,
) -> Result<()> {
    sql.execute(
        "UPDATE accounts SET changes = changes + $2, last_change = $3 WHERE id = $1",
        vec![Value::text(id), Value::unsigned(count), Value::unsigned(last)],
    )
    .await
    .map(drop)
}

/// The meta stores where its active volumes lie.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn stores_of(sql: &mut dyn Sql, id: AccountId) -> Result<Vec<StoreId>> {
    let rows = sql
        .query(
            "SELECT DISTINCT meta_store FROM volumes WHERE account_id = $1 AND state = 'active'
             ORDER BY meta_store",
            vec![Value::text(id)],
        )
        .await?;
    rows.into_iter().map(|row| row.cells().parse()).collect()
}

/// Has it active volumes, or tokens that still live?
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn in_use(sql: &mut dyn Sql, id: AccountId, now: jiff::Timestamp) -> Result<bool> {
    let rows = sql
        .query(
            "SELECT id FROM volumes WHERE account_id = $1 AND state = 'active'
             UNION ALL
             SELECT id FROM tokens WHERE account_id = $1 AND revoked_at IS NULL
               AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
             LIMIT 1",
            vec![Value::text(id), Value::time(now)],
        )
        .await?;
    Ok(!rows.is_empty())
}
