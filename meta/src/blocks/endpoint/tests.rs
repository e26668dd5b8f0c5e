use std::sync::atomic::{AtomicUsize, Ordering};

use flexfs_common::ids::{ObjectId, SessionId, VolumeId};
use futures::StreamExt;
use http::Request;
use tower::ServiceExt;

use super::*;

/// Sessions that end after so many looks; the store is a real one.
struct Looks {
    store: Arc<DirectoryStore>,
    left: AtomicUsize,
}

impl Transfers for Looks {
    fn admit(&self, _claims: &Claims) -> Result<Arc<DirectoryStore>> {
        let took = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        took.map_err(|_| Error::bare(Code::TokenRevoked))?;
        Ok(Arc::clone(&self.store))
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    looks: Arc<Looks>,
    signer: Arc<Signer>,
    router: Router,
    volume: VolumeId,
    object: ObjectId,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(DirectoryStore::open(&dir.path().join("s"), "one").unwrap());
    let looks = Arc::new(Looks { store, left: AtomicUsize::new(1000) });
    let signer = Arc::new(Signer::new(&[1; 32]));
    let router = routes(Arc::clone(&looks), Arc::clone(&signer));
    let (volume, object) = (VolumeId::random(), ObjectId([7; 16]));
    Bench { _dir: dir, looks, signer, router, volume, object }
}

impl Bench {
    fn url(&self, method: Method, limit: u64) -> String {
        let session = SessionId::random();
        self.signer.sign(&Claims::from_now(method, self.volume, self.object, session, limit))
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn put(&self, limit: u64, len: usize, body: Body) -> Response {
        let request = Request::put(self.url(Method::Put, limit))
            .header(header::CONTENT_LENGTH, len)
            .body(body)
            .unwrap();
        self.send(request).await
    }

    async fn get(&self, range: Option<&str>) -> Response {
        let mut request = Request::get(self.url(Method::Get, 0));
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    fn stored(&self) -> Option<u64> {
        self.looks.store.stored_len(self.volume, self.object).unwrap()
    }
}

async fn bytes_of(response: Response) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn code_of(response: Response) -> String {
    let json: serde_json::Value = serde_json::from_slice(&bytes_of(response).await).unwrap();
    assert!(json["hint"].is_string() && json["error"].is_string() && json["message"].is_string());
    json["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_object_is_put_once_and_read_whole_and_in_part() {
    let bench = bench();
    let contents: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let response = bench.put(1 << 20, contents.len(), Body::from(contents.clone())).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let again = bench.put(1 << 20, 1, Body::from("x")).await;
    assert_eq!(code_of(again).await, "BLOCK_REFUSED");
    assert_eq!(bytes_of(bench.get(None).await).await, contents);
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=300000-699999", 300_000..700_000),
        ("bytes=699990-", 699_990..700_000),
        ("bytes=-10", 699_990..700_000),
        ("bytes=699990-9999999", 699_990..700_000),
    ] {
        let response = bench.get(Some(range)).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let content_range = format!("bytes {}-{}/700000", expected.start, expected.end - 1);
        assert_eq!(response.headers()[header::CONTENT_RANGE], content_range);
        assert_eq!(bytes_of(response).await, contents[expected]);
    }
    for range in ["bytes=700000-", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=-0"] {
        let status = bench.get(Some(range)).await.status();
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
    }
}

#[tokio::test]
async fn a_put_that_is_short_long_or_unannounced_leaves_nothing() {
    let bench = bench();
    let broken = futures::stream::iter([
        Ok(Bytes::from(vec![1; 300_000])),
        Err(io::Error::other("the client went away")),
    ]);
    let cases = [
        (bench.put(10, 11, Body::from(vec![1; 11])).await, "BLOCK_REFUSED"),
        (bench.put(100, 50, Body::from(vec![1; 40])).await, "BLOCK_REFUSED"),
        (bench.put(10, 5, Body::from(vec![1; 400_000])).await, "BLOCK_REFUSED"),
        (bench.put(1 << 20, 500_000, Body::from_stream(broken)).await, "BLOCK_UNAVAILABLE"),
        (
            bench.send(Request::put(bench.url(Method::Put, 9)).body(Body::empty()).unwrap()).await,
            "ARGUMENT_INVALID",
        ),
        (
            bench.send(Request::put(bench.url(Method::Get, 9)).body(Body::empty()).unwrap()).await,
            "BLOCK_REFUSED",
        ),
    ];
    for (response, code) in cases {
        assert_eq!(code_of(response).await, code);
    }
    assert_eq!(bench.stored(), None);
    assert_eq!(std::fs::read_dir(bench._dir.path().join("s/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_upload_that_the_store_does_not_take_is_read_to_its_end() {
    let bench = bench();
    // Nothing can be made in the store any more.
    std::fs::remove_dir(bench._dir.path().join("s/tmp")).unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let pieces = futures::stream::iter(0..64).map(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok::<_, io::Error>(Bytes::from(vec![1; 65_536]))
    });
    let response = bench.put(1 << 30, 64 * 65_536, Body::from_stream(pieces)).await;
    assert_eq!(code_of(response).await, "BLOCK_UNAVAILABLE");
    assert_eq!(read.load(Ordering::SeqCst), 64);
    // One whose length the URL does not allow is not read.
    read.store(0, Ordering::SeqCst);
    let counted = Arc::clone(&read);
    let pieces = futures::stream::iter(0..64).map(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok::<_, io::Error>(Bytes::from(vec![1; 65_536]))
    });
    let response = bench.put(10, 64 * 65_536, Body::from_stream(pieces)).await;
    assert_eq!(code_of(response).await, "BLOCK_REFUSED");
    assert_eq!(read.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn transfers_end_with_the_session() {
    let bench = bench();
    let len = 4 * limits::BLOCK_RECHECK_LEN;
    // One look at the start, then one per piece.
    bench.looks.left.store(3, Ordering::SeqCst);
    let response = bench.put(1 << 30, len, Body::from(vec![1; len])).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bench.stored(), None);
    bench.looks.left.store(1000, Ordering::SeqCst);
    let response = bench.put(1 << 30, len, Body::from(vec![1; len])).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    bench.looks.left.store(3, Ordering::SeqCst);
    let mut body = bench.get(None).await.into_body();
    let mut received = 0;
    let ended = loop {
        match body.frame().await {
            Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(ended);
    assert_eq!(received, 2 * limits::BLOCK_RECHECK_LEN);
}
