//! AdminService.

use std::sync::Arc;

use flexfs_proto::v1::admin_service_server::AdminService;
use flexfs_proto::v1::{self, DeleteReply};
use tonic::{Request, Response, Status, async_trait};

use super::{convert, identified, parts, refused, whole};
use crate::model::{MetaStore, TokenRecord, Volume};
use crate::service::stores::ShownMetaStore;
use crate::service::tokens::ShownToken;
use crate::service::{Caller, Service};

pub(super) struct Admin(pub(super) Arc<Service>);

/// One call: the caller and message from the request, the service's function,
/// and how its outcome becomes the reply.
macro_rules! call {
    ($self:ident, $request:ident, $function:ident, $encode:expr) => {{
        let (caller, message) = identified($request).map_err(|e| refused(&e))?;
        let work = |service: Arc<Service>, caller: Caller| async move {
            service.$function(&caller, message).await
        };
        let done = whole(&$self.0, caller, work).await?;
        Ok(Response::new($encode(done)))
    }};
}

/// Like `call`, for functions that need nothing of the message.
macro_rules! ask {
    ($self:ident, $request:ident, $function:ident, $encode:expr) => {{
        let (caller, _message) = parts($request).map_err(|e| refused(&e))?;
        let work =
            |service: Arc<Service>, caller: Caller| async move { service.$function(&caller).await };
        let done = whole(&$self.0, caller, work).await?;
        Ok(Response::new($encode(done)))
    }};
}

fn deleted((id, revision): (impl ToString, u64)) -> DeleteReply {
    DeleteReply { id: id.to_string(), revision }
}

#[async_trait]
impl AdminService for Admin {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIReply>, Status> {
        ask!(self, request, who_am_i, convert::who)
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusReply>, Status> {
        ask!(self, request, status, convert::status)
    }

    async fn create_account(
        &self,
        request: Request<v1::CreateAccountRequest>,
    ) -> Result<Response<v1::CreateAccountReply>, Status> {
        call!(self, request, create_account, |(account, token)| v1::CreateAccountReply {
            account: Some(convert::account(account)),
            token: Some(convert::token(&token, "")),
        })
    }

    async fn get_account(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Account>, Status> {
        call!(self, request, get_account, convert::account)
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListAccountsReply>, Status> {
        call!(self, request, list_accounts, |(items, next_page): (Vec<_>, _)| {
            let items = items.into_iter().map(convert::account).collect();
            v1::ListAccountsReply { items, next_page }
        })
    }

    async fn delete_account(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        call!(self, request, delete_account, deleted)
    }

    async fn create_account_token(
        &self,
        request: Request<v1::CreateAccountTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, create_account_token, convert::listed)
    }

    async fn create_volume_token(
        &self,
        request: Request<v1::CreateVolumeTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, create_volume_token, convert::listed)
    }

    async fn get_token(
        &self,
        request: Request<v1::GetTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, get_token, convert::listed)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensReply>, Status> {
        call!(self, request, list_tokens, |(items, next_page): (Vec<ShownToken>, _)| {
            let items = items.into_iter().map(convert::listed).collect();
            v1::ListTokensReply { items, next_page }
        })
    }

