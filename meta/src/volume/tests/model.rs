//! Random operations on the namespace against a simple model of POSIX, with
//! restarts and crashes in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::op::Body;
use proptest::prelude::*;

use super::fixture::{Client, Fixture, rename, seal, settings};
use crate::engine::Engine;
use crate::engine::faults::{Cuttable, CuttableFjall, CuttableRedb, Dice};
use crate::engine::fjall::FjallEngine;
use crate::engine::memory::MemoryEngine;
use crate::engine::redb::RedbEngine;
use crate::volume::Volume;

#[derive(Clone, Debug)]
enum Step {
    Make { dir: usize, name: u8, kind: FileKind },
    MakeNameless { dir: usize, linkable: bool },
    Link { target: usize, dir: usize, name: u8 },
    Remove { dir: usize, name: u8, directory: bool },
    Rename { from: (usize, u8), to: (usize, u8), flags: u8 },
    Open { target: usize },
    Close { open: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..24_usize;
    let name = 0..5_u8;
    let kind = prop_oneof![
        Just(FileKind::Directory),
        Just(FileKind::Directory),
        Just(FileKind::Regular),
        Just(FileKind::Symlink),
    ];
    prop_oneof![
        6 => (node.clone(), name.clone(), kind)
            .prop_map(|(dir, name, kind)| Step::Make { dir, name, kind }),
        2 => (node.clone(), any::<bool>())
            .prop_map(|(dir, linkable)| Step::MakeNameless { dir, linkable }),
        4 => (node.clone(), node.clone(), name.clone())
            .prop_map(|(target, dir, name)| Step::Link { target, dir, name }),
        4 => (node.clone(), name.clone(), any::<bool>())
            .prop_map(|(dir, name, directory)| Step::Remove { dir, name, directory }),
        8 => ((node.clone(), name.clone()), (node.clone(), name), 0..8_u8)
            .prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        2 => node.clone().prop_map(|target| Step::Open { target }),
        2 => (0..8_usize).prop_map(|open| Step::Close { open }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug)]
struct Node {
    kind: FileKind,
    entries: BTreeMap<String, usize>,
    parent: usize,
    links: u32,
    opens: u32,
    /// It never had a name and may get one.
    linkable: bool,
}

/// What POSIX says, without any thought for speed.
#[derive(Clone)]
struct Model {
    nodes: Vec<Node>,
}

type Outcome<T> = Result<T, Code>;

impl Model {
    fn new() -> Model {
        Model { nodes: vec![Model::node(FileKind::Directory, 0)] }
    }

    fn node(kind: FileKind, parent: usize) -> Node {
        Node { kind, entries: BTreeMap::new(), parent, links: 1, opens: 0, linkable: false }
    }

    /// Out of reach: no link and no open.
    fn is_stale(&self, node: usize) -> bool {
        self.nodes[node].links == 0 && self.nodes[node].opens == 0
    }

    fn is_dir(&self, node: usize) -> bool {
        self.nodes[node].kind == FileKind::Directory
    }

    fn need_dir(&self, node: usize) -> Outcome<()> {
        if self.is_stale(node) {
            return Err(Code::FsStale);
        }
        if !self.is_dir(node) {
            return Err(Code::FsNotDirectory);
        }
        if self.nodes[node].links == 0 {
            return Err(Code::FsNotFound);
        }
        Ok(())
    }

    fn child(&self, dir: usize, name: &str) -> Option<usize> {
        self.nodes[dir].entries.get(name).copied()
    }

    fn make(&mut self, dir: usize, name: &str, kind: FileKind) -> Outcome<usize> {
        self.need_dir(dir)?;
        if self.child(dir, name).is_some() {
            return Err(Code::FsExists);
        }
        self.nodes.push(Model::node(kind, dir));
        let made = self.nodes.len() - 1;
        self.nodes[dir].entries.insert(name.to_owned(), made);
        Ok(made)
    }

    fn make_nameless(&mut self, dir: usize, linkable: bool) -> Outcome<usize> {
        self.need_dir(dir)?;
        let node = Model::node(FileKind::Regular, dir);
        self.nodes.push(Node { links: 0, opens: 1, linkable, ..node });
        Ok(self.nodes.len() - 1)
    }

    fn link(&mut self, target: usize, dir: usize, name: &str) -> Outcome<()> {
        if self.is_stale(target) {
            return Err(Code::FsStale);
        }
        self.need_dir(dir)?;
        if self.child(dir, name).is_some() {
            return Err(Code::FsExists);
        }
        if self.is_dir(target) {
            return Err(Code::FsNotPermitted);
        }
        if self.nodes[target].links == 0 && !self.nodes[target].linkable {
            return Err(Code::FsNotFound);
        }
        self.nodes[target].links += 1;
        self.nodes[target].linkable = false;
        self.nodes[dir].entries.insert(name.to_owned(), target);
        Ok(())
    }

    fn remove(&mut self, dir: usize, name: &str, directory: bool) -> Outcome<()> {
        self.need_dir(dir)?;
        let child = self.child(dir, name).ok_or(Code::FsNotFound)?;
        match (directory, self.is_dir(child)) {
            (true, false) => return Err(Code::FsNotDirectory),
            (false, true) => return Err(Code::FsIsDirectory),
            (true, true) if !self.nodes[child].entries.is_empty() => return Err(Code::FsNotEmpty),
            _ => {}
        }
        self.nodes[dir].entries.remove(name);
        self.nodes[child].links -= 1;
        Ok(())
    }

    fn is_above(&self, above: usize, mut node: usize) -> bool {
        loop {
            if node == above {
                return true;
            }
            if node == 0 {
                return false;
            }
            node = self.nodes[node].parent;
        }
    }

    fn rename(
        &mut self,
        (from_dir, from): (usize, &str),
        (to_dir, to): (usize, &str),
        flags: u8,
    ) -> Outcome<Option<usize>> {
        let [no_replace, exchange, whiteout] = [1, 2, 4].map(|flag| flags & flag != 0);
        // Both handles are decided on before anything else.
        if self.is_stale(from_dir) || self.is_stale(to_dir) {
            return Err(Code::FsStale);
        }
        if exchange && (no_replace || whiteout) {
            return Err(Code::FsInvalid);
        }
        self.need_dir(from_dir)?;
        self.need_dir(to_dir)?;
        let source = self.child(from_dir, from).ok_or(Code::FsNotFound)?;
        let target = self.child(to_dir, to);
        match target {
            Some(_) if no_replace => return Err(Code::FsExists),
            None if exchange => return Err(Code::FsNotFound),
            _ => {}
        }
        if let Some(target) = target.filter(|_| !exchange) {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Code::FsNotDirectory),
                (false, true) => return Err(Code::FsIsDirectory),
                _ => {}
            }
        }
        if self.is_dir(source) && self.is_above(source, to_dir) {
            return Err(Code::FsInvalid);
        }
        if let Some(target) = target {
            if self.is_dir(target) && self.is_above(target, from_dir) {
                return Err(if exchange { Code::FsInvalid } else { Code::FsNotEmpty });
            }
            if target == source {
                return Ok(None);
            }
            if !exchange && !self.nodes[target].entries.is_empty() {
                return Err(Code::FsNotEmpty);
            }
        }
        let mut left = None;
        if exchange {
            let target = target.ok_or(Code::FsNotFound)?;
            self.nodes[from_dir].entries.insert(from.to_owned(), target);
            self.nodes[target].parent = from_dir;
        } else {
            self.nodes[from_dir].entries.remove(from);
            if let Some(target) = target {
                self.nodes[target].links -= 1;
            }
            if whiteout {
                left = Some(self.make(from_dir, from, FileKind::CharDevice)?);
            }
        }
        self.nodes[to_dir].entries.insert(to.to_owned(), source);
        self.nodes[source].parent = to_dir;
        Ok(left)
    }
}

