//! How long a refusal takes says nothing of why (Welch's t test, as dudect
//! does it). Measured in the verifier, without the network, which would hide
//! far more than this finds.

use std::time::Instant;

use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::Code;

use super::harness::{CHEAP, Site, again, generate};
use crate::peppers::{Peppers, Switch};
use crate::store::{Kind, Value};
use crate::verify::Verify;

const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Samples of each class; refusals take 10 ms each.
const SAMPLES: usize = 150;
/// Of all samples, the slowest share is the machine's noise.
const CROPPED: f64 = 0.2;
/// A difference counts when it is certain (dudect's bound is 4.5; ours allows
/// for a busy machine) and not tiny beside the whole.
const T_MAX: f64 = 10.0;
const SHARE_MAX: f64 = 0.15;
/// A leak shows in every try, noise does not.
const TRIES: usize = 4;

/// The token with one digit of its secret changed and a right checksum.
fn changed(token: &Token, at: usize) -> Token {
    let mut body = token.reveal().as_bytes()[..71].to_vec();
    // Neighbouring digits: the number stays below 2^256 unless at the top.
    let digit = ALPHABET.iter().position(|c| *c == body[at]).unwrap();
    body[at] = ALPHABET[if digit == 0 { 1 } else { digit - 1 }];
    let mut crc = !0_u32;
    for byte in &body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    body.extend(digits);
    let changed = Token::parse(std::str::from_utf8(&body).unwrap()).unwrap();
    assert!(changed.id() == token.id() && changed.reveal() != token.reveal());
    changed
}

fn mean_and_variance(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    (mean, samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

/// Welch's t, and the difference as a share of the mean.
fn compare(a: &[f64], b: &[f64]) -> (f64, f64) {
    let mut all = [a, b].concat();
    all.sort_by(f64::total_cmp);
    let limit = all[((all.len() - 1) as f64 * (1.0 - CROPPED)) as usize];
    let cropped = |s: &[f64]| s.iter().copied().filter(|x| *x <= limit).collect::<Vec<_>>();
    let (a, b) = (cropped(a), cropped(b));
    if a.len() < 10 || b.len() < 10 {
        // One of them lies beyond the limit as a whole.
        return (f64::INFINITY, 1.0);
    }
    let ((mean_a, var_a), (mean_b, var_b)) = (mean_and_variance(&a), mean_and_variance(&b));
    let error = (var_a / a.len() as f64 + var_b / b.len() as f64).sqrt();
    ((mean_a - mean_b) / error, (mean_a - mean_b).abs() / mean_a.min(mean_b))
}

/// Microseconds of each class, taken in turns; `flood` = of a source whose
/// failures are used up.
async fn measure(verify: &Verify, classes: &[(&str, Token)], flood: bool) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(SAMPLES); classes.len()];
    for n in 0..SAMPLES * classes.len() {
        // Another order in every round.
        let index = (n + n / classes.len()) % classes.len();
        if flood {
            verify.exhaust(None);
        } else {
            verify.forget_failures();
        }
        let before = Instant::now();
        let outcome = verify.verify(&classes[index].1, None).await;
        times[index].push(before.elapsed().as_secs_f64() * 1e6);
        if let Err(error) = outcome {
            assert!(matches!(error.code(), Code::TokenUnknown | Code::RateLimited), "{error:?}");
        }
    }
    times
}

#[test]
fn the_statistics_find_a_difference_that_is_there() {
    let noise = |n: usize| ((n * 7919) % 101) as f64;
    let one: Vec<f64> = (0..1000).map(|n| 500.0 + noise(n)).collect();
    let same: Vec<f64> = (0..1000).map(|n| 500.0 + noise(n + 17)).collect();
    let slower: Vec<f64> = (0..1000).map(|n| 650.0 + noise(n)).collect();
    assert!(compare(&one, &same).0.abs() < 4.5);
    let (t, share) = compare(&one, &slower);
    assert!(t.abs() > T_MAX && share > SHARE_MAX, "{t} {share}");
}

#[tokio::test]
async fn the_time_of_a_refusal_does_not_tell_its_reason() {
    no_time_tells(false).await;
}

#[tokio::test]
async fn nor_does_it_in_a_flood_that_memory_answers() {
    no_time_tells(true).await;
}

async fn no_time_tells(flood: bool) {
    let site = Site::new(Kind::Sqlite);
    let admin = site.start().await;
    let tenant = admin.account("a").await;
    let early = admin.account_token(&tenant.id, "viewer").await;
    admin.stop().await;
    let store = site.db.open().await;
    Switch::prepare(&site.home, &store).await.unwrap().run(&store).await.unwrap();
    let admin = site.start().await;
    let known = admin.account_token(&tenant.id, "viewer").await;
    let ended = admin.account_token(&tenant.id, "viewer").await;
    let mut tx = admin.store.begin().await.unwrap();
    let sql = "UPDATE tokens SET expires_at = 1 WHERE id = $1";
    tx.sql().execute(sql, vec![Value::text(ended.id())]).await.unwrap();
    tx.commit_quietly().await.unwrap();
    let peppers = Peppers::open(&site.home, &store).await.unwrap();
    let verify = Verify::new(admin.store.clone(), peppers, CHEAP).unwrap();
    // The verifier's own store, whose ids nobody reads otherwise.
    admin.store.load_known().await.unwrap();
    let classes = [
        ("unknown id", generate(TokenKind::Account)),
        ("wrong first digit", changed(&known, 28)),
        ("wrong last digit", changed(&known, 70)),
        ("wrong secret", again(&known)),
        ("wrong secret of an expired one", again(&ended)),
        ("wrong secret under an earlier pepper", again(&early)),
        // The control: a good one comes from the cache.
        ("good", known),
    ];
    let good = classes.len() - 1;
    let mut seen = String::new();
    for _ in 0..TRIES {
        let times = measure(&verify, &classes, flood).await;
        let (t, share) = compare(&times[0], &times[good]);
        assert!(t.abs() > T_MAX && share > SHARE_MAX, "the measurement is blind: {t} {share}");
        seen.clear();
        let mut leaks = false;
        for (index, (name, _)) in classes.iter().enumerate().take(good).skip(1) {
            let (t, share) = compare(&times[0], &times[index]);
            let (mean, _) = mean_and_variance(&times[index]);
            seen.push_str(&format!("\n{name}: {mean:.0} us, t = {t:.1}, {:.1} %", share * 100.0));
            leaks |= t.abs() > T_MAX && share > SHARE_MAX;
        }
        println!("unknown id: {:.0} us{seen}", mean_and_variance(&times[0]).0);
        if !leaks {
            return;
        }
    }
    panic!("the time of a refusal tells its reason:{seen}");
}
