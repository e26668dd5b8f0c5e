//! `mount.flexfs init creds`: nothing is written before admin has confirmed.

use flexfs_auth::creds::{InitCreds, PreparedCreds};
use flexfs_auth::reference;
use flexfs_auth::token::TokenKind;
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result, limits};

use crate::cli::InitCredsArgs;
use crate::{locate, places};

/// Validates and stores.
pub(super) fn run(home: &Home, arguments: &InitCredsArgs) -> Result<()> {
    arguments.check()?;
    let is_stdin = |source: &Option<String>| source.as_deref() == Some("-");
    let token_is_stdin = match (&arguments.claim_file, &arguments.token_file) {
        (None, None) => true,
        (claim, token) => is_stdin(claim) || is_stdin(token),
    };
    if is_stdin(&arguments.secret_file) && token_is_stdin {
        return Err(Error::new(
            Code::ArgumentInvalid,
            "token and secret cannot both come from standard input",
        ));
    }
    super::runtime()?.block_on(store(home, arguments))
}

async fn store(home: &Home, arguments: &InitCredsArgs) -> Result<()> {
    let volume = arguments.volume.as_str();
    let path = arguments.creds_file.clone().unwrap_or_else(|| places::creds(home, volume));
    let init = InitCreds {
        home,
        path: &path,
        admin_addr: &arguments.admin_addr,
        token_file: arguments.token_file.as_deref(),
        fingerprint: arguments.ca_fingerprint.as_deref(),
        kind: TokenKind::Volume,
        replace: arguments.force,
    };
    let mut prepared = match &arguments.claim_file {
        Some(claim_file) => init.prepare_claim(claim_file).await?,
        None => init.prepare().await?,
    };
    // Which volume a code is for is known only when it is redeemed; what is
    // wrong then is mended by another run.
    match complete(&mut prepared, arguments).await {
        Ok(()) => prepared.commit().map_err(|error| prepared.failed(error)),
        Err(error) => Err(prepared.failed(error)),
    }
}

/// Asks admin, and fills in what it says.
async fn complete(prepared: &mut PreparedCreds, arguments: &InitCredsArgs) -> Result<()> {
    let volume = arguments.volume.as_str();
    let reply = locate::describe(&prepared.peer, &prepared.token, volume, limits::CALL).await?;
    match locate::learn(&mut prepared.credentials, &reply) {
        // Told again at the first start.
        Ok(_) => {}
        Err(error) if error.code() == Code::MetaUnregistered => {}
        Err(error) => return Err(error),
    }
    if let Some(source) = &arguments.secret_file {
        prepared.credentials.secret = Some(reference::read_secret_argument(source)?);
    }
    if reply.encryption && prepared.credentials.secret.is_none() {
        return Err(Error::new(
            Code::ArgumentInvalid,
            format!("the volume `{volume}` is encrypted: --secretFile is needed"),
        ));
    }
    Ok(())
}
