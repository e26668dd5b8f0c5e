//! kill -9 of meta and of a mount at every named step: whoever restarts finds
//! all that was acknowledged, and what was under way wholly or not at all.
//! Release builds have no failpoints.
#![cfg(debug_assertions)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexfs_common::{failpoint, limits};
use flexfs_tests::files::Noise;
use flexfs_tests::process::{COMMAND, Run};
use flexfs_tests::{Cluster, Token, wait_until, within};

// Which pass of each point: some way into the load.
const COMMITS: &[&str] =
    &["meta-commit-before:30", "meta-commit-after:30", "meta-sync-before:3", "meta-sync-after:3"];
const COLLECTION: &[&str] =
    &["meta-collect-condemned:2", "meta-collect-synced:2", "meta-collect-deleted:2"];
const STORE: &[&str] = &["meta-store-written:3", "meta-store-synced:3", "meta-store-renamed:3"];
const RECALLS: &[&str] = &["meta-recall-queued:5", "meta-recall-answered:5", SESSION];
const SESSION: &str = "meta-session-opened:1";
const UPLOADS: &[&str] = &["mount-put-before:2", "mount-put-after:2", "mount-commit-after:10"];
const MAKES: &[&str] = &["mount-make-before:4", "mount-make-after:4"];
const RIGHTS: &[&str] = &["mount-recall-received:2", "mount-recall-flushed:2"];

/// A point that is not reached within this is not reached by the load.
const REACHED: Duration = Duration::from_secs(60);
/// What a busy machine may add to any wait.
const BUSY: Duration = Duration::from_secs(10);
/// Written by every mount, at its end.
const SHARED: &str = "shared";
/// Bytes of an append to it.
const RECORD: usize = 64;
/// Two blocks and a half.
const BLOCKS: usize = 640 * 1024;

/// Seed and length.
type Contents = (u64, usize);

/// The seed, and noise from a place that goes with it: made once, since the
/// load is to burden the servers and not this test.
fn bytes((seed, len): Contents) -> Vec<u8> {
    const PLACES: usize = 1 << 16;
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| Noise::new(1).bytes(PLACES + BLOCKS));
    let place = seed.wrapping_mul(7919) as usize % PLACES;
    let mut bytes = NOISE[place..][..len].to_vec();
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, seed)| *byte = seed);
    bytes
}

fn record(who: char, number: u64) -> Vec<u8> {
    let noise = Noise::new(number ^ u64::from(u32::from(who)) << 32).next_number();
    format!("{who} {number:020} {noise:040}\n").into_bytes()
}

/// What a name may be found as.
#[derive(Clone, Copy, Debug)]
enum Found {
    Absent,
    Whole(Contents),
    /// Being written and not closed: some of its bytes, zeros for others.
    Parts(Contents),
}

impl Found {
    fn is(self, found: Option<&Vec<u8>>) -> bool {
        match (self, found) {
            (Found::Absent, found) => found.is_none(),
            (Found::Whole(_) | Found::Parts(_), None) => false,
            (Found::Whole(contents), Some(found)) => *found == bytes(contents),
            (Found::Parts(contents), Some(found)) => {
                let all = bytes(contents);
                found.len() <= all.len()
                    && found.iter().zip(&all).all(|(found, all)| found == all || *found == 0)
            }
        }
    }
}

/// What one mount was told.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The next step.
    step: u64,
    files: BTreeMap<String, Contents>,
    /// Names that a call under way changes, and what else they may be.
    under_way: Vec<(String, Vec<Found>)>,
    /// Appends that are synced, and those that are not.
    appended: BTreeSet<u64>,
    buffered: BTreeSet<u64>,
    /// The longest that a step took.
    slowest: Duration,
}

impl Known {
    fn check(&self, (point, who): (&str, char), mount: &Path) {
        let dir = mount.join(who.to_string());
        let there: BTreeMap<String, Vec<u8>> = fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let bytes = fs::read(dir.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                (name, bytes)
            })
            .collect();
        let under_way = self.under_way.iter().map(|(name, _)| name);
        let names: BTreeSet<&String> =
            there.keys().chain(self.files.keys()).chain(under_way).collect();
        for name in names {
            let sure = self.files.get(name).map_or(Found::Absent, |known| Found::Whole(*known));
            let mut may_be = vec![sure];
            let more = self.under_way.iter().filter(|(of, _)| of == name);
            may_be.extend(more.flat_map(|(_, found)| found));
            let found = there.get(name);
            let len = found.map(Vec::len);
            let is_right = may_be.iter().any(|may_be| may_be.is(found));
            assert!(is_right, "{point}: {who}/{name}: {len:?} bytes are none of {may_be:?}");
        }
    }
}

