//! What renames of directories elsewhere in the volume cost a scoped mount:
//! phases without load, with the load in another volume (the control: as much
//! work for the machine) and with it in the same volume, in turn. See
//! bench/README.md, "Renames elsewhere".
//!
//! `FLEXFS_BIN_DIR=DIR cargo run --release -p flexfs-tests --example renames-bench -- [ROUNDS] [SECONDS] [RATE]`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measuring program: it prints, and stops when something is not as it should be"
)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flexfs_proto::v1::Rename;
use flexfs_proto::v1::op::Body;
use flexfs_tests::raw::{self, RawConnection, RawSession};
use flexfs_tests::{Cluster, Token};

/// Directories of the measured tree, and files in each.
const DIRS: usize = 300;
const FILES: usize = 20;
/// Levels above the parents between which directories move.
const DEPTH: usize = 8;
/// Such parents on each of two branches.
const PARENTS: usize = 16;
/// Directories that move.
const MOVED: usize = 64;
/// Between two measured operations.
const PACE: Duration = Duration::from_millis(2);
const OPS: [&str; 5] = ["lookup + stat", "absent name", "open-read-close", "create", "readdir"];
const PHASES: [&str; 3] = ["quiet", "other volume", "same volume"];

/// Microseconds of each operation of a phase, in the order of `OPS`.
type Times = [Vec<u64>; OPS.len()];

fn main() {
    let number = |at: usize, default: u64| {
        std::env::args().nth(at).map_or(default, |text| text.parse::<u64>().unwrap())
    };
    let (rounds, seconds, rate) = (number(1, 7), number(2, 4), number(3, 1000));
    let cluster = Cluster::start();
    let tokens = ["measured", "other"].map(|volume| prepare(&cluster, volume));
    let scoped = cluster.volume_token("measured", &["--mountPath", "/scope"]);
    let mount = cluster.mount("measured", &scoped);
    let mut probe = Probe { root: mount.dir().to_owned(), step: 0 };
    // Index into PHASES; beyond them all, the end.
    let phase = AtomicUsize::new(0);
    let renames = AtomicUsize::new(0);
    // For each operation and phase, the times of each round.
    let mut found = vec![vec![Vec::new(); PHASES.len()]; OPS.len()];
    std::thread::scope(|threads| {
        threads.spawn(|| raw::block_on(load(&cluster, &tokens, rate, (&phase, &renames))));
        probe.run(Duration::from_secs(seconds));
        for round in 0..rounds {
            // The loaded phases change places each round, so that a drift of
            // the machine does not fall on one of them.
            for kind in if round % 2 == 0 { [0, 1, 2] } else { [0, 2, 1] } {
                phase.store(kind, Ordering::Relaxed);
                // What is under way from the phase before is not measured.
                probe.run(Duration::from_millis(200));
                let (before, began) = (renames.load(Ordering::Relaxed), Instant::now());
                let times = probe.run(Duration::from_secs(seconds));
                let done = renames.load(Ordering::Relaxed) - before;
                let rate = done as f64 / began.elapsed().as_secs_f64();
                println!("round {} {}: {rate:.0} renames/s", round + 1, PHASES[kind]);
                for (op, times) in times.into_iter().enumerate() {
                    found[op][kind].push(sorted(OPS[op], times));
                }
            }
        }
        phase.store(PHASES.len(), Ordering::Relaxed);
    });
    mount.stop();
    tell(&found);
}

/// One phase's line of an operation; the times come back in order.
fn sorted(op: &str, mut times: Vec<u64>) -> Vec<u64> {
    times.sort_unstable();
    println!(
        "  {op:<16} {:>5} times: p50 {:>6} us, p99 {:>6} us, max {:>6} us",
        times.len(),
        quantile(&times, 50),
        quantile(&times, 99),
        quantile(&times, 100)
    );
    times
}

fn quantile(sorted: &[u64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100] as f64
}

