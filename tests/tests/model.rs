//! Random operations on one mount and on two, compared with a model in memory
//! after each; and what else happens to a system meanwhile: programs that die,
//! restart or are stopped, links that are cut.
//!
//! FLEXFS_TEST_SECONDS says how long (an hour with FLEXFS_TEST_BIG=1),
//! FLEXFS_TEST_SEED from where. What fails prints its seed, its last operations
//! and how many there were: a line for `model-seeds.txt`, which is replayed
//! first.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, their helpers too, and measurements are printed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_tests::files::Noise;
use flexfs_tests::meta::{Meta, Options};
use flexfs_tests::model::{Body, Id, Place, Replace, STATES_MAX, Tree};
use flexfs_tests::tools::{big, seed};
use flexfs_tests::{Cluster, Mount};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags, fallocate, getxattr,
    linkat, listxattr, open, removexattr, renameat_with, setxattr, statvfs,
};
use rustix::io::Errno;

#[path = "model/faults.rs"]
mod faults;

/// No operation takes longer: a lease, a reconnect, and a busy machine.
const SLOWEST: Duration = Duration::from_secs(18);
/// But an append waits for the right to buffer, and meta grants none for a
/// minute to a session that left a recall unanswered, as a stopped mount does.
const SLOWEST_APPEND: Duration = Duration::from_secs(70);
/// Operations printed after a failure.
const SHOWN: usize = 40;
/// Between two comparisons of everything.
const COMPARE_EVERY: u64 = 250;
/// One operation in so many is something that happens to the system.
const FAULT_EVERY: usize = 90;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const DIRS_MAX: usize = 10;
const HANDLES_MAX: usize = 8;
const FILE_MAX: usize = 400_000;

/// What was done; told when the test fails.
struct Journal {
    seed: u64,
    mounts: usize,
    steps: u64,
    lines: Vec<String>,
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let count = self.lines.len();
        for (number, line) in self.lines.iter().enumerate().skip(count.saturating_sub(SHOWN)) {
            eprintln!("{number:6} {line}");
        }
        eprintln!("for model-seeds.txt: {} {} {}", self.seed, self.mounts, self.steps);
    }
}

struct Handle {
    mount: usize,
    id: Id,
    /// Shared, not duplicated: closing a duplicate would flush it.
    file: Arc<File>,
    append: bool,
}

/// The real tree and the model of it. Fields are dropped in this order.
struct World {
    journal: Journal,
    handles: Vec<Handle>,
    mounts: Vec<Option<Mount>>,
    meta: Meta,
    cluster: Cluster,
    tree: Tree,
    noise: Noise,
    slowest: (Duration, String),
    faults: BTreeMap<&'static str, u32>,
}

fn told<T>(outcome: std::io::Result<T>) -> Result<(), Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    outcome.map(drop).map_err(errno)
}

fn all_of(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 2 * FILE_MAX];
    let mut filled = 0;
    loop {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A mount with a token of its own: deaths that follow each other within a
/// minute are held against their token.
fn mount_of(cluster: &Cluster) -> Mount {
    cluster.mount("work", &cluster.volume_token("work", &[]))
}

fn options(append: bool) -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).append(append).mode(0o644);
    options.custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap());
    options
}

