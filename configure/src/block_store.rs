//! Block stores: places for blocks. Admin keeps no credentials for them:
//! `--credentials` is a name in the metadata server's own configuration.

use std::path::Path;

use clap::{Args, ValueEnum};
use flexfs_common::name::StoreId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::output::{Column, View, column, wide};
use crate::run::{Session, delete_request, get_request, list_request};
use crate::token::deleted;
use crate::view::{cell, short, text, time};

/// `create block-store`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create block-store disk --kind dir --path \
                  /srv/flexfs/blocks\n  configure.flexfs create block-store cloud --kind s3 \
                  --bucket b --region eu-central-1 --credentials s3main")]
pub(crate) struct Create {
    /// Its id: `[a-z0-9][a-z0-9._-]{0,62}`
    #[arg(value_name = "ID")]
    id: String,
    /// What it is
    #[arg(long = "kind", value_enum)]
    kind: StoreKind,
    /// The bucket or container
    #[arg(long = "bucket", conflicts_with = "path", required_unless_present = "path")]
    bucket: Option<String>,
    /// The directory (kind dir), absolute on the metadata server
    #[arg(long = "path")]
    path: Option<String>,
    /// Before every object's key
    #[arg(long = "prefix", default_value = "")]
    prefix: String,
    /// The cloud's region
    #[arg(long = "region", default_value = "")]
    region: String,
    /// An endpoint other than the cloud's own
    #[arg(long = "address", default_value = "", value_name = "URL")]
    address: String,
    /// The name of its credentials in the metadata server's configuration
    #[arg(long = "credentials", default_value = "", value_name = "NAME")]
    credentials: String,
}

/// `--kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    Dir,
    S3,
    Gcs,
    Azure,
}

impl StoreKind {
    const fn name(self) -> &'static str {
        match self {
            StoreKind::Dir => "dir",
            StoreKind::S3 => "s3",
            StoreKind::Gcs => "gcs",
            StoreKind::Azure => "azure",
        }
    }
}

/// A block store as it is shown.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockStoreView {
    id: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<String>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

impl From<v1::BlockStore> for BlockStoreView {
    fn from(store: v1::BlockStore) -> BlockStoreView {
        let is_dir = store.kind == StoreKind::Dir.name();
        let location = text(store.location);
        let (path, bucket) = if is_dir { (location, None) } else { (None, location) };
        BlockStoreView {
            id: store.id,
            kind: store.kind,
            path,
            bucket,
            prefix: text(store.prefix),
            region: text(store.region),
            address: text(store.address),
            credentials: text(store.credentials_name),
            state: store.state,
            created_at: time(store.created_at.as_ref()),
        }
    }
}

impl View for BlockStoreView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("KIND"),
        column("LOCATION"),
        column("STATE"),
        column("CREATED"),
        wide("PREFIX"),
        wide("REGION"),
        wide("ADDRESS"),
        wide("CREDENTIALS"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            cell(self.path.as_ref().or(self.bucket.as_ref())),
            self.state.clone(),
            short(self.created_at.as_deref()),
            cell(self.prefix.as_ref()),
            cell(self.region.as_ref()),
            cell(self.address.as_ref()),
            cell(self.credentials.as_ref()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// The directory or bucket, which must fit the kind.
fn location(arguments: &Create) -> Result<String> {
    let wrong = |why: &str| Err(Error::new(Code::ArgumentInvalid, why.to_owned()));
    match (arguments.kind, &arguments.path, &arguments.bucket) {
        (StoreKind::Dir, Some(path), None) if Path::new(path).is_absolute() => Ok(path.clone()),
        (StoreKind::Dir, Some(_), None) => wrong("--path must be absolute"),
        (StoreKind::Dir, _, _) => wrong("--kind dir needs --path"),
        (StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure, None, Some(bucket)) => {
            Ok(bucket.clone())
        }
        (StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure, _, _) => {
            wrong("this kind of store needs --bucket")
        }
    }
}

/// `create block-store`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let id: StoreId = arguments.id.parse()?;
    let store = v1::BlockStore {
        id: id.to_string(),
        kind: arguments.kind.name().to_owned(),
        location: location(&arguments)?,
        prefix: arguments.prefix,
        region: arguments.region,
        address: arguments.address,
        credentials_name: arguments.credentials,
        ..v1::BlockStore::default()
    };
    let request = v1::CreateBlockStoreRequest { block_store: Some(store) };
    let store = session
        .change(request, async |mut admin, request| admin.create_block_store(request).await)?;
    session.output.one(&BlockStoreView::from(store))
}

/// `show block-store`
pub(crate) fn show(session: &Session, by: &ById) -> Result<()> {
    let request = get_request(session, by);
    let store = session.ask(|mut admin| async move { admin.get_block_store(request).await })?;
    session.output.one(&BlockStoreView::from(store))
}

/// `list block-stores`
pub(crate) fn list(session: &Session, page: &Page) -> Result<()> {
    let request = list_request(session, page);
    let reply = session.ask(|mut admin| async move { admin.list_block_stores(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(BlockStoreView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete block-store`
pub(crate) fn delete(session: &Session, by: &ById) -> Result<()> {
    let request = delete_request(session, by);
    let reply = session
        .change(request, async |mut admin, request| admin.delete_block_store(request).await)?;
    deleted(session, "block store", reply)
}
