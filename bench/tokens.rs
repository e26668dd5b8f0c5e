//! What tokens cost at admin: start and lists with a million of them, hot
//! verifications beside a bare echo over the same connections, and a flood of
//! bad tokens. See bench/README.md, "Tokens".
//!
//! `cargo run --release -p flexfs-admin --example token-bench -- all --admin BIN --dir DIR`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measuring program: it prints, and stops when something is not as it should be"
)]

use std::convert::Infallible;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flexfs_admin::ca::Ca;
use flexfs_admin::store::{DbUrl, Kind, Store, Value};
use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::Code;
use flexfs_common::tls::{self, Peer, ServerCertificate, Trust};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

type Client = AdminServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// Connections of the load, and calls in flight on each.
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;
/// Rounds of each side; the median is told.
const ROUNDS: usize = 5;

struct Args(Vec<String>);

impl Args {
    fn get(&self, name: &str, default: &str) -> String {
        let at = self.0.iter().position(|arg| arg == name);
        at.and_then(|at| self.0.get(at + 1)).map_or(default, String::as_str).to_owned()
    }
    fn number(&self, name: &str, default: &str) -> u64 {
        self.get(name, default).parse().unwrap()
    }
}

fn main() {
    let args = Args(std::env::args().skip(1).collect());
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match args.0.first().map(String::as_str) {
        Some("all") => runtime.block_on(all(&args)),
        Some("echo") => runtime.block_on(echo(&args)),
        Some("flood") => runtime.block_on(flood(&args)),
        _ => println!(
            "usage: token-bench all --admin BIN --dir DIR [--db URL] [--tokens N] [--seconds S] [--rate N]"
        ),
    }
}

