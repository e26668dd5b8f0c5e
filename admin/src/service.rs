//! The rules. Every function here begins with the authorisation of its
//! caller, checks its input, and changes things in one transaction that
//! carries the audit record and the feed rows.

use std::net::IpAddr;
use std::sync::Arc;

use flexfs_auth::policy::{Action, Permit, Resource, authorize};
use flexfs_auth::principal::{Principal, Role};
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::{AccountId, TokenId, VolumeId};
use flexfs_common::{Code, Error, Result, clock};

use crate::audit::{Entry, OK, Request, Who};
use crate::ca::Ca;
use crate::feed::Registry;
use crate::model::Grant;
use crate::store::requests::{self, Done};
use crate::store::volumes::Visible;
use crate::store::{Store, Tx, accounts as stored_accounts};
use crate::verify::{Verified, Verify, refusal};

pub mod accounts;
pub mod authority;
pub mod bulk;
pub mod claim;
pub mod describe;
mod find;
mod input;
pub mod methods;
pub mod metrics;
mod mint;
mod purge;
pub mod revoke;
pub mod rotate;
pub mod sessions;
pub mod stores;
pub mod suspend;
pub mod tokens;
pub mod update;
pub mod volumes;

use methods::{Method, Rule};

/// Volumes kept in memory for validations.
const PLACED_MAX: usize = 16_384;

/// A verified caller of one method.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// Its token.
    pub verified: Verified,
    /// Where it calls from.
    pub source: Option<IpAddr>,
    /// What it calls.
    pub method: &'static Method,
    /// The id of its request, if it gave one.
    pub request: Option<Request>,
    /// What was done under this id before, if anything.
    pub done: Option<Done>,
}

impl Caller {
    /// The caller behind a verified token.
    #[must_use]
    pub fn new(verified: Verified, source: Option<IpAddr>, method: &'static Method) -> Caller {
        let token = &verified.standing.token;
        let principal = match &token.grant {
            // Its code stands for a token that nobody holds yet.
            _ if verified.secret_id.is_none() => Principal::Claim { token_id: token.id },
            Grant::Account { role, volumes } => Principal::Account {
                token_id: token.id,
                account_id: token.account_id,
                role: *role,
                volumes: volumes.clone(),
            },
            Grant::Volume { volume_id, .. } => Principal::Volume {
                token_id: token.id,
                account_id: token.account_id,
                volume_id: *volume_id,
            },
            Grant::Meta { meta_store } => {
                Principal::Meta { token_id: token.id, meta_store: meta_store.clone() }
            }
        };
        Caller { principal, verified, source, method, request: None, done: None }
    }

    /// Its token's id.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        self.verified.standing.token.id
    }

    /// Its account (a meta token: the account `system`).
    #[must_use]
    pub fn account_id(&self) -> AccountId {
        self.verified.standing.token.account_id
    }

    /// Does it act for the installation?
    #[must_use]
    pub fn is_system(&self) -> bool {
        matches!(self.principal, Principal::Account { role: Role::System, .. })
    }

    /// The outcome of an earlier deletion under the same request id: the thing
    /// is gone, so that nothing else could tell.
    fn deleted_before<T: std::str::FromStr>(&self) -> Option<(T, u64)> {
        let done = self.done.as_ref()?;
        Some((done.target.parse().ok()?, done.revision))
    }

    /// Is this method allowed on this? For methods of one action.
    fn permit(&self, resource: Resource) -> Result<Permit> {
        match self.method.rule {
            Rule::Action(action) => authorize(&self.principal, action, resource),
            Rule::TokenRead | Rule::TokenWrite | Rule::AccountTokenCreate => {
                Err(Error::new(Code::Internal, "this method's action depends on its request"))
            }
        }
    }

    /// Is this method allowed on tokens of this kind? For methods whose
    /// action follows from the kind.
    fn token_action(&self, kind: TokenKind) -> Result<Action> {
        let write = match self.method.rule {
            Rule::TokenRead => false,
            Rule::TokenWrite => true,
            Rule::Action(_) | Rule::AccountTokenCreate => return Err(Code::Internal.into()),
        };
        match (kind, write) {
            (TokenKind::Account, false) => Ok(Action::AccountTokenRead),
            (TokenKind::Account, true) => Ok(Action::AccountTokenWrite),
            (TokenKind::Volume, false) => Ok(Action::VolumeTokenRead),
            (TokenKind::Volume, true) => Ok(Action::VolumeTokenWrite),
            (TokenKind::Meta, false) => Ok(Action::MetaTokenRead),
            (TokenKind::Meta, true) => Ok(Action::MetaTokenWrite),
            (TokenKind::Claim, _) => {
                Err(Error::new(Code::ArgumentInvalid, "a kind is account, volume or meta"))
            }
        }
    }

    /// Would the role allow this action on some thing of the account? Asked
    /// before a thing is looked up, so that the answer does not depend on it;
    /// [`authorize`] is asked again for the very thing found.
    fn permit_at_all(&self, action: Action, account: AccountId) -> Result<()> {
        let mut principal = self.principal.clone();
        if let Principal::Account { volumes, .. } = &mut principal {
            volumes.clear();
        }
        authorize(&principal, action, Resource::Account(account)).map(drop)
    }

    /// What it may see of an account.
    fn visible(&self, account: AccountId) -> Visible {
        match &self.principal {
            Principal::Account { token_id, role, volumes, .. } => Visible {
                account,
                volumes: volumes.clone(),
                created_by: (*role == Role::Provisioner).then_some(*token_id),
            },
            Principal::Volume { volume_id, .. } => {
                Visible { account, volumes: vec![*volume_id], created_by: None }
            }
            Principal::Meta { .. } | Principal::Claim { .. } => Visible::all(account),
        }
    }

    fn entry(
        &self,
        account: Option<AccountId>,
        action: &'static str,
        target: impl ToString,
    ) -> Entry {
        Entry {
            who: Who::Token(self.token_id()),
            account,
            action,
            target: target.to_string(),
            source: self.source,
            outcome: OK,
            detail: String::new(),
            request: self.request,
        }
    }
}

