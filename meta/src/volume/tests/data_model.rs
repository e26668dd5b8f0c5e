//! Random writes, truncations and punches against a model that knows for
//! each byte which byte of which object it is.

use std::sync::Arc;

use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use proptest::prelude::*;

use super::fixture::{Client, Fixture, seal, settings};
use crate::engine::faults::{Cuttable, CuttableFjall, CuttableRedb, Dice};
use crate::engine::memory::MemoryEngine;
use crate::volume::Volume;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, length: u64 },
    Truncate { size: u64 },
    Punch { offset: u64, length: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (offset, length) = (0..300_u64, 1..120_u64);
    prop_oneof![
        5 => (offset.clone(), length.clone())
            .prop_map(|(offset, length)| Step::Write { offset, length }),
        2 => (0..400_u64).prop_map(|size| Step::Truncate { size }),
        2 => (offset, length).prop_map(|(offset, length)| Step::Punch { offset, length }),
    ]
}

/// Object and offset of each byte; `None` is a hole.
type Model = Vec<Option<(Vec<u8>, u64)>>;

fn told(client: &Client, handle: &[u8]) -> Model {
    let map = client.extents(handle).unwrap();
    let mut bytes = vec![None; usize::try_from(map.size).unwrap()];
    for extent in map.extents {
        for i in 0..extent.length {
            let at = usize::try_from(extent.file_offset + i).unwrap();
            assert!(bytes[at].is_none(), "two extents at {at}");
            bytes[at] = Some((extent.object_id.clone(), extent.object_offset + i));
        }
    }
    bytes
}

fn apply(step: &Step, client: &Client, (handle, open_id): (&[u8], u64), model: &mut Model) {
    match *step {
        Step::Write { offset, length } => {
            client.write(handle, open_id, offset, length).unwrap();
            let end = usize::try_from(offset + length).unwrap();
            if model.len() < end {
                model.resize(end, None);
            }
            // The store tells which object was made.
            let now = told(client, handle);
            let object = now[end - 1].clone().unwrap().0;
            for i in 0..length {
                model[usize::try_from(offset + i).unwrap()] = Some((object.clone(), i));
            }
        }
        Step::Truncate { size } => {
            client.truncate(handle, size).unwrap();
            model.resize(usize::try_from(size).unwrap(), None);
        }
        Step::Punch { offset, length } => {
            let op = v1::Fallocate { handle: handle.to_vec(), open_id, mode: 3, offset, length };
            client.call(Body::Fallocate(op)).unwrap();
            let size = model.len() as u64;
            for at in offset.min(size)..(offset + length).min(size) {
                model[usize::try_from(at).unwrap()] = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_byte_is_the_one_written_last(steps in prop::collection::vec(step(), 1..40)) {
        let fixture = Fixture::new(Arc::new(MemoryEngine::new()));
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap().handle;
        let open_id = client.open(&file, 2).unwrap().open_id;
        let mut model = Model::new();
        for step in &steps {
            apply(step, &client, (&file, open_id), &mut model);
            prop_assert_eq!(&told(&client, &file), &model);
        }
        let allocated = model.iter().flatten().count() as u64;
        prop_assert_eq!(client.getattr(&file).unwrap().blocks, allocated.div_ceil(512));
        fixture.verify();
        // Objects nothing names any more go, all others stay.
        fixture.volume.tick().unwrap();
        let used: std::collections::HashSet<_> =
            model.iter().flatten().map(|(object, _)| object.clone()).collect();
        prop_assert_eq!(fixture.blocks.objects.lock().len(), used.len());
    }
}

/// Collects after each step, so that objects are deleted; what is left of the
/// metadata after a loss of power must name none of them.
fn lose_power<C: Cuttable>(steps: &[Step], synced: usize, seed: u64) {
    let cuttable = C::start();
    let fixture = Fixture::new(cuttable.engine());
    let client = fixture.client();
    let file = client.create(&client.root, "f").unwrap().handle;
    let open_id = client.open(&file, 2).unwrap().open_id;
    let (mut model, mut models) = (Model::new(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        if number == synced {
            cuttable.sync();
            models = vec![model.clone()];
        }
        apply(step, &client, (&file, open_id), &mut model);
        fixture.volume.tick().unwrap();
        models.push(model.clone());
    }
    let left = cuttable.lose_power(&mut Dice::new(seed));
    let (engine, blocks) = (left.engine(), Arc::clone(&fixture.blocks));
    let volume = Volume::open(Arc::clone(&engine), settings(), blocks.clone(), seal()).unwrap();
    let after = Fixture { volume, blocks, engine };
    after.verify();
    let fresh = after.client();
    let file = fresh.lookup(&fresh.root, "f").unwrap().handle;
    let found = told(&fresh, &file);
    assert!(models.contains(&found), "contents of no step since the sync");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_loss_of_power_leaves_contents_of_some_step_since_the_sync(
        steps in prop::collection::vec(step(), 1..30),
        synced in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        lose_power::<CuttableFjall>(&steps, synced.index(steps.len()), seed);
        lose_power::<CuttableRedb>(&steps, synced.index(steps.len()), seed);
    }
}
