//! Tokens and the verifiers of their secrets. Rows are never removed, so that
//! an id is never used twice.

use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_auth::verifier::Verifier;
use flexfs_common::flags::{self, Owner};
use flexfs_common::ids::{AccountId, SecretId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};
use jiff::Timestamp;

use super::volumes::Visible;
use super::{Cells, Row, Sql, Value, first};
use crate::model::{AccountState, Grant, Rights, SecretRecord, TokenRecord, VolumeState};
use crate::page::Page;

macro_rules! select {
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT t.id, t.kind, t.account_id, t.volume_id, t.meta_store, t.role, \
             t.mount_path, t.rights, t.flags, t.uid, t.gid, t.volumes, t.cidrs, t.notes, \
             t.last4, t.created_at, t.expires_at, t.not_before, t.revoked_at, t.disabled_at, \
             t.last_used_at, t.deleted_at, t.created_by ",
            $more,
            " FROM tokens t ",
            $rest
        )
    };
}

fn broken(what: &str) -> Error {
    Error::new(Code::DatabaseFailed, format!("a token in the database has no {what}"))
}

fn decode_cells(cells: &mut Cells) -> Result<TokenRecord> {
    let id = cells.parse()?;
    let kind = TokenKind::from_name(&cells.text()?)?;
    let account_id = cells.parse()?;
    let volume_id = cells.opt_parse()?;
    let meta_store = cells.opt_parse()?;
    let role = cells.opt_text()?;
    let mount_path = cells.opt_parse()?;
    let rights: Option<Rights> = cells.opt_parse()?;
    let mut token_flags =
        flags::parse(Owner::Token, cells.text()?.split(',').filter(|f| !f.is_empty()))?;
    token_flags.uid = cells.opt_number()?;
    token_flags.gid = cells.opt_number()?;
    let volumes: Vec<VolumeId> = cells.list()?;
    let grant = match kind {
        TokenKind::Account => {
            let role = Role::from_name(&role.ok_or_else(|| broken("role"))?)?;
            Grant::Account { role, volumes }
        }
        TokenKind::Volume => Grant::Volume {
            volume_id: volume_id.ok_or_else(|| broken("volume"))?,
            mount_path: mount_path.ok_or_else(|| broken("scope"))?,
            rights: rights.ok_or_else(|| broken("rights"))?,
            flags: token_flags,
        },
        TokenKind::Meta => {
            Grant::Meta { meta_store: meta_store.ok_or_else(|| broken("meta store"))? }
        }
        TokenKind::Claim => return Err(broken("kind that is stored here")),
    };
    Ok(TokenRecord {
        id,
        account_id,
        grant,
        cidrs: cells.list()?,
        notes: cells.text()?,
        last4: cells.text()?,
        created_at: cells.time()?,
        expires_at: cells.opt_time()?,
        not_before: cells.opt_time()?,
        revoked_at: cells.opt_time()?,
        disabled_at: cells.opt_time()?,
        last_used_at: cells.opt_time()?,
        deleted_at: cells.opt_time()?,
        created_by: cells.opt_parse()?,
    })
}

fn decode(row: Row) -> Result<TokenRecord> {
    decode_cells(&mut row.cells())
}

