//! `mount.flexfs init creds`: nothing is written before admin has confirmed.

use flexfs_auth::creds::InitCreds;
use flexfs_auth::reference;
use flexfs_auth::token::TokenKind;
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result, limits};

use crate::cli::InitCredsArgs;
use crate::{locate, places};

/// Validates and stores.
pub(super) fn run(home: &Home, arguments: &InitCredsArgs) -> Result<()> {
    arguments.check()?;
    let reads_stdin = |source: &Option<String>| source.as_deref().is_none_or(|s| s == "-");
    if arguments.secret_file.as_deref() == Some("-") && reads_stdin(&arguments.token_file) {
        return Err(Error::new(
            Code::ArgumentInvalid,
            "token and secret cannot both come from standard input",
        ));
    }
    super::runtime()?.block_on(validate(home, arguments))
}

async fn validate(home: &Home, arguments: &InitCredsArgs) -> Result<()> {
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
    let mut prepared = init.prepare().await?;
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
    prepared.commit()
}
