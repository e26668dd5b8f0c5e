use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flexfs_common::{Code, Error, wire};
use flexfs_proto::v1;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{DataPlane, DataSettings, FileData};
use crate::session::testing::{LoopbackMeta, Sizes};
use crate::session::tests::until;
use crate::session::{MetaSession, SessionEvent};

const LONG: Duration = Duration::from_secs(60);
const BLOCK: usize = 256 * 1024;
const OPEN: u64 = 1;

struct Mount {
    server: Arc<LoopbackMeta>,
    session: Arc<MetaSession>,
    events: mpsc::Receiver<SessionEvent>,
    plane: Arc<DataPlane>,
}

impl Mount {
    async fn on(server: Arc<LoopbackMeta>, settings: DataSettings) -> Mount {
        let (session, events) = server.mount(LONG).await;
        let plane = DataPlane::new(Arc::clone(&session), settings).unwrap();
        Mount { server, session, events, plane }
    }

    async fn new() -> Mount {
        Mount::on(LoopbackMeta::start(Sizes::default()).await, settings()).await
    }

    fn create(&self) -> Arc<FileData> {
        self.open(self.server.create().ino)
    }

    fn open(&self, ino: u64) -> Arc<FileData> {
        let handle = Bytes::copy_from_slice(&ino.to_be_bytes());
        let file = self.plane.file(handle, &self.server.attr(ino));
        self.plane.opened(file.ino());
        file
    }

    fn contents(&self, file: &FileData) -> Vec<u8> {
        self.server.contents(file.ino().0)
    }

    /// Replaces the contents as another mount would.
    async fn write_elsewhere(&self, file: &FileData, offset: u64, data: &[u8]) {
        let other = Mount::on(Arc::clone(&self.server), settings()).await;
        let file = other.open(file.ino().0);
        write(&file, offset, data).await;
        flush(&file).await.unwrap();
    }
}

fn settings() -> DataSettings {
    DataSettings { mem_capacity: 64 << 20, write_back_max: 64 << 20 }
}

fn caller() -> v1::Caller {
    v1::Caller::default()
}

async fn write(file: &Arc<FileData>, offset: u64, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let length = u32::try_from(data.len()).unwrap();
    assert_eq!(file.write(&caller(), OPEN, Some(offset), data, None).await.unwrap(), length);
}

async fn flush(file: &Arc<FileData>) -> flexfs_common::Result<()> {
    file.flush(&caller(), OPEN, false).await
}

async fn read_all(file: &Arc<FileData>) -> Vec<u8> {
    file.read(0, 1 << 24).await.unwrap().to_vec()
}