impl World {
    fn start(seed: u64, mounts: usize) -> World {
        let cluster = Cluster::start();
        let meta = Meta::start(&cluster, "there", &Options::default());
        let _ = cluster.volume_at("there", "work", &[]);
        let mounts: Vec<_> = (0..mounts).map(|_| Some(mount_of(&cluster))).collect();
        World {
            journal: Journal { seed, mounts: mounts.len(), steps: 0, lines: Vec::new() },
            handles: Vec::new(),
            mounts,
            meta,
            cluster,
            tree: Tree::default(),
            noise: Noise::new(seed),
            slowest: (Duration::ZERO, String::new()),
            faults: BTreeMap::new(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.noise.next_number() % end as u64).unwrap()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn path(&self, mount: usize, name: &str) -> PathBuf {
        self.mounts[mount].as_ref().expect("mounted").path(name)
    }

    fn other(&self, mount: usize) -> usize {
        (mount + 1) % self.mounts.len()
    }

    /// A directory that is there, by path and node, and a name that may be.
    fn place(&mut self) -> (String, Id, &'static str) {
        let all = self.tree.walk();
        let dirs: Vec<_> = all
            .into_iter()
            .filter(|(path, id)| {
                matches!(self.tree.node(*id).body, Body::Dir(_)) && path.matches('/').count() < 3
            })
            .collect();
        let (dir, id) = dirs[self.below(dirs.len())].clone();
        let name = NAMES[self.below(NAMES.len())];
        let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        (path, id, name)
    }

    /// Does it, and holds what it answers against what the model said.
    #[track_caller]
    fn does<T>(
        &mut self,
        line: String,
        expected: Result<(), Errno>,
        call: impl FnOnce() -> std::io::Result<T>,
    ) -> Option<T> {
        self.journal.lines.push(line.clone());
        let begun = Instant::now();
        let outcome = call();
        let took = begun.elapsed();
        if took > self.slowest.0 {
            self.slowest = (took, line.clone());
        }
        let limit = if line.ends_with("append=true") { SLOWEST_APPEND } else { SLOWEST };
        assert!(took < limit, "{line}: took {took:?}");
        let (value, real) = match outcome {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, told(Err::<(), _>(error))),
        };
        assert_eq!(real, expected, "{line}: answered, and expected");
        value
    }

    /// Something that must succeed and changes nothing that is in the model.
    #[track_caller]
    fn must<T>(&mut self, line: String, call: impl FnOnce() -> std::io::Result<T>) -> T {
        self.does(line, Ok(()), call).expect("it succeeded")
    }

    /// What a name is, by its mount.
    #[track_caller]
    fn check_name(&mut self, mount: usize, path: &str) {
        let all: BTreeMap<String, Id> = self.tree.walk().into_iter().collect();
        let expected = all.get(path).copied();
        let real = self.path(mount, path);
        let line = format!("m{mount} stat {path}");
        let outcome = if expected.is_some() { Ok(()) } else { Err(Errno::NOENT) };
        let found = self.does(line.clone(), outcome, || fs::symlink_metadata(&real));
        if let (Some(id), Some(found)) = (expected, found) {
            self.check_attributes(&line, id, &found);
            self.seen(mount, id);
        }
    }

    #[track_caller]
    fn check_attributes(&self, line: &str, id: Id, found: &fs::Metadata) {
        let node = self.tree.node(id);
        let (kind, size) = match &node.body {
            Body::File(contents) => (0o100_000, Some(contents.len() as u64)),
            Body::Dir(_) => (0o040_000, None),
            Body::Link(target) => (0o120_000, Some(target.len() as u64)),
            Body::Whiteout => (0o020_000, Some(0)),
        };
        assert_eq!(found.mode() & 0o170_000, kind, "{line}: kind");
        if !matches!(node.body, Body::Link(_)) {
            assert_eq!(found.mode() & 0o7777, node.mode, "{line}: mode");
        }
        if let Some(size) = size {
            assert_eq!(found.len(), size, "{line}: size");
            assert_eq!(found.nlink(), node.links, "{line}: links");
        }
    }

    /// Another mount asked for it: what was buffered went to meta.
    fn seen(&mut self, by: usize, id: Id) {
        let others = (0..self.mounts.len()).filter(|mount| *mount != by);
        others.for_each(|mount| self.tree.flushed(id, mount));
    }

    #[track_caller]
    fn check_contents(&mut self, line: &str, id: Id, found: &[u8]) {
        let expected = self.tree.contents(id);
        if found != expected {
            let mut both = found.iter().zip(expected);
            let at = both.position(|(found, expected)| found != expected);
            panic!(
                "{line}: {} bytes instead of {}, first other {at:?}",
                found.len(),
                expected.len()
            );
        }
    }

    fn close_one(&mut self, index: usize) {
        let Handle { mount, id, file, .. } = self.handles.swap_remove(index);
        self.must(format!("m{mount} close {id}"), || {
            drop(file);
            Ok(())
        });
        self.tree.flushed(id, mount);
        self.tree.closed(id);
    }

    fn keep(&mut self, handle: Handle) {
        self.tree.node_mut(handle.id).opens += 1;
        self.handles.push(handle);
        if self.handles.len() > HANDLES_MAX || self.chance(2) {
            let index = self.below(self.handles.len());
            self.close_one(index);
        }
    }

    fn create(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        let append = self.chance(3);
        let made = self.tree.make((dir, name), Body::File(Vec::new()), 0o644);
        let real = self.path(mount, &path);
        let line = format!("m{mount} create {path}");
        let open = || options(append).create_new(true).open(&real);
        if let Some(file) = self.does(line, made.map(drop), open) {
            self.keep(Handle { mount, id: made.unwrap(), file: Arc::new(file), append });
        }
        self.check_name(self.other(mount), &path);
    }

    /// O_TMPFILE, or linkat(2) of something that is open.
    fn nameless(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        if self.handles.is_empty() || self.chance(2) {
            let real = self.path(mount, &path);
            let above = real.parent().expect("a directory");
            let linkable = !self.chance(4);
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let flags = if linkable { flags } else { flags | OFlags::EXCL };
            let line = format!("m{mount} open without a name beside {path} linkable={linkable}");
            let file = self.must(line, || Ok(open(above, flags, Mode::from_raw_mode(0o644))?));
            let id = self.tree.make_nameless(0o644, linkable);
            self.keep(Handle { mount, id, file: Arc::new(File::from(file)), append: false });
            return;
        }
        let index = self.below(self.handles.len());
        let Handle { mount, id, ref file, .. } = self.handles[index];
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        let real = self.path(mount, &path);
        let named = self.tree.name(id, (dir, name));
        let line = format!("m{mount} name {id} {path}");
        let follow = AtFlags::SYMLINK_FOLLOW;
        self.does(line, named, || Ok(linkat(CWD, &from, CWD, &real, follow)?));
        self.check_name(self.other(mount), &path);
    }

    fn open(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        let append = self.chance(3);
        let found = self.tree.file((dir, name));
        let real = self.path(mount, &path);
        let line = format!("m{mount} open {path} append={append}");
        if let Some(file) = self.does(line, found.map(drop), || options(append).open(&real)) {
            self.keep(Handle { mount, id: found.unwrap(), file: Arc::new(file), append });
        }
    }

    fn make(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        let real = self.path(mount, &path);
        let all = self.tree.walk();
        let dirs = all.iter().filter(|(_, id)| matches!(self.tree.node(*id).body, Body::Dir(_)));
        if dirs.count() < DIRS_MAX && !self.chance(3) {
            let made = self.tree.make((dir, name), Body::Dir(BTreeMap::new()), 0o755);
            self.does(format!("m{mount} mkdir {path}"), made.map(drop), || fs::create_dir(&real));
        } else {
            let target = NAMES[self.below(NAMES.len())];
            let made = self.tree.make((dir, name), Body::Link(target.to_owned()), 0o777);
            let line = format!("m{mount} symlink {path} to {target}");
            self.does(line, made.map(drop), || symlink(target, &real));
        }
        self.check_name(self.other(mount), &path);
    }

    fn remove(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        let real = self.path(mount, &path);
        if self.chance(3) {
            let gone = self.tree.rmdir((dir, name));
            self.does(format!("m{mount} rmdir {path}"), gone, || fs::remove_dir(&real));
        } else {
            let gone = self.tree.unlink((dir, name));
            self.does(format!("m{mount} unlink {path}"), gone, || fs::remove_file(&real));
        }
        self.check_name(self.other(mount), &path);
    }

    fn move_or_link(&mut self, mount: usize) {
        let (from, from_dir, from_name) = self.place();
        let (to, to_dir, to_name) = self.place();
        let (old, new): (Place<'_>, Place<'_>) = ((from_dir, from_name), (to_dir, to_name));
        let reals = [self.path(mount, &from), self.path(mount, &to)];
        if self.chance(3) {
            let line = format!("m{mount} link {from} as {to}");
            let done = self.tree.link(old, new);
            self.does(line, done, || fs::hard_link(&reals[0], &reals[1]));
        } else {
            let (replace, flags) = match self.below(6) {
                0 => (Replace::No, RenameFlags::NOREPLACE),
                1 => (Replace::Exchange, RenameFlags::EXCHANGE),
                2 => (Replace::Whiteout, RenameFlags::WHITEOUT),
                _ => (Replace::Yes, RenameFlags::empty()),
            };
            let line = format!("m{mount} rename {from} to {to} replacing={replace:?}");
            let done = self.tree.rename(old, new, replace);
            self.does(line, done, || Ok(renameat_with(CWD, &reals[0], CWD, &reals[1], flags)?));
        }
        for path in [&from, &to] {
            // A directory that moved took its names along.
            self.check_name(self.other(mount), path);
        }
    }

    fn attributes(&mut self, mount: usize) {
        let (path, dir, name) = self.place();
        let Some(id) = self.tree.child((dir, name)) else { return };
        if !matches!(self.tree.node(id).body, Body::File(_) | Body::Dir(_)) {
            return;
        }
        let real = self.path(mount, &path);
        let attribute = ["user.one", "user.two"][self.below(2)];
        match self.below(3) {
            0 => {
                let mode = [0o600, 0o644, 0o755, 0o700][self.below(4)];
                self.tree.node_mut(id).mode = mode;
                let line = format!("m{mount} chmod {path} {mode:o}");
                self.must(line, || fs::set_permissions(&real, Permissions::from_mode(mode)));
            }
            1 => {
                let len = self.below(100);
                let value = self.noise.bytes(len);
                let line = format!("m{mount} setxattr {path} {attribute}");
                let set = setxattr(&real, attribute, &value, XattrFlags::empty());
                self.must(line, || Ok(set?));
                self.tree.node_mut(id).attributes.insert(attribute.to_owned(), value);
            }
            _ => {
                let was = self.tree.node_mut(id).attributes.remove(attribute);
                let gone = was.map(drop).ok_or(Errno::NODATA);
                let line = format!("m{mount} removexattr {path} {attribute}");
                self.does(line, gone, || Ok(removexattr(&real, attribute)?));
            }
        }
        let other = self.other(mount);
        self.check_name(other, &path);
        self.check_xattrs(&self.path(other, &path), id);
    }

    #[track_caller]
    fn check_xattrs(&self, path: &Path, id: Id) {
        let mut buffer = vec![0; 4096];
        let len = listxattr(path, &mut buffer[..]).unwrap();
        let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
        let names: BTreeSet<&str> = text.split_terminator('\0').collect();
        let expected = &self.tree.node(id).attributes;
        assert_eq!(names, expected.keys().map(String::as_str).collect(), "{path:?}: attributes");
        for (name, value) in expected {
            let len = getxattr(path, name, &mut buffer[..]).unwrap();
            assert_eq!(&buffer[..len], value, "{path:?}: {name}");
        }
    }

    /// Something with an open file.
    fn data(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let index = self.below(self.handles.len());
        let Handle { mount, id, append, .. } = self.handles[index];
        let file = self.handles[index].file.clone();
        let (at, len) = (self.below(60_000), self.below(6_000));
        let len = if self.chance(12) { 30 * len } else { len };
        match self.below(10) {
            0..=4 => self.write(index, &file, (at, len)),
            5 => {
                self.must(format!("m{mount} ftruncate {id} {at}"), || file.set_len(at as u64));
                self.tree.change(id, mount, |contents| contents.resize(at, 0));
            }
            6 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let len = len + 1;
                let line = format!("m{mount} punch {id} {at}+{len}");
                self.must(line, || Ok(fallocate(&file, punch, at as u64, len as u64)?));
                self.tree.change(id, mount, |contents| {
                    let size = contents.len();
                    contents[at.min(size)..(at + len).min(size)].fill(0);
                });
            }
            7 => {
                let (len, flags) = (len + 1, FallocateFlags::empty());
                let line = format!("m{mount} fallocate {id} {at}+{len}");
                self.must(line, || Ok(fallocate(&file, flags, at as u64, len as u64)?));
                self.tree.change(id, mount, |contents| {
                    contents.resize(contents.len().max(at + len), 0);
                });
            }
            8 => self.sync(index),
            _ => {
                let line = format!("m{mount} read {id}");
                let found = self.must(line.clone(), || all_of(&file));
                self.seen(mount, id);
                self.check_contents(&line, id, &found);
            }
        }
        drop(file);
        self.look(mount, id, append);
        let states = self.tree.node(id).unflushed.as_ref().map_or(0, |(_, states)| states.len());
        if states >= STATES_MAX {
            self.sync(index);
        }
    }

