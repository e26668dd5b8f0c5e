use flexfs_auth::token::TokenKind;
use flexfs_common::name::SubtreePath;

use super::*;
use crate::engine::memory::MemoryEngine;

const GRACE: Duration = Duration::from_secs(3600);
const KEY: [u8; 32] = [3; 32];
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn at(boot: &str, boot_seconds: u64, wall_seconds: i64) -> Stamp {
    Stamp {
        boot: boot.to_owned(),
        boot_nanos: boot_seconds * 1_000_000_000,
        wall_millis: wall_seconds * 1000,
    }
}

fn engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new())
}

fn load(engine: &Arc<dyn Engine>, grace: Duration) -> Grants {
    Grants::load(Arc::clone(engine), &KEY, grace).unwrap()
}

fn verdict(token: &Token, ends: Option<BootTime>) -> Verdict {
    Verdict {
        subject: Subject {
            token: token.id(),
            volume: VolumeId::random(),
            account: AccountId::random(),
        },
        secret_id: SecretId::random(),
        scope: "/a/b".parse::<SubtreePath>().unwrap(),
        flags: v1::Flags { ro: true, ..v1::Flags::default() },
        point: FeedPoint { epoch: 0, revision: 9 },
        ends,
        asked: BootTime::now(),
        idle: None,
    }
}

fn point() -> FeedPoint {
    FeedPoint { epoch: 7, revision: 1 }
}

#[test]
fn a_server_that_never_heard_of_admin_has_no_grace() {
    let grants = load(&engine(), GRACE);
    assert_eq!(grants.grace_left(&at("b", 0, 0)), Duration::ZERO);
    assert!(!grants.may_open(&at("b", 0, 0)));
}

#[test]
fn the_grace_runs_on_over_a_restart_and_over_a_reboot() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    grants.contact(at("b", 100, 5000));
    grants.checkpoint(at("b", 100, 5000)).unwrap();
    assert_eq!(grants.grace_left(&at("b", 1100, 6000)), Duration::from_secs(2600));
    // Nothing more is written; the process is killed, and starts again later
    // in the same boot: time goes by the boot clock, whatever the wall shows.
    let restarted = load(&engine, GRACE);
    assert_eq!(restarted.grace_left(&at("b", 1100, 0)), Duration::from_secs(2600));
    restarted.checkpoint(at("b", 1100, 6000)).unwrap();
    // A reboot: time goes by the wall clock.
    let rebooted = load(&engine, GRACE);
    assert_eq!(rebooted.grace_left(&at("c", 5, 7000)), Duration::from_secs(1600));
    // A restart does not renew it, contact does.
    rebooted.checkpoint(at("c", 5, 7000)).unwrap();
    let again = load(&engine, GRACE);
    assert_eq!(again.grace_left(&at("c", 5, 7000)), Duration::from_secs(1600));
    assert_eq!(again.grace_left(&at("c", 1606, 8601)), Duration::ZERO);
    again.contact(at("c", 1606, 8601));
    assert_eq!(again.grace_left(&at("c", 1606, 8601)), GRACE);
}

#[test]
fn a_clock_gone_backwards_ends_the_grace_for_good() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    grants.contact(at("b", 100, 5000));
    grants.checkpoint(at("b", 100, 5000)).unwrap();
    let rebooted = load(&engine, GRACE);
    let back = at("c", 1, 4999);
    assert_eq!(rebooted.grace_left(&back), Duration::ZERO);
    rebooted.checkpoint(back).unwrap();
    // Putting the clock right does not bring it back.
    assert_eq!(load(&engine, GRACE).grace_left(&at("c", 2, 5001)), Duration::ZERO);
}

#[test]
fn without_grace_nothing_is_opened_and_a_silent_feed_is_the_limit() {
    let grants = load(&engine(), Duration::ZERO);
    grants.contact(at("b", 100, 5000));
    assert!(!grants.may_open(&at("b", 100, 5000)));
    assert!(!grants.grace_left(&at("b", 104, 5004)).is_zero());
    assert!(grants.grace_left(&at("b", 105, 5005)).is_zero());
}

#[test]
fn a_grant_holds_for_its_token_address_and_time() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    let token = Token::generate(TokenKind::Volume).unwrap();
    let other = Token::generate(TokenKind::Volume).unwrap();
    let stamp = at("b", 100, 5000);
    let ends = BootTime::now().after(Duration::from_secs(60));
    let verdict = verdict(&token, Some(ends));
    grants.remember(&token, PEER, &verdict, stamp.clone()).unwrap();
    for grants in [&grants, &load(&engine, GRACE)] {
        let found = grants.find(&token, PEER, &stamp, point()).unwrap().unwrap();
        assert_eq!((found.subject, &found.scope), (verdict.subject, &verdict.scope));
        assert_eq!((found.flags, found.point), (verdict.flags, point()));
        assert!(found.ends.unwrap().left() <= Duration::from_secs(60));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(grants.find(&token, mapped, &stamp, point()).unwrap().is_some());
        let elsewhere: IpAddr = "10.0.0.2".parse().unwrap();
        assert!(grants.find(&token, elsewhere, &stamp, point()).unwrap().is_none());
        assert!(grants.find(&other, PEER, &stamp, point()).unwrap().is_none());
        let late = at("b", 161, 5061);
        let error = grants.find(&token, PEER, &late, point()).unwrap_err();
        assert_eq!(error.code(), Code::TokenExpired);
        let clock_back = at("c", 1, 4999);
        assert!(grants.find(&token, PEER, &clock_back, point()).is_err());
        assert!(grants.end_of(verdict.secret_id, &late).unwrap().passed());
    }
}

