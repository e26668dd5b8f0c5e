//! Calls of gRPC with any token, as a program makes them: faster and finer
//! than a command.

use std::path::Path;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token as Secret, TokenKind};
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Result, protocol, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use flexfs_proto::v1::authority_service_client::AuthorityServiceClient;
use flexfs_proto::v1::meta_control_service_client::MetaControlServiceClient;
use flexfs_proto::v1::meta_service_client::MetaServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::cluster::{Cluster, Token};

/// admin, as a client knows it.
#[derive(Clone, Debug)]
pub struct Calls {
    channel: Channel,
}

/// A token of the harness as the parsed type.
///
/// # Panics
/// When the file holds none.
#[must_use]
pub fn secret(token: &Token) -> Secret {
    Secret::parse(&token.text()).expect("a token")
}

/// The token that a credentials file holds.
///
/// # Panics
/// When it holds none.
#[must_use]
pub fn secret_in(creds: &Path, kind: TokenKind) -> Secret {
    Credentials::read(creds).and_then(|creds| creds.token(kind)).expect("credentials")
}

impl Calls {
    /// To the admin of this cluster; within a runtime.
    ///
    /// # Panics
    /// When the cluster has no CA.
    #[must_use]
    pub fn to(cluster: &Cluster) -> Calls {
        let peer = admin_peer(cluster);
        Calls { channel: peer.channel().expect("an address") }
    }

    /// To another admin, proven by the CA in this file; within a runtime.
    ///
    /// # Panics
    /// When there is no CA.
    #[must_use]
    pub fn elsewhere(ca: &Path, address: &str) -> Calls {
        let peer = peer(ca, address);
        Calls { channel: peer.channel().expect("an address") }
    }

    /// AdminService as the holder of this token.
    #[must_use]
    pub fn admin(
        &self,
        token: &Secret,
    ) -> AdminServiceClient<InterceptedService<Channel, BearerInterceptor>> {
        AdminServiceClient::with_interceptor(self.channel.clone(), BearerInterceptor::new(token))
    }

    /// WhoAmI: the id of the token, when it is accepted.
    ///
    /// # Errors
    /// What admin says.
    pub async fn who_am_i(&self, token: &Secret) -> Result<String> {
        let call = self.admin(token).who_am_i(v1::WhoAmIRequest {}).await;
        call.map(|reply| reply.into_inner().token_id).map_err(|e| refused(&e))
    }

    /// ValidateVolumeToken, as the metadata server with the token `meta` asks
    /// it: the id of the secret that matched.
    ///
    /// # Errors
    /// What admin says.
    pub async fn validate(&self, meta: &Secret, token: &Secret, volume: &str) -> Result<String> {
        let bearer = BearerInterceptor::new(meta);
        let mut client = AuthorityServiceClient::with_interceptor(self.channel.clone(), bearer);
        let request = v1::ValidateVolumeTokenRequest {
            token: Some(token.to_wire()),
            volume: volume.to_owned(),
            peer_address: "127.0.0.1".to_owned(),
            host_name: "asker".to_owned(),
        };
        let call = client.validate_volume_token(request).await;
        call.map(|reply| reply.into_inner().secret_id).map_err(|e| refused(&e))
    }

    /// RotateToken of a volume's token; `overlap_seconds` = 0: an emergency.
    ///
    /// # Errors
    /// What admin says.
    pub async fn rotate(&self, by: &Secret, new: &Secret, overlap_seconds: u64) -> Result<()> {
        let request = v1::RotateTokenRequest {
            kind: "volume".to_owned(),
            id: new.id().to_string(),
            token: Some(new.to_wire()),
            overlap_seconds,
            emergency: overlap_seconds == 0,
            ..v1::RotateTokenRequest::default()
        };
        self.admin(by).rotate_token(request).await.map(drop).map_err(|e| refused(&e))
    }

