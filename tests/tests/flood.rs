//! Strangers without a token: silent connections, slow and oversized requests.
//! Memory stays bounded and a good caller from elsewhere is served meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::{limits, tls};
use flexfs_tests::Cluster;
use flexfs_tests::process::processes_of;
use flexfs_tests::raw::block_on;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// More than each server lets shake hands at once.
const STRANGERS: usize = 400;
/// KiB that all servers together may grow by, far below what an unbounded
/// line of the floods here would take.
const GROWTH_MAX_KIB: u64 = 160 * 1024;

/// Memory of all daemons of the cluster, in KiB.
fn memory(cluster: &Cluster) -> u64 {
    let of = |pid: rustix::process::Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    processes_of(cluster.home()).into_iter().filter_map(of).sum()
}

/// A connection from another address of this machine.
async fn connect(to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(to.parse::<SocketAddr>().unwrap()).await.unwrap()
}

async fn secured(cluster: &Cluster, tcp: TcpStream) -> tokio_rustls::client::TlsStream<TcpStream> {
    tls::install_provider();
    let pem = fs::read_to_string(cluster.home().join("ssl/ca")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(tls::certificate_from_pem(&pem).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(tls::ADMIN_NAME).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// A good caller of admin, and of meta: how long each took.
fn serve_the_good(cluster: &Cluster, volume: &str) -> Duration {
    let before = Instant::now();
    cluster.configure(&["whoami"]).ok();
    let token = cluster.volume_token(volume, &[]);
    let mount = cluster.mount(volume, &token);
    fs::write(mount.path("f"), b"x").unwrap();
    mount.stop();
    before.elapsed()
}

#[test]
fn silent_connections_of_one_source_keep_nobody_else_out() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let calm = serve_the_good(&cluster, "work");
    let before = memory(&cluster);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let silent = runtime.block_on(async {
        let mut silent = Vec::new();
        for _ in 0..STRANGERS {
            for server in [cluster.admin_address(), cluster.meta_address()] {
                silent.push(connect(server).await);
            }
        }
        silent
    });
    let busy = serve_the_good(&cluster, "work");
    let grown = memory(&cluster).saturating_sub(before);
    println!("calm {calm:?}, with {} strangers {busy:?}, {grown} KiB", silent.len());
    // They would all have to time out before the good one had its turn.
    assert!(busy < calm + limits::HANDSHAKE / 2, "calm {calm:?}, with strangers {busy:?}");
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    // The control: they are still held, and told to go in the end.
    let mut first = silent.into_iter().next().unwrap();
    let end = runtime.block_on(async {
        tokio::time::timeout(limits::HANDSHAKE * 3, first.read(&mut [0; 64])).await
    });
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "a silent connection is closed: {end:?}");
}

#[test]
fn slow_and_oversized_requests_without_a_token_are_cut_short() {
    let cluster = Cluster::start();
    cluster.volume("work");
    let before = memory(&cluster);
    block_on(async {
        let mut slow = Vec::new();
        for _ in 0..50 {
            let mut stream = secured(&cluster, connect(cluster.admin_address()).await).await;
            stream
                .write_all(b"POST /flexfs.v1.AdminService/WhoAmI HTTP/1.1\r\nhost: x\r\nx: ")
                .await
                .unwrap();
            slow.push(stream);
        }
        // Headers without end.
        for _ in 0..10 {
            let mut stream = secured(&cluster, connect(cluster.admin_address()).await).await;
            let mut sent = 0_usize;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ").await.unwrap();
            let piece = vec![b'a'; 64 * 1024];
            while sent < 16 * 1024 * 1024 && stream.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            assert!(sent < 16 * 1024 * 1024, "headers of any length are taken");
        }
        // A body that nobody asked for: answered before it is read.
        for _ in 0..10 {
            let mut stream = secured(&cluster, connect(cluster.admin_address()).await).await;
            let head = "POST /flexfs.v1.AdminService/WhoAmI HTTP/1.1\r\nhost: x\r\n\
                        content-type: application/grpc\r\ncontent-length: 1000000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = [0; 2048];
            let read = tokio::time::timeout(limits::CALL, stream.read(&mut answer));
            let len = read.await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&answer[..len]).into_owned();
            assert!(text.contains("grpc-status: 16"), "{text}");
        }
        // Whoever does not come to the end of his headers is cut.
        let begun = Instant::now();
        for mut stream in slow {
            let rest = tokio::time::timeout(limits::HANDSHAKE * 3, async {
                while stream.read(&mut [0; 1024]).await.is_ok_and(|len| len > 0) {}
            });
            rest.await.expect("a slow request is cut");
        }
        println!("slow requests were cut after {:?}", begun.elapsed());
    });
    let grown = memory(&cluster).saturating_sub(before);
    println!("{grown} KiB more");
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    serve_the_good(&cluster, "work");
}