/// Everything, one after the other.
async fn all(args: &Args) {
    let home = PathBuf::from(args.get("--dir", "/tmp/token-bench"));
    let admin = args.get("--admin", "admin.flexfs");
    let db = args.get("--db", "");
    let run = |more: &[&str]| {
        let mut command = Command::new(&admin);
        command.env("FLEXFS_HOME", &home).args(more);
        if !db.is_empty() && more[0] == "start" {
            command.args(["--db", "env:TOKEN_BENCH_DB"]).env("TOKEN_BENCH_DB", &db);
        }
        command
    };
    let bind = ["start", "--bindAddr", "127.0.0.1:7490", "--foreground"];
    let mut daemon = start(run(&bind)).await;
    let peer = peer(&home, "127.0.0.1:7490");
    let root = std::fs::read_to_string(home.join("admin/root.token")).unwrap();
    let root = Token::parse(&root).unwrap();
    let volume = make(&peer, &root).await;
    stop(&mut daemon);
    let tokens = args.number("--tokens", "1000000");
    let url = if db.is_empty() {
        DbUrl::Sqlite(home.join("admin/flexfs.db"))
    } else {
        DbUrl::parse(&db).unwrap()
    };
    let began = Instant::now();
    fill(&url, &volume, tokens).await;
    println!("filled: {tokens} tokens in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let mut daemon = start(run(&bind)).await;
    println!("start with {tokens} tokens: {:.3} s", began.elapsed().as_secs_f64());
    lists(&peer, &root, &volume).await;
    let rss = memory(daemon.id());
    println!("memory of admin after the lists: {} MiB", rss / 1024);
    let mut echo = child(args, &home);
    hot(args, &peer, &root, echo.1).await;
    flooded(args, &home, &peer, (&root, &volume), (daemon.id(), echo.1)).await;
    stop(&mut echo.0);
    stop(&mut daemon);
}

async fn start(mut command: Command) -> Child {
    let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while tokio::net::TcpStream::connect("127.0.0.1:7490").await.is_err() {
        assert!(Instant::now() < deadline, "admin does not start");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    daemon
}

fn stop(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
}

fn peer(home: &Path, address: &str) -> Peer {
    let pem = std::fs::read_to_string(home.join("ssl/ca")).unwrap();
    Peer {
        address: address.to_owned(),
        name: tls::ADMIN_NAME.to_owned(),
        trust: Trust::Ca(tls::certificate_from_pem(&pem).unwrap()),
        unreachable: Code::AdminUnreachable,
    }
}

fn client(peer: &Peer, token: &Token) -> Client {
    AdminServiceClient::with_interceptor(peer.channel().unwrap(), BearerInterceptor::new(token))
}

/// A volume to hang tokens on; its first token comes with it.
async fn make(peer: &Peer, root: &Token) -> (String, Token) {
    let mut client = client(peer, root);
    let store = v1::BlockStore {
        id: "b1".into(),
        kind: "dir".into(),
        location: "/srv/blocks".into(),
        ..Default::default()
    };
    client
        .create_block_store(v1::CreateBlockStoreRequest { block_store: Some(store) })
        .await
        .unwrap();
    let meta = v1::CreateMetaStoreRequest {
        id: "m1".into(),
        address: "127.0.0.1:7410".into(),
        meta_token: Some(Token::generate(TokenKind::Meta).unwrap().to_wire()),
    };
    client.create_meta_store(meta).await.unwrap();
    let token = Token::generate(TokenKind::Volume).unwrap();
    let volume = v1::Volume {
        name: "bench".into(),
        meta_store_id: "m1".into(),
        block_store_id: "b1".into(),
        ..Default::default()
    };
    let request =
        v1::CreateVolumeRequest { volume: Some(volume), volume_token: Some(token.to_wire()) };
    let made = client.create_volume(request).await.unwrap().into_inner();
    (made.volume.unwrap().id, token)
}

/// Tokens like others, but that nobody has their secrets.
async fn fill(url: &DbUrl, (volume, _): &(String, Token), tokens: u64) {
    let store = Store::open(url).await.unwrap();
    let [one, two] = match store.kind() {
        Kind::Sqlite => [
            "INSERT INTO tokens (id, kind, account_id, volume_id, mount_path, rights, flags, \
             volumes, cidrs, notes, last4, created_at, rotated_at, revoke_reason, created_by)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
             SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
                    substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) ||
                    '-' || hex(randomblob(6))), 'volume', v.account_id, v.id, '/', 'rw', '', '',
                    '', 'filler', 'abcd', v.created_at + n.i, v.created_at + n.i, '', v.created_by
             FROM n, volumes v WHERE v.id = $1",
            "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at, last4)
             SELECT 'x' || substr(t.id, 2), t.id, randomblob(32), (SELECT p.id FROM pepper p), '$argon2id$v=19', \
                    t.created_at, 'abcd' FROM tokens t WHERE t.volume_id = $1
               AND t.notes = 'filler'",
        ],
        Kind::Postgres => [
            "INSERT INTO tokens (id, kind, account_id, volume_id, mount_path, rights, flags, \
             volumes, cidrs, notes, last4, created_at, rotated_at, revoke_reason, created_by)
             SELECT gen_random_uuid()::text, 'volume', v.account_id, v.id, '/', 'rw', '', '', '',
                    'filler', 'abcd', v.created_at + n.i, v.created_at + n.i, '', v.created_by
             FROM generate_series(1, $2) n(i), volumes v WHERE v.id = $1",
            "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at, last4)
             SELECT 'x' || substr(t.id, 2), t.id, decode(repeat(md5(t.id), 2), 'hex'), (SELECT p.id FROM pepper p),
                    '$argon2id$v=19', t.created_at, 'abcd' FROM tokens t WHERE t.volume_id = $1
               AND t.notes = 'filler'",
        ],
    };
    let count = Value::from(i64::try_from(tokens).unwrap());
    let mut tx = store.begin().await.unwrap();
    tx.sql().execute(one, vec![Value::text(volume), count]).await.unwrap();
    tx.sql().execute(two, vec![Value::text(volume)]).await.unwrap();
    tx.commit_quietly().await.unwrap();
    store.close().await;
}