    fn write(&mut self, index: usize, mut file: &File, (at, len): (usize, usize)) {
        let Handle { mount, id, append, .. } = self.handles[index];
        let size = self.tree.contents(id).len();
        if append && size + len > FILE_MAX {
            return;
        }
        let bytes = self.noise.bytes(len);
        let at = if append { size } else { at };
        let line = format!("m{mount} write {id} {at}+{len} append={append}");
        self.must(line, || match append {
            true => file.write_all(&bytes),
            false => file.write_all_at(&bytes, at as u64),
        });
        if len > 0 {
            self.tree.change(id, mount, |contents| {
                contents.resize(contents.len().max(at + len), 0);
                contents[at..at + len].copy_from_slice(&bytes);
            });
        }
    }

    fn sync(&mut self, index: usize) {
        let Handle { mount, id, .. } = self.handles[index];
        let line = format!("m{mount} fsync {id}");
        self.journal.lines.push(line.clone());
        let synced = told(self.handles[index].file.sync_all());
        assert_eq!(synced, Ok(()), "{line}");
        self.tree.flushed(id, mount);
    }

    /// Sometimes another mount looks at once, by descriptor or by name;
    /// sometimes what was written stays buffered for a while.
    fn look(&mut self, mount: usize, id: Id, all: bool) {
        if self.chance(2) {
            return;
        }
        let other = self.other(mount);
        let handle = self.handles.iter().position(|h| h.mount == other && h.id == id);
        let named = self.tree.walk().into_iter().find(|(_, found)| *found == id);
        let file = match (handle, named) {
            (Some(index), _) => self.handles[index].file.clone(),
            (None, Some((path, _))) => {
                let real = self.path(other, &path);
                Arc::new(self.must(format!("m{other} look {path}"), || File::open(&real)))
            }
            (None, None) => return,
        };
        let line = format!("m{other} sees {id}");
        let found = self.must(line.clone(), || file.metadata());
        self.check_attributes(&line, id, &found);
        if all || self.chance(2) {
            let found = self.must(line.clone(), || all_of(&file));
            self.check_contents(&line, id, &found);
        }
        self.seen(other, id);
    }

