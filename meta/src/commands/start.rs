//! `start`: from nothing to a server that answers.

use std::sync::Arc;

use flexfs_auth::creds::Credentials;
use flexfs_common::daemon::{self, RunFile, RunInfo, Termination};
use flexfs_common::tls::ServerCertificate;
use flexfs_common::{Code, Error, Kind, Result, limits, telemetry};

use crate::authority::acks::Acks;
use crate::authority::feed::{self, Position};
use crate::authority::{Authority, register};
use crate::blocks::signed::Signer;
use crate::cli::Start;
use crate::engine::Engine;
use crate::engine::fjall::FjallEngine;
use crate::grants::Grants;
use crate::identity::DataDir;
use crate::server;
use crate::service::changes::FeedPoint;
use crate::service::own::{self, OwnToken};
use crate::service::synced::SyncedEngine;
use crate::service::{Parts, Service, background, block};
use crate::settings::{Places, Settings, absolute, parse_bind};
use crate::volume::SessionSeal;

/// Starts the server, or becomes it.
///
/// # Errors
/// Everything that keeps it from serving.
pub fn start(arguments: &Start) -> Result<()> {
    let places = Places::from_env()?;
    if let Some(engine) = &arguments.engine {
        let scheme = engine.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(Error::new(
            Code::Unsupported,
            format!("no engine `{}:` is built yet; use --dataDir", scheme.escape_debug()),
        ));
    }
    let settings = resolve(arguments, &places)?;
    if !arguments.foreground {
        let words: Vec<_> = std::env::args_os().skip(1).collect();
        daemon::spawn(&words, &places.log(), limits::DAEMON_START)?;
        return Ok(());
    }
    daemon::detach();
    // Whatever the engine makes is this user's alone (docs/cli.md).
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    telemetry::init(arguments.verbose);
    let run = RunFile::acquire(&places.run())?;
    super::run_async(serve(settings, run))
}

fn resolve(arguments: &Start, places: &Places) -> Result<Settings> {
    let path = |given: &Option<std::path::PathBuf>, default| match given {
        Some(path) => absolute(path),
        None => Ok(default),
    };
    let ssl = match (&arguments.ssl_cert, &arguments.ssl_key) {
        (Some(cert), Some(key)) => Some((absolute(cert)?, absolute(key)?)),
        _ => None,
    };
    Ok(Settings {
        bind: parse_bind(&arguments.bind_addr)?,
        creds: path(&arguments.creds_file, places.creds())?,
        data: path(&arguments.data_dir, places.data())?,
        sync: arguments.sync,
        disk_reserve: arguments.disk_reserve,
        grace: arguments.admin_grace,
        no_ssl: arguments.no_ssl,
        ssl,
    })
}

/// What was learned from admin at the start: nothing when it is away.
type Known = Option<(Position, Acks)>;

async fn serve(settings: Settings, run: RunFile) -> Result<()> {
    let credentials = Credentials::read(&settings.creds)?;
    let own = block(|| OwnToken::load(&settings.creds))?;
    let authority = Authority::new(credentials.admin_peer()?, &own.token())?;
    let data = DataDir::open(&settings.data)?;
    data.need_whole()?;
    let service = block(|| -> Result<Arc<Service>> {
        let engine = open_engine(&data, &settings)?;
        let grants = Grants::load(Arc::clone(&engine), &*data.key("grantKey")?, settings.grace)?;
        Service::new(Parts {
            server_id: data.server_id()?,
            own,
            authority,
            engine,
            signer: Arc::new(Signer::new(&*data.key("urlKey")?)),
            seal: Arc::new(SessionSeal::new(&*data.key("sessionKey")?)?),
            grants,
        })
    })?;
    // The port first: whoever has it is the server, before it registers.
    let bound = server::bind(settings.bind)?;
    let (certificate, known) = introduce(&service, &data, &settings).await?;
    let address = bound.address();
    let (feed_service, feed_data) = (Arc::clone(&service), data.clone());
    let follower = tokio::spawn(feed::follow(feed_service, feed_data, known));
    let clock = tokio::spawn(background::watch_time(Arc::clone(&service)));
    let file = tokio::spawn(own::watch_file(Arc::clone(&service)));
    if let (Some(certificate), None) = (&certificate, &settings.ssl) {
        let certificate = Arc::clone(certificate);
        tokio::spawn(register::renew(Arc::clone(&service), data.clone(), certificate));
    }
    let serving = tokio::spawn(bound.serve(Arc::clone(&service), certificate));
    let info =
        RunInfo { pid: std::process::id(), address: address.to_string(), no_ssl: settings.no_ssl };
    let mut termination = Termination::install()?;
    run.publish(&info)?;
    daemon::ready()?;
    // Only systemd listens, and only if it started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(%address, server = %service.server_id, "serving");
    termination.arrived().await;
    tracing::info!("stopping");
    service.stop.cancel();
    for (task, name) in
        [(serving, "port"), (follower, "feed"), (clock, "clock"), (file, "credentials")]
    {
        if let Err(error) = task.await {
            tracing::error!(%error, name, "a task died");
        }
    }
    block(|| service.volumes.sync())
}

fn open_engine(data: &DataDir, settings: &Settings) -> Result<Arc<dyn Engine>> {
    let engine = FjallEngine::open_reserving(&data.engine(), settings.disk_reserve)?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    Ok(if settings.sync { Arc::new(SyncedEngine::new(engine)) } else { engine })
}

/// Registers at admin and brings everything up to date; when admin is away
/// and this server was registered before, goes on with what it knows.
async fn introduce(
    service: &Arc<Service>,
    data: &DataDir,
    settings: &Settings,
) -> Result<(Option<Arc<ServerCertificate>>, Known)> {
    // Live sessions must find their volumes, whatever admin says later.
    block(|| -> Result<()> {
        for placed in service.volumes.kept()? {
            service.serve_volume(&placed, FeedPoint::default())?;
        }
        Ok(())
    })?;
    let (chain, known) = match feed::synchronise(service, data).await {
        Ok((reply, position, acks)) => (reply.certificate_chain, Some((position, acks))),
        Err(error) if may_go_on(&error) => {
            let Some(cached) = block(|| data.cached_certificate())? else { return Err(error) };
            tracing::warn!(error = %error.with_causes(), "admin is away: going on without it");
            service.note_failure(&error);
            service.review_grace();
            service.feed.set_started();
            (cached.chain, None)
        }
        Err(error) => return Err(error),
    };
    if settings.no_ssl {
        return Ok((None, known));
    }
    let certificate = match &settings.ssl {
        Some((cert, key)) => block(|| given_certificate(cert, key))?,
        None => {
            let key = zeroize::Zeroizing::new(block(|| data.key_pair())?.serialize_pem());
            ServerCertificate::from_pem(&chain, &key)?
        }
    };
    Ok((Some(certificate), known))
}

fn may_go_on(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
        && error.code() != Code::PeerUntrusted
}

fn given_certificate(
    cert: &std::path::Path,
    key: &std::path::Path,
) -> Result<Arc<ServerCertificate>> {
    let chain = std::fs::read_to_string(cert).map_err(|e| {
        Error::new(Code::ConfigInvalid, format!("cannot read {}", cert.display())).caused_by(e)
    })?;
    let key = flexfs_auth::private_file::read(key, 64 * 1024)?;
    ServerCertificate::from_pem(&chain, &key)
}
