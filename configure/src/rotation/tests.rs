use super::view::Row;
use super::*;
use crate::output::View;

fn secret(last4: &str, state: &str, hosts: &[(&str, u32)]) -> v1::Secret {
    let host = |(name, sessions): &(&str, u32)| v1::SecretUse {
        host_name: (*name).into(),
        address: "10.0.0.1".into(),
        sessions: *sessions,
        uses: 2,
        last_used_at: Some(v1::Timestamp { seconds: 60, nanos: 0 }),
    };
    v1::Secret {
        id: format!("id-{last4}"),
        last4: last4.into(),
        state: state.into(),
        created_at: Some(v1::Timestamp { seconds: 0, nanos: 0 }),
        uses: 5,
        hosts: hosts.iter().map(host).collect(),
        ..v1::Secret::default()
    }
}

fn rotation(secrets: Vec<v1::Secret>) -> RotationView {
    let token = v1::Token {
        id: "i".into(),
        kind: "volume".into(),
        volume_name: "projects".into(),
        mount_path: "/a".into(),
        state: "active".into(),
        ..v1::Token::default()
    };
    RotationView::of(v1::Rotation { token: Some(token), secrets }).unwrap()
}

#[test]
fn a_line_per_secret_and_host() {
    let view = rotation(vec![
        secret("aaaa", "ended", &[]),
        secret("bbbb", "ending", &[("node2", 1), ("", 0)]),
        secret("cccc", "live", &[("node3", 1)]),
    ]);
    let rows = view.rows();
    let shown = rows.iter().map(|row| (row.cells()[0].clone(), row.cells()[6].clone()));
    let shown: Vec<_> = shown.collect();
    let expected = [("aaaa", ""), ("bbbb", "node2"), ("bbbb", ""), ("cccc", "node3")];
    assert_eq!(shown, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert!(rows.iter().all(|row| row.cells().len() == Row::COLUMNS.len()));
    assert_eq!(view.cells().len(), RotationView::COLUMNS.len());
    assert!(view.cells().contains(&"1 still accepted".to_owned()));
}

#[test]
fn only_users_of_earlier_secrets_that_live_are_named() {
    let busy = rotation(vec![
        secret("aaaa", "ended", &[("old", 0)]),
        secret("bbbb", "ending", &[("node2", 1), ("", 0), ("node1", 0)]),
        secret("cccc", "live", &[("node3", 1)]),
    ]);
    assert_eq!(busy.users(), ["10.0.0.1", "node1", "node2"]);
    assert!(busy.remark().contains("node1, node2") && busy.remark().contains("finish i"));
    let idle = rotation(vec![secret("bbbb", "ending", &[]), secret("cccc", "live", &[])]);
    assert!(idle.remark().contains("no host"), "{}", idle.remark());
    let over = rotation(vec![secret("cccc", "live", &[("node3", 1)])]);
    assert_eq!(over.remark(), "only the newest secret is accepted");
}

#[test]
fn the_object_has_secrets_with_hosts_and_no_token() {
    let view = rotation(vec![secret("cccc", "live", &[("node3", 1)])]);
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["secrets"][0]["hosts"][0]["hostName"], "node3");
    assert_eq!(json["secrets"][0]["hosts"][0]["sessions"], 1);
    assert_eq!(json["secrets"][0]["uses"], 5);
    assert!(json.get("token").is_none());
}

#[test]
fn a_refusal_names_the_hosts_in_any_case() {
    let view =
        || Some(rotation(vec![secret("b", "ending", &[("node2", 1)]), secret("c", "live", &[])]));
    let named = Error::new(Code::RotationInUse, "still used by node2");
    assert_eq!(with_hosts(named, view()).message(), "still used by node2");
    let error = with_hosts(Error::bare(Code::RotationInUse), view());
    assert!(error.message().ends_with("In use by node2"), "{}", error.message());
    assert_eq!(error.code(), Code::RotationInUse);
    let bare = with_hosts(Error::bare(Code::RotationInUse), None);
    assert_eq!(bare.message(), Code::RotationInUse.sentence());
}

#[test]
fn a_token_of_any_kind_is_found_and_never_guessed() {
    let token = |id: &str| Ok(id.to_owned());
    let gone = || Err(Error::from(Code::TokenNotFound));
    let denied = || Err(Error::from(Code::RoleForbidden));
    let tries = |volume, account, meta| {
        [(TokenKind::Volume, volume), (TokenKind::Account, account), (TokenKind::Meta, meta)]
    };
    let found = one_of("x", tries(gone(), token("a"), denied())).unwrap();
    assert_eq!(found, (TokenKind::Account, "a".to_owned()));
    let none = one_of("x", tries(gone(), gone(), denied())).unwrap_err();
    assert_eq!(none.code(), Code::TokenNotFound);
    let two = one_of("x", tries(token("v"), token("a"), gone())).unwrap_err();
    assert!(two.message().contains("--kind"), "{}", two.message());
    let several = || Err(Error::new(Code::TokenNotFound, "`x` begins several ids"));
    let several = one_of("x", tries(token("v"), several(), gone())).unwrap_err();
    assert!(several.message().contains("several"));
    let away = one_of("x", tries(gone(), Err(Error::from(Code::AdminUnreachable)), gone()));
    assert_eq!(away.unwrap_err().code(), Code::AdminUnreachable);
}
