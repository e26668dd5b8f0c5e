//! What is left after a loss of power, an error of a sync, a full disk: all
//! that was synced, and of the rest a beginning.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use flexfs_common::Code;
use proptest::prelude::*;

use super::faults::{Cuttable, CuttableFjall, CuttableRedb, Dice, copy_tree};
use super::fjall::FjallEngine;
use super::{CommitVersion, Engine};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// A transaction that writes so many keys of so many bytes.
    Commit {
        first: u8,
        count: u8,
        len: usize,
    },
    Delete(u8),
    Sync,
    LosePower(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..12_u8, 1..5_u8, prop_oneof![Just(10), Just(300), Just(3000), Just(20_000)])
            .prop_map(|(first, count, len)| Step::Commit { first, count, len }),
        2 => (0..12_u8).prop_map(Step::Delete),
        3 => Just(Step::Sync),
        2 => any::<u64>().prop_map(Step::LosePower),
    ]
}

fn contents(engine: &dyn Engine) -> Model {
    let mut found = Model::new();
    let snapshot = engine.snapshot().unwrap();
    snapshot
        .scan(&[1], &[2], &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    found
}

/// The engine and what each of its versions held.
struct Life<C> {
    cuttable: C,
    history: Vec<Model>,
    synced: usize,
    /// Makes every value another one.
    dice: Dice,
}

impl<C: Cuttable> Life<C> {
    fn new() -> Life<C> {
        let (history, dice) = (vec![Model::new()], Dice::new(1));
        Life { cuttable: C::start(), history, synced: 0, dice }
    }

    fn commit(&mut self, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let engine = self.cuttable.engine();
        let version = engine
            .transact(&mut |txn| {
                for (key, value) in writes {
                    match value {
                        Some(value) => txn.put(key, value),
                        None => txn.delete(key),
                    }
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(version, CommitVersion(self.history.len() as u64));
        let mut model = self.history.last().unwrap().clone();
        for (key, value) in writes {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        }
        self.history.push(model);
    }

    fn apply(mut self, step: &Step) -> Life<C> {
        match *step {
            Step::Commit { first, count, len } => {
                let writes: Vec<_> = (first..first + count)
                    .map(|key| {
                        let value = (0..len).map(|_| self.dice.roll() as u8).collect();
                        (vec![1, key], Some(value))
                    })
                    .collect();
                self.commit(&writes);
            }
            Step::Delete(key) => self.commit(&[(vec![1, key], None)]),
            Step::Sync => {
                self.cuttable.sync();
                self.synced = self.history.len() - 1;
            }
            Step::LosePower(seed) => {
                self.cuttable = self.cuttable.lose_power(&mut Dice::new(seed));
                let head = self.cuttable.engine().head().0 as usize;
                assert!(head >= self.synced, "{} was synced, {head} is left", self.synced);
                self.history.truncate(head + 1);
                assert_eq!(self.history.len(), head + 1, "a version that never was");
                self.synced = head;
            }
        }
        assert!(contents(&*self.cuttable.engine()) == *self.history.last().unwrap());
        self
    }
}

fn live<C: Cuttable>(steps: &[Step]) {
    steps.iter().fold(Life::<C>::new(), Life::apply);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn power_loss_leaves_a_beginning_with_all_that_was_synced_on_redb(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        live::<CuttableRedb>(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // A case opens some databases of 64 MiB journals.
        cases: 24, max_shrink_iters: 100, ..ProptestConfig::default()
    })]
    #[test]
    fn power_loss_leaves_a_beginning_with_all_that_was_synced_on_fjall(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        live::<CuttableFjall>(&steps);
    }
}

fn commit(engine: &dyn Engine, number: u8, len: usize) -> flexfs_common::Result<CommitVersion> {
    engine.transact(&mut |txn| {
        txn.put(&[1, number], &vec![number; len]);
        Ok(())
    })
}

fn assert_refuses_everything(engine: &dyn Engine) {
    let refused = |code: Code| assert_eq!(code, Code::EngineFailed);
    refused(commit(engine, 0, 1).unwrap_err().code());
    refused(engine.snapshot().err().unwrap().code());
    refused(engine.sync(engine.head()).unwrap_err().code());
}

/// What is there are the commits 1 to some number, `synced` at least.
fn assert_beginning(engine: &dyn Engine, synced: u8, last: u8, len: usize) {
    let head = engine.head().0;
    assert!((u64::from(synced)..=u64::from(last)).contains(&head), "{head}");
    let expected: Model = (1..=last)
        .filter(|number| u64::from(*number) <= head)
        .map(|number| (vec![1, number], vec![number; len]))
        .collect();
    assert!(contents(engine) == expected);
    commit(engine, 0, 1).unwrap();
}

#[test]
fn a_failed_sync_ends_the_engine() {
    let cuttable = CuttableRedb::start();
    let engine = cuttable.engine();
    for number in 1..=3 {
        commit(&*engine, number, 10).unwrap();
    }
    engine.sync(CommitVersion(2)).unwrap();
    commit(&*engine, 4, 10).unwrap();
    cuttable.journal.fail_syncs();
    assert_eq!(engine.sync(CommitVersion(4)).unwrap_err().code(), Code::EngineFailed);
    assert_refuses_everything(&*engine);
    for seed in 0..16 {
        let dice = &mut Dice::new(seed);
        let (keys, journal) =
            (cuttable.keys.after_power_loss(dice), cuttable.journal.after_power_loss(dice));
        assert_beginning(&*CuttableRedb::open(keys, journal).engine(), 3, 4, 10);
    }
}

#[test]
fn a_failed_checkpoint_ends_the_engine() {
    for fail in [true, false] {
        let cuttable = CuttableRedb::start();
        let engine = cuttable.engine();
        let len = 6000;
        commit(&*engine, 1, len).unwrap();
        engine.sync(CommitVersion(1)).unwrap();
        if fail {
            cuttable.keys.fail_syncs();
        } else {
            cuttable.keys.leave_space(5000);
        }
        let ended = (2..=9).find(|number| commit(&*engine, *number, len).is_err());
        let ended = ended.expect("no checkpoint failed");
        assert_refuses_everything(&*engine);
        for seed in 0..16 {
            let dice = &mut Dice::new(seed);
            let (keys, journal) =
                (cuttable.keys.after_power_loss(dice), cuttable.journal.after_power_loss(dice));
            assert_beginning(&*CuttableRedb::open(keys, journal).engine(), 1, ended, len);
        }
    }
}

#[test]
fn a_full_disk_ends_the_engine_and_leaves_what_was_committed() {
    for space in [0, 1, 7, 8, 100, 1000, 1020, 5000] {
        let cuttable = CuttableRedb::start();
        let engine = cuttable.engine();
        commit(&*engine, 1, 1000).unwrap();
        cuttable.journal.leave_space(space);
        let ended = (2..=9).find(|number| commit(&*engine, *number, 1000).is_err()).unwrap();
        assert_refuses_everything(&*engine);
        let (keys, journal) = (cuttable.keys.after_restart(), cuttable.journal.after_restart());
        let reopened = CuttableRedb::open(keys, journal);
        assert_beginning(&*reopened.engine(), ended - 1, ended - 1, 1000);
    }
}

/// A file system of this many bytes, gone with its file.
fn small_disk(bytes: u64) -> std::os::fd::OwnedFd {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("this test needs root");
    fsconfig_set_string(&tmpfs, "size", bytes.to_string()).unwrap();
    fsconfig_create(&tmpfs).unwrap();
    fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

#[test]
fn a_full_disk_ends_fjall_too() {
    use std::os::fd::AsRawFd;
    let disk = small_disk(2 << 20);
    let dir = std::path::PathBuf::from(format!("/proc/self/fd/{}/db", disk.as_raw_fd()));
    let len = 100_000;
    let engine = FjallEngine::open(&dir).unwrap();
    let ended = (1..=200).find(|number| commit(&engine, *number, len).is_err()).unwrap();
    assert!(ended > 5, "{ended}");
    assert_refuses_everything(&engine);
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&dir, copy.path());
    let reopened = FjallEngine::open(copy.path()).unwrap();
    assert_beginning(&reopened, ended - 1, ended - 1, len);
}

/// A batch with its beginning and its end, and a hole between.
#[test]
fn a_hole_in_the_last_batch_of_fjall_is_its_end() {
    let (dir, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let len = 20_000;
    let engine = FjallEngine::open(dir.path()).unwrap();
    for number in 1..=4 {
        commit(&engine, number, len).unwrap();
    }
    copy_tree(dir.path(), left.path());
    let journal = left.path().join("0.jnl");
    let file = std::fs::File::options().write(true).open(journal).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], 50_000).unwrap();
    let reopened = FjallEngine::open(left.path()).unwrap();
    assert_beginning(&reopened, 2, 2, len);
}
