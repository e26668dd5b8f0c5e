//! Cold tokens: everything was restarted and N volume tokens of two accounts
//! come at once, so each costs argon2id again. Shown to the real admin program
//! as metadata servers show them. See bench/README.md, "Cold tokens".
//!
//! `cargo run --release -p flexfs-admin --example cold-bench -- all --admin BIN --dir DIR`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measuring program: it prints, and stops when something is not as it should be"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flexfs_admin::store::{DbUrl, Store, Value};
use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_auth::verifier::{Argon2Settings, Pepper, Verifier};
use flexfs_common::ids::SecretId;
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;
use flexfs_proto::v1::authority_service_client::AuthorityServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

const ADDRESS: &str = "127.0.0.1:7491";
/// What one metadata server has in flight in its lane of known tokens.
const LANE: usize = 32;
/// Calls of one HTTP/2 connection to admin.
const PER_CONNECTION: usize = 256;
/// Between two validations of the token that is warm.
const PROBE: Duration = Duration::from_millis(10);
/// As little as argon2 takes, to make them; at its first use each is renewed
/// with the server's own settings.
const QUICK: Argon2Settings = Argon2Settings { memory_kib: 8, passes: 1, lanes: 1 };

type Client = AuthorityServiceClient<InterceptedService<Channel, BearerInterceptor>>;

struct Args(Vec<String>);

impl Args {
    fn get(&self, name: &str, default: &str) -> String {
        let at = self.0.iter().position(|arg| arg == name);
        at.and_then(|at| self.0.get(at + 1)).map_or(default, String::as_str).to_owned()
    }
    fn required(&self, name: &str) -> String {
        let value = self.get(name, "");
        assert!(!value.is_empty(), "{name} is required");
        value
    }
    fn number(&self, name: &str, default: &str) -> usize {
        self.get(name, default).parse().unwrap()
    }
}

fn main() {
    let args = Args(std::env::args().skip(1).collect());
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match args.0.first().map(String::as_str) {
        Some("all") => runtime.block_on(all(&args)),
        _ => println!(
            "usage: cold-bench all --admin BIN --dir DIR [--tokens N] [--wild IN_FLIGHT] [--cached N]"
        ),
    }
}

/// Everything, one after the other; admin starts anew before each.
async fn all(args: &Args) {
    let home = PathBuf::from(args.required("--dir"));
    let (count, cached) = (args.number("--tokens", "10000"), args.number("--cached", "10000"));
    let site = Site::make(args.get("--admin", "admin.flexfs"), home).await;
    // Four fifths are of the account that came first.
    let few = count / 5;
    let (many, took) = site.fill("many", count - few, Argon2Settings::default()).await;
    let (few, took_few) = site.fill("few", few, Argon2Settings::default()).await;
    let tenants = [many, few];
    let alone = count as f64 / (took + took_few).as_secs_f64();
    println!("argon2id alone, on all cores: {alone:.1} tokens/s");
    let (warm, _) = site.fill("many", 1, Argon2Settings::default()).await;
    for (what, in_flight) in
        [("as two metadata servers", LANE), ("many at once", args.number("--wild", "2048"))]
    {
        println!("-- {count} cold tokens, {what}: {in_flight} in flight of each account");
        let admin = site.start().await;
        let memory = Memory::watch(admin.0.id());
        let probe = Probe::of(&site, &warm[0]).await;
        let quiet = probe.during(tokio::time::sleep(Duration::from_secs(2))).await.1;
        println!("a warm token, alone: {quiet}");
        let work = show(&site, &tenants, in_flight);
        let (shown, busy) = probe.during(work).await;
        println!("a warm token, meanwhile: {busy}");
        tell(&shown, alone, in_flight <= PER_CONNECTION);
        println!("memory of admin: {}", memory.told());
        drop(admin);
    }
    cache(&site, cached).await;
}

