//! An admin whose database is older than a revocation that this server was
//! told of: the token stays revoked here, and the log says so.

use std::sync::Arc;

use flexfs_common::ids::{SecretId, TokenId};
use flexfs_common::{Code, Result, limits, wire};

use crate::service::Service;

/// Revoked tokens that are asked about: 100 calls.
const ASKED_MAX: usize = 100_000;
/// Tokens that are named in the log, of one look.
const NAMED_MAX: usize = 100;

/// Asks admin about the tokens that are revoked here for ever, and reports
/// those that it takes for good. To be called beside a resynchronisation.
pub async fn report(service: Arc<Service>) {
    let outcome = tokio::select! {
        () = service.stop.cancelled() => return,
        outcome = revived(&service) => outcome,
    };
    match outcome {
        Ok(tokens) => {
            for token in tokens.iter().take(NAMED_MAX) {
                tracing::error!(%token, "revoked here, and not in admin's database, which is \
                    older than the revocation: the token stays revoked at this server; revoke \
                    it again at admin");
            }
            if tokens.len() > NAMED_MAX {
                tracing::error!(count = tokens.len(), "revoked here, and not in admin's database");
            }
        }
        // The next resynchronisation asks again, and nothing depends on it.
        Err(error) => tracing::debug!(error = %error.with_causes(), "revoked tokens not compared"),
    }
}

async fn revived(service: &Arc<Service>) -> Result<Vec<TokenId>> {
    // Nobody's secret: only of a token that is revoked, or not there at all,
    // admin says something else than that this secret of it has ended.
    let secret = SecretId::random();
    let revoked = service.grants.revoked(ASKED_MAX);
    let asked: Vec<_> = revoked.into_iter().map(|token| (token, secret)).collect();
    let checked = service.authority.check(&asked, limits::CALL).await?;
    let mut revived = Vec::new();
    for ((token, _), state) in asked.iter().zip(&checked.states) {
        let code = match &state.refused {
            Some(detail) => Some(wire::error_from_detail(detail)?.code()),
            None => None,
        };
        if !matches!(code, Some(Code::TokenRevoked | Code::TokenUnknown)) {
            revived.push(*token);
        }
    }
    Ok(revived)
}