/// Compressible, and different at every place.
fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((seed * 31 + at / 7 + at / 4093) % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_lies_in_the_metadata_until_it_grows() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"hello").await;
    assert_eq!(file.local_size(), Some(5));
    assert_eq!(read_all(&file).await, b"hello");
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), b"hello");
    assert_eq!(mount.server.world.lock().puts, 0);
    write(&file, 3, b"p!!").await;
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), b"help!!");
    let tail = pattern(1, 20_000);
    write(&file, 100, &tail).await;
    flush(&file).await.unwrap();
    let mut expected = b"help!!".to_vec();
    expected.resize(100, 0);
    expected.extend_from_slice(&tail);
    assert_eq!(mount.contents(&file), expected);
    assert_eq!(read_all(&file).await, expected);
    let reopened = Mount::on(Arc::clone(&mount.server), settings()).await;
    assert_eq!(read_all(&reopened.open(file.ino().0)).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_up_in_blocks_and_comes_back_over_tls() {
    let server = LoopbackMeta::start_tls(Sizes::default()).await;
    let mount = Mount::on(server, settings()).await;
    let file = mount.create();
    let data = pattern(2, 10 * BLOCK + 777);
    for (index, part) in data.chunks(100_000).enumerate() {
        write(&file, index as u64 * 100_000, part).await;
    }
    file.flush(&caller(), OPEN, true).await.unwrap();
    assert_eq!(mount.contents(&file), data);
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
    assert_eq!(file.local_mtime(), None);
    let reader = Mount::on(Arc::clone(&mount.server), settings()).await;
    let file = reader.open(file.ino().0);
    let mut back = Vec::new();
    while let Some(part) = Some(file.read(back.len() as u64, 50_000).await.unwrap())
        && !part.is_empty()
    {
        back.extend_from_slice(&part);
    }
    assert_eq!(back, data);
    // Each object once, although it was read in small parts.
    let gets = reader.server.world.lock().gets.clone();
    let whole = gets.iter().filter(|range| range.is_none()).count();
    assert!(whole >= 10, "blocks are fetched whole: {gets:?}");
    assert!(gets.len() <= 13, "and once: {gets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_read_fetches_frames_not_blocks() {
    let mount = Mount::on(
        LoopbackMeta::start(Sizes { block_size: 1 << 20, ..Sizes::default() }).await,
        settings(),
    )
    .await;
    let file = mount.create();
    let mut data = vec![0; 8 << 20];
    getrandom::fill(&mut data).unwrap();
    write(&file, 0, &data).await;
    flush(&file).await.unwrap();
    for at in [5_300_000, 1_000_000, 7_100_000, 3_000_001_usize] {
        let part = file.read(at as u64, 4096).await.unwrap();
        assert_eq!(part, data[at..at + 4096]);
    }
    let world = mount.server.world.lock();
    assert!(world.gets.iter().all(Option::is_some), "{:?}", world.gets);
    assert!(world.gets.len() <= 8, "{:?}", world.gets);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_writes_share_objects() {
    let mount = Mount::new().await;
    let file = mount.create();
    let base = pattern(3, 4 * BLOCK);
    write(&file, 0, &base).await;
    flush(&file).await.unwrap();
    let before = mount.server.world.lock().puts;
    let mut expected = base;
    for number in 0..200 {
        let at = (number * 7919 * 41) % (expected.len() - 100);
        let part = pattern(number, 100);
        expected[at..at + 100].copy_from_slice(&part);
        write(&file, at as u64, &part).await;
    }
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), expected);
    assert_eq!(read_all(&file).await, expected);
    let puts = mount.server.world.lock().puts - before;
    assert!(puts <= 8, "{puts} uploads");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_mount_wrote_is_seen_by_the_next_read() {
    let mount = Mount::new().await;
    let file = mount.create();
    for length in [100, 50_000, 2 * BLOCK] {
        mount.write_elsewhere(&file, 0, &pattern(length, length)).await;
        assert_eq!(read_all(&file).await, pattern(length, length));
    }
    let end = file.write(&caller(), OPEN, None, Bytes::from_static(b"end"), None).await.unwrap();
    assert_eq!(end, 3);
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file)[2 * BLOCK..], *b"end");
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_contents_changed_elsewhere_are_merged() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"0000").await;
    flush(&file).await.unwrap();
    write(&file, 0, b"ab").await;
    mount.write_elsewhere(&file, 2, b"YZ").await;
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), b"abYZ");
    // The same when it outgrows the metadata: what was copied from the old
    // contents must not come back.
    let long = pattern(4, 20_000);
    write(&file, 4, &long).await;
    mount.write_elsewhere(&file, 0, b"cd").await;
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), [b"cdYZ".as_slice(), &long].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_race_flushes_are_not_lost() {
    let mount = Mount::new().await;
    let file = mount.create();
    let flusher = Arc::clone(&file);
    let flushing = tokio::spawn(async move {
        for _ in 0..40 {
            flush(&flusher).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let writers = (0..4_usize).map(|writer| {
        let file = Arc::clone(&file);
        tokio::spawn(async move {
            for number in 0..100_usize {
                let part = [u8::try_from(number + writer).unwrap(); 3000];
                write(&file, (writer * 100 + number) as u64 * 3000, &part).await;
                let back = file.read((writer * 100 + number) as u64 * 3000, 3000).await.unwrap();
                assert_eq!(back, part[..], "own writes are read back");
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    flushing.await.unwrap();
    flush(&file).await.unwrap();
    let contents = mount.contents(&file);
    for (at, part) in contents.chunks(3000).enumerate() {
        assert!(part.iter().all(|byte| usize::from(*byte) == at % 100 + at / 100), "part {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dirty_data_goes_by_itself_when_it_is_old() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"by itself").await;
    until(|| mount.contents(&file) == b"by itself").await;
    until(|| file.local_mtime().is_none()).await;
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_wait_for_the_budget_and_all_arrives() {
    let server = LoopbackMeta::start(Sizes::default()).await;
    let tight = DataSettings { mem_capacity: 1 << 20, write_back_max: 1 };
    let mount = Mount::on(server, tight).await;
    let file = mount.create();
    let data = pattern(5, 40 * BLOCK + 5);
    for (index, part) in data.chunks(BLOCK / 2).enumerate() {
        write(&file, (index * BLOCK / 2) as u64, part).await;
        assert!(mount.plane.usage().dirty_bytes <= 8 << 20);
    }
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), data);
    assert_eq!(read_all(&file).await, data, "with a cache smaller than the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_is_told_to_each_open_once_and_the_data_stays() {
    let mount = Mount::new().await;
    let file = mount.create();
    mount.server.world.lock().commit_failures = vec![Code::FsNoSpace];
    write(&file, 0, b"data").await;
    // The background flush fails; then there is room again.
    until(|| mount.server.world.lock().commit_failures.is_empty()).await;
    until(|| mount.contents(&file) == b"data").await;
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::FsNoSpace);
    flush(&file).await.unwrap();
    let other = file.flush(&caller(), 2, false).await.unwrap_err();
    assert_eq!(other.code(), Code::FsNoSpace);
    file.flush(&caller(), 2, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_writers_are_told_and_nothing_hangs() {
    let mount = Mount::new().await;
    let file = mount.create();
    mount.server.world.lock().commit_failures = vec![Code::FsQuota; 1000];
    write(&file, 0, b"data").await;
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::FsQuota);
    let refused = file.write(&caller(), OPEN, Some(4), Bytes::from_static(b"more"), None).await;
    assert_eq!(refused.unwrap_err().code(), Code::FsQuota);
    assert!(mount.plane.usage().dirty_bytes > 0, "kept while somebody has it open");
    mount.plane.closed(file.ino());
    assert_eq!(mount.plane.usage().dirty_bytes, 0, "told, and nobody is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_loses_its_data_and_says_so() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"data").await;
    mount.server.world.lock().files.clear();
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::FsStale);
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_urls_and_server_errors_are_retried() {
    let mount = Mount::new().await;
    let file = mount.create();
    let data = pattern(6, 2 * BLOCK);
    mount.server.world.lock().http_failures = vec![503, 500, 403];
    write(&file, 0, &data).await;
    flush(&file).await.unwrap();
    assert_eq!(file.read(0, 10).await.unwrap(), data[..10]);
    // The URLs known to the mount are refused from now on.
    mount.server.world.lock().urls_from = 5;
    assert_eq!(file.read(BLOCK as u64, 10).await.unwrap(), data[BLOCK..BLOCK + 10]);
    mount.server.world.lock().http_failures = vec![404];
    let fresh = Mount::on(Arc::clone(&mount.server), settings()).await.open(file.ino().0);
    assert_eq!(fresh.read(0, 10).await.unwrap_err().code(), Code::BlockCorrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_store_is_never_answered() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, &pattern(7, BLOCK)).await;
    flush(&file).await.unwrap();
    {
        let mut world = mount.server.world.lock();
        let object = world.objects.values_mut().next().unwrap();
        let mut damaged = object.to_vec();
        let at = damaged.len() / 2;
        damaged[at] ^= 1;
        *object = damaged.into();
    }
    let error = file.read(0, 1 << 20).await.unwrap_err();
    assert_eq!(error.code(), Code::BlockCorrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_loses_what_is_dirty_and_says_so() {
    let mut mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"kept").await;
    flush(&file).await.unwrap();
    write(&file, 0, b"lost").await;
    let reason = wire::error_to_detail(&Error::bare(Code::TokenRevoked));
    let cut = v1::Cut { reason: Some(reason) };
    mount.server.told.send(v1::ServerFrame { cut: Some(cut), ..Default::default() }).unwrap();
    assert!(matches!(mount.events.recv().await, Some(SessionEvent::Cut(_))));
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::TokenRevoked);
    assert_eq!(file.read(0, 4).await.unwrap_err().code(), Code::TokenRevoked);
    let refused = file.write(&caller(), OPEN, Some(0), Bytes::from_static(b"x"), None).await;
    assert_eq!(refused.unwrap_err().code(), Code::TokenRevoked);
    assert_eq!(mount.plane.discard_all(), 4);
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
    for _ in 0..2 {
        // Not once per open: a cut is final.
        let refused = file.flush(&caller(), 9, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::TokenRevoked);
    }
    assert_eq!(mount.contents(&file), b"kept");
    drop(mount.session);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dirty_when_the_mount_becomes_read_only_is_dropped_and_told() {
    let mut mount = Mount::new().await;
    let (small, large) = (mount.create(), mount.create());
    write(&small, 0, b"kept").await;
    flush(&small).await.unwrap();
    write(&small, 0, b"lost").await;
    write(&large, 0, &pattern(3, 100_000)).await;
    mount.server.change_flags(v1::Flags { ro: true, ..v1::Flags::default() });
    assert!(matches!(mount.events.recv().await, Some(SessionEvent::FlagsChanged(_))));
    let refused = small.write(&caller(), OPEN, Some(0), Bytes::from_static(b"x"), None).await;
    assert_eq!(refused.unwrap_err().code(), Code::FsReadOnly);
    // What the daemon does then.
    assert_eq!(mount.plane.flush_all(false).await.unwrap_err().code(), Code::FsReadOnly);
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
    assert_eq!(mount.server.world.lock().puts, 0, "nothing is uploaded in vain");
    for file in [&small, &large] {
        assert_eq!(flush(file).await.unwrap_err().code(), Code::FsReadOnly);
        flush(file).await.expect("told once");
    }
    assert_eq!(read_all(&small).await, b"kept");
    mount.server.change_flags(v1::Flags::default());
    assert!(matches!(mount.events.recv().await, Some(SessionEvent::FlagsChanged(_))));
    write(&small, 0, b"news").await;
    flush(&small).await.unwrap();
    assert_eq!(mount.contents(&small), b"news");
}

#[tokio::test(flavor = "multi_thread")]
async fn seek_finds_data_and_holes() {
    let mount = Mount::new().await;
    let file = mount.create();
    let far = 3 * BLOCK as u64;
    write(&file, far, &pattern(8, 1000)).await;
    assert_eq!(file.seek(&caller(), 0, false).await.unwrap(), far);
    assert_eq!(file.seek(&caller(), 0, true).await.unwrap(), 0);
    assert_eq!(file.seek(&caller(), far + 1, false).await.unwrap(), far + 1);
    assert_eq!(file.seek(&caller(), far + 1, true).await.unwrap(), far + 1000);
    for hole in [true, false] {
        let beyond = file.seek(&caller(), far + 1000, hole).await.unwrap_err();
        assert_eq!(beyond.code(), Code::FsNoSuchDevice);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_all_leaves_nothing_and_syncs_once() {
    let mount = Mount::new().await;
    let files: Vec<_> = (0..50).map(|_| mount.create()).collect();
    for (number, file) in files.iter().enumerate() {
        write(file, 0, &pattern(number, 10 + number * 500)).await;
    }
    mount.plane.flush_all(true).await.unwrap();
    for (number, file) in files.iter().enumerate() {
        assert_eq!(mount.contents(file), pattern(number, 10 + number * 500));
    }
    assert_eq!(mount.server.counted("Sync"), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize),
    Append(usize),
    Read(usize, usize),
    Truncate(usize),
    Flush(bool),
    Recall,
    Reopen,
    Break,
}

fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..max, 1..max / 2).prop_map(|(at, len)| Step::Write(at, len)),
        1 => (1..max / 4).prop_map(Step::Append),
        6 => (0..max, 1..max).prop_map(|(at, len)| Step::Read(at, len)),
        2 => (0..max).prop_map(Step::Truncate),
        3 => any::<bool>().prop_map(Step::Flush),
        1 => Just(Step::Recall),
        1 => Just(Step::Reopen),
        1 => Just(Step::Break),
    ];
    prop::collection::vec(step, 1..25)
}

/// Sizes around the limit of inline contents, around a block, and beyond.
fn scenario() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![Just(12_000), Just(BLOCK / 2 * 3), Just(4 * BLOCK)].prop_flat_map(steps)
}

async fn truncate(mount: &Mount, file: &Arc<FileData>, size: u64) {
    flush(file).await.unwrap();
    let handle = file.ino().0.to_be_bytes().to_vec();
    let op = v1::SetAttr { handle, size: Some(size), ..v1::SetAttr::default() };
    let answer = mount.session.call(caller(), v1::op::Body::SetAttr(op)).await.unwrap();
    let v1::reply::Result::Attr(attr) = answer else { panic!("attributes") };
    file.truncated(&attr);
}

async fn play(steps: Vec<Step>) {
    let mut mount = Mount::new().await;
    let mut file = mount.create();
    let mut model: Vec<u8> = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write(at, length) => {
                let data = pattern(number, length);
                write(&file, at as u64, &data).await;
                model.resize(model.len().max(at + length), 0);
                model[at..at + length].copy_from_slice(&data);
            }
            Step::Append(length) => {
                let data = pattern(number, length);
                let written = file.write(&caller(), OPEN, None, data.clone().into(), None).await;
                assert_eq!(written.unwrap() as usize, length);
                model.extend_from_slice(&data);
            }
            Step::Read(at, length) => {
                let back = file.read(at as u64, u32::try_from(length).unwrap()).await.unwrap();
                let end = (at + length).min(model.len());
                assert_eq!(back, model[at.min(end)..end], "step {number}");
            }
            Step::Truncate(size) => {
                truncate(&mount, &file, size as u64).await;
                model.resize(size, 0);
            }
            Step::Flush(sync) => {
                file.flush(&caller(), OPEN, sync).await.unwrap();
                assert_eq!(mount.contents(&file), model, "step {number}");
            }
            Step::Recall => {
                // What is written here and not committed stays.
                mount.plane.recall(file.ino());
            }
            Step::Reopen => {
                flush(&file).await.unwrap();
                let ino = file.ino().0;
                mount = Mount::on(Arc::clone(&mount.server), settings()).await;
                file = mount.open(ino);
            }
            Step::Break => mount.server.break_connections(),
        }
        let size = file.local_size().unwrap_or(mount.server.attr(file.ino().0).size);
        assert_eq!(size, model.len() as u64, "step {number}");
    }
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), model);
    assert_eq!(read_all(&file).await, model);
    assert_eq!(mount.plane.usage().dirty_bytes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_file_behaves_like_an_array(steps in scenario()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(play(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_buffered_under_a_right_and_wait_for_their_commit_without() {
    let mount = Mount::new().await;
    let file = mount.create();
    mount.server.world.lock().commit_failures = vec![Code::FsNoSpace];
    write(&file, 0, b"one").await;
    write(&file, 3, b"two").await;
    let asked = |mount: &Mount| mount.server.world.lock().counts["AcquireWrite"];
    assert_eq!(asked(&mount), 1, "once for all writes");
    assert!(!file.is_clean(), "answered before meta has it");
    mount.server.world.lock().commit_failures.clear();
    // Taken back: what was written is at meta when that is done.
    mount.server.world.lock().keeps_write_rights = true;
    mount.plane.give_up_writes(Some(&[file.ino()])).await;
    assert_eq!(mount.contents(&file), b"onetwo");
    write(&file, 6, b"three").await;
    assert_eq!(mount.contents(&file), b"onetwothree", "at meta when it is answered");
    mount.server.world.lock().keeps_write_rights = false;
    let before = asked(&mount);
    write(&file, 11, b"four").await;
    assert_eq!(asked(&mount), before + 1, "it asks anew");
    mount.plane.give_up_writes(None).await;
    assert_eq!(mount.contents(&file), b"onetwothreefour");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_under_a_right_that_has_passed_on_is_lost_and_told() {
    let mount = Mount::new().await;
    let file = mount.create();
    write(&file, 0, b"kept").await;
    flush(&file).await.unwrap();
    mount.server.world.lock().passed_on = true;
    write(&file, 0, b"lost").await;
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::WriteLost);
    assert!(file.is_clean());
    assert_eq!(mount.contents(&file), b"kept");
    flush(&file).await.unwrap();
    mount.server.world.lock().passed_on = false;
    write(&file, 0, b"next").await;
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), b"next");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_when_the_right_is_taken_back_is_lost_and_told() {
    let mount = Mount::new().await;
    let file = mount.create();
    mount.server.world.lock().commit_failures = vec![Code::FsQuota; 10_000];
    write(&file, 0, b"data").await;
    mount.plane.give_up_writes(Some(&[file.ino()])).await;
    assert!(file.is_clean(), "others do not wait for ever");
    assert_eq!(flush(&file).await.unwrap_err().code(), Code::FsQuota);
    mount.server.world.lock().commit_failures.clear();
    flush(&file).await.unwrap();
    assert_eq!(mount.contents(&file), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_ends_with_the_last_open_and_is_asked_for_anew() {
    let mount = Mount::new().await;
    let file = mount.create();
    let again = mount.open(file.ino().0);
    write(&file, 0, b"one").await;
    flush(&file).await.unwrap();
    let asked = |mount: &Mount| mount.server.world.lock().counts["AcquireWrite"];
    // Both opens end at once, as when a process ends.
    mount.plane.closed(file.ino());
    mount.plane.closed(file.ino());
    let before = asked(&mount);
    mount.plane.opened_as(file.ino(), OPEN);
    write(&again, 0, b"two").await;
    assert_eq!(asked(&mount), before + 1, "meta has forgotten the one of before");
    flush(&again).await.unwrap();
    assert_eq!(mount.contents(&file), b"two");
}

/// Whoever waits for a flush may be interrupted while the session reconnects.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_is_dropped_half_way_loses_nothing() {
    let mount = Mount::new().await;
    let mut expected = b"precious".to_vec();
    expected.resize(20, 0);
    expected.push(b'!');
    for round in 0..50 {
        let file = mount.create();
        write(&file, 0, b"precious").await;
        mount.server.break_connections();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        {
            let flush = file.flush_now(super::How::ALL);
            let mut flush = std::pin::pin!(flush);
            let _ = futures::poll!(flush.as_mut());
        }
        let who = caller();
        let write = file.write(&who, OPEN, Some(20), Bytes::from_static(b"!"), None);
        tokio::time::timeout(Duration::from_secs(5), write).await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(5), flush(&file)).await.unwrap().unwrap();
        let got = mount.contents(&file);
        assert_eq!(got, expected, "round {round}");
    }
}