    /// RedeemClaim, with a new secret for the volume's token: its id.
    ///
    /// # Errors
    /// What admin says.
    pub async fn redeem(&self, code: &Secret) -> Result<String> {
        let token = Secret::generate_for(TokenKind::Volume, code.id())?;
        let request =
            v1::RedeemClaimRequest { kind: "volume".to_owned(), token: Some(token.to_wire()) };
        let call = self.admin(code).redeem_claim(request).await;
        call.map(|reply| reply.into_inner().id).map_err(|e| refused(&e))
    }

    /// FinishRotation of a volume's token, by force.
    ///
    /// # Errors
    /// What admin says.
    pub async fn finish(&self, by: &Secret, id: &str) -> Result<()> {
        let request = v1::FinishRotationRequest {
            kind: "volume".to_owned(),
            id: id.to_owned(),
            force: true,
            ..v1::FinishRotationRequest::default()
        };
        self.admin(by).finish_rotation(request).await.map(drop).map_err(|e| refused(&e))
    }
}

/// meta, as its own operator asks it.
#[derive(Debug)]
pub struct Feed {
    channel: Channel,
}

impl Feed {
    /// Of the meta of this cluster, which must run; within a runtime.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Feed {
        Feed::through(cluster, cluster.meta_address())
    }

    /// As [`Feed::of`], over a proxy with this address.
    ///
    /// # Panics
    /// When meta does not run.
    #[must_use]
    pub fn through(cluster: &Cluster, address: &str) -> Feed {
        let status = cluster.run("meta.flexfs", &["status", "-o", "json"]).json();
        let server = status["id"].as_str().and_then(|id| id.parse().ok());
        let peer = Peer {
            address: address.to_owned(),
            name: tls::meta_name(server.expect("a server's id")),
            unreachable: Code::MetaUnreachable,
            ..admin_peer(cluster)
        };
        Feed { channel: peer.channel().expect("an address") }
    }

    /// `live`, `silent`, `unreachable` or `refused (…)`, asked with the token
    /// that its credentials file holds.
    ///
    /// # Errors
    /// What meta says.
    pub async fn state(&self, own: &Secret) -> Result<String> {
        let bearer = BearerInterceptor::new(own);
        let mut client = MetaControlServiceClient::with_interceptor(self.channel.clone(), bearer);
        let call = client.status(v1::MetaStatusRequest {}).await;
        call.map(|reply| reply.into_inner().feed_state).map_err(|e| refused(&e))
    }

    /// OpenSession with a token, whatever admin says of it: its id.
    ///
    /// # Errors
    /// What meta says.
    pub async fn open_session(&self, token: &Secret, volume: &str) -> Result<String> {
        let bearer = BearerInterceptor::new(token);
        let mut client = MetaServiceClient::with_interceptor(self.channel.clone(), bearer);
        let request = v1::OpenSessionRequest {
            volume: volume.to_owned(),
            protocol_min: protocol::VERSION_MIN,
            protocol_max: protocol::VERSION,
            honours: ["noExec", "noSUID", "noDev", "noATime"].map(str::to_owned).to_vec(),
            host_name: "asker".to_owned(),
            ..v1::OpenSessionRequest::default()
        };
        let call = client.open_session(request).await;
        call.map(|reply| reply.into_inner().token_id).map_err(|e| refused(&e))
    }
}

fn admin_peer(cluster: &Cluster) -> Peer {
    peer(&cluster.home().join("ssl/ca"), cluster.admin_address())
}

fn peer(ca: &Path, address: &str) -> Peer {
    let ca = std::fs::read_to_string(ca).expect("a CA");
    Peer {
        address: address.to_owned(),
        name: tls::ADMIN_NAME.to_owned(),
        trust: Trust::Ca(tls::certificate_from_pem(&ca).expect("a CA")),
        unreachable: Code::AdminUnreachable,
    }
}

fn refused(status: &tonic::Status) -> flexfs_common::Error {
    status::from_status(status, Code::AdminUnreachable)
}
