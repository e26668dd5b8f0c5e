//! Another secret of the token on its way to meta, until it is answered. Sent
//! again on a new connection: to meta a repetition is the same.

use flexfs_auth::token::Token;
use flexfs_common::{Result, wire};
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// At most one at a time: the latest is the one that counts.
#[derive(Debug, Default)]
pub(super) struct NewSecret(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last_number: u64,
    offered: Option<Offered>,
}

#[derive(Debug)]
struct Offered {
    number: u64,
    token: Token,
    sent: bool,
    answer: oneshot::Sender<Result<()>>,
}

impl NewSecret {
    /// To be sent; one offered before is given up. Its number, and where the
    /// answer comes.
    pub(super) fn offer(&self, token: Token) -> (u64, oneshot::Receiver<Result<()>>) {
        let (answer, receiver) = oneshot::channel();
        let mut inner = self.0.lock();
        inner.last_number += 1;
        let number = inner.last_number;
        inner.offered = Some(Offered { number, token, sent: false, answer });
        (number, receiver)
    }

    /// What is to be sent on this connection and is not yet.
    pub(super) fn to_send(&self) -> Option<v1::Reauthenticate> {
        let mut inner = self.0.lock();
        let offered = inner.offered.as_mut().filter(|offered| !offered.sent)?;
        offered.sent = true;
        Some(v1::Reauthenticate { number: offered.number, token: Some(offered.token.to_wire()) })
    }

    /// A new connection is in use.
    pub(super) fn again(&self) {
        if let Some(offered) = &mut self.0.lock().offered {
            offered.sent = false;
        }
    }

    /// Meta has answered. One that nobody waits for is dropped.
    pub(super) fn answered(&self, answer: v1::Reauthenticated) {
        let mut inner = self.0.lock();
        let Some(offered) = inner.offered.take_if(|offered| offered.number == answer.number) else {
            return;
        };
        drop(inner);
        let outcome = match answer.refused {
            None => Ok(()),
            Some(detail) => Err(wire::error_from_detail(&detail).unwrap_or_else(|e| e)),
        };
        // Who asked may have gone in this moment.
        let _ = offered.answer.send(outcome);
    }

    /// Nobody waits for this one any more.
    pub(super) fn withdraw(&self, number: u64) {
        self.0.lock().offered.take_if(|offered| offered.number == number);
    }

    /// The session has ended.
    pub(super) fn fail(&self) {
        self.0.lock().offered = None;
    }
}
