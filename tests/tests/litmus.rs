//! Litmus tests between two mounts (P5): one changes something, and as soon as
//! its call has returned the other looks, with whatever it had kept of before.
//! One kind of change per test; each is done in both directions every round.
//!
//! Nothing waits: a change that is seen only later is a violation. All of them
//! are counted, and the test fails when there is one.
//!
//! Most rounds follow one another too fast for anything to be kept: they show
//! that what is asked is told right. A few are *warm* ([`Litmus::warm`]), and
//! show that what is kept is recalled. Which kind fails when a mount answers a
//! recall without dropping something (`give_up` in `mount/src/events.rs`):
//!
//! | kind                      | attributes¹ | names | pages² | data³ |
//! |---------------------------|-------------|-------|--------|-------|
//! | create and stat           |             | yes   |        |       |
//! | make in a new directory   |             | yes   |        |       |
//! | close and open            | yes         |       |        |       |
//! | rename a file             | yes         | yes   |        |       |
//! | rename a directory        |             | yes   |        |       |
//! | rename across directories |             | yes   |        |       |
//! | unlink                    | yes         | yes   |        |       |
//! | truncate                  | yes         |       |        |       |
//! | ftruncate and read        | yes         |       |        |       |
//! | append                    | yes         |       |        |       |
//! | chmod                     | yes         |       |        |       |
//! | extended attributes       | yes         |       |        |       |
//! | readdir                   | yes         | yes   |        |       |
//! | link                      | yes         | yes   |        |       |
//! | symlink                   |             | yes   |        |       |
//! | utimens                   | yes         |       |        |       |
//! | fcntl lock, flock         | yes         |       |        |       |
//! | kept attributes           | yes         |       |        |       |
//! | mapped and direct         | yes         |       | yes    | yes   |
//!
//! ¹ and pages, with which the kernel drops attributes. With a name it drops
//! those of its directory. ² Alone: elsewhere new attributes show that they are
//! old. ³ What the mount has of a file; likewise.
//!
//! That answers on their way are not kept (`Freshness::recalled`) fails nowhere
//! here: nothing is under way when a round changes something.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too, and measurements are printed"
)]

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flexfs_tests::files::Noise;
use flexfs_tests::mapping::Mapping;
use flexfs_tests::tools::{big, seed};
use flexfs_tests::{Cluster, Mount};
use rustix::fs::{
    CWD, Dir, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, XattrFlags, fcntl_lock,
    flock, getxattr, listxattr, mknodat, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

/// Rounds of each test: about a second in a debug build; FLEXFS_TEST_BIG=1
/// makes 10,000 of them, FLEXFS_TEST_ROUNDS as many as it says.
fn rounds() -> u32 {
    let given = std::env::var("FLEXFS_TEST_ROUNDS").ok();
    let default = if big() { 10_000 } else { 20 };
    given.map_or(default, |text| text.parse().expect("FLEXFS_TEST_ROUNDS is a number"))
}

/// One of so many rounds is warm, see [`Litmus::warm`]: each costs a second in
/// each direction, so that of many rounds no more than [`WARM_MAX`] are.
const WARM_EACH: u32 = 20;
const WARM_MAX: u32 = 50;

/// Meta grants nothing for a second (`QUIET` in `meta/src/volume/rights.rs`)
/// about what it has just recalled; this is a little longer.
const QUIET: Duration = Duration::from_millis(1050);

/// What is printed of violations; all are counted.
const SHOWN: usize = 10;

/// Which looks are made warm. A kind may have them at several points; a warm
/// round has them at one, each time at the next.
#[derive(Default)]
struct Warmth {
    /// This round is warm.
    on: bool,
    /// Points of the kind, as far as they are known.
    points: usize,
    /// Of them passed in this change.
    passed: usize,
    /// Changes that were warm.
    changes: usize,
}

impl Warmth {
    fn begin(&mut self) {
        self.passed = 0;
        self.changes += usize::from(self.on);
    }

    /// At the next point: is it the one?
    fn is_here(&mut self) -> bool {
        self.points = self.points.max(self.passed + 1);
        let here = self.on && (self.changes - 1) % self.points == self.passed;
        self.passed += 1;
        here
    }
}

/// One test: two mounts, and what was seen so far.
struct Litmus {
    noise: Noise,
    round: u32,
    /// Which of the two mounts changes things now.
    turn: usize,
    warmth: Warmth,
    dirs: [PathBuf; 2],
    slowest: (Duration, &'static str),
    violations: Vec<String>,
}

impl Litmus {
    /// A path on the mount that changes things.
    fn x(&self, name: &str) -> PathBuf {
        self.dirs[self.turn].join(name)
    }

    /// A path on the mount that looks.
    fn y(&self, name: &str) -> PathBuf {
        self.dirs[1 - self.turn].join(name)
    }

    /// A name that no round before had.
    fn name(&self, what: &str) -> String {
        format!("{what}{}-{}", self.round, self.turn)
    }

    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.noise.next_number() % end
    }

    /// Contents of up to `end` bytes.
    fn contents(&mut self, end: u64) -> Vec<u8> {
        let len = usize::try_from(self.below(end)).unwrap();
        self.noise.bytes(len)
    }

    /// A change: how long it takes counts, and it must succeed.
    #[track_caller]
    fn act<T, E: std::fmt::Debug>(
        &mut self,
        what: &'static str,
        call: impl FnOnce() -> Result<T, E>,
    ) -> T {
        let begun = Instant::now();
        let outcome = call();
        let took = begun.elapsed();
        if took > self.slowest.0 {
            self.slowest = (took, what);
        }
        outcome.unwrap_or_else(|error| panic!("{what} in round {}: {error:?}", self.round))
    }

    /// The looks of before a change, which must show what was there. In a warm
    /// round the mount that looks is granted everything that they show, and its
    /// kernel keeps it: only then has the change something to recall. `dirs`
    /// are the directories (of `d`) whose names it shall keep.
    fn warm(&mut self, dirs: &[&str], mut looks: impl FnMut(&mut Litmus)) {
        looks(self);
        if !self.warmth.is_here() {
            return;
        }
        // Names are kept by one mount at a time, now by the one that made
        // them: a change takes them from it.
        for dir in dirs {
            let claim = self.y(dir).join("claim");
            File::create_new(&claim).unwrap();
            fs::remove_file(claim).unwrap();
        }
        // It is time itself that is waited for: nothing tells a program that
        // meta grants again, and what is seen is the same in any case.
        flexfs_tests::wait::pass(QUIET);
        // Once to be granted, once more to open a file whose pages are kept.
        looks(self);
        looks(self);
    }

    /// What the other must see now.
    fn sees(&mut self, what: &str, holds: bool) {
        if !holds {
            let (round, turn) = (self.round, self.turn);
            self.violations.push(format!("round {round}, changed by mount {turn}: {what}"));
        }
    }
}

/// Runs all rounds of one kind of change in the directory `d` of a volume.
fn litmus(kind: &str, change: impl FnMut(&mut Litmus)) {
    litmus_of(kind, rounds(), change);
}

/// As [`litmus`], with so many rounds.
fn litmus_of(kind: &str, rounds: u32, mut change: impl FnMut(&mut Litmus)) {
    let seed = seed();
    let cluster = Cluster::start();
    // Another user looks, too.
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o711)).unwrap();
    let token = cluster.volume("shared");
    let mounts: [Mount; 2] = [(); 2].map(|()| cluster.mount("shared", &token));
    fs::create_dir(mounts[0].path("d")).unwrap();
    let mut litmus = Litmus {
        noise: Noise::new(seed),
        round: 0,
        turn: 0,
        warmth: Warmth::default(),
        dirs: [0, 1].map(|index| mounts[index].path("d")),
        slowest: (Duration::ZERO, "nothing"),
        violations: Vec::new(),
    };
    let each = WARM_EACH.min(rounds).max(rounds.div_ceil(WARM_MAX));
    for round in 0..rounds {
        litmus.round = round;
        litmus.turn = usize::try_from(litmus.below(2)).unwrap();
        // Of few rounds the last one: all points are known by then.
        litmus.warmth.on = round % each == each - 1;
        for _ in 0..2 {
            litmus.warmth.begin();
            change(&mut litmus);
            litmus.turn = 1 - litmus.turn;
        }
    }
    let (took, slowest) = litmus.slowest;
    let count = litmus.violations.len();
    eprintln!(
        "litmus {kind}: {rounds} rounds, {count} violations, slowest {slowest} {took:?}, \
         FLEXFS_TEST_SEED={seed}"
    );
    let shown = litmus.violations.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    assert!(count == 0, "{count} violations with FLEXFS_TEST_SEED={seed}:\n{shown}");
    drop(change);
    mounts.into_iter().for_each(Mount::stop);
    cluster.verify_clean();
}