/// The records of everybody: whole, each once, in order, and all of those that
/// were synced.
fn check_shared(mount: &Path, (point, lives): (&str, &[(char, Known)])) {
    let mut text = Vec::new();
    File::open(mount.join(SHARED)).unwrap().read_to_end(&mut text).unwrap();
    let mut found: BTreeMap<char, Vec<u64>> = BTreeMap::new();
    for (place, line) in text.chunks(RECORD).enumerate() {
        let who = char::from(line[0]);
        let number = std::str::from_utf8(line.get(2..22).unwrap_or_default()).ok();
        let number = number.and_then(|number| number.parse().ok());
        let whole = number.is_some_and(|number| line == record(who, number));
        assert!(whole, "{point}: record {place} is torn: {:?}", String::from_utf8_lossy(line));
        found.entry(who).or_default().extend(number);
    }
    for (who, known) in lives {
        let found = found.remove(who).unwrap_or_default();
        assert!(
            found.is_sorted_by(|one, next| one < next),
            "{point}: {who}: twice or mixed: {found:?}"
        );
        let found: BTreeSet<u64> = found.into_iter().collect();
        let lost: Vec<_> = known.appended.difference(&found).collect();
        assert!(lost.is_empty(), "{point}: {who}: synced appends are lost: {lost:?}");
        let others =
            found.iter().find(|n| !known.appended.contains(n) && !known.buffered.contains(n));
        assert_eq!(others, None, "{point}: {who}: nobody appended it");
    }
    assert!(found.is_empty(), "{point}: records of nobody: {found:?}");
}

/// Who works in a directory of its own, and appends to the shared file.
struct Worker {
    dir: PathBuf,
    who: char,
    shared: File,
    known: Arc<Mutex<Known>>,
}

impl Worker {
    fn begin(&self, name: &str, may_be: Vec<Found>) {
        self.known.lock().unwrap().under_way.push((name.to_owned(), may_be));
    }

    /// Everything under way is done, and this is what the name is.
    fn done(&self, name: &str, contents: Option<Contents>) {
        let mut known = self.known.lock().unwrap();
        known.under_way.clear();
        match contents {
            Some(contents) => known.files.insert(name.to_owned(), contents),
            None => known.files.remove(name),
        };
    }

    fn step(&mut self, step: u64) -> io::Result<()> {
        let round = step / 7;
        let contents = |len| (step + (u64::from(u32::from(self.who)) << 32), len);
        match step % 7 {
            0 => self.inline(&format!("inline{}", round % 6), contents(100)),
            1 => self.closed(&format!("blocks{round}"), contents(BLOCKS)),
            2 => self
                .synced(&format!("synced{round}"), contents([5000, 300_000][round as usize % 2])),
            3 => self.replaced(&format!("replaced{}", round % 3), contents(BLOCKS / 2)),
            4 if round >= 2 => self.deleted(&format!("blocks{}", round - 2)),
            5 if round >= 4 => self.deleted(&format!("synced{}", round - 4)),
            4 | 5 => Ok(()),
            _ => self.append(round),
        }
    }

    /// Overwritten in its place by one write, or made.
    fn inline(&self, name: &str, contents: Contents) -> io::Result<()> {
        let empty = Found::Whole((0, 0));
        let is_new = !self.known.lock().unwrap().files.contains_key(name);
        let more = if is_new { vec![Found::Absent, empty] } else { Vec::new() };
        self.begin(name, [&[Found::Whole(contents)], &more[..]].concat());
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(self.dir.join(name))?;
        file.write_all_at(&bytes(contents), 0)?;
        close(file, &self.dir)?;
        self.done(name, Some(contents));
        Ok(())
    }

    fn closed(&self, name: &str, contents: Contents) -> io::Result<()> {
        self.begin(name, vec![Found::Parts(contents)]);
        let mut file = File::create(self.dir.join(name))?;
        file.write_all(&bytes(contents))?;
        close(file, &self.dir)?;
        self.done(name, Some(contents));
        Ok(())
    }

    /// Safe from the fsync on, whatever becomes of the close.
    fn synced(&self, name: &str, contents: Contents) -> io::Result<()> {
        self.begin(name, vec![Found::Parts(contents)]);
        let mut file = File::create(self.dir.join(name))?;
        file.write_all(&bytes(contents))?;
        file.sync_all()?;
        self.done(name, Some(contents));
        Ok(())
    }

