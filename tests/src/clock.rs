//! A wall clock of their own for programs under test, which jumps when a test
//! says so: libfaketime, from Debian's package of that name. It stands between
//! the programs and `clock_gettime` for CLOCK_REALTIME alone. Our programs read
//! CLOCK_BOOTTIME without it, and CLOCK_MONOTONIC is left as it is: a jump is
//! what an operator or NTP does to a clock, not what a suspend does.

use std::fs;
use std::path::PathBuf;

/// A clock. Dropping it takes its file away: declare it before the programs.
#[derive(Debug)]
pub struct FakeClock {
    directory: tempfile::TempDir,
    library: PathBuf,
}

impl FakeClock {
    /// One that is right, so far.
    ///
    /// # Panics
    /// When libfaketime is not there: a test of clocks without it would show
    /// nothing.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory and may panic")]
    pub fn new() -> FakeClock {
        let library = library().expect("libfaketime: run `cargo xtask setup`");
        let directory = tempfile::Builder::new().prefix("flexfs-clock-").tempdir();
        let clock = FakeClock { directory: directory.expect("a directory"), library };
        clock.jump(0);
        clock
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// From now on it is so many seconds before the real time (negative:
    /// behind), whatever it was.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn jump(&self, seconds: i64) {
        let new = self.directory.path().join("new");
        // No reader finds half of it.
        fs::write(&new, format!("{seconds:+}\n")).expect("the clock's file");
        fs::rename(new, self.file()).expect("the clock's file");
    }

    /// What gives a program this clock.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            // Each look at the clock looks into the file.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // The clock of the machine jumps, not the times of its files.
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

impl Drop for FakeClock {
    /// A program that was killed leaves some shared memory of the library.
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = |start| name.strip_prefix(start).map(str::to_owned);
            let Some(pid) = of("sem.faketime_sem_").or_else(|| of("faketime_shm_")) else {
                continue;
            };
            if !PathBuf::from(format!("/proc/{pid}")).exists() {
                // It may be another user's, or gone by now.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The library for programs with threads, below /usr/lib/ARCHITECTURE.
fn library() -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/lib").ok()?.flatten();
    let places = entries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    places.into_iter().find(|path| path.exists())
}