/// What is not yours is not there.
fn hidden(error: Error, missing: Code) -> Error {
    if error.code() == Code::ScopeMissing { missing.into() } else { error }
}

/// The service layer.
pub struct Service {
    store: Store,
    verify: Arc<Verify>,
    ca: Arc<Ca>,
    registry: Arc<Registry>,
    counted: metrics::Counted,
    /// Volumes as metadata servers need them, and when they were read.
    placed: quick_cache::sync::Cache<VolumeId, (Arc<authority::Placed>, u64)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({:?})", self.store)
    }
}

impl Service {
    /// Over these parts.
    #[must_use]
    pub fn new(store: Store, verify: Arc<Verify>, ca: Arc<Ca>, registry: Arc<Registry>) -> Service {
        Service {
            store,
            verify,
            ca,
            registry,
            counted: metrics::Counted::default(),
            placed: quick_cache::sync::Cache::new(PLACED_MAX),
        }
    }

    /// Looks whether a request was answered before, by its id.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` for another request under the same id,
    /// `DATABASE_FAILED`.
    pub async fn recall_request(&self, caller: &mut Caller) -> Result<()> {
        let Some(request) = caller.request else { return Ok(()) };
        let who = caller.token_id();
        let done = requests::find(self.store.reader().as_mut(), who, request.id).await?;
        if done.as_ref().is_some_and(|done| done.digest != request.digest) {
            return Err(Code::RequestReused.into());
        }
        caller.done = done;
        Ok(())
    }

    /// Begins a change of a caller whose right still stands: between the door
    /// and here lies the line before argon2, and what was ended meanwhile must
    /// not commit anything.
    pub(super) async fn begin_for(&self, caller: &Caller) -> Result<Tx> {
        let mut tx = self.store.begin().await?;
        let standing = self.verify.standing(tx.sql(), caller.token_id()).await?;
        let standing = standing.ok_or(Code::TokenUnknown)?;
        let now = clock::wall_now();
        match refusal(&standing, caller.verified.secret_id, now, caller.source) {
            Some(code) => Err(code.into()),
            None => Ok(tx),
        }
    }

    /// A revision as the caller may know it: tenants are told how many changes
    /// of their own there were, because revisions count everybody's.
    pub(super) async fn told(&self, caller: &Caller, revision: u64) -> Result<u64> {
        let own = match caller.principal {
            Principal::Account { role: Role::System, .. } | Principal::Meta { .. } => {
                return Ok(revision);
            }
            Principal::Account { account_id, .. } | Principal::Volume { account_id, .. } => {
                account_id
            }
            Principal::Claim { .. } => return Ok(0),
        };
        Ok(stored_accounts::own_changes(self.store.reader().as_mut(), own).await?.count)
    }

    /// The database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The authority behind all certificates.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Who verifies tokens.
    #[must_use]
    pub fn verifier(&self) -> &Verify {
        &self.verify
    }

    /// Who is connected to the feed.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
}