/// The model and the volume side by side.
struct Pair {
    model: Model,
    fixture: Fixture,
    client: Client,
    /// Handle of each node of the model.
    handles: Vec<Vec<u8>>,
    /// Node and open id.
    opens: Vec<(usize, u64)>,
}

fn name(number: u8) -> String {
    format!("name-{number}")
}

impl Pair {
    fn new(engine: Arc<dyn Engine>) -> Pair {
        let fixture = Fixture::new(engine);
        let client = fixture.client();
        let handles = vec![client.root.clone()];
        Pair { model: Model::new(), fixture, client, handles, opens: Vec::new() }
    }

    fn apply(&mut self, step: &Step) {
        let node = |number: usize| number % self.handles.len();
        match *step {
            Step::Make { dir, name: number, kind } => {
                let dir = node(dir);
                let expected = self.model.make(dir, &name(number), kind);
                let made = self.client.make(v1::Make {
                    parent: self.handles[dir].clone(),
                    name: name(number).into_bytes(),
                    kind: kind as i32,
                    mode: 0o755,
                    symlink_target: b"target".to_vec(),
                    exclusive: true,
                    ..Default::default()
                });
                assert_eq!(made.as_ref().map(|_| ()), expected.as_ref().map(|_| ()));
                self.handles.extend(made.ok().map(|entry| entry.handle));
            }
            Step::MakeNameless { dir, linkable } => {
                let dir = node(dir);
                let expected = self.model.make_nameless(dir, linkable);
                let made = self.client.make_nameless(&self.handles[dir], linkable);
                assert_eq!(made.as_ref().map(|_| ()), expected.as_ref().map(|_| ()));
                if let (Ok(made), Ok(node)) = (made, expected) {
                    self.handles.push(made.handle);
                    self.opens.push((node, made.open_id));
                }
            }
            Step::Link { target, dir, name: number } => {
                let (target, dir) = (node(target), node(dir));
                let expected = self.model.link(target, dir, &name(number));
                let (target, dir) = (&self.handles[target], &self.handles[dir]);
                let linked = self.client.link(target, dir, &name(number)).map(|_| ());
                assert_eq!(linked, expected);
            }
            Step::Remove { dir, name: number, directory } => {
                let dir = node(dir);
                let expected = self.model.remove(dir, &name(number), directory);
                let op = super::fixture::unlink(&self.handles[dir], &name(number), directory);
                assert_eq!(self.client.call(op).map(|_| ()), expected);
            }
            Step::Rename { from, to, flags } => {
                let (from_dir, to_dir) = (node(from.0), node(to.0));
                let (from_name, to_name) = (name(from.1), name(to.1));
                let ends = ((from_dir, from_name.as_str()), (to_dir, to_name.as_str()));
                let expected = self.model.rename(ends.0, ends.1, flags);
                let Body::Rename(op) = rename(
                    (&self.handles[from_dir], &from_name),
                    (&self.handles[to_dir], &to_name),
                ) else {
                    unreachable!()
                };
                let [no_replace, exchange, whiteout] = [1, 2, 4].map(|flag| flags & flag != 0);
                let op = v1::Rename { no_replace, exchange, whiteout, ..op };
                let renamed = self.client.call(Body::Rename(op)).map(|_| ());
                assert_eq!(renamed, expected.map(|_| ()));
                if let Ok(Some(_)) = expected {
                    let left = self.client.lookup(&self.handles[from_dir], &from_name).unwrap();
                    self.handles.push(left.handle);
                }
            }
            Step::Open { target } => {
                let target = node(target);
                let expected = match self.model.nodes[target].kind {
                    _ if self.model.is_stale(target) => Err(Code::FsStale),
                    FileKind::Symlink => Err(Code::FsSymlinkLoop),
                    _ => Ok(()),
                };
                let opened = self.client.open(&self.handles[target], 0);
                assert_eq!(opened.as_ref().map(|_| ()).map_err(|code| *code), expected);
                if let Ok(opened) = opened {
                    self.model.nodes[target].opens += 1;
                    self.opens.push((target, opened.open_id));
                }
            }
            Step::Close { open } => {
                if self.opens.is_empty() {
                    return;
                }
                let (node, open) = self.opens.remove(open % self.opens.len());
                self.client.release(&self.handles[node], open).unwrap();
                self.model.nodes[node].opens -= 1;
            }
            Step::Reopen => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        self.fixture = self.fixture.reopen();
        self.client = self.client.at(&self.fixture);
        let generation = self.fixture.volume.attach(self.client.id).unwrap().generation;
        self.client.generation.store(generation, Ordering::Relaxed);
    }

    /// Everything the model knows is so in the volume.
    fn compare(&self) {
        let mut alive = 0;
        for (number, node) in self.model.nodes.iter().enumerate() {
            let attr = self.client.getattr(&self.handles[number]);
            if self.model.is_stale(number) {
                assert_eq!(attr, Err(Code::FsStale));
                continue;
            }
            alive += 1;
            let attr = attr.unwrap();
            assert_eq!(attr.kind, node.kind as i32);
            if node.kind != FileKind::Directory {
                assert_eq!(attr.nlink, node.links);
                continue;
            }
            let subdirs = node.entries.values().filter(|child| self.model.is_dir(**child));
            let nlink = if node.links == 0 { 0 } else { 2 + subdirs.count() };
            assert_eq!(attr.nlink as usize, nlink);
            let names: Vec<_> = node.entries.keys().cloned().collect();
            assert_eq!(self.client.names(&self.handles[number]).unwrap(), names);
            for (name, child) in &node.entries {
                let found = self.client.lookup(&self.handles[number], name).unwrap();
                assert_eq!(found.handle, self.handles[*child]);
            }
        }
        let summary = self.fixture.verify();
        assert_eq!(summary.inodes, alive);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_namespace_behaves_like_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new(Arc::new(MemoryEngine::new()));
        for step in &steps {
            pair.apply(step);
        }
        pair.compare();
    }

    #[test]
    fn any_moment_is_a_good_one_to_crash(
        steps in prop::collection::vec(step(), 1..60),
        moment in any::<prop::sample::Index>(),
    ) {
        let engine = Arc::new(MemoryEngine::new());
        let mut pair = Pair::new(engine.clone());
        let moment = moment.index(steps.len());
        for step in &steps[..moment] {
            pair.apply(step);
        }
        // What is committed at this moment, opened by another process.
        let blocks = pair.fixture.blocks.clone();
        let fork: Arc<dyn Engine> = Arc::new(engine.fork());
        let volume = Volume::open(Arc::clone(&fork), settings(), blocks.clone(), seal()).unwrap();
        pair.fixture = Fixture { volume, blocks, engine: fork };
        pair.reopen();
        pair.compare();
        for step in &steps[moment..] {
            pair.apply(step);
        }
        pair.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn on_the_embedded_engines_too(steps in prop::collection::vec(step(), 1..200)) {
        let (fjall, redb) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engines: [Arc<dyn Engine>; 2] = [
            Arc::new(FjallEngine::open(fjall.path()).unwrap()),
            Arc::new(RedbEngine::open(redb.path()).unwrap()),
        ];
        for engine in engines {
            let mut pair = Pair::new(engine);
            for step in &steps {
                pair.apply(step);
            }
            pair.compare();
        }
    }

    #[test]
    fn power_may_be_lost_on_the_embedded_engines(
        steps in prop::collection::vec(step(), 1..60),
        synced in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        lose_power::<CuttableFjall>(&steps, synced.index(steps.len()), seed);
        lose_power::<CuttableRedb>(&steps, synced.index(steps.len()), seed);
    }
}

/// Syncs after so many steps, loses the power after all of them, and goes on
/// with what is left: the state after some step that is not before the sync.
fn lose_power<C: Cuttable>(steps: &[Step], synced: usize, seed: u64) {
    let cuttable = C::start();
    let engine = cuttable.engine();
    let mut pair = Pair::new(engine.clone());
    let mut states = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        if number == synced {
            cuttable.sync();
            states.clear();
            states.push((
                engine.head(),
                pair.model.clone(),
                pair.handles.len(),
                pair.opens.clone(),
            ));
        }
        pair.apply(step);
        states.push((engine.head(), pair.model.clone(), pair.handles.len(), pair.opens.clone()));
    }
    let blocks = pair.fixture.blocks.clone();
    let left = cuttable.lose_power(&mut Dice::new(seed));
    let engine = left.engine();
    let head = engine.head();
    assert!(head >= states[0].0);
    let volume = Volume::open(Arc::clone(&engine), settings(), blocks.clone(), seal()).unwrap();
    pair.fixture = Fixture { volume, blocks, engine };
    pair.fixture.verify();
    pair.reopen();
    // A step of more than one transaction may be done in part.
    let found = states.into_iter().rev().find(|state| state.0 == head);
    if let Some((_, model, handles, opens)) = found {
        (pair.model, pair.opens) = (model, opens);
        pair.handles.truncate(handles);
        pair.compare();
        for step in steps {
            pair.apply(step);
        }
        pair.compare();
    }
}
