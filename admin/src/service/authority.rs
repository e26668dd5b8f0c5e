//! What metadata servers ask. Each learns only of volumes placed in its own
//! meta store; everything else is as if it did not exist.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use flexfs_auth::policy::Resource;
use flexfs_auth::principal::Principal;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::{SecretId, ServerId, TokenId, VolumeId};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result, clock};
use flexfs_proto::v1;
use jiff::Timestamp;

use super::input::{self, bad, whole_id};
use super::{Caller, Service, describe::check_volume};
use crate::audit::Entry;
use crate::model::{BlockStore, MetaServer, MetaStore, TokenRecord, Volume};
use crate::store::changes::Change;
use crate::store::tokens::Standing;
use crate::store::{Sql, blocks, feed, metas, volumes};
use crate::verify::{Showing, refusal};

/// Servers that can register in one meta store.
const SERVERS_PER_STORE: usize = 256;
/// Bytes of a certificate request: a P-256 one is some 300.
const REQUEST_MAX_LEN: usize = 16 * 1024;
/// Tokens of one CheckTokens.
const CHECKS_MAX: usize = 1000;

/// A server's registration.
#[derive(Clone, Debug)]
pub struct Registered {
    /// PEM, leaf first, then the CA.
    pub certificate_chain: String,
    /// Its store.
    pub meta_store: MetaStore,
    /// Where it listens.
    pub address: String,
    /// The feed.
    pub head: feed::Head,
}

/// A volume with its block store.
pub type Placed = (Volume, BlockStore);

/// A volume token found good.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The token.
    pub standing: Arc<Standing>,
    /// The secret that matched.
    pub secret_id: SecretId,
    /// Its volume.
    pub volume: Arc<Placed>,
    /// Milliseconds left; 0 = no end.
    pub valid_millis: u64,
    /// The feed's head before the row was read.
    pub revision: u64,
}

/// What became of a token of a live session.
#[derive(Debug)]
pub struct Checked {
    /// As asked.
    pub token_id: String,
    /// As asked.
    pub secret_id: String,
    /// Why its sessions must end, or the token and milliseconds left.
    pub outcome: Result<(TokenRecord, u64)>,
}

fn own_store(caller: &Caller) -> Result<StoreId> {
    caller.permit(Resource::Installation)?;
    match &caller.principal {
        Principal::Meta { meta_store, .. } => Ok(meta_store.clone()),
        Principal::Account { .. } | Principal::Volume { .. } | Principal::Claim { .. } => {
            Err(Code::TokenWrongKind.into())
        }
    }
}

impl Service {
    /// Registers a server (again) and signs its certificate.
    ///
    /// # Errors
    /// `SCOPE_MISSING` for a server id of another meta store,
    /// `ARGUMENT_INVALID`, `META_STORE_NOT_FOUND`.
    pub async fn register_server(
        &self,
        caller: &Caller,
        request: v1::RegisterServerRequest,
    ) -> Result<Registered> {
        let store_id = own_store(caller)?;
        let id: ServerId = request.server_id.parse()?;
        let version = input::line("the version", &request.version)?;
        let listen = if request.listen_address.is_empty() {
            String::new()
        } else {
            input::address(&request.listen_address)?
        };
        if request.certificate_request.len() > REQUEST_MAX_LEN {
            return Err(bad("the certificate request is too long"));
        }
        let mut tx = self.begin_for(caller).await?;
        let meta_store = metas::by_id(tx.sql(), &store_id).await?.ok_or(Code::MetaStoreNotFound)?;
        let known = metas::server(tx.sql(), id).await?;
        match &known {
            Some(server) if server.meta_store != store_id => {
                return Err(Error::new(
                    Code::ScopeMissing,
                    "this server id is registered for another meta store",
                ));
            }
            Some(_) => {}
            None => {
                let servers = metas::servers_of(tx.sql(), &store_id).await?;
                if servers.len() >= SERVERS_PER_STORE {
                    return Err(Error::new(
                        Code::RateLimited,
                        "too many servers are registered for this meta store",
                    ));
                }
            }
        }
        let chain =
            self.ca.sign_server(&request.certificate_request, id, host_of(&meta_store.address))?;
        let server = MetaServer {
            id,
            meta_store: store_id.clone(),
            address: listen,
            version,
            acknowledged: known.as_ref().map_or(0, |server| server.acknowledged),
            last_seen_at: clock::wall_now(),
        };
        metas::put_server(tx.sql(), &server).await?;
        let entry: Entry = caller.entry(None, "server.register", id);
        let changed = known.is_none_or(|known| known.address != server.address);
        let changes: Vec<Change> = changed
            .then(|| Change {
                meta_store: Some(store_id.clone()),
                ..Change::of(v1::FeedKind::MetaStoreChanged)
            })
            .into_iter()
            .collect();
        tx.commit(entry, &changes).await?;
        self.registry.registered(&server);
        let head = feed::head(self.store.reader().as_mut()).await?;
        Ok(Registered {
            certificate_chain: chain,
            address: reachable(&server.address, &meta_store.address).to_owned(),
            meta_store,
            head,
        })
    }

