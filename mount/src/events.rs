//! What meta tells unasked: recalls, a cut, the lease, changed flags. Carried
//! out beside the requests, never inside one.

use std::sync::Arc;

use flexfs_common::Error;
use flexfs_common::ids::Ino;
use flexfs_proto::v1;
use tokio::sync::{Semaphore, mpsc};

use crate::fs::FileSystem;
use crate::session::SessionEvent;

/// Recalls carried out at once; each may wait for a flush.
const RECALLS_MAX: usize = 16;

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
    while let Some(event) = events.recv().await {
        match event {
            SessionEvent::Recall { id, inos } => {
                // Closed never.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let fs = Arc::clone(&fs);
                tokio::spawn(async move {
                    recall(&fs, inos).await;
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
                drop_all(&fs).await;
            }
            SessionEvent::LeaseBack => tracing::info!("meta is back, the session goes on"),
            SessionEvent::FlagsChanged(flags) => {
                let _ = notices.send(Notice::Flags(flags)).await;
            }
        }
    }
}

async fn recall(fs: &Arc<FileSystem>, inos: Vec<u64>) {
    for ino in &inos {
        if let Err(error) = fs.data().recall(Ino(*ino)).await {
            // The opens of the file are told by fsync and close.
            tracing::warn!(ino = %Ino(*ino), code = %error.code(), "flush for a recall: {error}");
        }
    }
    let fs = Arc::clone(fs);
    blocking(move || {
        for ino in inos {
            drop_one(&fs, fs.inodes().kernel_ino(ino));
        }
    })
    .await;
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

/// Empties the kernel's caches: open files first, for their pages are what
/// programs may still have mapped.
async fn drop_all(fs: &Arc<FileSystem>) {
    let fs = Arc::clone(fs);
    blocking(move || {
        let open = fs.handles().open_inodes();
        for ino in &open {
            drop_one(&fs, *ino);
        }
        for ino in fs.inodes().all() {
            if open.binary_search(&ino).is_err() {
                drop_one(&fs, ino);
            }
        }
    })
    .await;
}

fn drop_one(fs: &FileSystem, ino: u64) {
    let names = fs.inodes().give_up(ino);
    let Some(kernel) = fs.kernel() else { return };
    kernel.drop_inode(ino);
    for (parent, name) in names {
        kernel.drop_entry(parent, &name);
    }
}

/// Notifications may wait for locks of the kernel.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!("the kernel's caches could not be dropped: {error}");
    }
}