    /// Everything, as a mount sees it.
    #[track_caller]
    fn compare(&mut self, mount: usize) {
        let mut inodes = BTreeMap::new();
        for (path, id) in self.tree.walk() {
            let real = if path.is_empty() {
                self.mounts[mount].as_ref().expect("mounted").dir().to_owned()
            } else {
                self.path(mount, &path)
            };
            let line = format!("m{mount} compare {path:?}");
            let found = self.must(line.clone(), || fs::symlink_metadata(&real));
            self.check_attributes(&line, id, &found);
            let inode = *inodes.entry(id).or_insert(found.ino());
            assert_eq!(inode, found.ino(), "{line}: names of one node");
            self.check_body(mount, &line, (id, &real));
            self.seen(mount, id);
        }
        let count = inodes.values().collect::<BTreeSet<_>>().len();
        assert_eq!(count, inodes.len(), "m{mount}: nodes with one inode");
        for index in 0..self.handles.len() {
            let Handle { mount: by, id, .. } = self.handles[index];
            if by == mount {
                let file = self.handles[index].file.clone();
                let line = format!("m{mount} compare open {id}");
                let found = self.must(line.clone(), || all_of(&file));
                self.check_contents(&line, id, &found);
                self.check_attributes(&line, id, &file.metadata().unwrap());
            }
        }
        let space = statvfs(self.mounts[mount].as_ref().expect("mounted").dir()).unwrap();
        assert!(
            space.f_bavail <= space.f_bfree && space.f_bfree <= space.f_blocks,
            "{}",
            space.f_bavail
        );
        assert!(space.f_files == 0 || space.f_ffree <= space.f_files, "{}", space.f_ffree);
    }

