//! Waiting for states, never for times.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Between two looks at a state.
const POLL: Duration = Duration::from_millis(10);

/// Polls until `done` gives a value.
///
/// # Panics
/// After `limit`, naming `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}

/// Polls until `done` is true.
///
/// # Panics
/// After `limit`, naming `what`.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    wait_for(what, limit, || done().then_some(()));
}

/// Lets time pass, to choose the instant of a crash. Nothing may depend on
/// what happens meanwhile.
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Runs something that may hang in a system call on a thread of its own.
///
/// # Panics
/// When it takes longer than `limit` (the thread is left behind), or panics.
pub fn within<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // The receiver may have given up.
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(limit) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: hangs, not done within {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("{what}: ended without a value"),
        },
    }
}
