//! Loopback ports for servers.

use std::net::TcpListener;

/// A free loopback address, below the range from which the kernel takes ports
/// for outgoing connections (so that nothing grabs it between now and its
/// use, or while its server is away).
///
/// # Panics
/// When none of many is free.
#[must_use]
pub fn free_address() -> String {
    let mut seed = [0; 2];
    getrandom::fill(&mut seed).expect("randomness");
    let start = u16::from_le_bytes(seed);
    for step in 0..2000_u16 {
        let port = 12_000 + start.wrapping_add(step.wrapping_mul(7)) % 20_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("a bound socket has an address").to_string();
        }
    }
    panic!("no free port on loopback");
}
