//! How a command finds and reaches the running server of this home.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::creds::Credentials;
use flexfs_auth::token::TokenKind;
use flexfs_common::daemon::{RunFile, RunInfo};
use flexfs_common::tls::{self, Peer, Trust};
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1::meta_control_service_client::MetaControlServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::cli::Show;
use crate::identity::DataDir;
use crate::settings::{Places, absolute};

/// A client of the running server.
pub type Client = MetaControlServiceClient<InterceptedService<Channel, BearerInterceptor>>;

/// Which server a command is about.
#[derive(Debug)]
pub struct Local {
    /// Its credentials file.
    pub creds: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// Where it says that it runs.
    pub run: PathBuf,
}

impl Local {
    /// From the arguments of a command.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `ARGUMENT_INVALID`.
    pub fn new(show: &Show) -> Result<Local> {
        let places = Places::from_env()?;
        let or = |given: &Option<PathBuf>, default| match given {
            Some(path) => absolute(path),
            None => Ok(default),
        };
        Ok(Local {
            creds: or(&show.creds_file, places.creds())?,
            data: or(&show.data_dir, places.data())?,
            run: places.run(),
        })
    }

    /// The running server, if there is one.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn running(&self) -> Result<Option<RunInfo>> {
        RunFile::find(&self.run)
    }

    /// A client of it, authenticated by its own token. Blocks.
    ///
    /// # Errors
    /// Those of the credentials file; `CONFIG_INVALID`.
    pub fn client(&self, info: &RunInfo) -> Result<Client> {
        let credentials = Credentials::read(&self.creds)?;
        let token = credentials.token(TokenKind::Meta)?;
        let server = DataDir::open(&self.data)?.known_server_id()?.ok_or_else(|| {
            Error::new(Code::ConfigInvalid, "the data directory has no server id")
        })?;
        let trust = match &credentials.ca_cert {
            _ if info.no_ssl => Trust::Plaintext,
            Some(pem) => Trust::Ca(tls::certificate_from_pem(pem)?),
            None => Trust::System,
        };
        let peer = Peer {
            address: reachable(&info.address),
            name: tls::meta_name(server),
            trust,
            unreachable: Code::MetaUnreachable,
        };
        let bearer = BearerInterceptor::new(&token);
        Ok(MetaControlServiceClient::with_interceptor(peer.channel()?, bearer))
    }
}

/// Can nobody on a network listen to what this server is asked and answers?
#[must_use]
pub fn is_private(info: &RunInfo) -> bool {
    let address = reachable(&info.address).parse::<SocketAddr>();
    !info.no_ssl || address.is_ok_and(|address| address.ip().is_loopback())
}

/// "Everywhere" is not an address to connect to.
fn reachable(address: &str) -> String {
    let Ok(mut parsed) = address.parse::<SocketAddr>() else { return address.to_owned() };
    match parsed.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => parsed.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => parsed.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    parsed.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_reached_here() {
        assert_eq!(reachable("0.0.0.0:7410"), "127.0.0.1:7410");
        assert_eq!(reachable("[::]:7410"), "[::1]:7410");
        assert_eq!(reachable("10.1.2.3:7410"), "10.1.2.3:7410");
    }

    #[test]
    fn without_tls_only_this_machine_is_private() {
        let private = |address: &str, no_ssl| {
            is_private(&RunInfo { pid: 1, address: address.to_owned(), no_ssl })
        };
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "0.0.0.0:1", "[::]:1"] {
            assert!(private(address, true), "{address}");
        }
        for address in ["10.1.2.3:1", "[fe80::1]:1", "[::ffff:10.1.2.3]:1", "localhost:1", ""] {
            assert!(!private(address, true), "{address}");
            assert!(private(address, false), "{address}");
        }
    }
}