/// # Errors
/// `DATABASE_FAILED`, also when the id was ever used: look first.
pub async fn insert(sql: &mut dyn Sql, token: &TokenRecord) -> Result<()> {
    let nothing = || Value::Text(None);
    let (mut volume, mut store, mut role, mut path, mut rights) =
        (nothing(), nothing(), nothing(), nothing(), nothing());
    let (mut names, mut uid, mut gid, mut only) = (String::new(), None, None, String::new());
    match &token.grant {
        Grant::Account { role: r, volumes } => {
            role = r.name().into();
            only = joined(volumes);
        }
        Grant::Volume { volume_id, mount_path, rights: r, flags: f } => {
            volume = Value::text(volume_id);
            path = Value::text(mount_path);
            rights = Value::text(r);
            names = flags::names(f).join(",");
            (uid, gid) = (f.uid, f.gid);
        }
        Grant::Meta { meta_store } => store = Value::text(meta_store),
    }
    sql.execute(
        "INSERT INTO tokens (id, kind, account_id, volume_id, meta_store, role, mount_path, \
         rights, flags, uid, gid, volumes, cidrs, notes, last4, created_at, expires_at, \
         not_before, revoke_reason, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
                 $18, '', $19)",
        vec![
            Value::text(token.id),
            token.grant.kind().name().into(),
            Value::text(token.account_id),
            volume,
            store,
            role,
            path,
            rights,
            Value::text(names),
            Value::Int(uid.map(i64::from)),
            Value::Int(gid.map(i64::from)),
            Value::text(only),
            Value::text(joined(&token.cidrs)),
            Value::text(&token.notes),
            Value::text(&token.last4),
            Value::time(token.created_at),
            Value::opt_time(token.expires_at),
            Value::opt_time(token.not_before),
            Value::text(token.created_by.map(|id| id.to_string()).unwrap_or_default()),
        ],
    )
    .await
    .map(drop)
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// # Errors
/// `DATABASE_FAILED`.
pub async fn insert_secret(
    sql: &mut dyn Sql,
    token: TokenId,
    id: SecretId,
    verifier: &Verifier,
    now: Timestamp,
) -> Result<()> {
    sql.execute(
        "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        vec![
            Value::text(id),
            Value::text(token),
            Value::bytes(&verifier.tag),
            Value::text(&verifier.pepper_id),
            Value::text(&verifier.phc),
            Value::time(now),
        ],
    )
    .await
    .map(drop)
}

/// All secrets of a token, live or not.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn secrets(sql: &mut dyn Sql, token: TokenId) -> Result<Vec<SecretRecord>> {
    let rows = sql
        .query(
            "SELECT id, tag, pepper_id, phc, expires_at, retired_at FROM token_secrets
             WHERE token_id = $1 ORDER BY created_at, id",
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
                expires_at: cells.opt_time()?,
                retired_at: cells.opt_time()?,
            })
        })
        .collect()
}

/// A token with what decides whether it is accepted.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The token.
    pub token: TokenRecord,
    /// Of its account.
    pub account_state: AccountState,
    /// Of its volume, if it has one.
    pub volume_state: Option<VolumeState>,
    /// The meta store of its volume, or its own.
    pub meta_store: Option<StoreId>,
    /// All its secrets.
    pub secrets: Vec<SecretRecord>,
}

/// A token with its account's and volume's state, by id.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn standing(sql: &mut dyn Sql, id: TokenId) -> Result<Option<Standing>> {
    let row = first(
        sql,
        select!(
            ", a.state, v.state, COALESCE(v.meta_store, t.meta_store)",
            "JOIN accounts a ON a.id = t.account_id
             LEFT JOIN volumes v ON v.id = t.volume_id WHERE t.id = $1"
        ),
        vec![Value::text(id)],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut cells = row.cells();
    let token = decode_cells(&mut cells)?;
    Ok(Some(Standing {
        token,
        account_state: cells.parse()?,
        volume_state: cells.opt_parse()?,
        meta_store: cells.opt_parse()?,
        secrets: secrets(sql, id).await?,
    }))
}

/// By id, in any state, of any account: also those taken out of the listings.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_id(sql: &mut dyn Sql, id: TokenId) -> Result<Option<TokenRecord>> {
    first(sql, select!("", "WHERE t.id = $1"), vec![Value::text(id)]).await?.map(decode).transpose()
}

/// Those of a kind whose id begins so, of what the caller may see; two at most.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn by_prefix(
    sql: &mut dyn Sql,
    kind: TokenKind,
    visible: &Visible,
    from: &str,
    to: &str,
) -> Result<Vec<TokenRecord>> {
    let [only, maker] = visible.limits();
    let rows = sql
        .query(
            select!(
                "",
                "LEFT JOIN volumes v ON v.id = t.volume_id
                 WHERE t.account_id = $1 AND t.kind = $2 AND t.deleted_at IS NULL
                   AND t.id >= $3 AND t.id < $4
                   AND ($5 = '' OR $5 LIKE '%' || t.volume_id || '%')
                   AND ($6 = '' OR v.created_by = $6)
                 ORDER BY t.id LIMIT 2"
            ),
            vec![
                Value::text(visible.account),
                kind.name().into(),
                from.into(),
                to.into(),
                only,
                maker,
            ],
        )
        .await?;
    rows.into_iter().map(decode).collect()
}

