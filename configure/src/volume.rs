//! Volumes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use flexfs_auth::token::TokenKind;
use flexfs_common::name::VolumeName;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::client::present;
use crate::output::{Changed, Column, View, column, wide};
use crate::run::{Session, delete_request, get_request, list_request};
use crate::token::{HandedOut, TokenView, import_or_generate};
use crate::values;
use crate::view::{self, cell, number, short, text, time};

/// `create volume`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create volume projects --metaStoreID meta1 \
                  --blockStoreID disk > projects.token")]
pub(crate) struct Create {
    /// Its name: `[a-z0-9][a-z0-9._-]{0,62}`, unique in the account
    #[arg(value_name = "NAME")]
    name: String,
    /// Where its metadata lies
    #[arg(long = "metaStoreID", value_name = "ID")]
    meta_store: String,
    /// Where its blocks lie
    #[arg(long = "blockStoreID", value_name = "ID")]
    block_store: String,
    /// Size of a block, 256KiB to 8MiB
    #[arg(
        long = "blockSize",
        default_value = "4MiB",
        value_name = "S",
        value_parser = values::bytes
    )]
    block_size: u64,
    /// How blocks are compressed
    #[arg(long = "compression", value_enum, default_value_t = Compression::Lz4)]
    compression: Compression,
    /// Blocks are encrypted with a secret that only clients have
    #[arg(long = "encryption")]
    encryption: bool,
    /// How long deleted blocks are kept
    #[arg(
        long = "retention",
        default_value = "7d",
        value_name = "SPAN",
        value_parser = values::span
    )]
    retention: Duration,
    /// At most so many blocks (0 = no limit)
    #[arg(long = "maxBlocks", default_value_t = 0, value_name = "N")]
    max_blocks: u64,
    /// At most so many inodes (0 = no limit)
    #[arg(long = "maxInodes", default_value_t = 0, value_name = "N")]
    max_inodes: u64,
    /// Restrictions for all its mounts
    #[arg(
        long = "flags",
        value_delimiter = ',',
        value_name = "A,B",
        value_parser = values::volume_flags()
    )]
    flags: Vec<String>,
    /// For people
    #[arg(long = "notes", default_value = "", value_name = "S")]
    notes: String,
    /// Without a first token
    #[arg(long = "noToken")]
    pub(crate) no_token: bool,
}

/// `--compression`
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    Lz4,
    Zstd,
    None,
}

impl Compression {
    const fn name(self) -> &'static str {
        match self {
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
            Compression::None => "none",
        }
    }
}

/// A volume as it is shown.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeView {
    id: String,
    name: String,
    #[serde(rename = "accountID", skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(rename = "metaStoreID")]
    meta_store_id: String,
    #[serde(rename = "blockStoreID")]
    block_store_id: String,
    block_size: u32,
    compression: String,
    encryption: bool,
    retention_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_blocks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_inodes: Option<u64>,
    flags: Vec<String>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<String>,
}

impl From<v1::Volume> for VolumeView {
    fn from(volume: v1::Volume) -> VolumeView {
        VolumeView {
            id: volume.id,
            name: volume.name,
            account_id: text(volume.account_id),
            meta_store_id: volume.meta_store_id,
            block_store_id: volume.block_store_id,
            block_size: volume.block_size,
            compression: volume.compression,
            encryption: volume.encryption,
            retention_seconds: volume.retention_seconds,
            max_blocks: number(volume.max_blocks),
            max_inodes: number(volume.max_inodes),
            flags: volume.flags,
            state: volume.state,
            created_at: time(volume.created_at.as_ref()),
            notes: text(volume.notes),
        }
    }
}

