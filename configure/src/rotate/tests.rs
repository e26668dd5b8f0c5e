use super::own::is_uncertain;
use super::*;

fn arguments(emergency: bool) -> Arguments {
    let cli = ["configure.flexfs", "rotate", "volume-token", "i"];
    let more: &[&str] = if emergency { &["--emergency", "--wait"] } else { &[] };
    let words = cli.iter().chain(more).copied();
    let cli: crate::args::Cli = flexfs_common::cli::parse(words).unwrap();
    match cli.command {
        crate::args::Command::Rotate(crate::args::Rotate::VolumeToken(arguments)) => arguments,
        other => panic!("{other:?}"),
    }
}

fn secret_ending(state: &str, seconds: Option<i64>) -> v1::Secret {
    v1::Secret {
        state: state.into(),
        expires_at: seconds.map(|seconds| v1::Timestamp { seconds, nanos: 0 }),
        ..v1::Secret::default()
    }
}

#[test]
fn the_last_end_of_the_earlier_secrets_is_told() {
    let secrets = [
        secret_ending("ended", Some(90)),
        secret_ending("ending", Some(60)),
        secret_ending("ending", Some(30)),
        // The new one may have the token's own end.
        secret_ending("live", Some(900)),
    ];
    assert_eq!(earlier_end(&secrets).as_deref(), Some("1970-01-01T00:01:00Z"));
    assert_eq!(earlier_end(&secrets[3..]), None);
    assert_eq!(earlier_end(&[]), None);
}

#[test]
fn what_is_handed_out_has_the_token_in_one_field() {
    let token = Token::generate(TokenKind::Volume).unwrap();
    let id = token.id().to_string();
    let form = |cut| Rotated {
        id: &id,
        kind: "volume",
        token: token.reveal(),
        earlier_end_at: Some("T"),
        cut,
    };
    let json = serde_json::to_value(form(None)).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["earlierEndAt", "id", "kind", "token"]);
    assert_eq!(json["token"], token.reveal());
    let cut = Cut { revision: 9, sessions_cut: 3, ..Cut::default() };
    let json = serde_json::to_value(form(Some(CutForm::of(&cut)))).unwrap();
    assert_eq!((&json["revision"], &json["sessionsCut"]), (&9.into(), &3.into()));
    assert!(json["metas"].is_array());
}

#[test]
fn the_next_step_is_told() {
    let said = remarks("i", Some("2026-01-01T00:00:00.5Z"), None, &arguments(false)).join("\n");
    assert!(said.contains("accepted until 2026-01-01T00:00:00Z"), "{said}");
    assert!(said.contains("rotation status i") && said.contains("rotation finish i"), "{said}");
    let cut = Cut { sessions_cut: 3, ..Cut::default() };
    let said = remarks("i", None, Some(&cut), &arguments(true)).join("\n");
    assert!(said.contains("have ended: 3 mounts on 0 servers disconnected"), "{said}");
    assert!(!said.contains("finish"), "{said}");
}

#[test]
fn an_overlap_is_the_default_and_an_emergency_has_none() {
    let session = Session::new(crate::args::Globals::default(), true);
    let token = Token::generate(TokenKind::Volume).unwrap();
    let made =
        |emergency| request(&session, TokenKind::Volume, token.id(), &token, &arguments(emergency));
    assert_eq!((made(false).overlap_seconds, made(false).emergency), (24 * 3600, false));
    assert_eq!((made(true).overlap_seconds, made(true).wait_millis), (0, 30_000));
    assert!(made(true).emergency);
}

#[test]
fn a_secret_of_another_token_is_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let token = Token::generate(TokenKind::Volume).unwrap();
    std::fs::write(&path, token.reveal()).unwrap();
    let globals = crate::args::Globals {
        token_file: Some(path.display().to_string()),
        ..crate::args::Globals::default()
    };
    let session = Session::new(globals, true);
    let of = |kind, id| secret(&session, kind, id, None);
    assert_eq!(of(TokenKind::Volume, token.id()).unwrap().reveal(), token.reveal());
    let other = Token::generate(TokenKind::Volume).unwrap().id();
    assert_eq!(of(TokenKind::Volume, other).unwrap_err().code(), Code::ArgumentInvalid);
    assert_eq!(of(TokenKind::Meta, token.id()).unwrap_err().code(), Code::TokenWrongKind);
}

#[test]
fn only_a_lost_answer_is_uncertain() {
    for (code, uncertain) in [
        (Code::AdminUnreachable, true),
        (Code::DeadlineExceeded, true),
        (Code::TokenRotated, true),
        (Code::RotationFull, false),
        (Code::RoleForbidden, false),
        (Code::TokenRevoked, false),
    ] {
        assert_eq!(is_uncertain(&Error::bare(code)), uncertain, "{code}");
    }
}