/// What a page of tokens is made of.
#[derive(Clone, Debug)]
pub struct Filter<'a> {
    /// Of this kind.
    pub kind: TokenKind,
    /// Of what the caller may see.
    pub visible: &'a Visible,
    /// Of this volume.
    pub volume: Option<VolumeId>,
    /// In this state; empty = any.
    pub state: &'a str,
    /// When.
    pub now: Timestamp,
}

/// A page of tokens, each with its volume's name.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(
    sql: &mut dyn Sql,
    filter: &Filter<'_>,
    page: &Page,
) -> Result<Vec<(TokenRecord, String)>> {
    let [only, maker] = filter.visible.limits();
    let rows = sql
        .query(
            select!(
                ", v.name",
                "LEFT JOIN volumes v ON v.id = t.volume_id
                 WHERE t.account_id = $1 AND t.kind = $2 AND t.deleted_at IS NULL
                   AND ($3 = '' OR $3 LIKE '%' || t.volume_id || '%')
                   AND ($4 = '' OR v.created_by = $4)
                   AND ($5 = '' OR t.volume_id = $5)
                   AND ($6 = '' OR $6 = CASE
                        WHEN t.revoked_at IS NOT NULL THEN 'revoked'
                        WHEN t.expires_at IS NOT NULL AND t.expires_at <= $7 THEN 'expired'
                        WHEN t.disabled_at IS NOT NULL THEN 'disabled'
                        WHEN t.not_before IS NOT NULL AND t.not_before > $7 THEN 'notYetValid'
                        ELSE 'active' END)
                   AND (t.created_at > $8 OR (t.created_at = $8 AND t.id > $9))
                 ORDER BY t.created_at, t.id LIMIT $10"
            ),
            vec![
                Value::text(filter.visible.account),
                filter.kind.name().into(),
                only,
                maker,
                Value::text(filter.volume.map(|id| id.to_string()).unwrap_or_default()),
                filter.state.into(),
                Value::time(filter.now),
                page.after_at.into(),
                Value::text(&page.after_id),
                page.fetch().into(),
            ],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            let token = decode_cells(&mut cells)?;
            Ok((token, cells.opt_text()?.unwrap_or_default()))
        })
        .collect()
}

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
    sql.execute("DELETE FROM token_secrets WHERE token_id = $1", vec![Value::text(id)]).await?;
    sql.execute(
        "UPDATE tokens SET deleted_at = $2 WHERE id = $1",
        vec![Value::text(id), Value::time(now)],
    )
    .await
    .map(drop)
}

/// Is there another unlimited live token of this role in the account?
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn has_other_of_role(
    sql: &mut dyn Sql,
    token: &TokenRecord,
    role: Role,
    now: Timestamp,
) -> Result<bool> {
    let row = first(
        sql,
        "SELECT id FROM tokens WHERE account_id = $1 AND role = $2 AND id <> $3
           AND revoked_at IS NULL AND deleted_at IS NULL AND disabled_at IS NULL
           AND volumes = '' AND cidrs = ''
           AND (expires_at IS NULL OR expires_at > $4)
           AND (not_before IS NULL OR not_before <= $4) LIMIT 1",
        vec![
            Value::text(token.account_id),
            role.name().into(),
            Value::text(token.id),
            Value::time(now),
        ],
    );
    Ok(row.await?.is_some())
}

/// Notes when tokens were last used; never backwards.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn note_used(sql: &mut dyn Sql, id: TokenId, at: Timestamp) -> Result<()> {
    sql.execute(
        "UPDATE tokens SET last_used_at = $2
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
        vec![Value::text(id), Value::time(at)],
    )
    .await
    .map(drop)
}
