//! Tokens and the verifiers of their secrets. Rows are never removed, so that
//! an id is never used twice.

use flexfs_auth::principal::Role;
use flexfs_auth::token::TokenKind;
use flexfs_common::flags::{self, Owner};
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};
use jiff::Timestamp;

use super::volumes::Visible;
use super::{Cells, Row, Sql, Value, first, secrets};
use crate::model::{AccountState, Grant, Rights, SecretRecord, TokenRecord, Used, VolumeState};
use crate::page::Page;

macro_rules! select {
    ($more:literal, $($rest:tt)*) => {
        concat!(
            "SELECT t.id, t.kind, t.account_id, t.volume_id, t.meta_store, t.role, \
             t.mount_path, t.rights, t.flags, t.uid, t.gid, t.volumes, t.cidrs, t.notes, \
             t.last4, t.created_at, t.expires_at, t.not_before, t.idle_seconds, t.rotated_at, \
             t.revoked_at, t.revoke_reason, t.disabled_at, t.last_used_at, t.last_used_from, \
             t.last_used_host, t.uses, t.deleted_at, t.created_by ",
            $more,
            " FROM tokens t ",
            $($rest)*
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
        idle_seconds: cells.number()?,
        rotated_at: cells.time()?,
        revoked_at: cells.opt_time()?,
        revoke_reason: cells.text()?,
        disabled_at: cells.opt_time()?,
        used: Used {
            last_at: cells.opt_time()?,
            last_from: cells.text()?,
            last_host: cells.text()?,
            count: cells.number()?,
        },
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
         not_before, revoke_reason, created_by, idle_seconds, rotated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
                 $18, '', $19, $20, $21)",
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
            Value::unsigned(token.idle_seconds),
            Value::time(token.rotated_at),
        ],
    )
    .await
    .map(drop)
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
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
    // Asked for an unknown id as well, so that the time does not tell it.
    let secrets = secrets::of_token(sql, id).await?;
    let Some(row) = row else { return Ok(None) };
    let mut cells = row.cells();
    let token = decode_cells(&mut cells)?;
    Ok(Some(Standing {
        token,
        account_state: cells.parse()?,
        volume_state: cells.opt_parse()?,
        meta_store: cells.opt_parse()?,
        secrets,
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

/// A token as it is listed: with what people want to see beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The token.
    pub token: TokenRecord,
    /// Of its volume; empty = it has none.
    pub volume_name: String,
    /// Secrets that are accepted now.
    pub live_secrets: u32,
    /// The age policy of its account in seconds; 0 = none.
    pub max_age: u64,
    /// Until when its claim code can be redeemed, if it has one that was not.
    pub claim_expires_at: Option<Timestamp>,
}

impl Listed {
    /// Is its newest secret older than its account's age policy allows?
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let Ok(limit) = i64::try_from(self.max_age) else { return false };
        limit > 0
            && self.token.lives(now)
            && now.duration_since(self.token.rotated_at).as_secs() >= limit
    }
}

macro_rules! listed {
    ($($rest:tt)*) => {
        select!(
            ", v.name, (SELECT COUNT(*) FROM token_secrets s WHERE s.token_id = t.id
                 AND s.retired_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > $1)),
             a.max_token_age,
             (SELECT c.expires_at FROM token_claims c WHERE c.token_id = t.id
                 AND c.redeemed_at IS NULL)",
            $($rest)*
        )
    };
}

fn decode_listed(row: Row) -> Result<Listed> {
    let mut cells = row.cells();
    Ok(Listed {
        token: decode_cells(&mut cells)?,
        volume_name: cells.opt_text()?.unwrap_or_default(),
        live_secrets: cells.number()?,
        max_age: cells.number()?,
        claim_expires_at: cells.opt_time()?,
    })
}

/// One token as it is listed, in any state.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn listed(sql: &mut dyn Sql, id: TokenId, now: Timestamp) -> Result<Option<Listed>> {
    let text = listed!(
        "JOIN accounts a ON a.id = t.account_id LEFT JOIN volumes v ON v.id = t.volume_id
         WHERE t.id = $2"
    );
    first(sql, text, vec![Value::time(now), Value::text(id)]).await?.map(decode_listed).transpose()
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
    /// Only those that end by themselves before this.
    pub expiring_before: Option<Timestamp>,
    /// Only those not used since.
    pub unused_since: Option<Timestamp>,
    /// Only those made before.
    pub created_before: Option<Timestamp>,
    /// Only those past their account's age policy.
    pub overdue: bool,
    /// Only those made by this token.
    pub created_by: Option<TokenId>,
    /// Only those not revoked, expired or not.
    pub unrevoked: bool,
    /// When.
    pub now: Timestamp,
}

