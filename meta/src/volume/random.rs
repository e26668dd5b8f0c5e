//! Random bytes of the operating system, fetched in pages: object ids and
//! open ids are made too often for a system call each.

use flexfs_common::{Code, Error, Result};
use parking_lot::Mutex;
use zeroize::Zeroize;

/// Bytes fetched at once.
const POOL_LEN: usize = 4096;

struct Pool {
    bytes: Vec<u8>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { bytes: Vec::new() });

/// Fresh random bytes; each byte of the pool is given out once.
///
/// # Errors
/// `INTERNAL` when the system has none.
pub(super) fn fill<const N: usize>() -> Result<[u8; N]> {
    let mut pool = POOL.lock();
    if pool.bytes.len() < N {
        let mut page = vec![0; POOL_LEN.max(N)];
        getrandom::fill(&mut page).map_err(|e| {
            Error::new(Code::Internal, "the system has no random bytes").caused_by(e)
        })?;
        pool.bytes = page;
    }
    let rest = pool.bytes.len() - N;
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(pool.bytes.iter_mut().skip(rest)) {
        *to = *from;
        from.zeroize();
    }
    pool.bytes.truncate(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_bytes_come_twice() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(super::fill::<16>().unwrap()));
        }
    }
}