#[test]
fn a_revoked_token_and_a_forgotten_grant_stay_so_after_a_restart() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    let stamp = at("b", 100, 5000);
    let tokens: Vec<_> = (0..3).map(|_| Token::generate(TokenKind::Volume).unwrap()).collect();
    for token in &tokens {
        grants.remember(token, PEER, &verdict(token, None), stamp.clone()).unwrap();
    }
    let gone = tokens[0].id();
    grants.note_revoked(gone, 5).unwrap();
    grants.forget(|subject, _| subject.token == gone).unwrap();
    for grants in [&grants, &load(&engine, GRACE)] {
        assert!(grants.is_revoked(gone));
        assert!(!grants.is_revoked(tokens[1].id()));
        assert!(grants.find(&tokens[0], PEER, &stamp, point()).unwrap().is_none());
        assert!(grants.find(&tokens[1], PEER, &stamp, point()).unwrap().is_some());
        assert_eq!(grants.tokens().len(), 2);
    }
}

#[test]
fn nothing_of_a_token_s_secret_is_stored() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    let token = Token::generate(TokenKind::Volume).unwrap();
    grants.remember(&token, PEER, &verdict(&token, None), at("b", 1, 1)).unwrap();
    let secret = token.reveal().as_bytes().get(28..71).unwrap().to_vec();
    let mut rows = 0;
    engine
        .snapshot()
        .unwrap()
        .scan(&[], &[0xff; 32], &mut |key, value| {
            rows += 1;
            let row = [key, value].concat();
            assert!(!row.windows(8).any(|part| secret.windows(8).any(|s| s == part)));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn what_admin_says_later_of_a_secret_changes_its_grants() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    let token = Token::generate(TokenKind::Volume).unwrap();
    let now = Stamp::now();
    let kept = verdict(&token, Some(BootTime::now().after(Duration::from_secs(1000))));
    grants.remember(&token, PEER, &kept, now.clone()).unwrap();
    let confirm = |secret, flags, ends| {
        let confirmed = Confirmed { token: token.id(), flags, ends };
        grants.confirm(&HashMap::from([(secret, confirmed)]), &now).unwrap();
    };
    let find = |grants: &Grants| grants.find(&token, PEER, &now, point()).unwrap().unwrap();
    let left = |grants: &Grants| find(grants).ends.map(|at| at.left().as_secs());
    confirm(SecretId::random(), Some(v1::Flags::default()), None);
    assert!(find(&grants).flags.ro, "of another secret");
    confirm(kept.secret_id, None, Some(BootTime::now().after(Duration::from_secs(5000))));
    assert!(find(&grants).flags.ro, "not said");
    assert!(left(&grants).unwrap() > 4000);
    let narrow = v1::Flags { ro: true, umask: 0o77, ..v1::Flags::default() };
    confirm(kept.secret_id, Some(narrow), Some(BootTime::now().after(Duration::from_secs(10))));
    for grants in [&grants, &load(&engine, GRACE)] {
        assert_eq!(find(grants).flags, narrow);
        assert!(left(grants).unwrap() <= 10);
    }
    confirm(kept.secret_id, Some(v1::Flags::default()), None);
    assert_eq!((find(&grants).flags, left(&grants)), (v1::Flags::default(), None));
}

#[test]
fn a_token_with_an_idle_end_is_known_only_while_the_last_word_is_young() {
    let engine = engine();
    let grants = load(&engine, GRACE);
    let token = Token::generate(TokenKind::Volume).unwrap();
    let idle = Some(Duration::from_secs(100));
    let kept = Verdict { idle, ..verdict(&token, None) };
    grants.remember(&token, PEER, &kept, at("b", 1000, 1000)).unwrap();
    let known = |grants: &Grants, seconds: u64| {
        let now = at("b", seconds, i64::try_from(seconds).unwrap());
        grants.find(&token, PEER, &now, point()).unwrap().is_some()
    };
    assert!(known(&grants, 1050) && !known(&grants, 1101));
    // Another word on its flags is no use of the token.
    let confirmed = Confirmed { token: token.id(), flags: Some(v1::Flags::default()), ends: None };
    let later = HashMap::from([(kept.secret_id, confirmed)]);
    grants.confirm(&later, &at("b", 1060, 1060)).unwrap();
    let restarted = load(&engine, GRACE);
    assert!(known(&restarted, 1090) && !known(&restarted, 1101));
    assert!(grants.knows(&token, PEER) && !grants.knows(&token, "10.0.0.2".parse().unwrap()));
    grants.forget_one(&token, PEER).unwrap();
    assert!(!grants.knows(&token, PEER) && load(&engine, GRACE).tokens().is_empty());
}
