//! What every engine must do, run on each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flexfs_common::{Code, Error, Result};
use proptest::prelude::*;

use super::fjall::FjallEngine;
use super::memory::MemoryEngine;
use super::redb::RedbEngine;
use super::{CommitVersion, Engine, KEY_MAX_LEN, Reader, Txn};

fn on_each_engine(test: impl Fn(Arc<dyn Engine>)) {
    test(Arc::new(MemoryEngine::new()));
    on_each_persistent(|open| test(open()));
}

/// Opens a database, at first an empty one, then as it was left.
type Open<'d> = dyn Fn() -> Arc<dyn Engine> + 'd;

fn on_each_persistent(test: impl Fn(&Open<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    test(&|| Arc::new(FjallEngine::open(dir.path()).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    test(&|| Arc::new(RedbEngine::open(dir.path()).unwrap()));
}

fn all(reader: &dyn Reader, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    reader
        .scan(from, to, &mut |key, value| {
            out.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    out
}

fn put(engine: &dyn Engine, key: &[u8], value: &[u8]) -> CommitVersion {
    engine
        .transact(&mut |txn| {
            txn.put(key, value);
            Ok(())
        })
        .unwrap()
}

fn refused() -> Error {
    Error::bare(Code::FsExists)
}

#[test]
fn a_transaction_sees_itself_and_others_see_it_whole_or_not_at_all() {
    on_each_engine(|engine| {
        put(&*engine, b"b", b"old");
        let before = engine.snapshot().unwrap();
        engine
            .transact(&mut |txn| {
                txn.put(b"a", b"1");
                txn.put(b"b", b"new");
                txn.delete(b"b");
                txn.put(b"c", b"3");
                assert_eq!(txn.get(b"b").unwrap(), None);
                assert_eq!(all(txn, b"a", b"z").len(), 2);
                assert_eq!(all(&*before, b"a", b"z"), [(b"b".to_vec(), b"old".to_vec())]);
                Ok(())
            })
            .unwrap();
        assert_eq!(all(&*before, b"a", b"z"), [(b"b".to_vec(), b"old".to_vec())]);
        let after = engine.snapshot().unwrap();
        assert_eq!(all(&*after, b"a", b"z").len(), 2);
        assert_eq!(after.get(b"b").unwrap(), None);
    });
}

#[test]
fn a_refused_transaction_leaves_nothing() {
    on_each_engine(|engine| {
        let head = engine.head();
        let result = engine.transact(&mut |txn| {
            txn.put(b"a", b"1");
            Err(refused())
        });
        assert_eq!(result.unwrap_err().code(), Code::FsExists);
        assert_eq!(engine.head(), head);
        assert!(engine.snapshot().unwrap().get(b"a").unwrap().is_none());
        // And the engine goes on.
        assert_eq!(put(&*engine, b"a", b"2").0, head.0 + 1);
    });
}

#[test]
fn versions_are_dense_and_an_empty_transaction_takes_none() {
    on_each_engine(|engine| {
        let first = put(&*engine, b"a", b"1");
        assert_eq!(engine.transact(&mut |_| Ok(())).unwrap(), first);
        let second = put(&*engine, b"a", b"2");
        assert_eq!(second.0, first.0 + 1);
        assert_eq!(engine.head(), second);
        engine.sync(second).unwrap();
        let beyond = CommitVersion(second.0 + 1);
        assert_eq!(engine.sync(beyond).unwrap_err().code(), Code::EngineFailed);
    });
}

#[test]
fn commit_times_never_go_back() {
    on_each_engine(|engine| {
        let mut last = i64::MIN;
        for i in 0..100_u8 {
            engine
                .transact(&mut |txn| {
                    assert!(txn.commit_time() >= last);
                    last = txn.commit_time();
                    txn.put(&[i], b"");
                    Ok(())
                })
                .unwrap();
        }
    });
}

#[test]
fn savepoints_take_back_what_follows_and_nothing_else() {
    on_each_engine(|engine| {
        put(&*engine, b"a", b"base");
        engine
            .transact(&mut |txn| {
                txn.put(b"a", b"kept");
                txn.delete(b"gone");
                let outer = txn.savepoint();
                txn.put(b"a", b"outer");
                txn.put(b"b", b"outer");
                let inner = txn.savepoint();
                txn.delete(b"a");
                txn.put(b"c", b"inner");
                txn.rollback(inner);
                assert_eq!(txn.get(b"a").unwrap().as_deref(), Some(&b"outer"[..]));
                assert_eq!(txn.get(b"c").unwrap(), None);
                txn.rollback(outer);
                assert_eq!(txn.get(b"a").unwrap().as_deref(), Some(&b"kept"[..]));
                assert_eq!(txn.get(b"b").unwrap(), None);
                Ok(())
            })
            .unwrap();
        let snapshot = engine.snapshot().unwrap();
        assert_eq!(all(&*snapshot, b"a", b"z"), [(b"a".to_vec(), b"kept".to_vec())]);
    });
}

#[test]
fn the_last_key_of_a_range_counts_own_writes() {
    on_each_engine(|engine| {
        for key in [b"b", b"d", b"f"] {
            put(&*engine, key, b"base");
        }
        let last = |reader: &dyn Reader, from: &[u8], to: &[u8]| {
            reader.last(from, to).unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()))
        };
        engine
            .transact(&mut |txn| {
                let pair = |key: &[u8], value: &[u8]| Some((key.to_vec(), value.to_vec()));
                assert_eq!(last(txn, b"a", b"f"), pair(b"d", b"base"));
                txn.put(b"c", b"own");
                assert_eq!(last(txn, b"a", b"f"), pair(b"d", b"base"));
                txn.delete(b"d");
                assert_eq!(last(txn, b"a", b"f"), pair(b"c", b"own"));
                txn.put(b"e", b"own");
                assert_eq!(last(txn, b"a", b"f"), pair(b"e", b"own"));
                txn.put(b"b", b"own");
                assert_eq!(last(txn, b"a", b"c"), pair(b"b", b"own"));
                assert_eq!(last(txn, b"c", b"c"), None);
                assert_eq!(last(txn, b"d", b"b"), None);
                assert!(all(txn, b"d", b"b").is_empty());
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn a_visitor_can_stop_and_can_fail() {
    on_each_engine(|engine| {
        for key in [b"a", b"b", b"c"] {
            put(&*engine, key, b"");
        }
        let snapshot = engine.snapshot().unwrap();
        let mut seen = 0;
        snapshot
            .scan(b"a", b"z", &mut |_, _| {
                seen += 1;
                Ok(if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
            .unwrap();
        assert_eq!(seen, 2);
        let failed: Result<()> = snapshot.scan(b"a", b"z", &mut |_, _| Err(refused()));
        assert_eq!(failed.unwrap_err().code(), Code::FsExists);
    });
}

#[test]
fn keys_that_are_too_long_fail_the_transaction() {
    on_each_engine(|engine| {
        let long = vec![b'k'; KEY_MAX_LEN + 1];
        let result = engine.transact(&mut |txn| {
            txn.put(&long, b"");
            Ok(())
        });
        assert_eq!(result.unwrap_err().code(), Code::EngineFailed);
        put(&*engine, &long[1..], b"");
    });
}

#[test]
fn concurrent_writers_lose_nothing_and_readers_see_whole_commits() {
    on_each_engine(|engine| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let snapshot = engine.snapshot().unwrap();
                    let (a, b) = (snapshot.get(b"a").unwrap(), snapshot.get(b"b").unwrap());
                    assert_eq!(a, b, "both are written by every transaction");
                }
            });
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            let version = engine
                                .transact(&mut |txn| {
                                    let count = txn.get(b"a")?.map_or(0, |b| {
                                        u64::from_be_bytes(b[..].try_into().unwrap())
                                    });
                                    txn.put(b"a", &(count + 1).to_be_bytes());
                                    txn.put(b"b", &(count + 1).to_be_bytes());
                                    Ok(())
                                })
                                .unwrap();
                            engine.sync(version).unwrap();
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            stop.store(true, Ordering::Release);
            reader.join().unwrap();
        });
        let count = engine.snapshot().unwrap().get(b"a").unwrap().unwrap();
        assert_eq!(count[..], 200_u64.to_be_bytes());
    });
}

#[test]
fn a_time_that_was_put_ahead_stays_ahead() {
    const FAR: i64 = i64::MAX / 2;
    let time_of = |engine: &dyn Engine| {
        let mut time = 0;
        let look = &mut |txn: &mut dyn Txn| {
            time = txn.commit_time();
            Ok(())
        };
        engine.transact(look).unwrap();
        time
    };
    let advance = |engine: &dyn Engine, write: bool| {
        let change = &mut |txn: &mut dyn Txn| {
            txn.advance(FAR);
            txn.advance(1);
            assert_eq!(txn.commit_time(), FAR);
            if write {
                txn.put(b"a", b"1");
            }
            Ok(())
        };
        engine.transact(change).unwrap();
    };
    on_each_engine(|engine| {
        advance(&*engine, false);
        assert!(time_of(&*engine) < FAR, "nothing was committed");
        advance(&*engine, true);
        assert_eq!(time_of(&*engine), FAR);
        put(&*engine, b"b", b"2");
        assert_eq!(time_of(&*engine), FAR);
    });
    on_each_persistent(|open| {
        let engine = open();
        advance(&*engine, true);
        drop(engine);
        assert_eq!(time_of(&*open()), FAR);
    });
}

#[test]
fn a_database_opened_again_goes_on_where_it_was() {
    on_each_persistent(|open| {
        let engine = open();
        let mut time = 0;
        let version = engine
            .transact(&mut |txn| {
                txn.put(b"a", b"1");
                time = txn.commit_time();
                Ok(())
            })
            .unwrap();
        drop(engine);
        let engine = open();
        assert_eq!(engine.head(), version);
        engine
            .transact(&mut |txn: &mut dyn Txn| {
                assert!(txn.commit_time() >= time);
                assert_eq!(txn.get(b"a")?.as_deref(), Some(&b"1"[..]));
                txn.delete(b"a");
                Ok(())
            })
            .unwrap();
        assert_eq!(engine.head().0, version.0 + 1);
    });
}

#[test]
fn a_database_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let _first = FjallEngine::open(dir.path()).unwrap();
    assert_eq!(FjallEngine::open(dir.path()).unwrap_err().code(), Code::EngineFailed);
    let dir = tempfile::tempdir().unwrap();
    let _first = RedbEngine::open(dir.path()).unwrap();
    assert_eq!(RedbEngine::open(dir.path()).unwrap_err().code(), Code::EngineFailed);
}

/// The files as they are while the engine runs are what kill -9 leaves.
#[test]
fn a_crash_loses_no_commit() {
    type OpenIn = fn(&std::path::Path) -> Arc<dyn Engine>;
    let engines: [OpenIn; 2] = [
        |dir| Arc::new(FjallEngine::open(dir).unwrap()),
        |dir| Arc::new(RedbEngine::open(dir).unwrap()),
    ];
    for open in engines {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engine = open(dir.path());
        for i in 0..100_u8 {
            put(&*engine, &[1, i], &[i; 100]);
        }
        copy_tree(dir.path(), copy.path());
        let crashed = open(copy.path());
        assert_eq!(crashed.head(), engine.head());
        let (then, now) = (engine.snapshot().unwrap(), crashed.snapshot().unwrap());
        assert_eq!(all(&*then, &[1], &[9]), all(&*now, &[1], &[9]));
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Mark,
    Rollback,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..12_u8).prop_map(Step::Delete),
        1 => Just(Step::Mark),
        1 => Just(Step::Rollback),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn run_steps(txn: &mut dyn Txn, steps: &[Step], model: &mut Model) {
    let mut marks = Vec::new();
    for step in steps {
        match step {
            Step::Put(key, value) => {
                txn.put(&[1, *key], &[*value]);
                model.insert(vec![1, *key], vec![*value]);
            }
            Step::Delete(key) => {
                txn.delete(&[1, *key]);
                model.remove(&vec![1, *key]);
            }
            Step::Mark => marks.push((txn.savepoint(), model.clone())),
            Step::Rollback => {
                if let Some((mark, before)) = marks.pop() {
                    txn.rollback(mark);
                    *model = before;
                }
            }
        }
        for at in [0, 3, 12] {
            let last = model.range(..vec![1, at]).next_back();
            let found = txn.last(&[1], &[1, at]).unwrap();
            let found = found.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(found.as_ref().map(|(k, v)| (k, v)), last);
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(all(txn, &[1], &[2]), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_engine_behaves_like_an_ordered_map(
        transactions in prop::collection::vec(
            (prop::collection::vec(step(), 0..20), any::<bool>()), 1..12,
        ),
    ) {
        on_each_engine(|engine| {
            let mut model = Model::new();
            for (steps, commits) in &transactions {
                let mut next = model.clone();
                let result = engine.transact(&mut |txn| {
                    next = model.clone();
                    run_steps(txn, steps, &mut next);
                    if *commits { Ok(()) } else { Err(refused()) }
                });
                assert_eq!(result.is_ok(), *commits);
                if *commits {
                    model = next;
                }
                let snapshot = engine.snapshot().unwrap();
                let expected: Vec<_> = model.clone().into_iter().collect();
                assert_eq!(all(&*snapshot, &[1], &[2]), expected);
            }
        });
    }
}