/// The phases over all rounds, and what the load in the same volume costs
/// more than that in another.
fn tell(found: &[Vec<Vec<Vec<u64>>>]) {
    println!("\n{} rounds; medians of the rounds' figures, us", found[0][0].len());
    println!("| operation | p50: quiet, other, same volume | p99: quiet, other, same volume |");
    for (op, kinds) in found.iter().enumerate() {
        let of = |percent| {
            let medians = kinds.iter().map(|rounds| {
                median(rounds.iter().map(|times| quantile(times, percent)).collect())
            });
            medians.map(|m| format!("{m:.0}")).collect::<Vec<_>>().join(", ")
        };
        println!("| {} | {} | {} |", OPS[op], of(50), of(99));
    }
    println!("\n| same / other volume | p50 | p99: median (min..max) of rounds | p99 of all |");
    for (op, kinds) in found.iter().enumerate() {
        let ratios = |percent| {
            let pairs = kinds[2].iter().zip(&kinds[1]);
            let ratio = |(same, other): (&Vec<u64>, &Vec<u64>)| {
                quantile(same, percent) / quantile(other, percent)
            };
            pairs.map(ratio).collect::<Vec<_>>()
        };
        let of_all = |kind: usize| {
            let mut all = kinds[kind].concat();
            all.sort_unstable();
            quantile(&all, 99)
        };
        let tail = ratios(99);
        let least = tail.iter().copied().fold(f64::MAX, f64::min);
        let most = tail.iter().copied().fold(0.0, f64::max);
        println!(
            "| {} | {:.2} | {:.2} ({least:.2}..{most:.2}) | {:.2} ({:.0} / {:.0} us) |",
            OPS[op],
            median(ratios(50)),
            median(tail),
            of_all(2) / of_all(1),
            of_all(2),
            of_all(1)
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

/// A volume with both trees, and a token for its `/elsewhere`.
fn prepare(cluster: &Cluster, volume: &str) -> Token {
    let mount = cluster.mount(volume, &cluster.volume(volume));
    for dir in 0..DIRS {
        let dir = mount.path(&format!("scope/d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        (0..FILES).for_each(|file| fs::write(dir.join(format!("f{file}")), [7; 512]).unwrap());
        fs::create_dir_all(dir.join("new")).unwrap();
    }
    for place in 0..2 * PARENTS {
        fs::create_dir_all(mount.path(&format!("elsewhere/{}", parent_path(place)))).unwrap();
    }
    for moved in 0..MOVED {
        let parent = parent_path(moved % (2 * PARENTS));
        for child in ["x", "y", "z/deeper"] {
            let path = format!("elsewhere/{parent}/m{moved}/{child}");
            fs::create_dir_all(mount.path(&path)).unwrap();
        }
    }
    mount.stop();
    cluster.volume_token(volume, &["--mountPath", "/elsewhere"])
}

/// Where the parent of this number is, below `/elsewhere`.
fn parent_path(place: usize) -> String {
    let branch = if place < PARENTS { "left" } else { "right" };
    let levels: String = (0..DEPTH).map(|level| format!("/l{level}")).collect();
    format!("{branch}{levels}/p{}", place % PARENTS)
}

/// Renames at the rate in the volume of the phase, until the last phase.
async fn load(
    cluster: &Cluster,
    tokens: &[Token; 2],
    rate: u64,
    (phase, renames): (&AtomicUsize, &AtomicUsize),
) {
    let mut other = Mover::open(cluster, "other", &tokens[1]).await;
    let mut same = Mover::open(cluster, "measured", &tokens[0]).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    let mut beat = Instant::now();
    loop {
        ticks.tick().await;
        match phase.load(Ordering::Relaxed) {
            0 => {}
            1 => other.step(renames).await,
            2 => same.step(renames).await,
            _ => break,
        }
        // Both leases are kept, the idle one's too.
        if beat.elapsed() > Duration::from_secs(1) {
            beat = Instant::now();
            for mover in [&mut other, &mut same] {
                mover.connection.heartbeat().await.unwrap();
                mover.connection.lookup(&mover.root, b"left").await.unwrap();
            }
        }
    }
}

/// Moves directories from parent to parent.
struct Mover {
    connection: RawConnection,
    root: Vec<u8>,
    parents: Vec<Vec<u8>>,
    /// At which parent each directory is.
    places: Vec<usize>,
    next: usize,
}

impl Mover {
    async fn open(cluster: &Cluster, volume: &str, token: &Token) -> Mover {
        let session = RawSession::open(cluster, volume, token).await.unwrap();
        let mut connection = session.connect().await.unwrap();
        let mut parents = Vec::new();
        for place in 0..2 * PARENTS {
            let mut at = session.root();
            for name in parent_path(place).split('/') {
                at = connection.lookup(&at, name.as_bytes()).await.unwrap().handle;
            }
            parents.push(at);
        }
        let places = (0..MOVED).map(|moved| moved % (2 * PARENTS)).collect();
        Mover { connection, root: session.root(), parents, places, next: 0 }
    }

    async fn step(&mut self, renames: &AtomicUsize) {
        let (moved, count) = (self.next % MOVED, self.parents.len());
        self.next += 1;
        let from = self.places[moved];
        // To the other branch, each time to another parent.
        let to = (from + PARENTS + 1) % count;
        let name = format!("m{moved}").into_bytes();
        let rename = Rename {
            parent: self.parents[from].clone(),
            name: name.clone(),
            new_parent: self.parents[to].clone(),
            new_name: name,
            ..Rename::default()
        };
        self.connection.change(Body::Rename(rename)).await.unwrap();
        self.places[moved] = to;
        renames.fetch_add(1, Ordering::Relaxed);
    }
}

/// The measured mount: one operation at a time.
struct Probe {
    root: PathBuf,
    step: usize,
}

impl Probe {
    fn run(&mut self, length: Duration) -> Times {
        // Names that neither the kernel nor the mount has any more.
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let mut times = Times::default();
        let began = Instant::now();
        let mut due = began;
        while began.elapsed() < length {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (op, turn) = (self.step % OPS.len(), self.step / OPS.len());
            self.step += 1;
            let start = Instant::now();
            self.perform(op, turn);
            times[op].push(u64::try_from(start.elapsed().as_micros()).unwrap());
            due = (due + PACE).max(Instant::now());
        }
        times
    }

    fn perform(&self, op: usize, turn: usize) {
        let dir = self.root.join(format!("d{}", turn % DIRS));
        let file = |of: usize| dir.join(format!("f{}", of % FILES));
        match op {
            // Each turn through all directories takes the next file.
            0 => assert_eq!(fs::metadata(file(turn / DIRS)).unwrap().len(), 512),
            1 => assert!(!dir.join(format!("absent{turn}")).exists()),
            2 => read(&file(turn / DIRS + FILES / 2)),
            3 => drop(fs::File::create(dir.join(format!("new/n{turn}"))).unwrap()),
            _ => assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES + 1),
        }
    }
}

fn read(path: &Path) {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 512);
}