impl View for VolumeView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("ID"),
        column("METASTORE"),
        column("BLOCKSTORE"),
        column("FLAGS"),
        column("STATE"),
        column("CREATED"),
        wide("BLOCKSIZE"),
        wide("COMPRESSION"),
        wide("ENCRYPTION"),
        wide("RETENTION"),
        wide("MAXBLOCKS"),
        wide("MAXINODES"),
        wide("ACCOUNT"),
        wide("NOTES"),
    ];

    fn cells(&self) -> Vec<String> {
        let limit = |limit: Option<u64>| limit.map(|n| n.to_string()).unwrap_or_default();
        vec![
            self.name.clone(),
            self.id.clone(),
            self.meta_store_id.clone(),
            self.block_store_id.clone(),
            self.flags.join(","),
            self.state.clone(),
            short(self.created_at.as_deref()),
            view::size(self.block_size.into()),
            self.compression.clone(),
            if self.encryption { "yes".to_owned() } else { "no".to_owned() },
            view::span(self.retention_seconds),
            limit(self.max_blocks),
            limit(self.max_inodes),
            cell(self.account_id.as_ref()),
            cell(self.notes.as_ref()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// A volume with its first token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    #[serde(flatten)]
    volume: &'a VolumeView,
    volume_token: HandedOut<'a>,
}

/// `create volume`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let token = match arguments.no_token {
        true => None,
        false => Some(import_or_generate(session.imported_token_file(), TokenKind::Volume)?),
    };
    let request = v1::CreateVolumeRequest {
        volume: Some(volume_of(session, arguments)?),
        volume_token: token.as_ref().map(flexfs_auth::token::Token::to_wire),
    };
    let reply =
        session.change(request, async |mut admin, request| admin.create_volume(request).await)?;
    let volume = VolumeView::from(present(reply.volume)?);
    let Some(token) = token else { return session.output.one(&volume) };
    let token_view = TokenView::from(present(reply.token)?);
    let volume_token = HandedOut::new(&token_view, &token);
    session.output.handed_out(&volume, &token, &Created { volume: &volume, volume_token })
}

fn volume_of(session: &Session, arguments: Create) -> Result<v1::Volume> {
    let name: VolumeName = arguments.name.parse()?;
    let block_size = u32::try_from(arguments.block_size)
        .map_err(|_| Error::new(Code::ArgumentInvalid, "--blockSize: 256KiB to 8MiB"))?;
    Ok(v1::Volume {
        name: name.to_string(),
        account_id: session.globals.account(),
        meta_store_id: arguments.meta_store,
        block_store_id: arguments.block_store,
        block_size,
        compression: arguments.compression.name().to_owned(),
        encryption: arguments.encryption,
        retention_seconds: arguments.retention.as_secs(),
        max_blocks: arguments.max_blocks,
        max_inodes: arguments.max_inodes,
        flags: arguments.flags,
        notes: arguments.notes,
        ..v1::Volume::default()
    })
}

/// `show volume`
pub(crate) fn show(session: &Session, by: &ById) -> Result<()> {
    let request = get_request(session, by);
    let volume = session.ask(|mut admin| async move { admin.get_volume(request).await })?;
    session.output.one(&VolumeView::from(volume))
}

/// `list volumes`
pub(crate) fn list(session: &Session, page: &Page) -> Result<()> {
    let request = list_request(session, page);
    let reply = session.ask(|mut admin| async move { admin.list_volumes(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(VolumeView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete volume`
pub(crate) fn delete(session: &Session, by: &ById) -> Result<()> {
    let request = delete_request(session, by);
    let reply =
        session.change(request, async |mut admin, request| admin.delete_volume(request).await)?;
    let changed = Changed { id: reply.id, revision: reply.revision };
    let sentence = format!("volume {} retired; its tokens are revoked", changed.id);
    session.output.done(&sentence, &changed.id, &changed)
}

#[cfg(test)]
mod tests {
    use flexfs_auth::token::Token;

    use super::*;

    #[test]
    fn a_created_volume_has_its_token_in_one_field() {
        let volume = VolumeView::from(v1::Volume {
            id: "i".into(),
            name: "projects".into(),
            block_size: 4 << 20,
            ..v1::Volume::default()
        });
        let token = Token::generate(TokenKind::Volume).unwrap();
        let token_view = TokenView::from(v1::Token { id: "t".into(), ..v1::Token::default() });
        let volume_token = HandedOut::new(&token_view, &token);
        let json = serde_json::to_value(Created { volume: &volume, volume_token }).unwrap();
        assert_eq!(json["id"], "i");
        assert_eq!(json["name"], "projects");
        assert_eq!(json["blockSize"], 4 << 20);
        assert_eq!(json["volumeToken"]["id"], "t");
        assert_eq!(json["volumeToken"]["token"], token.reveal());
        assert_eq!(volume.cells().len(), VolumeView::COLUMNS.len());
    }
}
