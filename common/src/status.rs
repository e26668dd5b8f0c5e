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
/// code for "could not be reached".
#[must_use]
pub fn from_status(status: &Status, unreachable: Code) -> Error {
    if !status.details().is_empty()
        && let Ok(detail) = ErrorDetail::decode(status.details())
        && let Ok(error) = wire::error_from_detail(&detail)
    {
        return error;
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

    #[test]
    fn a_transport_failure_is_unreachable() {
        let error = from_status(&Status::unavailable("tcp"), Code::MetaUnreachable);
        assert_eq!(error.code(), Code::MetaUnreachable);
    }
}
