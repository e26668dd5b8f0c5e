//! `admin.flexfs start`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use flexfs_common::daemon::{self, RunFile, RunInfo, Termination};
use flexfs_common::home::Home;
use flexfs_common::tls::ServerCertificate;
use flexfs_common::{Code, Error, Result, limits, telemetry};
use tokio_util::sync::CancellationToken;

use super::{StartArgs, runtime};
use crate::bootstrap;
use crate::ca::Ca;
use crate::config::{Settings, TlsSettings};
use crate::feed::{Registry, poll};
use crate::peppers::Peppers;
use crate::server::Server;
use crate::service::Service;
use crate::store::Store;
use crate::verify::Verify;

pub(super) fn run(args: StartArgs) -> Result<()> {
    if !args.foreground {
        // What is wrong with the arguments is told here, not in the log.
        let home = Home::from_env()?;
        args.settings()?;
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        daemon::spawn(&arguments, &home.path("admin/log"), limits::DAEMON_START)?;
        return Ok(());
    }
    daemon::detach();
    telemetry::init(args.verbose);
    let outcome = args.settings().and_then(|settings| {
        let run_file = RunFile::acquire(&settings.home.path("admin/run"))?;
        runtime()?.block_on(serve(settings, run_file))
    });
    if let Err(error) = &outcome {
        tracing::error!(code = %error.code(), error = error.with_causes(), "admin does not run");
        if daemon::report_failure(error) {
            return Err(Error::bare(Code::DaemonFailed));
        }
    }
    outcome
}

async fn serve(settings: Settings, run_file: RunFile) -> Result<()> {
    let home = settings.home.clone();
    // Small files, once, before anything is served.
    let ssl = home.path("ssl");
    let ca = Arc::new(Ca::load_or_create(&ssl)?);
    let certificate = match &settings.tls {
        TlsSettings::Off => None,
        TlsSettings::Own => {
            let own = ca.own_identity(&ssl)?;
            Some(ServerCertificate::from_pem(&own.chain, &own.key)?)
        }
        TlsSettings::Files(chain, key) => {
            let chain = read_text(chain)?;
            let key = flexfs_auth::private_file::read(key, 64 * 1024)?;
            Some(ServerCertificate::from_pem(&chain, &key)?)
        }
    };
    // The port first: two daemons must not fight over a database, and a
    // wrong address should be told at once.
    let server = Server::bind(&settings.bind_addr, certificate).await?;
    let store = Store::open(&settings.db).await?;
    let peppers = Peppers::open(&home, &store).await?;
    let verify = Arc::new(Verify::new(store.clone(), peppers, settings.argon2)?);
    if bootstrap::run(&home, &store, &verify).await? {
        tracing::info!(path = %bootstrap::token_path(&home).display(), "the system token is here");
    }
    let registry = Arc::new(Registry::default());
    let service =
        Arc::new(Service::new(store.clone(), Arc::clone(&verify), Arc::clone(&ca), registry));
    let stop = CancellationToken::new();
    let follow = tokio::spawn(poll::follow(store.clone(), stop.clone()));
    let known = tokio::spawn(poll::load_known(store.clone(), stop.clone()));
    let write_back = tokio::spawn(poll::write_back(Arc::clone(&service), stop.clone()));
    let retention = settings.token_retention;
    let purge = tokio::spawn(poll::purge(Arc::clone(&service), retention, stop.clone()));
    let no_ssl = settings.tls == TlsSettings::Off;
    if no_ssl {
        tracing::warn!("listening without TLS: tokens can be read on the way");
    }
    let address = server.address();
    let mut termination = Termination::install()?;
    run_file.publish(&RunInfo { pid: std::process::id(), address: address.to_string(), no_ssl })?;
    tracing::info!(%address, database = store.kind().name(), ca = %ca.fingerprint(), "admin serves");
    let serving = tokio::spawn(server.serve(service, stop.clone()));
    daemon::ready()?;
    // Only systemd listens, if anybody.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let outcome = tokio::select! {
        () = termination.arrived() => Ok(()),
        error = verify.peppers().superseded(&store) => {
            verify.stop_renewing();
            Err(error)
        }
    };
    tracing::info!("admin ends");
    stop.cancel();
    for task in [serving, follow, known, write_back, purge] {
        // A panic in one of them was logged; the others still end in order.
        let _ = task.await;
    }
    store.close().await;
    drop(run_file);
    outcome
}

fn read_text(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::new(Code::ConfigInvalid, format!("cannot read {}", path.display())).caused_by(e)
    })
}

/// Where this host reaches a daemon that listens there.
pub(super) fn local_address(text: &str) -> String {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let ip = if address.is_ipv4() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::V6(Ipv6Addr::LOCALHOST)
            };
            SocketAddr::new(ip, address.port()).to_string()
        }
        Ok(_) | Err(_) => text.to_owned(),
    }
}
