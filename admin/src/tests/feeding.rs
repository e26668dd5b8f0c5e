//! The feed over the wire: what comes, when, and when it ends.

use std::time::{Duration, Instant};

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::Code;
use flexfs_common::ids::ServerId;
use flexfs_proto::v1::{self, FeedKind, watch_request::Body};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::harness::{Running, Site, code, delete, error, generate, make_volume, revoke};
use crate::store::{Kind, feed};

/// A metadata server's subscription, as a real client has it.
pub(super) struct Subscriber {
    pub(super) server: ServerId,
    requests: mpsc::Sender<v1::WatchRequest>,
    events: tonic::Streaming<v1::WatchEvent>,
}

impl Subscriber {
    /// Registers a server and subscribes from now.
    pub(super) async fn new(admin: &Running, meta: &Token) -> Subscriber {
        let server = ServerId::random();
        let reply = admin.register(meta, server).await;
        let mut subscriber =
            Subscriber::open(admin, meta, server, &reply.feed_id, reply.revision).await;
        let first = subscriber.event().await;
        assert!(!first.resynchronise, "{first:?}");
        subscriber
    }

    pub(super) async fn open(
        admin: &Running,
        meta: &Token,
        server: ServerId,
        feed_id: &str,
        from_revision: u64,
    ) -> Subscriber {
        let start = v1::WatchStart {
            server_id: server.to_string(),
            feed_id: feed_id.into(),
            from_revision,
            ..v1::WatchStart::default()
        };
        Subscriber::start(admin, meta, server, start).await
    }

    async fn start(
        admin: &Running,
        meta: &Token,
        server: ServerId,
        start: v1::WatchStart,
    ) -> Subscriber {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(v1::WatchRequest { body: Some(Body::Start(start)) }).await.unwrap();
        let events =
            admin.meta(meta).watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Subscriber { server, requests, events }
    }

    /// The next event; a silent feed fails the test.
    pub(super) async fn event(&mut self) -> v1::WatchEvent {
        self.next().await.unwrap().expect("the feed goes on")
    }

    pub(super) async fn next(&mut self) -> Result<Option<v1::WatchEvent>, tonic::Status> {
        tokio::time::timeout(Duration::from_secs(30), self.events.message()).await.unwrap()
    }

    /// Reads on until a row of this kind comes.
    pub(super) async fn row(&mut self, kind: FeedKind) -> v1::FeedRow {
        loop {
            let event = self.event().await;
            if let Some(row) = event.rows.into_iter().find(|row| row.kind() == kind) {
                return row;
            }
        }
    }

    pub(super) async fn acknowledge(&self, revision: u64, cuts: Vec<v1::CutCount>) {
        let ack = v1::WatchAck { revision, cuts };
        self.requests.send(v1::WatchRequest { body: Some(Body::Ack(ack)) }).await.unwrap();
    }
}

