//! AuthorityService.

use std::pin::Pin;
use std::sync::Arc;

use flexfs_common::{Code, Error, status};
use flexfs_proto::v1;
use flexfs_proto::v1::authority_service_server::AuthorityService;
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Told, convert, parts, reading, refused, whole};
use crate::feed::stream;
use crate::service::{Caller, Service};

pub(super) struct Authority {
    pub(super) service: Arc<Service>,
    /// Ends all subscriptions.
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl AuthorityService for Authority {
    async fn register_server(
        &self,
        request: Request<v1::RegisterServerRequest>,
    ) -> Result<Response<v1::RegisterServerReply>, Status> {
        let (caller, message) = parts(request).map_err(|e| refused(&e))?;
        let work = |service: Arc<Service>, caller: Caller| async move {
            service.register_server(&caller, message).await
        };
        let done = whole(&self.service, caller, work).await?;
        Ok(Response::new(convert::registered(done)))
    }

    async fn list_placed_volumes(
        &self,
        request: Request<v1::ListPlacedVolumesRequest>,
    ) -> Result<Response<v1::ListPlacedVolumesReply>, Status> {
        let (caller, _message) = parts(request).map_err(|e| refused(&e))?;
        let work = |service: Arc<Service>, caller: Caller| async move {
            service.list_placed(&caller).await
        };
        let (placed, revision) = whole(&self.service, caller, work).await?;
        let volumes = placed.iter().map(convert::placed).collect();
        Ok(Response::new(v1::ListPlacedVolumesReply { volumes, revision }))
    }

    async fn validate_volume_token(
        &self,
        request: Request<v1::ValidateVolumeTokenRequest>,
    ) -> Result<Response<v1::ValidateVolumeTokenReply>, Status> {
        let (caller, message) = parts(request).map_err(|e| refused(&e))?;
        // The most frequent call.
        let (service, told) = (Arc::clone(&self.service), Told::of(&caller));
        let work = async move { service.validate_volume_token(&caller, message).await };
        let done = reading(&self.service, told, work).await?;
        Ok(Response::new(convert::validated(&done)))
    }

    async fn check_tokens(
        &self,
        request: Request<v1::CheckTokensRequest>,
    ) -> Result<Response<v1::CheckTokensReply>, Status> {
        let (caller, message) = parts(request).map_err(|e| refused(&e))?;
        let work = |service: Arc<Service>, caller: Caller| async move {
            service.check_tokens(&caller, message).await
        };
        let (checked, revision) = whole(&self.service, caller, work).await?;
        let states = checked.into_iter().map(convert::checked).collect();
        Ok(Response::new(v1::CheckTokensReply { states, revision }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, requests) = parts(request).map_err(|e| refused(&e))?;
        let requests = requests
            .map(|request| request.map_err(|e| status::from_status(&e, Code::MetaUnreachable)));
        let events = stream::start(
            Arc::clone(&self.service),
            caller,
            requests.boxed(),
            self.stop.child_token(),
        );
        let events = ReceiverStream::new(events)
            .map(|event| event.map_err(|error: Error| status::to_status(&error)));
        Ok(Response::new(Box::pin(events)))
    }
}
