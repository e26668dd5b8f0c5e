//! `admin.flexfs status`.

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::creds;
use flexfs_common::daemon::{RunFile, RunInfo};
use flexfs_common::home::Home;
use flexfs_common::tls::{self, Fingerprint, Peer, Trust};
use flexfs_common::{Code, Error, Result, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;

use super::start::local_address;
use super::{Format, runtime};
use crate::bootstrap;
use crate::output::{self, Details, StatusView};

pub(super) fn run(format: Format) -> Result<()> {
    let home = Home::from_env()?;
    let info = RunFile::find(&home.path("admin/run"))?
        .ok_or_else(|| Error::bare(Code::DaemonNotRunning))?;
    let ca = std::fs::read_to_string(home.path("ssl/ca")).ok();
    let details = runtime()?.block_on(details(&home, &info, ca.as_deref()));
    let view = StatusView {
        running: true,
        pid: info.pid,
        address: info.address,
        no_ssl: info.no_ssl,
        ca_fingerprint: ca
            .and_then(|pem| tls::certificate_from_pem(&pem).ok())
            .and_then(|der| Fingerprint::of(&der).ok())
            .map(|fingerprint| fingerprint.to_string()),
        details: match details {
            Ok(details) => Some(details),
            // It runs and answers; only the token does not open it any more.
            Err(e) if e.kind() == flexfs_common::Kind::Unauthenticated => None,
            Err(e) => return Err(e),
        },
    };
    match format {
        Format::Table | Format::Wide => output::status_table(&view),
        Format::Id => output::status_id(&view),
        Format::Json => output::status_json(&view),
        Format::Yaml => output::status_yaml(&view),
    }
    Ok(())
}

async fn details(home: &Home, info: &RunInfo, ca: Option<&str>) -> Result<Details> {
    let token = bootstrap::read_token(home)?.ok_or(Code::CredsMissing)?;
    let address = local_address(&info.address);
    let peer = if info.no_ssl {
        Peer {
            address,
            name: tls::ADMIN_NAME.to_owned(),
            trust: Trust::Plaintext,
            unreachable: Code::AdminUnreachable,
        }
    } else {
        creds::admin_peer(&address, ca)?
    };
    let mut client =
        AdminServiceClient::with_interceptor(peer.channel()?, BearerInterceptor::new(&token));
    let reply = tokio::time::timeout(limits::CONNECT, client.get_status(v1::GetStatusRequest {}))
        .await
        .map_err(|_| Error::bare(Code::AdminUnreachable))?
        .map_err(|e| status::from_status(&e, Code::AdminUnreachable))?;
    Ok(reply.into_inner().into())
}