    fn replaced(&self, name: &str, contents: Contents) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        self.begin(&temporary, vec![Found::Parts(contents)]);
        self.begin(name, vec![Found::Whole(contents)]);
        let mut file = File::create(self.dir.join(&temporary))?;
        file.write_all(&bytes(contents))?;
        file.sync_all()?;
        fs::rename(self.dir.join(&temporary), self.dir.join(name))?;
        File::open(&self.dir)?.sync_all()?;
        self.done(name, Some(contents));
        Ok(())
    }

    fn deleted(&self, name: &str) -> io::Result<()> {
        self.begin(name, vec![Found::Absent]);
        fs::remove_file(self.dir.join(name))?;
        self.done(name, None);
        Ok(())
    }

    /// Every second append is synced, so that the other mount has to have what
    /// is buffered here recalled.
    fn append(&mut self, round: u64) -> io::Result<()> {
        for number in [2 * round, 2 * round + 1] {
            self.known.lock().unwrap().buffered.insert(number);
            self.shared.write_all(&record(self.who, number))?;
        }
        if round % 2 == 1 { self.sync_shared() } else { Ok(()) }
    }

    fn sync_shared(&self) -> io::Result<()> {
        self.shared.sync_data()?;
        let mut known = self.known.lock().unwrap();
        let mut synced = std::mem::take(&mut known.buffered);
        known.appended.append(&mut synced);
        Ok(())
    }

    fn run(mut self, stop: &AtomicBool, steps: &AtomicU64) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let (step, begun) = (self.known.lock().unwrap().step, Instant::now());
            self.step(step)?;
            let mut known = self.known.lock().unwrap();
            known.step += 1;
            known.slowest = known.slowest.max(begun.elapsed());
            steps.fetch_add(1, Ordering::Relaxed);
        }
        self.sync_shared()
    }
}

/// Closes, and asks the mount something that no kernel answers itself: std does
/// not tell what close(2) returned, and one that still lives has answered it.
fn close(file: File, dir: &Path) -> io::Result<()> {
    drop(file);
    rustix::fs::statvfs(dir)?;
    Ok(())
}

struct Load {
    thread: JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
    known: Arc<Mutex<Known>>,
}

impl Load {
    fn start(mount: &Path, who: char, known: Known) -> Load {
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let known = Arc::new(Mutex::new(Known { slowest: Duration::ZERO, ..known }));
        let (stopped, counted, noted) = (Arc::clone(&stop), Arc::clone(&steps), Arc::clone(&known));
        let mount = mount.to_owned();
        // All of it there: what is to die may do so at the first call.
        let thread = std::thread::spawn(move || {
            let dir = mount.join(who.to_string());
            fs::create_dir_all(&dir)?;
            let shared = OpenOptions::new().append(true).create(true).open(mount.join(SHARED))?;
            Worker { dir, who, shared, known: noted }.run(&stopped, &counted)
        });
        Load { thread, stop, steps, known }
    }

    fn advance(&self, more: u64) {
        let target = self.steps.load(Ordering::Relaxed) + more;
        wait_until("the load goes on", Duration::from_secs(90), || {
            self.steps.load(Ordering::Relaxed) >= target || self.thread.is_finished()
        });
    }

    fn stop(self) -> (Known, io::Result<()>) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits for its end, by itself or because it was told.
    fn finish(self) -> (Known, io::Result<()>) {
        let thread = self.thread;
        let outcome = within("the load ends", Duration::from_secs(90), || thread.join().unwrap());
        let known = self.known.lock().unwrap().clone();
        (known, outcome)
    }
}

fn start() -> (Cluster, Token) {
    let cluster = Cluster::start();
    // Objects are deleted soon, and files have several.
    let token = cluster.volume_with("work", &["--retention", "0s", "--blockSize", "256KiB"]);
    (cluster, token)
}

/// All that everybody knows, on a mount that has nothing cached.
fn check(cluster: &Cluster, token: &Token, (point, lives): (&str, &[(char, Known)])) {
    let fresh = cluster.mount("work", token);
    for (who, known) in lives {
        known.check((point, *who), fresh.dir());
    }
    check_shared(fresh.dir(), (point, lives));
    fresh.stop();
    let verify = cluster.run("meta.flexfs", &["verify"]);
    assert!(verify.succeeded(), "{point}: {}{}", verify.stdout, verify.stderr);
}

