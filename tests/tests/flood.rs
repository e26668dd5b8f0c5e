//! Strangers without a token: silent connections, slow and oversized requests.
//! Memory stays bounded and a good caller from elsewhere is served meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flexfs_common::{limits, tls};
use flexfs_tests::Cluster;
use flexfs_tests::process::{Daemon, processes_of};
use flexfs_tests::raw::block_on;
use flexfs_tests::wait::wait_until;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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

/// Connections that admin and meta have places for, with descriptors enough.
const ADMIN_PLACES: usize = 4096;
const META_PLACES: usize = 16_384;
/// Beyond that.
const SURPLUS: usize = 300;

/// Soft and hard limit of descriptors of the daemon of a tier.
fn descriptors(cluster: &Cluster, tier: &str) -> (usize, usize) {
    let run = cluster.home().join(tier).join("run");
    let pid = flexfs_common::daemon::RunFile::find(&run).unwrap().unwrap().pid;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().skip(3).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Raises the limit of this very process as far as it goes.
fn raise_own_descriptors() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    usize::try_from(maximum.unwrap_or(1 << 20)).unwrap()
}

/// Takes all the places that it is given, from one address, and takes again
/// what it loses, until it is dropped.
struct Greedy {
    over: Arc<AtomicBool>,
    /// Connections that stood for more than a round.
    held: Arc<AtomicUsize>,
    /// Connections that were closed.
    closed: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Greedy {
    fn start(address: &str, wanted: usize) -> Greedy {
        let address = address.to_owned();
        let (over, held, closed) = (Arc::default(), Arc::default(), Arc::default());
        let mut greedy = Greedy { over, held, closed, thread: None };
        let (over, held, closed) = (&greedy.over, &greedy.held, &greedy.closed);
        let (over, held, closed) = (Arc::clone(over), Arc::clone(held), Arc::clone(closed));
        greedy.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let mut connections: Vec<std::net::TcpStream> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let before = connections.len();
                connections.retain(is_open);
                closed.fetch_add(before - connections.len(), Ordering::Relaxed);
                held.store(connections.len(), Ordering::Relaxed);
                let missing = wanted.saturating_sub(connections.len());
                for _ in 0..missing.min(500) {
                    let stream = runtime.block_on(connect(&address));
                    // Stays non-blocking.
                    connections.push(stream.into_std().unwrap());
                }
            }
        }));
        greedy
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the greedy one failed");
        }
    }
}

fn is_open(stream: &std::net::TcpStream) -> bool {
    let looked = stream.peek(&mut [0]);
    looked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// One source takes what it can at this port; another one is served.
fn serve_beside_a_greedy_one(cluster: &Cluster, tier: &str, places: usize) {
    let address = match tier {
        "admin" => cluster.admin_address(),
        _ => cluster.meta_address(),
    };
    let calm = serve_the_good(cluster, "work");
    let half = places / 2;
    // As many as there are, and more: they would fill the house.
    let greedy = Greedy::start(address, places + SURPLUS);
    wait_until("one source has all it gets", Duration::from_secs(60), || {
        greedy.held() >= half - SURPLUS && greedy.closed.load(Ordering::Relaxed) >= SURPLUS
    });
    let busy = serve_the_good(cluster, "work");
    let (held, closed) = (greedy.held(), greedy.closed.load(Ordering::Relaxed));
    println!("{tier}: calm {calm:?}, busy {busy:?}; one source holds {held}, {closed} closed");
    assert!(busy < calm + limits::HANDSHAKE / 2, "calm {calm:?}, busy {busy:?}");
    drop(greedy);
    let log = fs::read_to_string(cluster.log(tier)).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("closed at once")).collect();
    assert!(!lines.is_empty(), "nothing is said of it");
    assert!(lines.iter().all(|line| line.contains("127.0.0.2")), "{lines:#?}");
    // One in five seconds.
    assert!(lines.len() < 30, "{} lines for {closed} connections", lines.len());
    assert!(!log.contains("was not accepted"), "out of descriptors");
}

#[test]
fn one_source_that_takes_all_it_can_keeps_nobody_out_of_admin() {
    raise_own_descriptors();
    let cluster = Cluster::start();
    cluster.volume("work");
    let (soft, hard) = descriptors(&cluster, "admin");
    assert_eq!(soft, hard);
    serve_beside_a_greedy_one(&cluster, "admin", ADMIN_PLACES.min(soft / 2));
}

#[test]
fn one_source_that_takes_all_it_can_keeps_nobody_out_of_meta() {
    let own = raise_own_descriptors();
    let cluster = Cluster::start();
    cluster.volume("work");
    let (soft, hard) = descriptors(&cluster, "meta");
    assert_eq!(soft, hard);
    let places = META_PLACES.min(soft / 2);
    assert!(own > places + 2 * SURPLUS, "{own} descriptors are too few for this test");
    serve_beside_a_greedy_one(&cluster, "meta", places);
}

/// With few descriptors there are few places, and never too few descriptors:
/// a server that cannot open a file of its database is lost.
#[test]
fn with_few_descriptors_a_server_takes_fewer_connections() {
    const DESCRIPTORS: usize = 400;
    let mut cluster = Cluster::start();
    cluster.volume("work");
    for tier in ["admin", "meta"] {
        let limits = format!("ulimit -S -n 100 && ulimit -H -n {DESCRIPTORS} && exec \"$@\"");
        let address = match tier {
            "admin" => {
                cluster.stop_admin();
                cluster.admin_address().to_owned()
            }
            _ => {
                cluster.stop_meta();
                cluster.meta_address().to_owned()
            }
        };
        let program = flexfs_tests::process::bin_dir().join(format!("{tier}.flexfs"));
        let mut command = cluster.program("/bin/sh");
        command.args(["-c", &limits, "sh"]).arg(program);
        command.args(["start", "--foreground", "--bindAddr", &address]);
        let mut daemon = Daemon::start(&mut command, &cluster.log(tier));
        let run = cluster.home().join(tier).join("run");
        daemon.wait_ready(tier, || {
            flexfs_common::daemon::RunFile::find(&run).unwrap().is_some()
                && std::net::TcpStream::connect(&address).is_ok()
        });
        wait_until("the soft limit is raised", Duration::from_secs(60), || {
            descriptors(&cluster, tier) == (DESCRIPTORS, DESCRIPTORS)
        });
        serve_beside_few(&cluster, &address, DESCRIPTORS);
        assert!(!fs::read_to_string(cluster.log(tier)).unwrap().contains("was not accepted"));
        daemon.terminate();
        match tier {
            "admin" => cluster.restart_admin(),
            _ => cluster.restart_meta(),
        }
    }
}

fn serve_beside_few(cluster: &Cluster, address: &str, wanted: usize) {
    let greedy = Greedy::start(address, wanted);
    let some = wanted / 8;
    wait_until("one source has all it gets", Duration::from_secs(60), || {
        greedy.held() >= some && greedy.closed.load(Ordering::Relaxed) >= some
    });
    serve_the_good(cluster, "work");
}
