//! Which database to use: `sqlite:PATH` or `postgres://…`, possibly behind a
//! reference.

use std::path::PathBuf;

use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

/// A database to open. Debug shows no password.
#[derive(Clone, PartialEq, Eq)]
pub enum DbUrl {
    /// The file.
    Sqlite(PathBuf),
    /// The whole URL, which may hold a password.
    Postgres(Zeroizing<String>),
}

impl std::fmt::Debug for DbUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DbUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DbUrl::Postgres(_) => f.write_str("postgres://…"),
        }
    }
}

impl DbUrl {
    /// From a command line: `env:VAR` and `file:F` are resolved; a password
    /// in the argument itself is refused, because `ps` shows it to everybody.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`, `REFERENCE_INVALID`.
    pub fn from_argument(text: &str) -> Result<DbUrl> {
        let reference = ["env:", "file:", "exec:"].iter().any(|scheme| text.starts_with(scheme));
        if !reference {
            let url = DbUrl::parse(text)?;
            if matches!(&url, DbUrl::Postgres(url) if has_password(url)) {
                return Err(Error::new(
                    Code::ArgumentInvalid,
                    "the database password would be visible in `ps`; put the URL into a variable \
                     or a file and give --db env:VAR or --db file:/abs/path",
                ));
            }
            return Ok(url);
        }
        DbUrl::parse(&flexfs_auth::reference::resolve(text)?)
    }

    /// A literal URL.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`; the text is not repeated, it may hold a password.
    pub fn parse(text: &str) -> Result<DbUrl> {
        let bad = || {
            Error::new(
                Code::ArgumentInvalid,
                "--db is sqlite:PATH, postgres://…, env:VAR or file:F",
            )
        };
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(bad());
            }
            let path = std::path::absolute(path).map_err(|e| bad().caused_by(e))?;
            return Ok(DbUrl::Sqlite(path));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(DbUrl::Postgres(Zeroizing::new(text.to_owned())));
        }
        Err(bad())
    }
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let in_authority = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    let in_query = rest
        .split_once('?')
        .is_some_and(|(_, query)| query.split('&').any(|pair| pair.starts_with("password=")));
    in_authority || in_query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_arguments_are_refused() {
        for bad in [
            "postgres://u:secret@h/db",
            "postgresql://u:secret@h:5432/db?sslmode=require",
            "postgres://u@h/db?password=secret",
            "postgres://h/db?sslmode=require&password=secret",
            "mysql://x",
            "sqlite:",
        ] {
            let error = DbUrl::from_argument(bad).unwrap_err();
            assert_eq!(error.code(), Code::ArgumentInvalid, "{bad}");
            assert!(!error.with_causes().contains("secret"), "{bad}");
        }
        for good in ["postgres://u@h:5432/db", "postgres:///db?host=/run/pg", "sqlite:/a/b.db"] {
            DbUrl::from_argument(good).unwrap();
        }
        assert_eq!(DbUrl::parse("sqlite:///a/b").unwrap(), DbUrl::Sqlite("/a/b".into()));
        assert!(
            !format!("{:?}", DbUrl::parse("postgres://u:secret@h/d").unwrap()).contains("secret")
        );
    }
}