    #[track_caller]
    fn check_body(&mut self, mount: usize, line: &str, (id, real): (Id, &Path)) {
        match self.tree.node(id).body.clone() {
            Body::File(_) => {
                let found = self.must(line.to_owned(), || fs::read(real));
                self.check_contents(line, id, &found);
                self.tree.flushed(id, mount);
            }
            Body::Dir(names) => {
                let entries = self.must(line.to_owned(), || fs::read_dir(real));
                let found: Vec<_> =
                    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                let set: BTreeSet<_> = found.iter().collect();
                assert_eq!(set.len(), found.len(), "{line}: a name twice");
                assert_eq!(set, names.keys().collect(), "{line}: names");
            }
            Body::Link(target) => {
                let found = self.must(line.to_owned(), || fs::read_link(real));
                assert_eq!(found, Path::new(&target), "{line}");
                return;
            }
            Body::Whiteout => return,
        }
        self.check_xattrs(real, id);
    }

    fn step(&mut self) {
        let mount = self.below(self.mounts.len());
        match self.below(22) {
            0..=2 => self.create(mount),
            3..=4 => self.open(mount),
            5 => self.make(mount),
            6..=7 => self.remove(mount),
            8..=10 => self.move_or_link(mount),
            11..=12 => self.attributes(mount),
            13 if !self.handles.is_empty() => {
                let index = self.below(self.handles.len());
                self.close_one(index);
            }
            14 => {
                let (path, ..) = self.place();
                self.check_name(mount, &path);
            }
            20..=21 => self.nameless(mount),
            _ => self.data(),
        }
    }

