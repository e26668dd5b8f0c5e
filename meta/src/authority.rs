//! Calls to admin, with this server's meta token.

use std::time::Duration;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::Token;
use flexfs_common::clock::BootTime;
use flexfs_common::ids::{SecretId, ServerId, TokenId};
use flexfs_common::tls::Peer;
use flexfs_common::{Code, Error, Result, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::authority_service_client::AuthorityServiceClient;
use parking_lot::Mutex;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

pub mod acks;
pub mod apply;
pub mod feed;
pub mod register;
pub mod revived;

type Client = AuthorityServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// Tokens in one CheckTokens call.
const CHECK_MAX: usize = 1000;
/// Time for a validation: a mount waits for it.
const VALIDATE: Duration = Duration::from_secs(10);

/// admin, seen from here.
#[derive(Debug)]
pub struct Authority {
    peer: Peer,
    state: Mutex<State>,
    /// When the latest call began that admin took our token for.
    accepted: Mutex<Option<BootTime>>,
    /// Held while admin is asked whether it takes our token.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    bearer: BearerInterceptor,
    client: Client,
    /// Counts our tokens.
    generation: u64,
}

/// What admin said of tokens by id.
#[derive(Debug)]
pub struct Checked {
    /// One per token asked about, in order.
    pub states: Vec<v1::TokenState>,
    /// The feed's head when the rows were read.
    pub revision: u64,
}

impl Authority {
    /// Connects when first used.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` when the address is not `host:port`.
    pub fn new(peer: Peer, token: &Token) -> Result<Authority> {
        let bearer = BearerInterceptor::new(token);
        let client = connect(&peer, &bearer)?;
        Ok(Authority {
            peer,
            state: Mutex::new(State { bearer, client, generation: 0 }),
            accepted: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Every later call has this token.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`.
    pub fn set_token(&self, token: &Token) -> Result<()> {
        let bearer = BearerInterceptor::new(token);
        let client = connect(&self.peer, &bearer)?;
        let mut state = self.state.lock();
        let generation = state.generation.wrapping_add(1);
        *state = State { bearer, client, generation };
        Ok(())
    }

    /// Where admin is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.peer.address
    }

    /// Counts our tokens: the same before and after some calls = all of them
    /// had the same token.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Forgets the present connection: one that is dying keeps new calls
    /// otherwise.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`.
    pub fn reconnect(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.client = connect(&self.peer, &state.bearer)?;
        Ok(())
    }

    fn client(&self) -> Client {
        self.state.lock().client.clone()
    }

    /// Does admin take our own token? A refusal of a volume token looks the
    /// same as one of ours. Not asked again when a call that began at `since`
    /// or later was taken.
    ///
    /// # Errors
    /// As [`Authority::register`].
    pub async fn confirm_own(&self, since: BootTime) -> Result<()> {
        let known = || self.accepted.lock().is_some_and(|at| at >= since);
        if known() {
            return Ok(());
        }
        let _one_asks = self.asking.lock().await;
        if known() {
            return Ok(());
        }
        let begun = BootTime::now();
        let mut client = self.client();
        let nothing = v1::CheckTokensRequest { tokens: Vec::new() };
        call(VALIDATE, client.check_tokens(nothing)).await?;
        *self.accepted.lock() = Some(begun);
        Ok(())
    }

    /// RegisterServer.
    ///
    /// # Errors
    /// `ADMIN_UNREACHABLE`, or what admin refuses with.
    pub async fn register(
        &self,
        server: ServerId,
        certificate_request: Vec<u8>,
    ) -> Result<v1::RegisterServerReply> {
        let request = v1::RegisterServerRequest {
            server_id: server.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificate_request,
            listen_address: String::new(),
        };
        let mut client = self.client();
        call(limits::CALL, client.register_server(request)).await
    }

    /// ListPlacedVolumes.
    ///
    /// # Errors
    /// As [`Authority::register`].
    pub async fn placed_volumes(&self) -> Result<v1::ListPlacedVolumesReply> {
        let mut client = self.client();
        call(limits::CALL, client.list_placed_volumes(v1::ListPlacedVolumesRequest {})).await
    }

    /// ValidateVolumeToken.
    ///
    /// # Errors
    /// As [`Authority::register`].
    pub async fn validate(
        &self,
        request: v1::ValidateVolumeTokenRequest,
    ) -> Result<v1::ValidateVolumeTokenReply> {
        let begun = BootTime::now();
        let mut client = self.client();
        let reply = call(VALIDATE, client.validate_volume_token(request)).await?;
        *self.accepted.lock() = Some(begun);
        Ok(reply)
    }

    /// CheckTokens, in parts, each within `limit`.
    ///
    /// # Errors
    /// As [`Authority::register`]; `PROTOCOL_INVALID` when an answer is
    /// missing.
    pub async fn check(&self, tokens: &[(TokenId, SecretId)], limit: Duration) -> Result<Checked> {
        let mut states = Vec::with_capacity(tokens.len());
        let mut revision = u64::MAX;
        for part in tokens.chunks(CHECK_MAX) {
            let tokens = part
                .iter()
                .map(|(token, secret)| v1::TokenCheck {
                    token_id: token.to_string(),
                    secret_id: secret.to_string(),
                })
                .collect();
            let mut client = self.client();
            let request = v1::CheckTokensRequest { tokens };
            let reply = call(limit, client.check_tokens(request)).await?;
            let same = reply.states.len() == part.len()
                && reply.states.iter().zip(part).all(|(state, (token, secret))| {
                    state.token_id == token.to_string() && state.secret_id == secret.to_string()
                });
            if !same {
                return Err(Error::new(Code::ProtocolInvalid, "CheckTokens answered others"));
            }
            states.extend(reply.states);
            // All of them are at least as new as the oldest.
            revision = revision.min(reply.revision);
        }
        Ok(Checked { states, revision })
    }

    /// Watch.
    ///
    /// # Errors
    /// As [`Authority::register`].
    pub async fn watch(
        &self,
        requests: impl futures::Stream<Item = v1::WatchRequest> + Send + 'static,
    ) -> Result<tonic::Streaming<v1::WatchEvent>> {
        let mut client = self.client();
        call(limits::FEED_DEAD, client.watch(requests)).await
    }
}

fn connect(peer: &Peer, bearer: &BearerInterceptor) -> Result<Client> {
    Ok(AuthorityServiceClient::with_interceptor(peer.channel()?, bearer.clone()))
}

async fn call<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status::from_status(&status, Code::AdminUnreachable)),
        Err(_) => Err(Error::new(Code::AdminUnreachable, "admin did not answer in time")),
    }
}

#[cfg(test)]
mod tests;