async fn a_feed_brings_what_concerns_it(kind: Kind) {
    let site = Site::new(kind);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let other_meta = admin.meta_store("m2").await;
    let mut subscriber = Subscriber::new(&admin, &meta).await;
    let mut other = Subscriber::new(&admin, &other_meta).await;
    let mut system = admin.system();
    let (volume, token) = make_volume(&mut system, "v").await;
    let row = subscriber.row(FeedKind::VolumeChanged).await;
    assert_eq!(row.volume_id, volume.id);
    let before = Instant::now();
    let reply = system.revoke_token(revoke("volume", token.id())).await.unwrap().into_inner();
    let row = subscriber.row(FeedKind::TokenRevoked).await;
    println!("revocation asked for and pushed within {:?}", before.elapsed());
    assert_eq!((row.token_id, row.revision), (token.id().to_string(), reply.revision));
    assert_eq!(row.volume_id, volume.id);
    system.delete_volume(delete("v")).await.unwrap();
    subscriber.row(FeedKind::VolumeRetired).await;
    // The other store's servers only learn that they are up to date.
    let head = feed::head(admin.store.reader().as_mut()).await.unwrap().revision;
    loop {
        let event = other.event().await;
        assert!(event.rows.is_empty(), "{event:?}");
        if event.covered_up_to >= head {
            break;
        }
    }
    // Heartbeats come without changes.
    let quiet = other.event().await;
    assert_eq!((quiet.rows.len(), quiet.covered_up_to), (0, head));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_brings_what_concerns_it_on_sqlite() {
    a_feed_brings_what_concerns_it(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_brings_what_concerns_it_on_postgres() {
    a_feed_brings_what_concerns_it(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_of_another_history_is_not_continued() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let server = ServerId::random();
    let known = admin.register(&meta, server).await;
    make_volume(&mut admin.system(), "v").await;
    let from = |from_revision, from_mark| {
        let (feed_id, server_id) = (known.feed_id.clone(), server.to_string());
        v1::WatchStart { server_id, feed_id, from_revision, from_mark }
    };
    let start = async |start| {
        let mut subscriber = Subscriber::start(&admin, &meta, server, start).await;
        subscriber.event().await
    };
    let event = start(from(known.revision, 0)).await;
    assert!(!event.resynchronise && !event.rows.is_empty() && event.mark != 0, "{event:?}");
    let same = start(from(event.covered_up_to, event.mark)).await;
    assert_eq!((same.resynchronise, same.mark), (false, event.mark));
    let other = start(from(event.covered_up_to, event.mark ^ 1)).await;
    assert!(other.resynchronise && other.other_history, "{other:?}");
    // The mark of one revision is not that of another.
    let before = start(from(event.covered_up_to - 1, event.mark)).await;
    assert!(before.resynchronise && before.other_history, "{before:?}");
    // Of a row that is no longer kept nothing is known, and nothing is said.
    let mut tx = admin.store.begin().await.unwrap();
    feed::prune(tx.sql(), event.covered_up_to).await.unwrap();
    tx.commit_quietly().await.unwrap();
    let at_the_floor = start(from(event.covered_up_to, event.mark)).await;
    assert!(!at_the_floor.resynchronise, "{at_the_floor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_continues_or_resynchronises() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let server = ServerId::random();
    let known = admin.register(&meta, server).await;
    let mut system = admin.system();
    make_volume(&mut system, "v").await;
    let head = feed::head(admin.store.reader().as_mut()).await.unwrap();
    // From where it was: what it missed.
    let mut continued =
        Subscriber::open(&admin, &meta, server, &known.feed_id, known.revision).await;
    let event = continued.event().await;
    assert_eq!((event.resynchronise, event.covered_up_to), (false, head.revision));
    let kinds: Vec<_> = event.rows.iter().map(v1::FeedRow::kind).collect();
    assert_eq!(kinds, [FeedKind::VolumeChanged, FeedKind::TokenChanged]);
    // Of another feed, or from the future: all anew, from the head on.
    for (feed_id, from) in [("x", known.revision), (&*known.feed_id, 1 << 40), ("", 0)] {
        let head = feed::head(admin.store.reader().as_mut()).await.unwrap();
        let mut lost = Subscriber::open(&admin, &meta, server, feed_id, from).await;
        let event = lost.event().await;
        assert!(event.resynchronise);
        assert_eq!((event.covered_up_to, event.rows.len()), (head.revision, 0));
        assert_eq!(event.feed_id, known.feed_id);
        // And then it goes on as for everybody.
        make_volume(&mut system, &format!("v{from}-{}", feed_id.len())).await;
        let row = lost.row(FeedKind::VolumeChanged).await;
        assert_eq!(row.revision, head.revision + 1);
    }
    // Older than the kept history.
    let mut tx = admin.store.begin().await.unwrap();
    feed::prune(tx.sql(), head.revision - 1).await.unwrap();
    tx.commit_quietly().await.unwrap();
    let mut old = Subscriber::open(&admin, &meta, server, &known.feed_id, 1).await;
    assert!(old.event().await.resynchronise);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_meta_token_ends_its_feed() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let mut subscriber = Subscriber::new(&admin, &meta).await;
    admin.system().revoke_token(revoke("meta", meta.id())).await.unwrap();
    let ended = loop {
        match subscriber.next().await {
            Ok(Some(event)) => assert!(event.rows.len() <= 1),
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(code(Err::<(), _>(ended)), Code::TokenRevoked);
    let again = admin.meta(&meta).list_placed_volumes(v1::ListPlacedVolumesRequest {}).await;
    assert_eq!(code(again), Code::TokenRevoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subscriber_may_not_send_ends_its_feed() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let other = admin.meta_store("m2").await;
    // An acknowledgement of the future.
    let mut subscriber = Subscriber::new(&admin, &meta).await;
    subscriber.acknowledge(u64::MAX, vec![]).await;
    assert_eq!(code(subscriber.next().await), Code::ProtocolInvalid);
    // Another store's server, or one that nobody registered.
    let server = subscriber.server;
    for (token, server) in [(&other, server), (&meta, ServerId::random())] {
        let mut stranger = Subscriber::open(&admin, token, server, "", 0).await;
        let refused = error(stranger.next().await);
        assert_eq!(refused.code(), Code::MetaUnregistered);
    }
    // No start at all.
    let (requests, receiver) = mpsc::channel(1);
    let ack = v1::WatchAck { revision: 1, cuts: vec![] };
    requests.send(v1::WatchRequest { body: Some(Body::Ack(ack)) }).await.unwrap();
    let mut events =
        admin.meta(&meta).watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(code(events.message().await), Code::ProtocolInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_end_at_once_when_admin_stops() {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let meta = admin.stores().await;
    let mut subscriber = Subscriber::new(&admin, &meta).await;
    let before = Instant::now();
    admin.stop().await;
    assert!(before.elapsed() < Duration::from_secs(4), "not after the grace for calls");
    // Ended, or broken: not going on.
    assert!(!matches!(subscriber.next().await, Ok(Some(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_crosses_replicas() {
    let site = Site::new(Kind::Postgres);
    let (one, two) = (site.start().await, site.start().await);
    let meta = one.stores().await;
    let mut subscriber = Subscriber::new(&two, &meta).await;
    let (_, token) = make_volume(&mut one.system(), "v").await;
    subscriber.row(FeedKind::VolumeChanged).await;
    // Known to the other replica's cache, then revoked here.
    let mut mount = two.client(&token);
    let request = v1::DescribeMountRequest { volume: "v".into() };
    mount.describe_mount(request.clone()).await.unwrap();
    one.system().revoke_token(revoke("volume", token.id())).await.unwrap();
    assert_eq!(code(mount.describe_mount(request).await), Code::TokenRevoked, "at once");
    subscriber.row(FeedKind::TokenRevoked).await;
    // The wait crosses them, too.
    let second = generate(TokenKind::Volume);
    let mint = v1::CreateVolumeTokenRequest {
        token: Some(second.to_wire()),
        volume: "v".into(),
        ..Default::default()
    };
    one.system().create_volume_token(mint).await.unwrap();
    let answering = tokio::spawn(async move {
        let row = loop {
            let row = subscriber.row(FeedKind::TokenRevoked).await;
            if row.token_id == second.id().to_string() {
                break row;
            }
        };
        let cut = v1::CutCount { token_id: row.token_id, sessions: 3 };
        subscriber.acknowledge(row.revision, vec![cut]).await;
        subscriber
    });
    let wait =
        v1::RevokeTokenRequest { wait_millis: 30_000, ..revoke("volume", second_id(&one).await) };
    let reply = one.system().revoke_token(wait).await.unwrap().into_inner();
    assert_eq!(reply.metas.len(), 1);
    assert!(reply.metas[0].acknowledged);
    assert_eq!(reply.sessions_cut, 3);
    answering.await.unwrap();
}

/// The id of the one volume token that is still active.
async fn second_id(admin: &Running) -> String {
    let request = v1::ListTokensRequest {
        kind: "volume".into(),
        state: "active".into(),
        ..Default::default()
    };
    let items = admin.system().list_tokens(request).await.unwrap().into_inner().items;
    assert_eq!(items.len(), 1);
    items[0].id.clone()
}
