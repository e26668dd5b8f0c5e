//! `revoke` of one token. `bulk.rs` has the revocation of many.

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_proto::v1;

use crate::cut::{Cut, Wait};
use crate::run::Session;

/// `revoke …-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs revoke volume-token 0b6f8a52 --wait \
                  --reason \"laptop stolen\"")]
pub(crate) struct Arguments {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    wait: Wait,
    /// Why, for the audit log
    #[arg(long = "reason", default_value = "", value_name = "S")]
    reason: String,
}

/// For people.
fn sentence(cut: &Cut, waited: bool) -> String {
    if waited {
        return cut.disconnected();
    }
    format!("token {} revoked (revision {})", cut.id, cut.revision)
}

/// `revoke …-token`
pub(crate) fn token(session: &Session, kind: TokenKind, arguments: &Arguments) -> Result<()> {
    let wait = arguments.wait;
    let request = v1::RevokeTokenRequest {
        kind: kind.name().to_owned(),
        id: arguments.id.clone(),
        account_id: session.globals.account(),
        reason: arguments.reason.clone(),
        wait_millis: wait.millis(),
    };
    let reply = session.change_waiting(wait.span(), request, async |mut admin, request| {
        admin.revoke_token(request).await
    })?;
    let cut = Cut::from(reply);
    session.output.done(&sentence(&cut, wait.is_wanted()), &cut.id, &cut)?;
    if wait.is_wanted() { cut.laggards("the revocation") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_wait_is_told_the_revision() {
        let cut = Cut { id: "t".into(), revision: 9, ..Cut::default() };
        assert_eq!(sentence(&cut, false), "token t revoked (revision 9)");
        assert_eq!(sentence(&cut, true), "0 mounts on 0 servers disconnected");
    }
}
