//! `init creds`.

use std::collections::BTreeMap;
use std::path::Path;

use flexfs_auth::bearer::BearerInterceptor;
use flexfs_auth::creds;
use flexfs_auth::token::TokenKind;
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result, limits, status};
use flexfs_proto::v1;
use flexfs_proto::v1::admin_service_client::AdminServiceClient;

use crate::cli::InitCreds;
use crate::output;
use crate::settings::{Places, absolute};

/// Contacts admin, checks the token, and writes the file; on failure writes
/// nothing.
///
/// # Errors
/// Those of the arguments, of admin and of the file.
pub fn creds(arguments: &InitCreds) -> Result<()> {
    let places = Places::from_env()?;
    let path = match &arguments.creds_file {
        Some(path) => absolute(path)?,
        None => places.creds(),
    };
    let block_creds = arguments
        .block_creds
        .iter()
        .map(|text| parse_block_creds(text))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let store = super::run_async(async {
        let mut prepared = creds::InitCreds {
            home: &places.home,
            path: &path,
            admin_addr: &arguments.admin_addr,
            token_file: arguments.token_file.as_deref(),
            fingerprint: arguments.ca_fingerprint.as_deref(),
            kind: TokenKind::Meta,
            replace: arguments.force,
        }
        .prepare()
        .await?;
        let bearer = BearerInterceptor::new(&prepared.token);
        let mut client = AdminServiceClient::with_interceptor(prepared.peer.channel()?, bearer);
        let call = client.describe_server(v1::DescribeServerRequest {});
        let reply = tokio::time::timeout(limits::CALL, call)
            .await
            .map_err(|_| Error::bare(Code::AdminUnreachable))?
            .map_err(|e| status::from_status(&e, Code::AdminUnreachable))?
            .into_inner();
        prepared.credentials.block_creds = block_creds;
        prepared.commit()?;
        Ok(reply)
    })?;
    output::line(&format!(
        "{}: meta store {} at {}",
        path.display(),
        store.meta_store_id,
        store.address
    ));
    Ok(())
}

/// `NAME=FILE` as name and reference: the file is read when it is used.
fn parse_block_creds(text: &str) -> Result<(String, String)> {
    let bad = || Error::new(Code::ArgumentInvalid, "--blockCreds is NAME=FILE");
    let (name, file) = text.split_once('=').ok_or_else(bad)?;
    let name: StoreId = name.parse()?;
    if file.is_empty() {
        return Err(bad());
    }
    let path = absolute(Path::new(file))?;
    // A file that is not there or that others can read is told now.
    flexfs_auth::private_file::read(&path, 64 * 1024)?;
    Ok((name.to_string(), format!("file:{}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn block_creds_name_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s3");
        std::fs::write(&file, "x").unwrap();
        let argument = format!("s3-main={}", file.display());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(parse_block_creds(&argument).unwrap_err().code(), Code::CredsInsecure);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (name, reference) = parse_block_creds(&argument).unwrap();
        assert_eq!((name.as_str(), reference), ("s3-main", format!("file:{}", file.display())));
        for bad in ["s3", "s3=", "S3=/x", "=/x"] {
            assert!(parse_block_creds(bad).is_err(), "{bad}");
        }
    }
}