    async fn delete_token(
        &self,
        request: Request<v1::DeleteTokenRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        call!(self, request, delete_token, deleted)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeReply>, Status> {
        call!(self, request, revoke_token, convert::revoked)
    }

    async fn create_meta_store(
        &self,
        request: Request<v1::CreateMetaStoreRequest>,
    ) -> Result<Response<v1::CreateMetaStoreReply>, Status> {
        call!(self, request, create_meta_store, |(store, token): (_, TokenRecord)| {
            v1::CreateMetaStoreReply {
                meta_store: Some(convert::meta_store(store, Some(token.id.to_string()))),
                token: Some(convert::token(&token, "")),
            }
        })
    }

    async fn get_meta_store(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::MetaStore>, Status> {
        call!(self, request, get_meta_store, shown_meta_store)
    }

    async fn list_meta_stores(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListMetaStoresReply>, Status> {
        call!(self, request, list_meta_stores, |(items, next_page): (Vec<_>, _)| {
            let items = items.into_iter().map(shown_meta_store).collect();
            v1::ListMetaStoresReply { items, next_page }
        })
    }

    async fn delete_meta_store(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        call!(self, request, delete_meta_store, deleted)
    }

    async fn create_block_store(
        &self,
        request: Request<v1::CreateBlockStoreRequest>,
    ) -> Result<Response<v1::BlockStore>, Status> {
        call!(self, request, create_block_store, convert::block_store)
    }

    async fn get_block_store(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::BlockStore>, Status> {
        call!(self, request, get_block_store, convert::block_store)
    }

    async fn list_block_stores(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListBlockStoresReply>, Status> {
        call!(self, request, list_block_stores, |(items, next_page): (Vec<_>, _)| {
            let items = items.into_iter().map(convert::block_store).collect();
            v1::ListBlockStoresReply { items, next_page }
        })
    }

    async fn delete_block_store(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        call!(self, request, delete_block_store, deleted)
    }

    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeReply>, Status> {
        call!(self, request, create_volume, |(volume, token): (Volume, Option<TokenRecord>)| {
            let token = token.map(|token| convert::token(&token, volume.name.as_str()));
            v1::CreateVolumeReply { volume: Some(convert::volume(volume)), token }
        })
    }

    async fn get_volume(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        call!(self, request, get_volume, convert::volume)
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListVolumesReply>, Status> {
        call!(self, request, list_volumes, |(items, next_page): (Vec<_>, _)| {
            let items = items.into_iter().map(convert::volume).collect();
            v1::ListVolumesReply { items, next_page }
        })
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        call!(self, request, delete_volume, deleted)
    }

    async fn update_account(
        &self,
        request: Request<v1::UpdateAccountRequest>,
    ) -> Result<Response<v1::Account>, Status> {
        call!(self, request, update_account, convert::account)
    }

    async fn disable_account(
        &self,
        request: Request<v1::DisableAccountRequest>,
    ) -> Result<Response<v1::RevokeReply>, Status> {
        call!(self, request, disable_account, convert::revoked)
    }

    async fn enable_account(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Account>, Status> {
        call!(self, request, enable_account, convert::account)
    }

    async fn revoke_tokens(
        &self,
        request: Request<v1::RevokeTokensRequest>,
    ) -> Result<Response<v1::RevokeTokensReply>, Status> {
        call!(self, request, revoke_tokens, convert::bulk_revoked)
    }

    async fn update_token(
        &self,
        request: Request<v1::UpdateTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, update_token, convert::listed)
    }

    async fn disable_token(
        &self,
        request: Request<v1::DisableTokenRequest>,
    ) -> Result<Response<v1::RevokeReply>, Status> {
        call!(self, request, disable_token, convert::revoked)
    }

    async fn enable_token(
        &self,
        request: Request<v1::GetTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, enable_token, convert::listed)
    }

    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Result<Response<v1::RotateReply>, Status> {
        call!(self, request, rotate_token, convert::rotated)
    }

    async fn get_rotation(
        &self,
        request: Request<v1::GetTokenRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        call!(self, request, get_rotation, convert::rotation)
    }

    async fn finish_rotation(
        &self,
        request: Request<v1::FinishRotationRequest>,
    ) -> Result<Response<v1::RotateReply>, Status> {
        call!(self, request, finish_rotation, convert::rotated)
    }

    async fn redeem_claim(
        &self,
        request: Request<v1::RedeemClaimRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        call!(self, request, redeem_claim, convert::listed)
    }

    async fn update_volume(
        &self,
        request: Request<v1::UpdateVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        call!(self, request, update_volume, convert::volume)
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsReply>, Status> {
        call!(self, request, list_sessions, convert::sessions)
    }

    async fn describe_mount(
        &self,
        request: Request<v1::DescribeMountRequest>,
    ) -> Result<Response<v1::DescribeMountReply>, Status> {
        call!(self, request, describe_mount, convert::mount_place)
    }

    async fn describe_server(
        &self,
        request: Request<v1::DescribeServerRequest>,
    ) -> Result<Response<v1::DescribeServerReply>, Status> {
        ask!(self, request, describe_server, |(token, store): (TokenRecord, MetaStore)| {
            v1::DescribeServerReply {
                meta_store_id: store.id.to_string(),
                address: store.address,
                token_id: token.id.to_string(),
            }
        })
    }
}

fn shown_meta_store((store, token): ShownMetaStore) -> v1::MetaStore {
    convert::meta_store(store, token.map(|id| id.to_string()))
}
