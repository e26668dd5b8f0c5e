//! Error ↔ gRPC status, both ways; the only file that names `tonic::Code`.
//! The code itself rides in the status details as an `ErrorDetail`, because
//! several codes share one gRPC code.

use flexfs_proto::v1::ErrorDetail;
use prost::Message;
use tonic::Status;

use crate::{Code, Error, Kind, wire};

/// The gRPC code of an error.
#[must_use]
pub fn grpc_code(code: Code) -> tonic::Code {
    match code.kind() {
        Kind::Invalid => tonic::Code::InvalidArgument,
        Kind::Unauthenticated => tonic::Code::Unauthenticated,
        Kind::Denied => tonic::Code::PermissionDenied,
        Kind::NotFound => tonic::Code::NotFound,
        Kind::Exists => tonic::Code::AlreadyExists,
        Kind::Conflict | Kind::Posix => tonic::Code::FailedPrecondition,
        Kind::Limited => tonic::Code::ResourceExhausted,
        Kind::Unavailable => tonic::Code::Unavailable,
        Kind::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Kind::Cancelled => tonic::Code::Cancelled,
        Kind::Corrupt => tonic::Code::DataLoss,
        Kind::Unsupported => tonic::Code::Unimplemented,
        Kind::Internal => tonic::Code::Internal,
    }
}

/// What goes over the wire. The source of the error stays here.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    let detail = wire::error_to_detail(error);
    Status::with_details(
        grpc_code(error.code()),
        error.message().to_owned(),
        detail.encode_to_vec().into(),
    )
}

/// What the other side said. A status without our details comes from the
/// transport or from something that is not flexfs: `unreachable` names the
/// code for "could not be reached". What our own connector said
/// (`PEER_UNTRUSTED`, no connection) is kept.
#[must_use]
pub fn from_status(status: &Status, unreachable: Code) -> Error {
    if !status.details().is_empty()
        && let Ok(detail) = ErrorDetail::decode(status.details())
        && let Ok(error) = wire::error_from_detail(&detail)
    {
        return error;
    }
    if let Some(error) = connector_error(status) {
        return Error::new(error.code(), error.with_causes());
    }
    // Only what happened on this side has a source: no answer came.
    if let Some(cause) = deepest_cause(status) {
        return Error::new(unreachable, format!("the connection failed: {cause}"));
    }
    let code = match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => unreachable,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::Unimplemented => Code::ProtocolVersion,
        tonic::Code::Ok
        | tonic::Code::InvalidArgument
        | tonic::Code::NotFound
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::ResourceExhausted
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Internal
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => Code::ProtocolInvalid,
    };
    Error::new(code, code.sentence()).caused_by(status.clone())
}

/// Was there no connection at all, so that the request certainly had no
/// effect?
#[must_use]
pub fn was_never_sent(status: &Status) -> bool {
    connector_error(status).is_some()
}

/// The error of [`crate::tls::Peer::connect`] below the layers of the
/// transport, which hide it in I/O errors.
fn connector_error(status: &Status) -> Option<&Error> {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let ours = match inner {
            Some(inner) => inner.downcast_ref::<Error>(),
            None => error.downcast_ref::<Error>(),
        };
        if ours.is_some() {
            return ours;
        }
        cause = error.source();
    }
    None
}

/// The innermost cause, which says the most; those around it only repeat
/// "transport error".
fn deepest_cause(status: &Status) -> Option<&(dyn std::error::Error + 'static)> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause)
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        to_status(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in Code::ALL {
            let status = to_status(&Error::new(*code, "about x"));
            let back = from_status(&status, Code::AdminUnreachable);
            assert_eq!(back.code(), *code);
            assert_eq!(back.message(), "about x");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_connector_said_is_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let peer = crate::tls::Peer {
            address,
            name: crate::tls::ADMIN_NAME.into(),
            trust: crate::tls::Trust::Plaintext,
            unreachable: Code::MetaUnreachable,
        };
        let mut client = flexfs_proto::v1::admin_service_client::AdminServiceClient::new(
            peer.channel().unwrap(),
        );
        let status = client.who_am_i(flexfs_proto::v1::WhoAmIRequest {}).await.unwrap_err();
        assert!(was_never_sent(&status));
        let error = from_status(&status, Code::AdminUnreachable);
        assert_eq!(error.code(), Code::MetaUnreachable);
        assert!(error.message().contains("refused"), "{}", error.message());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_of_another_protocol_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            // A TLS alert, as a TLS server answers to anything else.
            let alert = [0x15, 3, 3, 0, 2, 2, 10];
            tokio::io::AsyncWriteExt::write_all(&mut tcp, &alert).await.unwrap();
        });
        let peer = crate::tls::Peer {
            address,
            name: crate::tls::ADMIN_NAME.into(),
            trust: crate::tls::Trust::Plaintext,
            unreachable: Code::AdminUnreachable,
        };
        let mut client = flexfs_proto::v1::admin_service_client::AdminServiceClient::new(
            peer.channel().unwrap(),
        );
        let status = client.who_am_i(flexfs_proto::v1::WhoAmIRequest {}).await.unwrap_err();
        assert!(!was_never_sent(&status));
        let error = from_status(&status, Code::AdminUnreachable);
        assert_eq!(error.code(), Code::AdminUnreachable);
        assert!(!error.with_causes().contains("Status"), "{}", error.with_causes());
    }

    #[test]
    fn a_transport_failure_is_unreachable() {
        let error = from_status(&Status::unavailable("tcp"), Code::MetaUnreachable);
        assert_eq!(error.code(), Code::MetaUnreachable);
    }
}
