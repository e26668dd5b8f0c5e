//! What a warm validation costs in meta: sessions opened one after the other
//! with one token, as meta itself takes the time from the request to the
//! verdict. See bench/README.md, "Tokens".
//!
//! `FLEXFS_BIN_DIR=DIR cargo run --release -p flexfs-tests --example warm-bench -- [OPENS]`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measuring program: it prints, and stops when something is not as it should be"
)]

use flexfs_tests::rpc::{Feed, secret};
use flexfs_tests::{Cluster, raw};

fn main() {
    let opens: usize = std::env::args().nth(1).map_or(5000, |n| n.parse().unwrap());
    let cluster = Cluster::start();
    let token = secret(&cluster.volume("bench"));
    raw::block_on(async {
        let meta = Feed::of(&cluster);
        for _ in 0..=opens {
            meta.open_session(&token, "bench").await.unwrap();
        }
    });
    let log = std::fs::read_to_string(cluster.log("meta")).unwrap();
    let mut times: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("session opened"))
        .map(|line| line.split("validated_us=").nth(1).unwrap())
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), opens + 1, "every session is in the log");
    // The first one asked admin.
    let cold = times.remove(0);
    times.sort_unstable();
    let at = |p: usize| times[(times.len() - 1) * p / 1000];
    println!(
        "validation in meta: cold {cold} us; warm, of {opens}: p50 {} us, p99 {} us, p99.9 {} us, \
         max {} us",
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}
