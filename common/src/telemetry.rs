//! Logging: one set-up for all programs. Lines go to stderr; a daemon's
//! stderr is its log file.

use tracing_subscriber::EnvFilter;

/// Installs the subscriber. `verbose` is the most verbose level of our own
/// crates; dependencies stay at `info`, for their traces would show bytes of
/// the wire.
pub fn init(verbose: bool) {
    let ours = if verbose { "trace" } else { "info" };
    let filter = [
        "admin_flexfs",
        "meta_flexfs",
        "mount_flexfs",
        "configure_flexfs",
        "flexfs_admin",
        "flexfs_meta",
        "flexfs_mount",
        "flexfs_configure",
        "flexfs_common",
        "flexfs_auth",
    ]
    .iter()
    .fold(String::from("warn"), |filter, target| format!("{filter},{target}={ours}"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .finish();
    // A second initialisation (tests) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
