//! Where the metadata server of a volume is: asked of admin at each start,
//! kept beside the credentials for when admin is away (P6).

use std::path::Path;
use std::time::Duration;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::creds::Credentials;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::ids::ServerId;
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error, Result, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;

/// How long `start` waits for admin when it knows meta's address already.
const ADMIN_PATIENCE: Duration = Duration::from_secs(3);

/// Asks admin what a volume token opens. The volume must be the token's.
///
/// # Errors
/// Admin's refusal; `ADMIN_UNREACHABLE`; `CREDS_MISMATCH`.
pub async fn describe(
    admin: &Peer,
    token: &Token,
    volume: &str,
    patience: Duration,
) -> Result<v1::DescribeMountReply> {
    let unreachable = admin.unreachable;
    let mut client =
        AdminServiceClient::with_interceptor(admin.channel()?, BearerInterceptor::new(token));
    let request = v1::DescribeMountRequest { volume: volume.to_owned() };
    let reply = tokio::time::timeout(patience, client.describe_mount(request))
        .await
        .map_err(|_| {
            let address = &admin.address;
            Error::new(unreachable, format!("{address} did not answer in time"))
        })?
        .map_err(|refusal| status::from_status(&refusal, unreachable))?
        .into_inner();
    if reply.volume_name != volume && reply.volume_id != volume {
        return Err(Error::new(
            Code::CredsMismatch,
            format!("this token is not for the volume `{volume}`"),
        ));
    }
    Ok(reply)
}

/// Reads the credentials and the token, references resolved.
///
/// # Errors
/// Those of the credentials file.
pub async fn read(creds_file: &Path) -> Result<(Credentials, Token)> {
    let path = creds_file.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let creds = Credentials::read(&path)?;
        // May run a command (`exec:`).
        let token = creds.token(TokenKind::Volume)?;
        if let Err(error) = creds.settle(&path) {
            // Only a second copy of what is there.
            tracing::warn!("{}", error.with_causes());
        }
        Ok::<_, Error>((creds, token))
    });
    read.await.map_err(|e| Error::bare(Code::Internal).caused_by(e))?
}

/// Finds the metadata server. What admin says new is written back.
///
/// # Errors
/// Admin's refusals; `META_UNREGISTERED`; `ADMIN_UNREACHABLE` when no address
/// is known; those of the credentials.
pub async fn meta(
    creds_file: &Path,
    volume: &str,
    mut creds: Credentials,
    token: &Token,
) -> Result<Peer> {
    let known = creds.meta_addr.is_some() && creds.meta_id.is_some();
    let patience = if known { ADMIN_PATIENCE } else { limits::CALL };
    match describe(&creds.admin_peer()?, token, volume, patience).await {
        Ok(reply) => {
            if learn(&mut creds, &reply)?
                && let Err(error) = keep(creds_file, &creds)
            {
                // It is only needed when admin is away.
                tracing::warn!("meta's address could not be kept: {}", error.with_causes());
            }
        }
        Err(error) if known && error.code() == Code::AdminUnreachable => {
            tracing::warn!("admin is away, meta is where it was: {}", error.with_causes());
        }
        Err(error) => return Err(error),
    }
    meta_peer(&creds)
}

/// Writes down where meta is, beside whatever token the file holds now: it
/// may have been replaced since it was read.
fn keep(creds_file: &Path, learned: &Credentials) -> Result<()> {
    let mut creds = Credentials::read(creds_file)?;
    creds.meta_addr.clone_from(&learned.meta_addr);
    creds.meta_id.clone_from(&learned.meta_id);
    creds.write(creds_file, true)
}

/// Takes over where meta is; true when that is news.
///
/// # Errors
/// `META_UNREGISTERED`; `PROTOCOL_INVALID`.
pub fn learn(creds: &mut Credentials, reply: &v1::DescribeMountReply) -> Result<bool> {
    if reply.meta_server_id.is_empty() || reply.meta_address.is_empty() {
        return Err(Error::bare(Code::MetaUnregistered));
    }
    let invalid = |e: Error| Error::new(Code::ProtocolInvalid, e.message().to_owned());
    tls::parse_address(&reply.meta_address).map_err(invalid)?;
    reply.meta_server_id.parse::<ServerId>().map_err(invalid)?;
    let (address, id) = (Some(&reply.meta_address), Some(&reply.meta_server_id));
    let news = creds.meta_addr.as_ref() != address || creds.meta_id.as_ref() != id;
    creds.meta_addr = address.cloned();
    creds.meta_id = id.cloned();
    Ok(news)
}

fn meta_peer(creds: &Credentials) -> Result<Peer> {
    let (Some(address), Some(id)) = (&creds.meta_addr, &creds.meta_id) else {
        return Err(Error::bare(Code::MetaUnregistered));
    };
    let (address, plain) = tls::parse_address(address)?;
    let trust = match &creds.ca_cert {
        _ if plain => Trust::Plaintext,
        Some(pem) => Trust::Ca(tls::certificate_from_pem(pem)?),
        None => Trust::System,
    };
    let name = tls::meta_name(id.parse()?);
    Ok(Peer { address, name, trust, unreachable: Code::MetaUnreachable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(address: &str, id: &str) -> v1::DescribeMountReply {
        v1::DescribeMountReply {
            meta_address: address.to_owned(),
            meta_server_id: id.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_token_that_was_replaced_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("creds");
        let mut creds = Credentials {
            admin_addr: "admin:7400".into(),
            token: zeroize::Zeroizing::new("old".into()),
            ..Credentials::default()
        };
        creds.write(&path, false).unwrap();
        learn(&mut creds, &reply("m:7410", &ServerId::random().to_string())).unwrap();
        let new = zeroize::Zeroizing::new("new".to_owned());
        let rotated = Credentials { token: new, meta_addr: None, meta_id: None, ..creds.clone() };
        rotated.write(&path, true).unwrap();
        keep(&path, &creds).unwrap();
        let kept = Credentials::read(&path).unwrap();
        assert_eq!((kept.token.as_str(), kept.meta_addr.as_deref()), ("new", Some("m:7410")));
    }

    #[test]
    fn an_address_is_kept_once_and_checked() {
        let id = ServerId::random().to_string();
        let mut creds = Credentials::default();
        assert_eq!(meta_peer(&creds).unwrap_err().code(), Code::MetaUnregistered);
        assert!(learn(&mut creds, &reply("http://m:7410", &id)).unwrap());
        assert!(!learn(&mut creds, &reply("http://m:7410", &id)).unwrap());
        let peer = meta_peer(&creds).unwrap();
        assert_eq!((peer.address.as_str(), peer.name), ("m:7410", format!("{id}.meta.flexfs")));
        assert!(matches!(peer.trust, Trust::Plaintext));
        let code = |r: v1::DescribeMountReply| learn(&mut creds.clone(), &r).unwrap_err().code();
        assert_eq!(code(reply("m:7410", "")), Code::MetaUnregistered);
        assert_eq!(code(reply("m", &id)), Code::ProtocolInvalid);
        assert_eq!(code(reply("m:7410", "x")), Code::ProtocolInvalid);
    }
}