/// What a cached success takes: of the second half, so that connections,
/// threads and what the allocator keeps are not counted.
async fn cache(site: &Site, count: usize) {
    println!("-- the cache of successes, with {count} entries");
    let (mut half, _) = site.fill("many", count, QUICK).await;
    let rest = half.split_off(count / 2);
    let admin = site.start().await;
    let memory = Memory::watch(admin.0.id());
    show(site, &[half], LANE).await;
    let before = resident(admin.0.id());
    let entries = rest.len() as f64;
    show(site, &[rest], LANE).await;
    let each = resident(admin.0.id()).saturating_sub(before) as f64 * 1024.0 / entries;
    println!("memory of admin: {}", memory.told());
    println!(
        "{each:.0} bytes of each cached token; its limit is {} tokens: {:.0} MiB",
        limits::SUCCESS_CACHE,
        each * limits::SUCCESS_CACHE as f64 / f64::from(1 << 20)
    );
}

/// admin; dropped, it ends as by SIGTERM.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// An installation, and the metadata server's token.
struct Site {
    program: String,
    home: PathBuf,
    meta: Token,
}

impl Site {
    async fn make(program: String, home: PathBuf) -> Site {
        let meta = Token::generate(TokenKind::Meta).unwrap();
        let site = Site { program, home, meta };
        let admin = site.start().await;
        let root = std::fs::read_to_string(site.home.join("admin/root.token")).unwrap();
        let bearer = BearerInterceptor::new(&Token::parse(&root).unwrap());
        let channel = site.peer().channel().unwrap();
        let mut client = AdminServiceClient::with_interceptor(channel, bearer);
        let store = v1::BlockStore {
            id: "b1".into(),
            kind: "dir".into(),
            location: "/srv/blocks".into(),
            ..Default::default()
        };
        let store = v1::CreateBlockStoreRequest { block_store: Some(store) };
        client.create_block_store(store).await.unwrap();
        let store = v1::CreateMetaStoreRequest {
            id: "m1".into(),
            address: "127.0.0.1:7410".into(),
            meta_token: Some(site.meta.to_wire()),
        };
        client.create_meta_store(store).await.unwrap();
        for name in ["many", "few"] {
            let account = v1::CreateAccountRequest {
                name: name.into(),
                owner_token: Some(Token::generate(TokenKind::Account).unwrap().to_wire()),
                ..Default::default()
            };
            let account = client.create_account(account).await.unwrap().into_inner();
            let volume = v1::Volume {
                name: name.into(),
                account_id: account.account.unwrap().id,
                meta_store_id: "m1".into(),
                block_store_id: "b1".into(),
                ..Default::default()
            };
            let volume = v1::CreateVolumeRequest { volume: Some(volume), volume_token: None };
            client.create_volume(volume).await.unwrap();
        }
        drop(admin);
        site
    }

