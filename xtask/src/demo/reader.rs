//! A program that reads through a mount without pause, for the revocation.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait_until;
use crate::Result;

/// Bytes of one read.
const READ_LEN: usize = 64 * 1024;

/// What a reader has seen.
pub(super) struct Seen {
    pub(super) reads: u64,
    pub(super) last_success: Instant,
    pub(super) first_error: Instant,
    pub(super) error: std::io::Error,
}

/// A reading thread.
pub(super) struct Reader {
    thread: JoinHandle<Result<Seen>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Reader {
    /// Opens the file and reads it again and again, so that most of it comes
    /// from caches; returns when it has read a few times.
    pub(super) fn start(path: &Path) -> Result<Reader> {
        let mut file = File::open(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; READ_LEN];
            let mut last_success = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                match read_on(&mut file, &mut buffer) {
                    Ok(()) => {
                        last_success = Instant::now();
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        let first_error = Instant::now();
                        let reads = counted.load(Ordering::Relaxed);
                        return Ok(Seen { reads, last_success, first_error, error });
                    }
                }
            }
            Err("the reader was never stopped by the revocation".into())
        });
        let reader = Reader { thread, stop, count };
        if wait_until(Duration::from_secs(10), || reader.count.load(Ordering::Relaxed) > 3) {
            return Ok(reader);
        }
        Err("the reader could not read".into())
    }

    /// Waits for the reader's error; gives up after some seconds.
    pub(super) fn finish(self) -> Result<Seen> {
        let ended = wait_until(Duration::from_secs(10), || self.thread.is_finished());
        self.stop.store(true, Ordering::Relaxed);
        if !ended && !wait_until(Duration::from_secs(5), || self.thread.is_finished()) {
            return Err("the reader hangs in a system call".into());
        }
        self.thread.join().map_err(|_| "the reader panicked")?
    }
}

fn read_on(file: &mut File, buffer: &mut [u8]) -> std::io::Result<()> {
    if file.read(buffer)? == 0 {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(())
}
