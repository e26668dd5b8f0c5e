use super::*;

#[tokio::test]
async fn without_tls_the_first_bytes_tell() {
    let (is_ops, mut rest) = sniff(&b"FLEXOPS1rest"[..]).await.unwrap();
    assert!(is_ops);
    let mut text = String::new();
    rest.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "rest");
    for http in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n", "FLEXOPS2", "FL", ""] {
        let (is_ops, mut rest) = sniff(http.as_bytes()).await.unwrap();
        assert!(!is_ops, "{http}");
        let mut text = String::new();
        rest.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, http);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_move_over_the_same_port_while_the_session_lives() {
    use crate::testbench::Bench;
    use crate::volume::{BlockAccess, Which};
    use flexfs_common::ids::ObjectId;
    use tokio::io::AsyncWriteExt;

    async fn ask(bench: &Bench, request: String) -> String {
        let mut stream = bench.peer.connect(b"http/1.1").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The end of the stream may come without close_notify.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
    let bench = Bench::start().await;
    let session = bench.open();
    let object = ObjectId([3; 16]);
    let put = bench.served.blocks.sign_put(session.id, object, 100).unwrap();
    let get = bench.served.blocks.sign_get(session.id, object).unwrap();
    let line = |method: &str, url: &str, rest: &str| {
        format!("{method} {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}")
    };
    let answer = ask(&bench, line("PUT", &put, "content-length: 5\r\n\r\nhello")).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let answer = ask(&bench, line("GET", &get, "range: bytes=1-3\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with("ell"), "{answer}");
    assert_eq!(bench.served.blocks.stored_len(object).unwrap(), Some(5));
    // Another volume's path, another session's name.
    let other = bench.open();
    let stolen = get.replace(&session.id.to_string(), &other.id.to_string());
    let answer = ask(&bench, line("GET", &stolen, "\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("BLOCK_REFUSED"), "{answer}");
    tokio::task::block_in_place(|| {
        let reason = Error::bare(Code::TokenRevoked);
        bench.service.cut(&bench.served, Which::Session(session.id), &reason).unwrap()
    });
    let answer = ask(&bench, line("GET", &get, "\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let answer = ask(&bench, line("GET", "/healthz", "\r\n")).await;
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(bench.dir.path().join("blocks").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_uploaded_while_the_disk_has_little_room() {
    use crate::blocks::endpoint::Transfers;
    use crate::blocks::signed::{Claims, Method};
    use crate::engine::Room;
    use crate::testbench::{Bench, Narrow};
    let engine = Arc::new(Narrow::default());
    let bench = Bench::on(engine.clone()).await;
    let session = bench.open();
    let volume = bench.served.volume.settings().id;
    let object = flexfs_common::ids::ObjectId([7; 16]);
    let claims = |method| Claims::from_now(method, volume, object, session.id, 100);
    let admit = |method| {
        let admitted = tokio::task::block_in_place(|| bench.service.admit(&claims(method)));
        admitted.map(drop).map_err(|error| error.code())
    };
    assert_eq!(admit(Method::Put), Ok(()));
    engine.leave(Room::Low);
    assert_eq!(admit(Method::Put), Err(Code::FsNoSpace));
    assert_eq!(admit(Method::Get), Ok(()));
    engine.leave(Room::Ample);
    assert_eq!(admit(Method::Put), Ok(()));
}