    async fn start(&self) -> Daemon {
        let daemon = Command::new(&self.program)
            .env("FLEXFS_HOME", &self.home)
            .args(["start", "--bindAddr", ADDRESS, "--foreground"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Daemon(daemon);
        let deadline = Instant::now() + Duration::from_secs(60);
        // It listens before it has its keys, and serves afterwards.
        while !self.serves().await {
            assert!(Instant::now() < deadline, "admin does not start");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        daemon
    }

    async fn serves(&self) -> bool {
        let files = ["ssl/ca", "admin/root.token"].map(|name| self.home.join(name));
        files.iter().all(|file| file.exists()) && self.peer().connect(b"h2").await.is_ok()
    }

    fn peer(&self) -> Peer {
        let pem = std::fs::read_to_string(self.home.join("ssl/ca")).unwrap();
        Peer {
            address: ADDRESS.to_owned(),
            name: tls::ADMIN_NAME.to_owned(),
            trust: Trust::Ca(tls::certificate_from_pem(&pem).unwrap()),
            unreachable: Code::AdminUnreachable,
        }
    }

    /// A connection as the metadata server.
    fn client(&self) -> Client {
        let bearer = BearerInterceptor::new(&self.meta);
        AuthorityServiceClient::with_interceptor(self.peer().channel().unwrap(), bearer)
    }

    /// Tokens written into the database while admin does not run, as imports
    /// would have: with real verifiers, made here on all cores, in that time.
    async fn fill(
        &self,
        volume: &str,
        count: usize,
        settings: Argon2Settings,
    ) -> (Vec<Token>, Duration) {
        let pepper = Pepper::load(&self.home.join("admin/pepper")).unwrap();
        let began = Instant::now();
        let made = derive(count, &pepper, settings);
        let took = began.elapsed();
        let store = Store::open(&DbUrl::Sqlite(self.home.join("admin/flexfs.db"))).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        for (token, verifier) in &made {
            write(tx.sql(), volume, token, verifier).await;
        }
        tx.commit_quietly().await.unwrap();
        store.close().await;
        (made.into_iter().map(|(token, _)| token).collect(), took)
    }
}

fn derive(count: usize, pepper: &Pepper, settings: Argon2Settings) -> Vec<(Token, Verifier)> {
    let threads = std::thread::available_parallelism().unwrap().get();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let token = Token::generate(TokenKind::Volume).unwrap();
            let verifier = Verifier::derive(&token, pepper, settings).unwrap();
            made.push((token, verifier));
        }
        made
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

async fn write(
    sql: &mut dyn flexfs_admin::store::Sql,
    volume: &str,
    token: &Token,
    verifier: &Verifier,
) {
    let id = token.id();
    let row = "INSERT INTO tokens (id, kind, account_id, volume_id, mount_path, rights, flags, \
               volumes, cidrs, notes, last4, created_at, rotated_at, revoke_reason, created_by)
               SELECT $1, 'volume', v.account_id, v.id, '/', 'rw', '', '', '', '', 'abcd', \
                      v.created_at, v.created_at, '', v.created_by
               FROM volumes v WHERE v.name = $2";
    sql.execute(row, vec![Value::text(id), Value::text(volume)]).await.unwrap();
    let row = "INSERT INTO token_secrets (id, token_id, tag, pepper_id, phc, created_at, last4)
               SELECT $1, t.id, $3, $4, $5, t.created_at, 'abcd' FROM tokens t WHERE t.id = $2";
    let values = vec![
        Value::text(SecretId::random()),
        Value::text(id),
        Value::bytes(&verifier.tag),
        Value::text(&verifier.pepper_id),
        Value::text(&verifier.phc),
    ];
    sql.execute(row, values).await.unwrap();
}

async fn validate(client: &mut Client, token: &Token) -> Result<(), Code> {
    let request = v1::ValidateVolumeTokenRequest {
        token: Some(token.to_wire()),
        volume: String::new(),
        peer_address: "127.0.0.1".into(),
        host_name: "bench".into(),
    };
    let reply = client.validate_volume_token(request).await;
    reply.map(drop).map_err(|e| status::from_status(&e, Code::AdminUnreachable).code())
}

/// A token that was found good.
#[derive(Clone, Copy)]
struct Served {
    source: usize,
    /// In the order of coming.
    number: usize,
    /// From the first time it was shown.
    waited: Duration,
    /// Since all of them began to come.
    at: Duration,
    refusals: usize,
}

struct Shown {
    /// In the order of being served.
    served: Vec<Served>,
    took: Duration,
    counts: Vec<usize>,
}

/// Shows all tokens, of each source so many at once, in order; what is refused
/// for now waits and comes again, as an honest client does.
async fn show(site: &Site, sources: &[Vec<Token>], in_flight: usize) -> Shown {
    let began = Instant::now();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for (source, tokens) in sources.iter().enumerate() {
        let (tokens, next) = (Arc::new(tokens.clone()), Arc::new(AtomicUsize::new(0)));
        let connections = in_flight.div_ceil(PER_CONNECTION);
        let clients: Vec<_> = (0..connections).map(|_| site.client()).collect();
        for worker in 0..in_flight {
            let mut client = clients[worker % connections].clone();
            let (tokens, next, sender) = (Arc::clone(&tokens), Arc::clone(&next), sender.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(token) = tokens.get(number) else { return };
                    let (first, mut refusals) = (Instant::now(), 0);
                    while let Err(code) = validate(&mut client, token).await {
                        assert_eq!(code, Code::RateLimited, "a good token");
                        refusals += 1;
                        // "Wait a few seconds", not all at the same time.
                        let pause = 1000 + (number * 7919 + refusals * 104_729) % 2000;
                        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
                    }
                    let (waited, at) = (first.elapsed(), began.elapsed());
                    sender.send(Served { source, number, waited, at, refusals }).unwrap();
                }
            });
        }
    }
    drop(sender);
    let mut served = Vec::new();
    while let Some(one) = receiver.recv().await {
        served.push(one);
    }
    let counts: Vec<_> = sources.iter().map(Vec::len).collect();
    assert_eq!(served.len(), counts.iter().sum::<usize>(), "somebody was not served");
    Shown { served, took: began.elapsed(), counts }
}

/// `ordered`: all of a source came over one connection, in order.
fn tell(shown: &Shown, alone: f64, ordered: bool) {
    let all = shown.served.len();
    let rate = all as f64 / shown.took.as_secs_f64();
    println!(
        "all {all} served in {:.2} s: {rate:.1} tokens/s, {:.2} of argon2id alone",
        shown.took.as_secs_f64(),
        rate / alone
    );
    for (source, count) in shown.counts.iter().enumerate() {
        let own: Vec<_> = shown.served.iter().filter(|one| one.source == source).collect();
        let mut waited: Vec<_> = own.iter().map(|one| one.waited).collect();
        let mut at: Vec<_> = own.iter().map(|one| one.at).collect();
        let place = shown.served.iter().rposition(|one| one.source == source).unwrap();
        println!(
            "account {}: {count} tokens; from its call {}; since the start {}; its last was served \
             {} of {all}; {} refusals, at most {} of one",
            source + 1,
            spread(&mut waited),
            spread(&mut at),
            place + 1,
            own.iter().map(|one| one.refusals).sum::<usize>(),
            own.iter().map(|one| one.refusals).max().unwrap_or(0),
        );
        if ordered {
            println!("  overtaken by at most {} that came later", overtaken(&own));
        }
    }
}

/// The most that came later than somebody and were served earlier.
fn overtaken(own: &[&Served]) -> usize {
    let before =
        |place: usize, one: &Served| own[..place].iter().filter(|o| o.number > one.number).count();
    own.iter().enumerate().map(|(place, one)| before(place, one)).max().unwrap_or(0)
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |p: usize| times[(times.len() - 1) * p / 100].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(50), at(99), at(100))
}