impl<'a> Filter<'a> {
    /// All of a kind that the caller may see.
    #[must_use]
    pub fn all(kind: TokenKind, visible: &'a Visible, now: Timestamp) -> Filter<'a> {
        Filter {
            kind,
            visible,
            volume: None,
            state: "",
            expiring_before: None,
            unused_since: None,
            created_before: None,
            overdue: false,
            created_by: None,
            unrevoked: false,
            now,
        }
    }
}

macro_rules! state {
    () => {
        "CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
              WHEN t.expires_at IS NOT NULL AND t.expires_at <= $1 THEN 'expired'
              WHEN t.idle_seconds > 0
                   AND COALESCE(t.last_used_at, t.created_at) + t.idle_seconds * 1000000 <= $1
                   AND t.rotated_at + t.idle_seconds * 1000000 <= $1
                   AND COALESCE(t.not_before, 0) + t.idle_seconds * 1000000 <= $1 THEN 'expired'
              WHEN t.disabled_at IS NOT NULL THEN 'disabled'
              WHEN t.not_before IS NOT NULL AND t.not_before > $1 THEN 'notYetValid'
              ELSE 'active' END"
    };
}

// $1 now, $2 account, $3 kind, $4 only, $5 maker, $6 state, $7 expiring before,
// $8 unused since, $9 overdue, $10 created by, $11 created before, $12 and $13
// the page, $14 its length, $15 unrevoked, $16 the volume. An idle end counts like an
// expiry.
macro_rules! page {
    ($volume:literal) => {
        listed!(concat!(
            "JOIN accounts a ON a.id = t.account_id LEFT JOIN volumes v ON v.id = t.volume_id
             WHERE t.account_id = $2 AND t.kind = $3 AND t.deleted_at IS NULL
               AND ($4 = '' OR $4 LIKE '%' || t.volume_id || '%')
               AND ($5 = '' OR v.created_by = $5)
               AND ($6 = '' OR $6 = ",
            state!(),
            ") AND ($7 = 0 OR (t.expires_at IS NOT NULL AND t.expires_at <= $7)
                   OR (t.idle_seconds > 0 AND t.rotated_at + t.idle_seconds * 1000000 <= $7 AND
                       COALESCE(t.last_used_at, t.created_at) + t.idle_seconds * 1000000 <= $7))
               AND ($8 = 0 OR COALESCE(t.last_used_at, t.created_at) < $8)
               AND ($9 = 0 OR (a.max_token_age > 0
                   AND t.rotated_at + a.max_token_age * 1000000 <= $1
                   AND ",
            state!(),
            " IN ('active', 'disabled', 'notYetValid')))
               AND ($10 = '' OR t.created_by = $10)
               AND ($11 = 0 OR t.created_at < $11)
               AND (t.created_at, t.id) > ($12, $13)
               AND ($15 = 0 OR t.revoked_at IS NULL) ",
            $volume,
            " ORDER BY t.created_at, t.id LIMIT $14"
        ))
    };
}

/// A page of tokens.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn list(sql: &mut dyn Sql, filter: &Filter<'_>, page: &Page) -> Result<Vec<Listed>> {
    let [only, maker] = filter.visible.limits();
    let or_zero = |at: Option<Timestamp>| Value::from(at.map_or(0, Timestamp::as_microsecond));
    let text_of = |id: Option<String>| Value::text(id.unwrap_or_default());
    let mut args = vec![
        Value::time(filter.now),
        Value::text(filter.visible.account),
        filter.kind.name().into(),
        only,
        maker,
        filter.state.into(),
        or_zero(filter.expiring_before),
        or_zero(filter.unused_since),
        i64::from(filter.overdue).into(),
        text_of(filter.created_by.map(|id| id.to_string())),
        or_zero(filter.created_before),
        page.after_at.into(),
        Value::text(&page.after_id),
        page.fetch().into(),
        i64::from(filter.unrevoked).into(),
    ];
    // Two texts, because no database finds the index behind an OR.
    let text = if let Some(volume) = filter.volume {
        args.push(Value::text(volume));
        page!("AND t.volume_id = $16")
    } else {
        page!("")
    };
    sql.query(text, args).await?.into_iter().map(decode_listed).collect()
}

/// How many tokens of a kind are in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The kind.
    pub kind: TokenKind,
    /// The state's name.
    pub state: String,
    /// How many are listed.
    pub tokens: u64,
    /// How many of them live and are past their account's age policy.
    pub overdue: u64,
    /// How many of them live and end by themselves before the instant asked.
    pub expiring: u64,
}

macro_rules! counts {
    ($account:literal) => {
        concat!(
            "SELECT x.kind, x.state, COUNT(*), CAST(SUM(x.overdue) AS BIGINT), \
             CAST(SUM(x.expiring) AS BIGINT) FROM (SELECT t.kind, ",
            state!(),
            " AS state,
             CASE WHEN a.max_token_age > 0 AND t.revoked_at IS NULL
                   AND t.rotated_at + a.max_token_age * 1000000 <= $1 THEN 1 ELSE 0 END AS overdue,
             CASE WHEN t.revoked_at IS NULL AND ((t.expires_at > $1 AND t.expires_at <= $2)
                   OR (t.idle_seconds > 0 AND t.rotated_at + t.idle_seconds * 1000000 <= $2
                       AND COALESCE(t.last_used_at, t.created_at) + t.idle_seconds * 1000000
                           <= $2)) THEN 1 ELSE 0 END AS expiring
             FROM tokens t JOIN accounts a ON a.id = t.account_id
             WHERE t.deleted_at IS NULL ",
            $account,
            ") x GROUP BY x.kind, x.state ORDER BY x.kind, x.state"
        )
    };
}

/// Counts what is listed, of an account or of all. Reads every token.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn counts(
    sql: &mut dyn Sql,
    account: Option<AccountId>,
    now: Timestamp,
    soon: Timestamp,
) -> Result<Vec<Count>> {
    let mut args = vec![Value::time(now), Value::time(soon)];
    // Two texts, because no database finds the index behind an OR.
    let text = if let Some(account) = account {
        args.push(Value::text(account));
        counts!("AND t.account_id = $3")
    } else {
        counts!("")
    };
    let rows = sql.query(text, args).await?;
    rows.into_iter()
        .map(|row| {
            let mut cells = row.cells();
            let kind = TokenKind::from_name(&cells.text()?)?;
            let state = cells.text()?;
            let (tokens, overdue, expiring) = (cells.number()?, cells.number()?, cells.number()?);
            let over = state == "expired";
            Ok(Count {
                kind,
                state,
                tokens,
                overdue: if over { 0 } else { overdue },
                expiring: if over { 0 } else { expiring },
            })
        })
        .collect()
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
           AND volumes = '' AND cidrs = '' AND idle_seconds = 0
           AND EXISTS (SELECT 1 FROM token_secrets s WHERE s.token_id = tokens.id
                   AND s.retired_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > $4))
           AND expires_at IS NULL
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

/// Changes what `update` can change: notes, times, limits, restrictions.
///
/// # Errors
/// `DATABASE_FAILED`.
pub async fn update(sql: &mut dyn Sql, token: &TokenRecord) -> Result<()> {
    let (mut names, mut rights, mut only) = (String::new(), Value::Text(None), String::new());
    match &token.grant {
        Grant::Account { volumes, .. } => only = joined(volumes),
        Grant::Volume { rights: r, flags: f, .. } => {
            rights = Value::text(r);
            names = flags::names(f).join(",");
        }
        Grant::Meta { .. } => {}
    }
    sql.execute(
        "UPDATE tokens SET notes = $2, expires_at = $3, not_before = $4, idle_seconds = $5, \
         cidrs = $6, flags = $7, rights = $8, volumes = $9 WHERE id = $1",
        vec![
            Value::text(token.id),
            Value::text(&token.notes),
            Value::opt_time(token.expires_at),
            Value::opt_time(token.not_before),
            Value::unsigned(token.idle_seconds),
            Value::text(joined(&token.cidrs)),
            Value::text(names),
            rights,
            Value::text(only),
        ],
    )
    .await
    .map(drop)
}