    /// The volumes of the caller's meta store, retired ones included, and the
    /// feed's head before they were read.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn list_placed(&self, caller: &Caller) -> Result<(Vec<Placed>, u64)> {
        let store = own_store(caller)?;
        let mut reader = self.store.reader();
        let revision = feed::head(reader.as_mut()).await?.revision;
        let mut placed: Vec<Placed> = Vec::new();
        loop {
            let after = placed.last().map(|(volume, _)| volume.id.to_string());
            let part = volumes::placed(reader.as_mut(), &store, &after.unwrap_or_default()).await?;
            if part.is_empty() {
                return Ok((placed, revision));
            }
            for volume in part {
                let block_store = block_store_of(reader.as_mut(), &volume).await?;
                placed.push((volume, block_store));
            }
        }
    }

    /// Verifies a volume token for a mount that stands at the meta server's
    /// door.
    ///
    /// # Errors
    /// The `TOKEN_` codes; `TOKEN_UNKNOWN` also for tokens of volumes placed
    /// elsewhere; `CREDS_MISMATCH` when the mount asked for another volume.
    pub async fn validate_volume_token(
        &self,
        caller: &Caller,
        request: v1::ValidateVolumeTokenRequest,
    ) -> Result<Validated> {
        let store = own_store(caller)?;
        let text = request.token.ok_or(Code::TokenMissing)?;
        let token = Token::parse_kind(&text.value, TokenKind::Volume)?;
        let peer = peer_address(&request.peer_address);
        // Before the row: a change after this revision will come by the feed.
        let revision = self.store.known_head().await?;
        // Of another meta store = as if unknown: a stolen meta token finds out
        // nothing about the tokens of others, not even that they are good.
        let showing = Showing { from: peer, host: &request.host_name, store: Some(&store) };
        let verified = self.verify.verify_shown(&token, &showing).await?;
        let secret_id = verified.secret_id.ok_or(Code::TokenUnknown)?;
        let standing = verified.standing;
        let volume_id = standing.token.volume_id().ok_or(Code::TokenUnknown)?;
        let volume = self.placed_volume(volume_id).await?;
        if !request.volume.is_empty() {
            check_volume(&volume.0, &request.volume)?;
        }
        let valid_millis = millis_left(&standing, secret_id);
        Ok(Validated { standing, secret_id, volume, valid_millis, revision })
    }

    /// A volume with its block store: from memory, unless something of either
    /// has changed since it was read.
    async fn placed_volume(&self, id: VolumeId) -> Result<Arc<Placed>> {
        if self.store.is_current()
            && let Some((placed, revision)) = self.placed.get(&id)
        {
            let applied = self.store.applied();
            let changed = applied.changed_since(&id, revision)
                || applied.changed_since(&placed.1.id, revision);
            if !changed {
                return Ok(placed);
            }
        }
        let revision = self.store.applied().latest();
        let mut reader = self.store.reader();
        let volume = volumes::by_id(reader.as_mut(), id).await?.ok_or(Code::TokenUnknown)?;
        let block_store = block_store_of(reader.as_mut(), &volume).await?;
        let placed = Arc::new((volume, block_store));
        self.placed.insert(id, (Arc::clone(&placed), revision));
        Ok(placed)
    }

    /// The states of tokens by id, for live sessions.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` for too many.
    pub async fn check_tokens(
        &self,
        caller: &Caller,
        request: v1::CheckTokensRequest,
    ) -> Result<(Vec<Checked>, u64)> {
        let store = own_store(caller)?;
        if request.tokens.len() > CHECKS_MAX {
            return Err(bad(format!("at most {CHECKS_MAX} tokens at once")));
        }
        let mut reader = self.store.reader();
        let revision = feed::head(reader.as_mut()).await?.revision;
        let mut checked = Vec::with_capacity(request.tokens.len());
        for ask in request.tokens {
            let outcome = self.check_one(reader.as_mut(), &store, &ask).await;
            if let Err(error) = &outcome
                && error.code() == Code::DatabaseFailed
            {
                return Err(Code::DatabaseFailed.into());
            }
            checked.push(Checked { token_id: ask.token_id, secret_id: ask.secret_id, outcome });
        }
        Ok((checked, revision))
    }

    async fn check_one(
        &self,
        sql: &mut dyn Sql,
        store: &StoreId,
        ask: &v1::TokenCheck,
    ) -> Result<(TokenRecord, u64)> {
        let token = whole_id::<TokenId>(&ask.token_id).ok_or(Code::TokenUnknown)?;
        let secret = whole_id::<SecretId>(&ask.secret_id).ok_or(Code::TokenUnknown)?;
        let standing = self
            .verify
            .standing(sql, token)
            .await?
            .filter(|s| s.token.volume_id().is_some() && s.meta_store.as_ref() == Some(store))
            .ok_or(Code::TokenUnknown)?;
        // Addresses are checked when a session opens, by the address it has then.
        match refusal(&standing, Some(secret), clock::wall_now(), None) {
            None | Some(Code::TokenSourceDenied) => {}
            Some(code) => return Err(code.into()),
        }
        let left = millis_left(&standing, secret);
        Ok((standing.token, left))
    }

    /// The meta store of a Watch, after checking that the server is its own.
    ///
    /// # Errors
    /// `META_UNREGISTERED` for a server that is not registered in this store.
    pub async fn watching_server(
        &self,
        caller: &Caller,
        server_id: &str,
    ) -> Result<(StoreId, MetaServer)> {
        let store = own_store(caller)?;
        let id: ServerId = server_id.parse()?;
        let server = metas::server(self.store.reader().as_mut(), id).await?;
        let server = server
            .filter(|server| server.meta_store == store)
            .ok_or_else(|| Error::new(Code::MetaUnregistered, "register this server first"))?;
        Ok((store, server))
    }
}

