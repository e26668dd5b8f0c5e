use proptest::prelude::*;

use super::*;

/// A token with a right checksum over any digits: reaches the checks behind it.
fn with_checksum(body: &str) -> String {
    let mut text = body.to_owned();
    base62::encode(crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS, &mut text);
    text
}

fn any_kind() -> impl Strategy<Value = TokenKind> {
    proptest::sample::select(TokenKind::ALL.to_vec())
}

fn any_token() -> impl Strategy<Value = Token> {
    (any_kind(), any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(kind, id, secret)| {
        let id = uuid::Builder::from_random_bytes(id).into_uuid().into_bytes();
        Token::assemble(kind, id, Zeroizing::new(secret))
    })
}

fn refused(text: &str) -> bool {
    Token::parse(text).is_err_and(|e| e.code() == Code::TokenMalformed)
}

/// Written once by a program of its own (Python, zlib.crc32), so that encoder
/// and decoder cannot be wrong together.
#[test]
fn a_known_token_keeps_its_spelling() {
    let id = uuid::Uuid::parse_str("00112233-4455-4677-8899-aabbccddeeff").unwrap();
    let secret: Vec<u8> = (0..32).collect();
    let token = Token::assemble(
        TokenKind::Volume,
        id.into_bytes(),
        Zeroizing::new(secret.try_into().unwrap()),
    );
    assert_eq!(
        token.reveal(),
        // In two parts, so that scanners for leaked tokens do not report it.
        concat!(
            "flxv_007pSo2b8iXeAjheKEVRdv_",
            "003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf07DRFi"
        )
    );
    assert_eq!(token.id().to_string(), "00112233-4455-4677-8899-aabbccddeeff");
}

#[test]
fn generated_tokens_parse_and_differ() {
    for kind in TokenKind::ALL {
        let (one, two) = (Token::generate(kind).unwrap(), Token::generate(kind).unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert_ne!(one.id(), two.id());
        assert_eq!(one.reveal().len(), TOKEN_LEN);
        assert_eq!(one.last4().len(), 4);
        assert_eq!(Token::parse_kind(one.reveal(), kind).unwrap().id(), one.id());
        for other in TokenKind::ALL.into_iter().filter(|other| *other != kind) {
            let error = Token::parse_kind(one.reveal(), other).unwrap_err();
            assert_eq!(error.code(), Code::TokenWrongKind);
        }
    }
}

#[test]
fn what_surrounds_a_token() {
    let token = Token::generate(TokenKind::Meta).unwrap();
    let text = token.reveal();
    assert!(Token::parse(&format!("{text}\n")).is_ok());
    assert!(Token::parse(&format!("secret-token:{text}")).is_ok());
    for bad in [
        format!("{text}\n\n"),
        format!(" {text}"),
        format!("{text} "),
        format!("{text}\r\n"),
        format!("secret-token:secret-token:{text}"),
        text.to_lowercase(),
        text.replace("flxm_", "flxs_"),
        String::new(),
        "-".to_owned(),
        "<hidden>".to_owned(),
    ] {
        assert!(refused(&bad));
    }
}

#[test]
fn what_has_a_right_checksum_and_is_not_canonical() {
    let id = "0".repeat(22);
    // All zeros: an id of version 0.
    assert!(refused(&with_checksum(&format!("flxv_{id}_{}", "0".repeat(43)))));
    // 62^22 - 1 > 2^128 and 62^43 - 1 > 2^256.
    assert!(refused(&with_checksum(&format!("flxv_{}_{}", "z".repeat(22), "0".repeat(43)))));
    let good = Token::generate(TokenKind::Volume).unwrap();
    let front = &good.reveal()[..28];
    assert!(refused(&with_checksum(&format!("{front}{}", "z".repeat(43)))));
    assert!(Token::parse(&with_checksum(&format!("{front}{}", "0".repeat(43)))).is_ok());
    // The separator and the alphabet.
    assert!(refused(&with_checksum(&format!("{}0{}", &good.reveal()[..27], "0".repeat(43)))));
    assert!(refused(&with_checksum(&format!("{front}{}", "_".repeat(43)))));
}

#[test]
fn debug_shows_no_secret() {
    let token = Token::generate(TokenKind::Account).unwrap();
    let shown = format!("{token:?} {:?}", token.to_wire());
    assert!(!shown.contains(&token.reveal()[28..]));
    assert!(shown.contains(&token.id().to_string()));
}

#[test]
fn errors_do_not_quote_the_text() {
    let token = Token::generate(TokenKind::Account).unwrap();
    let typo = token.reveal().replacen(token.last4(), "!!!!", 1);
    let error = Token::parse(&typo).unwrap_err();
    assert!(!error.with_causes().contains(&token.reveal()[30..60]));
}

proptest! {
    #[test]
    fn round_trip(token in any_token()) {
        let again = Token::parse(token.reveal()).unwrap();
        prop_assert_eq!(again.id(), token.id());
        prop_assert_eq!(again.kind(), token.kind());
        prop_assert_eq!(again.secret(), token.secret());
    }

    #[test]
    fn every_change_of_one_character_is_refused(
        token in any_token(),
        at in 0..TOKEN_LEN,
        to in any::<char>(),
    ) {
        let changed: String = token
            .reveal()
            .chars()
            .enumerate()
            .map(|(i, c)| if i == at { to } else { c })
            .collect();
        prop_assume!(changed != token.reveal());
        prop_assert!(Token::parse(&changed).is_err());
    }

    #[test]
    fn a_missing_or_doubled_character_is_refused(token in any_token(), at in 0..TOKEN_LEN) {
        let mut shorter = token.reveal().to_owned();
        let removed = shorter.remove(at);
        prop_assert!(Token::parse(&shorter).is_err());
        let mut longer = token.reveal().to_owned();
        longer.insert(at, removed);
        prop_assert!(Token::parse(&longer).is_err());
    }

    #[test]
    fn junk_never_panics(text in any::<String>(), tail in "[0-9A-Za-z_]{60,80}") {
        let _ = Token::parse(&text);
        let _ = Token::parse(&format!("flxv_{tail}"));
        let _ = Token::parse(&format!("flxv_{text}"));
    }

    /// Digits with a right checksum reach the innermost checks; what they let
    /// through must be the one spelling of itself.
    #[test]
    fn what_parses_is_canonical(id in "[0-9A-Za-z]{22}", secret in "[0-9A-Za-z]{43}") {
        let text = with_checksum(&format!("flxa_{id}_{secret}"));
        if let Ok(token) = Token::parse(&text) {
            let again = Token::assemble(
                token.kind(),
                *token.id().as_bytes(),
                Zeroizing::new(*token.secret()),
            );
            prop_assert_eq!(again.reveal(), text);
        }
    }
}

/// Exhaustive where the property test samples: each place, each digit.
#[test]
fn every_wrong_digit_at_every_place_is_refused() {
    let token = Token::generate(TokenKind::Account).unwrap();
    for at in 0..TOKEN_LEN {
        for digit in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_ \n-" {
            let mut bytes = token.reveal().as_bytes().to_vec();
            if bytes[at] == *digit {
                continue;
            }
            bytes[at] = *digit;
            let text = String::from_utf8(bytes).unwrap();
            assert!(Token::parse(&text).is_err(), "{at}");
        }
    }
}