/// Is there nothing of this name?
fn absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|attributes| attributes.len())
}

/// Has it these contents?
fn holds(path: &Path, contents: &[u8]) -> bool {
    fs::read(path).is_ok_and(|read| read == contents)
}

/// When the inode was changed last.
fn ctime(path: &Path) -> (i64, i64) {
    let attributes = fs::metadata(path).unwrap();
    (attributes.ctime(), attributes.ctime_nsec())
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Everything that an open file holds.
fn all_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let mut filled = 0;
    loop {
        match file.read_at(&mut bytes[filled..], filled as u64).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_created_is_there() {
    litmus("create and stat", |t| {
        let name = t.name("new");
        let (x, y) = (t.x(&name), t.y(&name));
        let dir = t.y("");
        let mut before = ctime(&dir);
        // That it is absent is kept, too.
        t.warm(&[""], |t| {
            t.sees("absent before", absent(&y));
            before = ctime(&dir);
        });
        let kind = t.below(3);
        match kind {
            0 => drop(t.act("create", || File::create_new(&x))),
            1 => t.act("mkdir", || fs::create_dir(&x)),
            _ => t.act("mknod", || mknodat(CWD, &x, FileType::Fifo, Mode::from_raw_mode(0o640), 0)),
        }
        t.sees("its directory is changed", ctime(&dir) > before);
        let expected = [0o100_000, 0o040_000, 0o010_000][usize::try_from(kind).unwrap()];
        t.warm(&[""], |t| {
            let found = fs::symlink_metadata(&y).map(|attributes| attributes.mode() & 0o170_000);
            t.sees(&format!("created: {found:?}"), found.ok() == Some(expected));
        });
        let again = File::create_new(&y).map(drop);
        t.sees("exclusive", again.is_err_and(|e| e.kind() == ErrorKind::AlreadyExists));
        match kind {
            1 => t.act("rmdir", || fs::remove_dir(&x)),
            _ => t.act("unlink", || fs::remove_file(&x)),
        }
        t.sees("removed", absent(&y));
        t.act("create elsewhere", || File::create_new(&y));
        t.sees("created elsewhere", !absent(&x));
        t.act("unlink elsewhere", || fs::remove_file(&y));
    });
}

/// In new directories, in which a mount makes files by itself and tells meta
/// later: some are still open when the other looks, or takes their names.
#[test]
fn what_is_made_in_a_new_directory_is_there() {
    litmus("make in a new directory", |t| {
        let dir = t.name("dir");
        let (x, y) = (t.x(&dir), t.y(&dir));
        t.act("mkdir", || fs::create_dir(&x));
        // Seldom: else it would not make them by itself.
        if t.below(2) == 0 || t.warmth.on {
            t.warm(&[&dir], |t| {
                t.sees("empty before", names(&y).is_empty());
                t.sees("absent before", (0..=6).all(|n| absent(&y.join(format!("f{n}")))));
            });
        }
        let (mut open, mut expected) = (Vec::new(), Vec::new());
        for n in 0..=t.below(6) {
            let (name, contents) = (format!("f{n}"), t.contents(12_000));
            let mut file = t.act("create", || File::create_new(x.join(&name)));
            t.act("write", || file.write_all(&contents));
            if t.below(2) == 0 {
                open.push(file);
            }
            expected.push((name, contents));
        }
        let at = usize::try_from(t.below(expected.len() as u64)).unwrap();
        let (name, contents) = expected[at].clone();
        match t.below(8) {
            0 => t.sees("stat", len(&y.join(&name)) == Some(contents.len() as u64)),
            1 => t.sees("contents", holds(&y.join(&name), &contents)),
            2 => t.sees("list", names(&y).len() == expected.len()),
            3 => {
                let again = File::create_new(y.join(&name)).map(drop);
                t.sees("exclusive", again.is_err_and(|e| e.kind() == ErrorKind::AlreadyExists));
            }
            4 => {
                t.act("unlink there", || fs::remove_file(y.join(&name)));
                t.sees("unlinked", absent(&x.join(&name)));
                expected.remove(at);
            }
            5 => {
                t.act("rename there", || fs::rename(y.join(&name), y.join("moved")));
                expected[at].0 = "moved".to_owned();
            }
            6 => {
                t.act("create there", || File::create_new(y.join("theirs")));
                expected.push(("theirs".to_owned(), Vec::new()));
            }
            _ => {
                let away = t.name("away");
                t.act("move there", || fs::rename(&y, y.with_file_name(&away)));
                t.act("move back", || fs::rename(x.with_file_name(&away), &x));
            }
        }
        for (name, contents) in &expected {
            t.sees(&format!("{name} there"), holds(&y.join(name), contents));
            t.sees(&format!("{name} here"), holds(&x.join(name), contents));
        }
        t.sees("lists", names(&x).len() == expected.len() && names(&y).len() == expected.len());
        drop(open);
        t.act("remove", || fs::remove_dir_all(&y));
        t.sees("removed", absent(&x));
    });
}

#[test]
fn what_was_closed_is_read_by_who_opens() {
    let mut last = Vec::new();
    litmus("close and open", |t| {
        let (x, y) = (t.x("f"), t.y("f"));
        if t.round == 0 && absent(&x) {
            t.act("write and close", || fs::write(&x, &last));
        }
        t.warm(&[""], |t| {
            t.sees("size before", len(&y) == Some(last.len() as u64));
            t.sees("read before", holds(&y, &last));
        });
        last = t.contents(70_000);
        t.act("write and close", || fs::write(&x, &last));
        t.sees("size", len(&y) == Some(last.len() as u64));
        t.sees("contents", holds(&y, &last));
    });
}

#[test]
fn a_file_renamed_over_another_replaces_it() {
    litmus("rename a file", |t| {
        let (one, two) = (t.contents(5_000), t.contents(5_000));
        let (from, to) = (t.x("one"), t.x("two"));
        t.act("write", || fs::write(&from, &one));
        t.act("write", || fs::write(&to, &two));
        let inode = fs::metadata(t.y("one")).unwrap().ino();
        let replaced = File::open(t.y("two")).unwrap();
        let links = || replaced.metadata().unwrap().nlink();
        t.warm(&[""], |t| {
            t.sees("contents before", holds(&t.y("one"), &one) && holds(&t.y("two"), &two));
            t.sees("links before", links() == 1);
        });
        t.act("rename", || fs::rename(&from, &to));
        t.sees("old name", absent(&t.y("one")));
        t.sees("inode", fs::metadata(t.y("two")).is_ok_and(|found| found.ino() == inode));
        t.sees("contents", holds(&t.y("two"), &one));
        t.sees("links of what was replaced", links() == 0);
        t.sees("what was replaced is read where it is open", all_of(&replaced) == two);
    });
}

#[test]
fn a_directory_renamed_over_another_replaces_it() {
    litmus("rename a directory", |t| {
        let (from, to) = (t.x("one"), t.x("two"));
        let inner = t.name("inner");
        if t.round > 0 || !absent(&to) {
            t.act("remove", || fs::remove_dir_all(&to));
        }
        t.act("mkdir", || fs::create_dir(&from));
        t.act("mkdir", || fs::create_dir(&to));
        t.act("write", || fs::write(from.join(&inner), "moved"));
        let (old, new) = (t.y("one"), t.y("two"));
        let links = |t: &Litmus| fs::metadata(t.y("")).unwrap().nlink();
        let linked = links(t);
        t.warm(&["", "one", "two"], |t| {
            t.sees("links before", links(t) == linked);
            t.sees("before", holds(&old.join(&inner), b"moved") && names(&new).is_empty());
            t.sees("absent before", absent(&new.join(&inner)));
        });
        t.act("rename", || fs::rename(&from, &to));
        t.sees("old name", absent(&old) && absent(&old.join(&inner)));
        t.sees("inner name", holds(&new.join(&inner), b"moved"));
        t.sees("list", names(&new) == [inner]);
        t.sees("links", links(t) == linked - 1);
    });
}

#[test]
fn what_moves_between_directories_is_in_one_of_them() {
    litmus("rename across directories", |t| {
        let name = t.name("moved");
        for dir in ["left", "right"] {
            if absent(&t.x(dir)) {
                let dir = t.x(dir);
                t.act("mkdir", || fs::create_dir(dir));
            }
        }
        let (here, there) = if t.below(2) == 0 { ("left", "right") } else { ("right", "left") };
        let (from, to) = (t.x(here).join(&name), t.x(there).join(&name));
        let (old, new) = (t.y(here).join(&name), t.y(there).join(&name));
        let is_dir = t.below(2) == 0;
        match is_dir {
            true => t.act("mkdir", || fs::create_dir(&from)),
            false => t.act("write", || fs::write(&from, "moved")),
        }
        let changed = |t: &Litmus| [here, there].map(|dir| ctime(&t.y(dir)));
        let mut before = changed(t);
        t.warm(&[here, there], |t| {
            before = changed(t);
            t.sees("before", !absent(&old) && absent(&new));
            let lists = (names(&t.y(here)).len(), names(&t.y(there)).len());
            t.sees("lists before", lists == (1, 0));
        });
        t.act("rename", || fs::rename(&from, &to));
        let after = changed(t);
        t.sees("both are changed", after[0] > before[0] && after[1] > before[1]);
        t.sees("names", absent(&old) && !absent(&new));
        let after = (names(&t.y(here)).len(), names(&t.y(there)).len());
        t.sees("lists", after == (0, 1));
        if is_dir {
            let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
            t.sees("its parent", inode(&new.join("..")) == inode(&t.y(there)));
            t.act("rmdir", || fs::remove_dir(&to));
        } else {
            t.act("unlink", || fs::remove_file(&to));
        }
        t.sees("removed", absent(&new));
    });
}

#[test]
fn what_is_unlinked_is_gone_and_read_where_it_is_open() {
    litmus("unlink", |t| {
        let contents = t.contents(20_000);
        let (x, y) = (t.x("f"), t.y("f"));
        t.act("write", || fs::write(&x, &contents));
        let file = File::open(&y).unwrap();
        t.warm(&[""], |t| {
            t.sees("before", all_of(&file) == contents && holds(&y, &contents));
            t.sees("one link before", file.metadata().is_ok_and(|found| found.nlink() == 1));
        });
        t.act("unlink", || fs::remove_file(&x));
        t.sees("stat", absent(&y));
        t.sees("open", File::open(&y).is_err_and(|error| error.kind() == ErrorKind::NotFound));
        t.sees("links", file.metadata().is_ok_and(|found| found.nlink() == 0));
        t.sees("contents", all_of(&file) == contents);
        // The name is free: another inode takes it.
        t.act("write again", || fs::write(&x, "another"));
        t.sees("another", holds(&y, b"another") && all_of(&file) == contents);
        t.act("unlink again", || fs::remove_file(&x));
    });
}

#[test]
fn a_truncated_file_has_its_new_size() {
    litmus("truncate", |t| {
        let mut contents = t.contents(30_000);
        let (x, y) = (t.x("f"), t.y("f"));
        t.act("write", || fs::write(&x, &contents));
        let file = File::open(&y).unwrap();
        t.warm(&[""], |t| {
            t.sees("before", all_of(&file) == contents && holds(&y, &contents));
            t.sees("size before", len(&y) == Some(contents.len() as u64));
        });
        let size = t.below(40_000);
        let truncate = || File::options().write(true).open(&x).and_then(|file| file.set_len(size));
        t.act("truncate", truncate);
        contents.resize(usize::try_from(size).unwrap(), 0);
        t.sees("size by name", len(&y) == Some(size));
        t.sees("size by descriptor", file.metadata().is_ok_and(|found| found.len() == size));
        t.sees("contents by descriptor", all_of(&file) == contents);
        t.sees("contents by name", holds(&y, &contents));
    });
}

#[test]
fn an_open_file_that_is_truncated_is_read_anew() {
    let mut files = None;
    let mut known = vec![0; 10_000];
    litmus("ftruncate and read", |t| {
        let [x, y] = [t.turn, 1 - t.turn];
        let paths = t.dirs.clone().map(|dir| dir.join("f"));
        let files = files.get_or_insert_with(|| {
            fs::write(&paths[0], &known).unwrap();
            paths.map(|path| open(&path))
        });
        t.warm(&[""], |t| t.sees("before", all_of(&files[y]) == known));
        let size = t.below(60_000);
        t.act("ftruncate", || files[x].set_len(size));
        known.resize(usize::try_from(size).unwrap(), 0);
        t.warm(&[""], |t| {
            t.sees("size", files[y].metadata().is_ok_and(|found| found.len() == size));
            t.sees("contents", all_of(&files[y]) == known);
        });
        // And what is written into it where it was, buffered and in place.
        let (bytes, at) = (t.contents(5_000), t.below(50_000));
        t.act("pwrite", || files[x].write_all_at(&bytes, at));
        let at = usize::try_from(at).unwrap();
        if !bytes.is_empty() {
            known.resize(known.len().max(at + bytes.len()), 0);
            known[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        t.sees("written", all_of(&files[y]) == known);
    });
}

#[test]
fn records_that_both_append_follow_one_another() {
    let mut files = None;
    let mut known: Vec<u8> = Vec::new();
    litmus("append", |t| {
        let [x, y] = [t.turn, 1 - t.turn];
        let paths = t.dirs.clone().map(|dir| dir.join("log"));
        let files = files.get_or_insert_with(|| {
            let append = File::options().read(true).append(true).create(true).clone();
            paths.map(|path| append.open(path).unwrap())
        });
        if known.len() > 60_000 {
            t.act("ftruncate", || files[x].set_len(0));
            known.clear();
        }
        t.warm(&[""], |t| {
            t.sees("size before", len(&t.y("log")) == Some(known.len() as u64));
            t.sees("contents before", all_of(&files[y]) == known);
        });
        let record = t.contents(300);
        t.act("append", || (&files[x]).write_all(&record));
        known.extend(&record);
        t.sees("size", files[y].metadata().is_ok_and(|found| found.len() == known.len() as u64));
        t.sees("size by name", len(&t.y("log")) == Some(known.len() as u64));
        t.sees("contents", all_of(&files[y]) == known);
    });
}

/// A thread of this process that is somebody without rights, and opens what it
/// is told to.
struct Nobody {
    paths: mpsc::Sender<PathBuf>,
    answers: mpsc::Receiver<std::io::Result<File>>,
}

impl Nobody {
    fn new() -> Nobody {
        let ((paths, asked), (answer, answers)) = (mpsc::channel::<PathBuf>(), mpsc::channel());
        std::thread::spawn(move || {
            use rustix::process::{Gid, Uid};
            use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
            for path in asked {
                answer.send(File::open(path)).unwrap();
            }
        });
        Nobody { paths, answers }
    }

    fn opens(&self, path: &Path) -> Result<bool, std::io::Error> {
        self.paths.send(path.to_owned()).unwrap();
        match self.answers.recv().unwrap() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[test]
fn who_may_open_is_what_chmod_said_last() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let nobody = Nobody::new();
    litmus("chmod", |t| {
        let (x, y) = (t.x("dir/f"), t.y("dir/f"));
        if absent(&x) {
            let dir = t.x("dir");
            t.act("mkdir", || fs::create_dir(dir));
            t.act("write", || fs::write(&x, "f"));
        }
        let chmod = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        let opens = |path: &Path| nobody.opens(path).ok();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let (parent, seen) = (t.x("dir"), t.y("dir"));
        t.warm(&["", "dir"], |t| {
            t.sees("open before", opens(&y) == Some(true));
            t.sees("modes before", (mode(&seen), mode(&y)) == (0o755, 0o644));
        });
        t.act("chmod of the file", || chmod(&x, 0o600));
        t.sees("mode", mode(&y) == 0o600);
        t.sees("closed", opens(&y) == Some(false));
        t.act("chmod of the file", || chmod(&x, 0o644));
        t.sees("open again", opens(&y) == Some(true));
        t.act("chmod of the directory", || chmod(&parent, 0o700));
        t.sees("mode of the directory", mode(&seen) == 0o700);
        t.sees("the directory closed", opens(&y) == Some(false));
        t.act("chmod of the directory", || chmod(&parent, 0o755));
        t.sees("the directory open again", opens(&y) == Some(true));
    });
}

/// The value of an attribute; `None` = there is none.
fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    match getxattr(path, name, &mut buffer[..]) {
        Ok(len) => Some(buffer[..len].to_vec()),
        Err(Errno::NODATA) => None,
        Err(error) => panic!("getxattr: {error}"),
    }
}

#[test]
fn extended_attributes_are_what_was_set_last() {
    const NAME: &str = "user.note";
    litmus("extended attributes", |t| {
        let (x, y) = (t.x("f"), t.y("f"));
        drop(open(&x));
        let before = ctime(&y);
        t.warm(&[""], |t| {
            // Of a file that it has data of a mount keeps attributes once it
            // is read, or opened, after the last recall.
            t.sees("empty before", holds(&y, b""));
            t.sees("none before", attribute(&y, NAME).is_none() && ctime(&y) == before);
        });
        for what in ["setxattr", "setxattr again"] {
            let value = t.contents(200);
            t.act(what, || setxattr(&x, NAME, &value, XattrFlags::empty()));
            t.sees(what, attribute(&y, NAME) == Some(value));
            t.sees("ctime", ctime(&y) > before);
        }
        let listed = |path: &Path| {
            let mut buffer = vec![0; 4096];
            let len = listxattr(path, &mut buffer[..]).unwrap();
            buffer[..len].to_vec()
        };
        t.sees("list", listed(&y) == b"user.note\0");
        t.act("removexattr", || removexattr(&x, NAME));
        t.sees("removed", attribute(&y, NAME).is_none());
        t.sees("list without it", listed(&y).is_empty());
    });
}

#[test]
fn a_list_has_what_is_there() {
    litmus("readdir", |t| {
        let (dir, name) = (t.y(""), t.name("entry"));
        let mut held = Dir::new(File::open(&dir).unwrap()).unwrap();
        let mut again = |name: &str| {
            held.rewind();
            held.any(|entry| entry.unwrap().file_name().to_bytes() == name.as_bytes())
        };
        let lists = |name: &str| names(&dir).iter().any(|found| found == name);
        let (x, y) = (t.x(&name), t.y(&name));
        // A kernel that drops a name drops the attributes of its directory,
        // too. So the names are kept where the change is made, at first.
        let claim = t.x("claim");
        t.act("create", || File::create_new(&claim));
        t.act("unlink", || fs::remove_file(&claim));
        // By descriptor: a path's last directory may be looked up each time.
        let open = File::open(&dir).unwrap();
        let changed = || open.metadata().map(|found| (found.ctime(), found.ctime_nsec())).unwrap();
        let before = changed();
        t.warm(&[], |t| {
            t.sees("before", !lists(&name) && !again(&name) && changed() == before);
        });
        t.act("create", || File::create_new(&x));
        t.sees("the directory is changed", changed() > before);
        t.warm(&[""], |t| {
            t.sees("appears", lists(&name) && !absent(&y));
            t.sees("appears after rewinding", again(&name));
        });
        let other = t.name("renamed");
        let to = t.x(&other);
        t.act("rename", || fs::rename(&x, &to));
        t.sees("renamed", lists(&other) && !lists(&name) && absent(&y));
        t.sees("renamed after rewinding", again(&other) && !again(&name));
        t.act("unlink", || fs::remove_file(&to));
        t.sees("disappears", !lists(&other));
        t.sees("disappears after rewinding", !again(&other));
    });
}

#[test]
fn links_are_counted() {
    litmus("link", |t| {
        let (x, y) = (t.x("f"), t.y("f"));
        let (link, seen) = (t.x("link"), t.y("link"));
        t.act("write", || fs::write(&x, "linked"));
        let links = |path: &Path| fs::metadata(path).map(|found| (found.ino(), found.nlink())).ok();
        // Its attributes are seen anew with its name, but not here.
        let file = File::open(&y).unwrap();
        let count = || file.metadata().unwrap().nlink();
        let inode = file.metadata().unwrap().ino();
        t.warm(&[""], |t| {
            t.sees("before", links(&y) == Some((inode, 1)) && absent(&seen));
            t.sees("before by descriptor", count() == 1);
        });
        t.act("link", || fs::hard_link(&x, &link));
        t.warm(&[""], |t| {
            t.sees("links by descriptor", count() == 2);
            t.sees("old name", links(&y) == Some((inode, 2)));
            t.sees("new name", links(&seen) == Some((inode, 2)) && holds(&seen, b"linked"));
        });
        t.act("unlink", || fs::remove_file(&x));
        t.sees("one left by descriptor", count() == 1);
        t.sees("one left", absent(&y) && links(&seen) == Some((inode, 1)));
        t.act("unlink", || fs::remove_file(&link));
        t.sees("none left", absent(&seen));
    });
}

#[test]
fn a_symbolic_link_leads_where_it_says_now() {
    litmus("symlink", |t| {
        let (x, y) = (t.x("link"), t.y("link"));
        for target in ["one", "two"] {
            let file = t.x(target);
            t.act("write", || fs::write(file, target));
        }
        t.warm(&[""], |t| {
            t.sees("before", fs::read_link(&y).is_err_and(|e| e.kind() == ErrorKind::NotFound));
        });
        for target in ["one", "two", "nowhere"] {
            t.act("symlink", || symlink(target, &x));
            t.warm(&[""], |t| {
                t.sees("readlink", fs::read_link(&y).is_ok_and(|read| read == Path::new(target)));
                let follows = match target {
                    "nowhere" => fs::read(&y).is_err(),
                    _ => holds(&y, target.as_bytes()),
                };
                t.sees("followed", follows);
            });
            t.act("unlink", || fs::remove_file(&x));
            t.sees("removed", absent(&y));
        }
    });
}

#[test]
fn times_are_what_was_set() {
    litmus("utimens", |t| {
        let (x, y) = (t.x("f"), t.y("f"));
        drop(open(&x));
        let before = fs::metadata(&y).unwrap().mtime();
        t.warm(&[""], |t| t.sees("before", fs::metadata(&y).unwrap().mtime() == before));
        let mut time = || Timespec {
            tv_sec: i64::try_from(t.below(2_000_000_000)).unwrap(),
            tv_nsec: i64::try_from(t.below(1_000_000_000)).unwrap(),
        };
        let times = Timestamps { last_access: time(), last_modification: time() };
        t.act("utimensat", || utimensat(CWD, &x, &times, rustix::fs::AtFlags::empty()));
        let found = fs::metadata(&y).unwrap();
        let (read, written) = (times.last_access, times.last_modification);
        t.sees("atime", (found.atime(), found.atime_nsec()) == (read.tv_sec, read.tv_nsec));
        t.sees("mtime", (found.mtime(), found.mtime_nsec()) == (written.tv_sec, written.tv_nsec));
    });
}

/// What one writes under a lock is what the next holder reads, and nobody has
/// it at the same time.
fn hand_over(kind: &str, lock: impl Fn(&File, FlockOperation) -> rustix::io::Result<()>) {
    let mut files = None;
    let mut known = Vec::new();
    litmus(kind, |t| {
        let [x, y] = [t.turn, 1 - t.turn];
        let paths = t.dirs.clone().map(|dir| dir.join("locked"));
        let files = files.get_or_insert_with(|| paths.map(|path| open(&path)));
        t.warm(&[""], |t| t.sees("before", all_of(&files[y]) == known));
        t.act("lock", || lock(&files[x], FlockOperation::LockExclusive));
        let refused = lock(&files[y], FlockOperation::NonBlockingLockExclusive);
        t.sees("held", matches!(refused, Err(Errno::AGAIN | Errno::ACCESS)));
        known = t.contents(9_000);
        t.act("ftruncate", || files[x].set_len(0));
        t.act("pwrite", || files[x].write_all_at(&known, 0));
        t.act("unlock", || lock(&files[x], FlockOperation::Unlock));
        t.act("lock by the next", || lock(&files[y], FlockOperation::NonBlockingLockExclusive));
        t.sees("written under the lock", all_of(&files[y]) == known);
        t.act("unlock by the next", || lock(&files[y], FlockOperation::Unlock));
    });
}

#[test]
fn what_was_written_under_a_posix_lock_is_read_by_the_next_holder() {
    hand_over("fcntl lock", |file, operation| fcntl_lock(file, operation));
}

#[test]
fn what_was_written_under_a_flock_is_read_by_the_next_holder() {
    hand_over("flock", |file, operation| flock(file, operation));
}

/// Meta grants nothing for a while about what was just changed, so that the
/// tests above often find nothing kept. Here everything has been left alone for
/// longer before it is changed.
#[test]
fn attributes_that_were_kept_for_long_are_given_up() {
    const FILES: usize = 24;
    let path = |dir: &Path, number: usize| dir.join(format!("kept{number}"));
    litmus_of("kept attributes", rounds().div_ceil(20), |t| {
        let [here, there] = [t.x(""), t.y("")];
        for number in 0..FILES {
            let file = path(&here, number);
            t.act("write", || fs::write(&file, "0123456789"));
            t.act("chmod", || fs::set_permissions(&file, Permissions::from_mode(0o644)));
        }
        // Names are kept by one mount at a time; an open file needs none.
        let open = |number| File::open(path(&there, number)).unwrap();
        let files: Vec<File> = (0..FILES).map(open).collect();
        flexfs_tests::wait::pass(QUIET);
        // Once to be granted the right, once more to use it.
        for number in (0..2 * FILES).map(|number| number % FILES) {
            files[number].metadata().unwrap();
        }
        for (number, seen) in files.iter().enumerate() {
            let file = path(&here, number);
            let before = seen.metadata().unwrap();
            let see = |change: fn(&fs::Metadata) -> u64| {
                seen.metadata().map(|after| change(&after)).unwrap()
            };
            match number % 4 {
                0 => {
                    t.act("chmod", || fs::set_permissions(&file, Permissions::from_mode(0o600)));
                    t.sees("mode", see(|after| u64::from(after.mode() & 0o777)) == 0o600);
                }
                1 => {
                    let cut = || File::options().write(true).open(&file)?.set_len(3);
                    t.act("truncate", cut);
                    t.sees("size", see(fs::Metadata::len) == 3);
                }
                2 => {
                    let link = here.join("link");
                    t.act("link", || fs::hard_link(&file, &link));
                    t.sees("links", see(fs::Metadata::nlink) == before.nlink() + 1);
                    t.act("unlink", || fs::remove_file(&link));
                    t.sees("links after unlink", see(fs::Metadata::nlink) == before.nlink());
                }
                _ => {
                    let time = Timespec { tv_sec: 77, tv_nsec: 0 };
                    let times = Timestamps { last_access: time, last_modification: time };
                    let none = rustix::fs::AtFlags::empty();
                    t.act("utimensat", || utimensat(CWD, &file, &times, none));
                    t.sees("mtime", see(|after| after.mtime().unsigned_abs()) == 77);
                }
            }
        }
    });
}

/// Who maps a file or opens it with O_DIRECT does not ask for attributes before
/// reading: pages have to be gone, and what the mount itself has of the file.
#[test]
fn what_is_mapped_or_read_past_the_page_cache_is_what_was_written_last() {
    let temporary = tempfile::tempdir().unwrap();
    let program = Mapping::compiled(temporary.path());
    let mut views = None;
    let mut byte = 1;
    litmus("mapped and direct", move |t| {
        let [x, y] = [t.turn, 1 - t.turn];
        let paths = t.dirs.clone().map(|dir| dir.join("f"));
        let views = views.get_or_insert_with(|| {
            fs::write(&paths[0], [byte; 4096]).unwrap();
            paths.map(|path| {
                let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
                let file = File::options().read(true).write(true).custom_flags(direct).open(&path);
                (file.unwrap(), Mapping::new(&program, &path))
            })
        });
        let direct = |file: &File| {
            let mut read = [0];
            file.read_exact_at(&mut read, 0).map(|()| read[0]).ok()
        };
        t.warm(&[""], |t| {
            t.sees("size before", views[y].0.metadata().is_ok_and(|found| found.len() == 4096));
            t.sees("direct before", direct(&views[y].0) == Some(byte));
            // What is mapped without a right to keep it is nobody's to recall;
            // it is looked at again a second later (coherence.rs).
            let mapped = views[y].1.byte();
            t.sees("mapped before", !t.warmth.on || mapped == byte);
        });
        byte = byte % 200 + 1;
        t.act("pwrite", || views[x].0.write_all_at(&[byte], 0));
        let mapped = views[y].1.byte();
        t.sees("mapped", !t.warmth.on || mapped == byte);
        t.sees("direct", direct(&views[y].0) == Some(byte));
    });
}