/// Pages of 100, from the start and one after the other.
async fn lists(peer: &Peer, root: &Token, (volume, _): &(String, Token)) {
    let mut client = client(peer, root);
    for (what, volume) in [("all", String::new()), ("of a volume", volume.clone())] {
        let mut request = v1::ListTokensRequest {
            kind: "volume".into(),
            volume,
            limit: 100,
            ..Default::default()
        };
        let mut times = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            let reply = client.list_tokens(request.clone()).await.unwrap().into_inner();
            times.push(began.elapsed());
            assert_eq!(reply.items.len(), 100);
            request.page = reply.next_page;
        }
        println!("a page of 100, {what}: {}", spread(&mut times));
    }
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |p: usize| times[(times.len() - 1) * p / 100].as_secs_f64() * 1e3;
    format!("p50 {:.3} ms, p99 {:.3} ms", at(50), at(99))
}

fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn child(_: &Args, home: &Path) -> (Child, u16) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["echo", "--dir"])
        .arg(home)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

/// Calls as fast as they are answered; calls a second.
async fn load(peer: &Peer, token: &Token, seconds: u64) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = client(peer, token);
        for _ in 0..IN_FLIGHT {
            let (mut client, count) = (client.clone(), Arc::clone(&count));
            tasks.push(tokio::spawn(async move {
                while Instant::now() < end {
                    client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    count.load(Ordering::Relaxed) as f64 / seconds as f64
}

/// Hot verifications beside bare echoes, in turn.
async fn hot(args: &Args, admin: &Peer, root: &Token, port: u16) {
    let seconds = args.number("--seconds", "3");
    let echo = Peer { address: format!("127.0.0.1:{port}"), ..admin.clone() };
    load(admin, root, 1).await;
    load(&echo, root, 1).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let bare = load(&echo, root, seconds).await;
        let hot = load(admin, root, seconds).await;
        ours.push(hot);
        theirs.push(bare);
        ratios.push(hot / bare);
    }
    println!(
        "hot verifications {:.0}/s, bare echo {:.0}/s, ratio {:.3}",
        median(&mut ours),
        median(&mut theirs),
        median(&mut ratios)
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A good caller's times while somebody sends bad tokens, beside the same rate
/// of bare echoes.
async fn flooded(
    args: &Args,
    home: &Path,
    admin: &Peer,
    (root, (_, known)): (&Token, &(String, Token)),
    (pid, port): (u32, u16),
) {
    let rate = args.get("--rate", "20000");
    let before = memory(pid);
    let mut ratios = Vec::new();
    for kind in ["malformed", "unknown", "wrong"] {
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let bare = good_caller(admin, root, flooder(home, "echo", port, &rate, known)).await;
            let bad = good_caller(admin, root, flooder(home, kind, 7490, &rate, known)).await;
            rounds.push((bad.0 / bare.0, bare, bad));
        }
        rounds.sort_by(|a, b| f64::total_cmp(&a.0, &b.0));
        let (ratio, bare, bad) = rounds[rounds.len() / 2];
        println!(
            "flood of {kind} tokens: good caller's p99 {:.3} ms at {:.0}/s, beside echoes {:.3} ms \
             at {:.0}/s, ratio {ratio:.2}",
            bad.0 * 1e3,
            bad.1,
            bare.0 * 1e3,
            bare.1
        );
        ratios.push(ratio);
    }
    println!(
        "memory of admin: {} MiB before the floods, {} MiB after",
        before / 1024,
        memory(pid) / 1024
    );
}

fn flooder(home: &Path, kind: &str, port: u16, rate: &str, known: &Token) -> Child {
    Command::new("nice")
        .args(["-n", "10"])
        .arg(std::env::current_exe().unwrap())
        .args(["flood", "--kind", kind, "--port", &port.to_string(), "--rate", rate, "--dir"])
        .arg(home)
        .args(["--id", &known.id().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// (p99 in seconds, calls a second of the flood).
async fn good_caller(admin: &Peer, root: &Token, mut flood: Child) -> (f64, f64) {
    let mut output = BufReader::new(flood.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let mut client = client(admin, root);
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        tick.tick().await;
        let began = Instant::now();
        client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        times.push(began.elapsed());
    }
    line.clear();
    let rate = tokio::task::spawn_blocking(move || {
        output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    });
    let rate = rate.await.unwrap();
    flood.wait().unwrap();
    times.sort();
    (times[(times.len() - 1) * 99 / 100].as_secs_f64(), rate)
}

/// Sends what it is told at a rate for some seconds, over a few connections.
async fn flood(args: &Args) {
    let home = PathBuf::from(args.get("--dir", ""));
    let peer = peer(&home, &format!("127.0.0.1:{}", args.get("--port", "")));
    let (kind, rate) = (args.get("--kind", ""), args.number("--rate", "20000"));
    let id = args.get("--id", "").parse().unwrap();
    let bad = move || match kind.as_str() {
        "wrong" => Token::generate_for(TokenKind::Volume, id).unwrap().reveal().to_owned(),
        "malformed" => {
            format!("flxv_{}_{}", "0".repeat(22), "0".repeat(49))
        }
        _ => Token::generate(TokenKind::Volume).unwrap().reveal().to_owned(),
    };
    // Made beforehand: the generator should cost as little as it can.
    let tokens: Arc<Vec<_>> = Arc::new(
        (0..50_000)
            .map(|_| {
                format!("Bearer {}", bad()).parse::<tonic::metadata::MetadataValue<_>>().unwrap()
            })
            .collect(),
    );
    println!("ready");
    let (count, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let end = began + Duration::from_secs(5);
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = peer.channel().unwrap();
        for _ in 0..IN_FLIGHT {
            let mut client = AdminServiceClient::new(channel.clone());
            let (tokens, count) = (Arc::clone(&tokens), Arc::clone(&count));
            tasks.push(tokio::spawn(async move {
                while Instant::now() < end {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
                    tokio::time::sleep_until(due.into()).await;
                    let mut request = tonic::Request::new(v1::WhoAmIRequest {});
                    let token = tokens[usize::try_from(n).unwrap() % tokens.len()].clone();
                    request.metadata_mut().insert("authorization", token);
                    // A refusal is what is wanted.
                    let _ = client.who_am_i(request).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    println!("{:.0}", count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64());
}

/// A tonic server that answers the same message with nothing behind it.
async fn echo(args: &Args) {
    let ssl = PathBuf::from(args.get("--dir", "")).join("ssl");
    let own = Ca::load_or_create(&ssl).unwrap().own_identity(&ssl).unwrap();
    let certificate = ServerCertificate::from_pem(&own.chain, &own.key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls::server_config(certificate, &[b"h2"]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let service = TowerToHyperService::new(tower::service_fn(answer));
            // It ends when the client goes.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    struct Echo;
    impl tonic::server::UnaryService<v1::WhoAmIRequest> for Echo {
        type Response = v1::WhoAmIReply;
        type Future = Pin<
            Box<
                dyn Future<Output = Result<tonic::Response<v1::WhoAmIReply>, tonic::Status>> + Send,
            >,
        >;
        fn call(&mut self, _: tonic::Request<v1::WhoAmIRequest>) -> Self::Future {
            Box::pin(async {
                // As many bytes as the real one.
                Ok(tonic::Response::new(v1::WhoAmIReply {
                    kind: "account".into(),
                    token_id: "00000000-0000-4000-8000-000000000000".into(),
                    account_id: "00000000-0000-4000-8000-000000000000".into(),
                    account_name: "system".into(),
                    role: "system".into(),
                    ..Default::default()
                }))
            })
        }
    }
    let codec = ProstCodec::<v1::WhoAmIReply, v1::WhoAmIRequest>::default();
    Ok(tonic::server::Grpc::new(codec).unary(Echo, request).await)
}
