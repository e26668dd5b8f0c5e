//! The first token, and the way back in.
//!
//! First start: the token is written to `root.token` (or was put there by
//! `init creds`), then the account `system` and the token are committed
//! together. A crash in between leaves a file that the next start takes up
//! again: nobody is locked out, and there is never a second system token.

use flexfs_auth::principal::Role;
use flexfs_auth::private_file;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::home::{self, Home};
use flexfs_common::ids::{AccountId, TokenId};
use flexfs_common::{Code, Error, Result, clock};
use flexfs_proto::v1::FeedKind;
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::audit::{Entry, OK, Who};
use crate::model::{Account, AccountState, Grant, SecretRecord, TokenRecord};
use crate::store::changes::Change;
use crate::store::{Store, accounts, ending, secrets, tokens};
use crate::verify::Verify;

/// Name of the account of the installation itself.
pub const SYSTEM: &str = "system";
/// Bytes of `root.token`.
const TOKEN_FILE_MAX_LEN: usize = 1024;

/// Where the system token lies.
#[must_use]
pub fn token_path(home: &Home) -> std::path::PathBuf {
    home.path("admin/root.token")
}

/// Reads `root.token`; `None` when there is none.
///
/// # Errors
/// `CREDS_INSECURE`, `TOKEN_MALFORMED`, `TOKEN_WRONG_KIND`.
pub fn read_token(home: &Home) -> Result<Option<Token>> {
    match private_file::read(&token_path(home), TOKEN_FILE_MAX_LEN) {
        Ok(text) => Token::parse_kind(&text, TokenKind::Account).map(Some),
        Err(e) if e.code() == Code::CredsMissing => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes `root.token`: the token and a newline. False when it exists and is
/// not to be replaced.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn write_token(home: &Home, token: &Token, replace: bool) -> Result<bool> {
    let path = token_path(home);
    if let Some(dir) = path.parent() {
        home::make_dir(dir)?;
    }
    let text = Zeroizing::new(format!("{}\n", token.reveal()));
    if replace {
        home::write_file(&path, text.as_bytes())?;
        return Ok(true);
    }
    home::write_new_file(&path, text.as_bytes())
}

/// Makes the account `system` and its token if the database is empty. True
/// when it did.
///
/// # Errors
/// `CREDS_INSECURE`, `TOKEN_MALFORMED`, `PEPPER_MISMATCH`, `DATABASE_FAILED`.
pub async fn run(home: &Home, store: &Store, verify: &Verify) -> Result<bool> {
    if accounts::system(store.reader().as_mut()).await?.is_some() {
        return Ok(false);
    }
    // File work is short and happens once in the life of an installation.
    let token = match read_token(home)? {
        Some(token) => token,
        None => {
            let token = Token::generate(TokenKind::Account)?;
            if write_token(home, &token, false)? {
                token
            } else {
                read_token(home)?.ok_or(Code::Internal)?
            }
        }
    };
    let verifier = verify.derive(None, &token).await?;
    let now = now();
    let account = Account {
        id: AccountId::random(),
        name: SYSTEM.to_owned(),
        email: String::new(),
        state: AccountState::Active,
        created_at: now,
        created_by: None,
        max_token_age: 0,
    };
    let record = system_token(account.id, &token, now);
    let mut tx = store.begin().await?;
    // Another replica may have been faster.
    if accounts::system(tx.sql()).await?.is_some() {
        return Ok(false);
    }
    verify.peppers().require_current(tx.sql()).await?;
    accounts::insert(tx.sql(), &account).await?;
    tokens::insert(tx.sql(), &record).await?;
    secrets::insert(tx.sql(), record.id, &SecretRecord::new(token.last4(), verifier, now)).await?;
    let changes = [
        Change { account: Some(account.id), ..Change::of(FeedKind::AccountChanged) },
        token_row(FeedKind::TokenChanged, account.id, record.id),
    ];
    tx.commit(entry(Who::Bootstrap, account.id, "bootstrap", record.id), &changes).await?;
    Ok(true)
}

/// A new system token in place of all earlier ones, which are revoked.
///
/// # Errors
/// `CONFIG_INVALID` when there was no first start yet, `PEPPER_MISMATCH`,
/// `DATABASE_FAILED`.
pub async fn recover(home: &Home, store: &Store, verify: &Verify) -> Result<TokenId> {
    let token = Token::generate(TokenKind::Account)?;
    let verifier = verify.derive(None, &token).await?;
    let now = now();
    let mut tx = store.begin().await?;
    verify.peppers().require_current(tx.sql()).await?;
    let account = accounts::system(tx.sql()).await?.ok_or_else(never_started)?;
    let record = system_token(account.id, &token, now);
    tokens::insert(tx.sql(), &record).await?;
    secrets::insert(tx.sql(), record.id, &SecretRecord::new(token.last4(), verifier, now)).await?;
    let system = (account.id, Role::System);
    let revoked = ending::revoke_of_role(tx.sql(), system, record.id, now, "recover").await?;
    let mut changes = vec![token_row(FeedKind::TokenChanged, account.id, record.id)];
    changes.extend(revoked.into_iter().map(|id| token_row(FeedKind::TokenRevoked, account.id, id)));
    tx.commit(entry(Who::Recover, account.id, "recover", record.id), &changes).await?;
    // After the commit: until here the old file is the right one. If this
    // fails, running it again makes another token.
    write_token(home, &token, true)?;
    Ok(record.id)
}

/// The account of the installation.
///
/// # Errors
/// `CONFIG_INVALID` when there was no first start yet, `DATABASE_FAILED`.
pub async fn system_account(store: &Store) -> Result<AccountId> {
    let account = accounts::system(store.reader().as_mut()).await?.ok_or_else(never_started)?;
    Ok(account.id)
}

fn never_started() -> Error {
    Error::new(Code::ConfigInvalid, "this database has never been started: run `start`")
}

fn now() -> Timestamp {
    let now = clock::wall_now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn system_token(account_id: AccountId, token: &Token, now: Timestamp) -> TokenRecord {
    let grant = Grant::Account { role: Role::System, volumes: Vec::new() };
    TokenRecord::new(token, account_id, grant, now, None)
}

fn token_row(kind: FeedKind, account: AccountId, token: TokenId) -> Change {
    Change { account: Some(account), token: Some(token), ..Change::of(kind) }
}

fn entry(who: Who, account: AccountId, action: &'static str, target: TokenId) -> Entry {
    Entry {
        who,
        account: Some(account),
        action,
        target: target.to_string(),
        source: None,
        outcome: OK,
        detail: String::new(),
        request: None,
    }
}

#[cfg(test)]
mod tests;
