//! An admin of the tests: the two calls that this crate makes, by the real
//! protocol, with the rules of the real one for claim codes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error};
use flexfs_proto::v1;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use crate::bearer;
use crate::creds::admin_peer;
use crate::token::{Token, TokenKind};

/// What it knows, and its switches.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// The code that can be redeemed.
    pub(crate) code: Option<Token>,
    /// The code is over.
    pub(crate) code_ended: Option<Code>,
    /// The token that it was redeemed for.
    pub(crate) redeemed: Option<Token>,
    /// Carry the next redemption out and lose the answer.
    pub(crate) lose_answer: bool,
    /// Refuse whoever asks who he is.
    pub(crate) away: bool,
}

/// The server.
#[derive(Clone, Debug)]
pub(crate) struct LoopbackAdmin {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) address: String,
}

impl LoopbackAdmin {
    pub(crate) async fn start() -> LoopbackAdmin {
        tls::install_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let admin = LoopbackAdmin { world: Arc::default(), address };
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(admin.clone())
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
        );
        admin
    }

    /// How clients reach it.
    pub(crate) fn peer(&self) -> Peer {
        let peer = admin_peer(&self.address, None).unwrap();
        assert!(matches!(peer.trust, Trust::Plaintext));
        peer
    }

    /// A new code that it accepts.
    pub(crate) fn code(&self) -> Token {
        let code = Token::generate(TokenKind::Claim).unwrap();
        self.world.lock().code = Some(code.clone());
        code
    }

    fn redeem(&self, request: Request<v1::RedeemClaimRequest>) -> Result<v1::Token, Error> {
        let code = bearer::token_of(request.metadata())?;
        let asked = request.into_inner();
        let token = Token::parse(&asked.token.unwrap().value)?;
        let mut world = self.world.lock();
        let known = world.code.as_ref().is_some_and(|known| known.reveal() == code.reveal());
        if !known {
            return Err(Code::TokenUnknown.into());
        }
        if let Some(code) = world.code_ended {
            return Err(code.into());
        }
        if asked.kind != token.kind().name() || token.id() != code.id() {
            return Err(Code::ArgumentInvalid.into());
        }
        if world.redeemed.as_ref().is_some_and(|before| before.reveal() != token.reveal()) {
            return Err(Code::ClaimUsed.into());
        }
        world.redeemed = Some(token);
        if std::mem::take(&mut world.lose_answer) {
            return Err(Code::AdminUnreachable.into());
        }
        Ok(v1::Token { id: code.id().to_string(), ..v1::Token::default() })
    }

    fn who(&self, request: &Request<v1::WhoAmIRequest>) -> Result<v1::WhoAmIReply, Error> {
        let token = bearer::token_of(request.metadata())?;
        let world = self.world.lock();
        if world.away {
            return Err(Code::AdminUnreachable.into());
        }
        if world.redeemed.as_ref().is_none_or(|known| known.reveal() != token.reveal()) {
            return Err(Code::TokenUnknown.into());
        }
        Ok(v1::WhoAmIReply { token_id: token.id().to_string(), ..v1::WhoAmIReply::default() })
    }
}

impl NamedService for LoopbackAdmin {
    const NAME: &'static str = "flexfs.v1.AdminService";
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

struct Redeem(LoopbackAdmin);

impl UnaryService<v1::RedeemClaimRequest> for Redeem {
    type Response = v1::Token;
    type Future = Answer<v1::Token>;

    fn call(&mut self, request: Request<v1::RedeemClaimRequest>) -> Self::Future {
        let answer = self.0.redeem(request).map(Response::new).map_err(Status::from);
        Box::pin(std::future::ready(answer))
    }
}

struct Who(LoopbackAdmin);

impl UnaryService<v1::WhoAmIRequest> for Who {
    type Response = v1::WhoAmIReply;
    type Future = Answer<v1::WhoAmIReply>;

    fn call(&mut self, request: Request<v1::WhoAmIRequest>) -> Self::Future {
        let answer = self.0.who(&request).map(Response::new).map_err(Status::from);
        Box::pin(std::future::ready(answer))
    }
}

impl Service<http::Request<Body>> for LoopbackAdmin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let admin = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/flexfs.v1.AdminService/RedeemClaim" => {
                    let codec = tonic_prost::ProstCodec::default();
                    Grpc::new(codec).unary(Redeem(admin), request).await
                }
                "/flexfs.v1.AdminService/WhoAmI" => {
                    let codec = tonic_prost::ProstCodec::default();
                    Grpc::new(codec).unary(Who(admin), request).await
                }
                other => panic!("not a call of this server: {other}"),
            })
        })
    }
}