/// Until the token or the secret ends, whichever is first; 0 = no end.
fn millis_left(standing: &Standing, secret_id: SecretId) -> u64 {
    let secret_end = standing
        .secrets
        .iter()
        .find(|secret| secret.id == secret_id)
        .and_then(|secret| secret.expires_at);
    let end = match (standing.token.expires_at, secret_end) {
        (Some(a), Some(b)) => a.min(b),
        (Some(end), None) | (None, Some(end)) => end,
        (None, None) => return 0,
    };
    span_until(end, clock::wall_now())
}

/// At least 1, because 0 means no end.
fn span_until(end: Timestamp, now: Timestamp) -> u64 {
    let millis = end.duration_since(now).as_millis();
    u64::try_from(millis).unwrap_or(0).max(1)
}

async fn block_store_of(sql: &mut dyn Sql, volume: &Volume) -> Result<BlockStore> {
    blocks::by_id(sql, &volume.block_store)
        .await?
        .ok_or_else(|| Error::new(Code::DatabaseFailed, "a volume has no block store"))
}

/// An address with or without a port; anything else is not known.
pub(super) fn peer_address(text: &str) -> Option<IpAddr> {
    let with_port = text.parse::<SocketAddr>().map(|address| address.ip());
    with_port.or_else(|_| text.parse()).ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Where a server is reached: what it said, unless that is "everywhere".
#[must_use]
pub fn reachable<'a>(server: &'a str, store: &'a str) -> &'a str {
    let host = host_of(server);
    let everywhere = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if server.is_empty() || everywhere { store } else { server }
}

/// The host of `host:port`, `[v6]:port` or with a scheme before it.
fn host_of(address: &str) -> &str {
    let rest = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        assert_eq!(host_of("a.example:7410"), "a.example");
        assert_eq!(host_of("http://[::1]:7410"), "::1");
        assert_eq!(reachable("", "s:1"), "s:1");
        assert_eq!(reachable("0.0.0.0:7410", "s:1"), "s:1");
        assert_eq!(reachable("[::]:7410", "s:1"), "s:1");
        assert_eq!(reachable("m:2", "s:1"), "m:2");
        assert_eq!(peer_address("192.0.2.1:5"), peer_address("192.0.2.1"));
        assert_eq!(peer_address("[::ffff:192.0.2.1]:5"), peer_address("192.0.2.1"));
        assert_eq!(peer_address("x"), None);
    }

    #[test]
    fn the_last_millisecond_is_not_for_ever() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(span_until(now, now), 1);
        assert_eq!(span_until("2026-01-01T00:00:01Z".parse().unwrap(), now), 1000);
    }
}
