//! Registration at admin, and the certificate that comes with it.

use std::sync::Arc;
use std::time::Duration;

use flexfs_common::tls::ServerCertificate;
use flexfs_common::{Result, clock};
use flexfs_proto::v1;
use zeroize::Zeroizing;

use crate::identity::{self, DataDir};
use crate::service::Service;

/// How often the certificate's age is looked at.
const LOOK: Duration = Duration::from_secs(600);

/// Registers this server and keeps the certificate it gets.
///
/// # Errors
/// `ADMIN_UNREACHABLE`, what admin refuses with, `CONFIG_INVALID` when the
/// data directory cannot be used.
pub async fn register(
    authority: &super::Authority,
    data: &DataDir,
) -> Result<v1::RegisterServerReply> {
    let server = data.server_id()?;
    let request = identity::certificate_request(server, &data.key_pair()?)?;
    let reply = authority.register(server, request).await?;
    // Looked at before it is kept: a broken one must not replace a good one.
    identity::lifetime(&reply.certificate_chain)?;
    data.keep_certificate(&reply.certificate_chain)?;
    Ok(reply)
}

/// Puts a chain from admin into use.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn install(certificate: &ServerCertificate, data: &DataDir, chain: &str) -> Result<()> {
    let key = Zeroizing::new(data.key_pair()?.serialize_pem());
    certificate.replace(chain, &key)
}

/// Renews the certificate at two thirds of its life, until the server ends.
pub async fn renew(service: Arc<Service>, data: DataDir, certificate: Arc<ServerCertificate>) {
    loop {
        tokio::select! {
            () = service.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let due = data.cached_certificate().ok().flatten().is_none_or(|cached| {
            identity::lifetime(&cached.chain)
                .map_or(true, |life| life.renew_at() <= clock::wall_now().as_second())
        });
        if !due {
            continue;
        }
        let renewed = match register(&service.authority, &data).await {
            Ok(reply) => install(&certificate, &data, &reply.certificate_chain),
            Err(error) => Err(error),
        };
        match renewed {
            Ok(()) => tracing::info!("certificate renewed"),
            Err(error) => tracing::warn!(error = %error.with_causes(), "certificate not renewed"),
        }
    }
}
