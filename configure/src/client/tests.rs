use std::cell::RefCell;
use std::io::Read;
use std::net::TcpListener;

use flexfs_auth::token::TokenKind;
use flexfs_common::tls::{ADMIN_NAME, Trust};
use flexfs_proto::v1;

use super::*;

fn peer(address: String) -> Peer {
    Peer {
        address,
        name: ADMIN_NAME.into(),
        trust: Trust::Plaintext,
        unreachable: Code::AdminUnreachable,
    }
}

/// Calls that were made, and how the change ended.
fn changed(address: String) -> (Vec<(String, String)>, Error) {
    let token = Token::generate(TokenKind::Account).unwrap();
    let made = RefCell::new(Vec::new());
    let request = v1::CreateAccountRequest {
        name: "n".into(),
        email: String::new(),
        owner_token: Some(token.to_wire()),
    };
    let outcome = change(
        (&peer(address), &token),
        LIMIT,
        Uuid::new_v4(),
        request,
        async |mut admin, request: v1::CreateAccountRequest| {
            let secret = request.owner_token.clone().unwrap().value;
            made.borrow_mut().push((request.name.clone(), secret));
            admin.create_account(request).await
        },
    );
    (made.into_inner(), outcome.unwrap_err())
}

#[test]
fn a_change_whose_answer_was_lost_is_repeated_once_with_the_same_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut connection, _) = listener.accept().unwrap();
            // Something of the request has come; then the line goes dead.
            let _ = connection.read(&mut [0; 16]).unwrap();
        }
    });
    let (made, error) = changed(address);
    assert_eq!(error.code(), Code::AdminUnreachable);
    assert_eq!(made.len(), 2);
    assert_eq!(made[0], made[1]);
    server.join().unwrap();
}

#[test]
fn a_change_that_was_never_sent_is_not_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (made, error) = changed(address);
    assert_eq!(error.code(), Code::AdminUnreachable);
    assert_eq!(made.len(), 1);
}

#[test]
fn the_request_id_goes_with_changes_only() {
    let token = Token::generate(TokenKind::Account).unwrap();
    let id = Uuid::new_v4();
    let sent = |id| Headers::new(&token, id).call(Request::new(())).unwrap();
    let with = sent(Some(id));
    assert_eq!(with.metadata().get(REQUEST_ID).unwrap().to_str().unwrap(), id.to_string());
    assert!(with.metadata().contains_key("authorization"));
    assert!(!sent(None).metadata().contains_key(REQUEST_ID));
}
