//! What meta tells unasked: recalls, a cut, the lease, changed flags. Carried
//! out beside the requests, never inside one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexfs_common::Error;
use flexfs_common::ids::Ino;
use flexfs_proto::v1;
use tokio::sync::{Semaphore, mpsc};

use crate::data::{RecalledPages, Which};
use crate::fs::{FileSystem, KernelCaches};
use crate::session::SessionEvent;

/// Recalls carried out at once; each may wait for the kernel.
const RECALLS_MAX: usize = 16;

/// Recalls of the right to buffer writes carried out at once. They wait for
/// operations of this mount, the others never do: places of their own.
const WRITE_RECALLS_MAX: usize = 64;

/// How long a recall waits for pages that are being read or written. Two
/// mounts that write the same page with O_SYNC wait for one another's recalls.
const PAGES_WAIT: Duration = Duration::from_millis(100);

/// How long a recall waits for the kernel to have heard of an inode whose
/// attributes were answered just before; one that it has forgotten costs the
/// same until it says so.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it looks.
const SETTLE_STEP: Duration = Duration::from_millis(2);

/// What the daemon has to do itself.
#[derive(Debug)]
pub enum Notice {
    /// The session was cut and every cache is dropped.
    Cut(Arc<Error>),
    /// Other flags are in force.
    Flags(v1::Flags),
}

/// Serves events until the session is gone.
pub async fn serve(
    fs: Arc<FileSystem>,
    mut events: mpsc::Receiver<SessionEvent>,
    notices: mpsc::Sender<Notice>,
) {
    let places = Arc::new(Semaphore::new(RECALLS_MAX));
    let write_places = Arc::new(Semaphore::new(WRITE_RECALLS_MAX));
    while let Some(event) = events.recv().await {
        match event {
            SessionEvent::Recall(recall) => {
                // At once, also when there is no place to send anything yet.
                begin_giving_up(&fs, &recall);
                // In the task, so that a cut never waits behind recalls.
                let places = if is_of_writes(&recall) { &write_places } else { &places };
                let (places, fs) = (Arc::clone(places), Arc::clone(&fs));
                tokio::spawn(async move {
                    // Closed never.
                    let Ok(place) = places.acquire_owned().await else { return };
                    let id = recall.id;
                    give_up(&fs, recall).await;
                    fs.session().recall_done(id);
                    drop(place);
                });
            }
            SessionEvent::Cut(error) => {
                cut(&fs, &error).await;
                // Nobody listens when the daemon ends anyway.
                let _ = notices.send(Notice::Cut(error)).await;
            }
            SessionEvent::LeaseLost => {
                tracing::warn!("meta cannot be reached and the lease has ended; calls wait");
                // Beside what comes next: the kernel may make it wait.
                let fs = Arc::clone(&fs);
                tokio::spawn(async move { drop_all(&fs).await });
            }
            SessionEvent::LeaseBack => tracing::info!("meta is back, the session goes on"),
            SessionEvent::FlagsChanged(flags) => {
                let fs = Arc::clone(&fs);
                tokio::spawn(async move { flags_changed(&fs).await });
                // Nobody listens when the daemon ends anyway.
                let _ = notices.send(Notice::Flags(flags)).await;
            }
        }
    }
}

/// Carries out a recall. Waits for no operation of this mount, but for the
/// kernel: while it drops names it waits for what is under way in their
/// directory, which meta lets only one mount keep names of.
async fn give_up(fs: &Arc<FileSystem>, recall: v1::Recall) {
    if is_of_writes(&recall) {
        give_up_writes(fs, &recall).await;
        return;
    }
    if recall.all {
        drop_all(fs).await;
        return;
    }
    let kernel_inos = |inos: &[u64]| -> Vec<u64> {
        inos.iter().map(|ino| fs.inodes().kernel_ino(*ino)).collect()
    };
    let (inos, dirs) = (kernel_inos(&recall.inos), kernel_inos(&recall.name_inos));
    fs.freshness().recalled(inos.iter().chain(&dirs).copied());
    let recalled: Vec<_> =
        recall.inos.iter().filter_map(|ino| fs.data().recall(Ino(*ino))).collect();
    let Some(kernel) = fs.kernel().map(Arc::clone) else { return };
    inos.iter().for_each(|ino| fs.inodes().forget_contents(*ino));
    drop_attributes(fs, &kernel, &inos).await;
    if !dirs.is_empty() {
        let (fs, kernel) = (Arc::clone(fs), Arc::clone(&kernel));
        blocking(move || dirs.into_iter().for_each(|dir| drop_names(&fs, &*kernel, dir))).await;
    }
    // With new attributes the kernel looks by itself whether its pages are
    // old. What it cannot see, in mapped pages and under a time that was set
    // back, goes now; but a page that is being written waits for that.
    fs.pages_recalled(&inos);
    let dropping = inos.clone();
    let pages =
        tokio::spawn(blocking(move || dropping.iter().for_each(|ino| kernel.drop_inode(*ino))));
    if tokio::time::timeout(PAGES_WAIT, pages).await.is_ok() {
        recalled.into_iter().for_each(RecalledPages::dropped);
    } else {
        tracing::debug!("pages of a recalled file are in use; they are dropped later");
        fs.pages_in_use(&inos);
    }
}