/// A mount that begins while meta is to die; it may fail.
fn begin_mount(cluster: &Cluster, token: &Token) -> (JoinHandle<Run>, flexfs_tests::Mount) {
    let (init, creds) = cluster.init_mount("work", token);
    init.ok();
    let mount = cluster.mounted(cluster.new_mount_point(), creds);
    let mut command = cluster.program("mount.flexfs");
    command.args(["start", "work"]).arg(mount.dir()).arg("--credsFile").arg(mount.creds());
    (std::thread::spawn(move || Run::of(&mut command, COMMAND)), mount)
}

fn meta_dies_at(points: &[&str]) {
    let (mut cluster, token) = start();
    let other = cluster.volume_token("work", &[]);
    let third = cluster.volume_token("work", &[]);
    let (one, two) = (cluster.mount("work", &token), cluster.mount("work", &other));
    let mut lives = vec![('a', Known::default()), ('b', Known::default())];
    for point in points {
        cluster.stop_meta();
        cluster.restart_meta_to_die_at(point);
        let loads: Vec<_> = lives
            .drain(..)
            .zip([one.dir(), two.dir()])
            .map(|((who, known), dir)| (who, Load::start(dir, who, known)))
            .collect();
        let begun = (*point == SESSION).then(|| begin_mount(&cluster, &third));
        wait_until(&format!("meta reaches {point}"), REACHED, || cluster.meta_was_killed());
        cluster.restart_meta();
        loads.iter().for_each(|(_, load)| load.advance(14));
        for (who, load) in loads {
            let (known, outcome) = load.stop();
            outcome.unwrap_or_else(|error| panic!("{who}, meta died at {point}: {error}"));
            lives.push((who, known));
        }
        if let Some((start, mount)) = begun {
            // Whether it waited for meta or gave up is its own affair.
            let run = within("mount.flexfs start ends", COMMAND, || start.join().unwrap());
            assert_eq!(run.succeeded(), mount.is_mounted(), "{}", run.stderr);
        }
        check(&cluster, &third, (point, &lives));
    }
}

fn a_mount_dies_at(points: &[&str]) {
    let (cluster, token) = start();
    let two = cluster.mount("work", &token);
    let mut lives = vec![('b', Known::default())];
    for (point, who) in points.iter().zip('c'..) {
        let own = cluster.volume_token("work", &[]);
        let (daemon, one) = cluster.mount_to_die_at(point, "work", &own);
        let load = Load::start(one.dir(), who, Known::default());
        let survivor = Load::start(two.dir(), 'b', lives.remove(0).1);
        wait_until(&format!("the mount reaches {point}"), REACHED, || daemon.was_killed());
        let (known, outcome) = load.finish();
        let errno = outcome.unwrap_err().raw_os_error();
        let gone = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
        assert!(gone.iter().any(|gone| errno == Some(gone.raw_os_error())), "{errno:?}");
        one.clear();
        lives.push((who, known));
        survivor.advance(14);
        let (known, outcome) = survivor.stop();
        outcome.unwrap_or_else(|error| panic!("beside a mount that died at {point}: {error}"));
        let limit = limits::LEASE + limits::LEASE_MARGIN + BUSY;
        assert!(known.slowest < limit, "{point}: the other mount waited {:?}", known.slowest);
        lives.insert(0, ('b', known));
        check(&cluster, &own, (point, &lives));
    }
}

#[test]
fn every_failpoint_is_tried() {
    let tried = [COMMITS, COLLECTION, STORE, RECALLS, UPLOADS, MAKES, RIGHTS].concat();
    let mut tried: Vec<&str> = tried.iter().map(|point| point.split(':').next().unwrap()).collect();
    let mut all = failpoint::NAMES.to_vec();
    tried.sort_unstable();
    all.sort_unstable();
    assert_eq!(tried, all);
}

#[test]
fn meta_dies_around_commits_and_syncs() {
    meta_dies_at(COMMITS);
}

#[test]
fn meta_dies_while_it_collects_objects() {
    meta_dies_at(COLLECTION);
}

#[test]
fn meta_dies_while_it_stores_an_object() {
    meta_dies_at(STORE);
}

#[test]
fn meta_dies_during_a_recall_and_the_opening_of_a_session() {
    meta_dies_at(RECALLS);
}

#[test]
fn a_mount_dies_around_an_upload_and_its_commit() {
    a_mount_dies_at(UPLOADS);
}

#[test]
fn a_mount_dies_around_telling_of_a_file_that_it_has_made() {
    a_mount_dies_at(MAKES);
}

#[test]
fn a_mount_dies_while_its_writes_are_recalled() {
    a_mount_dies_at(RIGHTS);
}
