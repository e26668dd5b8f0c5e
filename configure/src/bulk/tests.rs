use super::*;
use crate::args::{Cli, Command};

fn parsed(words: &str) -> (bool, Arguments) {
    let words = ["configure.flexfs", "revoke"].into_iter().chain(words.split(' '));
    let cli: Cli = flexfs_common::cli::parse(words).unwrap();
    match cli.command {
        Command::Revoke(revoke) => (cli.globals.account_id.is_some(), revoke.many),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_revoked_by_an_incomplete_line() {
    let refusal = |words: &str| {
        let (has_account, arguments) = parsed(words);
        let error = arguments.check(has_account).unwrap_err();
        assert_eq!(error.code(), Code::ArgumentInvalid);
        error.message().to_owned()
    };
    assert!(refusal("--volumeID v").contains("--all"));
    assert!(refusal("--accountID a").contains("--all"));
    assert!(refusal("--idsFile f --createdBefore 30d").contains("--all"));
    // Not simply everything.
    assert!(refusal("--all").contains("revoke what?"));
    assert!(refusal("--createdBefore 30d --all").contains("revoke what?"));
    for words in ["--volumeID v --all", "--accountID a --dryRun", "--idsFile - --all --kind meta"] {
        let (has_account, arguments) = parsed(words);
        assert!(arguments.check(has_account).is_ok(), "{words}");
        assert!(arguments.is_given());
    }
    assert!(!Arguments::default().is_given());
}

#[test]
fn ids_are_checked_before_anything_is_done_and_never_quoted() {
    let (a, b) = (TokenId::random(), TokenId::random());
    let text = format!("# leaked\n{a}\n\n  {b}  # the laptop\n{a}\n");
    let mut expected = vec![a, b];
    expected.sort();
    assert_eq!(parse_ids(&text).unwrap(), expected);
    let bad = parse_ids(&format!("{a}\nflxv_secret\n")).unwrap_err();
    assert_eq!(bad.code(), Code::ArgumentInvalid);
    assert!(bad.message().contains("line 2") && !bad.message().contains("flxv"));
    assert!(parse_ids(&a.to_string()[..8]).is_err());
    assert!(parse_ids("# nothing\n").unwrap_err().message().contains("no ids"));
}

fn outcome(revoked: usize, kept: &[&str]) -> Outcome {
    let token = |i: usize| v1::Token { id: format!("t{i}"), ..v1::Token::default() };
    Outcome {
        items: (0..revoked).map(|i| TokenView::from(token(i))).collect(),
        kept: kept.iter().map(ToString::to_string).collect(),
        ..Outcome::default()
    }
}

#[test]
fn the_summary_says_what_was_done_and_what_was_not() {
    let cut = Cut { sessions_cut: 3, ..Cut::default() };
    let (_, all) = parsed("--volumeID v --all");
    assert_eq!(summary(&outcome(12, &["own"]), &cut, &all), "12 tokens revoked, 1 kept (own)");
    let (_, dry) = parsed("--volumeID v --dryRun --wait");
    assert_eq!(summary(&outcome(1, &[]), &cut, &dry), "1 token would be revoked");
    let (_, wait) = parsed("--volumeID v --all --wait=5s");
    let said = summary(&outcome(0, &["a", "b", "c", "d", "e", "f", "g"]), &cut, &wait);
    let expected = "0 tokens revoked, 7 kept (a, b, c, d, e, and 2 more); 3 mounts on 0 servers \
                    disconnected";
    assert_eq!(said, expected);
}

#[test]
fn the_object_is_that_of_the_contract() {
    let json = serde_json::to_string(&outcome(1, &["k"])).unwrap();
    assert!(json.starts_with(r#"{"items":[{"id":"t0""#), "{json}");
    assert!(json.ends_with(r#""kept":["k"],"revision":0,"sessionsCut":0,"metas":[]}"#), "{json}");
}

#[test]
fn ids_of_the_list_without_a_token_are_missing() {
    let (revoked, kept, unknown) = (TokenId::random(), TokenId::random(), TokenId::random());
    let token = v1::Token { id: revoked.to_string(), ..v1::Token::default() };
    let outcome = Outcome {
        items: vec![TokenView::from(token)],
        kept: vec![kept.to_string()],
        ..Outcome::default()
    };
    assert_eq!(missing(&[revoked, kept, unknown], &outcome), [unknown.to_string()]);
}
