//! The other side of the authority protocol, as a test tells it to be.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use flexfs_auth::bearer;
use flexfs_auth::token::Token;
use flexfs_common::ids::SecretId;
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error, Result, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::authority_service_server::{AuthorityService, AuthorityServiceServer};
use flexfs_proto::v1::watch_request::Body;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::LIMIT;

const FEED: &str = "feed";

/// What a secret of a volume token is worth now.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    pub(crate) id: SecretId,
    pub(crate) refused: Option<Code>,
    pub(crate) valid_millis: u64,
    pub(crate) idle_millis: u64,
    pub(crate) flags: v1::Flags,
    pub(crate) mount_path: String,
}

#[derive(Default)]
struct Script {
    /// Texts of the server's own token that are taken.
    own: Vec<String>,
    /// What the others are refused with.
    own_refusal: Option<Code>,
    placed: v1::PlacedVolume,
    /// By the token's text.
    tokens: HashMap<String, Secret>,
    rows: Vec<v1::FeedRow>,
    validated: usize,
    checked: usize,
    /// The bearer of each subscription.
    subscribed: Vec<String>,
    reports: Vec<v1::SessionReport>,
    acks: Vec<v1::WatchAck>,
}

/// A listening admin.
#[derive(Clone)]
pub(crate) struct Admin {
    script: Arc<Mutex<Script>>,
    changed: watch::Sender<u64>,
    /// Answers of validations wait for a permit of this.
    pub(crate) answers: Arc<Semaphore>,
    pub(crate) peer: Peer,
}