    fn compare_all(&mut self) {
        (0..self.mounts.len()).for_each(|mount| self.compare(mount));
    }

    /// Runs until `over` says so, of the steps done so far; then all of it is
    /// compared and verified.
    fn run(mut self, over: impl Fn(u64) -> bool) {
        while !over(self.journal.steps) {
            self.journal.steps += 1;
            if self.chance(FAULT_EVERY) {
                self.fault();
                self.compare_all();
            } else {
                self.step();
            }
            if self.journal.steps.is_multiple_of(COMPARE_EVERY) {
                self.compare_all();
            }
        }
        self.compare_all();
        while !self.handles.is_empty() {
            self.close_one(0);
        }
        self.mounts.drain(..).flatten().for_each(Mount::stop);
        self.meta.verify_clean();
        eprintln!(
            "model: seed {}, {} mounts, {} steps, {} calls, faults {:?}, slowest {:?} {}",
            self.journal.seed,
            self.journal.mounts,
            self.journal.steps,
            self.journal.lines.len(),
            self.faults,
            self.slowest.0,
            self.slowest.1
        );
    }
}

/// How long a test goes on with new operations.
fn time() -> Duration {
    let given = std::env::var("FLEXFS_TEST_SECONDS").ok();
    let default = if big() { 3600 } else { 25 };
    Duration::from_secs(given.map_or(default, |text| text.parse().expect("seconds")))
}

fn random(mounts: usize) {
    let begun = Instant::now();
    World::start(seed(), mounts).run(|_| begun.elapsed() > time());
}

#[test]
fn one_mount_does_what_the_model_does() {
    random(1);
}

#[test]
fn two_mounts_do_what_the_model_does() {
    random(2);
}

#[test]
fn a_run_that_failed_once_does_not_fail_again() {
    for line in include_str!("../model-seeds.txt").lines() {
        let line = line.split('#').next().unwrap_or_default();
        let numbers: Vec<u64> =
            line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [seed, mounts, steps] = numbers[..] else { continue };
        let mounts = usize::try_from(mounts).expect("one or two");
        World::start(seed, mounts).run(|done| done >= steps);
    }
}
