//! The bounded pool for argon2id: as many at once as there are cores, a
//! bounded line before it, and never the runtime's own unbounded pool (512
//! threads of 19 MiB each are 9.5 GiB).

use std::sync::Arc;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::{Argon2Settings, Pepper, Verifier};
use flexfs_common::{Code, Error, Result};
use tokio::sync::Semaphore;

/// Who may wait for a core: at 50 ms each on two cores, some 3 s.
const LINE_MAX: usize = 128;

/// Runs argon2id.
#[derive(Debug)]
pub struct Hashing {
    settings: Argon2Settings,
    cores: Arc<Semaphore>,
    line: Semaphore,
}

impl Hashing {
    /// With these parameters for new verifiers.
    #[must_use]
    pub fn new(settings: Argon2Settings) -> Hashing {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Hashing {
            settings,
            cores: Arc::new(Semaphore::new(cores)),
            line: Semaphore::new(LINE_MAX + cores),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = self.line.try_acquire().map_err(|_| Error::bare(Code::RateLimited))?;
        let closed = |_| Error::bare(Code::Internal);
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(closed)?;
        // The core stays taken until the work ends, also when the caller has
        // gone meanwhile.
        let work = move || {
            let outcome = work();
            drop(core);
            outcome
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::bare(Code::Internal).caused_by(e))?
    }

    /// Both steps of a new verifier.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the line is full, `INTERNAL`.
    pub async fn derive(&self, token: &Token, pepper: &Pepper) -> Result<Verifier> {
        let (token, pepper, settings) = (token.clone(), pepper.clone(), self.settings);
        self.run(move || Verifier::derive(&token, &pepper, settings)).await
    }

    /// The slow step.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the line is full, `INTERNAL`.
    pub async fn matches(&self, token: &Token, verifier: &Verifier) -> Result<bool> {
        let (token, verifier) = (token.clone(), verifier.clone());
        self.run(move || verifier.phc_matches(&token)).await
    }
}