impl Admin {
    /// Takes calls with `own`, and has one volume.
    pub(crate) async fn start(own: &Token, placed: v1::PlacedVolume) -> Admin {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer {
            address: listener.local_addr().unwrap().to_string(),
            name: tls::ADMIN_NAME.into(),
            trust: Trust::Plaintext,
            unreachable: Code::AdminUnreachable,
        };
        let script = Script { own: vec![own.reveal().to_owned()], placed, ..Script::default() };
        let admin = Admin {
            script: Arc::new(Mutex::new(script)),
            changed: watch::Sender::new(1),
            answers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            peer,
        };
        let service = AuthorityServiceServer::new(admin.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        admin
    }

    /// A credentials file for it.
    pub(crate) fn creds(&self, path: &PathBuf, token: &Token) {
        use std::os::unix::fs::PermissionsExt;
        let address = &self.peer.address;
        let text = format!("adminAddr = \"http://{address}\"\ntoken = \"{}\"\n", token.reveal());
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Only this own token is taken from now on.
    pub(crate) fn take_only(&self, own: &Token, refusal: Code) {
        let mut script = self.script.lock();
        script.own = vec![own.reveal().to_owned()];
        script.own_refusal = Some(refusal);
        drop(script);
        // Subscriptions with others end.
        self.changed.send_modify(|_| {});
    }

    /// This own token is taken as well.
    pub(crate) fn take_also(&self, own: &Token) {
        self.script.lock().own.push(own.reveal().to_owned());
    }

    /// The token is good; no row is written.
    pub(crate) fn grant(&self, token: &Token) -> SecretId {
        let id = SecretId::random();
        let secret = Secret {
            id,
            refused: None,
            valid_millis: 0,
            idle_millis: 0,
            flags: v1::Flags::default(),
            mount_path: "/".into(),
        };
        self.script.lock().tokens.insert(token.reveal().to_owned(), secret);
        id
    }

    /// Changes what a token is, before any row says so.
    pub(crate) fn change(&self, token: &Token, change: impl FnOnce(&mut Secret)) {
        change(self.script.lock().tokens.get_mut(token.reveal()).unwrap());
    }

    /// Changes what the volume is, before any row says so.
    pub(crate) fn change_volume(&self, change: impl FnOnce(&mut v1::PlacedVolume)) {
        change(&mut self.script.lock().placed);
    }

    /// A row of the feed; returns its revision.
    pub(crate) fn row(&self, kind: v1::FeedKind, token: Option<&Token>) -> u64 {
        let mut script = self.script.lock();
        let revision = *self.changed.borrow() + 1;
        let row = v1::FeedRow {
            revision,
            kind: kind.into(),
            account_id: script.placed.account_id.clone(),
            volume_id: script.placed.id.clone(),
            token_id: token.map(|token| token.id().to_string()).unwrap_or_default(),
        };
        script.rows.push(row);
        self.changed.send_replace(revision);
        revision
    }

    /// Waits until a revision is acknowledged.
    pub(crate) async fn acknowledged(&self, revision: u64) {
        self.until(|script| script.acks.iter().any(|ack| ack.revision >= revision)).await;
    }

    /// A row, applied and acknowledged.
    pub(crate) async fn apply(&self, kind: v1::FeedKind, token: Option<&Token>) {
        let revision = self.row(kind, token);
        self.acknowledged(revision).await;
    }

    pub(crate) async fn subscriptions(&self, count: usize) -> Vec<String> {
        self.until(|script| script.subscribed.len() >= count).await;
        self.script.lock().subscribed.clone()
    }

    /// Waits until the reports so far are as `test` wants them.
    pub(crate) async fn reports(&self, test: impl Fn(&[v1::SessionReport]) -> bool) {
        self.until(|script| test(&script.reports)).await;
    }

    pub(crate) fn validated(&self) -> usize {
        self.script.lock().validated
    }

    pub(crate) async fn until_validated(&self, count: usize) {
        self.until(|script| script.validated >= count).await;
    }

    pub(crate) fn checked(&self) -> usize {
        self.script.lock().checked
    }

    async fn until(&self, test: impl Fn(&Script) -> bool) {
        let reached = async {
            while !test(&self.script.lock()) {
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("it did not come about");
    }

    fn authenticate<T>(&self, request: &Request<T>) -> Result<String> {
        let text = bearer::token_of(request.metadata())?.reveal().to_owned();
        self.is_taken(&text)?;
        Ok(text)
    }

    fn is_taken(&self, own: &str) -> Result<()> {
        let script = self.script.lock();
        if script.own.iter().any(|taken| taken == own) {
            return Ok(());
        }
        Err(Error::bare(script.own_refusal.unwrap_or(Code::TokenUnknown)))
    }

    fn head(&self) -> u64 {
        *self.changed.borrow()
    }

    fn state(&self, ask: &v1::TokenCheck) -> v1::TokenState {
        let script = self.script.lock();
        let secret = script.tokens.values().find(|secret| secret.id.to_string() == ask.secret_id);
        let refused = secret.map_or(Some(Code::TokenUnknown), |secret| secret.refused);
        v1::TokenState {
            token_id: ask.token_id.clone(),
            secret_id: ask.secret_id.clone(),
            refused: refused.map(|code| wire::error_to_detail(&Error::bare(code))),
            flags: secret.map(|secret| secret.flags),
            valid_millis: secret.map_or(0, |secret| secret.valid_millis),
        }
    }
}

#[tonic::async_trait]
impl AuthorityService for Admin {
    async fn register_server(
        &self,
        request: Request<v1::RegisterServerRequest>,
    ) -> Result<Response<v1::RegisterServerReply>, Status> {
        self.authenticate(&request)?;
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        Ok(Response::new(v1::RegisterServerReply {
            certificate_chain: certificate.self_signed(&key).unwrap().pem(),
            feed_id: FEED.into(),
            revision: self.head(),
            ..v1::RegisterServerReply::default()
        }))
    }

    async fn list_placed_volumes(
        &self,
        request: Request<v1::ListPlacedVolumesRequest>,
    ) -> Result<Response<v1::ListPlacedVolumesReply>, Status> {
        self.authenticate(&request)?;
        let volumes = vec![self.script.lock().placed.clone()];
        Ok(Response::new(v1::ListPlacedVolumesReply { volumes, revision: self.head() }))
    }

    async fn validate_volume_token(
        &self,
        request: Request<v1::ValidateVolumeTokenRequest>,
    ) -> Result<Response<v1::ValidateVolumeTokenReply>, Status> {
        self.authenticate(&request)?;
        let request = request.into_inner();
        let text = request.token.unwrap_or_default().value.clone();
        let answer = {
            let mut script = self.script.lock();
            script.validated += 1;
            let secret = script.tokens.get(&text).cloned();
            (secret, script.placed.clone(), self.head())
        };
        let permit = self.answers.acquire().await.unwrap();
        permit.forget();
        let (secret, volume, revision) = answer;
        let secret = secret.ok_or_else(|| Error::bare(Code::TokenUnknown))?;
        if let Some(code) = secret.refused {
            return Err(Error::bare(code).into());
        }
        if ![volume.name.as_str(), volume.id.as_str()].contains(&request.volume.as_str()) {
            return Err(Error::bare(Code::CredsMismatch).into());
        }
        Ok(Response::new(v1::ValidateVolumeTokenReply {
            token_id: Token::parse(&text)?.id().to_string(),
            secret_id: secret.id.to_string(),
            account_id: volume.account_id.clone(),
            volume: Some(volume),
            mount_path: secret.mount_path,
            flags: Some(secret.flags),
            valid_millis: secret.valid_millis,
            revision,
            idle_millis: secret.idle_millis,
        }))
    }

    async fn check_tokens(
        &self,
        request: Request<v1::CheckTokensRequest>,
    ) -> Result<Response<v1::CheckTokensReply>, Status> {
        self.authenticate(&request)?;
        let tokens = request.into_inner().tokens;
        let states: Vec<_> = tokens.iter().map(|ask| self.state(ask)).collect();
        self.script.lock().checked += states.len();
        Ok(Response::new(v1::CheckTokensReply { states, revision: self.head() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let own = self.authenticate(&request)?;
        let mut requests = request.into_inner();
        let (events, receiver) = mpsc::channel(16);
        let admin = self.clone();
        tokio::spawn(async move {
            let Some(Ok(v1::WatchRequest { body: Some(Body::Start(start)) })) =
                requests.next().await
            else {
                return;
            };
            admin.script.lock().subscribed.push(own.clone());
            let mut changed = admin.changed.subscribe();
            let mut sent = start.from_revision;
            loop {
                if let Err(error) = admin.is_taken(&own) {
                    // Nobody may listen any more.
                    let _ = events.send(Err(error.into())).await;
                    return;
                }
                let covered_up_to = *changed.borrow_and_update();
                let rows = admin.script.lock().rows.clone();
                let rows = rows.into_iter().filter(|row| row.revision > sent).collect();
                let event = v1::WatchEvent {
                    rows,
                    covered_up_to,
                    feed_id: FEED.into(),
                    ..v1::WatchEvent::default()
                };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
                sent = covered_up_to;
                loop {
                    tokio::select! {
                        _ = changed.changed() => break,
                        () = tokio::time::sleep(flexfs_common::limits::FEED_HEARTBEAT) => break,
                        request = requests.next() => match request {
                            Some(Ok(request)) => match request.body {
                                Some(Body::Ack(ack)) => admin.script.lock().acks.push(ack),
                                Some(Body::Sessions(report)) => {
                                    admin.script.lock().reports.push(report);
                                }
                                Some(Body::Start(_)) | None => return,
                            },
                            Some(Err(_)) | None => return,
                        },
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
