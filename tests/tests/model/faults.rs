//! What happens to a system beside its operations.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_tests::wait::pass;
use flexfs_tests::{wait_until, within};
use rustix::process::{Signal, kill_process};

use super::{Body, Handle, World, all_of, mount_of};

/// A session's lease, and a little more.
const LEASE: Duration = Duration::from_millis(10_500);
/// A cut that nobody's lease notices.
const SHORT: Duration = Duration::from_millis(1500);
/// Everybody is back by then.
const BACK: Duration = Duration::from_secs(40);

impl World {
    pub(super) fn fault(&mut self) {
        // What takes a lease is rarer.
        let kinds = if self.chance(4) { 9 } else { 7 };
        let choice = self.below(kinds);
        let mount = self.below(self.mounts.len());
        let name = match choice {
            0 | 1 => "kill -9 of meta",
            2 => "restart of meta",
            3 => "restart of admin",
            4 => "stop and start of a mount",
            5 => "short cut",
            6 => "kill -9 of a mount",
            7 => "long cut",
            _ => "stopped mount",
        };
        *self.faults.entry(name).or_default() += 1;
        self.journal.lines.push(format!("m{mount} {name}"));
        let begun = Instant::now();
        match choice {
            0 | 1 => {
                self.meta.kill9();
                self.meta.restart();
            }
            2 => {
                self.meta.stop();
                self.meta.restart();
            }
            3 => {
                self.cluster.kill9_admin();
                self.cluster.restart_admin();
            }
            4 => self.stop_and_start(mount),
            5 => self.cut_shortly(),
            6 => self.kill_mount(mount),
            7 => self.cut_for_long(),
            _ => self.stop_mount(mount),
        }
        self.journal.lines.push(format!("m{mount} {name} took {:?}", begun.elapsed()));
    }

    fn close_all_of(&mut self, mount: usize) {
        while let Some(index) = self.handles.iter().position(|h| h.mount == mount) {
            self.close_one(index);
        }
    }

    fn mount_again(&mut self, mount: usize) {
        self.mounts[mount] = Some(mount_of(&self.cluster));
    }

    fn stop_and_start(&mut self, mount: usize) {
        self.close_all_of(mount);
        self.mounts[mount].take().expect("mounted").stop();
        self.mount_again(mount);
    }

    /// What was closed, fsynced or seen elsewhere is there; of the rest, some.
    fn kill_mount(&mut self, mount: usize) {
        let dead = self.mounts[mount].take().expect("mounted");
        dead.kill9();
        let handles = std::mem::take(&mut self.handles);
        let (lost, kept): (Vec<Handle>, Vec<Handle>) =
            handles.into_iter().partition(|handle| handle.mount == mount);
        self.handles = kept;
        for Handle { id, file, .. } in lost {
            drop(file);
            self.tree.closed(id);
        }
        dead.clear();
        self.mount_again(mount);
        self.settle(mount);
    }

    /// Takes over what is found of files that `mount` had buffered writes of.
    fn settle(&mut self, mount: usize) {
        let ids: Vec<_> = self.tree.ids().collect();
        for id in ids {
            let node = self.tree.node(id);
            if !matches!(node.body, Body::File(_))
                || node.unflushed.as_ref().is_none_or(|(by, _)| *by != mount)
            {
                continue;
            }
            let named = self.tree.walk().into_iter().find(|(_, named)| *named == id);
            let held = self.handles.iter().find(|h| h.id == id).map(|h| h.file.clone());
            // By the other mount, which had nothing of it.
            let by = self.other(mount);
            let line = format!("m{by} finds {id}, of which m{mount} had buffered writes");
            let found = match (named, held) {
                (Some((path, _)), _) => {
                    let real = self.path(by, &path);
                    self.must(line.clone(), || fs::read(&real))
                }
                (None, Some(file)) => self.must(line.clone(), || all_of(&file)),
                (None, None) => panic!("{line}: neither named nor open"),
            };
            let len = found.len();
            assert!(self.tree.settle(id, found), "{line}: {len} bytes that were never there");
        }
    }

    /// Operations go on meanwhile: they wait, and are done once.
    fn cut_shortly(&mut self) {
        let link = Arc::clone(&self.meta.from_mounts);
        link.swallow();
        let restorer = std::thread::spawn(move || {
            pass(SHORT);
            link.restore();
        });
        (0..3).for_each(|_| self.step());
        restorer.join().expect("it does not panic");
    }

    /// Nothing is buffered and nothing is under way: nothing may be lost.
    fn cut_for_long(&mut self) {
        (0..self.handles.len()).for_each(|index| self.sync(index));
        self.meta.from_mounts.swallow();
        pass(LEASE + SHORT);
        self.meta.from_mounts.restore();
        self.wait_for_mounts();
    }

    fn wait_for_mounts(&self) {
        for mount in self.mounts.iter().flatten() {
            wait_until("the mount is back", BACK, || {
                let dir = mount.dir().to_owned();
                within("stat", BACK, move || fs::read_dir(dir).is_ok())
            });
        }
    }

    /// The others wait for a lease at most, and what it had buffered is
    /// refused afterwards.
    fn stop_mount(&mut self, mount: usize) {
        // A session that was away has lost what has no name.
        let nameless = |world: &World, handle: &Handle| world.tree.node(handle.id).links == 0;
        while let Some(index) =
            self.handles.iter().position(|h| h.mount == mount && nameless(self, h))
        {
            self.close_one(index);
        }
        let daemon = self.mounts[mount].as_ref().expect("mounted").pid();
        kill_process(daemon, Signal::STOP).expect("the mount's daemon");
        let begun = Instant::now();
        if self.mounts.len() > 1 {
            let other = self.other(mount);
            self.settle(mount);
            self.compare(other);
        }
        pass(LEASE.saturating_sub(begun.elapsed()));
        kill_process(daemon, Signal::CONT).expect("the mount's daemon");
        self.wait_for_mounts();
        for handle in self.handles.iter().filter(|handle| handle.mount == mount) {
            // What was refused is told once, here.
            let _ = handle.file.sync_all();
        }
        self.settle(mount);
    }
}