/// Of the right to buffer writes or to make files, and of nothing else?
fn is_of_writes(recall: &v1::Recall) -> bool {
    recall.all_writes || recall.numbers || !recall.write_inos.is_empty()
}

/// Nothing is answered or made any more under a right that is taken back. One
/// that is on its way is void.
fn begin_giving_up(fs: &Arc<FileSystem>, recall: &v1::Recall) {
    if recall.numbers {
        fs.void_numbers();
    }
    if recall.all_writes {
        fs.freshness().recalled_all();
        fs.return_numbers();
    }
    if !recall.write_inos.is_empty() {
        fs.freshness().recalled(recall.write_inos.iter().map(|ino| fs.inodes().kernel_ino(*ino)));
    }
}

/// What was written and made leaves the mount.
async fn give_up_writes(fs: &Arc<FileSystem>, recall: &v1::Recall) {
    if recall.all_writes {
        fs.data().give_up_writes(None).await;
        return;
    }
    if recall.numbers {
        fs.data().give_up_made(Which::All).await;
        return;
    }
    let inos: Vec<Ino> = recall.write_inos.iter().copied().map(Ino).collect();
    fs.data().give_up_writes(Some(&inos)).await;
    flexfs_common::failpoint!("mount-recall-flushed");
}

/// Other flags are in force. Answers given under the old ones are not used
/// again, and what was written and may not be any more is dropped now: fsync
/// and close tell.
async fn flags_changed(fs: &Arc<FileSystem>) {
    drop_all(fs).await;
    if fs.session().check_writable().is_err() {
        // Logged and kept for the opens, file by file.
        let _ = fs.data().flush_all(false).await;
    }
}

/// Everything fails from now on; what was cached in the kernel too.
async fn cut(fs: &Arc<FileSystem>, error: &Error) {
    let lost = fs.data().discard_all();
    tracing::error!(code = %error.code(), lost, "the session was cut: {error}");
    if lost > 0 {
        tracing::error!(lost, "bytes that were written and not yet at the servers are lost");
    }
    drop_all(fs).await;
    fs.session().cut_done();
}

/// Empties all caches. Attributes first, which waits for nothing; then the
/// pages of open files, each for itself, for they are what programs may still
/// have mapped; then names.
async fn drop_all(fs: &Arc<FileSystem>) {
    fs.freshness().recalled_all();
    fs.data().recall_all();
    let Some(kernel) = fs.kernel().map(Arc::clone) else { return };
    let all = fs.inodes().all();
    drop_attributes(fs, &kernel, &all).await;
    all.iter().for_each(|ino| fs.inodes().forget_contents(*ino));
    let open = fs.handles().open_inodes();
    let others: Vec<u64> =
        all.iter().copied().filter(|ino| open.binary_search(ino).is_err()).collect();
    let pages: Vec<_> = open
        .into_iter()
        .map(|ino| vec![ino])
        .chain([others])
        .map(|inos| {
            let kernel = Arc::clone(&kernel);
            tokio::spawn(blocking(move || inos.iter().for_each(|ino| kernel.drop_inode(*ino))))
        })
        .collect();
    let pages = futures::future::join_all(pages);
    if tokio::time::timeout(PAGES_WAIT, pages).await.is_err() {
        tracing::debug!("pages are in use; they are dropped as soon as they are not");
    }
    let fs = Arc::clone(fs);
    blocking(move || all.iter().for_each(|dir| drop_names(&fs, &*kernel, *dir))).await;
}

/// Drops attributes, so that none comes into the kernel's caches after this
/// that was answered before. An answer is in them only when the thread that
/// asked has run again: the kernel does not know a new inode before, and sets
/// the time of a name after.
async fn drop_attributes(fs: &Arc<FileSystem>, kernel: &Arc<dyn KernelCaches>, inos: &[u64]) {
    let mut left: Vec<u64> =
        inos.iter().copied().filter(|ino| !kernel.drop_attributes(*ino)).collect();
    let until = Instant::now() + SETTLE;
    loop {
        left.retain(|ino| fs.inodes().handle(*ino).is_ok() && !kernel.drop_attributes(*ino));
        let now = Instant::now();
        if left.is_empty() || now >= until {
            return;
        }
        tokio::time::sleep(SETTLE_STEP.min(until - now)).await;
    }
}

fn drop_names(fs: &FileSystem, kernel: &dyn KernelCaches, dir: u64) {
    for name in fs.inodes().give_up_names(dir) {
        kernel.drop_entry(dir, &name);
    }
}

/// Notifications may wait for locks of the kernel.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!("the kernel's caches could not be dropped: {error}");
    }
}
