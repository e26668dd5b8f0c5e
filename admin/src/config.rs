//! Settings of the daemon: command line over configuration file over default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flexfs_auth::verifier::Argon2Settings;
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result, limits};
use serde::Deserialize;

use crate::store::DbUrl;

/// Long enough that somebody who comes back from holidays still finds out why
/// a token does not work any more.
const TOKEN_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// The file of `--config`, TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    bind_addr: Option<String>,
    db: Option<String>,
    #[serde(rename = "noSSL")]
    no_ssl: Option<bool>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    argon2: Option<Argon2>,
    /// How long ended tokens stay listed: a span such as `30d`.
    token_retention: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argon2 {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// What the command line said; absent = nothing.
#[derive(Debug, Default)]
pub struct Given {
    /// `--bindAddr`
    pub bind_addr: Option<String>,
    /// `--db`
    pub db: Option<String>,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--noSSL`
    pub no_ssl: bool,
    /// `--sslCert`
    pub ssl_cert: Option<PathBuf>,
    /// `--sslKey`
    pub ssl_key: Option<PathBuf>,
}

/// All settings, complete.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything of this installation.
    pub home: Home,
    /// Where to listen.
    pub bind_addr: String,
    /// The database.
    pub db: DbUrl,
    /// How TLS is done.
    pub tls: TlsSettings,
    /// For new verifiers.
    pub argon2: Argon2Settings,
    /// How long tokens that ended stay listed.
    pub token_retention: Duration,
}

/// How TLS is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSettings {
    /// With a certificate of our own CA.
    Own,
    /// With this certificate chain and key (PEM files).
    Files(PathBuf, PathBuf),
    /// Not at all.
    Off,
}

impl Settings {
    /// Puts them together. Paths become absolute; references are resolved
    /// (which blocks: call it before any async work).
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `ARGUMENT_INVALID`, `REFERENCE_INVALID`.
    pub fn resolve(home: Home, given: Given) -> Result<Settings> {
        let file = match &given.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let db = match given.db {
            Some(text) => DbUrl::from_argument(&text)?,
            None => match file.db {
                // A password may stand in a file, if only its owner reads it.
                Some(text) if flexfs_auth::reference::is_reference(&text) => {
                    DbUrl::from_argument(&text)?
                }
                Some(text) => DbUrl::parse(&text)?,
                None => DbUrl::Sqlite(home.path("admin/flexfs.db")),
            },
        };
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|e| {
                Error::new(Code::ArgumentInvalid, format!("no such path: {}", path.display()))
                    .caused_by(e)
            })
        };
        let no_ssl = given.no_ssl || file.no_ssl.unwrap_or(false);
        let tls = match (given.ssl_cert.or(file.ssl_cert), given.ssl_key.or(file.ssl_key)) {
            (None, None) if no_ssl => TlsSettings::Off,
            (None, None) => TlsSettings::Own,
            (Some(_), Some(_)) if no_ssl => {
                return Err(Error::new(
                    Code::ArgumentInvalid,
                    "--noSSL and --sslCert contradict each other",
                ));
            }
            (Some(cert), Some(key)) => TlsSettings::Files(absolute(cert)?, absolute(key)?),
            (Some(_), None) | (None, Some(_)) => {
                return Err(Error::new(
                    Code::ArgumentInvalid,
                    "--sslCert and --sslKey belong together",
                ));
            }
        };
        Ok(Settings {
            home,
            bind_addr: given
                .bind_addr
                .or(file.bind_addr)
                .unwrap_or_else(|| format!("0.0.0.0:{}", limits::ADMIN_PORT)),
            db,
            tls,
            argon2: argon2(file.argon2)?,
            token_retention: match file.token_retention {
                Some(text) => retention(&text)?,
                None => TOKEN_RETENTION,
            },
        })
    }
}

fn retention(text: &str) -> Result<Duration> {
    let span = flexfs_common::duration::parse_span(text).map_err(|e| {
        Error::new(Code::ConfigInvalid, "tokenRetention is not a span such as 30d").caused_by(e)
    })?;
    Ok(span)
}

fn argon2(asked: Option<Argon2>) -> Result<Argon2Settings> {
    let least = Argon2Settings::default();
    let Some(asked) = asked else { return Ok(least) };
    let settings =
        Argon2Settings { memory_kib: asked.memory_kib, passes: asked.passes, lanes: asked.lanes };
    let in_range = (least.memory_kib..=1024 * 1024).contains(&settings.memory_kib)
        && (least.passes..=64).contains(&settings.passes)
        && (1..=16).contains(&settings.lanes);
    if in_range {
        return Ok(settings);
    }
    Err(Error::new(
        Code::ConfigInvalid,
        format!(
            "argon2: memoryKib {}..1048576, passes {}..64, lanes 1..16",
            least.memory_kib, least.passes
        ),
    ))
}

fn read(path: &Path) -> Result<File> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(Code::ConfigInvalid, format!("cannot read {shown}")).caused_by(e)
    })?;
    toml::from_str(&text).map_err(|e: toml::de::Error| {
        // The library's own text quotes the line, which may hold a password.
        let line = e
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(0, |before| before.matches('\n').count() + 1);
        Error::new(Code::ConfigInvalid, format!("{shown}, line {line}: not a valid setting"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        Home::at("/h")
    }

    #[test]
    fn the_command_line_is_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("c.toml");
        std::fs::write(&config, "bindAddr = \"127.0.0.1:1\"\ndb = \"sqlite:/x.db\"\n").unwrap();
        let plain = Settings::resolve(home(), Given::default()).unwrap();
        assert_eq!(plain.bind_addr, "0.0.0.0:7400");
        assert_eq!(plain.db, DbUrl::Sqlite("/h/admin/flexfs.db".into()));
        assert_eq!(plain.tls, TlsSettings::Own);
        let given = Given { config: Some(config.clone()), ..Given::default() };
        let filed = Settings::resolve(home(), given).unwrap();
        assert_eq!(filed.bind_addr, "127.0.0.1:1");
        assert_eq!(filed.db, DbUrl::Sqlite("/x.db".into()));
        let given = Given {
            config: Some(config),
            bind_addr: Some("127.0.0.1:2".into()),
            no_ssl: true,
            ..Given::default()
        };
        let both = Settings::resolve(home(), given).unwrap();
        assert_eq!((both.bind_addr.as_str(), both.tls), ("127.0.0.1:2", TlsSettings::Off));
    }

    #[test]
    fn a_wrong_file_is_told_without_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("c.toml");
        std::fs::write(&config, "bindAddr = \"x\"\ndb = postgres://u:secret@h/d\n").unwrap();
        let given = Given { config: Some(config.clone()), ..Given::default() };
        let error = Settings::resolve(home(), given).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.with_causes().contains("line 2"), "{}", error.with_causes());
        assert!(!error.with_causes().contains("secret"));
        std::fs::write(&config, "[argon2]\nmemoryKib = 8\npasses = 1\nlanes = 1\n").unwrap();
        let given = Given { config: Some(config), ..Given::default() };
        assert_eq!(Settings::resolve(home(), given).unwrap_err().code(), Code::ConfigInvalid);
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let given = Given { ssl_cert: Some("c".into()), ..Given::default() };
        assert!(Settings::resolve(home(), given).is_err());
        let given = Given {
            ssl_cert: Some("c".into()),
            ssl_key: Some("k".into()),
            no_ssl: true,
            ..Given::default()
        };
        assert!(Settings::resolve(home(), given).is_err());
    }
}
