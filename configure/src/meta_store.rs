//! Meta stores: places for metadata, with the token of their servers.

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::name::StoreId;
use flexfs_common::{Result, tls};
use flexfs_proto::v1;
use serde::Serialize;

use crate::args::{ById, Page};
use crate::client::present;
use crate::output::{Column, View, column, wide};
use crate::run::{Session, delete_request, get_request, list_request};
use crate::token::{HandedOut, TokenView, deleted, import_or_generate};
use crate::view::{cell, short, text, time};

/// `create meta-store`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create meta-store meta1 --address \
                  10.0.0.5:7410 > meta.token")]
pub(crate) struct Create {
    /// Its id: `[a-z0-9][a-z0-9._-]{0,62}`
    #[arg(value_name = "ID")]
    id: String,
    /// Where mounts reach its server
    #[arg(long = "address", value_name = "HOST:PORT")]
    address: String,
}

/// A meta store as it is shown.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetaStoreView {
    id: String,
    address: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(rename = "metaTokenID", skip_serializing_if = "Option::is_none")]
    meta_token_id: Option<String>,
}

impl From<v1::MetaStore> for MetaStoreView {
    fn from(store: v1::MetaStore) -> MetaStoreView {
        MetaStoreView {
            id: store.id,
            address: store.address,
            state: store.state,
            created_at: time(store.created_at.as_ref()),
            meta_token_id: text(store.meta_token_id),
        }
    }
}

impl View for MetaStoreView {
    const COLUMNS: &'static [Column] =
        &[column("ID"), column("ADDRESS"), column("STATE"), column("CREATED"), wide("METATOKEN")];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.address.clone(),
            self.state.clone(),
            short(self.created_at.as_deref()),
            cell(self.meta_token_id.as_ref()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// A meta store with the token of its servers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    #[serde(flatten)]
    store: &'a MetaStoreView,
    meta_token: HandedOut<'a>,
}

/// `create meta-store`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let id: StoreId = arguments.id.parse()?;
    tls::parse_address(&arguments.address)?;
    let token = import_or_generate(session.imported_token_file(), TokenKind::Meta)?;
    let request = v1::CreateMetaStoreRequest {
        id: id.to_string(),
        address: arguments.address,
        meta_token: Some(token.to_wire()),
    };
    let reply = session
        .change(request, async |mut admin, request| admin.create_meta_store(request).await)?;
    let store = MetaStoreView::from(present(reply.meta_store)?);
    let token_view = TokenView::from(present(reply.token)?);
    let meta_token = HandedOut::new(&token_view, &token);
    session.output.handed_out(&store, &token, &Created { store: &store, meta_token })
}

/// `show meta-store`
pub(crate) fn show(session: &Session, by: &ById) -> Result<()> {
    let request = get_request(session, by);
    let store = session.ask(|mut admin| async move { admin.get_meta_store(request).await })?;
    session.output.one(&MetaStoreView::from(store))
}

/// `list meta-stores`
pub(crate) fn list(session: &Session, page: &Page) -> Result<()> {
    let request = list_request(session, page);
    let reply = session.ask(|mut admin| async move { admin.list_meta_stores(request).await })?;
    let items: Vec<_> = reply.items.into_iter().map(MetaStoreView::from).collect();
    session.output.list(&items, &reply.next_page)
}

/// `delete meta-store`
pub(crate) fn delete(session: &Session, by: &ById) -> Result<()> {
    let request = delete_request(session, by);
    let reply = session
        .change(request, async |mut admin, request| admin.delete_meta_store(request).await)?;
    deleted(session, "meta store", reply)
}
