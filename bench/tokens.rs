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
use flexfs_proto::v1::authority_service_client::AuthorityServiceClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

type Client = AdminServiceClient<InterceptedService<Channel, BearerInterceptor>>;
type Authority = AuthorityServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// What the measured calls are made with: a volume token, shown by a meta
/// server that proves itself with its own.
#[derive(Clone)]
struct Shown {
    volume_id: String,
    meta: Token,
    volume: Token,
}

impl Shown {
    fn authority(&self, peer: &Peer) -> Authority {
        AuthorityServiceClient::with_interceptor(
            peer.channel().unwrap(),
            BearerInterceptor::new(&self.meta),
        )
    }

    fn request(&self) -> v1::ValidateVolumeTokenRequest {
        v1::ValidateVolumeTokenRequest {
            token: Some(self.volume.to_wire()),
            volume: "bench".into(),
            peer_address: "192.0.2.7".into(),
            host_name: "build-7".into(),
        }
    }
}

/// Connections of the load, and calls in flight on each.
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;
/// Calls in flight on each connection of a flood: refusals beyond the rate of
/// a source take a while.
const FLOOD_IN_FLIGHT: usize = 128;
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
        Some("all" | "hot") => runtime.block_on(all(&args)),
        Some("echo") => runtime.block_on(echo(&args)),
        Some("flood") => runtime.block_on(flood(&args)),
        _ => println!(
            "usage: token-bench all|hot --admin BIN --dir DIR [--db URL] [--tokens N] [--seconds S] [--rate N]"
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
    let mut daemon = start(&home, run(&bind)).await;
    let peer = peer(&home, "127.0.0.1:7490");
    let root = std::fs::read_to_string(home.join("admin/root.token")).unwrap();
    let root = Token::parse(&root).unwrap();
    let shown = make(&peer, &root).await;
    stop(&mut daemon);
    let tokens = args.number("--tokens", "1000000");
    let url = if db.is_empty() {
        DbUrl::Sqlite(home.join("admin/flexfs.db"))
    } else {
        DbUrl::parse(&db).unwrap()
    };
    let began = Instant::now();
    fill(&url, &shown.volume_id, tokens).await;
    println!("filled: {tokens} tokens in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let mut daemon = start(&home, run(&bind)).await;
    println!("start with {tokens} tokens: {:.3} s", began.elapsed().as_secs_f64());
    lists(&peer, &root, &shown.volume_id).await;
    let rss = memory(daemon.id());
    println!("memory of admin after the lists: {} MiB", rss / 1024);
    // The echo answers with the very same bytes.
    let mut authority = shown.authority(&peer);
    let reply = authority.validate_volume_token(shown.request()).await.unwrap().into_inner();
    std::fs::write(home.join("reply"), reply.encode_to_vec()).unwrap();
    let mut echo = child(&home);
    hot(args, &peer, &shown, echo.1).await;
    if args.0.first().is_some_and(|what| what == "all") {
        flooded(args, &home, &peer, &shown, (daemon.id(), echo.1)).await;
    }
    stop(&mut echo.0);
    stop(&mut daemon);
}

/// Until it serves: then its run file is there.
async fn start(home: &Path, mut command: Command) -> Child {
    let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let pid = format!("{}", daemon.id());
    while !std::fs::read_to_string(home.join("admin/run")).is_ok_and(|text| text.contains(&pid)) {
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
async fn make(peer: &Peer, root: &Token) -> Shown {
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
    let meta = Token::generate(TokenKind::Meta).unwrap();
    let store = v1::CreateMetaStoreRequest {
        id: "m1".into(),
        address: "127.0.0.1:7410".into(),
        meta_token: Some(meta.to_wire()),
    };
    client.create_meta_store(store).await.unwrap();
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
    Shown { volume_id: made.volume.unwrap().id, meta, volume: token }
}

/// Tokens like others, but that nobody has their secrets.
async fn fill(url: &DbUrl, volume: &str, tokens: u64) {
    let store = Store::open(url).await.unwrap();
    let [one, two] = match store.kind() {
        Kind::Sqlite => [
            "INSERT INTO tokens (id, kind, account_id, volume_id, mount_path, rights, flags, \
             volumes, cidrs, notes, last4, created_at, rotated_at, revoke_reason, created_by)
             WITH RECURSIVE n(i) AS (SELECT $2 UNION ALL SELECT i + 1 FROM n WHERE i < $3)
             SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
                    substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) ||
                    '-' || hex(randomblob(6))), 'volume', v.account_id, v.id, '/', 'rw', '', '',
                    '', $4, 'abcd', v.created_at + n.i, v.created_at + n.i, '', v.created_by
             FROM n, volumes v WHERE v.id = $1",
            "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at, last4)
             SELECT 'x' || substr(t.id, 2), t.id, randomblob(32),
                    (SELECT p.id FROM pepper p), '$argon2id$v=19', t.created_at, 'abcd'
             FROM tokens t WHERE t.volume_id = $1 AND t.notes = $2",
        ],
        Kind::Postgres => [
            "INSERT INTO tokens (id, kind, account_id, volume_id, mount_path, rights, flags, \
             volumes, cidrs, notes, last4, created_at, rotated_at, revoke_reason, created_by)
             SELECT gen_random_uuid()::text, 'volume', v.account_id, v.id, '/', 'rw', '', '', '',
                    $4, 'abcd', v.created_at + n.i, v.created_at + n.i, '', v.created_by
             FROM generate_series($2, $3) n(i), volumes v WHERE v.id = $1",
            "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at, last4)
             SELECT 'x' || substr(t.id, 2), t.id, decode(repeat(md5(t.id), 2), 'hex'),
                    (SELECT p.id FROM pepper p), '$argon2id$v=19', t.created_at, 'abcd'
             FROM tokens t WHERE t.volume_id = $1 AND t.notes = $2",
        ],
    };
    // In parts: a statement may not take long.
    for first in (1..=tokens).step_by(50_000) {
        let last = tokens.min(first + 49_999);
        let notes = format!("filler {first}");
        let mut args = vec![Value::text(volume)];
        args.extend([first, last].map(|n| Value::from(i64::try_from(n).unwrap())));
        args.push(Value::text(&notes));
        let mut tx = store.begin().await.unwrap();
        tx.sql().execute(one, args).await.unwrap();
        tx.sql().execute(two, vec![Value::text(volume), Value::text(&notes)]).await.unwrap();
        tx.commit_quietly().await.unwrap();
    }
    if store.kind() == Kind::Postgres {
        // As it soon is by itself; meanwhile it would be measured.
        for settled in ["ANALYZE tokens", "ANALYZE token_secrets"] {
            let mut tx = store.begin().await.unwrap();
            tx.sql().execute(settled, Vec::new()).await.unwrap();
            tx.commit_quietly().await.unwrap();
        }
    }
    store.close().await;
}

/// Pages of 100, from the start and one after the other.
async fn lists(peer: &Peer, root: &Token, volume: &str) {
    let mut client = client(peer, root);
    for (what, volume) in [("all", String::new()), ("of a volume", volume.to_owned())] {
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

fn child(home: &Path) -> (Child, u16) {
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
async fn load(peer: &Peer, shown: &Shown, seconds: u64) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = shown.authority(peer);
        for _ in 0..IN_FLIGHT {
            let (mut client, count, shown) = (client.clone(), Arc::clone(&count), shown.clone());
            tasks.push(tokio::spawn(async move {
                while Instant::now() < end {
                    client.validate_volume_token(shown.request()).await.unwrap();
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
async fn hot(args: &Args, admin: &Peer, shown: &Shown, port: u16) {
    let seconds = args.number("--seconds", "3");
    let echo = Peer { address: format!("127.0.0.1:{port}"), ..admin.clone() };
    load(admin, shown, 1).await;
    load(&echo, shown, 1).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let bare = load(&echo, shown, seconds).await;
        let hot = load(admin, shown, seconds).await;
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
/// of bare echoes: at the highest of some rates that leaves half of the
/// machine idle.
async fn flooded(args: &Args, home: &Path, admin: &Peer, shown: &Shown, (pid, port): (u32, u16)) {
    let before = memory(pid);
    for kind in ["malformed", "unknown", "wrong"] {
        let flood = |kind: &str, port, rate| flooder(home, (kind, port), rate, &shown.volume);
        let mut rate = args.number("--rate", "20000");
        let mut idle = 0.0;
        while rate > 100 {
            let began = cpu();
            good_caller(admin, shown, flood(kind, 7490, rate)).await;
            let ended = cpu();
            idle = (ended.0 - began.0) / (ended.1 - began.1);
            if idle >= 0.5 {
                break;
            }
            println!("  {kind} at {rate}/s leaves {:.0} % idle", idle * 100.0);
            rate = rate * 4 / 5;
        }
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let bare = good_caller(admin, shown, flood("echo", port, rate)).await;
            let bad = good_caller(admin, shown, flood(kind, 7490, rate)).await;
            rounds.push((bad.0 / bare.0, bare, bad));
        }
        rounds.sort_by(|a, b| f64::total_cmp(&a.0, &b.0));
        let (ratio, bare, bad) = rounds[rounds.len() / 2];
        println!(
            "flood of {kind} tokens ({:.0} % idle): good caller's p99 {:.3} ms at {:.0}/s, beside \
             echoes {:.3} ms at {:.0}/s, ratio {ratio:.2}",
            idle * 100.0,
            bad.0 * 1e3,
            bad.1,
            bare.0 * 1e3,
            bare.1
        );
    }
    println!(
        "memory of admin: {} MiB before the floods, {} MiB after",
        before / 1024,
        memory(pid) / 1024
    );
}

/// (idle, all) of the machine's CPU time so far.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().unwrap())
        .collect();
    (fields[3] + fields[4], fields.iter().sum())
}

fn flooder(home: &Path, (kind, port): (&str, u16), rate: u64, known: &Token) -> Child {
    Command::new("nice")
        .args(["-n", "10"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "flood",
            "--kind",
            kind,
            "--port",
            &port.to_string(),
            "--rate",
            &rate.to_string(),
            "--dir",
        ])
        .arg(home)
        .args(["--id", &known.id().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// (p99 in seconds, calls a second of the flood).
async fn good_caller(admin: &Peer, shown: &Shown, mut flood: Child) -> (f64, f64) {
    let mut output = BufReader::new(flood.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let mut client = shown.authority(admin);
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        tick.tick().await;
        let began = Instant::now();
        client.validate_volume_token(shown.request()).await.unwrap();
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
        for _ in 0..FLOOD_IN_FLIGHT {
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
    let reply = std::fs::read(PathBuf::from(args.get("--dir", "")).join("reply")).unwrap();
    let reply = v1::ValidateVolumeTokenReply::decode(&reply[..]).unwrap();
    let own = Ca::load_or_create(&ssl).unwrap().own_identity(&ssl).unwrap();
    let certificate = ServerCertificate::from_pem(&own.chain, &own.key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls::server_config(certificate, &[b"h2"]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (acceptor, reply) = (acceptor.clone(), reply.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let service = tower::service_fn(move |request| answer(request, reply.clone()));
            // It ends when the client goes.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await;
        });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    reply: v1::ValidateVolumeTokenReply,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    struct Echo(v1::ValidateVolumeTokenReply);
    type Answer = Result<tonic::Response<v1::ValidateVolumeTokenReply>, tonic::Status>;
    impl tonic::server::UnaryService<v1::ValidateVolumeTokenRequest> for Echo {
        type Response = v1::ValidateVolumeTokenReply;
        type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;
        fn call(
            &mut self,
            request: tonic::Request<v1::ValidateVolumeTokenRequest>,
        ) -> Self::Future {
            // To a flood, which asks for something else, with as little as a
            // refusal has.
            let asked = request.get_ref().token.is_some();
            let reply = if asked { std::mem::take(&mut self.0) } else { Default::default() };
            Box::pin(async { Ok(tonic::Response::new(reply)) })
        }
    }
    let codec =
        ProstCodec::<v1::ValidateVolumeTokenReply, v1::ValidateVolumeTokenRequest>::default();
    Ok(tonic::server::Grpc::new(codec).unary(Echo(reply), request).await)
}