/// Validates one token that is warm, again and again.
struct Probe<'s> {
    client: Client,
    token: &'s Token,
}

impl<'s> Probe<'s> {
    async fn of(site: &Site, token: &'s Token) -> Probe<'s> {
        let mut client = site.client();
        validate(&mut client, token).await.unwrap();
        Probe { client, token }
    }

    /// Its times while something is done.
    async fn during<T>(&self, work: impl Future<Output = T>) -> (T, String) {
        let (mut client, token) = (self.client.clone(), self.token.clone());
        let over = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&over);
        let probing = tokio::spawn(async move {
            let mut times = Vec::new();
            let mut tick = tokio::time::interval(PROBE);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !ending.load(Ordering::Relaxed) {
                tick.tick().await;
                let began = Instant::now();
                validate(&mut client, &token).await.unwrap();
                times.push(began.elapsed());
            }
            format!("{} in {} validations", spread(&mut times), times.len())
        });
        let outcome = work.await;
        over.store(true, Ordering::Relaxed);
        (outcome, probing.await.unwrap())
    }
}

/// A field of /proc/PID/status, in KiB.
fn status_of(pid: u32, field: &str) -> u64 {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn resident(pid: u32) -> u64 {
    status_of(pid, "VmRSS:")
}

/// Resident memory of a process since it was looked at first.
struct Memory {
    pid: u32,
    before: u64,
}

impl Memory {
    fn watch(pid: u32) -> Memory {
        Memory { pid, before: resident(pid) }
    }

    fn told(&self) -> String {
        // VmHWM is the kernel's own maximum of VmRSS.
        let peak = status_of(self.pid, "VmHWM:");
        let mib = |kib: u64| kib as f64 / 1024.0;
        format!(
            "{:.1} MiB before, {:.1} MiB at most, {:.1} MiB after",
            mib(self.before),
            mib(peak),
            mib(resident(self.pid))
        )
    }
}
