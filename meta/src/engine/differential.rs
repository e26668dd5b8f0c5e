//! The same random life on every engine, with the same answers.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use flexfs_common::{Code, Error};

use super::faults::Dice;
use super::fjall::FjallEngine;
use super::memory::MemoryEngine;
use super::redb::RedbEngine;
use super::{Engine, Reader, Savepoint, Txn};

/// What was answered, in order.
type Seen = Vec<String>;

fn key(dice: &mut Dice) -> Vec<u8> {
    let len = 1 + dice.roll() % 3;
    let mut key = vec![1];
    key.extend((0..len).map(|_| (dice.roll() % 4) as u8));
    key
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let len = [0, 1, 100, 5000][(dice.roll() % 4) as usize];
    (0..len).map(|_| dice.roll() as u8).collect()
}

/// One of the reads.
fn read(reader: &dyn Reader, dice: &mut Dice, seen: &mut Seen) {
    let (from, to) = (key(dice), key(dice));
    match dice.roll() % 3 {
        0 => seen.push(format!("{:?}", reader.get(&from).unwrap())),
        1 => seen.push(format!("{:?}", reader.last(&from, &to).unwrap())),
        _ => {
            let mut left = 1 + dice.roll() % 8;
            let mut visit = |key: &[u8], value: &[u8]| {
                seen.push(format!("{key:?} {value:?}"));
                left -= 1;
                Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            reader.scan(&from, &to, &mut visit).unwrap();
        }
    }
}

fn transaction(txn: &mut dyn Txn, dice: &mut Dice, seen: &mut Seen) {
    let mut marks: Vec<Savepoint> = Vec::new();
    for _ in 0..dice.roll() % 12 {
        match dice.roll() % 10 {
            0..=3 => txn.put(&key(dice), &value(dice)),
            4 | 5 => txn.delete(&key(dice)),
            6 => marks.push(txn.savepoint()),
            7 => {
                if let Some(mark) = marks.pop() {
                    txn.rollback(mark);
                }
            }
            _ => read(txn, dice, seen),
        }
    }
}

/// `reopen` gives the engine again after it was closed.
fn live(seed: u64, reopen: &dyn Fn(Option<Arc<dyn Engine>>) -> Arc<dyn Engine>) -> Seen {
    let (mut dice, mut seen) = (Dice::new(seed), Seen::new());
    let mut engine = reopen(None);
    for _ in 0..60 {
        match dice.roll() % 12 {
            0 => engine = reopen(Some(engine)),
            1 => engine.sync(engine.head()).unwrap(),
            2 | 3 => read(&*engine.snapshot().unwrap(), &mut dice, &mut seen),
            how => {
                let done = engine.transact(&mut |txn| {
                    transaction(txn, &mut dice, &mut seen);
                    if how == 4 { Err(Error::bare(Code::FsExists)) } else { Ok(()) }
                });
                seen.push(format!("{:?}", done.map_err(|error| error.code())));
            }
        }
        seen.push(format!("{:?}", engine.head()));
    }
    engine
        .snapshot()
        .unwrap()
        .scan(&[1], &[2], &mut |key, value| {
            seen.push(format!("{key:?} {value:?}"));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    seen
}

fn live_in_a_directory(seed: u64, open: impl Fn(&Path) -> Arc<dyn Engine>) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    live(seed, &|before| {
        // Closed before it is opened.
        drop(before);
        open(dir.path())
    })
}

#[test]
fn every_engine_gives_the_same_answers() {
    for seed in 0..24 {
        let memory = live(seed, &|before| before.unwrap_or_else(|| Arc::new(MemoryEngine::new())));
        let fjall = live_in_a_directory(seed, |dir| Arc::new(FjallEngine::open(dir).unwrap()));
        let redb = live_in_a_directory(seed, |dir| Arc::new(RedbEngine::open(dir).unwrap()));
        for (name, other) in [("fjall", fjall), ("redb", redb)] {
            let differs =
                (0..memory.len().max(other.len())).find(|i| memory.get(*i) != other.get(*i));
            if let Some(i) = differs {
                panic!("seed {seed}, {name}: {:?}, not {:?}", other.get(i), memory.get(i));
            }
        }
    }
}
